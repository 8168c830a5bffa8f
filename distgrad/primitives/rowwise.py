"""Work that needs one dimension whole: argmax, argmin, cumsum, cumprod, sort, flip, softmax, log_softmax.

That dimension is labelled None; the others are cut as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from distgrad.primitives.base import DTYPES, Attrs, Aval, Labels, ShapeRule, expect, expect_dims, primitive
from distgrad.primitives.batching import shifted
from distgrad.primitives.reductions import collapse, contiguous, reduce_into, reduced_shape

Out = np.ndarray | None
INT64 = DTYPES["int64"]
NARROW = 12  # columns of a recurrence that are gone through one by one
RUN = 32768  # elements of a running total that are in float64 at a time


# Labels and shapes.
def _whole(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    labels = tuple(
        None if d in attrs.get("dims", (attrs.get("dim"),)) else d for d in range(len(avals[0].shape))
    )
    return Labels((labels,), (labels,))


def _whole_twice(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    (labels,) = _whole(avals, attrs).ins
    return Labels((labels,), (labels, labels))


def _whole_both(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    (labels,) = _whole(avals, attrs).ins
    return Labels((labels, labels), (labels,))


def _found(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    (labels,) = _whole(avals, attrs).ins
    return Labels(
        (labels,), (tuple(i for d, i in enumerate(labels) if attrs["keepdim"] or d != attrs["dim"]),)
    )


def _same(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    expect_dims(attrs.get("dims", (attrs.get("dim"),)), len(avals[0].shape))
    return (Aval(avals[0].shape, DTYPES[attrs["dtype"]] if "dtype" in attrs else avals[0].dtype),)


def _sorted(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    return (*_same(avals, attrs), Aval(avals[0].shape, INT64))


def _found_shape(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    (x,), dim = avals, attrs["dim"]
    expect_dims((dim,), len(x.shape))
    out = Aval(reduced_shape(x.shape, (dim,), attrs["keepdim"]), INT64)
    expect(x.shape[dim] > 0 or out.size == 0, "there is no largest or smallest of no elements")
    return (out,)


def _floats(operands: int) -> ShapeRule:
    """So many operands of one shape and one floating dtype, which the result has too."""

    def rule(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
        good = len(avals) == operands and len(set(avals)) == 1 and avals[0].dtype.kind == "f"
        expect(good, "needs {} equal operands of floats", operands)
        return _same(avals, attrs)

    return rule


# Kernels.
def _finder(find: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def kernel(x: np.ndarray, dim: int, keepdim: bool, out: Out = None) -> np.ndarray:
        if out is None:
            out = np.empty(reduced_shape(x.shape, (dim,), keepdim), INT64)
        if out.size:  # of an empty dimension NumPy refuses to find one
            find(x, axis=dim, keepdims=keepdim, out=out)
        return out

    return kernel


def _running(ufunc: np.ufunc) -> Callable[..., np.ndarray]:
    """A kernel for running totals. Those of float32 are kept in float64: one after the other, errors would pile up."""

    def kernel(x: np.ndarray, dim: int, dtype: str, out: Out = None) -> np.ndarray:
        if dtype != "float32":
            return ufunc.accumulate(x, axis=dim, dtype=DTYPES[dtype], out=out)
        out = np.empty(x.shape, DTYPES[dtype]) if out is None else out
        rows = x.shape[0] if dim == 0 else max(1, RUN * x.shape[0] // max(1, x.size))
        for first in range(0, x.shape[0], max(1, rows)):
            some = slice(first, first + rows)
            _run(ufunc, x[some], dim, out[some])
        return out

    return kernel


def _run(ufunc: np.ufunc, x: np.ndarray, dim: int, out: np.ndarray) -> None:
    step = max(1, RUN * x.shape[dim] // max(1, x.size))
    before = (slice(None),) * dim
    total = None
    for start in range(0, x.shape[dim], step):
        part = (*before, slice(start, start + step))
        wide = x[part].astype(np.float64)
        if total is not None:
            first = wide[(*before, slice(0, 1))]
            ufunc(first, total, out=first)
        ufunc.accumulate(wide, axis=dim, out=wide)
        total = wide[(*before, slice(-1, None))]
        np.copyto(out[part], wide, casting="same_kind")


def recurrence(factor: np.ndarray, term: np.ndarray, dim: int, out: Out = None) -> np.ndarray:
    """out[i] = factor[i] * out[i - 1] + term[i] along `dim`: 1 us for each i, or 0.1 us an element of few columns."""
    out = np.empty(term.shape, term.dtype) if out is None else out
    a, b, made = (np.moveaxis(x, dim, 0) for x in (factor, term, out))
    n = len(made)
    if not made.size:
        return out
    if made.size // n < NARROW:
        for column in np.ndindex(made.shape[1:]):
            pairs = zip(a[(slice(None), *column)].tolist(), b[(slice(None), *column)].tolist(), strict=True)
            terms = accumulate(pairs, lambda before, pair: pair[0] * before + pair[1], initial=0.0)
            made[(slice(None), *column)] = list(terms)[1:]
        return out
    made[0] = b[0]
    for i in range(1, n):
        np.multiply(a[i], made[i - 1], out=made[i])
        np.add(made[i], b[i], out=made[i])
    return out


def sort(x: np.ndarray, dim: int, descending: bool) -> tuple[np.ndarray, np.ndarray]:
    """Values and int64 positions along `dim`; equal elements keep their order, nan counts as the largest."""
    if not descending:
        order = np.argsort(x, axis=dim, kind="stable")
    else:
        order = np.flip(np.argsort(np.flip(x, dim), axis=dim, kind="stable"), dim)
        order = np.subtract(x.shape[dim] - 1, order, order="C")
    return np.take_along_axis(x, order, dim), order


def flip(x: np.ndarray, dims: tuple[int, ...]) -> np.ndarray:
    """A view with the order along `dims` reversed."""
    return x[tuple(slice(None, None, -1 if d in dims else 1) for d in range(x.ndim))]


def _along(ufunc: np.ufunc, x: np.ndarray, axis: int) -> np.ndarray:
    out = np.empty(reduced_shape(x.shape, (axis,), True), x.dtype)
    reduce_into(ufunc, x, (axis,), out)
    return out


# The softmax and its relatives. `plan/softmax.py` takes the same steps one by one: no bit may differ.
def _exponentials(x: np.ndarray, axis: int, out: np.ndarray) -> np.ndarray:
    """Writes exp(x - max) and gives its sums."""
    np.subtract(x, _along(np.maximum, x, axis), out=out)
    np.exp(out, out=out)
    return _along(np.add, out, axis)


def _softmax(x: np.ndarray, axis: int, out: np.ndarray) -> None:
    """exp(x - max) / sum(exp(x - max))."""
    np.divide(out, _exponentials(x, axis, out), out=out)


def _log_softmax(x: np.ndarray, axis: int, out: np.ndarray) -> None:
    """x - max - log(sum(exp(x - max)))."""
    np.subtract(x, _along(np.maximum, x, axis), out=out)
    total = _along(np.add, np.exp(out), axis)
    np.subtract(out, np.log(total, out=total), out=out)


def _log_softmax_backward(x: np.ndarray, g: np.ndarray, axis: int, out: np.ndarray) -> None:
    """g - exp(x - max) * (sum(g) / sum(exp(x - max)))."""
    total = _exponentials(x, axis, out)
    np.multiply(out, np.divide(_along(np.add, g, axis), total, out=total), out=out)
    np.subtract(g, out, out=out)


def _softmax_backward(y: np.ndarray, g: np.ndarray, axis: int, out: np.ndarray) -> None:
    """g y - y sum(g y), with y the softmax."""
    np.multiply(g, y, out=out)
    np.subtract(out, np.multiply(y, _along(np.add, out, axis)), out=out)


def _normalizer(apply: Callable[..., None]) -> Callable[..., np.ndarray]:
    """A kernel that applies `apply` along `dim`.

    For rows of 100 it costs 1 ns an element: maxima 0.2, exp 0.4, and 0.2 for each pass with one number a row.
    """

    def kernel(*arrays: np.ndarray, dim: int, out: Out = None) -> np.ndarray:
        x = arrays[0]
        made = np.empty(x.shape, x.dtype) if out is None else out
        if not made.flags.c_contiguous:
            np.copyto(made, kernel(*arrays, dim=dim))
        elif x.size:
            before, n, after = collapse(x.shape, (dim,))  # type: ignore[misc]
            shape = (before, n) if after == 1 else (before, n, after)
            apply(*(contiguous(a).reshape(shape) for a in arrays), 1, made.reshape(shape))
        return made

    return kernel


for _name, _find in {"argmax": np.argmax, "argmin": np.argmin}.items():
    primitive(
        _name,
        _finder(_find),
        _found_shape,
        labels=_found,
        batch=shifted("dim"),
        attrs={"dim": "int", "keepdim": "bool"},
        traits={"into"},
        flops=lambda ins, outs, attrs: ins[0].size,
    )
for _name, _ufunc in {"cumsum": np.add, "cumprod": np.multiply}.items():
    primitive(
        _name,
        _running(_ufunc),
        _same,
        labels=_whole,
        batch=shifted("dim"),
        attrs={"dim": "int", "dtype": "dtype"},
        traits={"into"},
    )
primitive(
    "recurrence",
    recurrence,
    _floats(2),
    labels=_whole_both,
    batch=shifted("dim"),
    attrs={"dim": "int"},
    traits={"into"},
    flops=2,
)
primitive(
    "sort",
    sort,
    _sorted,
    labels=_whole_twice,
    batch=shifted("dim"),
    attrs={"dim": "int", "descending": "bool"},
    flops=20,
)
primitive("flip", flip, _same, labels=_whole, batch=shifted("dims"), attrs={"dims": "ints"}, traits={"view"})
for _name, _apply, _operands, _rule, _flops in (
    ("softmax", _softmax, 1, _whole, 15),
    ("log_softmax", _log_softmax, 1, _whole, 15),
    ("log_softmax_backward", _log_softmax_backward, 2, _whole_both, 18),
    ("softmax_backward", _softmax_backward, 2, _whole_both, 4),
):
    primitive(
        _name,
        _normalizer(_apply),
        _floats(_operands),
        labels=_rule,
        batch=shifted("dim"),
        attrs={"dim": "int"},
        traits={"into", "rounds"},
        flops=_flops,
    )
