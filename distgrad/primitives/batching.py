"""Batching rules: how a primitive is applied to many operands at once, along a batch dimension it knows nothing of.

A rule gets operands of which some have the batch dimension in front, and gives results that all have it there. It says
so in primitives again, mostly in the same one with its dimensions shifted by one. Rules stand beside the primitives;
here is what they are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distgrad.cutting import default_sharding
from distgrad.primitives.base import TABLE, Attrs, BatchRule, Primitive
from distgrad.sharding import Cut, Sharding

Ints = tuple[int, ...]
NO_DYNAMIC_SHAPE = (
    "vmap: We do not support batching operators that can output dynamic shape. Attempted to vmap over aten::{}. "
    "The number of elements would differ between the samples."
)


@dataclass
class Batch:
    """What a rule works with: the length of the batch, how it is cut, and how to apply primitives.

    Values are the session's: here only their `shape`, `dtype` and `sharding` are looked at.
    """

    size: int
    cut: Cut
    apply: Callable[[str, Sequence[Any], Attrs], Sequence[Any]]
    number: Callable[[Any, Any], Any]  # a 0-d value of a dtype
    shard_bytes: int

    def emit(self, name: str, *values: Any, **attrs: Any) -> Any:
        """The one result of a primitive."""
        return self.apply(name, values, attrs)[0]

    def cuts(self, inner: Sharding | None, itemsize: int) -> Sharding | None:
        """Cuts with the batch before those of each sample; where nothing is cut, the usual ones for so much."""
        if inner is None:
            return None
        made = Sharding((self.cut, *inner.cuts))
        return made if made.count > 1 else default_sharding(made.shape, itemsize, self.shard_bytes)

    def full(self, x: Any, batched: bool) -> Any:
        """An operand with the batch dimension, repeated along it if it had none."""
        if batched:
            return x
        shape = (self.size, *x.shape)
        if x.shape:
            x = self.emit("expand_dims", x, dims=(0,))
        cuts = None if self.cut.count == 1 else Sharding((self.cut, *map(Cut, shape[1:])))
        return self.emit("expand", x, shape=shape, cuts=cuts)

    def all_full(self, xs: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
        """All operands with the batch dimension."""
        return [self.full(x, flag) for x, flag in zip(xs, flags, strict=True)]

    def by(self, name: str, xs: Sequence[Any], flags: Sequence[bool], **attrs: Any) -> Any:
        """The one result of a primitive, by its own rule."""
        if not any(flags):
            return self.full(self.emit(name, *xs, **attrs), False)
        rule = TABLE[name].batch
        assert rule is not None
        return rule(self, TABLE[name], xs, flags, attrs)[0]

    def places(self, idx: Any, size: int, wrap: bool = True) -> Any:
        """Indices that may be negative, as positions from the front."""
        if not wrap:
            return idx
        below = self.emit("less", idx, self.number(0, idx.dtype))
        return self.emit("where", below, self.emit("add", idx, self.number(size, idx.dtype)), idx)

    def spread(self, idx: Any, shape: Ints, dim: int) -> Any:
        """A list of indices for each sample, repeated to `shape`, which has them along `dim`."""
        others = tuple(d for d in range(1, len(shape)) if d != dim)
        idx = self.emit("expand_dims", idx, dims=others) if others else idx
        return self.emit("expand", idx, shape=shape, cuts=None)


def shifted(*names: str) -> BatchRule:
    """All operands get the batch in front, and the attributes of these names, dimensions, go up by one."""

    def rule(
        batch: Batch, primitive: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
    ) -> Sequence[Any]:
        moved = {name: up(attrs[name]) for name in names}
        return batch.apply(primitive.name, batch.all_full(xs, flags), {**attrs, **moved})

    return rule


def up(dims: Any) -> Any:
    """Dimensions behind the batch."""
    return tuple(d + 1 for d in dims) if isinstance(dims, tuple) else dims + 1


def front(n: int, dim: int) -> Ints:
    """The order of `n` dimensions that has `dim` first."""
    return (dim, *(d for d in range(n) if d != dim))


def back(n: int, dim: int) -> Ints:
    """The order that undoes `front`."""
    return (*range(1, dim + 1), 0, *range(dim + 1, n))


class Refused(NamedTuple):
    """The rule of what cannot be batched: an error that says why."""

    text: str

    def __call__(
        self, batch: Batch, primitive: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
    ) -> Sequence[Any]:
        """Raises RuntimeError."""
        raise RuntimeError(self.text)
