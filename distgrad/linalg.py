"""Linear algebra under torch's names of it: `distgrad.linalg`, as `torch.linalg`."""

from distgrad.ops.linalg import _norm_of_either as norm
from distgrad.ops.linalg import _vector_norm as vector_norm
from distgrad.ops.linalg import matrix_norm
from distgrad.ops.products import matmul
from distgrad.ops.rearranging import diagonal

__all__ = ["diagonal", "matmul", "matrix_norm", "norm", "vector_norm"]
