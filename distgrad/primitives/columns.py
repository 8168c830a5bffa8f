"""The matrix of windows of a convolution, block by block.

A block of x is first laid out by phases: positions that are equal modulo the stride lie together. Then what offset k
reads is one run of memory for each channel and sample, copied at the speed of memory, with a few columns between the
rows of an image that nobody needs. Where these are too many, only windows are copied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

Ints = tuple[int, ...]

BLOCK = 1 << 20  # bytes of the matrix of windows
COLUMNS = 256  # of that matrix, at least: fewer do not keep BLAS busy
WASTE = 12  # rows of w times the share of columns that nobody needs, from which on windows are copied


class Grid(NamedTuple):
    """The offsets of a kernel that read one phase: every `step`-th from `first` on, along each dimension."""

    first: Ints
    step: Ints
    at: Ints  # how many strides the first is from that of the kernel
    apart: Ints  # how many strides are between two


class Taps(NamedTuple):
    """Where the offsets of a kernel read, in a block of x by phases."""

    reach: Ints  # how far the last offset is from the first, in strides
    phases: tuple[Ints, ...]  # those that are read
    taps: tuple[
        tuple[int, Ints], ...
    ]  # for each offset the number of its phase, and how many strides it is from the first
    grids: tuple[Grid, ...]  # the offsets of each phase


@lru_cache(maxsize=256)
def _taps(kernel: Ints, stride: Ints, dilation: Ints) -> Taps:
    phases: dict[Ints, int] = {}
    taps = []
    for k in itertools.product(*map(range, kernel)):
        at = [divmod(i * d, s) for i, d, s in zip(k, dilation, stride, strict=True)]
        taps.append((phases.setdefault(tuple(r for _, r in at), len(phases)), tuple(q for q, _ in at)))
    reach = tuple((n - 1) * d // s for n, d, s in zip(kernel, dilation, stride, strict=True))
    step = tuple(s // math.gcd(s, d) for s, d in zip(stride, dilation, strict=True))
    apart = tuple(n * d // s for n, d, s in zip(step, dilation, stride, strict=True))
    grids: dict[int, Grid] = {}
    for k, (phase, first) in zip(itertools.product(*map(range, kernel)), taps, strict=True):
        grids.setdefault(phase, Grid(k, step, first, apart))
    return Taps(reach, tuple(phases), tuple(taps), tuple(grids[n] for n in range(len(phases))))


class Window:
    """The matrix of windows of one block: samples, groups and a range of the first spatial dimension of y."""

    def __init__(
        self, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, size: Ints, rows: int
    ) -> None:
        self.reach, self.phases, self.taps, self.grids = _taps(kernel, stride, dilation)
        self.stride, self.padding, self.kernel = stride, padding, kernel
        self.rows, self.inner = size[0], size[1:]  # of y
        self.wide = tuple(
            n + r for n, r in zip(self.inner, self.reach[1:], strict=True)
        )  # the same in the block of x
        over = math.prod(self.wide) - math.prod(self.inner)
        self.runs = rows * over < WASTE * max(1, math.prod(self.inner))
        self.pitch = self.wide if self.runs else self.inner
        self.plain = len(self.taps) == 1 and not over  # the matrix is the block itself

    def exactly(self) -> None:
        """Copy windows only: no number that does not belong to a window is multiplied, were it by zero."""
        self.runs, self.pitch = False, self.inner

    def empty(self, groups: int, channels: int, samples: int, rows: int, dtype: np.dtype) -> np.ndarray:
        """A block of x by phases: (group, channel, phase, sample, *spatial)."""
        first = rows + self.reach[0] + any(self.reach[1:])  # a run may end in the row behind the last
        return np.empty((groups, channels, len(self.phases), samples, first, *self.wide), dtype)

    def parts(
        self, block: np.ndarray, x: np.ndarray, start: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
        """For each phase what of the block stands in x (n, g, c, *spatial), where, and whether that is all of it."""
        for number, phase in enumerate(self.phases):
            there: list[slice] = []
            here: list[slice] = []
            full = True
            firsts = (start, *[0] * len(self.inner))
            for n, q, s, p, r, a in zip(
                x.shape[3:], block.shape[4:], self.stride, self.padding, phase, firsts, strict=True
            ):
                low, high = max(0, -((r - p) // s) - a), min(q, -((r - p - n) // s) - a)
                high = max(low, high)
                full = full and low == 0 and high == q
                begin = (a + low) * s + r - p
                there.append(
                    slice(begin, max(begin, begin + (high - low - 1) * s + 1) if high > low else begin, s)
                )
                here.append(slice(low, high))
            inside = block[:, :, number]
            part = inside[(slice(None), slice(None), slice(None), *here)]
            yield (
                part,
                x[(slice(None), slice(None), slice(None), *there)].transpose(SAMPLES_IN[x.ndim]),
                full,
            )

    def read(self, x: np.ndarray, start: int, rows: int) -> np.ndarray:
        """A block of x by phases, zero outside."""
        n, g, c = x.shape[:3]
        block = self.empty(g, c, n, rows, x.dtype)
        parts = list(self.parts(block, x, start))
        if not all(full for _, _, full in parts):
            block.fill(0)
        for part, source, _ in parts:
            np.copyto(part, source)
        return block

    def views(self, block: np.ndarray, rows: int) -> Iterator[np.ndarray]:
        """What each offset reads of each group, channel and sample: a run, or a window with spatial dimensions."""
        if not self.runs:
            for phase, at in self.taps:
                part = tuple(slice(q, q + n) for q, n in zip(at, (rows, *self.inner), strict=True))
                inside = block[:, :, phase]
                yield inside[(slice(None),) * 3 + part]
            return
        flat = block.reshape(*block.shape[:4], -1)
        length = rows * math.prod(self.wide)
        for phase, at in self.taps:
            first = 0
            for q, n in zip(at, (1, *self.wide), strict=True):
                first = first * n + q
            yield flat[:, :, phase, :, first : first + length]

    def columns(self, x: np.ndarray, start: int, rows: int) -> np.ndarray:
        """The matrix of windows of each group: (group, channel and offset, sample and column)."""
        block = self.read(x, start, rows)
        g, c, _, n = block.shape[:4]
        length = n * rows * math.prod(self.pitch)
        if self.plain:
            return block.reshape(g, c, length)
        made = np.empty((g, c, *self.kernel, n, rows, *self.pitch), x.dtype)
        target = made.reshape(g, c, *self.kernel, n, -1) if self.runs else made
        columns = (rows * math.prod(self.pitch),) if self.runs else (rows, *self.inner)
        within = block.strides[-1:] if self.runs else block.strides[4:]
        for number, (first, step, at, apart) in enumerate(self.grids):
            offsets = [slice(k, None, n) for k, n in zip(first, step, strict=True)]
            there: tuple[Any, ...] = (..., *offsets, *[slice(None)] * (1 + len(columns)))
            here: tuple[Any, ...] = (slice(None), slice(None), number, slice(None))
            some, source = target[there], block[(*here, *(slice(q, None) for q in at))]
            between = (n * size for n, size in zip(apart, block.strides[4:], strict=True))
            strides = (*block.strides[:2], *between, block.strides[3], *within)
            np.copyto(some, as_strided(source, some.shape, strides))
        return made.reshape(g, c * len(self.taps), length)

    def add(self, columns: np.ndarray, x: np.ndarray, start: int, rows: int) -> None:
        """The transposed of `columns`: every number of the matrix is added where it was read."""
        n, g, c = x.shape[:3]
        block = self.empty(g, c, n, rows, x.dtype)
        block.fill(0)
        source = columns.reshape(g, c, len(self.taps), n, *((-1,) if self.runs else (rows, *self.inner)))
        for k, view in enumerate(self.views(block, rows)):
            np.add(view, source[:, :, k], out=view)
        for part, target, _ in self.parts(block, x, start):
            np.add(target, part, out=target)

    def spread(self, y: np.ndarray) -> np.ndarray:
        """A block of y (n, g, o, *spatial) as a matrix like that of windows: zero where nobody needs a column."""
        n, g, o, rows = y.shape[:4]
        made = np.zeros((g, o, n, rows, *self.pitch), y.dtype)
        np.copyto(self.inside(made), y.transpose(SAMPLES_IN[y.ndim]))
        return made.reshape(g, o, -1)

    def inside(self, made: np.ndarray) -> np.ndarray:
        """The columns that are needed, of (group, row, sample, *spatial)."""
        return made[(slice(None),) * 4 + tuple(slice(0, n) for n in self.inner)]


# (n, g, c, *spatial) as (g, c, n, *spatial), and back, by the number of dimensions.
SAMPLES_IN = {n: (1, 2, 0, *range(3, n)) for n in range(3, 12)}
SAMPLES_OUT = {n: (2, 0, 1, *range(3, n)) for n in range(3, 12)}


def blocks(
    window: Window, shape: Sequence[int], rows: int, itemsize: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Samples, groups and ranges of the first spatial dimension, of which the matrix of windows has about BLOCK bytes.

    They follow from shapes alone. `shape` is that of x.
    """
    n, g, c = shape[:3]
    line = math.prod(window.pitch)  # columns for each row
    column = max(1, c * len(window.taps) * itemsize)
    columns = max(COLUMNS, BLOCK // column)
    pieces = -(-rows * line // columns)
    some_rows = -(-rows // max(1, min(rows, pieces)))
    samples = max(1, min(n, columns // max(1, line * some_rows)))
    groups = max(1, min(g, columns // max(1, line * some_rows * samples)))
    for at_n, at_g, at_t in itertools.product(
        range(0, n, samples), range(0, g, groups), range(0, rows, max(1, some_rows))
    ):
        yield (
            slice(at_n, at_n + samples),
            slice(at_g, at_g + groups),
            slice(at_t, min(rows, at_t + some_rows)),
        )
