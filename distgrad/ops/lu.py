"""LU and LDL factors and what is solved by them; inverses and solutions that say in `info` whether there is one.

The formula of LU is that of torch's manual: with A = P L U, Pᵀ gA = L⁻ᵀ (tril(Lᵀ gL, -1) + triu(gU Uᵀ)) U⁻ᵀ, where the
rows below the square of a tall matrix and the columns beside that of a wide one are solved for by the square's factors.
"""

from __future__ import annotations

from typing import Any

from distgrad import session
from distgrad.dtype import int32, int64
from distgrad.ops.base import Ints, Tensor, Value, broadcast_to, call, cast, op
from distgrad.ops.declaration import named_tuple
from distgrad.ops.decompositions import (
    _cholesky_input,
    _equations,
    _matrices,
    _product,
    _solve_triangular,
    cholesky,
    inv,
    solve,
)
from distgrad.ops.gathering import gather
from distgrad.ops.helpers import title
from distgrad.ops.joining import cat
from distgrad.ops.linalg import _turned
from distgrad.ops.making import arange, eye, zeros
from distgrad.ops.ordering import argsort
from distgrad.ops.rearranging import tril, triu
from distgrad.primitives.elementwise import broadcast_shape

__all__ = ["lu_solve", "lu_unpack"]

NO_PIVOTS = "linalg.lu_factor: LU without pivoting is not implemented on the CPU"
PIVOTS = "Note: this function is intended to be used with the output produced by torch.linalg.lu_factor"


def _matrix(name: str, x: Tensor) -> None:
    if x.dim() < 2:
        sizes = list(x.shape)
        raise RuntimeError(
            f"torch.{name}: Expected tensor with 2 or more dimensions. Got size: {sizes} instead"
        )


def _floats(name: str, x: Tensor) -> Tensor:
    """Matrices to be factored; torch's errors."""
    _matrix(name, x)
    if not x.is_floating_point():
        raise NotImplementedError(
            f"\"{name.removesuffix('_factor')}_cpu\" not implemented for '{x.dtype.title}'"
        )
    return x


# LU.
def _lu_A(g: Tensor, A: Tensor) -> Tensor:
    m, n = A.shape[-2:]
    k = min(m, n)
    both, pivots, _ = _lu(A, "")
    square, inner = both[..., :k, :k], g[..., :k, :k]
    lower, upper = tril(square, -1) + eye(k, dtype=A.dtype), triu(square)
    gl, gu = _product(_turned(lower), tril(inner, -1)), _product(triu(inner), _turned(upper))
    beside = below = None
    if m > k:  # of the rows below the square L is A U⁻¹
        below = _turned(_solve_triangular(upper, _turned(g[..., k:, :]), True, False))
        gu = gu - _product(_turned(both[..., k:, :]), g[..., k:, :])
    if n > k:  # of the columns beside it U is L⁻¹ A
        beside = _solve_triangular(_turned(lower), g[..., k:], True, True)
        gl = gl - _product(g[..., k:], _turned(both[..., k:]))
    left = _solve_triangular(_turned(lower), tril(gl, -1) + triu(gu), True, True)
    found = _turned(_solve_triangular(upper, _turned(left), True, False))
    found = found if beside is None else cat([found, beside], -1)
    found = found if below is None else cat([found, below], -2)
    return _rows(found, argsort(_exchanged(pivots, m)))


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """The rows of these numbers, of each matrix."""
    batch = broadcast_shape(x.shape[:-2], rows.shape[:-1])
    places = call("unsqueeze", rows.to(int64), -1).expand((*batch, rows.shape[-1], x.shape[-1]))
    return gather(x.expand((*batch, *x.shape[-2:])), -2, places)


@op(name="LinalgLuFactorExBackward0", A=_lu_A, method=False, listed=False)
def _lu(A: Value, check: str) -> tuple[Value, Value, Value]:
    """(LU, pivots, info), the last two as floats."""
    both, pivots, info = session.dispatch("lu", [A], {"check": check})
    return both, pivots, info


@op(method=False, listed=False)
def _exchanged(pivots: Value, rows: int) -> Value:
    return session.emit("exchanged", pivots, m=rows)


_lu_parts = named_tuple("linalg_lu", ("P", "L", "U"))
_factor = named_tuple("linalg_lu_factor", ("LU", "pivots"))
_factor_ex = named_tuple("linalg_lu_factor_ex", ("LU", "pivots", "info"))
_unpacked = named_tuple("lu_unpack", ("P", "L", "U"))


def _factored(A: Tensor, pivot: bool, check: str) -> list[Tensor]:
    _floats("lu_factor", A)
    if not pivot:
        raise RuntimeError(NO_PIVOTS)
    both, pivots, info = _lu(A, check)
    return [both, pivots.to(int32), info.to(int32)]


def lu_factor(A: Tensor, *, pivot: bool = True) -> Any:
    """(LU, pivots): L without its diagonal of ones and U in one, and with which row each was exchanged, from 1 on.

    A zero on the diagonal of U is an error.
    """
    return _factor(_factored(A, pivot, "lu_factor")[:2])


def lu_factor_ex(A: Tensor, *, pivot: bool = True, check_errors: bool = False) -> Any:
    """The same, and in `info` where the first zero is on the diagonal of U, from 1 on, or 0."""
    return _factor_ex(_factored(A, pivot, "lu_factor_ex" if check_errors else ""))


def lu_unpack(
    LU_data: Tensor, LU_pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> Any:
    """(P, L, U) with A = P @ L @ U, from what `lu_factor` gives of A; empty what is not asked for."""
    _matrix("lu_unpack", LU_data)
    if unpack_pivots and LU_pivots.dtype is not int32:
        raise RuntimeError(
            f"torch.lu_unpack: LU_pivots is expected to be a contiguous tensor of torch.int32 dtype.\n{PIVOTS}"
        )
    m, n = LU_data.shape[-2:]
    k = min(m, n)
    p = lower = upper = LU_data.new_zeros(0)
    if unpack_pivots:
        rows = _exchanged(LU_pivots.to(LU_data.dtype), m)
        p = (call("unsqueeze", rows, -2) == call("unsqueeze", arange(m), -1)).to(LU_data.dtype)
    if unpack_data:
        lower = tril(LU_data[..., :k], -1) + eye(m, k, dtype=LU_data.dtype)
        upper = triu(LU_data[..., :k, :])
    return _unpacked([p, lower, upper])


def lu(A: Tensor, *, pivot: bool = True) -> Any:
    """(P, L, U) with A = P @ L @ U: a permutation, lower triangular with ones on the diagonal, upper triangular."""
    both, pivots, _ = _factored(A, pivot, "")
    return _lu_parts(list(lu_unpack(both, pivots)))


def linalg_lu_solve(
    LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False
) -> Tensor:
    """X with A @ X = B from what `lu_factor` gives of A; X @ A = B if not `left`; of A's transpose if `adjoint`."""
    _check_equations("lu_solve", LU, pivots, B, left)
    if not left:
        return _turned(linalg_lu_solve(LU, pivots, _turned(B), adjoint=not adjoint))
    rows = _exchanged(pivots.to(LU.dtype), LU.shape[-1])
    if adjoint:
        inner = _solve_triangular(_turned(LU), _solve_triangular(_turned(LU), B, False, False), True, True)
        return _rows(inner, argsort(rows))
    return _solve_triangular(LU, _solve_triangular(LU, _rows(B, rows), False, True), True, False)


def _check_equations(name: str, LU: Tensor, pivots: Tensor, B: Tensor, left: bool) -> None:
    """torch's errors, of which some name the factors LU and others A."""
    if not LU.is_floating_point():
        raise RuntimeError(
            f"torch.linalg.{name}: Expected a floating point or complex tensor as input. Got {LU.dtype.title}"
        )
    if LU.dtype is not B.dtype:
        raise RuntimeError(
            f"linalg.{name}: Expected LU and B to have the same dtype, but found LU of type {LU.dtype.title} and B of "
            f"type {B.dtype.title} instead"
        )
    if pivots.dtype is not int32:
        raise RuntimeError(f"linalg.{name}: pivots should be a Tensor of scalar type torch.int32")
    if LU.dim() < 2:
        raise RuntimeError(f"torch.linalg.{name}: The input tensor A must have at least 2 dimensions.")
    m, n = LU.shape[-2:]
    if m != n:
        raise RuntimeError(
            f"torch.linalg.{name}: A must be batches of square matrices, but they are {m} by {n} matrices"
        )
    if B.dim() < 2:
        raise RuntimeError(f"linalg.{name}: The input tensor B must have at least 2 dimensions.")
    if n != B.shape[-2 if left else -1]:
        k, other = B.shape[-2:]
        form = "AX" if left else "XA"
        raise RuntimeError(
            f"linalg.{name}: Incompatible shapes of A and B for the equation {form} = B ({m}x{n} and {k}x{other})"
        )
    _check_pivots(name, pivots, n, tuple(LU.shape[:-1]))


def _check_pivots(name: str, pivots: Tensor, n: int, expected: Ints) -> None:
    if not pivots.dim():
        raise IndexError("Dimension specified as -1 but tensor has no dimensions")
    if pivots.shape[-1] != n:
        raise RuntimeError(
            f"linalg.{name}: Number of pivots per batch should be same as the dimension of the matrix"
        )
    if tuple(pivots.shape) != expected:
        raise RuntimeError(
            f"linalg.{name}: Expected LU.shape[:-1] and pivots.shape to be the same, but got pivots with shape "
            f"{list(pivots.shape)} instead"
        )


def lu_solve(b: Tensor, LU_data: Tensor, LU_pivots: Tensor) -> Tensor:
    """The older form of `linalg.lu_solve`."""
    return linalg_lu_solve(LU_data, LU_pivots, b)


# What says whether there is one.
_inv_ex = named_tuple("linalg_inv_ex", ("inverse", "info"))
_solve_ex = named_tuple("linalg_solve_ex", ("result", "info"))
_cholesky_ex = named_tuple("linalg_cholesky_ex", ("L", "info"))


def _solved_A(g: Tensor, A: Tensor, B: Tensor, turned: bool) -> Tensor:
    gb, x = _solved(A, g, not turned)[0], _solved(A, B, turned)[0]
    return -(_product(x, _turned(gb)) if turned else _product(gb, _turned(x)))


@op(
    name="LinalgSolveExBackward0",
    A=_solved_A,
    B=lambda g, A, turned: _solved(A, g, not turned)[0],
    method=False,
    listed=False,
)
def _solved(A: Value, B: Value, turned: bool) -> tuple[Value, Value]:
    """(X with A @ X = B, or with Aᵀ @ X = B if `turned`; info of A as floats)."""
    x, info = session.dispatch("solve_ex", [*_equations("solve", A, B)], {"turned": turned})
    return x, info


@op(
    name="LinalgInvExBackward0",
    A=lambda g, A: -_product(_turned(_inverted(A)[0]), _product(g, _turned(_inverted(A)[0]))),
    method=False,
    listed=False,
)
def _inverted(A: Value) -> tuple[Value, Value]:
    """(the inverse, info as floats)."""
    _matrices("inv", A)
    n = A.shape[-1]
    rows, columns = (session.emit("iota", shape=(n, n), dim=d, cuts=None) for d in (0, 1))
    one = broadcast_to(cast(session.emit("equal", rows, columns), A.dtype), A.shape)
    x, info = session.dispatch("solve_ex", [A, one], {"turned": False})
    return x, info


@op(
    name="LinalgCholeskyExBackward0",
    A=lambda g, A: _cholesky_input(g, _definite_factor(A)[0]),
    method=False,
    listed=False,
)
def _definite_factor(A: Value) -> tuple[Value, Value]:
    """(the lower factor, info as floats)."""
    lower, info = session.dispatch("cholesky_ex", [_matrices("cholesky", A)], {})
    return lower, info


def inv_ex(A: Tensor, *, check_errors: bool = False) -> Any:
    """(inverse, info): info is 0, or for a singular matrix the place of the zero that is met, from 1 on."""
    if check_errors:
        inverse = inv(A)
        return _inv_ex([inverse, zeros(inverse.shape[:-2], dtype=int32)])
    inverse, info = _inverted(A)
    return _inv_ex([inverse, info.to(int32)])


def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> Any:
    """(X, info) as `solve` gives X; info is 0, or for a singular matrix the place of the zero that is met."""
    vectors = B.dim() == 1 or (B.dim() == A.dim() - 1 and tuple(B.shape) == tuple(A.shape[:-1]))
    if vectors:
        x, info = solve_ex(A, call("unsqueeze", B, -1), left=left, check_errors=check_errors)
        return _solve_ex([call("squeeze", x, -1), info])
    if check_errors:
        x = solve(A, B, left=left)
        return _solve_ex([x, zeros(A.shape[:-2], dtype=int32)])
    x, info = _solved(A, B, False) if left else _solved(A, _turned(B), True)
    if info.shape != A.shape[:-2]:  # A was repeated beside the batch of B
        info = _lu(A.detach(), "")[2]
    return _solve_ex([x if left else _turned(x), info.to(int32)])


def cholesky_ex(A: Tensor, *, upper: bool = False, check_errors: bool = False) -> Any:
    """(L, info) as `cholesky` gives L; info is 0, or the order of the first minor that is not positive definite."""
    if check_errors:
        lower = cholesky(A, upper)
        return _cholesky_ex([lower, zeros(lower.shape[:-2], dtype=int32)])
    lower, info = _definite_factor(_turned(A) if upper else A)
    return _cholesky_ex([_turned(lower) if upper else lower, info.to(int32)])


# LDL.
_ldl = named_tuple("linalg_ldl_factor", ("LD", "pivots"))
_ldl_ex = named_tuple("linalg_ldl_factor_ex", ("LD", "pivots", "info"))


def _refused(g: Any, name: str) -> Any:
    raise RuntimeError(f"derivative for aten::{name} is not implemented")


@op(
    name="NotImplemented",
    A=lambda g: _refused(g, "linalg_ldl_factor_ex"),
    method=False,
    listed=False,
)
def _ldl_factored(A: Value) -> tuple[Value, Value, Value]:
    factor, pivots, info = session.dispatch("ldl", [_matrices("ldl_factor_ex", A)], {})
    return factor, pivots, info


@op(
    name="NotImplemented",
    LD=lambda g: _refused(g, "linalg_ldl_solve"),
    B=lambda g: _refused(g, "linalg_ldl_solve"),
    method=False,
    listed=False,
)
def _ldl_solved(LD: Value, pivots: Value, B: Value) -> Value:
    factor, right = _equations("ldl_solve", LD, B)
    if pivots.shape != LD.shape[:-1]:
        raise RuntimeError(
            "torch.linalg.ldl_solve: Expected LD.shape[:-1] and pivots.shape to be the same, but got pivots with shape "
            f"{list(pivots.shape)} instead"
        )
    if pivots.dtype.kind not in "iu":
        raise RuntimeError(
            f"torch.linalg.ldl_solve: Expected pivots to be integers. Got {title(pivots.dtype)}"
        )
    places = broadcast_to(cast(pivots, LD.dtype), factor.shape[:-1])
    return session.emit("ldl_solve", factor, places, right)


def ldl_factor(A: Tensor, *, hermitian: bool = False) -> Any:
    """(LD, pivots) of symmetric matrices, of which the lower triangle is read: LAPACK's packed form."""
    return _ldl(list(ldl_factor_ex(A, hermitian=hermitian))[:2])


def ldl_factor_ex(A: Tensor, *, hermitian: bool = False, check_errors: bool = False) -> Any:
    """The same, and in `info` where the first zero block of D is, from 1 on, or 0."""
    if check_errors:
        raise NotImplementedError("linalg.ldl_factor_ex: check_errors=True; look at info")
    factor, pivots, info = _ldl_factored(A)
    return _ldl_ex([factor, pivots.to(int32), info.to(int32)])


def ldl_solve(LD: Tensor, pivots: Tensor, B: Tensor, *, hermitian: bool = False) -> Tensor:
    """X with A @ X = B from what `ldl_factor` gives of A."""
    return _ldl_solved(LD, pivots, B)
