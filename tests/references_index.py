"""References of ops that read and write at indices and masks: see `references.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from references import Array, reference, same


# Indices, written as loops over all of them.
def each(index: Array, dim: int) -> Any:
    """For each place in `index` the place, and the place with the index put in along `dim`."""
    for at in np.ndindex(index.shape):
        there = list(at)
        there[dim] = int(index[at])
        yield at, tuple(there)


@reference("gather")
def gather(x: Array, dim: int, index: Array) -> Array:
    out = np.zeros(index.shape, x.dtype)
    for at, there in each(index, dim):
        out[at] = x[there]
    return out


@reference("scatter")
def _(x: Array, dim: int, index: Array, src: Any) -> Array:
    x = x.copy()
    for at, there in each(index, dim):
        x[there] = src[at] if isinstance(src, Array) else src
    return x


UFUNCS = {"sum": np.add, "mean": np.add, "prod": np.multiply, "amax": np.maximum, "amin": np.minimum}


@reference("scatter_reduce")
def scatter_reduce(
    x: Array, dim: int, index: Array, src: Array, reduce: str, include_self: bool = True
) -> Array:
    x, count = x.copy(), np.full(x.shape, int(include_self))
    for at, there in each(index, dim):
        x[there] = UFUNCS[reduce](x[there], src[at]) if count[there] else src[at]
        count[there] += 1
    if reduce != "mean":
        return x
    return (x / np.maximum(count, 1)) if x.dtype.kind == "f" else x // np.maximum(count, 1)


@reference("index_reduce")
def _(x: Array, dim: int, index: Array, source: Array, reduce: str, include_self: bool = True) -> Array:
    wide = np.expand_dims(index, [d for d in range(x.ndim) if d != dim % x.ndim])
    return scatter_reduce(x, dim, np.broadcast_to(wide, source.shape), source, reduce, include_self)


@reference("_once")
def _(x: Array, several: Array) -> Array:
    return x


@reference("scatter_add")
def _(x: Array, dim: int, index: Array, src: Array) -> Array:
    x = x.copy()
    for at, there in each(index, dim):
        x[there] += src[at]
    return x


def write_slices(x: Array, dim: int, index: Array, write: Callable[[Array, int, int], None]) -> Array:
    x = x.copy()
    front = np.moveaxis(x, dim, 0)
    for i, place in enumerate(index):
        write(front, i, int(place))
    return x


@reference("index_add")
def _(x: Array, dim: int, index: Array, source: Array, alpha: float = 1) -> Array:
    def write(front: Array, i: int, place: int) -> None:
        front[place] += np.asarray(alpha).astype(x.dtype) * np.moveaxis(source, dim, 0)[i]

    return write_slices(x, dim, index, write)


@reference("index_copy")
def _(x: Array, dim: int, index: Array, source: Array) -> Array:
    def write(front: Array, i: int, place: int) -> None:
        front[place] = np.moveaxis(source, dim, 0)[i]

    return write_slices(x, dim, index, write)


@reference("index_fill")
def _(x: Array, dim: int, index: Array, value: Any) -> Array:
    def write(front: Array, i: int, place: int) -> None:
        front[place] = value

    return write_slices(x, dim, index, write)


@reference("take_along_dim")
def _(x: Array, index: Array, dim: int | None = None) -> Array:
    if dim is None:
        x, index = x.reshape(-1), index.reshape(-1)
    return np.take_along_axis(x, index, dim or 0)


@reference("_put_flat")
def _(x: Array, index: Array, shape: Any) -> Array:
    out = np.zeros(math.prod(shape), x.dtype)
    np.add.at(out, index.reshape(-1), x.reshape(-1))
    return out.reshape(shape)


same(index_select=lambda x, dim, index: np.take(x, index, dim), take=np.take)


# Masks, and tensors as indices.
def key(x: Array, dims: Any, indices: Any) -> tuple[Any, ...]:
    """The index that has `indices` at `dims`; NumPy puts what they choose where torch does, or in front if apart."""
    found = dict(zip(dims, indices, strict=True))
    return tuple(found.get(d, slice(None)) for d in range(x.ndim))


def placed(x: Array, dims: Any, indices: Any) -> tuple[Array, tuple[Any, ...]]:
    """A view of x with `dims` side by side, at the first of them, and the key for it."""
    first, rest = dims[0], [d for d in range(x.ndim) if d not in dims]
    view = x.transpose([*rest[:first], *dims, *rest[first:]])
    return view, key(view, range(first, first + len(dims)), indices)


def put(x: Array, key: Any, values: Any, accumulate: bool) -> None:
    np.add.at(x, key, values) if accumulate else x.__setitem__(key, values)


@reference("_index")
def _(x: Array, indices: Any, dims: Any) -> Array:
    view, where = placed(x, dims, indices)
    return view[where]


@reference("_index_sum")
def _(x: Array, indices: Any, dims: Any, shape: Any) -> Array:
    out = np.zeros(shape, x.dtype)
    put(*placed(out, dims, indices), x, True)
    return out


@reference("_put_at")
def _(x: Array, indices: Any, values: Array, dims: Any, accumulate: bool) -> Array:
    out = x.copy()
    put(*placed(out, dims, indices), values, accumulate)
    return out


@reference("_put_where")
def _(x: Array, mask: Array, values: Array, dim: int, accumulate: bool) -> Array:
    out = x.copy()
    put(out, (slice(None),) * dim + (mask,), values, accumulate)
    return out


@reference("index_put")
def _(x: Array, indices: Any, values: Array, accumulate: bool = False) -> Array:
    out = x.copy()
    put(out, tuple(slice(None) if i is None else i for i in indices), values, accumulate)
    return out


@reference("_unchoose")
def _(x: Array, mask: Array, dim: int) -> Array:
    out = np.zeros((*x.shape[:dim], *mask.shape, *x.shape[dim + 1 :]), x.dtype)
    out[(slice(None),) * dim + (mask,)] = x
    return out


@reference("masked_scatter")
def _(x: Array, mask: Array, source: Array) -> Array:
    x, mask = (a.copy() for a in np.broadcast_arrays(x, mask))
    x[mask] = source.reshape(-1)[: mask.sum()]
    return x


@reference("masked_select")
def _(x: Array, mask: Array) -> Array:
    x, mask = np.broadcast_arrays(x, mask)
    return x[mask]


same(
    alias=np.copy,
    _choose=lambda x, mask, dim: x[(slice(None),) * dim + (mask,)],
    _masked_select=lambda x, mask: x[mask],
    masked_fill=lambda x, mask, value: np.where(mask, np.asarray(value).astype(x.dtype), x),
    _nonzero=np.argwhere,
    _nonzero_tuple=np.nonzero,
    nonzero=lambda x, as_tuple=False: np.nonzero(x) if as_tuple else np.argwhere(x),
    argwhere=np.argwhere,
)
