"""Shapes and labels of what is read and written at indices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from distgrad.primitives.base import Attrs, Aval, Labels, expect, expect_dims


# Shapes and labels.
def _replaced(shape: Sequence[int | None], dim: int, n: int | None) -> tuple[int | None, ...]:
    return (*shape[:dim], n, *shape[dim + 1 :])


INT64 = np.dtype("int64")


def _expect_along(shape: Sequence[int], attrs: Attrs) -> None:
    """`size` is the length of the dimension `dim`."""
    expect_dims((attrs["dim"],), len(shape))
    expect(shape[attrs["dim"]] == attrs["size"], "size {} along a dimension of {}", attrs["size"], shape)


def _expect_list(idx: Aval) -> None:
    good = len(idx.shape) == 1 and idx.dtype == INT64
    expect(good, "indices are a list of int64, not {} of shape {}", idx.dtype, idx.shape)


def _expect_each(idx: Aval, src: Aval) -> None:
    """An index for each element."""
    good = idx.dtype == INT64 and idx.shape == src.shape
    expect(good, "indices are int64 of shape {}, not {} of shape {}", src.shape, idx.dtype, idx.shape)


def _taken(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    x, idx = avals
    _expect_list(idx)
    _expect_along(x.shape, attrs)
    return (Aval(_replaced(x.shape, attrs["dim"], idx.shape[0]), x.dtype),)  # type: ignore[arg-type]


def _gathered(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    x, idx = avals
    _expect_along(x.shape, attrs)
    _expect_each(idx, Aval(_replaced(x.shape, attrs["dim"], idx.shape[attrs["dim"]]), x.dtype))  # type: ignore[arg-type]
    return (Aval(idx.shape, x.dtype),)


def _made(src: Aval, attrs: Attrs) -> Aval:
    expect_dims((attrs["dim"],), len(src.shape))
    expect(attrs["size"] >= 0, "size {}", attrs["size"])
    return Aval(_replaced(src.shape, attrs["dim"], attrs["size"]), src.dtype)  # type: ignore[arg-type]


def _added_each(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    idx, src = avals
    _expect_each(idx, src)
    return (_made(src, attrs),)


def _added(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    idx, src = avals
    made = _made(src, attrs)
    _expect_list(idx)
    expect(idx.shape[0] == src.shape[attrs["dim"]], "{} indices for a source of {}", idx.shape[0], src.shape)
    return (made,)


def _scattered(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    """Like the first operand; the last two are indices and elements for some along `dim`."""
    base, *weights, idx, src = avals
    dim = attrs["dim"]
    _expect_along(base.shape, attrs)
    _expect_each(idx, src)
    good = len(src.shape) == len(base.shape) and src.dtype == base.dtype
    good = good and _replaced(src.shape, dim, 1) == _replaced(base.shape, dim, 1)
    expect(good, "{} of shape {} into {} of shape {}", src.dtype, src.shape, base.dtype, base.shape)
    one = Aval(_replaced(base.shape, dim, 1), base.dtype)  # type: ignore[arg-type]
    expect(all(w == one for w in weights), "weights are not {}", one)
    return (base,)


def _put(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    base, idx, src = avals
    _expect_along(base.shape, {"dim": 0, **attrs})
    _expect_list(idx)
    good = src == ((*idx.shape, *base.shape[1:]), base.dtype)
    expect(good, "{} of shape {} at {} of {}", src.dtype, src.shape, idx.shape, base.shape)
    return (base,)


def _take_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    """The result is cut as idx is. A small x is whole along `dim`; of a large one each piece gives what lies in it."""
    x, dim = avals[0], attrs["dim"]
    labels = tuple(range(len(x.shape)))
    if x.size <= math.prod(_taken(avals, attrs)[0].shape):
        return Labels((_replaced(labels, dim, None), (dim,)), (labels,))
    return Labels((labels, (len(labels),)), (_replaced(labels, dim, len(labels)),), "disjoint")


def _gather_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    """As for `take`."""
    x, idx = avals
    labels = tuple(range(len(x.shape)))
    if x.size <= idx.size:
        return Labels((_replaced(labels, attrs["dim"], None), labels), (labels,))
    out = _replaced(labels, attrs["dim"], len(labels))
    return Labels((labels, out), (out,), "disjoint")


def _scatter_add_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    labels = tuple(range(len(avals[1].shape)))
    return Labels((labels, labels), (_replaced(labels, attrs["dim"], None),), "add")


def _index_add_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    """Partial results, if they are smaller than src; of a larger result each piece picks what lies in it from all of
    src: the gradient of a large table is cut as the table is.
    """
    src, dim = avals[1], attrs["dim"]
    labels = tuple(range(len(src.shape)))
    if _added(avals, attrs)[0].size <= src.size:
        return Labels(((dim,), labels), (_replaced(labels, dim, None),), "add")
    return Labels(((None,), _replaced(labels, dim, None)), (_replaced(labels, dim, len(labels)),))


def _scatter_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    labels = _replaced(range(len(avals[0].shape)), attrs["dim"], None)
    return Labels((labels,) * len(avals), (labels,))


def _index_put_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    labels = tuple(range(len(avals[0].shape)))
    return Labels((labels, (None,), _replaced(labels, 0, None)), (labels,))
