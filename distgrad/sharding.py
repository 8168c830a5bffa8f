"""How a tensor is cut: `Sharding`, a value made of a shape and the cut points along each dimension.

A shard is one cell of the grid that the cuts make. Shards are numbered in C order, and a worker owns a
contiguous range of the numbers. Nothing here depends on the number of workers, so neither do the bits of a
result (promise P2).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from distgrad.caching import Cache, remembered

Bounds = tuple[int, int]
Region = tuple[Bounds, ...]
NARROW = 32  # a halo that can be kept beside a shard has at most 1/32 of its length


@dataclass(frozen=True)
class Cut:
    """The cut points of one dimension: regular ones, or the explicit `points` (0 and `size` included).

    Regular cut points are `i * step - offset` for i = 0, 1 ... `count`; what lies outside of the dimension is moved to
    its end, so that pieces there are empty. So `x[1:]` of an evenly cut x takes no more room than x. A step of 0 means
    one piece. Equal cuts compare equal: points that are regular are kept as such, and in one way only.

    Pieces of a regular cut may overlap: each then holds the first `overlap` elements of what comes after it too. Only
    the planner makes such cuts, for stencils, whose pieces need some of their neighbours' elements.
    """

    size: int
    step: int = 0
    points: tuple[int, ...] | None = None
    offset: int = 0
    count: int = 1  # how many pieces there are
    overlap: int = 0

    @staticmethod
    def even(size: int, step: int) -> Cut:
        """Cut `size` elements every `step`; the last piece is shorter where it does not divide."""
        return Cut(size, step, count=-(-size // step)) if 0 < step < size else Cut(size)

    @staticmethod
    def at(size: int, points: Sequence[int]) -> Cut:
        """Cut at `points`, which rise from 0 to `size`; a point given twice makes an empty shard."""
        points = tuple(int(p) for p in points)
        if len(points) < 2 or points[0] != 0 or points[-1] != size or any(a > b for a, b in pairwise(points)):
            raise ValueError(f"cut points must rise from 0 to {size}, got {points}")
        count = len(points) - 1
        first = bisect_right(points, 0)
        inner = points[first : bisect_left(points, size)]
        steps = {b - a for a, b in pairwise(inner)}
        step = steps.pop() if steps else max(inner[0], size - inner[0]) if inner else size
        if steps or (inner and step < max(inner[0], size - inner[-1])):
            return Cut(size, 0, points, 0, count)
        return Cut.regular(size, step, first * step - points[first] if size else 0, count)

    @staticmethod
    def regular(size: int, step: int, offset: int, count: int, overlap: int = 0) -> Cut:
        """Cut at `i * step - offset` for i = 0, 1 ... `count`: the first is not behind 0, the last not before `size`.

        The numbers may be others than those given, where they make the same pieces.
        """
        if count == 1:
            return Cut(size)
        if size == 0:
            return Cut(0, 1, None, 0, count)
        if overlap:
            return Cut(size, step, None, offset, count, overlap)
        first, last = offset // step + 1, (size + offset - 1) // step  # the points that lie inside
        if first >= last:
            inner = first * step - offset
            step = max(inner, size - inner) if first == last else size
            offset = first * step - (inner if first == last else size)
        return Cut(size, step, None, offset, count)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # the points may be thousands, and are looked up again and again
        return hash((self.size, self.step, self.offset, self.count, self.overlap, self.points or ()))

    @property
    def is_even(self) -> bool:
        """Whether there is a cut every `step` elements from 0, and no empty piece."""
        usual = -(-self.size // self.step) if self.step else 1
        return self.points is None and self.offset == self.overlap == 0 and self.count == usual

    @property
    def pace(self) -> Cut | tuple[int, int]:
        """What a regular cut has in common with those that are shifted or overlap more: step and count of pieces."""
        return (self.step, self.count) if self.points is None and self.count > 1 else self

    def covers(self, other: Cut) -> bool:
        """Whether every piece holds all of the piece of `other` with its number."""
        if self.pace != other.pace or self.size != other.size:
            return self == other
        return self.offset >= other.offset and self.overlap - self.offset >= other.overlap - other.offset

    def bounds(self, i: int) -> Bounds:
        """First and last-plus-one element of piece `i`."""
        if self.points is not None:
            return self.points[i], self.points[i + 1]
        if not self.step:
            return 0, self.size
        lo = i * self.step - self.offset
        return min(self.size, max(0, lo)), min(self.size, max(0, lo + self.step + self.overlap))

    def part(self, start: int, stop: int) -> Bounds:
        """The elements that stand for `start:stop` of a dimension with this pace, in which nothing is shifted."""
        lo = start - self.offset
        return min(self.size, max(0, lo)), min(self.size, max(0, stop - self.offset + self.overlap))

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """All cut points, 0 and `size` included; of pieces that overlap their ends."""
        if self.points is not None:
            return self.points
        return (0, *(self.bounds(i)[1] for i in range(self.count)))

    @property
    def longest(self) -> int:
        """Length of the longest piece."""
        if self.points is not None:
            return max(b - a for a, b in pairwise(self.points))
        return min(self.step + self.overlap or self.size, self.size)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Length of each piece."""
        return tuple(hi - lo for lo, hi in map(self.bounds, range(self.count)))

    def overlapping(self, lo: int, hi: int) -> range:
        """The numbers of the pieces that share elements with `lo:hi`; empty pieces inside are among them."""
        if hi <= lo:
            return range(0)
        if self.points is None:
            step = self.step or self.size
            first = max(0, (lo + self.offset - self.overlap) // step)
            return range(first, min(self.count, (hi - 1 + self.offset) // step + 1))
        return range(bisect_right(self.points, lo) - 1, bisect_right(self.points, hi - 1))

    def scaled(self, factor: int) -> Cut:
        """The same cut of a dimension in which each element has become `factor` elements."""
        if self.points is None:
            return Cut.regular(self.size * factor, self.step * factor, self.offset * factor, self.count)
        return Cut.at(self.size * factor, [p * factor for p in self.points])

    def divided(self, factor: int) -> Cut | None:
        """The cut of the dimension whose elements are runs of `factor` elements here; None if a cut splits a run."""
        if factor == 0 or self.size % factor:
            return None
        if self.size == 0:
            return self
        if self.points is None:
            if self.step % factor or self.offset % factor:
                return None
            return Cut.regular(self.size // factor, self.step // factor, self.offset // factor, self.count)
        if any(p % factor for p in self.points):
            return None
        return Cut.at(self.size // factor, [p // factor for p in self.points])

    def sliced(self, start: int, length: int, step: int) -> Cut:
        """The cut that `start : start + length*step : step` inherits (`step` positive); pieces may be empty."""
        if self.points is None and self.step % step == 0:
            return Cut.regular(length, self.step // step, (self.offset + start) // step, self.count)
        return Cut.at(
            length, [min(length, max(0, -(-(p - start) // step))) for p in self.edges[:-1]] + [length]
        )

    def unshifted(self) -> Cut:
        """The regular cut with the same step and as many pieces, of which the first begins at 0."""
        return Cut.regular(self.size, self.step, 0, self.count)

    def wire(self) -> list[int]:
        """As a list of integers: `[size, step]`, `[size, step, offset, count, ?overlap]` or `[size, -1, *points]`."""
        if self.points is not None:
            return [self.size, -1, *self.points]
        if self.is_even:
            return [self.size, self.step]
        return [self.size, self.step, self.offset, self.count, *([self.overlap] if self.overlap else [])]


@dataclass(frozen=True)
class Sharding:
    """How a tensor is cut: one `Cut` for each dimension. Two shardings with the same shape and cuts are equal."""

    cuts: tuple[Cut, ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.cuts)

    @property
    def weight(self) -> int:
        """Bytes that it takes itself, about, with what is worked out of it."""
        return 600 + sum(500 + 80 * len(cut.points or ()) for cut in self.cuts)

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

    def overlapping(self, region: Region, among: range | None = None) -> Iterator[int]:
        """Numbers of the shards that share elements with `region`, rising; only those `among` a range."""
        numbers, each = [0] if among is None or among else [], self.count
        for cut, n, (lo, hi) in zip(self.cuts, self.grid, region, strict=True):
            each //= n
            there, before = cut.overlapping(lo, hi), numbers
            numbers = []
            for base in before:
                first, stop = there.start, there.stop
                if among is not None:
                    first = max(first, among.start // each - base * n)
                    stop = min(stop, -(-among.stop // each) - base * n)
                numbers.extend(range(base * n + first, base * n + stop))
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

    def covers(self, other: Sharding) -> bool:
        """Whether every shard holds all of the shard of `other` with its number."""
        return all(a.covers(b) for a, b in zip(self.cuts, other.cuts, strict=True))

    def halo_dim(self, other: Sharding) -> int | None:
        """The one dimension along which every shard is that of `other` and a narrow halo; None if it is not."""
        changed = [d for d, (a, b) in enumerate(zip(self.cuts, other.cuts, strict=True)) if a != b]
        if len(changed) != 1 or not self.covers(other):
            return None
        cut = self.cuts[changed[0]]
        return changed[0] if cut.overlap * NARROW <= cut.step else None

    def __repr__(self) -> str:
        cuts = ", ".join(f"{d}: {_points_text(self.cuts[d])}" for d in self.cut_dims)
        return f"Sharding(shape={self.shape}, shards={self.count}, cuts={{{cuts}}})"


def everything(shape: tuple[int, ...]) -> Region:
    """The region that is all of an array with this shape."""
    return tuple((0, n) for n in shape)


def extent(region: Region) -> tuple[int, ...]:
    """The length of each dimension."""
    return tuple([hi - lo for lo, hi in region])


def _points_text(cut: Cut) -> str:
    if cut.points is not None:
        return str(list(cut.points))
    more = f", {cut.overlap} elements further" if cut.overlap else ""
    return f"every {cut.step}" + ("" if cut.is_even else f" from {-cut.offset}, {cut.count} pieces{more}")


@remembered(4 << 20, lambda _, made: made.weight)
def _whole(shape: tuple[int, ...]) -> Sharding:
    return Sharding(tuple(Cut(n) for n in shape))


def owned(count: int, workers: int, worker: int) -> range:
    """The contiguous range of shard numbers, of `count`, that `worker` of `workers` owns."""
    return range(worker * count // workers, (worker + 1) * count // workers)


def owner(count: int, workers: int, shard: int) -> int:
    """The worker that owns `shard`: the inverse of `owned`."""
    return ((shard + 1) * workers - 1) // count


# Of a program's values many are cut alike, and what is worked out of their cuts is kept with these.
_known: Cache[Sharding, Sharding] = Cache(8 << 20, lambda _, made: made.weight, shared=True)


def sharding_from_wire(cuts: Sequence[Sequence[int]]) -> Sharding:
    """Read back what `Sharding.wire` wrote. Raises ValueError for anything that it cannot have written."""
    made = Sharding(tuple(_cut_from_wire(c) for c in cuts))
    return _known.get(made) or _known.again(made) or _known.keep(made, made)


def _cut_from_wire(c: Sequence[int]) -> Cut:
    if len(c) < 2 or any(type(i) is not int for i in c) or c[0] < 0:
        raise ValueError(f"not a cut: {c!r}")
    size, step, *rest = c
    if step == -1:
        return Cut.at(size, rest)
    if not rest and step >= 0 and (not step or step < size):
        return Cut.even(size, step)
    overlapping = (
        len(rest) == 3 and 0 < rest[2] <= step and rest[0] >= 0 < size <= rest[1] * step - rest[0] + rest[2]
    )
    shifted = len(rest) == 2 and step > 0 <= rest[0] and rest[1] > 1 and rest[1] * step - rest[0] >= size
    if overlapping or shifted:
        cut = Cut.regular(size, step, *rest)
        if cut.wire() == list(c):
            return cut
    raise ValueError(f"not a cut: {c!r}")
