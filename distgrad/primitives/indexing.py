"""Reading and writing at positions that are data: take, gather, scatter, scatter_add, index_add, index_put.

Indices are int64. Each kernel checks them against the full length `size` of the dimension, also where it holds a
piece of it, and raises torch's errors. Sums over equal indices are added in the order of the indices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from distgrad.primitives.base import Attrs, Aval, Labels, Place, primitive
from distgrad.primitives.reductions import collapse, contiguous

Out = np.ndarray | None


# Checks.
def _first_outside(idx: np.ndarray, low: int, size: int) -> int | None:
    """The first index that is not in `low:size`; None where all are."""
    if idx.size == 0 or (idx.min() >= low and idx.max() < size):
        return None
    flat = idx.reshape(-1)
    return int(flat[np.argmax((flat < low) | (flat >= size))])


def _positions(idx: np.ndarray, dim: int, size: int) -> np.ndarray:
    """Indices that may be negative, as positions from the front."""
    if (wrong := _first_outside(idx, -size, size)) is not None:
        raise IndexError(f"index {wrong} is out of bounds for dimension {dim} with size {size}")
    return np.where(idx < 0, idx + size, idx) if idx.size and idx.min() < 0 else idx


def _check_positions(idx: np.ndarray, dim: int, size: int) -> None:
    if (wrong := _first_outside(idx, 0, size)) is not None:
        raise RuntimeError(f"index {wrong} is out of bounds for dimension {dim} with size {size}")


# Kernels.
def take(
    x: np.ndarray, idx: np.ndarray, dim: int, size: int, wrap: bool, at: Place, out: Out = None
) -> np.ndarray:
    """`x` at the positions `idx` along `dim`; zeros where a position lies outside the piece that x is.

    With `wrap` negative indices count from the end and errors are worded as for `x[idx]`; without it as for
    `index_select` and `embedding`. `np.take` by rows costs 0.4 ns an element, `x[idx]` 3.
    """
    if wrap:
        idx = _positions(idx, dim, size)
    elif _first_outside(idx, 0, size) is not None:
        raise IndexError("index out of range in self")
    lo, hi = at.ins[0][dim]
    if (lo, hi) == (0, size):
        return np.take(x, idx, axis=dim, out=out, mode="clip")
    if out is None:
        out = np.empty((*x.shape[:dim], len(idx), *x.shape[dim + 1 :]), x.dtype)
    out[...] = 0
    inside = np.flatnonzero((idx >= lo) & (idx < hi))
    if inside.size:
        out.swapaxes(0, dim)[inside] = np.take(x, idx[inside] - lo, axis=dim, mode="clip").swapaxes(0, dim)
    return out


def _linear(idx: np.ndarray, dim: int, size: int) -> np.ndarray:
    """For idx along `dim`: the positions in the flattened array whose `dim` has length `size`, in idx's shape."""
    before, n, after = collapse(idx.shape, (dim,))  # type: ignore[misc]
    flat = idx.reshape(before, n, after)
    if after > 1:
        flat = flat * after + np.arange(after)
    if before > 1:
        flat = flat + np.arange(before)[:, None, None] * (size * after)
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
    made = np.zeros((*src.shape[:dim], size, *src.shape[dim + 1 :]), src.dtype)
    if src.size:
        np.add.at(made.reshape(-1), _linear(idx, dim, size).reshape(-1), contiguous(src).reshape(-1))
    return _into(made, out)


def index_add(idx: np.ndarray, src: np.ndarray, dim: int, size: int, out: Out = None) -> np.ndarray:
    """Zeros, and out[idx[j]] += src[j] for dim 0, and so on; negative indices count from the end.

    Rows are added in order by SciPy's product of a sparse matrix in column form, 0.4 ns an element; `np.add.at` takes
    12 for rows, and 1.2 for single elements, where it is the faster.
    """
    idx = _positions(idx, dim, size)
    shape = (*src.shape[:dim], size, *src.shape[dim + 1 :])
    if src.size == 0:
        made = np.zeros(shape, src.dtype)
    elif src.ndim == 1:
        made = np.zeros(shape, src.dtype)
        np.add.at(made, idx, src)
    else:
        rows = np.moveaxis(src, dim, 0)
        selection = sparse.csc_array(
            (np.ones(len(idx), src.dtype), idx, np.arange(len(idx) + 1)), (size, len(idx))
        )
        made = selection @ contiguous(rows).reshape(len(idx), -1)
        made = np.moveaxis(made.reshape(size, *rows.shape[1:]), 0, dim)
    return _into(made, out)


def scatter(
    base: np.ndarray, idx: np.ndarray, src: np.ndarray, dim: int, size: int, out: Out = None
) -> np.ndarray:
    """base, but out[i][idx[i][j][k]][k] = src[i][j][k] for dim 1, and so on; the last of equal indices wins."""
    _check_positions(idx, dim, size)
    made = np.array(base, order="C")
    made.reshape(-1)[_linear(idx, dim, size).reshape(-1)] = src.reshape(-1)
    return _into(made, out)


def index_put(
    base: np.ndarray, idx: np.ndarray, src: np.ndarray, size: int, at: Place, out: Out = None
) -> np.ndarray:
    """base, but out[idx] = src along dimension 0; the last of equal indices wins, negative ones count back."""
    idx = _positions(idx, 0, size)
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


# Shapes and labels.
def _replaced(shape: Sequence[int | None], dim: int, n: int | None) -> tuple[int | None, ...]:
    return (*shape[:dim], n, *shape[dim + 1 :])


def _taken(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    x, idx = avals
    return (Aval(_replaced(x.shape, attrs["dim"], idx.shape[0]), x.dtype),)  # type: ignore[arg-type]


def _added(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    src = avals[1]
    return (Aval(_replaced(src.shape, attrs["dim"], attrs["size"]), src.dtype),)  # type: ignore[arg-type]


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
    labels = tuple(range(len(avals[1].shape)))
    return Labels(((attrs["dim"],), labels), (_replaced(labels, attrs["dim"], None),), "add")


def _scatter_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    labels = _replaced(range(len(avals[0].shape)), attrs["dim"], None)
    return Labels((labels, labels, labels), (labels,))


def _index_put_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    labels = tuple(range(len(avals[0].shape)))
    return Labels((labels, (None,), _replaced(labels, 0, None)), (labels,))


ALONG = {"dim": "int", "size": "int"}
primitive("take", take, _taken, labels=_take_labels, attrs={**ALONG, "wrap": "bool"}, into=True, placed=True)
primitive(
    "gather",
    gather,
    lambda avals, attrs: (Aval(avals[1].shape, avals[0].dtype),),
    labels=_gather_labels,
    attrs=ALONG,
    into=True,
    placed=True,
)
primitive("scatter_add", scatter_add, _added, labels=_scatter_add_labels, attrs=ALONG, into=True)
primitive("index_add", index_add, _added, labels=_index_add_labels, attrs=ALONG, into=True)
primitive(
    "scatter", scatter, lambda avals, attrs: (avals[0],), labels=_scatter_labels, attrs=ALONG, into=True
)
primitive(
    "index_put",
    index_put,
    lambda avals, attrs: (avals[0],),
    labels=_index_put_labels,
    attrs={"size": "int"},
    into=True,
    placed=True,
)
