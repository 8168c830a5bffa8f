"""Decompositions of matrices and linear equations, over batches: `torch.linalg.cholesky`, `solve`, `eigh` and so on.

The formulas are those of Giles 2008 (An extended collection of matrix derivative results), Murray 2016 (for Cholesky)
see `factors.py` for QR.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad import session
from distgrad.ops.base import Tensor, Value, attach, call, common_dtype, composite, op
from distgrad.ops.compare import where
from distgrad.ops.helpers import broadcast_to, title
from distgrad.ops.joining import cat
from distgrad.ops.linalg import _never_zero, _turned, linalg_svd
from distgrad.ops.making import eye
from distgrad.ops.rearranging import diag_embed, tril, triu
from distgrad.ops.samples import real
from distgrad.primitives.elementwise import broadcast_shape

__all__ = [
    "cholesky",
    "cholesky_inverse",
    "cholesky_solve",
    "inverse",
    "matrix_exp",
    "matrix_power",
    "pinverse",
]


def _matrices(name: str, x: Value, square: bool = True) -> Value:
    """An operand that must be matrices of floats; torch's errors."""
    if x.dtype.kind != "f":
        raise RuntimeError(
            f"linalg.{name}: Expected a floating point or complex tensor as input. Got {title(x.dtype)}"
        )
    if len(x.shape) < 2:
        raise RuntimeError(f"linalg.{name}: The input tensor A must have at least 2 dimensions.")
    m, n = x.shape[-2:]
    if square and m != n:
        raise RuntimeError(
            f"linalg.{name}: A must be batches of square matrices, but they are {m} by {n} matrices"
        )
    return x


def _equations(name: str, a: Value, b: Value) -> tuple[Value, Value]:
    """A and B of A @ X = B, with one dtype and one batch shape."""
    if len(b.shape) < 2:
        raise RuntimeError(f"linalg.{name}: The input tensor B must have at least 2 dimensions.")
    _matrices(name, a)
    if a.dtype != b.dtype:
        common = common_dtype(a, b)
        raise RuntimeError(
            f"linalg.{name}: Expected A and B to have the same dtype, but found A of type {title(a.dtype)} and B of "
            f"type {title(b.dtype)} instead"
            if common.kind == "f"
            else f"linalg.{name}: Expected a floating point or complex tensor as input. Got {title(b.dtype)}"
        )
    if a.shape[-1] != b.shape[-2]:
        (m, n), (k, l) = a.shape[-2:], b.shape[-2:]  # noqa: E741
        raise RuntimeError(
            f"linalg.{name}: Incompatible shapes of A and B for the equation AX = B ({m}x{n} and {k}x{l})"
        )
    batch = broadcast_shape(a.shape[:-2], b.shape[:-2])
    return broadcast_to(a, (*batch, *a.shape[-2:])), broadcast_to(b, (*batch, *b.shape[-2:]))


def _spread(*shape: int, seed: int = 0) -> Tensor:
    """Square matrices far from singular."""
    return real(*shape, seed=seed) + 3 * eye(shape[-1], dtype=real().dtype)


def _definite(*shape: int) -> Tensor:
    x = _spread(*shape)
    return call("matmul", x, _turned(x)).detach()


def _product(a: Tensor, b: Tensor) -> Tensor:
    return call("matmul", a, b)


# Triangles.
def _triangle(x: Tensor, upper: bool, unit: bool = False) -> Tensor:
    return triu(x, int(unit)) if upper else tril(x, -int(unit))


def _triangular_A(g: Tensor, out: Tensor, A: Tensor, upper: bool, unit: bool) -> Tensor:
    back = _solve_triangular(_turned(A), g, not upper, unit)
    return _triangle(-_product(back, _turned(out)), upper, unit)


@op(
    name="LinalgSolveTriangularBackward0",
    A=_triangular_A,
    B=lambda g, A, upper, unit: _solve_triangular(_turned(A), g, not upper, unit),
    method=False,
    samples=lambda: [
        (_spread(3, 3), real(3, 2), True, False),
        (_spread(2, 3, 3), real(3, 2), False, False),
        (_spread(3, 3), real(2, 3, 1), False, True),
    ],
)
def _solve_triangular(A: Value, B: Value, upper: bool, unit: bool) -> Value:
    """X with A @ X = B."""
    a, b = _equations("solve_triangular", A, B)
    return session.emit("solve_triangular", a, b, upper=bool(upper), unit=bool(unit))


@composite(
    method=False,
    samples=lambda: [
        (_spread(3, 3), real(3, 2), {"upper": True}),
        (_spread(3, 3), real(2, 3), {"upper": False, "left": False}),
    ],
)
def solve_triangular(
    A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """X with A @ X = B, or X @ A = B if not `left`; of A (*, n, n) only one triangle counts."""
    if left:
        return _solve_triangular(A, B, upper, unitriangular)
    return _turned(_solve_triangular(_turned(A), _turned(B), not upper, unitriangular))


# Cholesky.
def _cholesky_input(g: Tensor, out: Tensor) -> Tensor:
    """sym(L⁻ᵀ Φ(Lᵀ g) L⁻¹), Φ the lower triangle with half of the diagonal."""
    inner = tril(_product(_turned(out), tril(g)))
    inner = inner - 0.5 * diag_embed(call("diagonal", inner, 0, -2, -1))
    left = _solve_triangular(_turned(out), inner, True, False)  # L⁻ᵀ Φ
    found = _turned(_solve_triangular(_turned(out), _turned(left), True, False))
    return 0.5 * (found + _turned(found))


@op(
    name="LinalgCholeskyExBackward0",
    input=_cholesky_input,
    method=False,
    samples=lambda: [_definite(3, 3), _definite(2, 2, 2)],
)
def _cholesky(input: Value) -> Value:
    """The lower triangular L with input = L @ L.T."""
    return session.emit("cholesky", _matrices("cholesky", input))


@composite(samples=lambda: [(_definite(3, 3),), (_definite(2, 2), True)])
def cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """The lower triangular L with input = L @ L.T, or its transpose, of symmetric positive definite (*, n, n)."""
    return _turned(_cholesky(_turned(input))) if upper else _cholesky(input)


@composite(samples=lambda: [(real(3, 2), _spread(3, 3)), (real(3, 1), _spread(3, 3), True)])
def cholesky_solve(B: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """X with (L @ L.T) @ X = B; with `upper`, (L.T @ L) @ X = B."""
    lower = _turned(L) if upper else L
    return _solve_triangular(_turned(lower), _solve_triangular(lower, B, False, False), True, False)


@composite(samples=lambda: [(_spread(3, 3),), (_spread(2, 2, 2), True)])
def cholesky_inverse(L: Tensor, upper: bool = False) -> Tensor:
    """The inverse of L @ L.T; with `upper`, of L.T @ L."""
    return cholesky_solve(eye(L.shape[-1], dtype=L.dtype), L, upper)


# Linear equations.
def _solve_A(g: Tensor, out: Tensor, A: Tensor) -> Tensor:
    return -_product(_solve(_turned(A), g), _turned(out))


@op(
    name="LinalgSolveExBackward0",
    A=_solve_A,
    B=lambda g, A: _solve(_turned(A), g),
    method=False,
    samples=lambda: [(_spread(3, 3), real(3, 2)), (_spread(2, 3, 3), real(3, 2))],
)
def _solve(A: Value, B: Value) -> Value:
    """X with A @ X = B."""
    return session.emit("solve", *_equations("solve", A, B))


@composite(
    method=False,
    samples=lambda: [(_spread(3, 3), real(3, 2)), (_spread(3, 3), real(3)), (_spread(2, 3, 3), real(2, 3))],
)
def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """X with A @ X = B, or X @ A = B if not `left`; B is (*, n, k), or vectors (*, n) beside A (*, n, n)."""
    vectors = B.dim() == 1 or (B.dim() == A.dim() - 1 and tuple(B.shape) == tuple(A.shape[:-1]))
    if vectors:
        return call("squeeze", solve(A, call("unsqueeze", B, -1), left=left), -1)
    return _solve(A, B) if left else _turned(_solve(_turned(A), _turned(B)))


@op(
    name="LinalgInvExBackward0",
    A=lambda g, out: -_product(_turned(out), _product(g, _turned(out))),
    method=False,
    samples=lambda: [_spread(3, 3), _spread(2, 2, 2)],
)
def inv(A: Value) -> Value:
    """The inverse of (*, n, n)."""
    return session.emit("inverse", _matrices("inv", A))


# Eigenvalues, pseudo-inverse.
def _eigh_A(g: list[Tensor | None], A: Tensor, UPLO: str) -> Tensor:
    """V (diag gw + (Vᵀ gV) / E) Vᵀ, E[i, j] = w[j] - w[i]. Where eigenvalues are equal that part is left out."""
    w, v = linalg_eigh(A, UPLO)
    gw, gv = [*g, None][:2]
    inner = diag_embed(w * 0 if gw is None else gw)
    if gv is not None:
        apart = call("unsqueeze", w, -2) - call("unsqueeze", w, -1)
        inner = inner + _product(_turned(v), gv) / _never_zero(apart)
    return _product(v, _product(inner, _turned(v)))


@op(
    name="LinalgEighBackward0",
    multi=True,
    returns=("eigenvalues", "eigenvectors"),
    A=_eigh_A,
    method=False,
    samples=lambda: [_definite(3, 3), (_definite(2, 2, 2), "U")],
)
def linalg_eigh(A: Value, UPLO: str = "L") -> tuple[Value, Value]:
    """(w, V) with A = V @ diag(w) @ V.T."""
    w, v = session.dispatch("eigh", [_matrices("eigh", A)], {"lower": UPLO in ("L", "l")})
    return w, v


def eigh(A: Tensor, UPLO: str = "L") -> Any:
    """(eigenvalues (*, n), eigenvectors (*, n, n)) of symmetric matrices, of which one triangle is read."""
    if UPLO not in ("L", "l", "U", "u"):
        raise RuntimeError(f"Expected UPLO argument to be 'L' or 'U', but got {UPLO}")
    return linalg_eigh(A, UPLO)


@composite(method=False, samples=lambda: [_definite(3, 3), _definite(2, 2, 2)])
def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """The eigenvalues of symmetric matrices, rising."""
    return eigh(A, UPLO)[0]


@composite(method=False, samples=lambda: [real(2, 3), real(3, 2, seed=1), _spread(2, 2)])
def pinv(A: Tensor, *, rtol: float | None = None) -> Tensor:
    """The pseudo-inverse of Moore and Penrose, from singular values above `rtol` times the largest."""
    u, s, vh = linalg_svd(A)
    if rtol is None:
        rtol = max(A.shape[-2:]) * float(np.finfo(A.dtype.numpy).eps)
    kept = s > rtol * call("amax", s, -1, True)
    inverse = where(kept, 1 / where(kept, s, 1.0), 0.0)
    return _product(_turned(vh) * call("unsqueeze", inverse, -2), _turned(u))


@composite(samples=lambda: [(_spread(3, 3), 3), (_spread(2, 2, 2), -2), (_spread(2, 2), 0)])
def matrix_power(A: Tensor, n: int) -> Tensor:
    """A @ A @ ... n times, by squaring; the inverse's power for negative n."""
    if n == 0:
        one = eye(A.shape[-1], dtype=A.dtype)
        return one.expand(A.shape).clone()
    base = inv(A) if n < 0 else A
    out = None
    for bit in f"{abs(n):b}":
        out = base if out is None else _product(out, out)
        if bit == "1" and out is not base:
            out = _product(out, base)
    return out  # type: ignore[return-value]


inverse = inv


def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    """The older form of `linalg.pinv`, with its own tolerance."""
    return pinv(input, rtol=rcond)


attach(inverse=inv, pinverse=pinverse)


def _matrix_exp_A(g: Tensor, A: Tensor) -> Tensor:
    """The upper right block of exp [[A^T, g], [0, A^T]], by Van Loan (1978)."""
    n, turned = A.shape[-1], _turned(A)
    above, below = cat([turned, g], -1), cat([A.new_zeros(tuple(A.shape)), turned], -1)
    return matrix_exp(cat([above, below], -2))[..., :n, n:]


@op(
    name="LinalgMatrixExpBackward0",
    A=_matrix_exp_A,
    samples=lambda: [real(3, 3, low=-1, high=1), real(2, 2, 2, low=-1, high=1)],
)
def matrix_exp(A: Value) -> Value:
    """The exponential of square matrices: the sum of A^k / k! for all k."""
    return session.emit("expm", _matrices("matrix_exp", A))
