"""Losses of classification: likelihoods and entropies."""

from __future__ import annotations

from typing import Any

from distgrad.nn.functional.products import linear
from distgrad.nn.functional.reduction import no_gradient, reduction_name
from distgrad.ops import activations, losses
from distgrad.ops.base import Tensor
from distgrad.ops.compare import where

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
]


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log likelihood: -input at each target's class, times the class's weight.

    `input` is (N, C, ...) or (C,), `target` holds classes as int64, (N, ...) or (). The mean is weighted, and leaves
    out targets that are `ignore_index`.
    """
    reduction = reduction_name(reduction, size_average, reduce)
    no_gradient("nll_loss_forward", weight=weight)
    return losses.nll_loss_forward(input, target, weight, reduction, ignore_index)[0]


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of softmax(input) over dimension 1 with `target`.

    `input` is (N, C, ...) or (C,). `target` holds classes as int64, (N, ...) or (), or probabilities in the shape of
    `input`. With `label_smoothing` s a target is mixed with the uniform distribution: (1 - s) * target + s / C.
    """
    reduction = reduction_name(reduction, size_average, reduce)
    dim = 0 if input.dim() == 1 else 1
    if target.shape == input.shape:
        if not target.is_floating_point():
            title = target.dtype.title
            raise RuntimeError(
                f"Expected floating point type for target with class probabilities, got {title}"
            )
        if ignore_index >= 0:
            raise RuntimeError("ignore_index is not supported for floating point target")
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing:g}")
    scores = activations.log_softmax(input, dim)
    if target.shape == input.shape:
        if weight is not None:
            _fits_classes(weight, input.shape[dim])
        return _probability_loss(scores, target, weight, reduction, label_smoothing, dim)
    if label_smoothing:
        return _smoothed_loss(scores, target, weight, ignore_index, reduction, label_smoothing, dim)
    return nll_loss(scores, target, weight, None, ignore_index, None, reduction)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    """`cross_entropy` of `linear(input, linear_weight, linear_bias)`, input (N, in) or (in,) and weight (C, ..., in).

    torch's `options` say in which chunks it is worked out; here the plan does, so they must be None.
    """
    if options is not None:
        raise NotImplementedError("linear_cross_entropy(): options= is not supported: the plan cuts the work")
    if input.dim() not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {input.dim()}")
    if linear_weight.dim() < 2:
        raise RuntimeError(
            f"expected linear_weight with dimensionality at least 2, got {linear_weight.dim()}"
        )
    features, shape = input.shape[-1], tuple(linear_weight.shape)
    if features != shape[-1]:
        raise RuntimeError(
            "expected equal input and linear_weight last dimensions (in_features), "
            f"got {features} and {shape[-1]}, respectively"
        )
    if linear_bias is not None and tuple(linear_bias.shape) != shape[:-1]:
        raise RuntimeError(f"expected linear_bias shape {shape[:-1]}, got {tuple(linear_bias.shape)}")
    if len(shape) > 2 and input.dim() == 1:
        raise RuntimeError(
            f"K-dimensional loss defined by linear_weight shape {shape} requires batched input, (N, {features}), got "
            f"unbatched input with shape {tuple(input.shape)}"
        )
    logits = (*input.shape[:-1], *shape[:-1])
    if tuple(target.shape) == logits and ignore_index is not None:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    rows = linear_weight.reshape(-1, features)
    scores = linear(input, rows, None if linear_bias is None else linear_bias.reshape(-1)).reshape(logits)
    return cross_entropy(
        scores,
        target,
        weight,
        ignore_index=-100 if ignore_index is None else ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def _fits_classes(weight: Tensor, classes: int) -> None:
    if tuple(weight.shape) != (classes,):
        raise RuntimeError(
            "cross_entropy: weight tensor should be defined either for all "
            f"{classes} classes or no classes but got weight tensor of shape: {list(weight.shape)}"
        )


def _along(weight: Tensor, dim: int, ndim: int) -> Tensor:
    """`weight` (C,) as long as `dim` and 1 in all other dimensions."""
    return weight.reshape([-1 if d == dim else 1 for d in range(ndim)])


def _probability_loss(
    scores: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float, dim: int
) -> Tensor:
    classes = scores.shape[dim]
    if smoothing:
        target = target * (1 - smoothing) + smoothing / classes
    products = scores * target
    if weight is not None:
        products = products * _along(weight, dim, scores.dim())
    if reduction == "none":
        return -products.sum(dim)
    total = -products.sum()
    return total if reduction == "sum" else losses.divided(total, scores.numel() // classes)


def _smoothed_loss(
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    smoothing: float,
    dim: int,
) -> Tensor:
    no_gradient("nll_loss_forward", weight=weight)
    loss, counted = losses.nll_loss_forward(scores, target, weight, reduction, ignore_index)
    scores = scores if weight is None else scores * _along(weight, dim, scores.dim())
    smooth = -scores.sum(dim)
    smooth = where(target.reshape(smooth.shape) == ignore_index, 0.0, smooth)
    if reduction != "none":
        smooth = smooth.sum() / counted if reduction == "mean" else smooth.sum()
    return (1 - smoothing) * loss + smooth * (smoothing / scores.shape[dim])


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy of the probabilities `input` with the probabilities `target`, times `weight`."""
    reduction = reduction_name(reduction, size_average, reduce)
    if target.shape != input.shape:
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is "
            "deprecated. Please ensure they have the same size."
        )
    no_gradient("binary_cross_entropy", weight=weight)
    return losses.binary_cross_entropy(input, target, weight, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the probabilities sigmoid(input) with `target`, without overflow.

    `weight` is that of each element, `pos_weight` that of positive targets; both broadcast to the shape of `input`.
    """
    reduction = reduction_name(reduction, size_average, reduce)
    if target.shape != input.shape:
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    no_gradient("binary_cross_entropy_with_logits", weight=weight, pos_weight=pos_weight)
    return losses.binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction)
