"""Reductions over dimensions: sum, prod, amax, amin, any, all.

The bits of a floating sum depend on the order of the additions, and NumPy's order follows the strides. So the
kernels here work on C-contiguous arrays, which they make where need be: the same shape and values give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from distgrad.caching import remembered
from distgrad.primitives.base import (
    DTYPES,
    Attrs,
    Aval,
    Fold,
    Labels,
    Shape,
    ShapeRule,
    expect_dims,
    primitive,
)
from distgrad.primitives.batching import shifted
from distgrad.primitives.blas import matmul

Out = np.ndarray | None
Ints = tuple[int, ...]
Identity = Callable[[np.dtype], Any]

SHORT = 64  # rows shorter than this are transposed first: NumPy's loop for each row costs more than the copy
GEMV = 512  # longer rows are summed pairwise by NumPy, which is more exact than BLAS
LONG = 8192  # from so many terms on a sum is made of parts of all at once
FOLD = 1024  # columns fewer than this are laid side by side before rows are combined
BLOCK = 64  # rows that are added one after the other


def contiguous(x: np.ndarray) -> np.ndarray:
    """`x`, or a copy, in C order; unlike NumPy's function it leaves 0 dimensions at 0."""
    return x if x.flags.c_contiguous else np.array(x, order="C")


@lru_cache(maxsize=64)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    return np.ones(n, dtype)


@remembered(8 << 20, lambda _, made: 200 + made.nbytes)
def row_starts(rows: int, n: int) -> np.ndarray:
    """Where the rows of a C-contiguous array of `rows` by `n` begin in its memory."""
    return np.arange(rows) * n


@lru_cache(maxsize=4096)
def collapse(shape: Shape, dims: Ints) -> tuple[int, int, int] | None:
    """`shape` as (before, along, after) where `dims` are neighbours, else None."""
    if not dims or dims[-1] - dims[0] >= len(dims):
        return None
    return (
        math.prod(shape[: dims[0]]),
        math.prod(shape[dims[0] : dims[-1] + 1]),
        math.prod(shape[dims[-1] + 1 :]),
    )


@lru_cache(maxsize=4096)
def reduced_shape(shape: Shape, dims: Ints, keepdim: bool) -> Shape:
    """`shape` with `dims` set to 1, or left out."""
    return tuple(1 if d in dims else n for d, n in enumerate(shape) if keepdim or d not in dims)


def reduce_into(ufunc: np.ufunc, x: np.ndarray, dims: Ints, out: np.ndarray) -> None:
    """Write `ufunc.reduce(x, dims)` into contiguous `out`, in an order fixed by the shape; `x` is not empty.

    Sums are as exact as pairwise ones, whichever dimensions they run along: see `_folded` and `_add_in_blocks`.
    """
    x = contiguous(x)
    three = collapse(x.shape, dims)
    if three is None:  # one run of neighbours after the other, from the last
        first = max(d for i, d in enumerate(dims) if not i or dims[i - 1] < d - 1)
        last = tuple(d for d in dims if d >= first)
        made = np.empty(reduced_shape(x.shape, last, False), x.dtype)
        reduce_into(ufunc, x, last, made)
        reduce_into(ufunc, made, dims[: -len(last)], out)
        return
    before, n, after = three
    if before == after == 1:
        ufunc.reduce(_folded(x.reshape(-1)) if ufunc is np.add else x.reshape(-1), out=out.reshape(()))
    elif after == 1:
        _reduce_rows(ufunc, x.reshape(before, n), out.reshape(before))
    else:
        _reduce_columns(ufunc, x.reshape(three), out.reshape(before, after))


def _folded(x: np.ndarray) -> np.ndarray:
    """Fewer terms with the same sum: NumPy adds whole rows at twice the pace of its pairwise sum along one.

    Each term of the 32nd part is a sum of 32 or 33, so a sum stays nearly as exact as a pairwise one.
    """
    while x.size >= LONG:
        full = x.size // 32 * 32
        wide = np.add.reduce(x[:full].reshape(32, -1), axis=0, dtype=x.dtype)
        wide[: x.size - full] += x[full:]
        x = wide
    return x


def _reduce_rows(ufunc: np.ufunc, x: np.ndarray, out: np.ndarray) -> None:
    """Each row to one element. For rows of 10: 0.2 ns an element by BLAS, 0.4 transposed, 1.5 to 4.4 plainly.

    `reduceat` does what `reduce` does along rows, but sets out for each row in a third of the time.
    """
    n = x.shape[1]
    if ufunc is np.add and 4 <= n <= GEMV and x.dtype.kind == "f":
        matmul(x, _ones(n, x.dtype), out=out)
    elif n < SHORT:
        ufunc.reduce(contiguous(x.T), axis=0, out=out)
    elif ufunc is np.add:
        ufunc.reduce(x, axis=1, out=out)
    else:
        ufunc.reduceat(x.reshape(-1), row_starts(*x.shape), out=out)


def _reduce_columns(ufunc: np.ufunc, x: np.ndarray, out: np.ndarray) -> None:
    """(before, n, width) to (before, width). Narrow rows are taken as long ones first: 0.4 ns an element, else to 6."""
    reduce = _add_in_blocks if ufunc is np.add else partial(ufunc.reduce, axis=1)
    before, n, width = x.shape
    fold = min(FOLD // width, math.isqrt(n)) if width < FOLD else 1
    if fold < 2:
        reduce(x, out=out)
        return
    full = n // fold * fold
    wide = np.empty((before, fold * width), x.dtype)
    reduce(x[:, :full].reshape(before, n // fold, fold * width), out=wide)
    reduce(wide.reshape(before, fold, width), out=out)
    if full < n:
        ufunc(out, ufunc.reduce(x[:, full:], axis=1, dtype=x.dtype), out=out)


def _add_in_blocks(x: np.ndarray, out: np.ndarray) -> None:
    """(before, n, width) to (before, width): sums of `BLOCK` rows, then sums of these, and so on.

    NumPy adds one row after the other here; only along the last dimension does it add pairwise.
    """
    while x.shape[1] > BLOCK:
        before, n, width = x.shape
        blocks, rest = divmod(n, BLOCK)
        sums = np.empty((before, blocks + (rest > 0), width), x.dtype)
        whole = x[:, : n - rest].reshape(before, blocks, BLOCK, width)
        np.add.reduce(whole, axis=2, out=sums[:, :blocks])
        if rest:
            np.add.reduce(x[:, n - rest :], axis=1, out=sums[:, blocks])
        x = sums
    np.add.reduce(x, axis=1, out=out)


def _reduction(ufunc: np.ufunc, identity: Identity, result: str | None) -> Callable[..., np.ndarray]:
    """A kernel that reduces `dims` by `ufunc`; an empty piece gives the identity, which a merge leaves as it is."""

    def kernel(
        x: np.ndarray, dims: Ints, keepdim: bool, dtype: str | None = None, out: Out = None
    ) -> np.ndarray:
        named = dtype or result
        target = x.dtype if named is None else DTYPES[named]
        made = np.empty(reduced_shape(x.shape, dims, keepdim), target) if out is None else out
        if x.size == 0:
            made[...] = identity(target)
        elif not made.flags.c_contiguous:
            np.copyto(made, kernel(x, dims, keepdim, dtype))
        elif not dims:
            np.copyto(made, x, casting="unsafe")
        else:
            reduce_into(ufunc, x if x.dtype == target else x.astype(target), dims, made)
        return made

    return kernel


def _lowest(dtype: np.dtype) -> Any:
    return -np.inf if dtype.kind == "f" else False if dtype.kind == "b" else np.iinfo(dtype).min


def _highest(dtype: np.dtype) -> Any:
    return np.inf if dtype.kind == "f" else True if dtype.kind == "b" else np.iinfo(dtype).max


def _reduced(result: str | None) -> ShapeRule:
    def rule(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
        expect_dims(attrs["dims"], len(avals[0].shape))
        named = attrs.get("dtype", result)
        dtype = avals[0].dtype if named is None else DTYPES[named]
        return (Aval(reduced_shape(avals[0].shape, attrs["dims"], attrs["keepdim"]), dtype),)

    return rule


def _reduced_labels(merge: str) -> Callable[[Sequence[Aval], Attrs], Labels]:
    """Reduced dimensions have a label that the result lacks."""

    def rule(avals: Sequence[Aval], attrs: Attrs) -> Labels:
        dims, keepdim = attrs["dims"], attrs["keepdim"]
        labels = tuple(range(len(avals[0].shape)))
        return Labels(
            (labels,), (tuple(None if d in dims else d for d in labels if keepdim or d not in dims),), merge
        )

    return rule


def _declare(
    name: str, ufunc: np.ufunc, identity: Identity, merge: str, result: str | None = None, **attrs: str
) -> None:
    primitive(
        name,
        _reduction(ufunc, identity, result),
        _reduced(result),
        labels=_reduced_labels(merge),
        batch=shifted("dims"),
        attrs={"dims": "ints", "keepdim": "bool", **attrs},
        traits={"into", "rounds"} if merge in ("add", "multiply") else {"into"},
        flops=lambda ins, outs, attrs: ins[0].size,
        lower=Fold(merge, "fib"),
    )


_declare("sum", np.add, lambda dtype: 0, "add", dtype="dtype")
_declare("prod", np.multiply, lambda dtype: 1, "multiply", dtype="dtype")
_declare("amax", np.maximum, _lowest, "maximum")
_declare("amin", np.minimum, _highest, "minimum")
_declare("any", np.logical_or, lambda dtype: False, "or", "bool")
_declare("all", np.logical_and, lambda dtype: True, "and", "bool")
