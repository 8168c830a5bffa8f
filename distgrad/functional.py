"""Functions that torch has in this place too: `distgrad.functional`, as `torch.functional`."""

from distgrad.ops.einsum import einsum
from distgrad.ops.linalg import norm

__all__ = ["einsum", "norm"]
