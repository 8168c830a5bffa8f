"""The parametrization by which a matrix stays orthogonal, whatever its original is."""

from __future__ import annotations

from typing import Any

from distgrad.dtype import finfo
from distgrad.nn.module import Module
from distgrad.nn.utils.parametrize import register_parametrization
from distgrad.ops.compare import allclose
from distgrad.ops.decompositions import matrix_exp, solve, solve_triangular
from distgrad.ops.factors import linalg_qr_of as qr
from distgrad.ops.joining import cat
from distgrad.ops.making import eye
from distgrad.ops.random import randn
from distgrad.ops.rearranging import diag_embed
from distgrad.record import no_grad
from distgrad.tensor import Tensor

MAPS = ("matrix_exp", "cayley", "householder")


def _turned(x: Tensor) -> Tensor:
    return x.transpose(-1, -2)


def _is_orthogonal(q: Tensor) -> bool:
    n, k = q.shape[-2:]
    return bool(allclose(_turned(q) @ q, eye(k, dtype=q.dtype), atol=10.0 * n * finfo(q.dtype).eps))


def _made_orthogonal(a: Tensor) -> Tensor:
    """The orthogonal factor of QR, with signs that make the diagonal of R positive."""
    q, r = qr(a)
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def _reflected(a: Tensor) -> Tensor:
    """The first k columns of the product of k reflections I - t v v^T.

    v are the columns of `a` below its diagonal, with 1 on it, and t = 2 / |v|². The product is I - V T V^T, where
    T^-1 has 1 / t on its diagonal and v_i^T v_j above (Schreiber and Van Loan 1989).
    """
    n, k = a.shape[-2:]
    below = a.tril(-1)
    ones = eye(n, k, dtype=a.dtype)
    v = below + ones
    half = (1.0 + (below * below).sum(-2)) / 2.0
    inner = (_turned(v) @ v).triu(1) + diag_embed(half)
    return ones - v @ solve_triangular(inner, _turned(v[..., :k, :]), upper=True)


class _Orthogonal(Module):
    """From any matrix (*, m, n) to one with orthonormal rows or columns."""

    base: Any

    def __init__(self, weight: Tensor, orthogonal_map: str, use_trivialization: bool):
        super().__init__()
        self.shape, self.orthogonal_map = weight.shape, orthogonal_map
        if use_trivialization:  # the map starts from `base`, which is what was there
            self.register_buffer("base", None)

    def forward(self, X: Tensor) -> Tensor:
        """The orthogonal matrix."""
        wide = X.shape[-2] < X.shape[-1]
        X = _turned(X) if wide else X
        n, k = X.shape[-2:]
        if self.orthogonal_map == "householder":
            Q = _reflected(X) * X.diagonal(dim1=-2, dim2=-1).int().unsqueeze(-2)
        else:
            lower = X.tril()
            if n != k:
                more = X.new_zeros((*X.shape[:-2], n, n - k))
                lower = cat([lower, more], -1)
            A = lower - _turned(lower)  # skew-symmetric
            if self.orthogonal_map == "matrix_exp":
                Q = matrix_exp(A)
            else:
                one = eye(n, dtype=A.dtype)
                Q = solve(one - 0.5 * A, one + 0.5 * A)
            Q = Q[..., :k] if n != k else Q
        if hasattr(self, "base"):
            Q = self.base @ Q
        return _turned(Q) if wide else Q

    def right_inverse(self, Q: Tensor) -> Tensor:
        """The original for a matrix, which is made orthogonal if it is not, and becomes the base."""
        if Q.shape != self.shape:
            raise ValueError(
                f"Expected a matrix or batch of matrices of shape {self.shape}. Got a tensor of shape {Q.shape}."
            )
        if not hasattr(self, "base"):
            raise NotImplementedError(
                "It is not possible to assign to the matrix exponential or the Cayley parametrizations when "
                "use_trivialization=False."
            )
        with no_grad():
            n, k = sorted(Q.shape[-2:], reverse=True)
            base = _turned(Q) if Q.shape[-2] < Q.shape[-1] else Q
            if n != k:
                more = randn(*base.shape[:-1], n - k, dtype=Q.dtype)
                base = _made_orthogonal(cat([base, more], -1))
            elif not _is_orthogonal(base):
                base = _made_orthogonal(base)
            self.base = base.clone()
            rows, columns = Q.shape[-2:]
            return Q.new_zeros(tuple(Q.shape)) - eye(rows, columns, dtype=Q.dtype)


def orthogonal(
    module: Any, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> Any:
    """Keep a matrix of the module orthogonal: its columns, or its rows if it is wider than high, are orthonormal.

    `orthogonal_map` says how it follows from the original: "matrix_exp" of a skew-symmetric matrix (the default for
    square ones), "cayley", or "householder", a product of reflections. It starts from what was there, made orthogonal;
    with `use_trivialization=False` from the original alone, which for "householder" is not supported. See
    Lezcano-Casado (2019).
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    if weight.dim() < 2:
        raise ValueError(
            f"Expected a matrix or batch of matrices. Got a tensor of {weight.dim()} dimensions."
        )
    if orthogonal_map is None:
        orthogonal_map = "matrix_exp" if weight.shape[-2] == weight.shape[-1] else "householder"
    if orthogonal_map not in MAPS:
        raise ValueError(
            f'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". Got: {orthogonal_map}'
        )
    if orthogonal_map == "householder" and not use_trivialization:
        raise NotImplementedError("orthogonal(): householder with use_trivialization=False is not supported")
    made = _Orthogonal(weight, orthogonal_map, use_trivialization)
    return register_parametrization(module, name, made, unsafe=True)
