"""Decompositions of matrices and what is solved by them, each matrix whole: LAPACK with one BLAS thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import linalg
from scipy.linalg import lapack

from distgrad.errors import LinAlgError
from distgrad.primitives.base import (
    Attrs,
    Aval,
    LabelRule,
    Labels,
    Place,
    ShapeRule,
    Trait,
    expect,
    primitive,
)
from distgrad.primitives.batching import shifted
from distgrad.primitives.blas import ONE_THREAD

NOT_FINITE = "The algorithm failed to converge because the input matrix contained non-finite values."


def _each(*stacks: np.ndarray) -> Iterator[tuple[tuple[int, ...], list[np.ndarray]]]:
    """The matrices of stacks of one batch shape, with their place in it."""
    for at in np.ndindex(stacks[0].shape[:-2]):
        yield at, [stack[at] for stack in stacks]


def _element(matrix: tuple[int, ...], at: Place) -> str:
    """Which one it is in the batch of the whole first operand, as torch's messages say it."""
    if not matrix:
        return ""
    number = [i + low for i, (low, _) in zip(matrix, at.ins[0], strict=False)]
    return f"(Batch element {np.ravel_multi_index(number, at.shapes[0][:-2])}): "


def _check_finite(x: np.ndarray, at: Place) -> None:
    """torch's error for the first matrix with a nan or an infinity."""
    good = np.isfinite(x).all((-2, -1))
    if not good.all():
        raise LinAlgError(f"linalg.svd: {_element(tuple(np.argwhere(~good)[0]), at)}{NOT_FINITE}")


def svd(x: np.ndarray, at: Place) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x = u * s @ vh, with s falling, of the last two dimensions; as many columns of u and rows of vh as s is long."""
    _check_finite(x, at)
    with ONE_THREAD:
        u, s, vh = np.linalg.svd(x, full_matrices=False)
    return u, s, vh


def svd_full(x: np.ndarray, at: Place) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with square u and vh."""
    _check_finite(x, at)
    with ONE_THREAD:
        u, s, vh = np.linalg.svd(x, full_matrices=True)
    return u, s, vh


def eigh(x: np.ndarray, lower: bool) -> tuple[np.ndarray, np.ndarray]:
    """x = v * w @ v.T, with w rising, of symmetric matrices of which one triangle is read."""
    if not np.isfinite(x).all():
        raise LinAlgError(f"linalg.eigh: {NOT_FINITE}")
    with ONE_THREAD:
        w, v = np.linalg.eigh(x, "L" if lower else "U")
    return w, v


def qr(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x = q @ r, r upper triangular, q with as many columns as the shorter side."""
    with ONE_THREAD:
        q, r = np.linalg.qr(x)
    return q, r


def qr_full(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same with square q and r of the shape of x."""
    with ONE_THREAD:
        q, r = np.linalg.qr(x, mode="complete")
    return q, r


def lstsq(a: np.ndarray, b: np.ndarray, rcond: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, rank, singular values): the shortest x with the least |a @ x - b|; singular values below rcond are none."""
    batch, (n, k) = a.shape[:-2], (a.shape[-1], b.shape[-1])
    out, rank = np.zeros((*batch, n, k), a.dtype), np.zeros(batch, a.dtype)
    values = np.zeros((*batch, min(a.shape[-2:])), a.dtype)
    for at, (matrix, right) in _each(a, b):
        if matrix.size and right.size:
            with ONE_THREAD:
                out[at], _, rank[at], values[at] = linalg.lstsq(matrix, right, rcond, lapack_driver="gelsd")
    return out, rank, values


def cofactors(x: np.ndarray) -> np.ndarray:
    """det(x) times the transposed inverse; of a singular x what that tends to, from its singular values.

    U diag(products of all but one singular value) Vh, times the sign of det(U) det(Vh).
    """
    out = np.empty(x.shape, x.dtype)
    for at, (matrix,) in _each(x):
        with ONE_THREAD:
            if abs(determinant := np.linalg.det(matrix)) >= 100 * np.finfo(x.dtype).eps:
                out[at] = determinant * np.linalg.inv(matrix).T
            elif not np.isfinite(matrix).all():
                out[at] = np.nan  # LAPACK may look for singular values of what is infinite for ever
            else:
                u, s, vh = np.linalg.svd(matrix)
                alone = np.prod(np.where(np.eye(len(s), dtype=bool), 1, s), axis=1)
                out[at] = np.round(np.linalg.det(u) * np.linalg.det(vh)) * ((u * alone) @ vh)
    return out


def _definite(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """(the lower factor, 0 or the first bad minor's order). Some LAPACKs take a nan for positive: it is bad here."""
    (potrf,) = lapack.get_lapack_funcs(("potrf",), (matrix,))
    with ONE_THREAD:
        lower, bad = potrf(matrix, lower=True, clean=True)
    nans = np.flatnonzero(np.isnan(np.diagonal(lower)))
    return lower, min([int(n) for n in (bad, *(nans[:1] + 1)) if n], default=0)


def cholesky(x: np.ndarray, at: Place) -> np.ndarray:
    """The lower triangular factor of x = l @ l.T, of which the lower triangle is read."""
    out = np.zeros(x.shape, x.dtype)
    for i, (matrix,) in _each(x):
        out[i], info = _definite(matrix)
        if info > 0:
            raise LinAlgError(
                f"linalg.cholesky: {_element(i, at)}The factorization could not be completed because the "
                f"input is not positive-definite (the leading minor of order {info} is not positive-definite)."
            )
    return out


def solve(a: np.ndarray, b: np.ndarray, at: Place) -> np.ndarray:
    """x with a @ x = b, by LU with row exchanges."""
    out = np.empty(b.shape, b.dtype)
    (gesv,) = lapack.get_lapack_funcs(("gesv",), (a, b))
    for i, (matrix, right) in _each(a, b):
        if not right.size:
            continue
        with ONE_THREAD:
            *_, out[i], info = gesv(matrix, right)
        if info > 0:
            raise LinAlgError(
                f"torch.linalg.solve: {_element(i, at)}The solver failed because the input matrix is "
                "singular."
            )
    return out


def inverse(a: np.ndarray, at: Place) -> np.ndarray:
    """x with a @ x = 1, by LU with row exchanges."""
    out, one = np.empty(a.shape, a.dtype), np.eye(a.shape[-1], dtype=a.dtype)
    (gesv,) = lapack.get_lapack_funcs(("gesv",), (a, one))
    for i, (matrix,) in _each(a):
        if not matrix.size:
            continue
        with ONE_THREAD:
            *_, out[i], info = gesv(matrix, one)
        if info > 0:
            raise LinAlgError(
                f"linalg.inv: {_element(i, at)}The diagonal element {info} is zero, the inversion could "
                "not be completed because the input matrix is singular."
            )
    return out


def solve_triangular(a: np.ndarray, b: np.ndarray, upper: bool, unit: bool) -> np.ndarray:
    """x with a @ x = b, a triangular, with ones on the diagonal if it is `unit`; a zero there gives infinities."""
    out = np.empty(b.shape, b.dtype)
    (trtrs,) = lapack.get_lapack_funcs(("trtrs",), (a, b))
    for at, (matrix, right) in _each(a, b):
        if not right.size:
            continue
        with ONE_THREAD:
            out[at], info = trtrs(matrix, right, lower=not upper, unitdiag=unit)
        if info > 0:  # LAPACK gives up: so does nobody else
            out[at] = _substituted(matrix, right, upper)
    return out


def _substituted(a: np.ndarray, b: np.ndarray, upper: bool) -> np.ndarray:
    out = np.array(b)
    for i in range(len(a))[:: -1 if upper else 1]:
        rest = slice(i + 1, None) if upper else slice(0, i)
        out[i] = (b[i] - a[i, rest] @ out[rest]) / a[i, i]
    return out


def slogdet(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sign of the determinant and the logarithm of its absolute value."""
    with ONE_THREAD:
        sign, logarithm = np.linalg.slogdet(x)
    return np.asarray(sign), np.asarray(logarithm)


def expm(x: np.ndarray) -> np.ndarray:
    """The exponential of square matrices, by scaling and squaring (Al-Mohy and Higham 2009)."""
    with ONE_THREAD:
        return np.asarray(linalg.expm(x), x.dtype) if x.size else np.empty(x.shape, x.dtype)


# Shapes are written as those of NumPy's generalised functions: of a matrix (m, n), with k the shorter side.
def _shapes(signature: str) -> ShapeRule:
    ins, outs = (side.split() for side in signature.split("->"))

    def rule(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
        first = avals[0]
        expect(len(avals) == len(ins), "{} operands, not {}", len(ins), len(avals))
        expect(len(first.shape) >= 2 and first.dtype.kind == "f", "no matrix of floats, but {}", first)
        batch, sizes = first.shape[:-2], dict[str, int]()
        for names, aval in zip(ins, avals, strict=True):
            expect(aval.dtype == first.dtype, "{} beside {}", aval.dtype, first.dtype)
            expect(aval.shape[: -len(names)] == batch, "{} beside a batch of {}", aval.shape, batch)
            for name, n in zip(names, aval.shape[-len(names) :], strict=True):
                expect(sizes.setdefault(name, n) == n, "{} is {} and {} long", name, sizes[name], n)
        sizes.setdefault("k", min(first.shape[-2:]))
        return tuple(Aval((*batch, *(sizes[n] for n in names.strip("."))), first.dtype) for names in outs)

    return rule


def _labels(signature: str) -> LabelRule:
    ins, outs = (side.split() for side in signature.split("->"))

    def rule(avals: Sequence[Aval], attrs: Attrs) -> Labels:
        batch = tuple(range(len(avals[0].shape) - 2))
        named = [tuple((*batch, *(None,) * len(names.strip("."))) for names in side) for side in (ins, outs)]
        return Labels(named[0], named[1])

    return rule


def _declare(
    name: str, kernel: Callable[..., Any], signature: str, flops: float, *traits: Trait, **attrs: str
) -> None:
    """`flops` are for each element of the first operand, times its last length."""
    primitive(
        name,
        kernel,
        _shapes(signature),
        labels=_labels(signature),
        batch=shifted(),
        attrs=attrs,
        traits={"whole", *traits},
        flops=lambda ins, outs, attrs: flops * ins[0].size * ins[0].shape[-1],
    )


_declare("svd", svd, "mn -> mk k kn", 20, "placed")
_declare("svd_full", svd_full, "mn -> mm k nn", 40, "placed")
_declare("qr_full", qr_full, "mn -> mm mn", 8)
_declare("lstsq", lstsq, "mn ml -> nl . k", 20, rcond="float")
_declare("cofactors", cofactors, "nn -> nn", 3)
_declare("eigh", eigh, "nn -> n nn", 9, lower="bool")
_declare("qr", qr, "mn -> mk kn", 4)
_declare("cholesky", cholesky, "nn -> nn", 0.33, "placed")
_declare("solve", solve, "nn nk -> nk", 2, "placed")
_declare("inverse", inverse, "nn -> nn", 2, "placed")
_declare("solve_triangular", solve_triangular, "nn nk -> nk", 1, upper="bool", unit="bool")
_declare("slogdet", slogdet, "nn -> . .", 0.67)
_declare("expm", expm, "nn -> nn", 20)
