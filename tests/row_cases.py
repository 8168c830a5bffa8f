"""What has one dimension whole, such as sorts, searches and running sums, and what combines elements.

Cases of the primitives and, below, references of the ops (see `cases.py`, `references.py`).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from cases import case, flags, integers, normal
from references import Array, reference, same
from scipy import linalg, special


def recurrence(a: np.ndarray, b: np.ndarray, dim: int) -> np.ndarray:
    """The sum over j <= i of b[j] and the factors from j + 1 to i."""
    a, b = np.moveaxis(a, dim, 0), np.moveaxis(b, dim, 0)
    rows = [sum(b[j] * a[j + 1 : i + 1].prod(0) for j in range(i + 1)) for i in range(len(a))]
    return np.moveaxis(np.array(rows), 0, dim)


# One dimension whole.
for _name, _want in {"argmax": np.argmax, "argmin": np.argmin}.items():
    for _dim, _keepdim in ((0, False), (1, True), (1, False)):
        case(
            _name,
            lambda x, f=_want, d=_dim, k=_keepdim: f(x, d, keepdims=k),
            normal(6, 5),
            dim=_dim,
            keepdim=_keepdim,
        )
for _dim in (0, 1):
    case("cumsum", lambda x, d=_dim: x.cumsum(d), normal(6, 5), dim=_dim, dtype="float32")
    case("cumprod", lambda x, d=_dim: x.cumprod(d), normal(6, 5), dim=_dim, dtype="float32")
    case("recurrence", lambda a, b, d=_dim: recurrence(a, b, d), normal(6, 5), normal(6, 5), dim=_dim)
    for _descending in (False, True):
        case(
            "sort",
            lambda x, d=_dim, sign=1 - 2 * _descending: (
                np.take_along_axis(x, np.argsort(sign * x, d, kind="stable"), d),
                np.argsort(sign * x, d, kind="stable"),
            ),
            integers(8, 7, low=0, high=4),
            dim=_dim,
            descending=_descending,
        )
_wide = normal(5, 4, 6, dtype="float64"), normal(5, 4, 6, dtype="float64")
case("recurrence", lambda a, b: recurrence(a, b, 1), *_wide, dim=1)
case("recurrence", lambda a, b: recurrence(a, b, 0), normal(9), normal(9), dim=0)
case("cumsum", lambda x: x.cumsum(0), flags(9), dim=0, dtype="int64")
case("flip", lambda x: x[::-1, :, ::-1], normal(3, 4, 5), dims=(0, 2))
for _shape, _dim in (((6, 5), 1), ((6, 5), 0), ((4, 70), 1), ((3, 4, 5), 1), ((7,), 0)):
    case("softmax", lambda x, d=_dim: special.softmax(x, d), normal(*_shape), dim=_dim)
    case("log_softmax", lambda x, d=_dim: special.log_softmax(x, d), normal(*_shape), dim=_dim)
    case(
        "log_softmax_backward",
        lambda x, g, d=_dim: g - special.softmax(x, d) * g.sum(d, keepdims=True),
        normal(*_shape),
        normal(*_shape),
        dim=_dim,
    )
    case(
        "softmax_backward",
        lambda y, g, d=_dim: y * (g - (g * y).sum(d, keepdims=True)),
        normal(*_shape),
        normal(*_shape),
        dim=_dim,
    )

# Searching, and running extremes.
for _right in (False, True):
    _side = "right" if _right else "left"
    _row = np.sort(normal(6))
    case("searchsorted", lambda r, x, s=_side: np.searchsorted(r, x, s), _row, normal(4, 3), right=_right)
    case("searchsorted", None, np.sort(normal(3, 6)), normal(3, 4), right=_right)
case("running_max", None, normal(5, 4), dim=0)
case("running_min", None, integers(5, 4), dim=1)
case("logcumsumexp", lambda x: np.log(np.cumsum(np.exp(x), 1)), normal(4, 5), dim=1)


# The ops.
def along(rows: Array, x: Array, right: bool) -> Array:
    out = np.zeros(np.shape(x), np.int64)
    for at in np.ndindex(np.shape(x)):
        row = rows if rows.ndim == 1 else rows[at[:-1]]
        out[at] = sum(v <= np.asarray(x)[at] if right else v < np.asarray(x)[at] for v in row)
    return out


@reference("_places")
def _(rows: Array, x: Array, right: bool) -> Array:
    return along(rows, x, right)


@reference("searchsorted")
def _(rows: Array, x: Any, right: bool = False) -> Array:
    return along(rows, x, right)


@reference("bucketize")
def _(x: Any, rows: Array) -> Array:
    return along(rows, x, False)


@reference("histc")
def _(x: Array, bins: int = 100, low: float = 0, high: float = 0) -> Array:
    limits = (low, high) if low or high or not x.size else (x.min(), x.max())
    return np.histogram(x, bins, limits)[0].astype(float)


@reference("cummax")
def _(x: Array, dim: int) -> Any:
    return extremes(x, dim, np.maximum)


@reference("cummin")
def _(x: Array, dim: int) -> Any:
    return extremes(x, dim, np.minimum)


def extremes(x: Array, dim: int, ufunc: np.ufunc) -> Any:
    if not x.ndim:
        return x, np.array(0)
    values = ufunc.accumulate(x, dim)
    places = np.zeros(x.shape, np.int64)
    for at in np.ndindex(x.shape):
        line = np.moveaxis(x, dim, 0)[(slice(None), *(i for d, i in enumerate(at) if d != dim % x.ndim))]
        places[at] = max(i for i in range(at[dim] + 1) if line[i] == values[at])
    return values, places


@reference("diff")
def _(x: Array, n: int = 1, dim: int = -1, before: Any = None, after: Any = None) -> Array:
    more = {name: v for name, v in (("prepend", before), ("append", after)) if v is not None}
    return np.diff(x, n, dim, **more)


@reference("cumulative_trapezoid")
def _(y: Array, x: Array | None = None) -> Array:
    steps = np.diff(x) if x is not None else 1
    return np.cumsum((y[..., 1:] + y[..., :-1]) / 2 * steps, -1)


@reference("combinations")
def _(x: Array, r: int = 2, again: bool = False) -> Array:
    choose = itertools.combinations_with_replacement if again else itertools.combinations
    return np.array(list(choose(x.tolist(), r))).reshape(-1, r)


@reference("cdist")
def _(a: Array, b: Array, p: float = 2.0) -> Array:
    return (np.abs(a[..., :, None, :] - b[..., None, :, :]) ** p).sum(-1) ** (1 / p)


@reference("cov")
def _(x: Array, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Array:
    return np.cov(x, ddof=correction, fweights=fweights, aweights=aweights)


@reference("quantile")
def _(x: Array, q: Any, dim: Any = None, keepdim: bool = False) -> Array:
    return np.quantile(x, q, axis=dim, keepdims=keepdim)


same(
    isin=lambda x, among: np.isin(x, among),
    bincount=lambda x, weights=None, least=0: np.bincount(x, weights, least),
    logcumsumexp=lambda x, dim: np.log(np.cumsum(np.exp(x), dim)) if x.ndim else x,
    trapezoid=lambda y, x=None, dim=-1: np.trapezoid(y, x, axis=dim),
    cartesian_prod=lambda *v: np.array(list(itertools.product(*v))) if len(v) > 1 else v[0],
    block_diag=linalg.block_diag,
    kron=np.kron,
    vander=lambda x, n=None, rising=False: np.vander(x, n, rising),
    rot90=lambda x, k=1, dims=(0, 1): np.rot90(x, k, dims),
    dist=lambda a, b, p=2: np.linalg.norm((a - b).reshape(-1), p),
    cross=lambda a, b, dim=-1: np.cross(a, b, axis=dim),
    corrcoef=np.corrcoef,
)


def commonest(x: Array, dim: int = -1, keepdim: bool = False) -> tuple[Array, Array]:
    """Row by row, in Python."""
    if not x.ndim:
        return x, np.zeros((), np.int64)
    rows = np.moveaxis(x, dim, -1)
    found = np.empty(rows.shape[:-1], x.dtype), np.empty(rows.shape[:-1], np.int64)
    for at in np.ndindex(rows.shape[:-1]):
        row = rows[at].tolist()
        found[0][at] = min(row, key=lambda v: (-row.count(v), v))
        found[1][at] = max(i for i, v in enumerate(row) if v == found[0][at])
    return tuple(np.expand_dims(a, dim) if keepdim else a for a in found)  # type: ignore[return-value]


reference("mode")(commonest)
for _dim in (0, 1):
    case("mode", lambda x, d=_dim: commonest(x, d), integers(7, 6, low=0, high=3), dim=_dim, keepdim=False)
    case("mode", lambda x, d=_dim: commonest(x, d, True), normal(4, 5).round(), dim=_dim, keepdim=True)
case("mode", lambda x: commonest(x, 1), flags(4, 6), dim=1, keepdim=False)


@reference("renorm")
def _(x: Array, p: float, dim: int, most: float) -> Array:
    rows = np.moveaxis(x, dim, 0)
    rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    size = np.abs(rows).max(1) if p == math.inf else np.linalg.norm(rows, p, axis=1)
    shape = [-1 if d == dim % x.ndim else 1 for d in range(x.ndim)]
    return x * np.where(size > most, most / (size + 1e-7), 1).reshape(shape)


@reference("put")
def _(x: Array, index: Array, source: Array, accumulate: bool = False) -> Array:
    out = x.copy()
    if accumulate:
        np.add.at(out.reshape(-1), index, source)
    else:
        np.put(out, index, source)
    return out


same(diagflat=np.diagflat)
