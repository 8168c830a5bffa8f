"""Convolutions over any number of spatial dimensions, with strides, zero padding, dilation and groups.

All three primitives belong to one form of three arrays, linear in each,

    sum over n, g, o, c, t, k of  y[n, g, o, t] * w[g, o, c, k] * x[n, g, c, t * stride + k * dilation - padding]

with x taken as zero outside: `convolve` gives its derivative with respect to y, `convolve_input` that with respect to x
(a transposed convolution), `convolve_weight` that with respect to w. So each is the derivative of the others. The
dimension g of groups is there or not; `size` are the spatial lengths of the result, and may be any.

The kernels bring windows of x into a matrix of (c, k) by (n, t) and leave the rest to BLAS, in blocks that stay in the
core's cache. A block of x is first laid out by phases: positions that are equal modulo the stride lie together. Then
what offset k reads is one run of memory for each channel and sample, copied at the speed of memory, with a few columns
between the rows of an image that nobody needs. Where these are too many, only windows are copied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from distgrad.primitives.base import Attrs, Aval, Labels, Place, expect, primitive
from distgrad.primitives.blas import matmul
from distgrad.primitives.folding import folding

Out = np.ndarray | None
Ints = tuple[int, ...]

BLOCK = 512 << 10  # bytes of the matrix of windows
COLUMNS = 256  # of that matrix, at least: fewer do not keep BLAS busy
WASTE = 12  # rows of w times the share of columns that nobody needs, from which on windows are copied


class Taps(NamedTuple):
    """Where the offsets of a kernel read, in a block of x by phases."""

    reach: Ints  # how far the last offset is from the first, in strides
    phases: tuple[Ints, ...]  # those that are read
    taps: tuple[
        tuple[int, Ints], ...
    ]  # for each offset the number of its phase, and how many strides it is from the first


@lru_cache(maxsize=256)
def _taps(kernel: Ints, stride: Ints, dilation: Ints) -> Taps:
    phases: dict[Ints, int] = {}
    taps = []
    for k in itertools.product(*map(range, kernel)):
        at = [divmod(i * d, s) for i, d, s in zip(k, dilation, stride, strict=True)]
        taps.append((phases.setdefault(tuple(r for _, r in at), len(phases)), tuple(q for q, _ in at)))
    reach = tuple((n - 1) * d // s for n, d, s in zip(kernel, dilation, stride, strict=True))
    return Taps(reach, tuple(phases), tuple(taps))


class Window:
    """The matrix of windows of one block: samples, groups and a range of the first spatial dimension of y."""

    def __init__(
        self, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, size: Ints, rows: int
    ) -> None:
        self.reach, self.phases, self.taps = _taps(kernel, stride, dilation)
        self.stride, self.padding, self.kernel = stride, padding, kernel
        self.inner = size[1:]  # of y
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
                x[(slice(None), slice(None), slice(None), *there)].transpose(_SAMPLES_IN[x.ndim]),
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
        made = np.empty((g, c, len(self.taps), n, rows, *self.pitch), x.dtype)
        target = made.reshape(g, c, len(self.taps), n, -1) if self.runs else made
        for k, view in enumerate(self.views(block, rows)):
            np.copyto(target[:, :, k], view)
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
        np.copyto(self.inside(made), y.transpose(_SAMPLES_IN[y.ndim]))
        return made.reshape(g, o, -1)

    def inside(self, made: np.ndarray) -> np.ndarray:
        """The columns that are needed, of (group, row, sample, *spatial)."""
        return made[(slice(None),) * 4 + tuple(slice(0, n) for n in self.inner)]


# (n, g, c, *spatial) as (g, c, n, *spatial), and back, by the number of dimensions.
_SAMPLES_IN = {n: (1, 2, 0, *range(3, n)) for n in range(3, 12)}
_SAMPLES_OUT = {n: (2, 0, 1, *range(3, n)) for n in range(3, 12)}


def _blocks(
    window: Window, shape: Sequence[int], rows: int, itemsize: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Samples, groups and ranges of the first spatial dimension, of which the matrix of windows has about BLOCK bytes.

    They follow from shapes alone. `shape` is that of x.
    """
    n, g, c = shape[:3]
    line = math.prod(window.pitch)  # columns for each row
    column = max(1, c * len(window.taps) * itemsize)
    columns = max(COLUMNS, BLOCK // column)
    some_rows = min(rows, -(-columns // max(1, line)))
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


def _here(size: Ints, at: Place) -> Ints:
    """The part of `size` that this shard has."""
    return tuple(stop - start for start, stop in at.outs[0][-len(size) :])


def _grouped(array: np.ndarray, at: int, ndim: int) -> np.ndarray:
    """A view with a dimension for the group."""
    return array if array.ndim == ndim else np.expand_dims(array, at)


def convolve(
    x: np.ndarray,
    w: np.ndarray,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    size: Ints,
    at: Place,
    out: Out = None,
) -> np.ndarray:
    """y[n, o, t] = sum over c and k of w[o, c, k] * x[n, c, t * stride + k * dilation - padding]."""
    ndim, size = len(size) + 3, _here(size, at)
    out = np.empty(_y_shape(x.shape, w.shape, size), x.dtype) if out is None else out
    x, w, y = _grouped(x, 1, ndim), _grouped(w, 0, ndim), _grouped(out, 1, ndim)
    g, o = w.shape[:2]
    kernel, matrix = w.shape[3:], np.ascontiguousarray(w).reshape(g, o, math.prod(w.shape[2:]))
    if not y.size:
        return out
    if not matrix.shape[2]:
        y[...] = 0
        return out
    if _is_plain(kernel, stride, padding, x.shape[3:], size) and y.flags.c_contiguous:
        flat = np.ascontiguousarray(x).reshape(*x.shape[:3], -1)
        matmul(matrix, flat, out=y.reshape(*y.shape[:3], -1))
        return out
    window = Window(kernel, stride, padding, dilation, size, o)
    for n, groups, t in _blocks(window, x.shape, size[0], x.itemsize):
        rows = t.stop - t.start
        columns = window.columns(x[n, groups], t.start, rows)
        made = matmul(matrix[groups], columns)
        target = y[n, groups, :, t]
        made = window.inside(made.reshape(*made.shape[:2], len(target), rows, *window.pitch))
        np.copyto(target, made.transpose(_SAMPLES_OUT[ndim]))
    return out


def convolve_input(
    y: np.ndarray,
    w: np.ndarray,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    size: Ints,
    at: Place,
    out: Out = None,
) -> np.ndarray:
    """x[n, c, s] = sum over o, t and k with t * stride + k * dilation - padding = s of y[n, o, t] * w[o, c, k]."""
    ndim, size = len(size) + 3, _here(size, at)
    out = np.empty(_x_shape(y.shape, w.shape, size), y.dtype) if out is None else out
    y, w, x = _grouped(y, 1, ndim), _grouped(w, 0, ndim), _grouped(out, 1, ndim)
    g, o = w.shape[:2]
    kernel, matrix = w.shape[3:], np.ascontiguousarray(w).reshape(g, o, math.prod(w.shape[2:]))
    turned = matrix.swapaxes(1, 2)
    if o and x.size and _is_plain(kernel, stride, padding, size, y.shape[3:]) and x.flags.c_contiguous:
        flat = np.ascontiguousarray(y).reshape(*y.shape[:3], -1)
        matmul(turned, flat, out=x.reshape(*x.shape[:3], -1))
        return out
    x[...] = 0
    if not (x.size and y.size and w.size):
        return out
    window = Window(kernel, stride, padding, dilation, y.shape[3:], o)
    if window.runs and not np.isfinite(matrix).all():
        window.exactly()
    for n, groups, t in _blocks(window, x.shape, y.shape[3], x.itemsize):
        columns = matmul(turned[groups], window.spread(y[n, groups, :, t]))
        window.add(columns, x[n, groups], t.start, t.stop - t.start)
    return out


def convolve_weight(
    x: np.ndarray,
    y: np.ndarray,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    size: Ints,
    at: Place,
    out: Out = None,
) -> np.ndarray:
    """w[o, c, k] = sum over n and t of y[n, o, t] * x[n, c, t * stride + k * dilation - padding]."""
    ndim, size = len(size) + 3, _here(size, at)
    out = np.empty(_w_shape(x.shape, y.shape, size), x.dtype) if out is None else out
    x, y, w = _grouped(x, 1, ndim), _grouped(y, 1, ndim), _grouped(out, 0, ndim)
    total = np.zeros((*w.shape[:2], math.prod(w.shape[2:])), np.float64 if x.dtype.kind == "f" else x.dtype)
    if x.size and y.size and w.size:
        window = Window(size, stride, padding, dilation, y.shape[3:], y.shape[2])
        for n, groups, t in _blocks(window, x.shape, y.shape[3], x.itemsize):
            part = _product(window, x[n, groups], y[n, groups, :, t], t)
            if window.runs and not np.isfinite(part).all():
                window.exactly()
                part = _product(window, x[n, groups], y[n, groups, :, t], t)
            total[groups] += part
    np.copyto(w, total.reshape(w.shape), casting="same_kind")
    return out


def _product(window: Window, x: np.ndarray, y: np.ndarray, t: slice) -> np.ndarray:
    columns = window.columns(x, t.start, t.stop - t.start)
    return matmul(window.spread(y), columns.swapaxes(1, 2))


def _is_plain(kernel: Ints, stride: Ints, padding: Ints, of_x: Ints, of_y: Ints) -> bool:
    """Whether it is a product of matrices for each sample."""
    return math.prod(kernel) == 1 and set(stride) == {1} and not any(padding) and tuple(of_x) == tuple(of_y)


# Shapes and labels.
def _y_shape(x: Ints, w: Ints, size: Ints) -> Ints:
    return (*x[: len(x) - len(size) - 1], w[-len(size) - 2], *size)


def _x_shape(y: Ints, w: Ints, size: Ints) -> Ints:
    return (*y[: len(y) - len(size) - 1], w[-len(size) - 1], *size)


def _w_shape(x: Ints, y: Ints, size: Ints) -> Ints:
    n = len(size)
    return (*x[1 : len(x) - n - 1], y[-n - 1], x[-n - 1], *size)


def _expect_form(a: Aval, b: Aval, attrs: Attrs) -> None:
    n = len(attrs["size"])
    rest = [attrs[name] for name in ("stride", "padding", "dilation")]
    expect(1 <= n <= 8 and all(len(r) == n for r in rest), "{} is no size for {}", attrs["size"], rest)
    expect(min(rest[0]) > 0 and min(rest[2]) > 0, "strides and dilations are at least 1")
    expect(len(a.shape) == len(b.shape) in (n + 2, n + 3), "no convolution of {} and {}", a, b)
    expect(a.dtype == b.dtype and a.dtype.kind in "fi", "a convolution of {} and {}", a.dtype, b.dtype)


def _y_rule(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    x, w = avals
    _expect_form(x, w, attrs)
    n = len(attrs["size"])
    expect(x.shape[-n - 1] == w.shape[-n - 1], "channels of {} and {}", x, w)
    expect(x.shape[1 : -n - 1] == w.shape[: -n - 2], "groups of {} and {}", x, w)
    return (Aval(_y_shape(x.shape, w.shape, attrs["size"]), x.dtype),)


def _x_rule(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    y, w = avals
    _expect_form(y, w, attrs)
    n = len(attrs["size"])
    expect(y.shape[-n - 1] == w.shape[-n - 2], "channels of {} and {}", y, w)
    expect(y.shape[1 : -n - 1] == w.shape[: -n - 2], "groups of {} and {}", y, w)
    return (Aval(_x_shape(y.shape, w.shape, attrs["size"]), y.dtype),)


def _w_rule(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    x, y = avals
    _expect_form(x, y, attrs)
    n = len(attrs["size"])
    expect(x.shape[: -n - 1] == y.shape[: -n - 1], "samples and groups of {} and {}", x, y)
    return (Aval(_w_shape(x.shape, y.shape, attrs["size"]), x.dtype),)


SAMPLE, GROUP, OUT, IN = range(4)  # labels of n, g, o and c; those of spatial dimensions follow


def _form(
    avals: Sequence[Aval], attrs: Attrs, kernel: Ints, of_x: Ints, of_y: Ints
) -> list[tuple[int | None, ...]]:
    """Labels of x, w and y. A spatial dimension is whole, but for two cases in which it is none.

    A kernel of length 1 goes over x step by step, or it is as long as x and there is one window.
    """
    n = len(attrs["size"])
    group = (GROUP,) if len(avals[0].shape) == n + 3 else ()
    x: list[int | None] = [SAMPLE, *group, IN]
    w: list[int | None] = [*group, OUT, IN]
    y: list[int | None] = [SAMPLE, *group, OUT]
    rest = zip(kernel, attrs["stride"], attrs["padding"], attrs["dilation"], of_x, of_y, strict=True)
    for label, (k, s, p, d, a, b) in enumerate(rest, 4):
        step, one = k == s == 1 and a == b and not p, b == d == 1 and k == a and not p
        x.append(label if step or one else None)
        w.append(label if one else None)
        y.append(label if step else None)
    return [tuple(x), tuple(w), tuple(y)]


def _y_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    n = len(attrs["size"])
    x, w, y = _form(avals, attrs, avals[1].shape[-n:], avals[0].shape[-n:], attrs["size"])
    return Labels((x, w), (y,), "add")


def _x_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    n = len(attrs["size"])
    x, w, y = _form(avals, attrs, avals[1].shape[-n:], attrs["size"], avals[0].shape[-n:])
    return Labels((y, w), (x,), "add")


def _w_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    n = len(attrs["size"])
    x, w, y = _form(avals, attrs, attrs["size"], avals[0].shape[-n:], avals[1].shape[-n:])
    return Labels((x, y), (w,), "add")


def _y_flops(ins: Sequence[Aval], outs: Sequence[Aval], attrs: Attrs) -> float:
    n = len(attrs["size"])
    return 2.0 * outs[0].size * math.prod(ins[1].shape[-n - 1 :])


def _x_flops(ins: Sequence[Aval], outs: Sequence[Aval], attrs: Attrs) -> float:
    n = len(attrs["size"])
    return 2.0 * ins[0].size * math.prod(ins[1].shape[-n - 1 :])


def _w_flops(ins: Sequence[Aval], outs: Sequence[Aval], attrs: Attrs) -> float:
    n = len(attrs["size"])
    return 2.0 * ins[1].size * math.prod(outs[0].shape[-n - 1 :])


for _name, _kernel, _shape, _labels, _batch, _flops in (
    ("convolve", convolve, _y_rule, _y_labels, folding("ngc", "goc", "ngo"), _y_flops),
    ("convolve_input", convolve_input, _x_rule, _x_labels, folding("ngo", "goc", "ngc"), _x_flops),
    ("convolve_weight", convolve_weight, _w_rule, _w_labels, folding("ngc", "ngo", "goc"), _w_flops),
):
    primitive(
        _name,
        _kernel,
        _shape,
        labels=_labels,
        batch=_batch,
        attrs={"stride": "ints", "padding": "ints", "dilation": "ints", "size": "shape"},
        into=True,
        placed=True,
        whole=True,
        flops=_flops,
    )
