"""Linear algebra under torch's names of it: `distgrad.linalg`, as `torch.linalg`."""

from distgrad.errors import LinAlgError
from distgrad.ops.base import Tensor
from distgrad.ops.combining import cross
from distgrad.ops.decompositions import (
    cholesky,
    eigh,
    eigvalsh,
    inv,
    matrix_exp,
    matrix_power,
    pinv,
    solve,
    solve_triangular,
)
from distgrad.ops.determinants import det, slogdet
from distgrad.ops.factors import linalg_qr_of as qr
from distgrad.ops.factors import linalg_svd_of as svd
from distgrad.ops.factors import lstsq
from distgrad.ops.linalg import _norm_of_either as norm
from distgrad.ops.linalg import _vector_norm as vector_norm
from distgrad.ops.linalg import linalg_svd, matrix_norm
from distgrad.ops.lu import (
    cholesky_ex,
    inv_ex,
    ldl_factor,
    ldl_factor_ex,
    ldl_solve,
    lu,
    lu_factor,
    lu_factor_ex,
    solve_ex,
)
from distgrad.ops.lu import linalg_lu_solve as lu_solve
from distgrad.ops.matrix_functions import (
    cond,
    matrix_rank,
    multi_dot,
    tensorinv,
    tensorsolve,
    vander,
    vecdot,
)
from distgrad.ops.products import matmul
from distgrad.ops.rearranging import diagonal

__all__ = [
    "LinAlgError",
    "cholesky",
    "cholesky_ex",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "inv_ex",
    "ldl_factor",
    "ldl_factor_ex",
    "ldl_solve",
    "lstsq",
    "lu",
    "lu_factor",
    "lu_factor_ex",
    "lu_solve",
    "matmul",
    "matrix_exp",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "multi_dot",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_ex",
    "solve_triangular",
    "svd",
    "svdvals",
    "tensorinv",
    "tensorsolve",
    "vander",
    "vecdot",
    "vector_norm",
]


def svdvals(A: Tensor) -> Tensor:
    """The singular values, falling."""
    return linalg_svd(A)[1]
