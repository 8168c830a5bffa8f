"""Losses of regression: errors of each element."""

from __future__ import annotations

from distgrad.nn.functional.reduction import reduced, reduction_name, warn_of_sizes
from distgrad.ops import losses
from distgrad.ops.base import Tensor

__all__ = [
    "l1_loss",
    "mse_loss",
]


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """(input - target)**2, and its mean ("mean"), its sum ("sum") or each element ("none")."""
    warn_of_sizes(input, target)
    reduction = reduction_name(reduction, size_average, reduce)
    if weight is not None:
        return _weighted((input - target) ** 2, input, weight, reduction)
    return losses.mse_loss(input, target, reduction)


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """|input - target|, and its mean ("mean"), its sum ("sum") or each element ("none")."""
    warn_of_sizes(input, target)
    reduction = reduction_name(reduction, size_average, reduce)
    errors = (input - target).abs()
    return reduced(errors, reduction) if weight is None else _weighted(errors, input, weight, reduction)


def _weighted(errors: Tensor, input: Tensor, weight: Tensor, reduction: str) -> Tensor:
    if weight.shape != input.shape:
        raise ValueError("Weights and input must have the same size.")
    errors = errors * weight
    return errors.sum() / weight.sum() if reduction == "mean" else reduced(errors, reduction)
