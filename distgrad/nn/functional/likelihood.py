"""Losses of classification: likelihoods and entropies."""

from __future__ import annotations

from distgrad.nn.functional.reduction import no_gradient, reduction_name
from distgrad.ops import activations, losses
from distgrad.ops.base import Tensor
from distgrad.ops.compare import where

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
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
