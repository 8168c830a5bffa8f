"""Places in sorted rows, what stands most often, running extremes with their positions: searchsorted, mode,
running_max, running_min, logcumsumexp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.primitives.base import Attrs, Aval, Labels, Primitive, expect, primitive
from distgrad.primitives.batching import Batch, shifted
from distgrad.primitives.rowwise import INT64, _floats, _found, _found_shape, _same, _whole, _whole_twice

Out = np.ndarray | None


def searchsorted(rows: np.ndarray, x: np.ndarray, right: bool, out: Out = None) -> np.ndarray:
    """For each element of x how many of its row, which rises, are below it; or not above it if `right`."""
    out = np.empty(x.shape, np.int64) if out is None else out
    side: Any = "right" if right else "left"
    if rows.ndim == 1:
        out[...] = np.searchsorted(rows, x, side)
        return out
    for row in np.ndindex(rows.shape[:-1]):
        out[row] = np.searchsorted(rows[row], x[row], side)
    return out


def _searched(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    rows, x = avals
    good = rows.dtype == x.dtype and len(rows.shape) > 0
    good = good and (len(rows.shape) == 1 or (x.shape != () and rows.shape[:-1] == x.shape[:-1]))
    expect(good, "{} of shape {} in rows {} of {}", x.dtype, x.shape, rows.shape, rows.dtype)
    return (Aval(x.shape, INT64),)


def _searched_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    """What is below in each piece of a row adds up."""
    labels = tuple(range(len(avals[1].shape)))
    places = len(labels)
    rows = (places,) if len(avals[0].shape) == 1 else (*labels[:-1], places)
    return Labels((rows, labels), (labels,), "add")


def _searched_batch(
    batch: Batch, primitive: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    """One row for all samples stays one; a row for each sample is searched for all that the sample looks for."""
    rows, x = xs
    if len(rows.shape) == 1 and not flags[0]:
        return batch.apply(primitive.name, (rows, x), attrs)
    rows, x = batch.all_full(xs, flags)
    if len(rows.shape) > 2:
        return batch.apply(primitive.name, (rows, x), attrs)
    flat = batch.emit("reshape", x, shape=(batch.size, math.prod(x.shape[1:])))
    return [batch.emit("reshape", batch.emit(primitive.name, rows, flat, **attrs), shape=x.shape)]


primitive(
    "searchsorted",
    searchsorted,
    _searched,
    labels=_searched_labels,
    batch=_searched_batch,
    attrs={"right": "bool"},
    traits={"into"},
    flops=lambda ins, outs, attrs: outs[0].size * max(1.0, math.log2(ins[0].shape[-1] + 1)),
)


def _running(ufunc: np.ufunc, reaches: np.ufunc) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    def kernel(x: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
        values = ufunc.accumulate(x, axis=dim)
        there = reaches(x, values)
        if x.dtype.kind == "f":
            there |= np.isnan(x)
        shape = [1] * x.ndim
        shape[dim] = -1
        places = np.where(there, np.arange(x.shape[dim]).reshape(shape), 0)
        return values, np.maximum.accumulate(places, axis=dim)

    return kernel


def _extremes(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    return (*_same(avals, attrs), Aval(avals[0].shape, INT64))


for _name, _kernel in {
    "running_max": _running(np.maximum, np.greater_equal),
    "running_min": _running(np.minimum, np.less_equal),
}.items():
    primitive(
        _name, _kernel, _extremes, labels=_whole_twice, batch=shifted("dim"), attrs={"dim": "int"}, flops=3
    )


def logcumsumexp(x: np.ndarray, dim: int, out: Out = None) -> np.ndarray:
    """log of the sum of exp of each element and those before it along `dim`."""
    return np.logaddexp.accumulate(x, axis=dim, out=out)


primitive(
    "logcumsumexp",
    logcumsumexp,
    _floats(1),
    labels=_whole,
    batch=shifted("dim"),
    attrs={"dim": "int"},
    traits={"into"},
    flops=30,
)


# What stands most often.
def mode(x: np.ndarray, dim: int, keepdim: bool) -> tuple[np.ndarray, np.ndarray]:
    """(the commonest element along `dim`, its last place): of equally common ones the smallest. No nan is another."""
    rows = np.moveaxis(x, dim, -1)
    n = rows.shape[-1]
    line, ordered = np.arange(n), np.sort(rows, axis=-1)
    new = np.ones(rows.shape, bool)
    np.not_equal(ordered[..., 1:], ordered[..., :-1], out=new[..., 1:])
    run = line - np.maximum.accumulate(np.where(new, line, 0), axis=-1)
    best = np.argmax(run, axis=-1, keepdims=True) if run.size else np.zeros((*run.shape[:-1], 1), np.int64)
    values = np.take_along_axis(ordered, best, -1)
    same = (rows == values) | np.isnan(values)
    places = n - 1 - np.argmax(same[..., ::-1], axis=-1, keepdims=True)
    found = [np.moveaxis(a, -1, dim) if keepdim else a[..., 0] for a in (values, places)]
    return np.array(found[0]), np.array(found[1])


def _mode_shapes(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    (places,) = _found_shape(avals, attrs)
    return Aval(places.shape, avals[0].dtype), places


def _mode_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    labels = _found(avals, attrs)
    return Labels(labels.ins, (*labels.outs, *labels.outs))


primitive(
    "mode",
    mode,
    _mode_shapes,
    labels=_mode_labels,
    batch=shifted("dim"),
    attrs={"dim": "int", "keepdim": "bool"},
    flops=lambda ins, outs, attrs: 20 * ins[0].size,
)
