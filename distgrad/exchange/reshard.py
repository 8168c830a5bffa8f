"""Reshard: shards that lie in some cuts become shards in other cuts."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distgrad.errors import WireError
from distgrad.exchange.base import Reading, contiguous, held, inside, senders, sizes, stored_bytes
from distgrad.exchange.joined import Joined
from distgrad.exchange.tree import Take
from distgrad.fields import check, check_array, read_list, read_sharding, show
from distgrad.primitives.base import ATTR_TYPES
from distgrad.primitives.slices import Slices, local, part_of, slice_shape
from distgrad.program import FAR, Exchange, Slot
from distgrad.sharding import Bounds, Region, Sharding, extent


@dataclass(frozen=True)
class Reshard(Exchange):
    """Shards cut like `source` that become shards cut like `target`: all elements, or those of `slices`.

    They are cut where the shards of both overlap. With a whole target this is a gather.
    """

    source: Sharding
    target: Sharding
    slices: Slices | None = None

    kind = "reshard"

    @property
    def parts(self) -> int:
        return self.source.count

    @property
    def count(self) -> int:
        return self.target.count

    # Where elements lie

    def seen(self, dim: int, lo: int, hi: int) -> Bounds:
        """Which of the elements that arrive are those between two bounds of the source."""
        return (lo, hi) if self.slices is None else part_of(self.slices[dim], (lo, hi))

    def inside(self, region: Region, cell: Region) -> tuple[slice, ...]:
        """Where, in the source's shard that covers `cell`, the elements lie that arrive as `region`."""
        return inside(region, cell) if self.slices is None else local(self.slices, region, cell)

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

    def overlaps(self, sources: range, targets: range) -> Iterator[tuple[int, int, Region]]:
        """The pieces that go from source shards to target shards: (source, target, region of that), in order."""
        for source in self.sources(sources):
            there = tuple([self.seen(d, *bounds) for d, bounds in enumerate(self.source.cell(source))])
            if any(lo >= hi for lo, hi in there):
                continue
            for target in self.target.overlapping(there, targets):
                cell = self.target.cell(target)
                region = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(there, cell, strict=True))
                if all(lo < hi for lo, hi in region):
                    yield source, target, region

    # Crossing

    def reach(self, mine: range) -> tuple[range, int]:
        """Exact along the first cut."""
        source, target = self.source, self.target
        dim = min((*source.cut_dims, *target.cut_dims))
        inner, each = math.prod(source.grid[dim + 1 :]), math.prod(target.grid[dim + 1 :])
        lo, _ = source.cuts[dim].bounds(mine[0] // inner)
        _, hi = source.cuts[dim].bounds(mine[-1] // inner)
        pieces = target.cuts[dim].overlapping(*self.seen(dim, lo, hi))
        return range(pieces.start * each, pieces.stop * each), target.count

    def send(self, value: Sequence[Any], workers: int, worker: int, to: range) -> Iterator[np.ndarray]:
        start = held(self.parts, workers, worker).start
        for source, _, region in self.overlaps(senders(self.source, workers, worker), to):
            piece = value[source - start][self.inside(region, self.source.cell(source))]
            # A slice does not keep alive what it is a slice of.
            yield np.asarray(piece, order="C") if self.slices is None else np.array(piece, order="C")

    def receive(
        self,
        items: Sequence[Sequence[np.ndarray]],
        workers: int,
        shards: range,
        slot: Slot,
        take: Take = np.empty,
        along: int | None = None,
    ) -> list[Any]:
        parts: list[list[tuple[Region, np.ndarray]]] = [[] for _ in shards]
        for w in range(workers):
            arrays = iter(items[w])
            for _, target, region in self.overlaps(senders(self.source, workers, w), shards):
                array = check_array(next(arrays, None), extent(region), slot.dtype, "shard")
                parts[target - shards.start].append((region, array))
            self.nothing_left(arrays, w)
        return [
            self._whole(s, p, slot.dtype, take) if along is None or not p else self._joined(s, p, take, along)
            for s, p in zip(shards, parts, strict=True)
        ]

    def _whole(
        self, shard: int, parts: list[tuple[Region, np.ndarray]], dtype: np.dtype, take: Take
    ) -> np.ndarray:
        cell = self.target.cell(shard)
        result = take(extent(cell), dtype)
        for region, array in parts:
            result[inside(region, cell)] = array
        return result

    def _joined(self, shard: int, parts: list[tuple[Region, np.ndarray]], take: Take, along: int) -> Any:
        before = self.source.cell(shard) if shard < self.source.count else None
        own = next((n for n, (region, _) in enumerate(parts) if region == before), None)
        pieces = [array for _, array in parts]
        return pieces[0] if len(pieces) == 1 else Joined(pieces, along, take, own)

    def joined_along(self, kept: bool, along: int | None) -> int | None:
        """The dimension along which this was cut otherwise, if what arrives may stay in pieces along that.

        Either all that is done with it is to read it in tiles `along` that; or it is kept, and is what was there
        before with a narrow halo: then only this takes memory.
        """
        if self.count == 1:
            return None
        cuts = enumerate(zip(self.source.cuts, self.target.cuts, strict=True))
        changed = [d for d, (source, target) in cuts if source != target]
        stays = self.target.halo_dim(self.source) is not None if kept else changed == [along]
        return changed[0] if stays else None

    # Bytes

    def moved(self, slot: Slot, workers: int, channel: str) -> int:
        itemsize = slot.dtype.itemsize
        if self.count == 1:
            return itemsize * math.prod(self.target.shape) * (workers - 1)
        total = 0
        for worker in range(workers):
            mine = held(self.count, workers, worker)
            sources = senders(self.source, workers, worker)
            for _, target, region in self.overlaps(sources, range(self.count)):
                total += 0 if target in mine else itemsize * math.prod(extent(region))
        return total

    def recv_bytes(self, slot: Slot, workers: int, worker: int, channel: str, in_tiles: bool) -> int:
        if self.count == 1:
            return 2 * slot.aval.nbytes
        mine = held(self.count, workers, worker)
        elements = sum(
            math.prod(extent(region))
            for w in range(workers)
            if w != worker or channel != "each"
            for _, _, region in self.overlaps(senders(self.source, workers, w), mine)
        )
        return elements * slot.dtype.itemsize + (0 if in_tiles else stored_bytes(slot, workers, worker))

    def send_bytes(
        self, slot: Slot, workers: int, worker: int, channel: str, kept: bool
    ) -> tuple[int, int, int]:
        copied = own = 0
        seen: set[int] = set()  # shards of which a view goes to the worker itself
        mine = held(self.count, workers, worker) if channel == "each" else range(0)
        sources = senders(self.source, workers, worker)
        for source, target, region in self.overlaps(sources, range(self.count)):
            nbytes = slot.dtype.itemsize * math.prod(extent(region))
            if self.slices is not None or not contiguous(region, self.source.cell(source)):
                copied += nbytes
                own += nbytes if target in mine else 0
            elif target in mine:
                seen.add(source)
        whole = 0 if kept else int(sizes(self.source)[list(seen)].sum()) * slot.dtype.itemsize
        return copied, own, whole

    # Words

    def title(self) -> str:
        return "gather of" if self.count == 1 else "reshard of"

    def wire(self) -> list[Any]:
        return [self.kind, self.source.wire(), self.target.wire(), self.slices]

    @classmethod
    def read(cls, fields: list[Any], at: Reading) -> Reshard:
        what, most = at.what, max(at.most, FAR)
        source, target, taken = read_list(fields, what, 3)
        before, slices = read_sharding(source, what, most), None
        shape = before.shape
        if taken is not None:
            try:
                slices = ATTR_TYPES["slices"](taken)
                shape = slice_shape(shape, slices)
            except (TypeError, ValueError):
                raise WireError(f"{what}: not a slice of what is sent: {show(taken)}") from None
        made = Reshard(before, read_sharding(target, what, most), slices)
        check(shape == made.target.shape, f"{what}: shapes differ")
        partial = at.partial is not None and not at.recv
        check(not partial, f"{what}: slot {at.number} has partial results, which are only merged")
        mine = made.target if at.recv else made.source
        check(mine == at.slot.sharding, f"{what}: slot {at.number} is cut otherwise")
        return made
