"""Where a tensor's elements would lie in the memory of one process: arithmetic on strides, with no array behind it."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

Ints = tuple[int, ...]

LOOKED_AT = 1 << 18  # elements


class Strided(NamedTuple):
    """Element `index` lies at `offset + sum(index * strides)`, counted in elements of the storage.

    The methods give the same views as torch's ops of these names, with the same strides.
    """

    shape: Ints
    strides: Ints
    offset: int = 0

    @classmethod
    def contiguous(cls, shape: Ints) -> Strided:
        """C order."""
        strides, n = [], 1
        for size in reversed(shape):
            strides.append(n)
            n *= max(size, 1)
        return cls(shape, tuple(reversed(strides)))

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in C order without gaps."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1:
                if stride != expected and 0 not in self.shape:
                    return False
                expected *= size
        return True

    @property
    def overlaps(self) -> bool:
        """Whether an element is seen several times, or may be (see `_repeats`)."""
        span = 0
        for stride, n in sorted(zip(self.strides, self.shape, strict=True)):
            if n > 1:
                if stride <= span:
                    return 0 not in self.shape and _repeats(self.shape, self.strides)
                span += (n - 1) * stride
        return False

    @property
    def span(self) -> tuple[int, int] | None:
        """First and last-plus-one element, if the elements fill all between, each seen once; else None."""
        n = 1
        for stride, size in sorted(
            (stride, size) for size, stride in zip(self.shape, self.strides, strict=True) if size != 1
        ):
            if stride != n:
                return None
            n *= size
        return self.offset, self.offset + n

    def meets(self, other: Strided) -> bool:
        """Whether the two are runs of one storage that have elements in common, but are not the same."""
        a, b = self.span, other.span
        if a is None or b is None or a[0] == a[1] or b[0] == b[1]:
            return False
        return self.strides != other.strides if a == b else a[0] < b[1] and b[0] < a[1]

    def permute(self, dims: Ints) -> Strided:
        """Dimension `dims[i]` becomes dimension i."""
        return Strided(tuple(self.shape[d] for d in dims), tuple(self.strides[d] for d in dims), self.offset)

    def slice(self, slices: tuple[tuple[int, int, int], ...]) -> Strided:
        """The elements `start + i * step`, for i below `length`, for the (start, length, step) of each dimension."""
        return Strided(
            tuple(length for _, length, _ in slices),
            tuple(stride * step for stride, (_, _, step) in zip(self.strides, slices, strict=True)),
            self.offset + sum(stride * s[0] for stride, s in zip(self.strides, slices, strict=True)),
        )

    def squeeze(self, dims: Ints) -> Strided:
        """Without the dimensions `dims`."""
        kept = [d for d in range(len(self.shape)) if d not in dims]
        return self.permute(tuple(kept))

    def unsqueeze(self, dim: int) -> Strided:
        """A new dimension of length 1 at position `dim` of the result."""
        new = self.shape[dim] * self.strides[dim] if dim < len(self.shape) else 1
        return Strided(
            (*self.shape[:dim], 1, *self.shape[dim:]),
            (*self.strides[:dim], new, *self.strides[dim:]),
            self.offset,
        )

    def expand(self, shape: Ints) -> Strided:
        """New dimensions in front, then those of length 1 repeated."""
        if not self.shape:
            return Strided(shape, (0,) * len(shape), self.offset)
        more = len(shape) - len(self.shape)
        pairs = zip(self.strides, self.shape, shape[more:], strict=True)
        wide = Strided(
            shape[more:], tuple(0 if old != new else stride for stride, old, new in pairs), self.offset
        )
        for n in reversed(shape[:more]):
            wide = wide.unsqueeze(0)
            wide = Strided(
                (n, *wide.shape[1:]), (wide.strides[0] if n == 1 else 0, *wide.strides[1:]), self.offset
            )
        return wide

    def diagonal(self, offset: int, a: int, b: int) -> Strided:
        """Where the position in dimension b is that in a plus `offset`; it becomes the last dimension."""
        rest = self.squeeze((a, b))
        row, column, length = diagonal_of(self.shape[a], self.shape[b], offset)
        start = row * self.strides[a] + column * self.strides[b]
        return Strided(
            (*rest.shape, length),
            (*rest.strides, self.strides[a] + self.strides[b]),
            self.offset + (start if length else 0),
        )

    def reshape(self, shape: Ints) -> Strided | None:
        """The elements in C order in another shape with as many; None where no strides give that."""
        if 0 in self.shape:
            return self if shape == self.shape else Strided.contiguous(shape)._replace(offset=self.offset)
        strides = [1] * len(shape)
        d = len(shape) - 1
        for base, n in self._runs():
            filled = 1
            while d >= 0 and (filled < n or shape[d] == 1):
                strides[d] = filled * base
                filled *= shape[d]
                d -= 1
            if filled != n:
                return None
        return Strided(shape, tuple(strides), self.offset) if d < 0 or not self.shape else None

    def _runs(self) -> list[tuple[int, int]]:
        """From the last to the first: (stride, elements) of the runs of dimensions that are like one dimension."""
        runs, n = [], 1
        base = self.strides[-1] if self.strides else 1
        for d in range(len(self.shape) - 1, -1, -1):
            n *= self.shape[d]
            if d == 0 or (self.shape[d - 1] != 1 and self.strides[d - 1] != n * base):
                runs.append((base, n))
                base, n = self.strides[d - 1], 1
        return runs


@lru_cache(maxsize=256)
def _repeats(shape: Ints, strides: Ints) -> bool:
    """Whether two elements lie at one place.

    What is too large to be looked at in full is said to: that is not so of two dimensions, nor where two alone repeat.
    """
    dims = sorted((stride, n) for stride, n in zip(strides, shape, strict=True) if n > 1)
    while len(dims) > 1 and dims[-1][0] > sum((n - 1) * stride for stride, n in dims[:-1]):
        dims = dims[:-1]  # beyond what the others span
    if len(dims) < 2:
        return bool(dims) and not dims[0][0]
    for (a, n), (b, m) in itertools.combinations(dims, 2):
        if not a or (b // math.gcd(a, b) < n and a // math.gcd(a, b) < m):  # a * (b / gcd) = b * (a / gcd)
            return True
    if len(dims) == 2:
        return False
    if math.prod(n for _, n in dims) > LOOKED_AT:
        return True
    places = np.zeros(1, np.int64)
    for stride, n in dims:
        places = np.add.outer(places, stride * np.arange(n)).reshape(-1)
    return len(np.unique(places)) < len(places)


def diagonal_of(rows: int, columns: int, offset: int) -> Ints:
    """Row and column where a diagonal begins, and its length."""
    row, column = max(0, -offset), max(0, offset)
    return row, column, max(0, min(rows - row, columns - column))


def diagonal_slice(rows: int, columns: int, offset: int) -> tuple[int, int, int]:
    """A diagonal as (start, length, step) of the flattened matrix."""
    row, column, length = diagonal_of(rows, columns, offset)
    return (row * columns + column if length else 0, length, columns + 1)


def numel(shape: Ints) -> int:
    """Number of elements."""
    return math.prod(shape)
