"""Convolutions over any number of spatial dimensions, with strides, zero padding, dilation and groups.

All three primitives belong to one form of three arrays, linear in each,

    sum over n, g, o, c, t, k of  y[n, g, o, t] * w[g, o, c, k] * x[n, g, c, t * stride + k * dilation - padding]

with x taken as zero outside: `convolve` gives its derivative with respect to y, `convolve_input` that with respect to x
(a transposed convolution), `convolve_weight` that with respect to w. So each is the derivative of the others. The
dimension g of groups is there or not; `size` are the spatial lengths of the result, and may be any.

The kernels bring windows of x into a matrix of (c, k) by (n, t) and leave the rest to BLAS, in blocks that stay in the
core's cache (`columns.py`). Where a group has a channel or two, each number of w meets a run of x, unless that is
short (`depthwise.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from distgrad.primitives import depthwise
from distgrad.primitives.base import Attrs, Aval, Labels, Place, expect, primitive
from distgrad.primitives.blas import matmul
from distgrad.primitives.columns import SAMPLES_OUT, Window, blocks
from distgrad.primitives.folding import folding

OUTER = 8  # channels of y from which on its windows are read, instead of those of x written

Out = np.ndarray | None
Ints = tuple[int, ...]


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
    if depthwise.suits(window, w, len(x), depthwise.LONG):
        depthwise.output(window, x, w, y)
        return out
    _multiply(window, x, matrix, y)
    return out


def _multiply(window: Window, x: np.ndarray, matrix: np.ndarray, y: np.ndarray) -> None:
    """Writes y, the product of `matrix` (g, o, c and k) with the windows of x."""
    for n, groups, t in blocks(window, x.shape, y.shape[3], x.itemsize):
        rows = t.stop - t.start
        columns = window.columns(x[n, groups], t.start, rows)
        made = matmul(matrix[groups], columns)
        target = y[n, groups, :, t]
        made = window.inside(made.reshape(*made.shape[:2], len(target), rows, *window.pitch))
        np.copyto(target, made.transpose(SAMPLES_OUT[y.ndim]))


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
    finite = np.isfinite(matrix).all()
    if x.size and y.size and finite and set(stride) == {1} and OUTER <= o <= 2 * w.shape[2]:
        # With strides of 1 that is a convolution too: by w with its offsets, and c and o, turned around.
        around = np.flip(w, tuple(range(3, ndim))).swapaxes(1, 2)
        beyond = tuple(d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True))
        window = Window(kernel, stride, beyond, dilation, size, w.shape[2])
        _multiply(window, y, around.reshape(g, w.shape[2], -1), x)
        return out
    x[...] = 0
    if not (x.size and y.size and w.size):
        return out
    window = Window(kernel, stride, padding, dilation, y.shape[3:], o)
    if finite and depthwise.suits(window, w, len(x), depthwise.LONG_INPUT):
        depthwise.input(window, y, w, x)
        return out
    if not finite:
        window.exactly()
    for n, groups, t in blocks(window, x.shape, y.shape[3], x.itemsize):
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
        if depthwise.suits(window, w, len(x), depthwise.LONG):
            found = np.asarray(depthwise.weight(window, x, y)).reshape(total.shape)
            if np.isfinite(found).all():
                np.copyto(w, found.reshape(w.shape), casting="same_kind")
                return out
        for n, groups, t in blocks(window, x.shape, y.shape[3], x.itemsize):
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
        traits={"into", "placed", "whole", "rounds"},
        flops=_flops,
    )
