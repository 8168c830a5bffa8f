"""`torch.autograd.Function`: functions whose derivative the user writes. All of it runs in the driver, on tensors.

`Sq.apply(x)` makes a node of the class `SqBackward`, which is the `ctx` that `forward` and `backward` get.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from distgrad import vmaps
from distgrad.autograd.batched import by_own_rule, checked, level_of
from distgrad.autograd.function_context import BackwardCFunction, FunctionCtx
from distgrad.autograd.pushing import tangent_at
from distgrad.autograd.results import Wrapping
from distgrad.dual import below, forward, give, highest
from distgrad.ops.making import zeros_like
from distgrad.record import (
    NO_EDGE,
    AccumulateGrad,
    BackwardNode,
    Edge,
    grad_mode,
    no_grad,
)
from distgrad.tensor import Tensor

__all__ = [
    "BackwardCFunction",
    "Function",
    "FunctionCtx",
    "FunctionMeta",
    "InplaceFunction",
    "NestedIOFunction",
]
__all__ += ["once_differentiable"]

ONCE = "trying to differentiate twice a function that was marked with @once_differentiable"


class FunctionMeta(type):
    """Gives each function the class of its nodes."""

    _backward_cls: type[BackwardCFunction]

    def __init__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any]):
        module = "torch.autograd.function"
        made = type(f"{name}Backward", (BackwardCFunction,), {"_forward_cls": cls, "__module__": module})
        cls._backward_cls = made
        super().__init__(name, bases, members)


class Function(metaclass=FunctionMeta):
    """The base of functions with a derivative of the user's own: subclass it and call `apply`.

    `forward(ctx, *args)` and `backward(ctx, *grads)` are static methods; or `forward(*args)` together with
    `setup_context(ctx, inputs, output)`. `backward` (also called `vjp`) gives a gradient, or None, for each argument;
    `jvp(ctx, *tangents)` and `vmap(info, in_dims, *args)` are for forward mode and `func.vmap`.
    """

    generate_vmap_rule = False  # whether `func.vmap` may run forward and backward on batched tensors

    def __init__(self, *args: Any, **kwargs: Any):
        warnings.warn(
            f"{self.__class__} should not be instantiated. Methods on autograd functions are all static, so you "
            "should invoke them on the class itself. Instantiating an autograd function will raise an error in a "
            "future version of PyTorch.",
            DeprecationWarning,
            stacklevel=2,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: `apply` is the way."""
        raise RuntimeError(
            "Legacy autograd function with non-static forward method is deprecated. Please use new-style autograd "
            "function with static forward method. (Example: "
            "https://pytorch.org/docs/stable/autograd.html#torch.autograd.Function)"
        )

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The function itself: `forward(ctx, *args)`, or `forward(*args)` if there is a `setup_context`."""
        raise NotImplementedError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Save what backward needs, given the arguments and the result of `forward`."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """The gradient for each argument of `forward`, from those of its results."""
        raise NotImplementedError(
            "You must implement either the backward or vjp method for your custom autograd.Function to use it with "
            "backward mode AD."
        )

    @staticmethod
    def vjp(ctx: Any, *grad_outputs: Any) -> Any:
        """Another name for `backward`."""
        return Function.backward(ctx, *grad_outputs)

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        """The tangent of each result, from those of the arguments."""
        raise NotImplementedError(
            "You must implement the jvp function for custom autograd.Function to use it with forward mode AD."
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        """The function for a batch: gives `(output, out_dims)`."""
        raise NotImplementedError(
            "To use autograd.Function with vmap, you must either override the vmap staticmethod or set "
            "generate_vmap_rule=True."
        )

    @classmethod
    def _derivative(cls) -> Callable[..., Any]:
        """The user's function for backward."""
        if cls.vjp is Function.vjp:
            return cls.backward
        if cls.backward is not Function.backward:
            raise RuntimeError(
                "Implementing both 'backward' and 'vjp' for a custom Function is not allowed. You should only "
                "implement one of them."
            )
        return cls.vjp

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Call the function; what it does inside is not recorded."""
        sets_context = cls.setup_context is not Function.setup_context
        if kwargs or sets_context:
            args = _by_position(cls.forward, args, kwargs, sets_context)
        if forward.on and (level := highest(args)) >= 0:
            return _pushed(cls, args, level)
        if vmaps.active.levels and (inside := level_of(args)) is not None:
            own = cls.vmap is not Function.vmap
            checked(cls, own, sets_context)
            if own:
                return by_own_rule(cls, args, inside)
        return cls._applied(cls._backward_cls(args), args, sets_context)

    @classmethod
    def _applied(cls, ctx: BackwardCFunction, args: tuple[Any, ...], sets_context: bool) -> Any:
        with no_grad():
            if sets_context:
                output = cls.forward(*args)
                cls.setup_context(ctx, args, output)
            else:
                output = cls.forward(ctx, *args)
        return _finished(ctx, args, output, sets_context)


def _pushed(cls: type[Function], args: tuple[Any, ...], level: int) -> Any:
    """The results of a function that has a tangent at `level` among its arguments, with those that `jvp` gives."""
    with below(level):
        ctx = cls._backward_cls(args)
        given = [tangent_at(item, level) for item in args]
        result = cls._applied(ctx, args, cls.setup_context is not Function.setup_context)
        outs = result if isinstance(result, tuple) else (result,)
        found = cls.jvp(ctx, *(_tangent(ctx, item, t) for item, t in zip(args, given, strict=True)))
        found = found if isinstance(found, tuple) else (found,)
        if len(found) != len(outs):
            raise RuntimeError(
                f"Function's jvp returned an invalid number of forward gradients (expected {len(outs)} but got "
                f"{len(found)})"
            )
        for i, (out, t) in enumerate(zip(outs, found, strict=True)):
            _give(out, i, t, args, given, level)
    return result


def _tangent(ctx: BackwardCFunction, item: Any, tangent: Any) -> Any:
    """What `jvp` gets for an argument: zeros for one that has none, unless the function wants None."""
    if tangent is None and ctx.materialize_grads and isinstance(item, Tensor):
        return zeros_like(item)
    return tangent


def _give(out: Any, i: int, tangent: Any, args: tuple[Any, ...], given: list[Any], level: int) -> None:
    """Make what `jvp` gave for result `i` its tangent; torch's errors where it is none."""
    if tangent is None or not isinstance(out, Tensor):
        return
    if not isinstance(tangent, Tensor):
        raise RuntimeError(f"expected Variable or None (got {type(tangent).__name__}) for grad output {i}.")
    for item, before in zip(args, given, strict=True):
        if item is out and before is not None and tangent is not before:
            raise RuntimeError(
                "An inplace custom Function is not modifying the forward mode gradients inplace. If the forward is "
                "modifying an input inplace, then the jvp function must modify the corresponding gradient inplace."
            )
    if out.shape != tangent.shape:
        raise RuntimeError(
            "Trying to set a forward gradient that has a different size than that of the original Tensor, this is not "
            f"supported. Tensor is of size {list(out.shape)} while the given forward gradient is of size "
            f"{list(tangent.shape)}."
        )
    give(out, level, tangent)


def _by_position(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], defaults: bool
) -> tuple[Any, ...]:
    """All arguments in order; those that can only be given by keyword are refused, as in torch."""
    signature = inspect.signature(forward)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and (name in kwargs or defaults):
            raise TypeError(f"forward() got an unexpected keyword argument '{name}'")
    for name in kwargs:
        if name not in signature.parameters:
            raise TypeError(f"forward() got an unexpected keyword argument '{name}'")
    bound = signature.bind(*args, **kwargs) if defaults else signature.bind(None, *args, **kwargs)
    if defaults:
        bound.apply_defaults()
    return bound.args if defaults else bound.args[1:]


def _finished(ctx: BackwardCFunction, args: tuple[Any, ...], output: Any, sets_context: bool) -> Any:
    """The results in the graph, with `ctx` as their node, and what it saves."""
    several = isinstance(output, tuple)
    wrapping = Wrapping(ctx, args, ctx._tracked)
    outputs = wrapping.all(output if several else (output,), ctx.to_save if sets_context else ())
    if ctx._tracked:
        ctx._specs = [o._avals.result.spec if isinstance(o, Tensor) else None for o in outputs]
        ctx._save()
    for name in ("dirty_tensors", "non_differentiable"):
        ctx.__dict__.pop(name, None)
    return tuple(outputs) if several else outputs[0]


class _Refusal(BackwardNode):
    """Where gradients of a backward lead that may not be differentiated again."""

    __slots__ = ()

    def name(self) -> str:
        """torch's name."""
        return "torch::autograd::Error"

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """Raise."""
        raise RuntimeError(ONCE)

    def __repr__(self) -> str:
        return f"<Error object at {id(self):#x}>"


def once_differentiable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """For `backward` methods that cannot be differentiated themselves: to try it is an error."""

    @functools.wraps(fn)
    def wrapper(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        with no_grad():
            outputs = fn(ctx, *args, **kwargs)
        if not grad_mode.enabled or not any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return outputs
        several = isinstance(outputs, tuple)
        aliases = [None if o is None else o.detach() for o in (outputs if several else (outputs,))]
        edges: list[Edge] = [(AccumulateGrad(a.detach()), 0) if a is not None else NO_EDGE for a in aliases]
        node = _Refusal(tuple(edges))
        for i, alias in enumerate(aliases):
            if alias is not None:
                alias._node, alias._output, alias._requires_grad = node, i, True
        return tuple(aliases) if several else aliases[0]

    return wrapper


class InplaceFunction(Function):
    """An old base class, as `Function`."""

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace


class NestedIOFunction(Function):
    """An old base class of functions with nested arguments; there is nothing that can be done with it here."""

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Not supported."""
        raise NotImplementedError("NestedIOFunction is not supported; use Function")
