"""SVD and QR with square factors, QR of all shapes, and least squares.

The formula of QR is that of Walter and Lehmann 2012, and of Roberts and Roberts 2020 for wide matrices; that of least
squares follows from the derivative of the pseudo-inverse by Golub and Pereyra 1973.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import int64
from distgrad.ops.base import Tensor, Value, attach, call, op
from distgrad.ops.declaration import named_tuple
from distgrad.ops.decompositions import _matrices, _product, _solve_triangular, pinv
from distgrad.ops.helpers import broadcast_to
from distgrad.ops.joining import cat
from distgrad.ops.linalg import _svd_input, _turned, linalg_svd
from distgrad.ops.rearranging import tril
from distgrad.ops.samples import real
from distgrad.ops.table import BY_FUNCTION
from distgrad.primitives.elementwise import broadcast_shape

__all__ = ["qr", "svd"]


# Singular values.
def _full_svd_A(g: list[Tensor | None], A: Tensor) -> Tensor:
    """The vectors beyond the singular values are not told apart: their gradients count for nothing, as in torch."""
    gu, gs, gvh = [*g, None, None][:3]
    k = min(A.shape[-2:])
    return _svd_input([gu if gu is None else gu[..., :k], gs, gvh if gvh is None else gvh[..., :k, :]], A)


@op(
    name="LinalgSvdBackward0",
    multi=True,
    returns=("U", "S", "Vh"),
    A=_full_svd_A,
    method=False,
    listed=False,
)
def _full_svd(A: Value) -> tuple[Value, Value, Value]:
    """(U, S, Vh) with square U and Vh."""
    u, s, vh = session.dispatch("svd_full", [_matrices("svd", A, square=False)], {})
    return u, s, vh


def linalg_svd_of(A: Tensor, full_matrices: bool = True) -> Any:
    """(U, S, Vh) with A = U @ diag(S) @ Vh, S falling; U and Vh are square, or without `full_matrices` narrow."""
    if not full_matrices or A.dim() < 2 or A.shape[-1] == A.shape[-2]:
        return linalg_svd(A)
    made = BY_FUNCTION[linalg_svd].returns
    assert made is not None
    return made(list(_full_svd(A)))


_svd_result = named_tuple("svd", ("U", "S", "V"))
_qr_result = named_tuple("qr", ("Q", "R"))


def svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> Any:
    """The older form of `linalg.svd`: (U, S, V), V not transposed; without `compute_uv` U and V are zeros."""
    if not compute_uv:
        s, (m, n) = linalg_svd(input)[1], input.shape[-2:]
        zeros = [input.new_zeros((*input.shape[:-2], k, k)) for k in (m, n)]
        return _svd_result([zeros[0], s, zeros[1]])
    u, s, vh = linalg_svd_of(input, not some)
    return _svd_result([u, s, _turned(vh)])


# QR.
def _square_qr(gq: Any, gr: Any, q: Tensor, r: Tensor) -> Tensor:
    """(gQ + Q sym(tril(R gRᵀ - gQᵀ Q))) R⁻ᵀ, for matrices that are at least as high as wide."""
    m: Any = 0.0
    if gr is not None:
        m = m + _product(r, _turned(gr))
    if gq is not None:
        m = m - _product(_turned(gq), q)
    both = tril(m) + _turned(tril(m, -1))
    found = _product(q, both) if gq is None else gq + _product(q, both)
    return _turned(_solve_triangular(r, _turned(found), True, False))


def _qr_A(g: list[Tensor | None], A: Tensor) -> Tensor:
    """Of a wide matrix [X | Y] with R = [U | V]: Y adds Y gVᵀ to the gradient of Q, and has itself Q gV."""
    q, r = linalg_qr(A)
    gq, gr = [*g, None][:2]
    m, n = A.shape[-2:]
    if m >= n:
        return _square_qr(gq, gr, q, r)
    rest = A[..., m:]
    if gr is None:
        return cat([_square_qr(gq, None, q, r[..., :m]), rest * 0], -1)
    beside = _product(rest, _turned(gr[..., m:]))
    gq = beside if gq is None else gq + beside
    return cat([_square_qr(gq, gr[..., :m], q, r[..., :m]), _product(q, gr[..., m:])], -1)


@op(
    name="LinalgQrBackward0",
    multi=True,
    returns=("Q", "R"),
    A=_qr_A,
    method=False,
    samples=lambda: [real(4, 3), real(3, 3), real(2, 3, 2), real(2, 4)],
)
def linalg_qr(A: Value) -> tuple[Value, Value]:
    """(Q, R), reduced."""
    q, r = session.dispatch("qr", [_matrices("qr", A, square=False)], {})
    return q, r


def _full_qr_A(g: list[Tensor | None], A: Tensor) -> Tensor:
    raise RuntimeError("The QR decomposition is not differentiable when mode='complete' and nrows > ncols.")


@op(name="LinalgQrBackward0", multi=True, A=_full_qr_A, method=False, listed=False)
def _full_qr(A: Value) -> tuple[Value, Value]:
    """(Q, R) with square Q, of matrices that are higher than wide."""
    q, r = session.dispatch("qr_full", [_matrices("qr", A, square=False)], {})
    return q, r


def linalg_qr_of(A: Tensor, mode: str = "reduced") -> Any:
    """(Q, R) with A = Q @ R, R upper triangular, Q with orthonormal columns: as many as the shorter side has.

    With `mode` "complete" Q is square and R has the shape of A; with "r" Q is empty.
    """
    if mode not in ("reduced", "r", "complete"):
        raise RuntimeError(
            f"qr received unrecognized mode '{mode}' but expected one of 'reduced' (default), 'r', or 'complete'"
        )
    if mode == "complete" and A.dim() > 1 and A.shape[-2] > A.shape[-1]:
        made = BY_FUNCTION[linalg_qr].returns
        assert made is not None
        return made(list(_full_qr(A)))
    found = linalg_qr(A)
    return type(found)(A.new_zeros(0), found[1]) if mode == "r" else found


def qr(input: Tensor, some: bool = True) -> Any:
    """The older form of `linalg.qr`; without `some` Q is square."""
    return _qr_result(linalg_qr_of(input, "reduced" if some else "complete"))


# Least squares.
def _lstsq_A(g: Tensor, A: Tensor, B: Tensor, rcond: float) -> Tensor:
    """With P the pseudo-inverse, X = P B, r = B - A X: -Pᵀ g Xᵀ + Pᵀ X (g - P A g)ᵀ + r (P Pᵀ g)ᵀ."""
    p = pinv(A, rtol=rcond)
    x, turned = _product(p, B), _product(_turned(p), g)
    rest = g - _product(p, _product(A, g))
    inside = _product(_product(_turned(p), x), _turned(rest)) - _product(turned, _turned(x))
    return inside + _product(B - _product(A, x), _turned(_product(p, turned)))


@op(
    name="LinalgLstsqBackward0",
    A=_lstsq_A,
    B=lambda g, A, rcond: _product(_turned(pinv(A, rtol=rcond)), g),
    method=False,
    samples=lambda: [(real(4, 2), real(4, 3, seed=1), 1e-12), (real(2, 2, 3), real(2, 2, 1, seed=1), 1e-12)],
)
def _lstsq(A: Value, B: Value, rcond: float) -> tuple[Value, Value, Value]:
    """(X, rank, singular values)."""
    batch = broadcast_shape(A.shape[:-2], B.shape[:-2])
    a, b = (broadcast_to(x, (*batch, *x.shape[-2:])) for x in (A, B))
    x, rank, values = session.dispatch("lstsq", [a, b], {"rcond": rcond})
    return x, rank, values


_lstsq_result = named_tuple("linalg_lstsq", ("solution", "residuals", "rank", "singular_values"))
DRIVERS = ("gels", "gelsy", "gelsd", "gelss")


def lstsq(input: Tensor, b: Tensor, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """The shortest X with the least |input @ X - b|, of (*, m, n) and (*, m, k) or vectors (*, m).

    `driver` says as in torch which further results there are; all are worked out by singular values. Residuals, of the
    drivers other than "gelsy", the default, wait for the ranks.
    """
    if input.dim() < 2:
        raise RuntimeError("torch.linalg.lstsq: input must have at least 2 dimensions.")
    if b.dim() < 1:
        raise RuntimeError("torch.linalg.lstsq: other must have at least 1 dimension.")
    if b.dtype is not input.dtype:
        raise RuntimeError(
            "torch.linalg.lstsq: Expected input and other to have the same dtype, but got input's dtype "
            f"{input.dtype.title} and other's dtype {b.dtype.title}"
        )
    driver = "gelsy" if driver is None else driver
    if driver not in DRIVERS:
        raise RuntimeError(f"torch.linalg.lstsq: parameter `driver` should be one of ({', '.join(DRIVERS)})")
    vectors = b.dim() == input.dim() - 1 and tuple(b.shape) == tuple(input.shape[:-1])
    right = call("unsqueeze", b, -1) if vectors else b
    if right.dim() < 2 or right.shape[-2] != input.shape[-2]:
        which = -1 if vectors or right.dim() < 2 else -2
        raise RuntimeError(f"torch.linalg.lstsq: input.size(-2) should match other.size({which})")
    if rcond is None:
        rcond = max(input.shape[-2:]) * float(np.finfo(input.dtype.numpy).eps)
    x, rank, values = _lstsq(input, right, float(rcond))
    m, n = input.shape[-2:]
    rank, empty = rank.detach().to(int64), input.new_zeros(0)
    residuals = empty
    if driver != "gelsy" and m > n and (driver == "gels" or bool((rank == n).all())):
        residuals = (_product(input, x) - right).square().sum(-2)
    parts = [
        call("squeeze", x, -1) if vectors else x,
        residuals,
        empty.to(int64) if driver == "gels" else rank,
        values.detach() if driver in ("gelsd", "gelss") else empty,
    ]
    return _lstsq_result(parts)


attach(svd=svd, qr=qr)
