"""What crosses between workers, and in what order: nothing is said of it on the wire, both sides work it out.

Two things cross. *Partial results* are merged in one fixed binary tree over the numbers of the shards: a worker merges
the complete subtrees of its contiguous range and sends those. *Moved shards* are cut where source and target shards
overlap. The driver uses the same functions when it reads a value.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from distgrad.caching import Cache
from distgrad.primitives import MERGES
from distgrad.program import Move, Sum
from distgrad.sharding import Region, Sharding, owned

Take = Callable[[tuple[int, ...], np.dtype], np.ndarray]


class Tree:
    """A fixed binary tree of additions over leaves that come in rising order.

    Node (level, i) covers the leaves i * 2**level up to (i + 1) * 2**level. Siblings are merged as soon as both are
    there; a node whose sibling lies beyond the last leaf is taken as it is. So the additions are the same however the
    leaves were spread. Where the order changes no bit (`exact`) all leaves are one subtree. `take(shape, dtype)` gives
    memory for sums.
    """

    def __init__(self, merge: Callable[..., Any] | None, take: Take = np.empty, exact: bool = False):
        self.merge = merge
        self.take = take
        self.exact = exact
        self.stack: list[
            tuple[int, int, Any, bool]
        ] = []  # level, number, array, whether the array is our own

    def push(self, level: int, i: int, array: Any, own: bool = False) -> None:
        """Add the subtree (level, i)."""
        if self.exact and self.stack:
            left = self.stack.pop()
            array, own = self._join(left[2], left[3], array), True
        while self.stack and i % 2 == 1 and self.stack[-1][:2] == (level, i - 1):
            left = self.stack.pop()
            array, own = self._join(left[2], left[3], array), True
            level, i = level + 1, i // 2
        self.stack.append((level, i, array, own))

    @property
    def onto(self) -> Any:
        """What a further leaf may be laid onto, if there is such a thing."""
        return self.stack[0][2] if self.exact and self.stack and self.stack[0][3] else None

    def _join(self, left: Any, own: bool, right: Any) -> Any:
        if self.merge is None:
            return None
        return self.merge(left, right, out=left if own else self.take(left.shape, left.dtype))

    def finish(self) -> Any:
        """The result, when all leaves are there."""
        level, i, array, _ = self.stack.pop()
        while self.stack:
            while i % 2 == 0 or self.stack[-1][0] > level:
                level, i = level + 1, i // 2
                if i % 2 == 1 and self.stack[-1][:2] == (level, i - 1):
                    break
            left = self.stack.pop()
            array = self._join(left[2], left[3], array)
            level, i = level + 1, i // 2
        return array


def tree(what: Sum, take: Take = np.empty, merging: bool = True) -> Tree:
    """An empty tree for one of the sums; without `merging` it tells what would be merged, and when."""
    return Tree(MERGES[what.merge] if merging else None, take, what.merge == "disjoint")


def leaves(what: Sum, shards: range) -> Iterator[tuple[int, int, int]]:
    """For each of the shards: its number, the number of the sum it belongs to, and its place in that sum."""
    for shard in shards:
        kept = leaf = 0
        strides = []
        rest = shard
        for n in reversed(what.counts):
            rest, i = divmod(rest, n)
            strides.append((n, i))
        for (n, i), reduced in zip(reversed(strides), what.reduced, strict=True):
            if reduced:
                leaf = leaf * n + i
            else:
                kept = kept * n + i
        yield shard, kept, leaf


def subtrees(what: Sum, shards: range) -> dict[int, list[tuple[int, int]]]:
    """For each sum that the shards take part in, the (level, number) of the subtrees that they complete, in order."""
    trees: dict[int, Tree] = {}
    grid = tuple(zip(what.counts, what.reduced, strict=True))
    for kept, run in _runs(grid, 0, 0, shards.start, shards.stop):
        made = trees.setdefault(kept, tree(what, merging=False))
        start = run.start
        while start < run.stop:  # the largest subtree that begins here and ends within the run
            level = (run.stop - start).bit_length() - 1
            level = min(level, (start & -start).bit_length() - 1) if start else level
            made.push(level, start >> level, None)
            start += 1 << level
    return {kept: [(level, i) for level, i, _, _ in made.stack] for kept, made in sorted(trees.items())}


def _runs(
    grid: tuple[tuple[int, bool], ...], kept: int, leaf: int, first: int, stop: int
) -> Iterator[tuple[int, range]]:
    """For the shards `first:stop` of a grid the sums that they belong to, each with runs of its leaves, which rise.

    There are few runs, not one for each leaf. `kept` and `leaf` are the numbers along the dimensions before.
    """
    if first >= stop:
        return
    if all(reduced for _, reduced in grid):
        every = math.prod(n for n, _ in grid)
        yield kept, range(leaf * every + first, leaf * every + stop)
        return
    (n, reduced), *rest = grid
    inner = math.prod(m for m, _ in rest)
    sums = math.prod(m for m, r in rest if not r)
    terms = inner // sums

    def inside(i: int, lo: int, hi: int) -> Iterator[tuple[int, range]]:
        at = (kept, leaf * n + i) if reduced else (kept * n + i, leaf)
        return _runs(tuple(rest), *at, lo, hi)

    i, last = -(-first // inner), stop // inner  # those that are taken in full
    if i > last:
        yield from inside(last, first - last * inner, stop - last * inner)
        return
    yield from inside(i - 1, first - (i - 1) * inner, inner) if first < i * inner else ()
    if i < last and reduced:
        for k in range(sums):
            yield kept * sums + k, range((leaf * n + i) * terms, (leaf * n + last) * terms)
    elif i < last:
        for k in range(i * sums, last * sums):
            yield kept * n * sums + k, range(leaf * terms, (leaf + 1) * terms)
    yield from inside(last, 0, stop - last * inner)


def merged(
    what: Sum, pieces: dict[int, list[Sequence[np.ndarray]]], workers: int, kept: int, take: Take = np.empty
) -> np.ndarray:
    """Sum number `kept`, from the arrays that each worker sent for it, in the order of `subtrees`."""
    made = tree(what, take)
    for level, i, array in _ordered(what, pieces, workers, kept):
        made.push(level, i, array)
    return made.finish()


def _ordered(what: Sum, pieces: Any, workers: int, kept: int) -> Iterator[tuple[int, int, np.ndarray]]:
    for worker in range(workers):
        for (level, i), array in zip(
            _subtrees(what, workers, worker).get(kept, ()), pieces[worker], strict=True
        ):
            yield level, i, array


_known_subtrees: Cache[Any, dict[int, list[tuple[int, int]]]] = Cache(
    16 << 20, lambda _, trees: 1000 + sum(200 + 130 * len(made) for made in trees.values()), shared=True
)


def _subtrees(what: Sum, workers: int, worker: int) -> dict[int, list[tuple[int, int]]]:
    key = (what, workers, worker)
    trees = _known_subtrees.get(key)
    if trees is None:
        trees = _known_subtrees.again(key)
    if trees is None:
        trees = subtrees(what, owned(_total(what), workers, worker))
        if what.target is not None:  # each shard is a sum like the whole
            trees = dict.fromkeys(range(what.target.count), trees[0]) if trees else {}
        _known_subtrees.keep(key, trees)
    return trees


def _total(what: Sum) -> int:
    total = 1
    for n in what.counts:
        total *= n
    return total


def sums_sent(what: Sum, workers: int, worker: int, to: range) -> list[tuple[int, int]]:
    """What `worker` sends of the sums `to`: (sum, number of arrays), in order."""
    return [(kept, len(trees)) for kept, trees in _subtrees(what, workers, worker).items() if kept in to]


def overlaps(move: Move, sources: range, targets: range) -> Iterator[tuple[int, int, Region]]:
    """The pieces that go from the source shards to the target shards: (source, target, region of that), in order."""
    for source in move.sources(sources):
        there = tuple([move.seen(d, *bounds) for d, bounds in enumerate(move.source.cell(source))])
        if any(lo >= hi for lo, hi in there):
            continue
        for target in move.target.overlapping(there, targets):
            region = tuple(
                (max(a, c), min(b, d)) for (a, b), (c, d) in zip(there, move.target.cell(target), strict=True)
            )
            if all(lo < hi for lo, hi in region):
                yield source, target, region


class Joined:
    """A shard left in the pieces that it came in, side by side along `dim`, to be read tile by tile along that.

    A tile inside of a piece is a view of it; one across a border is put together in memory that `take` gives. So what
    moves to a neighbour's cuts, of which most stays where it is, is not copied.
    """

    __slots__ = ("dim", "ends", "own", "pieces", "take")

    def __init__(self, pieces: Sequence[np.ndarray], dim: int, take: Take, own: int | None = None):
        self.pieces = pieces
        self.own = own  # which of the pieces is all of the shard that lay here before
        self.dim = dim
        self.take = take
        self.ends = list(accumulate(piece.shape[dim] for piece in pieces))

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        before, (start, stop) = index[: self.dim], (index[self.dim].start, index[self.dim].stop)
        first, last = bisect_right(self.ends, start), bisect_left(self.ends, stop)
        first = min(first, len(self.ends) - 1)
        parts = []
        for piece, end in zip(self.pieces[first : last + 1], self.ends[first : last + 1], strict=True):
            lo = end - piece.shape[self.dim]
            parts.append(piece[(*before, slice(max(0, start - lo), stop - lo), *index[self.dim + 1 :])])
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[self.dim] = stop - start
        return np.concatenate(parts, self.dim, out=self.take(tuple(shape), parts[0].dtype))

    def whole(self) -> np.ndarray:
        """All pieces as one array."""
        return self[(*[slice(None)] * self.dim, slice(0, self.ends[-1]))]

    def settle(self) -> None:
        """Copy all but the shard that lay here before: the others are parts of what arrived, or of other shards."""
        self.pieces = [piece if n == self.own else piece.copy() for n, piece in enumerate(self.pieces)]


def senders(sharding: Sharding, workers: int, worker: int) -> range:
    """The shards that `worker` speaks for: a whole value lies on every worker, but one alone sends it."""
    return owned(sharding.count, workers, worker)


def held(count: int, workers: int, worker: int) -> range:
    """The shards of a value that `worker` has: its own range, or the one shard of a whole value."""
    return range(1) if count == 1 else owned(count, workers, worker)


def inside(region: Region, cell: Region) -> tuple[slice, ...]:
    """Where `region` lies in the piece that covers `cell`."""
    return tuple(slice(lo - a, hi - a) for (lo, hi), (a, _) in zip(region, cell, strict=True))
