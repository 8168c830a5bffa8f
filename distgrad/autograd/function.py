"""`torch.autograd.Function`: functions whose derivative the user writes. All of it runs in the driver, on tensors.

`Sq.apply(x)` makes a node of the class `SqBackward`, which is the `ctx` that `forward` and `backward` get.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from distgrad.autograd.batched import by_own_rule, checked, level_of
from distgrad.autograd.pushing import tangent_at
from distgrad.autograd.results import Wrapping
from distgrad.dual import below, forward, give, highest
from distgrad.ops.base import Like
from distgrad.ops.making import zeros_like
from distgrad.ops.node import fitted, marked
from distgrad.record import (
    NO_EDGE,
    AccumulateGrad,
    BackwardNode,
    Edge,
    Saved,
    SavedResult,
    grad_mode,
    no_grad,
)
from distgrad.saving import Packed, SavedTensor, packed
from distgrad.session import batching
from distgrad.tensor import Tensor, freed, restored, unpacked

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


class FunctionCtx:
    """What `ctx` offers to `forward` and `setup_context`."""

    to_save: Any = None
    saved_for_forward: Any = None
    dirty_tensors: Any = None
    non_differentiable: Any = None
    materialize_grads = True

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors, inputs and outputs among them, for `backward`; None counts as one. See `saved_tensors`."""
        self.to_save = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """The same for `jvp`."""
        for tensor in tensors:
            if not (isinstance(tensor, Tensor) or tensor is None):
                raise AssertionError(
                    "save_for_forward expects all arguments to be tensors; you should save non-tensors as attributes "
                    "on ctx."
                )
        self.saved_for_forward = tensors

    def mark_dirty(self, *args: Any) -> None:
        """Say which inputs `forward` has changed in place; it must return them."""
        self.dirty_tensors = args

    def mark_non_differentiable(self, *args: Any) -> None:
        """Say which outputs have no gradient."""
        self.non_differentiable = args

    def set_materialize_grads(self, value: bool) -> None:
        """Whether `backward` gets zeros (the default), or None, for outputs that have got no gradient."""
        self.materialize_grads = value


class BackwardCFunction(FunctionCtx, BackwardNode):
    """The node of a custom function. It has no `__slots__`: users keep things on it."""

    _forward_cls: type[Function]
    needs_input_grad: tuple[bool, ...]

    def __init__(self, args: Sequence[Any]):
        needs = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        tracked = grad_mode.enabled and True in needs
        tensors = [a for a in args if isinstance(a, Tensor)]
        super().__init__(tuple(a._edge if tracked else NO_EDGE for a in tensors))
        self.needs_input_grad = needs
        self._tracked = tracked
        self._tensor_places = tuple(i for i, a in enumerate(args) if isinstance(a, Tensor))
        self._likes: list[Any] = [a._avals.result.spec for a in tensors]  # of the inputs
        self._specs: list[Any] = []  # of the outputs; None for what is no tensor
        self._saved: list[Any] | None = []

    @property
    def _outputs(self) -> int:
        """How many outputs `forward` had."""
        return len(self._specs)

    # What was saved.
    def _save(self) -> None:
        """Keep what `save_for_backward` was given. The outputs are in the graph by now."""
        to_save = self.__dict__.pop("to_save", None)
        self._saved = [] if to_save is None else [self._keep(i, item) for i, item in enumerate(to_save)]

    def _keep(self, i: int, item: Any) -> Any:
        if item is None:
            return None
        if not isinstance(item, Tensor):
            raise TypeError(
                f"save_for_backward can only save variables, but argument {i} is of type {type(item).__name__}"
            )
        if item._node is self:
            return packed(item, (None, item._output), True) or SavedResult(
                item._value, item._counter, (None, item._output), True, _plain_storage(item)
            )
        return packed(item, item._edge) or Saved(item)

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors of `save_for_backward`; an error if one was changed in place since, or backward has run.

        Those of `save_for_forward` where there are any.
        """
        if self.saved_for_forward is not None:
            return tuple(self.saved_for_forward)
        if self._saved is None:
            raise freed()
        return tuple(self._opened(item) for item in self._saved)

    @property
    def _raw_saved_tensors(self) -> tuple[SavedTensor, ...]:
        """What was saved, to set hooks on."""
        if self._saved is None:
            raise freed()
        return tuple(SavedTensor(self, self._saved, i, self._opened) for i in range(len(self._saved)))

    @property
    def _freed(self) -> bool:
        """Whether what was saved has been dropped."""
        return self._saved is None

    @property
    def saved_variables(self) -> tuple[Any, ...]:
        """The old name of `saved_tensors`."""
        warnings.warn(
            "'saved_variables' is deprecated; use 'saved_tensors'", DeprecationWarning, stacklevel=2
        )
        return self.saved_tensors

    def _opened(self, item: Any) -> Any:
        if type(item) in (SavedResult, Packed):
            before, grad_mode.enabled = grad_mode.enabled, True  # in the graph, whatever the mode is
            try:
                return unpacked(item, self) if type(item) is Packed else restored(item, self, None)
            finally:
                grad_mode.enabled = before
        return item.open(self, None) if type(item) is Saved else item

    def _release(self) -> None:
        """Drop the saved tensors, if there are any."""
        if self._saved:
            self._saved = None

    # Backward.
    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """Run the user's `backward` and check what it gives back."""
        grads = grads + [None] * (len(self._specs) - len(grads))
        if self.materialize_grads:
            for i, spec in enumerate(self._specs):
                if grads[i] is None and spec is not None:
                    grads[i] = Like(spec.aval.shape, spec.aval.dtype, spec.sharding).zeros()
        if batching.used:
            grads = [marked(g, s and batching.levels_of(s)) for g, s in zip(grads, self._specs, strict=True)]
        found = _derivative(self._forward_cls)(self, *grads)
        return self._checked(found if isinstance(found, tuple) else (found,))

    def _undefined(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """The user's function decides what becomes of gradients that are undefined."""
        return self.apply(grads, wanted)

    def _checked(self, found: tuple[Any, ...]) -> list[Any]:
        expected = len(self.needs_input_grad)
        if all(g is None for g in found[expected:]):
            found = found[:expected]
        if len(found) != expected:
            raise RuntimeError(
                f"function {self.name()} returned an incorrect number of gradients (expected {expected}, got "
                f"{len(found)})"
            )
        places = set(self._tensor_places)
        for i, g in enumerate(found):
            if i not in places and g is not None:
                raise RuntimeError(
                    f"function {self.name()} returned a gradient different than None at position {i + 1}, but the "
                    "corresponding forward input was not a Variable"
                )
            if g is not None and not isinstance(g, Tensor):
                raise RuntimeError(f"expected Variable or None (got {type(g).__name__})")
        return [self._fitted(n, found[i]) for n, i in enumerate(self._tensor_places)]

    def _fitted(self, n: int, g: Any) -> Any:
        if g is None or self.next_functions[n][0] is None:
            return None
        like = self._likes[n]
        shape, aim = g._avals.shape, like.aval.shape
        if shape != aim and not _expandable(aim, shape):
            raise RuntimeError(
                f"Function {self.name()} returned an invalid gradient at index {n} - got {list(shape)} but expected "
                f"shape compatible with {list(aim)}"
            )
        inside = {number for spec in self._specs if spec for number, _ in batching.levels_of(spec)}
        return fitted(g, like, inside)

    def __call__(self, *grads: Any) -> Any:
        """Refused, as in torch."""
        raise TypeError(f"'{type(self).__name__}' object is not callable")

    def __repr__(self) -> str:
        return f"<torch.autograd.function.{type(self).__name__} object at {id(self):#x}>"


def _plain_storage(tensor: Tensor) -> Any:
    return tensor._storage if tensor._view is None else None


def _expandable(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether shape `small` broadcasts to `large`."""
    pairs = zip(reversed(small), reversed(large), strict=False)
    return len(small) <= len(large) and all(n in (1, m) for n, m in pairs)


def _derivative(cls: type[Function]) -> Callable[..., Any]:
    """The user's function for backward."""
    if cls.vjp is Function.vjp:
        return cls.backward
    if cls.backward is not Function.backward:
        raise RuntimeError(
            "Implementing both 'backward' and 'vjp' for a custom Function is not allowed. You should only implement "
            "one of them."
        )
    return cls.vjp


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
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Call the function; what it does inside is not recorded."""
        sets_context = cls.setup_context is not Function.setup_context
        if kwargs or sets_context:
            args = _by_position(cls.forward, args, kwargs, sets_context)
        if forward.on and (level := highest(args)) >= 0:
            return _pushed(cls, args, level)
        if batching.active.levels and (inside := level_of(args)) is not None:
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
