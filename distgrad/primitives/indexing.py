"""Reading and writing at positions that are data: take, gather, scatter, scatter_add, index_add, index_put.

Indices are int64. Each kernel checks them against the full length `size` of the dimension, also where it holds a
piece of it, and raises torch's errors. Sums over equal indices are made in `grouped.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.primitives.base import Attrs, Pick, Place, Primitive, Rows, primitive
from distgrad.primitives.batching import Batch, back, front, shifted
from distgrad.primitives.grouped import add_elements, add_rows
from distgrad.primitives.index_rules import (
    _added,
    _added_each,
    _gather_labels,
    _gathered,
    _index_add_labels,
    _index_put_labels,
    _put,
    _replaced,
    _scatter_add_labels,
    _scatter_labels,
    _scattered,
    _take_labels,
    _taken,
)
from distgrad.primitives.reductions import collapse, contiguous, row_starts

Out = np.ndarray | None


# Checks.
def _all_within(idx: np.ndarray, size: int) -> bool:
    """Whether all indices are in `0:size`: read without sign, negative ones are the largest, so one pass tells it."""
    return idx.size == 0 or np.maximum.reduce(idx.view(np.uint64), axis=None) < size


def _first_outside(idx: np.ndarray, low: int, size: int) -> int | None:
    """The first index that is not in `low:size`; None where all are."""
    if idx.size == 0 or (idx.min() >= low and idx.max() < size):
        return None
    flat = idx.reshape(-1)
    return int(flat[np.argmax((flat < low) | (flat >= size))])


def positions(idx: np.ndarray, dim: int, size: int) -> np.ndarray:
    """Indices that may be negative, as positions from the front."""
    if _all_within(idx, size):
        return idx
    if (wrong := _first_outside(idx, -size, size)) is not None:
        raise IndexError(f"index {wrong} is out of bounds for dimension {dim} with size {size}")
    return np.where(idx < 0, idx + size, idx)


def within(idx: np.ndarray, size: int) -> np.ndarray:
    """Indices that may not be negative; errors are worded as for `index_select` and `embedding`."""
    if not _all_within(idx, size):
        raise IndexError("index out of range in self")
    return idx


def _check_positions(idx: np.ndarray, dim: int, size: int) -> np.ndarray:
    """Indices that may not be negative; errors are worded as for `gather` and `scatter`."""
    if not _all_within(idx, size) and (wrong := _first_outside(idx, 0, size)) is not None:
        raise RuntimeError(f"index {wrong} is out of bounds for dimension {dim} with size {size}")
    return idx


def _row_numbers(idx: np.ndarray, dim: int, size: int, wrap: bool) -> np.ndarray:
    """The indices of `take`, checked, from the front."""
    return positions(idx, dim, size) if wrap else within(idx, size)


# Kernels.
def take(
    x: np.ndarray,
    idx: np.ndarray,
    dim: int,
    size: int,
    wrap: bool,
    at: Place,
    out: Out = None,
    onto: Out = None,
) -> np.ndarray:
    """`x` at the positions `idx` along `dim`; zeros (or what is in `onto`) for positions outside of the piece x.

    With `wrap` negative indices count from the end and errors are worded as for `x[idx]`; without it as for
    `index_select` and `embedding`. `np.take` by rows costs 0.3 ns an element if x lies in the cache and 0.8 if not,
    `x[idx]` 3; but `np.take` copies an x that is not in C order.
    """
    idx = _row_numbers(idx, dim, size, wrap)
    lo, hi = at.ins[0][dim]
    if out is None:
        out = np.empty((*x.shape[:dim], len(idx), *x.shape[dim + 1 :]), x.dtype) if onto is None else onto
    if (lo, hi) == (0, size):
        if x.flags.c_contiguous or x.size <= out.size:
            return np.take(x, idx, axis=dim, out=out, mode="clip")
        out.swapaxes(0, dim)[...] = x.swapaxes(0, dim)[idx]
        return out
    if onto is None:
        out[...] = 0
    inside = np.flatnonzero((idx >= lo) & (idx < hi))
    if inside.size:
        out.swapaxes(0, dim)[inside] = np.take(x, idx[inside] - lo, axis=dim, mode="clip").swapaxes(0, dim)
    return out


def _linear(idx: np.ndarray, dim: int, size: int) -> np.ndarray:
    """For idx along `dim`: the positions in the flattened array whose `dim` has length `size`, in idx's shape."""
    before, n, after = collapse(idx.shape, (dim,))  # type: ignore[misc]
    if n == after == 1:
        return (idx.reshape(-1) + row_starts(before, size)).reshape(idx.shape)
    flat = idx.reshape(before, n, after)
    if after > 1:
        flat = flat * after + np.arange(after)
    if before > 1:
        flat = flat + row_starts(before, size * after)[:, None, None]
    return flat.reshape(idx.shape)


def gather(x: np.ndarray, idx: np.ndarray, dim: int, size: int, at: Place, out: Out = None) -> np.ndarray:
    """out[i][j][k] = x[i][idx[i][j][k]][k] for dim 1, and so on; zeros where the position lies outside x's piece."""
    _check_positions(idx, dim, size)
    out = np.empty(idx.shape, x.dtype) if out is None else out
    lo, hi = at.ins[0][dim]
    if x.size == 0:
        out[...] = 0
    elif (lo, hi) == (0, size):
        np.take(contiguous(x).reshape(-1), _linear(idx, dim, size), out=out, mode="clip")
    else:
        inside = (idx >= lo) & (idx < hi)
        local = np.where(inside, idx - lo, 0)
        np.take(contiguous(x).reshape(-1), _linear(local, dim, hi - lo), out=out, mode="clip")
        np.copyto(out, 0, where=~inside)
    return out


def scatter_add(idx: np.ndarray, src: np.ndarray, dim: int, size: int, out: Out = None) -> np.ndarray:
    """Zeros, and out[i][idx[i][j][k]][k] += src[i][j][k] for dim 1, and so on. 1 to 3 ns an element."""
    _check_positions(idx, dim, size)
    made = out
    if made is None or not made.flags.c_contiguous:
        made = np.empty((*src.shape[:dim], size, *src.shape[dim + 1 :]), src.dtype)
    made[...] = 0
    if src.size:
        add_elements(_linear(idx, dim, size).reshape(-1), contiguous(src).reshape(-1), made.reshape(-1))
    return made if out is None or made is out else _into(made, out)


def scatter_subtract(
    x: np.ndarray, w: np.ndarray, idx: np.ndarray, src: np.ndarray, dim: int, size: int, out: Out = None
) -> np.ndarray:
    """`scatter_zeros` less x * w, where w is the same along `dim`: one pass over x, and one element for each of src."""
    _check_positions(idx, dim, size)
    made = out
    if made is None or not made.flags.c_contiguous:
        made = np.empty(x.shape, x.dtype)
    np.multiply(x, np.subtract(0, w), out=made)  # no zero becomes negative where w is zero
    if src.size:
        places, flat = _linear(idx, dim, size).reshape(-1), made.reshape(-1)
        flat[places] = np.take(flat, places, mode="clip") + src.reshape(-1)  # src - x * w, to the bit
    return made if out is None or made is out else _into(made, out)


def index_add(
    idx: np.ndarray, src: np.ndarray, dim: int, size: int, at: Place, out: Out = None, onto: Out = None
) -> np.ndarray:
    """Zeros, and out[idx[j]] += src[j] for dim 0, and so on; negative indices count from the end.

    Where the result is a piece of the whole, what lies outside it is left out. With `onto` it is added to that array
    instead of zeros, which must be in C order.
    """
    idx = positions(idx, dim, size)
    lo, hi = at.outs[0][dim]
    if (lo, hi) != (0, size):
        inside = np.flatnonzero((idx >= lo) & (idx < hi))
        idx, src = idx[inside] - lo, np.take(src, inside, axis=dim)
    if onto is not None and onto.shape[dim] == hi - lo and onto.flags.c_contiguous:
        _add_rows(idx, src, dim, onto)
        return onto
    if onto is not None:
        raise ValueError(f"no array of {hi - lo} rows in C order: {onto.shape}")
    made = out
    if made is None or not made.flags.c_contiguous:
        made = np.empty((*src.shape[:dim], hi - lo, *src.shape[dim + 1 :]), src.dtype)
    made[...] = 0
    _add_rows(idx, src, dim, made)
    return made if out is None else _into(made, out)


def _add_rows(idx: np.ndarray, src: np.ndarray, dim: int, made: np.ndarray) -> None:
    """made[idx[j]] += src[j] for dim 0, and so on."""
    before, n, after = collapse(src.shape, (dim,))  # type: ignore[misc]
    if len(idx) != n or (before, after) != (math.prod(made.shape[:dim]), math.prod(made.shape[dim + 1 :])):
        raise ValueError(f"{len(idx)} rows of {src.shape} cannot be added to {made.shape}")
    if src.size == 0:
        return
    if before > 1:
        idx = (idx + np.arange(before)[:, None] * made.shape[dim]).reshape(-1)
    if after == 1:
        add_elements(idx, src.reshape(-1), made.reshape(-1))
    else:
        add_rows(idx, src.reshape(-1, after), made.reshape(-1, after))


def scatter(
    base: np.ndarray, idx: np.ndarray, src: np.ndarray, dim: int, size: int, out: Out = None
) -> np.ndarray:
    """base, but out[i][idx[i][j][k]][k] = src[i][j][k] for dim 1, and so on; the last of equal indices wins."""
    _check_positions(idx, dim, size)
    made = out
    if made is None or not made.flags.c_contiguous:
        made = np.empty(base.shape, base.dtype)
    np.copyto(made, base)
    made.reshape(-1)[_linear(idx, dim, size).reshape(-1)] = src.reshape(-1)
    return made if out is None or made is out else _into(made, out)


def scatter_zeros(
    base: np.ndarray, idx: np.ndarray, src: np.ndarray, dim: int, size: int, out: Out = None
) -> np.ndarray:
    """`scatter` onto a base that is all zeros, for idx of length 1 along `dim`. No zero in the result is negative."""
    _check_positions(idx, dim, size)
    made = out
    if made is None or not made.flags.c_contiguous:
        made = np.empty(base.shape, base.dtype)
    made[...] = 0
    made.reshape(-1)[_linear(idx, dim, size).reshape(-1)] = src.reshape(-1) + 0
    return made if out is None or made is out else _into(made, out)


# What compiled loops make of an element, if `there` is an index of its row; each row has one.
def _added_to_zeros(b: Any, there: Any, src: Any) -> Any:
    zero = b.like(src, 0)
    return b.select(there, b.add(src, zero), zero)


def _subtracted(b: Any, there: Any, x: Any, w: Any, src: Any) -> Any:
    made = b.multiply(x, b.subtract(b.like(w, 0), w))
    return b.select(there, b.add(made, src), made)


def index_put(
    base: np.ndarray, idx: np.ndarray, src: np.ndarray, size: int, at: Place, out: Out = None
) -> np.ndarray:
    """base, but out[idx] = src along dimension 0; the last of equal indices wins, negative ones count back."""
    idx = positions(idx, 0, size)
    made = np.array(base, order="C")
    lo, hi = at.ins[0][0]
    inside = np.flatnonzero((idx >= lo) & (idx < hi))
    made[idx[inside] - lo] = src[inside]
    return _into(made, out)


def _into(made: np.ndarray, out: Out) -> np.ndarray:
    if out is None:
        return made
    np.copyto(out, made)
    return out


# Batching: with indices for each sample, what works on rows works on elements.
def _take_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    (x, idx), (_, each), dim, size = xs, flags, attrs["dim"], attrs["size"]
    if not each:
        return batch.apply(made.name, xs, {**attrs, "dim": dim + 1})
    if flags[0]:
        shape = _replaced(x.shape, dim + 1, idx.shape[1])
        places = batch.spread(batch.places(idx, size, attrs["wrap"]), shape, dim + 1)  # type: ignore[arg-type]
        return (batch.emit("gather", x, places, dim=dim + 1, size=size),)
    flat = batch.emit("reshape", idx, shape=(math.prod(idx.shape),))
    ndim = len(x.shape)
    x = batch.emit("permute", x, dims=front(ndim, dim)) if dim else x
    rows = batch.emit(made.name, x, flat, **{**attrs, "dim": 0})
    rows = batch.emit("reshape", rows, shape=(*idx.shape, *rows.shape[1:]))
    return (batch.emit("permute", rows, dims=(0, *(d + 1 for d in back(ndim, dim)))) if dim else rows,)


def _index_add_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    (idx, src), (each, _), dim, size = xs, flags, attrs["dim"], attrs["size"]
    src = batch.full(src, flags[1])
    if not each:
        return batch.apply(made.name, (idx, src), {"dim": dim + 1, "size": size})
    places = batch.spread(batch.places(idx, size), src.shape, dim + 1)
    return (batch.emit("scatter_add", places, src, dim=dim + 1, size=size),)


def _index_put_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    base, idx, src = (x if i == 1 else batch.full(x, flags[i]) for i, x in enumerate(xs))
    if flags[1]:
        places = batch.spread(batch.places(idx, attrs["size"]), src.shape, 1)
        return (batch.emit("scatter", base, places, src, dim=1, size=attrs["size"]),)
    order = (1, 0, *range(2, len(base.shape)))
    base, src = (batch.emit("permute", x, dims=order) for x in (base, src))
    return (batch.emit("permute", batch.emit(made.name, base, idx, src, **attrs), dims=order),)


ALONG = {"dim": "int", "size": "int"}
primitive(
    "take",
    take,
    _taken,
    labels=_take_labels,
    batch=_take_batched,
    attrs={**ALONG, "wrap": "bool"},
    traits={"into", "placed", "onto"},
    lower=Rows(_row_numbers, lambda dim, size, wrap: dim == 0),
)
primitive(
    "gather",
    gather,
    _gathered,
    labels=_gather_labels,
    batch=shifted("dim"),
    attrs=ALONG,
    traits={"into", "placed"},
    lower=Pick(_check_positions, 1),
)
primitive(
    "scatter_add",
    scatter_add,
    _added_each,
    labels=_scatter_add_labels,
    batch=shifted("dim"),
    attrs=ALONG,
    traits={"into", "rounds"},
    lower=Pick(_check_positions, 0, _added_to_zeros, "fi"),
)
primitive(
    "index_add",
    index_add,
    _added,
    labels=_index_add_labels,
    batch=_index_add_batched,
    attrs=ALONG,
    traits={"into", "placed", "onto", "rounds"},
)
for _kernel, _lower in (
    (scatter, Pick(_check_positions, 1, lambda b, there, base, src: b.select(there, src, base))),
    (
        scatter_zeros,
        Pick(_check_positions, 1, lambda b, there, base, src: _added_to_zeros(b, there, src), "fi"),
    ),
    (scatter_subtract, Pick(_check_positions, 2, _subtracted, "f")),
):
    primitive(
        _kernel.__name__,
        _kernel,
        _scattered,
        labels=_scatter_labels,
        batch=shifted("dim"),
        attrs=ALONG,
        traits={"into"},
        lower=_lower,
    )
primitive(
    "index_put",
    index_put,
    _put,
    labels=_index_put_labels,
    batch=_index_put_batched,
    attrs={"size": "int"},
    traits={"into", "placed"},
)
