"""Convolutions of groups with one channel or two: each number of w times one run of memory.

A product of matrices would have a single row or column, and most of its time would go into the matrix of windows. Here
all samples of a channel lie behind each other, by phases as in `columns.py`. Then what offset k reads of a channel, for
all windows, is one run. w[o, c, k] times that is added to the run of y (`axpy` of BLAS, 0.1 ns an element), or its
product with the run of y is the gradient of w[o, c, k] (`dot`). Positions between the rows of an image and between
samples go along, and nobody reads what becomes of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy.linalg import blas

from distgrad.primitives.blas import ONE_THREAD
from distgrad.primitives.columns import SAMPLES_IN, SAMPLES_OUT, Ints, Window

PRODUCTS = 2  # of a group's input and output channels, up to which this is quicker than a product of matrices
LONG = 1536  # elements of a run, from which on its calls cost less than what the matrix of windows does
LONG_INPUT = 320  # the same for `input`: to add to windows costs more than to read them
RUN = 8192  # elements of a run: it and its result stay in the nearest caches
CACHED = 1 << 17  # elements of a block
AXPY = {np.dtype(np.float32): blas.saxpy, np.dtype(np.float64): blas.daxpy}
DOT = {np.dtype(np.float32): blas.sdot, np.dtype(np.float64): blas.ddot}


def suits(window: Window, w: np.ndarray, samples: int, least: int) -> bool:
    """Whether a convolution by w (g, o, c, *kernel) is better done here: runs are to have `least` elements."""
    if w.dtype not in AXPY or not 0 < w.shape[1] * w.shape[2] <= PRODUCTS or len(window.taps) == 1:
        return False
    return samples * (window.rows + window.reach[0]) * math.prod(window.wide) >= least


def _offsets(window: Window, pitch: Ints, line: int) -> list[int]:
    """Where the run of each number of w begins in a channel, whose phases are `line` elements apart."""
    offsets = []
    for phase, at in window.taps:
        first = 0
        for q, n in zip(at, pitch, strict=True):
            first = first * n + q
        offsets.append(phase * line + first)
    return offsets


Call = tuple[int, int, int, int]  # where in the block of x, of y, and of w (group, rest) the numbers are


class Block:
    """Some samples, groups and rows of x and y, each channel as one run."""

    def __init__(self, window: Window, x: np.ndarray, y: np.ndarray, start: int) -> None:
        (n, g, c), (_, _, o, rows) = x.shape[:3], y.shape[:4]
        self.window, self.start = window, start
        self.pitch = (rows + window.reach[0], *window.wide)
        self.shape_x = (g, c, len(window.phases), n, *self.pitch)
        self.shape_y = (g, o, n, *self.pitch)
        self.line = n * math.prod(self.pitch)
        self.offsets = _offsets(window, self.pitch, self.line)
        self.run = self.line - max(offset % self.line for offset in self.offsets)
        self.there = (slice(None),) * 3 + tuple(slice(0, size) for size in y.shape[3:])

    def calls(self) -> Iterator[Call]:
        """The runs of x that meet those of y. They are too many to be kept."""
        (g, c, phases), o = self.shape_x[:3], self.shape_y[1]
        for i, a, b in itertools.product(range(g), range(o), range(c)):
            at_x, at_y = (i * c + b) * phases * self.line, (i * o + a) * self.line
            for k, offset in enumerate(self.offsets, (a * c + b) * len(self.offsets)):
                yield at_x + offset, at_y, i, k

    def read(self, x: np.ndarray) -> np.ndarray:
        """x by phases, zero outside, as one run."""
        block = np.zeros(self.shape_x, x.dtype)
        for part, source, _ in self.window.parts(block, x, self.start):
            np.copyto(part, source)
        return block.reshape(-1)

    def spread(self, y: np.ndarray) -> np.ndarray:
        """y, zero where there is no window, as one run."""
        made = np.zeros(self.shape_y, y.dtype)
        np.copyto(made[self.there], y.transpose(SAMPLES_IN[y.ndim]))
        return made.reshape(-1)


Part = tuple[Block, int, np.ndarray, np.ndarray]  # with its first group, and what it has of x and y


def _blocks(window: Window, x: np.ndarray, y: np.ndarray) -> Iterator[Part]:
    """Blocks that together are all of y. They follow from shapes alone."""
    (n, g, c), (o, rows) = x.shape[:3], y.shape[2:4]
    row, reach = math.prod(window.wide), window.reach[0]
    some_rows = rows if (rows + reach) * row <= 2 * RUN else min(rows, max(reach, RUN // row, 1))
    sample = (some_rows + reach) * row
    samples = min(n, max(1, RUN // sample))
    groups = min(g, max(1, CACHED // (samples * sample * (c * len(window.phases) + o))))
    starts = range(0, n, samples), range(0, g, groups), range(0, rows, some_rows)
    for at_n, at_g, at_t in itertools.product(*starts):
        some = slice(at_n, at_n + samples), slice(at_g, at_g + groups)
        mine, made = x[some], y[(*some, slice(None), slice(at_t, at_t + some_rows))]
        yield Block(window, mine, made, at_t), at_g, mine, made


def output(window: Window, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> None:
    """Writes y."""
    axpy, numbers = AXPY[x.dtype], w.reshape(len(w), -1).tolist()
    with ONE_THREAD:
        for block, first, mine, target in _blocks(window, x, y):
            source, made = block.read(mine), np.zeros(block.shape_y, x.dtype)
            some = made.reshape(-1)
            for at_x, at_y, group, at_w in block.calls():
                axpy(source, some, block.run, numbers[first + group][at_w], at_x, 1, at_y)
            np.copyto(target, made[block.there].transpose(SAMPLES_OUT[y.ndim]))


def input(window: Window, y: np.ndarray, w: np.ndarray, x: np.ndarray) -> None:
    """Adds to x. Finite numbers of w only: they also meet the zeros where there is no window."""
    axpy, numbers = AXPY[x.dtype], w.reshape(len(w), -1).tolist()
    with ONE_THREAD:
        for block, first, target, mine in _blocks(window, x, y):
            source, made = block.spread(mine), np.zeros(block.shape_x, x.dtype)
            some = made.reshape(-1)
            for at_x, at_y, group, at_w in block.calls():
                axpy(source, some, block.run, numbers[first + group][at_w], at_y, 1, at_x)
            for part, place, _ in window.parts(made, target, block.start):
                np.add(place, part, out=place)


def weight(window: Window, x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    """The numbers of w for each group; none of them is finite where x is not, be it where there is no window."""
    dot = DOT[x.dtype]
    total = [[0.0] * (x.shape[2] * y.shape[2] * len(window.taps)) for _ in range(x.shape[1])]
    with ONE_THREAD:
        for block, first, mine, other in _blocks(window, x, y):
            source, others = block.read(mine), block.spread(other)
            for at_x, at_y, group, at_w in block.calls():
                total[first + group][at_w] += dot(source, others, block.run, at_x, 1, at_y)
    return total
