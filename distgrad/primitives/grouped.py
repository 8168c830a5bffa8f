"""Sums of rows, and of single elements, by group: one after the other, in float64 where many meet in a group."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.sparse import _sparsetools

from distgrad.compiler import switch
from distgrad.compiler.rows import add_rows as add_ordered

MANY = 256  # rows of one group that float32 adds without losing much
CHUNK = 65536  # rows that are added in one call of SciPy's
WIDENED = 2048  # the same where they are made float64 before: they stay in the cache


def is_crowded(idx: np.ndarray, groups: int, dtype: np.dtype) -> bool:
    """Whether a group may have more rows than its dtype adds well: 1 ns a row.

    Where groups outnumber rows these are counted modulo a power of 2, which only counts too many.
    """
    if dtype != np.float32 or len(idx) <= MANY:
        return False
    mask = (1 << len(idx).bit_length()) - 1
    return int(np.bincount(idx if groups <= mask else idx & mask).max()) > MANY


def add_elements(idx: np.ndarray, values: np.ndarray, made: np.ndarray) -> None:
    """made[idx[j]] += values[j]: 1.2 ns an element."""
    if made.dtype == np.float32 and len(made) <= len(idx):
        np.add(made, np.bincount(idx, values, len(made)), out=made, casting="same_kind")
    elif not is_crowded(idx, len(made), made.dtype):
        np.add.at(made, idx, values)
    else:
        found, number = np.unique(idx, return_inverse=True)
        made[found] += np.bincount(number, values)


def add_rows(idx: np.ndarray, rows: np.ndarray, made: np.ndarray) -> None:
    """made[idx[j]] += rows[j], where `made` is in C order."""
    if not is_crowded(idx, len(made), made.dtype):
        _add(idx, rows, made)
    elif len(made) <= 4 * len(idx):
        wide = np.zeros(made.shape)
        _add(idx, rows, wide)
        np.add(made, wide, out=made, casting="same_kind")
    else:
        found, number = np.unique(idx, return_inverse=True)
        wide = np.zeros((len(found), made.shape[1]))
        _add(number, rows, wide)
        made[found] += wide


def _add(idx: np.ndarray, rows: np.ndarray, made: np.ndarray) -> None:
    """By a matrix in column form with a 1 in row idx[j] of column j: 0.3 ns an element if `made` lies in the cache.

    It is 1 if not, and 1 more where rows are made float64. `np.add.at` takes 12.
    """
    narrow = len(made) < 1 << 31
    idx, width = idx.astype(np.int32 if narrow else np.int64), rows.shape[1]
    ones, ends = _selection(made.dtype, idx.dtype)
    step = CHUNK if rows.dtype == made.dtype else WIDENED
    for start in range(0, len(idx), step):
        j, some = idx[start : start + step], rows[start : start + step].astype(made.dtype, copy=False)
        n = len(j)
        if narrow and switch.on() and made.dtype.kind == "f":
            add_ordered(made, np.ascontiguousarray(some), ends[: n + 1], j, ones[:n], by_source=True)
        else:
            _sparsetools.csc_matvecs(
                len(made), n, width, ends[: n + 1], j, ones[:n], some.reshape(-1), made.reshape(-1)
            )


@lru_cache
def _selection(dtype: np.dtype, places: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Values and ends of columns of a sparse matrix that has a single 1 in each column."""
    return np.ones(CHUNK, dtype), np.arange(CHUNK + 1, dtype=places)
