"""Sorting and running totals: sort, argsort, topk, kthvalue, median, mode, cumsum, cumprod."""

from __future__ import annotations

import math
from typing import Any

from distgrad import session
from distgrad.dtype import BOOL, INT64, NAMES, dtype, float64
from distgrad.ops.base import Like, Tensor, Value, call, composite, constant, normal_dim, op
from distgrad.ops.declaration import named_tuple
from distgrad.ops.gathering import scatter
from distgrad.ops.helpers import numpy_dtype_of
from distgrad.ops.pointwise import refuse
from distgrad.ops.rearranging import flip
from distgrad.ops.reductions import _shared_by_all, at_index, check_not_empty, moved, numpy_names
from distgrad.ops.regrouping import compact, reshaped
from distgrad.ops.samples import positive, real
from distgrad.ops.slices import _along

__all__ = ["argsort", "cumprod", "cumsum", "kthvalue", "median", "mode", "msort", "nanmedian", "sort", "topk"]


# Sorting.
def _sorted(input: Value, dim: int, descending: bool) -> tuple[Value, Value]:
    if not input.shape:
        return input, constant(0, INT64)
    values, order = session.emit_all("sort", input, dim=dim, descending=bool(descending))
    return values, order


def _to_their_places(g: Tensor, dim: int, out: Any, like: Like) -> Tensor:
    """Each gradient goes where its element came from."""
    return scatter(like.zeros(), dim, out[1], g) if like.ndim else g


def _orders() -> list[Any]:
    return [(real(2, 3),), (real(4, 3), 0, True), (real(),)]


@op(
    name=lambda input, dim, descending, stable: f"SortBackward{int(stable)}",
    returns=("values", "indices"),
    input=_to_their_places,
    samples=_orders,
)
def sort(
    input: Value, dim: int = -1, descending: bool = False, *, stable: bool = False
) -> tuple[Value, Value]:
    """(values, indices) in rising order along `dim`. Equal elements keep their order; nan counts as the largest."""
    return _sorted(input, normal_dim(dim, len(input.shape)), descending)


@op(samples=_orders)
def argsort(input: Value, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Value:
    """The positions along `dim` from which `sort` takes its values."""
    return _sorted(input, normal_dim(dim, len(input.shape)), descending)[1]


@composite(samples=lambda: [real(3, 2)])
def msort(input: Tensor) -> Tensor:
    """The elements in rising order along dimension 0."""
    return sort(input, 0)[0]


def _piece(x: Value, dim: int, start: int, length: int) -> Value:
    return compact(session.part(x, _along(x.shape, dim, start, length)))


@op(
    returns=("values", "indices"),
    input=_to_their_places,
    samples=lambda: [(real(2, 4), 2), (real(4, 2), 3, 0, False), (real(), 1)],
)
def topk(
    input: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, Value]:
    """(values, indices) of the `k` largest elements along `dim`, the largest first; or of the smallest."""
    if input.dtype == BOOL:
        raise RuntimeError("topk does not support bool dtypes on CPU")
    d = normal_dim(dim, len(input.shape))
    if not 0 <= k <= (input.shape or (1,))[d]:
        raise RuntimeError("selected index k out of range")
    values, order = _sorted(input, d, largest)
    return (_piece(values, d, 0, k), _piece(order, d, 0, k)) if input.shape else (values, order)


# One element of the sorted ones.
def _ranked(input: Value, rank: int, d: int, keepdim: bool) -> tuple[Value, Value]:
    """Value and position of the element that would stand at `rank` along `d`."""
    if not input.shape:
        return input, constant(0, INT64)
    found = [_piece(x, d, rank, 1) for x in _sorted(input, d, False)]
    if not keepdim:
        found = [session.emit("squeeze_dims", x, dims=(d,)) for x in found]
    return found[0], found[1]


def _ranked_gradient(g: Tensor, dim: int, keepdim: bool, out: Any, like: Like) -> Tensor:
    return at_index(g, out[1], dim, keepdim, like)


@op(
    returns=("values", "indices"),
    input=_ranked_gradient,
    samples=lambda: [(real(2, 4), 2), (real(4, 2), 3, 0, True)],
)
def kthvalue(input: Value, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    """(values, indices) of the `k`-th smallest element along `dim`; `k` counts from 1."""
    refuse(input, "b", "kthvalue_cpu")
    d = normal_dim(dim, len(input.shape))
    if not 1 <= k <= (input.shape or (1,))[d]:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {d}")
    return _ranked(input, k - 1, d, keepdim)


def _with_nan(input: Value, d: int, keepdim: bool) -> tuple[Value, Value]:
    """The median along `d` and its position: the first nan where there is one."""
    n = input.shape[d] if input.shape else 1
    value, place = _ranked(input, (n - 1) // 2, d, keepdim)
    if input.dtype.kind != "f" or not input.shape:
        return value, place
    odd = session.emit("isnan", input)
    some = session.emit("any", odd, dims=(d,), keepdim=bool(keepdim))
    first = session.emit("argmax", odd, dim=d, keepdim=bool(keepdim))
    return (
        session.emit("where", some, constant(float("nan"), input.dtype), value),
        session.emit("where", some, first, place),
    )


@op(
    name="MedianBackward0",
    input=_shared_by_all,
    method=False,
    samples=lambda: [real(5), real(2, 2)],
)
def _median_whole(input: Value) -> Value:
    refuse(input, "b", "median_cpu")
    n = 1
    for m in input.shape:
        n *= m
    if not n:
        return constant(float("nan") if input.dtype.kind == "f" else -(2**63), input.dtype)
    return _with_nan(reshaped(input, (n,)), 0, False)[0]


@op(
    name="MedianBackward1",
    input=_ranked_gradient,
    method=False,
    samples=lambda: [(real(2, 4), 1), (real(3, 2), 0, True)],
)
def _median_dim(input: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    check_not_empty("median", input.shape, dim)
    refuse(input, "b", "median_out")
    return _with_nan(input, normal_dim(dim, len(input.shape)), keepdim)


_Median = named_tuple("median", ("values", "indices"))


@composite(samples=lambda: [(real(5),), (real(2, 4), 1)])
@numpy_names
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower median of all elements, or (values, indices) along `dim`."""
    return _median_whole(input) if dim is None else _Median(_median_dim(input, dim, keepdim))


# The middle one of those that are numbers.
def _of_numbers(input: Value, d: int, keepdim: bool) -> tuple[Value, Value]:
    """The median along `d` of what is not nan, and its position: nan is sorted behind all numbers."""
    if input.dtype.kind != "f" or not input.shape:
        return _ranked(input, ((input.shape or (1,))[d if input.shape else 0] - 1) // 2, d, keepdim)
    values, order = _sorted(input, d, False)
    known = session.emit("logical_not", session.emit("isnan", input))
    count = session.emit("sum", known, dims=(d,), keepdim=True, dtype="int64")
    last = session.emit("maximum", session.emit("subtract", count, constant(1, INT64)), constant(0, INT64))
    rank = session.emit("right_shift", last, constant(1, INT64))
    found = [session.emit("gather", x, rank, dim=d, size=x.shape[d]) for x in (values, order)]
    if not keepdim:
        found = [session.emit("squeeze_dims", x, dims=(d,)) for x in found]
    return found[0], found[1]


def _shared_by_equal(g: Tensor, input: Tensor, out: Tensor) -> Tensor:
    hit = call("where", call("isnan", out), call("isnan", input), input == out)
    return call("where", hit, g / call("sum", hit), 0.0)


@op(
    name="NanmedianBackward0",
    input=_shared_by_equal,
    method=False,
    samples=lambda: [real(5), real(2, 2)],
)
def _nanmedian_whole(input: Value) -> Value:
    refuse(input, "b", "median_cpu")
    n = math.prod(input.shape)
    if not n:
        return constant(float("nan") if input.dtype.kind == "f" else -(2**63), input.dtype)
    return _of_numbers(reshaped(input, (n,)), 0, False)[0]


@op(
    name="NanmedianBackward1",
    input=_ranked_gradient,
    method=False,
    samples=lambda: [(real(2, 4), 1), (real(3, 2), 0, True)],
)
def _nanmedian_dim(input: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    check_not_empty("median", input.shape, dim)
    refuse(input, "b", "median_out")
    return _of_numbers(input, normal_dim(dim, len(input.shape)), keepdim)


_Nanmedian = named_tuple("nanmedian", ("values", "indices"))


@composite(samples=lambda: [(real(5),), (real(2, 4), 1)])
@numpy_names
def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower median of all elements that are numbers, or (values, indices) along `dim`."""
    return _nanmedian_whole(input) if dim is None else _Nanmedian(_nanmedian_dim(input, dim, keepdim))


# The commonest one.
@op(
    returns=("values", "indices"),
    input=_ranked_gradient,
    samples=lambda: [(real(2, 4),), (real(3, 2), 0, True), (real(),)],
)
def mode(input: Value, dim: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    """(values, indices) of the commonest along `dim`: of equally common ones the smallest, at its last place."""
    d = normal_dim(dim, len(input.shape))
    check_not_empty("mode", input.shape, d)
    if not input.shape:
        return input, constant(0, INT64)
    values, places = session.emit_all("mode", input, dim=d, keepdim=bool(keepdim))
    return values, places


# Running totals.
def _reverse_cumsum(g: Tensor, dim: int) -> Tensor:
    return flip(cumsum(flip(g, (dim,)), dim), (dim,))


def _running(primitive: str, input: Value, dim: int, target: dtype | None) -> Value:
    otherwise = input.dtype if input.dtype.kind == "f" else INT64
    name = NAMES[numpy_dtype_of(target, otherwise)]
    d = normal_dim(dim, len(input.shape))
    if not input.shape:
        return session.emit("cast", input, dtype=name)
    return session.emit(primitive, input, dim=d, dtype=name)


@op(
    input=lambda g, dim: _reverse_cumsum(g, dim),
    inplace=True,
    samples=lambda: [(real(2, 3), 0), (real(2, 3), -1), (real(), 0)],
)
def cumsum(input: Value, dim: int, *, dtype: dtype | None = None) -> Value:
    """The sum of each element and those before it along `dim`."""
    return _running("cumsum", input, dim, dtype)


def _backwards(x: Tensor, dim: int) -> Tensor:
    return flip(x, (dim,))


def _later(factor: Tensor, g: Tensor, dim: int) -> Tensor:
    """s[i] = g[i] + factor[i + 1] * s[i + 1], from the end."""
    factor = moved(_backwards(factor, dim), dim, 0.0)
    return _backwards(_recurrence(factor, _backwards(g, dim), dim), dim)


@op(
    factor=lambda g, factor, dim, out: _later(factor, g, dim) * moved(out, dim, 0.0),
    term=lambda g, factor, dim: _later(factor, g, dim),
    method=False,
    samples=lambda: [(real(2, 3), real(2, 3, seed=1), 0), (real(2, 4), real(2, 4, seed=1), 1)],
)
def _recurrence(factor: Value, term: Value, dim: int) -> Value:
    """out[i] = factor[i] * out[i - 1] + term[i] along `dim`, where out[-1] is 0."""
    return session.emit("recurrence", factor, term, dim=normal_dim(dim, len(term.shape)))


def _cumprod_input(g: Tensor, input: Tensor, dim: int) -> Tensor:
    """The product of those before an element, times the sum over those from it on of g and what lies between.

    Nothing is divided by, so zeros, infinities and products beyond the dtype do no harm where they do not count.
    """
    if not input.dim() or not input.numel():
        return g
    input = input if input.dtype is float64 else call("_to_copy", input, float64)
    g = g if g.dtype is float64 else call("_to_copy", g, float64)
    return cumprod(moved(input, dim, 1.0), dim) * _later(input, g, dim)


@op(
    input=_cumprod_input,
    inplace=True,
    samples=lambda: [(positive(2, 3), 0), (positive(2, 3), -1), (real(), 0)],
)
def cumprod(input: Value, dim: int, *, dtype: dtype | None = None) -> Value:
    """The product of each element and those before it along `dim`."""
    return _running("cumprod", input, dim, dtype)
