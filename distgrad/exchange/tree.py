"""The fixed tree in which partial results are merged: the same additions however the leaves are spread.

Partial results lie on a grid, of which some dimensions are reduced. Of each sum they are the leaves of one binary tree,
in C order. A worker merges the complete subtrees of its contiguous range and sends those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Take = Callable[[tuple[int, ...], np.dtype], np.ndarray]
Axes = tuple[tuple[int, bool], ...]  # of each dimension: its length, and whether it is reduced


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


class Counting(Tree):
    """Counts the arrays that are taken to merge others; a node says whether it lies in one of these."""

    now = most = 0

    def _join(self, left: Any, own: bool, right: Any) -> Any:
        self.now += not own
        self.most = max(self.most, self.now)
        self.now -= bool(right)
        return True


def leaves(axes: Axes, shards: range) -> Iterator[tuple[int, int, int]]:
    """For each of the shards: its number, the number of the sum it belongs to, and its place in that sum."""
    for shard in shards:
        kept = leaf = 0
        strides = []
        rest = shard
        for n, _ in reversed(axes):
            rest, i = divmod(rest, n)
            strides.append((n, i))
        for (n, i), (_, reduced) in zip(reversed(strides), axes, strict=True):
            if reduced:
                leaf = leaf * n + i
            else:
                kept = kept * n + i
        yield shard, kept, leaf


def subtrees(axes: Axes, shards: range, exact: bool = False) -> dict[int, list[tuple[int, int]]]:
    """For each sum that the shards take part in, the (level, number) of the subtrees that they complete, in order."""
    trees: dict[int, Tree] = {}
    for kept, run in runs(axes, 0, 0, shards.start, shards.stop):
        made = trees.setdefault(kept, Tree(None, exact=exact))
        start = run.start
        while start < run.stop:  # the largest subtree that begins here and ends within the run
            level = (run.stop - start).bit_length() - 1
            level = min(level, (start & -start).bit_length() - 1) if start else level
            made.push(level, start >> level, None)
            start += 1 << level
    return {kept: [(level, i) for level, i, _, _ in made.stack] for kept, made in sorted(trees.items())}


def runs(axes: Axes, kept: int, leaf: int, first: int, stop: int) -> Iterator[tuple[int, range]]:
    """For the shards `first:stop` of a grid the sums that they belong to, each with runs of its leaves, which rise.

    There are few runs, not one for each leaf. `kept` and `leaf` are the numbers along the dimensions before.
    """
    if first >= stop:
        return
    if all(reduced for _, reduced in axes):
        every = math.prod(n for n, _ in axes)
        yield kept, range(leaf * every + first, leaf * every + stop)
        return
    (n, reduced), *rest = axes
    inner = math.prod(m for m, _ in rest)
    sums = math.prod(m for m, r in rest if not r)
    terms = inner // sums

    def inside(i: int, lo: int, hi: int) -> Iterator[tuple[int, range]]:
        at = (kept, leaf * n + i) if reduced else (kept * n + i, leaf)
        return runs(tuple(rest), *at, lo, hi)

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
