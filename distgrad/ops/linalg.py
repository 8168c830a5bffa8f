"""`torch.linalg`: norms of vectors and matrices, and the singular values that some of these are made of."""

from __future__ import annotations

from typing import Any

from distgrad import session
from distgrad.dtype import dtype
from distgrad.ops.base import Dims, Ints, Tensor, Value, call, composite, normal_dims, op
from distgrad.ops.helpers import normal_dim
from distgrad.ops.norms import INF, _never_zero, _norms, vector_norm
from distgrad.ops.reductions import kept, numpy_names
from distgrad.ops.samples import real

__all__ = ["norm"]


def _turned(x: Tensor) -> Tensor:
    return call("transpose", x, -2, -1)


def _skew(a: Tensor, b: Tensor) -> Tensor:
    """a.T @ b less its transpose."""
    made = call("matmul", _turned(a), b)
    return made - _turned(made)


def _svd_input(g: list[Tensor | None], A: Tensor) -> Tensor:
    """U (diag gs + (skew(Uᵀ gu) / E) S + S (skew(Vᵀ gv) / E)) Vᵀ, E[i, j] = s[j]² - s[i]², and what leaves both spaces.

    Where singular values are equal nothing is said of which vectors they have, and that part is left out.
    """
    u, s, vh = linalg_svd(A)
    gu, gs, gvh = [*g, None, None][:3]  # there are none for the last that are not used
    row, column = call("unsqueeze", s, -2), call("unsqueeze", s, -1)
    total = u * 0 if gs is None else u * call("unsqueeze", gs, -2)
    apart = _never_zero((row - column) * (row + column))
    if gu is not None:
        total = total + call("matmul", u, _skew(u, gu) / apart * row)
        if (
            A.shape[-2] > A.shape[-1]
        ):  # else U is square, and this no more than rounding over small singular values
            total = total + (gu - call("matmul", u, call("matmul", _turned(u), gu))) / _never_zero(row)
    out = call("matmul", total, vh)
    if gvh is not None:
        v, gv = _turned(vh), _turned(gvh)
        inside = call("matmul", column * (_skew(v, gv) / apart), vh)
        if A.shape[-1] > A.shape[-2]:
            inside = inside + (gvh - call("matmul", call("matmul", gvh, v), vh)) / _never_zero(column)
        out = out + call("matmul", u, inside)
    return out


def _matrices() -> list[Any]:
    return [real(2, 3), real(3, 2, seed=1), real(2, 2, 2)]


@op(
    name="LinalgSvdBackward0",
    multi=True,
    returns=("U", "S", "Vh"),
    A=_svd_input,
    method=False,
    samples=_matrices,
)
def linalg_svd(A: Value) -> tuple[Value, Value, Value]:
    """(U, S, Vh) with A = U @ diag(S) @ Vh."""
    u, s, vh = session.dispatch("svd", [A], {})
    return u, s, vh


ORDERS = ("fro", "nuc", 1, -1, 2, -2, INF, -INF)


@numpy_names
def matrix_norm(
    A: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: dtype | None = None
) -> Tensor:
    """The norm of the matrices in dimensions `dim`.

    "fro" is the root of all squares and "nuc" the sum of the singular values; 2 and -2 are the largest and the smallest
    of these, 1 and -1 of the sums of columns, inf and -inf of the sums of rows (of absolute values).
    """
    if not A.is_floating_point():
        title = A.dtype.title
        raise RuntimeError(
            f"linalg.matrix_norm: Expected a floating point or complex tensor as input. Got {title}"
        )
    if A.dim() < 2:
        raise RuntimeError("linalg.matrix_norm: The input tensor A must have at least 2 dimensions.")
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    if len(dims) != 2:
        raise RuntimeError(f"linalg.matrix_norm: dim must be a 2-tuple. Got {' '.join(map(str, dims))}")
    rows, columns = (normal_dim(d, A.dim()) for d in dims)
    if rows == columns:
        raise RuntimeError(f"linalg.matrix_norm: dims must be different. Got ({dims[0]}, {dims[1]})")
    if ord not in ORDERS:
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    A = A if dtype is None else A.to(dtype)
    if ord == "fro":
        return vector_norm(A, 2, (rows, columns), keepdim)
    if ord in ("nuc", 2, -2):
        return _of_singular_values(A, ord, (rows, columns), keepdim)
    first, second = (rows, columns) if abs(ord) == 1 else (columns, rows)
    sums = call("sum", call("abs", A), first, keepdim)
    return _extreme(sums, ord > 0, second - (first < second and not keepdim), keepdim)


def _extreme(x: Tensor, largest: bool, dim: int, keepdim: bool) -> Tensor:
    """The largest or smallest along `dim`, 0 where there is none."""
    return call("sum" if not x.shape[dim] else "amax" if largest else "amin", x, dim, keepdim)


def _of_singular_values(A: Tensor, ord: Any, dims: Ints, keepdim: bool) -> Tensor:
    rest = [d for d in range(A.dim()) if d not in dims]
    s = linalg_svd(call("permute", A, (*rest, *dims)))[1]
    found = call("sum", s, -1) if ord == "nuc" else _extreme(s, ord > 0, s.dim() - 1, False)
    return kept(found, dims, False, A.dim()) if keepdim else found


@numpy_names
def _norm_of_either(
    A: Tensor, ord: Any = None, dim: Dims = None, keepdim: bool = False, *, dtype: dtype | None = None
) -> Tensor:
    """`matrix_norm` of a matrix or of two dimensions, `vector_norm` of one; without `ord`, of all elements."""
    if ord is None:
        return vector_norm(A, 2, dim, keepdim, dtype)
    if dim is None and A.dim() not in (1, 2):
        raise RuntimeError(
            f"linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. Got {A.dim()}D."
        )
    dims = normal_dims(dim, A.dim()) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    if len(dims) > 2:
        shown = ", ".join(map(str, dims))
        raise RuntimeError(f"linalg.norm: If dim is specified, it must be of length 1 or 2. Got [{shown}]")
    if len(dims) == 2 or isinstance(ord, str):
        return matrix_norm(A, ord, dims if len(dims) == 2 else (-2, -1), keepdim, dtype=dtype)
    return vector_norm(A, ord, dim, keepdim, dtype)


@numpy_names
def _vector_norm(
    x: Tensor, ord: Any = 2, dim: Dims = None, keepdim: bool = False, *, dtype: dtype | None = None
) -> Tensor:
    """The norm of the elements along `dim`, whatever the number of dimensions."""
    return vector_norm(x, ord, dim, keepdim, dtype)


@composite(samples=lambda: [*_norms(), (real(2, 3), "nuc"), (real(2, 3, 2), "nuc", (0, 2), True)])
@numpy_names
def norm(
    input: Tensor, p: Any = "fro", dim: Dims = None, keepdim: bool = False, dtype: dtype | None = None
) -> Tensor:
    """(sum |x|**p) ** (1/p) along `dim`: "fro" is 2; inf and -inf are the largest and the smallest |x|.

    "nuc" is the sum of the singular values of the matrices in two dimensions.
    """
    if p == "nuc":
        return matrix_norm(input, p, tuple(range(input.dim())) if dim is None else dim, keepdim, dtype=dtype)
    return vector_norm(input, p, dim, keepdim, dtype)
