"""Distances and angles between vectors, as functions."""

from __future__ import annotations

import numpy as np

from distgrad.dtype import promote_types
from distgrad.ops.base import Tensor, call
from distgrad.ops.making import tensor
from distgrad.ops.norms import vector_norm
from distgrad.record import no_grad

__all__ = ["cosine_similarity", "pairwise_distance", "pdist"]


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between vectors along `dim`; a norm below `eps` counts as `eps`."""
    common = promote_types(x1.dtype, x2.dtype)
    if not common.is_floating_point:
        raise RuntimeError(f"expected common dtype to be floating point, yet common dtype is {common.title}")
    x1, x2 = call("broadcast_tensors", x1.to(common), x2.to(common))
    units = []
    for x in (x1, x2):
        length = vector_norm(x, 2, dim, True).clone()
        with no_grad():  # as in torch, a short vector has the gradient of its own norm
            length.clamp_min_(eps)
        units.append(x / length)
    return (units[0] * units[1]).sum(dim)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last dimension."""
    return call("norm", x1 - x2 + eps, p, -1, keepdim)


def pdist(input: Tensor, p: float = 2) -> Tensor:
    """The p-norm of the difference of each two rows of (N, M): (N * (N - 1) / 2,), in the order of `combinations`."""
    if input.dim() != 2:
        raise RuntimeError(f"pdist only supports 2D tensors, got: {input.dim()}D")
    if not input.is_floating_point():
        raise RuntimeError("pdist only supports floating-point dtypes")
    if p < 0:
        raise RuntimeError("pdist only supports non-negative p values")
    first, second = np.triu_indices(input.shape[0], 1)
    a, b = (call("index_select", input, 0, tensor(rows)) for rows in (first, second))
    return vector_norm(a - b, p, 1)
