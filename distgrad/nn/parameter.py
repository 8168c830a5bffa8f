"""`Parameter` and `Buffer`: the tensors that are part of a module; and those of them that have no shape yet."""

from __future__ import annotations

from typing import Any

from distgrad.dtype import get_default_dtype
from distgrad.ops.making import empty
from distgrad.storage import Storage
from distgrad.tensor import Tensor

__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter"]

NO_SHAPE = (
    "Can't access the shape of an uninitialized parameter or buffer. This error usually happens in `load_state_dict` "
    "when trying to load an uninitialized parameter into an initialized one. Call `forward` to initialize the "
    "parameters before accessing their attributes."
)


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


class _Nothing(Storage):
    """In place of a storage: it only knows the dtype of what will be there."""

    __slots__ = ("dtype", "title")

    def __init__(self, dtype: Any, title: str):
        self.dtype, self.title, self.generation = dtype, title, 0

    @property
    def value(self) -> Any:  # type: ignore[override]
        """torch's error."""
        raise ValueError(
            f"Attempted to use an uninitialized parameter. This error happens when you are using a `LazyModule` or "
            f"explicitly manipulating `torch.nn.parameter.{self.title}` objects. When using LazyModules Call `forward` "
            "with a dummy batch to initialize the parameters before calling torch functions"
        )


class Uninitialized:
    """A parameter or buffer that has a dtype, and no shape yet."""

    __slots__ = ()
    _storage: Any
    requires_grad: Any
    becomes: type[Tensor]

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None):
        Tensor.__init__(self, empty(0, device=device)._storage.value)  # type: ignore[arg-type]
        self._storage = _Nothing(dtype or get_default_dtype(), type(self).__name__)
        self.requires_grad = requires_grad

    def materialize(self, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Become a parameter or buffer of this shape, whose contents do not matter."""
        made = empty(tuple(shape), device=device, dtype=dtype or self._storage.dtype)
        self.__class__ = self.becomes  # type: ignore[assignment]
        self._storage = made._storage

    @property
    def shape(self) -> Any:
        """torch's error."""
        raise RuntimeError(NO_SHAPE)

    @property
    def dtype(self) -> Any:
        """Of the elements that will be there."""
        return self._storage.dtype

    @property
    def data(self) -> Any:
        """The same, without a gradient."""
        return type(self)(False, None, self.dtype)

    @data.setter
    def data(self, new: Any) -> None:
        if not is_lazy(new):
            raise ValueError("materialize() gives an uninitialized parameter its contents")
        self._storage = new._storage

    def is_floating_point(self) -> bool:
        """Whether there will be floating-point numbers."""
        return bool(self.dtype.is_floating_point)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """The same, of another dtype."""
        found = empty(0, dtype=self.dtype).to(*args, **kwargs)
        return type(self)(self.requires_grad, None, found.dtype)

    def float(self) -> Any:
        """The same, of float32."""
        return self.to(empty(0).float().dtype)

    def double(self) -> Any:
        """The same, of float64."""
        return self.to(empty(0).double().dtype)

    def cpu(self) -> Any:
        """Itself."""
        return self

    def detach(self) -> Any:
        """Itself: in a state dict it stands as it is."""
        return self

    def copy_(self, src: Any, non_blocking: bool = False) -> Any:
        """Of another that is not initialised: nothing."""
        if not is_lazy(src):
            raise RuntimeError(NO_SHAPE)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.requires_grad, None, self.dtype)
        return memo[id(self)]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.requires_grad, None, self.dtype)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class UninitializedParameter(Uninitialized, Parameter):
    """A parameter without a shape: `materialize(shape)` makes it a `Parameter`."""

    __slots__ = ()
    becomes = Parameter

    def __new__(cls, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> Any:
        """A new one."""
        return object.__new__(cls)


class UninitializedBuffer(Uninitialized, Tensor):
    """A buffer without a shape: `materialize(shape)` makes it a tensor."""

    __slots__ = ()
    becomes = Tensor

    def __init__(
        self, requires_grad: bool = False, device: Any = None, dtype: Any = None, persistent: bool = True
    ):
        super().__init__(requires_grad, device, dtype)
        self.__dict__.update(persistent=persistent, _is_buffer=True)


def is_lazy(param: Any) -> bool:
    """Whether this is an `UninitializedParameter` or an `UninitializedBuffer`."""
    return isinstance(param, Uninitialized)
