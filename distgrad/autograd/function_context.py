"""`ctx` of a custom function, which is its backward node too: what it saves, and what its `backward` gives."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from distgrad.ops.base import Like
from distgrad.ops.node import fitted, marked
from distgrad.record import (
    NO_EDGE,
    BackwardNode,
    Saved,
    SavedResult,
    grad_mode,
)
from distgrad.restoring import freed, restored, unpacked
from distgrad.saving import Packed, SavedTensor, packed
from distgrad.session import batching
from distgrad.tensor import Tensor

__all__ = ["BackwardCFunction", "FunctionCtx"]


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

    _forward_cls: Any  # the subclass of `Function` that it is a node of
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
                    grads[i] = Like(spec.shape, spec.dtype, spec.sharding).zeros()
        if batching.used:
            grads = [marked(g, s and batching.levels_of(s)) for g, s in zip(grads, self._specs, strict=True)]
        found = self._forward_cls._derivative()(self, *grads)
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
