"""Reduce: partial results are merged in the fixed tree. Whole to all who need the sum, or each part to its owner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.caching import remembered
from distgrad.cutting import SHARDS
from distgrad.exchange import rows
from distgrad.exchange.base import Reading, contiguous, held, inside, sizes, stored_bytes
from distgrad.exchange.tree import Axes, Counting, Take, Tree, leaves, subtrees
from distgrad.fields import DIMS, check, check_array, read_int, read_list, read_sharding, show
from distgrad.primitives import MERGES, Layout
from distgrad.program import FAR, Exchange, Slot
from distgrad.sharding import Sharding, everything, extent, owned

Subtrees = dict[int, list[tuple[int, int]]]
Trees = dict[int, Tree]  # what a worker has merged of each sum


@dataclass(frozen=True)
class Reduce(Exchange):
    """Partial results on a grid of `counts`, merged over the dimensions that are `reduced`.

    Each worker sends what it has merged of a sum to all who need that (all-reduce, where all do).
    """

    counts: tuple[int, ...]
    reduced: tuple[bool, ...]
    merge: str

    kind = "reduce"

    @property
    def axes(self) -> Axes:
        """Lengths, and what is reduced."""
        return tuple(zip(self.counts, self.reduced, strict=True))

    @property
    def parts(self) -> int:
        return math.prod(self.counts)

    @property
    def sums(self) -> int:
        """How many sums the partial results are merged to."""
        return math.prod([n for n, reduced in self.axes if not reduced])

    @property
    def count(self) -> int:
        return self.sums

    @property
    def exact(self) -> bool:
        """Whether the order changes no bit."""
        return self.merge == "disjoint"

    # Merging

    def tree(self, take: Take = np.empty, merging: bool = True) -> Tree:
        """An empty tree for one of the sums; without `merging` it tells what would be merged, and when."""
        return Tree(MERGES[self.merge] if merging else None, take, self.exact)

    def leaves(self, shards: range) -> Iterator[tuple[int, int, int]]:
        """For each of the partial results: its number, that of its sum, and its place in that."""
        return leaves(self.axes, shards)

    def subtrees(self, workers: int, worker: int) -> Subtrees:
        """Of each sum that a worker sends a part of: the (level, number) of the subtrees that it has, in order."""
        return _subtrees(self, workers, worker)

    def work_out(self, workers: int, worker: int) -> Subtrees:
        """`subtrees`, when they are asked for the first time."""
        return subtrees(self.axes, owned(self.parts, workers, worker), self.exact)

    def sent(self, workers: int, worker: int, to: range) -> list[tuple[int, int]]:
        """What `worker` sends of the sums `to`: (sum, number of arrays), in order."""
        return [(kept, len(trees)) for kept, trees in self.subtrees(workers, worker).items() if kept in to]

    # Crossing

    def reach(self, mine: range) -> tuple[range, int]:
        """Exact but for further dimensions: the first that are not reduced tell which sums, all others count."""
        first = self.reduced.index(True) if True in self.reduced else len(self.reduced)
        each = math.prod(self.counts[first:])
        sums = math.prod([n for n, reduced in self.axes[first:] if not reduced])
        reached = range(mine[0] // each * sums, (mine[-1] // each + 1) * sums)
        return reached, math.prod(self.counts[:first]) * sums

    def send(self, value: Trees, workers: int, worker: int, to: range) -> Iterator[np.ndarray]:
        for kept, tree in sorted(value.items()):
            if kept in to:
                yield from self._given([array for _, _, array, _ in tree.stack], workers)

    def _by_rows(self, workers: int) -> bool:
        """Whether of parts only the rows are sent that are not zero: of exact ones, between workers."""
        return self.exact and workers > 1

    def _given(self, arrays: Sequence[Any], workers: int) -> Iterator[np.ndarray]:
        """Arrays as they are sent."""
        for array in arrays:
            if self._by_rows(workers):
                yield from rows.sent(array)
            else:
                yield np.asarray(array)

    def receive(
        self,
        items: Sequence[Sequence[np.ndarray]],
        workers: int,
        shards: range,
        slot: Slot,
        take: Take = np.empty,
        along: int | None = None,
    ) -> list[Any]:
        by_rows = self._by_rows(workers)
        read = rows.received if by_rows else _received
        cells = {kept: extent(slot.sharding.cell(kept)) for kept in shards}
        parts: dict[int, list[Any]] = {
            kept: [] for kept in shards
        }  # of each sum: of one worker after the other
        for w in range(workers):
            sent = iter(items[w])
            for kept, n in self.sent(workers, w, shards):
                parts[kept] += [read(sent, cells[kept], slot.dtype) for _ in range(n)]
            self.nothing_left(sent, w)
        if by_rows:
            return [rows.merged(mine, cells[kept], slot.dtype, take) for kept, mine in parts.items()]
        return [np.asarray(self._merged(mine, workers, kept, take)) for kept, mine in parts.items()]

    def _merged(self, parts: Sequence[np.ndarray], workers: int, kept: int, take: Take) -> Any:
        made = self.tree(take)
        trees = (tree for w in range(workers) for tree in self.subtrees(workers, w).get(kept, ()))
        for (level, i), array in zip(trees, parts, strict=True):
            made.push(level, i, array)
        return made.finish()

    # Bytes

    def part_bytes(self, slot: Slot, workers: int, sender: int, to: range) -> int:
        """Bytes of the parts of the sums `to` that a worker sends; `slot` is cut as they are."""
        elements = sizes(slot.sharding)
        return slot.dtype.itemsize * sum(n * int(elements[k]) for k, n in self.sent(workers, sender, to))

    def moved(self, slot: Slot, workers: int, channel: str) -> int:
        everywhere = self.sums == 1 or channel == "each"  # else only the driver reads
        each = slot.aval.nbytes // max(1, self.sums)
        total = each * sum(
            n
            for worker in range(workers)
            for to in range(workers if everywhere else 0)
            if to != worker
            for _, n in self.sent(workers, worker, held(self.sums, workers, to))
        )
        return self._in_rows(total, slot, workers)

    def _in_rows(self, total: int, slot: Slot, workers: int) -> int:
        """Of so many bytes those that are sent where parts go by rows: each row comes from one worker."""
        shape, dtype = extent(slot.sharding.cell(0)), slot.dtype
        if not self.exact or not rows.apart(shape, dtype):
            return total
        givers = sum(1 for w in range(workers) if self.subtrees(workers, w))
        return int(total / max(1, givers) * (1 + 8 * shape[0] / (math.prod(shape) * dtype.itemsize)))

    def recv_bytes(self, slot: Slot, workers: int, worker: int, channel: str, in_tiles: bool) -> int:
        mine = held(slot.sharding.count, workers, worker)
        merged = sum(n for w in range(workers) for _, n in self.sent(workers, w, mine)) > len(mine)
        others = [w for w in range(workers) if w != worker or channel != "each"]
        parts = sum(self.part_bytes(slot, workers, w, mine) for w in others)
        if not merged:
            return parts
        largest = int(sizes(slot.sharding)[mine.start : mine.stop].max())
        return (
            parts
            + stored_bytes(slot, workers, worker)
            + self._waiting(workers, mine) * largest * slot.dtype.itemsize
        )

    def _waiting(self, workers: int, mine: range) -> int:
        """How many arrays one of the sums takes while it is merged, beside that for the result."""
        trees = [self.subtrees(workers, w) for w in range(workers)]
        most = 1
        for nodes in {
            tuple(node for t in trees for node in t.get(kept, ())) for kept in mine if not self.exact
        }:
            made = Counting(None)
            for level, i in nodes:
                made.push(level, i, False)
            made.finish()
            most = max(most, made.most)
        return most - 1

    def send_bytes(
        self, slot: Slot, workers: int, worker: int, channel: str, kept: bool
    ) -> tuple[int, int, int]:
        mine = held(slot.sharding.count, workers, worker)
        return 0, self.part_bytes(slot, workers, worker, mine) if channel == "each" else 0, 0

    # Words

    def title(self) -> str:
        return "sum of"

    def wire(self) -> list[Any]:
        return [self.kind, self.counts, self.reduced, self.merge]

    @classmethod
    def read(cls, fields: list[Any], at: Reading) -> Reduce:
        made = _read_reduce(fields, at)
        _check_sums(made, at, at.slot.sharding.count)
        return made


@dataclass(frozen=True)
class ReduceScatter(Reduce):
    """One sum that goes in cuts: each worker merges the shards of `target` that it owns. All dimensions are reduced."""

    target: Sharding

    kind = "reduce_scatter"

    @property
    def count(self) -> int:
        return self.target.count

    @property
    def whole(self) -> Reduce:
        """The same sum, merged whole."""
        return Reduce(self.counts, self.reduced, self.merge)

    def work_out(self, workers: int, worker: int) -> Subtrees:
        trees = self.whole.subtrees(workers, worker)  # each shard is a sum like the whole
        return dict.fromkeys(range(self.count), trees[0]) if trees else {}

    def reach(self, mine: range) -> tuple[range, int]:
        """Every part goes to all who own some of the sum."""
        return range(self.count), self.count

    def send(self, value: Trees, workers: int, worker: int, to: range) -> Iterator[np.ndarray]:
        arrays = [array for tree in value.values() for _, _, array, _ in tree.stack]
        for shard in to:
            at = inside(self.target.cell(shard), everything(self.target.shape))
            yield from self._given([np.asarray(array[at], order="C") for array in arrays], workers)

    def moved(self, slot: Slot, workers: int, channel: str) -> int:
        elements = sizes(self.target)
        total = slot.dtype.itemsize * sum(
            n * int(elements[shard])
            for worker in range(workers)
            for shard, n in self.sent(workers, worker, range(self.count))
            if shard not in held(self.count, workers, worker)
        )
        return self._in_rows(total, Slot(slot.dtype, self.target), workers)

    def send_bytes(
        self, slot: Slot, workers: int, worker: int, channel: str, kept: bool
    ) -> tuple[int, int, int]:
        """Of partial results that leave in cuts, views, if the cuts leave rows whole."""
        whole = self.whole.part_bytes(slot, workers, worker, range(1))
        mine = held(self.count, workers, worker)
        if contiguous(self.target.cell(0), everything(self.target.shape)):
            return 0, 0, whole if mine else 0
        return whole, self.part_bytes(Slot(slot.dtype, self.target), workers, worker, mine), 0

    def wire(self) -> list[Any]:
        return [*super().wire(), self.target.wire()]

    @classmethod
    def read(cls, fields: list[Any], at: Reading) -> ReduceScatter:
        *fields, cuts = read_list(fields, at.what, 4)
        whole = _read_reduce(fields, at)
        _check_sums(whole, at, 1 if at.recv else at.slot.sharding.count)
        check(all(whole.reduced), f"{at.what}: {whole.sums} sums do not go in cuts")
        sharding, target = at.slot.sharding, read_sharding(cuts, at.what, max(at.most, FAR))
        fits = target == sharding if at.recv else target.shape == sharding.shape
        check(fits and target.count > 1, f"{at.what}: slot {at.number} is cut otherwise")
        return scattered(whole, target)


def reduce_of(layout: Layout) -> Reduce:
    """How the partial results of a merged layout are put together."""
    assert layout.labels is not None
    assert layout.labels.merge is not None
    kept = layout.labels.outs[0]
    counts = tuple(cut.count for _, cut in layout.grid)
    return Reduce(counts, tuple(label not in kept for label, _ in layout.grid), layout.labels.merge)


def scattered(what: Reduce, target: Sharding) -> ReduceScatter:
    """The one sum, in these cuts."""
    return ReduceScatter(what.counts, what.reduced, what.merge, target)


@remembered(16 << 20, lambda _, trees: 1000 + sum(200 + 130 * len(made) for made in trees.values()))
def _subtrees(what: Reduce, workers: int, worker: int) -> Subtrees:
    return what.work_out(workers, worker)


def _received(arrays: Iterator[Any], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return check_array(next(arrays, None), shape, dtype, "sum")


def _read_reduce(fields: list[Any], at: Reading) -> Reduce:
    what = at.what
    counts, reduced, merge = read_list(fields, what, 3)
    counts = tuple(read_int(n, what, 1, SHARDS) for n in read_list(counts, what))
    check(len(counts) <= DIMS, f"{what}: more than {DIMS} dimensions")
    reduced = tuple(read_list(reduced, what, len(counts)))
    check(all(type(r) is bool for r in reduced), f"{what}: reduced must be booleans")
    check(math.prod(counts) <= SHARDS, f"{what}: more than {SHARDS} partial results")
    check(type(merge) is str and merge in MERGES, f"{what}: unknown merge {show(merge)}")
    return Reduce(counts, reduced, merge)


def _check_sums(made: Reduce, at: Reading, count: int) -> None:
    check(made.sums == count, f"{at.what}: {made.sums} sums for slot {at.number}")
    known = at.recv or made == at.partial
    check(known, f"{at.what}: slot {at.number} has no such partial results")
