"""References of ops that search, run along a dimension, combine elements and gather statistics: see `references.py`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from references import Array, reference, same
from scipy import linalg


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
