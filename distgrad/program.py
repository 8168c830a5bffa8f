"""What a stage does: slots for values, steps in loops in fragments, and what arrives, departs and is kept.

A `Program` is the same for all workers; which shards a worker runs follows from its number. `wire` makes bytes of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distgrad.primitives import Aval, Labels, Layout, Primitive
from distgrad.primitives.slices import Slices, local
from distgrad.sharding import Bounds, Cut, Region, Sharding

CHANNELS = ("small", "large", "each")


@dataclass(frozen=True)
class Slot:
    """A value inside a program: its dtype and how it is cut (for partial results: how their sum is cut)."""

    dtype: np.dtype
    sharding: Sharding

    @cached_property
    def aval(self) -> Aval:
        """Shape and dtype."""
        return Aval(self.sharding.shape, self.dtype)


@dataclass(frozen=True)
class Step:
    """One node. `tile` is the label along which its loop runs in tiles; None for whole shards."""

    primitive: Primitive
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    attrs: dict[str, Any]
    layout: Layout
    tile: int | None = None

    @cached_property
    def labels(self) -> Labels | None:
        """Those of the layout; of a regrouping that runs in tiles, the numbers of the dimensions."""
        if self.layout.labels is not None or self.tile is None:
            return self.layout.labels
        dims = tuple(range(len(self.layout.outs[0].cuts)))
        return Labels((dims,) * len(self.ins), (dims,) * len(self.outs))

    def window(self, names: tuple[int | None, ...], sharding: Sharding) -> Cut | None:
        """How an operand or result is cut along the tile label; None if it has no such dimension."""
        if self.tile is None or self.tile not in names:
            return None
        if self.layout.labels is None:
            return sharding.cuts[self.tile]
        return dict(self.layout.grid).get(self.tile) or Cut(sharding.shape[names.index(self.tile)])


@dataclass(frozen=True)
class Loop:
    """Steps that run tile by tile, `rows` long each; 0: once, on the whole shard."""

    rows: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Fragment:
    """Loops that run shard by shard, on `count` shards."""

    count: int
    loops: tuple[Loop, ...]


@dataclass(frozen=True)
class Sum:
    """Partial results on a grid of `counts`, merged over the dimensions that are `reduced`.

    With a `target` all are reduced, and the one sum goes in these cuts: each worker merges the shards that it owns.
    """

    counts: tuple[int, ...]
    reduced: tuple[bool, ...]
    merge: str
    target: Sharding | None = None


@dataclass(frozen=True)
class Move:
    """Shards cut like `source` that become shards cut like `target`: all elements, or those of `slices`."""

    source: Sharding
    target: Sharding
    slices: Slices | None = None

    def seen(self, dim: int, lo: int, hi: int) -> Bounds:
        """Which of the elements that arrive are those between two bounds of the source."""
        if self.slices is None:
            return lo, hi
        start, n, step = self.slices[dim]
        return tuple([min(n, max(0, -(-(bound - start) // step))) for bound in (lo, hi)])  # type: ignore[return-value]

    def inside(self, region: Region, cell: Region) -> tuple[slice, ...]:
        """Where, in the source's shard that covers `cell`, the elements lie that arrive as `region`."""
        if self.slices is None:
            return tuple([slice(lo - a, hi - a) for (lo, hi), (a, _) in zip(region, cell, strict=True)])
        return local(self.slices, region, cell)

    def sources(self, numbers: range) -> Iterable[int]:
        """Which of these shards of the source anything is sent of."""
        if self.slices is None:
            return numbers
        return self._met[bisect_left(self._met, numbers.start) : bisect_left(self._met, numbers.stop)]

    @cached_property
    def _met(self) -> list[int]:
        assert self.slices is not None
        return list(
            self.source.overlapping(tuple([(a, a + (n - 1) * s + 1 if n else a) for a, n, s in self.slices]))
        )


@dataclass(frozen=True)
class Arrival:
    """A slot that is filled from box `box` of the call: item `position` of the channel."""

    slot: int
    what: Sum | Move
    box: int
    channel: str
    position: int


@dataclass(frozen=True)
class Departure:
    """A slot whose pieces leave in the box of this call."""

    slot: int
    what: Sum | Move
    channel: str


@dataclass(frozen=True)
class Program:
    """A stage. `inputs` are bound to stored values, `feeds` to arrays in the call, `keep` to ids to store under."""

    slots: tuple[Slot, ...]
    inputs: tuple[int, ...]
    feeds: tuple[int, ...]
    arrivals: tuple[Arrival, ...]
    fragments: tuple[Fragment, ...]
    departures: tuple[Departure, ...]
    keep: tuple[int, ...]
    boxes: tuple[tuple[str, ...], ...]  # for each box that comes with the call, its channels

    def channels(self) -> tuple[str, ...]:
        """The channels that this program's own box uses, in the order of `CHANNELS`."""
        used = {d.channel for d in self.departures}
        return tuple(c for c in CHANNELS if c in used)


def sum_of(layout: Layout) -> Sum:
    """How the partial results of a merged layout are put together."""
    assert layout.labels is not None
    assert layout.labels.merge is not None
    kept = layout.labels.outs[0]
    counts = tuple(cut.count for _, cut in layout.grid)
    return Sum(counts, tuple(label not in kept for label, _ in layout.grid), layout.labels.merge)
