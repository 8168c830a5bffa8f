"""Backward nodes of ops, and views."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from distgrad.dtype import OF_NUMPY
from distgrad.graph import Spec, Value
from distgrad.ops.chains import Chain, Step
from distgrad.ops.declaration import Op, Plan
from distgrad.ops.helpers import broadcast_to, constant
from distgrad.ops.table import OPS, call
from distgrad.record import BackwardNode, Saved, SavedResult, grad_mode
from distgrad.restoring import freed, restored, unpacked
from distgrad.saving import Packed, SavedTensor
from distgrad.session import batching
from distgrad.sharding import Sharding
from distgrad.storage import View
from distgrad.tensor import Tensor


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
    return Like(spec.shape, spec.dtype, spec.sharding)


TORCHS = {"input": "self", "out": "result"}  # names of what is saved


class OpNode(BackwardNode):
    """Backward node of an op. Subclasses carry the `op` and torch's name."""

    __slots__ = ("levels", "likes", "made", "plan", "saved", "where")
    op: Op
    likes: list[Any]  # for each formula the spec of its argument, a list of them for a list
    plan: Plan  # which formulas run and what is saved for them
    saved: Any  # from the arguments' names to what was saved of them; None once it was dropped
    where: Any  # the user's line that called the op
    levels: list[batching.Levels]  # of each output; not set where none is batched
    made: int  # how many results, where there are several and each is differentiable

    @property
    def _outputs(self) -> int:
        """How many results have gradients."""
        return self.made if self.op.multi else 1

    def note_levels(self, outs: Sequence[Value]) -> None:
        """Remember at which levels the outputs are batched."""
        found = [batching.levels(out) for out in outs]
        if any(found):
            self.levels = found

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """Run the formulas."""
        saved = self.saved
        if saved is None:
            raise freed()
        op = self.op
        inside: Collection[int] = ()
        if batching.used and (found := getattr(self, "levels", None)) is not None:
            grads = [marked(g, mine) for g, mine in zip_longest(grads, found, fillvalue=None)]
            inside = {number for mine in found for number, _ in mine}
        at_hand: dict[str, Any] = {"g": grads if op.multi else grads[0]}
        results: list[Any] = []
        for formula, need, like in zip(op.formulas, self.plan.needs, self.likes, strict=True):
            if not need or wanted is not None or formula.is_list:
                n = len(like) if formula.is_list else 0 if like is None and not op.number_edges else 1
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
                    args.append({f.argument: n for f, n in zip(op.formulas, self.plan.needs, strict=True)})
                else:
                    at_hand[name] = item = self._restore(saved[name])
                    args.append(item)
            gradient = formula.function(*args)
            if formula.is_list:
                gradient = [None] * n if gradient is None else gradient
                results += [fitted(g, one, inside) for g, one in zip(gradient, like, strict=True)]
            elif gradient is None or gradient._avals.result.spec is like:
                results.append(gradient)
            else:
                results.append(fitted(gradient, like, inside))
        return results

    def __getattr__(self, name: str) -> Any:
        """`_saved_self`, `_saved_result` and so on: what was saved under torch's names; `input` is torch's `self`."""
        raw = name.startswith("_raw_saved_")
        known = self._saved_names() if raw or name.startswith("_saved_") else {}
        if raw and (found := known.get(name[4:])) and self._is_tensors(found):
            return self._raw(found)
        if name not in known:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        if self.saved is None:
            raise freed()
        if name == "_saved_self_sym_sizes":
            return tuple(self.likes[0].aval.shape)
        before, grad_mode.enabled = grad_mode.enabled, True  # in its graph, whatever the mode is
        try:
            found = self._restore(self.saved[known[name]])
        finally:
            grad_mode.enabled = before
        return tuple(found) if type(found) is list else found

    @property
    def _freed(self) -> bool:
        """Whether what was saved has been dropped."""
        return self.saved is None

    def _is_tensors(self, name: str) -> bool:
        """Whether a tensor was saved under this name, or several."""
        return name == "out" or any(name == tensor for tensor, _ in self.plan.tensors)

    def _raw(self, name: str) -> Any:
        item = None if self.saved is None else self.saved[name]
        if type(item) is SavedList:
            return tuple(SavedTensor(self, item, i, self._restore) for i in range(len(item)))
        return SavedTensor(self, self.saved, name, self._restore)

    def _saved_names(self) -> dict[str, str]:
        """From torch's names to those under which values were saved."""
        plan, first = self.plan, self.likes[0]
        names = [name for name, _ in (*plan.tensors, *plan.others)] + ["out"] * plan.out
        shape = {"_saved_self_sym_sizes": ""} if isinstance(first, Spec) else {}
        return shape | {f"_saved_{TORCHS.get(name, name)}": name for name in names}

    def __dir__(self) -> list[str]:
        known = self._saved_names()
        raw = [f"_raw{shown}" for shown, name in known.items() if self._is_tensors(name)]
        return [*super().__dir__(), *known, *raw]

    def _restore(self, item: Any) -> Any:
        if type(item) is Saved:
            return item.open(self, self.where)
        if type(item) is SavedResult:
            return restored(item, self, self.where)
        if type(item) is Packed:
            return unpacked(item, self)
        if type(item) is SavedList:
            return [self._restore(i) for i in item]
        return item

    def _release(self) -> None:
        """Drop what was saved, if there are tensors in it."""
        if self.plan.holds:
            self.saved = None


class SavedList(list[Any]):
    """Several saved tensors under one name."""


def marked(g: Any, levels: batching.Levels | None) -> Any:
    """The gradient of an output as each of its samples has it."""
    if g is None or not levels:
        return g
    found = batching.levels(g._avals)
    for number, size in levels:
        if (number, size) not in found:
            g = call("mark_level", g, number, size)
    return g


def fitted(g: Any, like: Spec, inside: Collection[int] = ()) -> Any:
    """A gradient brought to the shape and dtype of the argument it is for: broadcasting and promotion undone.

    Of the levels that are `inside` the node, those that the argument does not have are summed over.
    """
    if g is None:
        return None
    found = g._avals.result.spec
    if found is like:
        return g
    if inside:
        mine = batching.levels_of(like)
        for number, size in reversed(batching.levels_of(found)):
            if number in inside and (number, size) not in mine:
                g = call("sum_level", g, number, size)
        found = g._avals.result.spec
    if found.aval.shape != like.aval.shape:
        g = OPS["sum_to_size"].function(g, like.aval.shape)
    if found.aval.dtype != like.aval.dtype:
        g = OPS["_to_copy"].function(g, OF_NUMPY[like.aval.dtype])
    return g


def make_view(op: Op, args: tuple[Any, ...], tensor: Tensor, value: Value, index: int | None) -> None:
    """Put a view op's result on the storage of its first argument."""
    source = args[0]
    if not isinstance(source, Tensor):
        return
    assert op.view is not None
    before, storage = source._view, source._storage
    own = args[1:] if index is None else (index, *args[1:])
    if list in map(type, own):  # the user's, who may change it
        own = tuple(tuple(item) if type(item) is list else item for item in own)
    step = Step(op.view, source._avals.shape, own)
    steps = (step,) if before is None else (*before.chain.steps, step)
    if before is not None and before.base is not None:
        base, depth = before.base, before.chain.depth
    else:
        base, depth = source, len(steps) - 1
    tensor._storage, tensor._versions = storage, source._counter
    chain = Chain(storage.value.shape, steps, depth)
    # Of what is still lazy the contents are found from the storage, once they are asked for.
    generation = storage.generation if value.result.lazy is None else -1
    view = View(chain, value, generation, base, source._counter.number)
    view.creation = before.creation if before is not None else None
    if not grad_mode.enabled:
        view.creation = "inference" if grad_mode.inference else "no_grad"
        tensor._requires_grad = base.requires_grad  # as in torch: a leaf of its own
    elif index is not None:
        view.creation = op.name.title()
    tensor._view = view


def node_classes(op: Op, name: str | Callable[..., str] | None) -> Callable[[Sequence[Any]], type]:
    """From an op's arguments to the class of its node: one for each name, made once."""

    @functools.cache
    def made(title: str) -> type:
        return type(
            title,
            (OpNode,),
            {"op": op, "__slots__": (), "__module__": "distgrad", "__doc__": op.body.__doc__},
        )

    if callable(name):
        choose = name
        return lambda args: made(choose(*args))
    words = op.name.rstrip("_").split("_")
    only = made(name or "".join(w[:1].upper() + w[1:] for w in words) + "Backward0")
    return lambda args: only
