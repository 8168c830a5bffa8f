"""Products of two operands, written as subscripts: `"mk,kn->mn"` and every other einsum of two operands.

A letter stands at most once in each operand. Letters in both operands and in the result are batch letters, those
in both and not in the result are summed over, and a letter in only one operand stands in the result as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from string import ascii_letters
from typing import Any, NamedTuple

import numpy as np

from distgrad.primitives.base import Attrs, Aval, Fold, Labels, Primitive, expect, primitive
from distgrad.primitives.batching import Batch
from distgrad.primitives.blas import matmul
from distgrad.primitives.reductions import reduce_into

Out = np.ndarray | None
Ints = tuple[int, ...]


WIDE = 512  # columns from which on an incomplete block of 16 does not matter
LONG = 256  # terms from which on a product is dearer than to copy its result
TERMS = 128  # of a product with a vector: the terms of the sums that BLAS is asked for at a time
SIDE_BY_SIDE = 1024  # the same of vectors alone, or of a few columns, where BLAS adds some sums side by side
NARROW = 16  # columns and rows that are a few


class Form(NamedTuple):
    """How a contraction becomes `np.matmul`: a as (batch, rows, summed), b as (batch, summed, columns).

    What needs nothing done to it has an empty order, or no runs: most products are of vectors and matrices, of tiles.
    """

    a: Ints  # the dimensions of a in that order
    b: Ints
    out: Ints  # the dimensions of the result in the order (batch, rows, columns)
    a_runs: Ints  # how many letters become one dimension each
    b_runs: Ints
    batch: int  # numbers of letters
    rows: int
    columns: int
    summed: int


@lru_cache(maxsize=1024)
def letters(subscripts: str) -> tuple[str, str, str]:
    """The letters of a, b and the result. Raises ValueError for subscripts that this primitive does not take."""
    operands, arrow, out = subscripts.partition("->")
    a, comma, b = operands.partition(",")
    once = all(word.isalpha() or not word for word in (a, b, out)) and all(
        len(set(w)) == len(w) for w in (a, b, out)
    )
    if not (arrow and comma and once and set(a) ^ set(b) <= set(out) <= set(a) | set(b)):
        raise ValueError(f"not a contraction of two operands: {subscripts!r}")
    return a, b, out


def _order(word: str, wanted: list[str]) -> Ints:
    """Where the letters that are wanted stand; empty if they are in order."""
    return () if list(word) == wanted else tuple(map(word.index, wanted))


def _runs(*lengths: int) -> Ints:
    return () if all(n == 1 for n in lengths) else lengths


@lru_cache(maxsize=1024)
def _form(subscripts: str) -> Form:
    a, b, out = letters(subscripts)
    batch = [c for c in out if c in a and c in b]
    rows, columns = [c for c in out if c not in b], [c for c in out if c not in a]
    summed = [c for c in a if c in b and c not in out]
    each = (1,) * len(batch)  # matmul takes many batch dimensions, and vectors where there are none
    return Form(
        _order(a, batch + rows + summed),
        _order(b, batch + summed + columns),
        _order(out, batch + rows + columns),
        _runs(*each, *([len(rows)] if rows or batch else []), len(summed)),
        _runs(*each, len(summed), *([len(columns)] if columns or batch else [])),
        *map(len, (batch, rows, columns, summed)),
    )


@lru_cache(maxsize=1024)
def _swapped(subscripts: str) -> str | None:
    """The same product with the operands exchanged, where its result comes out in order then, and does not now."""
    a, b, out = letters(subscripts)
    other = f"{b},{a}->{out}"
    return other if _form(subscripts).out and not _form(other).out else None


def _group(x: np.ndarray, order: Ints, runs: Ints) -> np.ndarray:
    """`x` with its dimensions in `order`, and runs of dimensions made one (a copy only if it must be)."""
    x = x.transpose(order) if order else x
    if not runs:
        return x
    shape, first = [], 0
    for n in runs:
        shape.append(math.prod(x.shape[first : first + n]))
        first += n
    return x.reshape(shape)


def _better_transposed(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the transposed product, and to lay it out anew, is quicker: the gradient of narrow weights, x.T @ g.

    BLAS takes 16 columns of the result at a time, and is slow with the last of them if they are fewer: 64 x 100 took
    55 us, the other way round 48.
    """
    if a.ndim != 2 or b.ndim != 2 or a.strides[0] >= a.strides[1]:
        return False
    (rows, summed), columns = a.shape, b.shape[1]
    return rows % 16 == 0 and columns % 16 > 0 and 1 < columns < WIDE and summed >= LONG


def _is_for_blas(out: np.ndarray) -> bool:
    """Whether BLAS can write there; NumPy before 2.3 would go through the elements itself, with other bits."""
    return out.ndim == 0 or out.itemsize in out.strides[-2:] or out.size == 0


def contract(a: np.ndarray, b: np.ndarray, subscripts: str, out: Out = None) -> np.ndarray:
    """The sum of products over the letters that the result lacks; BLAS for floats, on views where they will do.

    The result is in C order. BLAS may round differently for transposed operands: equal bits ask for equal strides.
    """
    if (other := _swapped(subscripts)) is not None:
        return contract(b, a, other, out)
    form = _form(subscripts)
    if out is None:
        out = np.empty(_shape_of(subscripts, a.shape, b.shape), a.dtype)
    target = out.transpose(form.out) if form.out else out
    if not form.summed:
        a, b = _group(a, form.a, ()), _group(b, form.b, ())
        b = b.reshape(b.shape[: form.batch] + (1,) * form.rows + b.shape[form.batch :])
        np.multiply(a.reshape(a.shape + (1,) * form.columns), b, out=target)
        return out
    a, b = _group(a, form.a, form.a_runs), _group(b, form.b, form.b_runs)
    shape = a.shape[:-1] + b.shape[form.batch + 1 :]
    if terms := _terms(a, b):
        np.copyto(target, _in_blocks(a, b, terms).reshape(target.shape))
    elif target.shape == shape and _better_transposed(a, b):
        np.copyto(target, matmul(b.T, a.T).T)
    elif target.shape == shape and _is_for_blas(target):
        matmul(a, b, out=target)
    elif target.flags.c_contiguous:
        matmul(a, b, out=target.reshape(shape))
    else:
        np.copyto(target, matmul(a, b).reshape(target.shape))
    return out


def _terms(a: np.ndarray, b: np.ndarray) -> int:
    """The length of the blocks in which a long sum is better asked for; 0: none.

    BLAS adds one term after the other for vectors, and nearly so for a few columns.
    """
    rows, columns = a.shape[-2] if a.ndim > 1 else 1, b.shape[-1] if b.ndim > 1 else 1
    if a.dtype.kind != "f" or (min(rows, columns) > 1 and max(rows, columns) > NARROW):
        return 0
    if min(rows, columns) == 1 < max(rows, columns):
        return TERMS if a.shape[-1] >= 4 * TERMS else 0
    return SIDE_BY_SIDE if a.shape[-1] >= 8 * SIDE_BY_SIDE else 0


def _in_blocks(a: np.ndarray, b: np.ndarray, terms: int) -> np.ndarray:
    """(..., rows, summed) @ (..., summed, columns): products of so many terms each, and their sum.

    So a sum of products is nearly as exact as a pairwise one. Where BLAS takes them one after the other, 260,000 terms
    had errors of 5e-4 in float32. It costs 10 us more, and nothing for long sums.
    """
    a, b = a if a.ndim > 1 else a[None], b if b.ndim > 1 else b[:, None]
    *batch, rows, summed = a.shape
    columns, (blocks, rest) = b.shape[-1], divmod(summed, terms)
    parts = np.empty((*batch, blocks + (rest > 0), rows, columns), a.dtype)
    if rest:
        matmul(a[..., -rest:], b[..., -rest:, :], out=parts[..., blocks, :, :])
        a, b = a[..., :-rest], b[..., :-rest, :]
    left = a.reshape(*batch, rows, blocks, terms).swapaxes(-2, -3)
    right = b.reshape(*batch, blocks, terms, columns)
    matmul(left, right, out=parts[..., :blocks, :, :] if rest else parts)
    if blocks < terms:
        return np.add.reduce(parts, axis=-3)
    out = np.empty((*batch, rows, columns), a.dtype)
    if out.size:
        reduce_into(np.add, parts, (len(batch),), out)
    return out


def _shape_of(subscripts: str, a: Ints, b: Ints) -> Ints:
    letters_a, letters_b, out = letters(subscripts)
    sizes = dict(zip(letters_a, a, strict=True))
    for c, n in zip(letters_b, b, strict=True):
        if sizes.setdefault(c, n) != n:
            raise RuntimeError(
                f"einsum(): dimension {c} has size {n} in one operand and {sizes[c]} in the other"
            )
    return tuple(sizes[c] for c in out)


def _contracted(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    a, b = avals
    expect(a.dtype == b.dtype, "a product of {} and {}", a.dtype, b.dtype)
    return (Aval(_shape_of(attrs["subscripts"], a.shape, b.shape), a.dtype),)


@lru_cache(maxsize=1024)
def _labels_of(subscripts: str) -> Labels:
    words = letters(subscripts)
    number = {c: i for i, c in enumerate(dict.fromkeys("".join(words)))}
    a, b, out = (tuple(number[c] for c in word) for word in words)
    return Labels((a, b), (out,), "add")


def _flops(ins: Sequence[Aval], outs: Sequence[Aval], attrs: Attrs) -> float:
    a, _, out = letters(attrs["subscripts"])
    summed = math.prod(n for c, n in zip(a, ins[0].shape, strict=True) if c not in out)
    return 2.0 * outs[0].size * summed


def _batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    """A letter more: in both operands that of a batch, in one that of rows or columns."""
    a, b, out = letters(attrs["subscripts"])
    new = next(c for c in ascii_letters if c not in a + b)
    a, b = (new * flag + word for word, flag in zip((a, b), flags, strict=True))
    return batch.apply(made.name, xs, {"subscripts": f"{a},{b}->{new}{out}"})


primitive(
    "contract",
    contract,
    _contracted,
    batch=_batched,
    labels=lambda avals, attrs: _labels_of(attrs["subscripts"]),
    attrs={"subscripts": "str"},
    traits={"into", "heavy", "rounds"},
    flops=_flops,
    lower=Fold("add"),
)
