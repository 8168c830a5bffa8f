"""The largest singular values of matrices of low rank: of a random subspace that holds nearly all of the matrix.

Halko, Martinsson and Tropp, "Finding structure with randomness" (2011), algorithms 4.4 and 5.1.
"""

from __future__ import annotations

from distgrad.dtype import get_default_dtype
from distgrad.ops.base import Tensor, call
from distgrad.ops.factors import linalg_qr_of
from distgrad.ops.linalg import _turned, linalg_svd
from distgrad.ops.products import matmul
from distgrad.ops.random import randn

__all__ = ["pca_lowrank", "svd_lowrank"]


def _basis(A: Tensor, q: int, niter: int, M: Tensor | None) -> Tensor:
    """Columns that are orthonormal and span nearly what those of A - M do."""

    def times(x: Tensor) -> Tensor:
        return matmul(A, x) if M is None else matmul(A, x) - matmul(M, x)

    def turned(x: Tensor) -> Tensor:
        return matmul(_turned(A), x) if M is None else matmul(_turned(A), x) - matmul(_turned(M), x)

    dtype = A.dtype if A.is_floating_point() else get_default_dtype()
    found = linalg_qr_of(times(randn(A.shape[-1], q, dtype=dtype)))[0]
    for _ in range(niter):
        found = linalg_qr_of(times(linalg_qr_of(turned(found))[0]))[0]
    return found


def svd_lowrank(
    A: Tensor, q: int | None = 6, niter: int | None = 2, M: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(U, S, V) with A - M ≈ U @ diag(S) @ Vᵀ, of at most rank `q`, after `niter` more rounds of approximation.

    A and M are (*, m, n), U (*, m, q), S (*, q) and V (*, n, q).
    """
    q, niter = 6 if q is None else q, 2 if niter is None else niter
    M = None if M is None else M.broadcast_to(A.shape)
    wide = A.shape[-2] < A.shape[-1]
    if wide:
        A, M = _turned(A), None if M is None else _turned(M)
    basis = _basis(A, q, niter, M)
    inner = matmul(_turned(basis), A if M is None else A - M)
    u, s, vh = linalg_svd(inner)
    u, v = matmul(basis, u), _turned(vh)
    return (v, s, u) if wide else (u, s, v)


def pca_lowrank(
    A: Tensor, q: int | None = None, center: bool = True, niter: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """`svd_lowrank` of A (*, m, n) less the mean of its rows: V's columns are the principal directions."""
    m, n = A.shape[-2:]
    if q is None:
        q = min(6, m, n)
    elif not 0 <= q <= min(m, n):
        raise ValueError(f"q(={q}) must be non-negative integer and not greater than min(m, n)={min(m, n)}")
    if niter < 0:
        raise ValueError(f"niter(={niter}) must be non-negative integer")
    return svd_lowrank(A - call("mean", A, -2, True) if center else A, q, niter)
