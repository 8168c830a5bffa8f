"""Backward nodes of ops, and the steps of views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.dtype import OF_NUMPY
from distgrad.graph import Spec, Value, spec
from distgrad.ops.helpers import broadcast_to, constant
from distgrad.ops.kind import Kind, Plan
from distgrad.ops.table import OPS
from distgrad.primitives import Aval
from distgrad.record import Node, Saved, grad_mode
from distgrad.sharding import Sharding
from distgrad.storage import View
from distgrad.tensor import Tensor, freed, unpack


class Like(NamedTuple):
    """What is kept of an argument without its data."""

    shape: tuple[int, ...]
    dtype: np.dtype
    sharding: Sharding

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def full(self, number: float) -> Tensor:
        """A tensor like the argument, filled with a number."""
        return Tensor(broadcast_to(constant(number, self.dtype), self.shape, self.sharding))

    def zeros(self) -> Tensor:
        """A tensor like the argument, filled with zeros."""
        return self.full(0)


def _like(spec: Spec) -> Like:
    return Like(spec.aval.shape, spec.aval.dtype, spec.sharding)


class OpNode(Node):
    """Backward node of an op. Subclasses carry the `kind` and torch's name."""

    __slots__ = ("likes", "plan", "saved", "where")
    kind: Kind
    likes: list[Any]  # for each formula the spec of its argument, a list of them for a list
    plan: Plan  # which formulas run and what is saved for them
    saved: Any  # from the arguments' names to what was saved of them; None once it was dropped
    where: Any  # the user's line that called the op

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """Run the formulas."""
        saved = self.saved
        if saved is None:
            raise freed()
        kind = self.kind
        at_hand: dict[str, Any] = {"g": grads if kind.multi else grads[0]}
        results: list[Any] = []
        for formula, need, like in zip(kind.formulas, self.plan.needs, self.likes, strict=True):
            n = len(like) if formula.is_list else 0 if like is None and not kind.number_edges else 1
            edge = len(results)
            if not need or (wanted is not None and True not in wanted[edge : edge + n]):
                results += [None] * n
                continue
            args = []
            for name in formula.takes:
                if name in at_hand:
                    args.append(at_hand[name])
                elif name == "like":
                    args.append([_like(one) for one in like] if formula.is_list else _like(like))
                elif name == "needs":
                    args.append({f.argument: n for f, n in zip(kind.formulas, self.plan.needs, strict=True)})
                else:
                    at_hand[name] = item = self._restore(saved[name])
                    args.append(item)
            gradient = formula.function(*args)
            if formula.is_list:
                gradient = [None] * n if gradient is None else gradient
                results += [fitted(g, one) for g, one in zip(gradient, like, strict=True)]
            elif gradient is None or gradient._avals.result.spec is like:
                results.append(gradient)
            else:
                results.append(fitted(gradient, like))
        return results

    def _restore(self, item: Any) -> Any:
        if type(item) is Saved:
            return unpack(item, self, self.where)
        if type(item) is SavedList:
            return [self._restore(i) for i in item]
        return item

    def release(self) -> None:
        """Drop what was saved, if there are tensors in it."""
        if self.plan.holds:
            self.saved = None


class SavedList(list[Any]):
    """Several saved tensors under one name."""


def fitted(g: Any, like: Spec) -> Any:
    """A gradient brought to the shape and dtype of the argument it is for: broadcasting and promotion undone."""
    if g is None:
        return None
    found = g._avals.result.spec
    if found is like:
        return g
    if found.aval.shape != like.aval.shape:
        g = OPS["sum_to_size"].function(g, like.aval.shape)
    if found.aval.dtype != like.aval.dtype:
        g = OPS["_to_copy"].function(g, OF_NUMPY[like.aval.dtype])
    return g


class OpStep:
    """One step of a view (see `storage.Step`): an op with its arguments."""

    __slots__ = ("args", "index", "kind", "like", "own")

    def __init__(self, kind: Kind, own: tuple[Any, ...], like: Like, index: int | None):
        self.kind = kind
        self.own = own  # the op's arguments after the first
        self.args = own if index is None else (index, *own)  # those of `view` and `layout`
        self.index = index
        self.like = like

    def _own(self) -> tuple[Any, ...]:
        return self.args if self.index is None else self.args[1:]

    def get(self, parent: Value) -> Value:
        """The view's contents."""
        out = self.kind.run(parent, *self.own)
        return out if self.index is None else out[self.index]

    def put(self, parent: Value, new: Value) -> Value:
        """The parent's contents with the view's replaced."""
        before, grad_mode.enabled = grad_mode.enabled, False
        try:
            return self.scatter(Tensor(parent), Tensor(new))._value
        finally:
            grad_mode.enabled = before

    def take(self, parent: Tensor) -> Tensor:
        """`get` for tensors, recorded."""
        names = self.kind.names[1:]
        out = OPS[self.kind.name].function(parent, **dict(zip(names, self.own, strict=True)))
        return out if self.index is None else out[self.index]

    def scatter(self, parent: Tensor, new: Tensor) -> Tensor:
        """`put` for tensors, recorded."""
        assert self.kind.view is not None
        return self.kind.view(parent, new, *self.args)

    def pull(self, g: Tensor) -> Tensor:
        """The parent's gradient from the view's."""
        formula = self.kind.formulas[0]
        gs = g if self.index is None else [None] * self.index + [g]
        given = {"g": gs, "like": self.like, **dict(zip(self.kind.names[1:], self.own, strict=True))}
        like = spec(Aval(self.like.shape, self.like.dtype), self.like.sharding)
        return fitted(formula.function(*[given[n] for n in formula.takes]), like)

    def layout(self, array: np.ndarray) -> np.ndarray:
        """The same view of a NumPy array."""
        assert self.kind.layout is not None
        return self.kind.layout(array, *self.args)


def make_view(kind: Kind, args: tuple[Any, ...], tensor: Tensor, value: Value, index: int | None) -> None:
    """Put a view op's result on the storage of its first argument."""
    source = args[0]
    if not isinstance(source, Tensor):
        return
    parent = source._avals
    step = OpStep(kind, args[1:], Like(parent.shape, parent.dtype, parent.sharding), index)
    before = source._view
    steps = (*before.steps, step) if before is not None else (step,)
    if before is not None and before.base is not None:
        base, depth = before.base, before.depth
    else:
        base, depth = source, len(steps) - 1
    tensor._storage, tensor._versions = source._storage, source._counter
    view = View(steps, value, source._storage.generation, base, depth, source._counter.number)
    view.creation = before.creation if before is not None else None
    if not grad_mode.enabled:
        view.creation = "no_grad"
    elif index is not None:
        view.creation = kind.name.title()
    tensor._view = view
