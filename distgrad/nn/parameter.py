"""`Parameter` and `Buffer`: the tensors that are part of a module."""

from __future__ import annotations

from typing import Any

from distgrad.ops.making import empty
from distgrad.tensor import Tensor

__all__ = ["Buffer", "Parameter"]


class _ParameterType(type):
    """A tensor of a class of its own counts as a parameter too, once `Parameter(...)` has marked it."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if super().__instancecheck__(instance):
            return True
        return cls is Parameter and isinstance(instance, Tensor) and getattr(instance, "_is_param", False)


class Parameter(Tensor, metaclass=_ParameterType):
    """A leaf that a module trains. It shares the storage of `data`; without data it is empty.

    What is assigned to a module as a `Parameter` is among its `parameters()`. Results of ops on it are plain tensors.
    """

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Any:
        """A tensor of a class of the user's keeps its class and is marked."""
        if data is None or type(data) is Tensor or isinstance(data, cls):
            return object.__new__(cls)
        marked = data.detach().requires_grad_(requires_grad)
        if type(marked) is not type(data):
            return object.__new__(cls)
        marked.__dict__["_is_param"] = True
        return marked

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True):
        source = empty(0) if data is None else data
        super().__init__(source._storage.value)
        alias = source.detach()
        self._storage, self._view, self._versions = alias._storage, alias._view, alias._versions
        if requires_grad:
            self.requires_grad = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        """A parameter with the same contents; its gradient is not copied, as in torch."""
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.detach().clone(), self.requires_grad)
        return memo[id(self)]

    def __copy__(self) -> Parameter:
        copy = type(self)(self.detach(), self.requires_grad)
        copy.__dict__.update(self.__dict__)
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.detach(), self.requires_grad), self.__dict__ or None

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


def _rebuilt(cls: type[Parameter], data: Tensor, requires_grad: bool) -> Parameter:
    return cls(data, requires_grad)


class _BufferType(type):
    """A buffer is a plain tensor that was marked as one."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor) and getattr(instance, "_is_buffer", False)


class Buffer(Tensor, metaclass=_BufferType):
    """`Buffer(data)` is `data` marked as a buffer: assigned to a module it is among its `buffers()`.

    With `persistent=False` it is not in the module's state dict.
    """

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Any:
        """A plain tensor on the storage of `data`."""
        source = empty(0) if data is None else data
        marked = source.detach().requires_grad_(source.requires_grad)
        marked.__dict__.update(persistent=persistent, _is_buffer=True)
        return marked
