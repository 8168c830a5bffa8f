"""`Module`: the base of all layers.

What it holds is here; how that is walked in `tree.py`, its hooks in `calls.py`, its state dict in `state.py`.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from distgrad.dtype import check_device
from distgrad.dtype import device as Device
from distgrad.dtype import dtype as Dtype
from distgrad.formats import check_format
from distgrad.handles import RemovableHandle
from distgrad.nn.calls import (
    Called,
    register_module_backward_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
)
from distgrad.nn.parameter import Buffer, Parameter
from distgrad.nn.state import Stateful
from distgrad.nn.tree import Tree
from distgrad.ops.making import empty_like
from distgrad.record import no_grad
from distgrad.tensor import Tensor

__all__ = [
    "Module",
    "register_module_backward_hook",
    "register_module_buffer_registration_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
]

_registration_hooks: dict[str, dict[int, Callable[..., Any]]] = {
    kind: OrderedDict() for kind in ("buffer", "module", "parameter")
}


def _registration(kind: str) -> Callable[[Callable[..., Any]], RemovableHandle]:
    def register(hook: Callable[..., Any]) -> RemovableHandle:
        handle = RemovableHandle(_registration_hooks[kind])
        _registration_hooks[kind][handle.id] = hook
        return handle

    register.__name__ = register.__qualname__ = f"register_module_{kind}_registration_hook"
    register.__doc__ = (
        f"Call hook(module, name, {kind}) whenever any module gets a {kind}; a result replaces it."
    )
    return register


register_module_buffer_registration_hook = _registration("buffer")
register_module_module_registration_hook = _registration("module")
register_module_parameter_registration_hook = _registration("parameter")


def _registered(kind: str, module: Module, name: str, item: Any) -> Any:
    for hook in _registration_hooks[kind].values():
        found = hook(module, name, item)
        item = item if found is None else found
    return item


def typename(item: Any) -> str:
    """A type as torch's messages name it: `torch.FloatTensor` for a tensor, `str`, `package.Class`."""
    if isinstance(item, Tensor):
        return item.dtype.tensor_type
    kind = item if isinstance(item, type) else type(item)
    module = kind.__module__ or ""
    return kind.__qualname__ if module in ("", "builtins", "__main__") else f"{module}.{kind.__qualname__}"


class Module(Tree, Stateful, Called):
    """A part of a network: parameters, buffers and further modules under names, and a `forward` that uses them.

    What is assigned to an attribute is registered by its type: a `Parameter`, a `Module`, a `Buffer`. A subclass calls
    `super().__init__()` before that.
    """

    dump_patches = False
    call_super_init = False
    _version = 1  # of the state dict's layout, which `_load_from_state_dict` may look at
    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Any]
    _non_persistent_buffers_set: set[str]

    def __init__(self, *args: Any, **kwargs: Any):
        if not self.call_super_init:
            name = f"{type(self).__name__}.__init__()"
            if kwargs:
                raise TypeError(f"{name} got an unexpected keyword argument '{next(iter(kwargs))}'")
            if args:
                raise TypeError(f"{name} takes 1 positional argument but {len(args) + 1} were given")
        members = self.__dict__
        members.update(training=True, _parameters={}, _buffers={}, _non_persistent_buffers_set=set())
        members.update(self._no_hooks())
        members["_modules"] = {}
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    # Registering.
    def _check_name(self, kind: str, name: Any, own: dict[str, Any]) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {typename(name)}")
        dotted = "." in name
        taken = hasattr(self, name) and name not in own
        if kind == "module" and taken:
            raise KeyError(f"attribute '{name}' already exists")
        if dotted:
            got = f", got: {name}" if kind == "module" else ""
            raise KeyError(f'{kind} name can\'t contain "."{got}')
        if not name:
            raise KeyError(f'{kind} name can\'t be empty string ""')
        if taken:
            raise KeyError(f"attribute '{name}' already exists")

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Hold a tensor that is not trained, in the state dict too if it is `persistent`."""
        if "_buffers" not in self.__dict__:
            raise AttributeError("cannot assign buffer before Module.__init__() call")
        self._check_name("buffer", name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{typename(tensor)}' object to buffer '{name}' (torch Tensor or None required)"
            )
        self._buffers[name] = _registered("buffer", self, name, tensor)
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def register_parameter(self, name: str, param: Any) -> None:
        """Hold a tensor that is trained; None keeps the name for one."""
        if "_parameters" not in self.__dict__:
            raise AttributeError("cannot assign parameter before Module.__init__() call")
        self._check_name("parameter", name, self._parameters)
        if param is not None:
            if not isinstance(param, Parameter):
                kind = typename(param)
                raise TypeError(
                    f"cannot assign '{kind}' object to parameter '{name}' (torch.nn.Parameter or None required)"
                )
            if param.grad_fn is not None:
                raise ValueError(
                    f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be created "
                    f"explicitly. To express '{name}' as a function of another Tensor, compute the value in the "
                    "forward() method."
                )
            param = _registered("parameter", self, name, param)
        self._parameters[name] = param

    def add_module(self, name: str, module: Module | None) -> None:
        """Hold a module under a name."""
        if not isinstance(module, Module) and module is not None:
            raise TypeError(f"{typename(module)} is not a Module subclass")
        self._check_name("module", name, self._modules)
        self._modules[name] = _registered("module", self, name, module)

    def register_module(self, name: str, module: Module | None) -> None:
        """The same as `add_module`."""
        self.add_module(name, module)

    # Attributes.
    def __getattr__(self, name: str) -> Any:
        members = self.__dict__
        for kind in ("_parameters", "_buffers", "_modules"):
            if kind in members and name in members[kind]:
                return members[kind][name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        members = self.__dict__
        own = [members.get(kind) for kind in ("_parameters", "_modules", "_buffers")]
        ways: tuple[tuple[Any, str, str, Any], ...] = (
            (Parameter, "parameter", "parameters", self.register_parameter),
            (Module, "child module", "module", self._set_module),
        )
        for kind, what, item, register in ways:
            held = own[kind is Module]
            if isinstance(value, kind):
                if held is None:
                    raise AttributeError(f"cannot assign {item} before Module.__init__() call")
                self._forget(name, held)
                register(name, value)
                return
            if held is not None and name in held:
                if value is not None:
                    expected = f"(torch.nn.{kind.__name__} or None expected)"
                    raise TypeError(f"cannot assign '{typename(value)}' as {what} '{name}' {expected}")
                register(name, value)
                return
        if isinstance(value, Buffer) or (own[2] is not None and name in own[2]):
            self._set_buffer(name, value)
        else:
            super().__setattr__(name, value)

    def _forget(self, name: str, but: Any) -> None:
        for held in (self.__dict__, self._parameters, self._buffers, self._modules):
            if held is not but:
                held.pop(name, None)
        self._non_persistent_buffers_set.discard(name)

    def _set_module(self, name: str, module: Module | None) -> None:
        self._modules[name] = _registered("module", self, name, module)

    def _set_buffer(self, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(
                f"cannot assign '{typename(value)}' as buffer '{name}' (torch.nn.Buffer, torch.Tensor or None "
                "expected)"
            )
        lasting = (
            value.persistent if isinstance(value, Buffer) else name not in self._non_persistent_buffers_set
        )
        if "persistent" in inspect.signature(self.register_buffer).parameters:
            self.register_buffer(name, value, lasting)
        elif lasting:
            self.register_buffer(name, value)
        else:
            raise RuntimeError(
                "Registering a non-persistent buffer on a Module subclass that implements register_buffer() without "
                "the persistent argument is not allowed."
            )

    def __delattr__(self, name: str) -> None:
        for held in (self._parameters, self._buffers, self._modules):
            if name in held:
                del held[name]
                self._non_persistent_buffers_set.discard(name)
                return
        super().__delattr__(name)

    def __dir__(self) -> list[str]:
        names = [*dir(type(self)), *self.__dict__, *self._parameters, *self._modules, *self._buffers]
        return sorted(name for name in names if not name[0].isdigit())

    # Changing all of it.
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Module:
        """Replace parameters, their gradients and buffers by what `fn` makes of them; the objects stay the same."""
        for module in self.children() if recurse else ():
            module._apply(fn)
        for parameter in self._parameters.values():
            if parameter is None:
                continue
            with no_grad():
                parameter.data = fn(parameter)
                if parameter.grad is not None:
                    parameter.grad.data = fn(parameter.grad)
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = fn(buffer)
        return self

    def apply(self, fn: Callable[[Module], Any]) -> Any:
        """Call `fn` with each module inside, then with this one; gives the module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Convert floating-point parameters and buffers, in place: `to(dtype)`, `to(device, dtype)`, `to(tensor)`."""
        target = kwargs.pop("dtype", None)
        check_device(kwargs.pop("device", None))
        for item in args:
            if isinstance(item, Dtype):
                target = item
            elif isinstance(item, Tensor):
                target = item.dtype
            elif isinstance(item, (str, Device)):
                check_device(item)
            elif not isinstance(item, bool) and item is not None:
                if isinstance(item, int):
                    raise RuntimeError("Cannot access accelerator device when none is available.")
                raise TypeError(
                    f"to() received an invalid combination of arguments - got ({type(item).__name__})"
                )
        kwargs.pop("non_blocking", None)
        check_format("to", kwargs.pop("memory_format", None))
        if "tensor" in kwargs:
            target = kwargs.pop("tensor").dtype
        if kwargs:
            raise TypeError(f"to() got an unexpected keyword argument '{next(iter(kwargs))}'")
        if target is not None and not target.is_floating_point:
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={target}"
            )
        return self._apply(lambda t: t.to(target) if target is not None and t.is_floating_point() else t)

    def type(self, dst_type: Any) -> Any:
        """Convert all parameters and buffers, in place."""
        return self._apply(lambda t: t.type(dst_type))

    def float(self) -> Any:
        """Convert floating-point parameters and buffers to float32, in place."""
        return self._apply(lambda t: t.float() if t.is_floating_point() else t)

    def double(self) -> Any:
        """Convert floating-point parameters and buffers to float64, in place."""
        return self._apply(lambda t: t.double() if t.is_floating_point() else t)

    def half(self) -> Any:
        """Refused by tensors: there is no float16."""
        return self._apply(lambda t: t.half() if t.is_floating_point() else t)

    def bfloat16(self) -> Any:
        """Refused by tensors: there is no bfloat16."""
        return self._apply(lambda t: t.bfloat16() if t.is_floating_point() else t)

    def cpu(self) -> Any:
        """The module itself."""
        return self._apply(lambda t: t.cpu())

    def cuda(self, device: Any = None) -> Any:
        """Refused by tensors: there is no such device."""
        return self._apply(lambda t: t.cuda(device))

    def to_empty(self, *, device: Any, recurse: bool = True) -> Any:
        """Give parameters and buffers new storages, whose contents do not matter."""
        return self._apply(lambda t: empty_like(t, device=device), recurse=recurse)

    def share_memory(self) -> Any:
        """Not there: which process holds what is the session's business."""
        raise NotImplementedError(
            "share_memory() is not supported: tensors are shared by the workers' session"
        )

    def train(self, mode: bool = True) -> Any:
        """Set `training` here and in all modules inside."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self) -> Any:
        """The same as `train(False)`."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Set `requires_grad` of all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or fill them with zeros."""
        for parameter in self.parameters():
            if parameter.grad is None:
                continue
            if set_to_none:
                parameter.grad = None
                continue
            if parameter.grad.grad_fn is not None:
                parameter.grad.detach_()
            else:
                parameter.grad.requires_grad_(False)
            parameter.grad.zero_()

    # Printing.
    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What stands in the parentheses of the printed form, before the modules inside."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        own = extra.split("\n") if extra else []
        inside = [f"({name}): {indented(repr(module))}" for name, module in self._modules.items()]
        if not own and not inside:
            return f"{self._get_name()}()"
        if len(own) == 1 and not inside:
            return f"{self._get_name()}({own[0]})"
        return "\n  ".join([f"{self._get_name()}(", *own, *inside]) + "\n)"


def indented(text: str) -> str:
    """All lines but the first two spaces further right."""
    first, *rest = text.split("\n")
    return "\n".join([first, *("  " + line if line.strip() else "" for line in rest)])
