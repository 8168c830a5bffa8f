"""How a tensor is cut: `Sharding`, a value made of a shape and the cut points along each dimension.

A shard is one cell of the grid that the cuts make. Shards are numbered in C order, and a worker owns a
contiguous range of the numbers. Nothing here depends on the number of workers, so neither do the bits of a
result (promise P2).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

Bounds = tuple[int, int]
Region = tuple[Bounds, ...]

MIN_ROWS = 256  # a shard with fewer rows than this is cut along the columns too
DEFAULT_SHARD_BYTES = 4 << 20


@dataclass(frozen=True)
class Cut:
    """The cut points of one dimension: every `step` elements, or at the explicit `points` (0 and `size` included).

    Equal cuts compare equal: points that lie `step` apart are kept as a step. Shards may be empty.
    """

    size: int
    step: int = 0
    points: tuple[int, ...] | None = None

    @staticmethod
    def even(size: int, step: int) -> Cut:
        """Cut `size` elements every `step`; the last piece is shorter where it does not divide."""
        return Cut(size, step if 0 < step < size else 0)

    @staticmethod
    def at(size: int, points: Sequence[int]) -> Cut:
        """Cut at `points`, which rise from 0 to `size`; a point given twice makes an empty shard."""
        points = tuple(int(p) for p in points)
        if len(points) < 2 or points[0] != 0 or points[-1] != size or any(a > b for a, b in pairwise(points)):
            raise ValueError(f"cut points must rise from 0 to {size}, got {points}")
        if len(points) == 2:
            return Cut(size)
        step = points[1]
        if step > 0 and len(points) == -(-size // step) + 1 and points == (*range(0, size, step), size):
            return Cut(size, step)
        return Cut(size, 0, points)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # the points may be thousands, and are looked up again and again
        return hash((self.size, self.step, self.points or ()))

    @property
    def count(self) -> int:
        """How many pieces there are; at least one."""
        if self.points is not None:
            return len(self.points) - 1
        return -(-self.size // self.step) if self.step else 1

    def bounds(self, i: int) -> Bounds:
        """First and last-plus-one element of piece `i`."""
        if self.points is not None:
            return self.points[i], self.points[i + 1]
        if not self.step:
            return 0, self.size
        return i * self.step, min(self.size, (i + 1) * self.step)

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """All cut points, 0 and `size` included."""
        if self.points is not None:
            return self.points
        return (*range(0, self.size, self.step), self.size) if self.step else (0, self.size)

    @property
    def longest(self) -> int:
        """Length of the longest piece."""
        if self.points is not None:
            return max(b - a for a, b in pairwise(self.points))
        return self.step or self.size

    def overlapping(self, lo: int, hi: int) -> range:
        """The numbers of the pieces that share elements with `lo:hi`; empty pieces inside are among them."""
        if hi <= lo:
            return range(0)
        if self.points is None:
            return range(lo // self.step, (hi - 1) // self.step + 1) if self.step else range(1)
        return range(bisect_right(self.points, lo) - 1, bisect_right(self.points, hi - 1))

    def scaled(self, factor: int) -> Cut:
        """The same cut of a dimension in which each element has become `factor` elements."""
        if self.points is None and factor:
            return Cut(self.size * factor, self.step * factor)
        return Cut.at(self.size * factor, [p * factor for p in self.edges])

    def divided(self, factor: int) -> Cut | None:
        """The cut of the dimension whose elements are runs of `factor` elements here; None if a cut splits a run."""
        if factor == 0 or self.size % factor:
            return None
        if self.points is None:
            return None if self.step % factor else Cut(self.size // factor, self.step // factor)
        if any(p % factor for p in self.points):
            return None
        return Cut.at(self.size // factor, [p // factor for p in self.points])

    def sliced(self, start: int, length: int, step: int) -> Cut:
        """The cut that `start : start + length*step : step` inherits (`step` positive); pieces may be empty."""
        if self.count == 1:
            return Cut(length)
        return Cut.at(
            length, [min(length, max(0, -(-(p - start) // step))) for p in self.edges[:-1]] + [length]
        )

    def wire(self) -> list[int]:
        """As a list of integers: `[size, step]` or `[size, -1, *points]`."""
        return [self.size, self.step] if self.points is None else [self.size, -1, *self.points]


@dataclass(frozen=True)
class Sharding:
    """How a tensor is cut: one `Cut` for each dimension. Two shardings with the same shape and cuts are equal."""

    cuts: tuple[Cut, ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.cuts)

    @staticmethod
    def whole(shape: Sequence[int]) -> Sharding:
        """One shard."""
        return _whole(tuple(shape))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(cut.size for cut in self.cuts)

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Number of pieces along each dimension."""
        return tuple(cut.count for cut in self.cuts)

    @cached_property
    def count(self) -> int:
        """Number of shards; at least one."""
        return math.prod(self.grid)

    def cell(self, number: int) -> Region:
        """The region of shard `number`: a pair of bounds for each dimension."""
        region = []
        for cut, n in zip(reversed(self.cuts), reversed(self.grid), strict=True):
            number, i = divmod(number, n)
            region.append(cut.bounds(i))
        return tuple(reversed(region))

    def overlapping(self, region: Region) -> Iterator[int]:
        """Numbers of the shards that share elements with `region`, rising."""
        numbers = [0]
        for cut, n, (lo, hi) in zip(self.cuts, self.grid, region, strict=True):
            numbers = [base * n + i for base in numbers for i in cut.overlapping(lo, hi)]
        return iter(numbers)

    @cached_property
    def largest(self) -> int:
        """Number of elements of the largest shard."""
        return math.prod(cut.longest for cut in self.cuts)

    @cached_property
    def cut_dims(self) -> tuple[int, ...]:
        """The dimensions that are cut in more than one piece."""
        return tuple(d for d, n in enumerate(self.grid) if n > 1)

    def wire(self) -> list[list[int]]:
        """As lists of integers, for a program."""
        return [cut.wire() for cut in self.cuts]

    def __repr__(self) -> str:
        cuts = ", ".join(f"{d}: {_points_text(self.cuts[d])}" for d in self.cut_dims)
        return f"Sharding(shape={self.shape}, shards={self.count}, cuts={{{cuts}}})"


def _points_text(cut: Cut) -> str:
    return f"every {cut.step}" if cut.points is None else str(list(cut.points))


@lru_cache(maxsize=4096)
def _whole(shape: tuple[int, ...]) -> Sharding:
    return Sharding(tuple(Cut(n) for n in shape))


@lru_cache(maxsize=4096)
def default_sharding(shape: tuple[int, ...], itemsize: int, shard_bytes: int) -> Sharding:
    """The cuts that follow from shape and element size alone.

    Dimension 0 is cut (the first that is longer than one element) so that a shard holds about `shard_bytes`. Where
    fewer than `MIN_ROWS` rows would be left of a tensor that is long in a further dimension too, that is cut as well.
    """
    cuts = [Cut(n) for n in shape]
    room = max(1, shard_bytes // itemsize)
    for d, n in enumerate(shape):
        row = math.prod(shape[d + 1 :])
        if n * row <= room or row == 0:
            break
        if n == 1:
            continue
        rows = room // row
        if rows >= MIN_ROWS or n < MIN_ROWS or max(shape[d + 1 :], default=1) < MIN_ROWS:
            cuts[d] = Cut.even(n, max(1, rows))
            break
        cuts[d] = Cut.even(n, MIN_ROWS)
        room = max(1, room // MIN_ROWS)
    return Sharding(tuple(cuts))


def sharding_of(
    shape: tuple[int, ...], cuts: Sharding | int | Sequence[int] | dict[int, int | Sequence[int]]
) -> Sharding:
    """A sharding from what a user writes.

    `cuts` is a `Sharding` of the same shape, the length of a piece along dimension 0, a list of cut points along
    dimension 0 (0 and the size may be left out), or a dict from dimension to either of the two.
    """
    if isinstance(cuts, Sharding):
        if cuts.shape != shape:
            raise ValueError(f"sharding is for shape {list(cuts.shape)}, the tensor has shape {list(shape)}")
        return cuts
    if not isinstance(cuts, dict):
        cuts = {0: cuts} if shape else {}
    result = [Cut(n) for n in shape]
    for dim, how in cuts.items():
        d = dim + len(shape) if dim < 0 else dim
        if not 0 <= d < len(shape):
            raise IndexError(
                f"Dimension out of range (expected to be in range of [{-len(shape)}, {len(shape) - 1}], but got {dim})"
            )
        if isinstance(how, int):
            if how < 1:
                raise ValueError(f"a piece must be at least one element long, got {how}")
            result[d] = Cut.even(shape[d], how)
        else:
            points = [int(p) for p in how]
            points = points if points[:1] == [0] else [0, *points]
            points = points if points[-1] == shape[d] and len(points) > 1 else [*points, shape[d]]
            result[d] = Cut.at(shape[d], points)
    return Sharding(tuple(result))


def owned(count: int, workers: int, worker: int) -> range:
    """The contiguous range of shard numbers, of `count`, that `worker` of `workers` owns."""
    return range(worker * count // workers, (worker + 1) * count // workers)


def owner(count: int, workers: int, shard: int) -> int:
    """The worker that owns `shard`: the inverse of `owned`."""
    return ((shard + 1) * workers - 1) // count


def sharding_from_wire(cuts: Sequence[Sequence[int]]) -> Sharding:
    """Read back what `Sharding.wire` wrote. Raises ValueError for anything that it cannot have written."""
    return Sharding(tuple(_cut_from_wire(c) for c in cuts))


def _cut_from_wire(c: Sequence[int]) -> Cut:
    if len(c) < 2 or any(type(i) is not int for i in c) or c[0] < 0:
        raise ValueError(f"not a cut: {c!r}")
    if c[1] == -1:
        return Cut.at(c[0], c[2:])
    if len(c) != 2 or c[1] < 0 or (c[1] and c[1] >= c[0]):
        raise ValueError(f"not a cut: {c!r}")
    return Cut(c[0], c[1])
