"""Factors of matrices with row exchanges, and what says of a matrix that it has none in place of raising: LAPACK's.

Exchanges and positions are numbers of the matrix's own dtype here, since a kernel's results are of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import lapack

from distgrad.errors import LinAlgError
from distgrad.primitives.base import Attrs, Aval, Labels, Place, expect, primitive
from distgrad.primitives.batching import shifted
from distgrad.primitives.blas import ONE_THREAD
from distgrad.primitives.decompositions import _declare, _definite, _each, _element, _shapes, _substituted


def lu(x: np.ndarray, check: str, at: Place) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(both factors in one, row exchanges from 1 on, place of the first zero on the diagonal of U from 1 on or 0).

    Where there is one it is an error, if `check` says in whose name.
    """
    batch, k = x.shape[:-2], min(x.shape[-2:])
    out, pivots, info = np.empty(x.shape, x.dtype), np.empty((*batch, k), x.dtype), np.zeros(batch, x.dtype)
    (getrf,) = lapack.get_lapack_funcs(("getrf",), (x,))
    for i, (matrix,) in _each(x):
        if not matrix.size:
            continue
        with ONE_THREAD:
            out[i], places, zero = getrf(matrix)
        pivots[i], info[i] = places + 1, zero
        if zero and check:
            raise LinAlgError(
                f"torch.linalg.{check}: {_element(i, at)}U[{zero},{zero}] is zero and using it on lu_solve would "
                "result in a division by zero. If you still want to perform the factorization, consider calling "
                "linalg.lu(A, pivot) or linalg.lu_factor_ex(A, pivot)"
            )
    return out, pivots, info


def exchanged(pivots: np.ndarray, m: int) -> np.ndarray:
    """Which of m rows stands where after row i was exchanged with row pivots[i] - 1 for one i after the other."""
    out = np.empty((*pivots.shape[:-1], m), pivots.dtype)
    for at in np.ndindex(pivots.shape[:-1]):
        rows, places = np.arange(m), np.nan_to_num(pivots[at]).astype(int)
        if not ((places >= 1) & (places <= m)).all():
            raise IndexError(f"pivots must be from 1 to {m}")
        for i, p in enumerate(places - 1):
            rows[[i, p]] = rows[[p, i]]
        out[at] = rows
    return out


def solve_ex(a: np.ndarray, b: np.ndarray, turned: bool) -> tuple[np.ndarray, np.ndarray]:
    """(x with a @ x = b, 0); of a singular matrix what substitution gives, and where the zero is, from 1 on.

    If `turned`, x with aᵀ @ x = b from the factors of a.
    """
    out, info = np.empty(b.shape, b.dtype), np.zeros(a.shape[:-2], a.dtype)
    getrf, getrs = lapack.get_lapack_funcs(("getrf", "getrs"), (a, b))
    expect(
        a.shape[-2] == a.shape[-1] == b.shape[-2], "{} beside {}", a.shape, b.shape
    )  # LAPACK does not look
    for at, (matrix, right) in _each(a, b):
        if not matrix.size:
            continue
        with ONE_THREAD:
            lu, places, info[at] = getrf(matrix)
            if right.size and not info[at]:
                out[at], _ = getrs(lu, places, right, trans=int(turned))
        if info[at]:
            rows = exchanged(places + 1, len(matrix)).astype(int)
            one = np.tril(lu, -1) + np.eye(len(lu), dtype=lu.dtype)
            with np.errstate(all="ignore"):
                if turned:
                    out[at][rows] = _substituted(one.T, _substituted(lu.T, right, False), True)
                else:
                    out[at] = _substituted(lu, _substituted(one, right[rows], False), True)
    return out, info


def cholesky_ex(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the lower factor, 0); of what is not positive definite as far as it goes, and the first bad minor's order."""
    out, info = np.zeros(x.shape, x.dtype), np.zeros(x.shape[:-2], x.dtype)
    for at, (matrix,) in _each(x):
        out[at], info[at] = _definite(matrix)
    return out, info


def ldl(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(unit lower L and blocks D in one, LAPACK's exchanges, first zero block or 0), by Bunch and Kaufman."""
    batch = x.shape[:-2]
    out, pivots, info = np.zeros(x.shape, x.dtype), np.zeros(x.shape[:-1], x.dtype), np.zeros(batch, x.dtype)
    (sytrf,) = lapack.get_lapack_funcs(("sytrf",), (x,))
    expect(x.shape[-1] == x.shape[-2], "not square: {}", x.shape)  # sytrf does not look
    for at, (matrix,) in _each(x):
        if matrix.size:
            with ONE_THREAD:
                factor, pivots[at], info[at] = sytrf(matrix, lower=True)
            out[at] = np.tril(factor)
    return out, pivots, info


def ldl_solve(factor: np.ndarray, pivots: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x with a @ x = b, from what `ldl` gives of a: block by block, downwards by L and D, upwards by Lᵀ."""
    out = np.array(b)
    for at, (matrix, x) in _each(factor, out):
        blocks = _blocks(pivots[at])
        with np.errstate(all="ignore"), ONE_THREAD:
            for i, j, place in blocks:
                x[[j - 1, place]] = x[[place, j - 1]]
                x[j:] -= matrix[j:, i:j] @ x[i:j]
                x[i:j] = _inverse(matrix[i:j, i:j]) @ x[i:j]
            for i, j, place in reversed(blocks):
                x[i:j] -= matrix[j:, i:j].T @ x[j:]
                x[[j - 1, place]] = x[[place, j - 1]]
    return out


def _inverse(block: np.ndarray) -> np.ndarray:
    """Of a symmetric block of one or two rows, of which the lower triangle counts."""
    if len(block) == 1:
        return 1 / block
    (a, _), (b, c) = block
    return np.array([[c, -b], [-b, a]]) / (a * c - b * b)


def _blocks(pivots: np.ndarray) -> list[tuple[int, int, int]]:
    """(first row, row behind, the row with which the last one was exchanged) of each block; two rows have two alike."""
    places, n, i = np.nan_to_num(pivots).astype(int), len(pivots), 0
    found = []
    while i < n:
        two = bool(places[i] < 0)
        if not 1 <= abs(places[i]) <= n or (two and (i + 1 == n or places[i + 1] != places[i])):
            raise IndexError(f"pivots must be from 1 to {n}, and from -{n} to -1 in pairs")
        found.append((i, i + 1 + two, abs(int(places[i])) - 1))
        i += 1 + two
    return found


def _rows(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    (pivots,) = avals
    expect(len(pivots.shape) >= 1 and pivots.dtype.kind == "f", "no vectors of floats, but {}", pivots)
    expect(attrs["m"] >= pivots.shape[-1], "{} rows and {} exchanges", attrs["m"], pivots.shape[-1])
    return (Aval((*pivots.shape[:-1], attrs["m"]), pivots.dtype),)


def _whole_rows(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    along = (*range(len(avals[0].shape) - 1), None)
    return Labels((along,), (along,))


def _columns(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    """Those of the right side are solved for each on its own."""
    column = len(avals[0].shape) - 2
    batch = tuple(range(column))
    right = (*batch, None, column)
    return Labels(((*batch, None, None), (*batch, None), right), (right,))


_declare("lu", lu, "mn -> mn k .", 0.67, "placed", check="str")
primitive(
    "exchanged",
    exchanged,
    _rows,
    labels=_whole_rows,
    batch=shifted(),
    attrs={"m": "int"},
    traits={"whole"},
    flops=lambda ins, outs, attrs: 0,
)
_declare("solve_ex", solve_ex, "nn nk -> nk .", 2, turned="bool")
_declare("cholesky_ex", cholesky_ex, "nn -> nn .", 0.33)
_declare("ldl", ldl, "nn -> nn n .", 0.33)
primitive(
    "ldl_solve",
    ldl_solve,
    _shapes("nn n nk -> nk"),
    labels=_columns,
    batch=shifted(),
    flops=lambda ins, outs, attrs: 2 * ins[0].shape[-1] * outs[0].size,
)
