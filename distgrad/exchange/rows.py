"""Partial results of which each has some rows, and zeros for all others: only the rows are sent.

Rows that are taken from a cut table lie where they lie: what a worker has of them is a large array with few rows that
are not zero. Sent as these rows and their numbers, all workers together send what was asked for once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.errors import WireError
from distgrad.exchange.tree import Take
from distgrad.fields import check_array, truths
from distgrad.primitives.base import merge_disjoint

LEAST = 16 << 10  # bytes of an array that is looked through for rows
MOST = 0.75  # of the rows; with more of them all are sent


class Rows(NamedTuple):
    """Some rows of an array, and their numbers, which rise."""

    numbers: np.ndarray
    rows: np.ndarray


def apart(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether an array of this shape is sent as rows and their numbers."""
    return len(shape) > 1 and shape[0] > 1 and math.prod(shape) * dtype.itemsize >= LEAST


def sent(array: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of the rows and the rows; or no numbers, and all rows."""
    array = np.asarray(array, order="C")
    if not apart(array.shape, array.dtype):
        yield array
        return
    flat = array.reshape(len(array), -1)
    nbytes = flat.shape[1] * flat.itemsize
    width = next(n for n in (8, 4, 2, 1) if nbytes % n == 0)
    found = np.flatnonzero(np.bitwise_or.reduce(flat.view(f"i{width}"), axis=1))
    if len(found) > MOST * len(array):
        yield np.empty(0, np.int64)
        yield array
    else:
        yield found
        yield np.take(array, found, axis=0)


def received(arrays: Iterator[Any], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | Rows:
    """What `sent` gave, checked. Raises WireError."""
    first = next(arrays, None)
    if not apart(shape, dtype):
        return check_array(first, shape, dtype, "sum")
    rows = next(arrays, None)
    if type(first) is not np.ndarray or first.dtype != np.int64 or first.ndim != 1:
        raise WireError("sum: the numbers of its rows are no list of int64")
    if type(rows) is np.ndarray and rows.shape == shape and len(first) == 0:
        return check_array(rows, shape, dtype, "sum")
    rows = truths(check_array(rows, (len(first), *shape[1:]), dtype, "sum"))
    if len(first) and not (first[0] >= 0 and first[-1] < shape[0] and bool((np.diff(first) > 0).all())):
        raise WireError(f"sum: the numbers of its rows do not rise from 0 to {shape[0]}")
    return Rows(first, rows)


def merged(
    parts: Sequence[np.ndarray | Rows], shape: tuple[int, ...], dtype: np.dtype, take: Take
) -> np.ndarray:
    """All parts together, in one array."""
    whole = [part for part in parts if not isinstance(part, Rows)]
    if len(parts) == len(whole) == 1:
        return whole[0]
    out = take(shape, dtype)
    out[...] = whole[0] if whole else 0
    for more in whole[1:]:
        merge_disjoint(out, more, out=out)
    for part in parts:
        if isinstance(part, Rows) and len(part.numbers):
            out[part.numbers] = part.rows if not whole else merge_disjoint(out[part.numbers], part.rows)
    return out
