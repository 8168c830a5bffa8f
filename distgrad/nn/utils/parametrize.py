"""Parameters that are functions of other parameters: a module's tensor is worked out each time it is asked for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from distgrad.nn.containers import ModuleDict, ModuleList
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter
from distgrad.record import no_grad
from distgrad.tensor import Tensor

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "transfer_parametrizations_and_params",
    "type_before_parametrizations",
]


class _Cache(threading.local):
    depth = 0

    def __init__(self) -> None:
        self.tensors: dict[tuple[int, str], Tensor] = {}


_cache = _Cache()


@contextlib.contextmanager
def cached() -> Iterator[None]:
    """Work each parametrized tensor out once within the block; the tensors are forgotten at its end."""
    _cache.depth += 1
    try:
        yield
    finally:
        _cache.depth -= 1
        if not _cache.depth:
            _cache.tensors = {}


def _hold(module: Module, name: str, tensor: Any) -> None:
    if isinstance(tensor, Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor)


def _must_be_tensor(found: Any, who: str) -> None:
    if not isinstance(found, Tensor):
        raise ValueError(f"{who} must return a tensor. Got {type(found).__name__}.")


def _unchanged(new: Any, old: Tensor, said: str, names: tuple[str, str]) -> None:
    """Refuse a tensor of another dtype or shape than `old`; `names` are those of the old and the new one."""
    for what in ("dtype", "shape"):
        before, after = getattr(old, what), getattr(new, what)
        if before != after:
            raise ValueError(
                said.format(what=what)
                + "\n"
                + names[0].format(what=what)
                + f": {before}\n"
                + names[1].format(what=what)
                + f": {after}"
            )


MAY_NOT = "Registering a parametrization may not change the {{what}} of the tensor, unless {}`unsafe` flag is enabled."


class ParametrizationList(ModuleList):
    """The functions that make one tensor, and the originals that they make it from: `original`, or `original0` ..."""

    original: Any

    def __init__(self, modules: Sequence[Module], original: Any, unsafe: bool = False):
        if not modules:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        shown = original.detach()  # of the shape and dtype that must stay
        new: Any = original
        with no_grad():
            for module in reversed(list(self)):
                if hasattr(module, "right_inverse"):
                    with contextlib.suppress(NotImplementedError):
                        new = module.right_inverse(new)
        if not isinstance(new, (Tensor, Sequence)):
            raise ValueError(
                "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). Got "
                f"{type(new).__name__}"
            )
        self.is_tensor = isinstance(new, Tensor)
        self.ntensors = 1 if isinstance(new, Tensor) else len(new)
        if isinstance(new, Tensor):
            self._keep_one(original, new)
        else:
            self._keep_several(original, new)
        if not self.unsafe:
            found = self()
            _must_be_tensor(found, "A parametrization")
            names = ("unparametrized {what}", "parametrized {what}")
            _unchanged(found, shown, MAY_NOT.format(""), names)

    def _keep_one(self, original: Any, new: Tensor) -> None:
        if original.dtype is not new.dtype:
            raise ValueError(
                "When `right_inverse` outputs one tensor, it may not change the dtype.\n"
                f"original.dtype: {original.dtype}\nright_inverse(original).dtype: {new.dtype}"
            )
        original.data = new
        _hold(self, "original", original)

    def _keep_several(self, original: Any, new: Sequence[Any]) -> None:
        for i, item in enumerate(new):
            if not isinstance(item, Tensor):
                raise ValueError(
                    "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). Got element "
                    f"{i} of the sequence with type {type(item).__name__}."
                )
            if isinstance(original, Parameter):
                item = Parameter(item, original.requires_grad)
            item.requires_grad_(original.requires_grad)
            _hold(self, f"original{i}", item)

    def right_inverse(self, value: Any) -> None:
        """Set the originals so that they make `value`; what assigning to the module's tensor does."""
        with no_grad():
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(
                        f"parametrization {type(module).__name__} does not implement right_inverse."
                    )
                value = module.right_inverse(value)
            if self.is_tensor:
                if not isinstance(value, Tensor):
                    raise ValueError(f"`right_inverse` should return a tensor. Got {type(value).__name__}")
                if value.dtype is not self.original.dtype:
                    raise ValueError(
                        f"The tensor returned by `right_inverse` has dtype {value.dtype} while `original` has dtype "
                        f"{self.original.dtype}"
                    )
                self.original.data = value
                return
            self._set_several(value)

    def _set_several(self, values: Any) -> None:
        if not isinstance(values, Sequence):
            raise ValueError(
                f"'right_inverse' must return a sequence of tensors. Got {type(values).__name__}."
            )
        if len(values) != self.ntensors:
            raise ValueError(
                f"'right_inverse' must return a sequence of tensors of length {self.ntensors}. Got a sequence of "
                f"length {len(values)}."
            )
        for i, value in enumerate(values):
            original = getattr(self, f"original{i}")
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"`right_inverse` must return a sequence of tensors. Got element {i} of type "
                    f"{type(value).__name__}"
                )
            if original.dtype is not value.dtype:
                raise ValueError(
                    f"Tensor {i} returned by `right_inverse` has dtype {value.dtype} while `original{i}` has dtype "
                    f"{original.dtype}"
                )
            original.data = value

    def forward(self) -> Any:
        """The tensor."""
        first, *rest = self._modules.values()
        if self.is_tensor:
            found = first(self.original)
        else:
            found = first(*(getattr(self, f"original{i}") for i in range(self.ntensors)))
        for module in rest:
            found = module(found)
        return found


# The module's class becomes one that has the tensor as a property.
def _deepcopied(self: Any, memo: dict[int, Any]) -> Any:
    copy = memo.get(id(self))
    if copy is None:
        copy = self.__new__(type(self))
        memo[id(self)] = copy
        copy.__dict__ = deepcopy(self.__dict__, memo)
    return copy


def _no_pickle(self: Any) -> Any:
    raise RuntimeError(
        "Serialization of parametrized modules is only supported through state_dict(). See:\n"
        "https://pytorch.org/tutorials/beginner/saving_loading_models.html"
        "#saving-loading-a-general-checkpoint-for-inference-and-or-resuming-training"
    )


def _inject_new_class(module: Any) -> None:
    kind = type(module)
    members: dict[str, Any] = {"__getstate__": _no_pickle, "__doc__": kind.__doc__}
    if not hasattr(kind, "__deepcopy__"):
        members["__deepcopy__"] = _deepcopied
    module.__class__ = type(f"Parametrized{kind.__name__}", (kind,), members)


def _inject_property(module: Any, name: str) -> None:
    def get(self: Any) -> Any:
        parametrization = self.parametrizations[name]
        if not _cache.depth:
            return parametrization()
        key = (id(self), name)
        found = _cache.tensors.get(key)
        if found is None:
            found = _cache.tensors[key] = parametrization()
        return found

    def set(self: Any, value: Tensor) -> None:
        self.parametrizations[name].right_inverse(value)

    setattr(type(module), name, property(get, set))


# What users call.
def register_parametrization(
    module: Any, tensor_name: str, parametrization: Any, *, unsafe: bool = False
) -> Any:
    """Make a tensor of the module what the module `parametrization` makes of it, each time it is asked for.

    What was there stays as `module.parametrizations.<name>.original`; with a method `right_inverse` it becomes what
    that makes of it, and one may assign to the tensor. A further parametrization takes what the ones before make.
    Shape and dtype may not change, unless `unsafe`.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        if not unsafe:
            _check_further(module, tensor_name, parametrization)
        module.parametrizations[tensor_name].append(parametrization)
        module.parametrizations[tensor_name].unsafe |= unsafe
    elif tensor_name in module._buffers or tensor_name in module._parameters:
        original = getattr(module, tensor_name)
        made = ParametrizationList([parametrization], original, unsafe=unsafe)
        delattr(module, tensor_name)
        if not is_parametrized(module):
            _inject_new_class(module)
            module.parametrizations = ModuleDict()
        _inject_property(module, tensor_name)
        module.parametrizations[tensor_name] = made
    else:
        raise ValueError(
            f"Module '{module}' does not have a parameter, a buffer, or a parametrized element with name "
            f"'{tensor_name}'"
        )
    return module


def _check_further(module: Any, name: str, parametrization: Any) -> None:
    before = getattr(module, name)
    after = parametrization(before)
    _must_be_tensor(after, "A parametrization")
    shown = f"module.{name}"
    names = (f"{shown}.{{what}}", f"parametrization({shown}).{{what}}")
    _unchanged(after, before, MAY_NOT.format("the "), names)
    if not hasattr(parametrization, "right_inverse"):
        return
    with contextlib.suppress(NotImplementedError):
        back = parametrization.right_inverse(after)
        if not isinstance(back, Tensor):
            raise ValueError(
                f"parametrization.right_inverse must return a tensor. Got: {type(back).__name__}"
            )
        said = (
            f"The tensor returned by parametrization.right_inverse must have the same {{what}} as {shown}, unless "
            "the `unsafe` flag is enabled."
        )
        _unchanged(back, before, said, (f"{shown}.{{what}}", "returned {what}"))


def is_parametrized(module: Any, tensor_name: str | None = None) -> bool:
    """Whether the module has a parametrization, of that tensor if one is named."""
    found = getattr(module, "parametrizations", None)
    if not isinstance(found, ModuleDict):
        return False
    return len(found) > 0 if tensor_name is None else tensor_name in found


def remove_parametrizations(module: Any, tensor_name: str, leave_parametrized: bool = True) -> Any:
    """Make the tensor a parameter or buffer again: what it was made to be, or, without `leave_parametrized`, before."""
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    made = module.parametrizations[tensor_name]
    if made.is_tensor:
        original = made.original
        if leave_parametrized:
            with no_grad():
                original.data = getattr(module, tensor_name)
    elif leave_parametrized:
        found = getattr(module, tensor_name)
        original = Parameter(found) if found.requires_grad else found
    else:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a "
            "sequence of tensors."
        )
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    _hold(module, tensor_name, original)
    if not is_parametrized(module):
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
    return module


def type_before_parametrizations(module: Any) -> type:
    """The module's class without what parametrizing has made of it."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def transfer_parametrizations_and_params(
    from_module: Any, to_module: Any, tensor_name: str | None = None
) -> Any:
    """Give `to_module` the parametrizations of `from_module`, of one tensor or of all, with their originals."""
    if not is_parametrized(from_module):
        return to_module
    for name in list(from_module.parametrizations) if tensor_name is None else [tensor_name]:
        source = from_module.parametrizations[name]
        if not hasattr(to_module, name):
            setattr(to_module, name, Parameter(getattr(from_module, name)))
        for parametrization in source:
            register_parametrization(to_module, name, parametrization)
        target = to_module.parametrizations[name]
        for original in (
            ["original"] if source.is_tensor else [f"original{i}" for i in range(source.ntensors)]
        ):
            setattr(target, original, getattr(source, original))
    return to_module
