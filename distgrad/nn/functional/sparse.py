"""Rows of a table by number, as functions: `embedding`, and `one_hot`."""

from __future__ import annotations

from distgrad.ops import losses
from distgrad.ops.base import Tensor
from distgrad.ops.compare import where
from distgrad.ops.losses import one_hot
from distgrad.record import no_grad

__all__ = [
    "embedding",
    "one_hot",
]


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of `weight` (rows, width) that `input` numbers: (..., width). Row `padding_idx` gets no gradient.

    Rows that are asked for and whose `norm_type` norm is above `max_norm` are scaled down to that first, in
    place. `scale_grad_by_freq` and `sparse` are not supported.
    """
    if scale_grad_by_freq or sparse:
        raise NotImplementedError("embedding(): scale_grad_by_freq and sparse are not supported")
    rows = weight.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx %= rows
    if max_norm is not None:
        _renormalise(weight, input, max_norm, norm_type)
    return losses.embedding(weight, input, -1 if padding_idx is None else padding_idx)


def _renormalise(weight: Tensor, input: Tensor, max_norm: float, norm_type: float) -> None:
    with no_grad():
        norms = weight.norm(norm_type, dim=1)
        used = weight.new_zeros(weight.shape[0]).index_fill(0, input.reshape(-1).long(), 1.0) > 0
        scale = where(used & (norms > max_norm), max_norm / (norms + 1e-7), 1.0)
        weight.mul_(scale.unsqueeze(1))
