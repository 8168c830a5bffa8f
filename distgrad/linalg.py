"""Linear algebra under torch's names of it: `distgrad.linalg`, as `torch.linalg`."""

from typing import Any

from distgrad.errors import LinAlgError
from distgrad.ops.base import Tensor
from distgrad.ops.decompositions import (
    cholesky,
    det,
    eigh,
    eigvalsh,
    inv,
    matrix_exp,
    matrix_power,
    pinv,
    qr,
    slogdet,
    solve,
    solve_triangular,
)
from distgrad.ops.linalg import _norm_of_either as norm
from distgrad.ops.linalg import _vector_norm as vector_norm
from distgrad.ops.linalg import linalg_svd, matrix_norm
from distgrad.ops.products import matmul
from distgrad.ops.rearranging import diagonal

__all__ = [
    "LinAlgError",
    "cholesky",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_exp",
    "matrix_norm",
    "matrix_power",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_triangular",
    "svd",
    "svdvals",
    "vector_norm",
]


def svd(A: Tensor, full_matrices: bool = True) -> Any:
    """(U, S, Vh) with A = U @ diag(S) @ Vh, S falling. The square ones of a matrix that is none are not given."""
    if full_matrices and A.shape[-1] != A.shape[-2]:
        raise NotImplementedError("linalg.svd: full_matrices=True is supported for square matrices only")
    return linalg_svd(A)


def svdvals(A: Tensor) -> Tensor:
    """The singular values, falling."""
    return linalg_svd(A)[1]
