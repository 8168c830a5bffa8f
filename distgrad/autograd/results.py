"""The results of a custom function: which are put in the graph, which are inputs, changed in place, or views."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from distgrad.ops.inplace import VIEW_OF_LEAF, check_view, rebase
from distgrad.ops.table import call
from distgrad.record import no_grad
from distgrad.tensor import Tensor

DIRTY_LEAF = "a leaf Variable that requires grad has been used in an in-place operation."
NO_INPUT = (
    "ctx.mark_dirty() received a tensor that was not an input. Only input Tensors that have been mutated should be "
    "passed to ctx.mark_dirty()."
)
NOT_RETURNED = (
    "Some elements marked as dirty during the forward method were not returned as output. The inputs that are "
    "modified inplace must all be outputs of the Function."
)
ONE_OUTPUT = (
    "If your Function modifies inplace an input that is a view of another Tensor, your Function cannot return more "
    "than one Tensor. This is not supported by the current autograd engine. You should either make sure the input is "
    "not a view (using .clone() for example) or make your Function only return one Tensor (potentially splitting it "
    "into two Functions: one doing the inplace that returns a single Tensor and a second one that does the other "
    "operations). You can ask on the forum https://discuss.pytorch.org/ if you need help to do this change."
)
SAVED_INPUT = (
    "An input that has been returned as-is as output is being saved for backward. This is not supported if you "
    "override setup_context. You should return and save a view of the input instead, e.g. with x.view_as(x) or setup "
    "ctx inside the forward function itself."
)


class Wrapping:
    """How the results of one call of a custom function become those of its node; `tracked`: whether it is recorded."""

    def __init__(self, ctx: Any, args: Sequence[Any], tracked: bool):
        self.ctx = ctx
        self.tracked = tracked
        self.inputs = [id(a) for a in args if isinstance(a, Tensor)]
        self.dirty = self._marked("dirty_tensors", "mark_dirty can only accept variables, but argument ")
        self.apart = self._marked(
            "non_differentiable", "mark_non_differentiable only accepts variable arguments, but got "
        )
        for item in self.dirty.values():
            item._counter.number += 1

    def _marked(self, name: str, refusal: str) -> dict[int, Tensor]:
        items = getattr(self.ctx, name) or ()
        if not all(isinstance(item, Tensor) for item in items):
            raise RuntimeError(refusal)
        return {id(item): item for item in items}

    def all(self, outputs: Sequence[Any], to_save: Any) -> list[Any]:
        """The results as the caller gets them, in the graph if the call is recorded."""
        saved = {id(item) for item in to_save or ()}
        several = sum(isinstance(o, Tensor) for o in outputs) > 1
        made = [
            self._one(i, o, several, saved) if isinstance(o, Tensor) else o for i, o in enumerate(outputs)
        ]
        if not self.dirty.keys() <= {id(o) for o in outputs}:
            raise RuntimeError(NOT_RETURNED)
        views = [o for o in made if isinstance(o, Tensor) and o._is_view() and id(o) not in self.dirty]
        many = sum(isinstance(o, Tensor) and o._node is self.ctx for o in made) > 1
        for view in views:
            assert view._view is not None
            view._view.creation = "several" if many else "function"
        return made

    def _one(self, i: int, out: Tensor, several: bool, saved: set[int]) -> Tensor:
        is_input, changed = id(out) in self.inputs, id(out) in self.dirty
        if not (self.tracked and id(out) not in self.apart and out.is_floating_point()):
            return self._apart(out, is_input, changed)
        if changed:
            self._changed(i, out, is_input, several)
            return out
        if is_input:
            if id(out) in saved:
                raise RuntimeError(SAVED_INPUT)
            out = _viewed(out)
        out._node, out._output, out._requires_grad = self.ctx, i, True
        return out

    def _apart(self, out: Tensor, is_input: bool, changed: bool) -> Tensor:
        """A result without a gradient."""
        if not out.requires_grad:
            return _viewed(out) if is_input and not changed else out
        if is_input:
            return out.detach()
        return out if out._is_view() else out.detach_()

    def _changed(self, i: int, out: Tensor, is_input: bool, several: bool) -> None:
        """A result that is an input, changed in place: from now on its history is that of the function."""
        if out.is_leaf and out.requires_grad:
            raise RuntimeError(DIRTY_LEAF)
        if not is_input:
            warnings.warn(NO_INPUT, stacklevel=6)
        base = out._base
        if base is not None:
            if several:
                raise RuntimeError(ONE_OUTPUT)
            check_view(out)
            if base.is_leaf and base.requires_grad:
                raise RuntimeError(VIEW_OF_LEAF)
        rebase(out, self.ctx, i, self.inputs.index(id(out)) if is_input else None)


def _viewed(tensor: Tensor) -> Tensor:
    with no_grad():
        view: Tensor = call("_view", tensor, tuple(tensor._avals.shape))
    return view
