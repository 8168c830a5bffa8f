"""Losses of regression: errors of each element."""

from __future__ import annotations

import math
import warnings

from distgrad.nn.functional.reduction import reduced, reduction_name, warn_of_sizes
from distgrad.ops import regression
from distgrad.ops.base import Tensor, call
from distgrad.ops.compare import where
from distgrad.ops.pointwise import exp, log
from distgrad.ops.probability import xlogy
from distgrad.record import no_grad

__all__ = [
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
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
    return regression.mse_loss(input, target, reduction)


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


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """d²/(2 beta) for d = |input - target| up to `beta`, and d - beta / 2 above; |d| for beta = 0 (Girshick)."""
    warn_of_sizes(input, target)
    reduction = reduction_name(reduction, size_average, reduce)
    if beta == 0:
        return reduced((input - target).abs(), reduction)
    return regression.smooth_l1_loss(input, target, reduction, beta)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """d²/2 for d = |input - target| up to `delta`, and delta * (d - delta / 2) above, times `weight`."""
    warn_of_sizes(input, target)
    if weight is None:
        return regression.huber_loss(input, target, reduction_name(reduction), delta)
    if weight.shape != input.shape:
        raise ValueError("Weights and input must have the same size.")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"Invalid reduction mode: {reduction}. Expected one of 'none', 'mean', 'sum'.")
    return reduced(regression.huber_loss(input, target, "none", delta) * weight, reduction)


# Likelihoods of counts and of normal numbers; distances of distributions.
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Rate - target * log(rate), where the rate is exp(input), or `input` itself without `log_input`.

    `full` adds Stirling's approximation of log(target!) where the target is above 1.
    """
    reduction = reduction_name(reduction, size_average, reduce)
    loss = exp(input) - target * input if log_input else input - target * log(input + eps)
    if full:
        counted = where(target > 1, target, 1.0)
        stirling = counted * log(counted) - counted + 0.5 * log(2 * math.pi * counted)
        loss = loss + where(target > 1, stirling, 0.0)
    return reduced(loss, reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """(log(var) + (input - target)² / var) / 2, with `var` at least `eps`; `full` adds log(2π) / 2.

    `var` is a number or has the shape of `input`, of which the last dimension may be missing or one may be 1. A
    negative variance is an error if the driver has it, and else gives nan.
    """
    variance = _variance(input, var)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    variance = variance.clone()
    with no_grad():  # the gradient is that of the variance as it was, as in torch
        variance.copy_(where(variance < 0, math.nan, call("clamp_min", variance, eps)))
    loss = 0.5 * (log(variance) + (input - target) ** 2 / variance)
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


def _variance(input: Tensor, var: Tensor | float) -> Tensor:
    known = var._value.array if isinstance(var, Tensor) else var
    if known is not None and (known < 0 if isinstance(known, float) else (known < 0).any()):
        raise ValueError("var has negative entry/entries")
    if not isinstance(var, Tensor):
        return input.new_full((), var).expand(input.shape)
    if var.shape == input.shape:
        return var
    if input.shape[:-1] == var.shape:
        return var.unsqueeze(-1)
    if input.dim() != var.dim() or sum(m for n, m in zip(input.shape, var.shape, strict=True) if n != m) != 1:
        raise ValueError("var is of incorrect size")
    return var


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """target * (log(target) - input): the Kullback-Leibler divergence of distributions, `input` as logarithms.

    `target` is logarithms too with `log_target`. Reduction "batchmean" divides the sum by the length of dimension 0.
    """
    if size_average is not None or reduce is not None:
        reduction = reduction_name(reduction, size_average, reduce)
    elif reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size.'batchmean' divides "
            "only by the batch size, and aligns with the KL div math definition.'mean' will be changed to behave the "
            "same as 'batchmean' in the next major release.",
            stacklevel=2,
        )
    elif reduction != "batchmean":
        reduction = reduction_name(reduction)
    loss = exp(target) * (target - input) if log_target else xlogy(target, target) - target * input
    if reduction != "batchmean":
        return reduced(loss, reduction)
    return loss.sum() / input.shape[0] if input.dim() else loss.sum()
