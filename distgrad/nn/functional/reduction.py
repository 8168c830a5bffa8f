"""What all losses do with their elements, and what they check."""

from __future__ import annotations

import warnings
from typing import Any

from distgrad.ops.base import Tensor
from distgrad.record import grad_mode

__all__ = ["legacy_name", "no_gradient", "reduced", "reduction_name", "warn_of_sizes"]


def reduction_name(reduction: str, size_average: bool | None = None, reduce: bool | None = None) -> str:
    """The reduction's name, checked; `size_average` and `reduce` are how it was said of old."""
    if size_average is not None or reduce is not None:
        reduction = legacy_name(size_average, reduce, stacklevel=4)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def legacy_name(size_average: bool | None, reduce: bool | None, stacklevel: int) -> str:
    """The reduction that the two old arguments mean, and torch's warning."""
    if reduce is False:
        reduction = "none"
    else:
        reduction = "sum" if size_average is False else "mean"
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead.",
        stacklevel=stacklevel,
    )
    return reduction


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The elements of a loss as they are ("none"), their mean or their sum."""
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def warn_of_sizes(input: Tensor, target: Tensor) -> None:
    """Warn the caller's caller if the two are not of one shape, but broadcast."""
    if target.shape != input.shape:
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). This will "
            "likely lead to incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=3,
        )


def no_gradient(name: str, **arguments: Any) -> None:
    """Raise torch's error if an argument that has no derivative requires grad."""
    for argument, x in arguments.items():
        if isinstance(x, Tensor) and x.requires_grad and grad_mode.enabled:
            raise RuntimeError(
                f"The function '{name}' is not differentiable with respect to argument '{argument}'. This input cannot "
                "have requires_grad True."
            )
