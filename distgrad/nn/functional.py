"""Activations, losses and layers as functions: `import distgrad.nn.functional as F`, as in torch."""

from __future__ import annotations

import warnings
from typing import Any

from distgrad.dtype import dtype as Dtype
from distgrad.ops import activations, losses
from distgrad.ops.activations import gelu, logsigmoid, softplus
from distgrad.ops.base import Tensor, call
from distgrad.ops.compare import where
from distgrad.ops.linear import addmm
from distgrad.ops.losses import one_hot
from distgrad.ops.pointwise import tanh
from distgrad.ops.random import drawn
from distgrad.ops.special import sigmoid
from distgrad.record import grad_mode, no_grad

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "dropout",
    "elu",
    "elu_",
    "embedding",
    "gelu",
    "l1_loss",
    "leaky_relu",
    "leaky_relu_",
    "linear",
    "log_softmax",
    "logsigmoid",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "relu",
    "relu_",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]


# Activations.
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0)."""
    return input.relu_() if inplace else activations.relu(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """`input`, times `negative_slope` where it is below 0."""
    return input._leaky_relu_(negative_slope) if inplace else activations.leaky_relu(input, negative_slope)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """`input`, and alpha * (exp(input) - 1) where it is below 0."""
    return input._elu_(alpha) if inplace else activations.elu(input, alpha)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """input * sigmoid(input)."""
    return input._silu_() if inplace else activations.silu(input)


def _implicit_dim(name: str, ndim: int, stacklevel: int) -> int:
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        stacklevel=stacklevel,
    )
    return 0 if ndim in (0, 1, 3) else 1


def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Dtype | None = None
) -> Tensor:
    """exp(input), scaled so that it sums to 1 along `dim`. With `dtype` the input is converted first."""
    dim = _implicit_dim("softmax", input.dim(), _stacklevel) if dim is None else dim
    return activations.softmax(input, dim, dtype)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Dtype | None = None
) -> Tensor:
    """log(softmax(input, dim)), exact where that is near 0. With `dtype` the input is converted first."""
    dim = _implicit_dim("log_softmax", input.dim(), _stacklevel) if dim is None else dim
    return activations.log_softmax(input, dim, dtype)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training, each element is 0 with probability `p`, and the others are divided by 1 - p."""
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if p == 0 or not training or input.numel() == 0:
        return input
    noise: Any = 0.0
    if p < 1:
        if not input.is_floating_point():
            title = input.dtype.title
            raise RuntimeError(f"result type Float can't be cast to the desired output type {title}")
        uniform = drawn("dropout", tuple(input.shape), "uniform", input._avals.dtype, sharding=input.sharding)
        noise = (Tensor(uniform) < 1 - p).to(input.dtype) / (1 - p)
    return input.mul_(noise) if inplace else input * noise


def relu_(input: Tensor) -> Tensor:
    """`relu` in place."""
    return relu(input, inplace=True)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`elu` in place."""
    return elu(input, alpha, inplace=True)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`leaky_relu` in place."""
    return leaky_relu(input, negative_slope, inplace=True)


# Layers.
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias, with input (..., in), weight (out, in) or (in,), bias (out,) or ()."""
    if not input.dim() or not weight.dim():
        raise RuntimeError(
            f"both arguments to linear need to be at least 1D, but they are {input.dim()}D and {weight.dim()}D"
        )
    if weight.dim() == 1:
        if bias is not None and bias.dim():
            raise RuntimeError("mat2 must be a matrix, got 1-D tensor")
        out = call("matmul", input, weight)
        return out if bias is None else out + bias
    if bias is None and input.dim() < 3:
        return call("matmul", input, weight.t())
    rows = input if input.dim() == 2 else input.reshape(-1, input.shape[-1])
    out = call("mm", rows, weight.t()) if bias is None else addmm(bias, rows, weight.t())
    if input.dim() == 2:
        return out
    shape = (*input.shape[:-1], weight.shape[0])
    return call("_unsafe_view", out, shape) if bias is None else out.reshape(shape)


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


# Losses.
def _reduction(reduction: str, size_average: bool | None = None, reduce: bool | None = None) -> str:
    """The reduction's name, checked; `size_average` and `reduce` are how it was said of old."""
    if size_average is not None or reduce is not None:
        if reduce is False:
            reduction = "none"
        else:
            reduction = "sum" if size_average is False else "mean"
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead.",
            stacklevel=3,
        )
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def _warn_of_sizes(input: Tensor, target: Tensor) -> None:
    if target.shape != input.shape:
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). This will "
            "likely lead to incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=3,
        )


def _weighted(errors: Tensor, input: Tensor, weight: Tensor, reduction: str) -> Tensor:
    if weight.shape != input.shape:
        raise ValueError("Weights and input must have the same size.")
    errors = errors * weight
    return errors.sum() / weight.sum() if reduction == "mean" else _reduce(errors, reduction)


def _no_gradient(name: str, **arguments: Any) -> None:
    for argument, x in arguments.items():
        if isinstance(x, Tensor) and x.requires_grad and grad_mode.enabled:
            raise RuntimeError(
                f"The function '{name}' is not differentiable with respect to argument '{argument}'. This input cannot "
                "have requires_grad True."
            )


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """(input - target)**2, and its mean ("mean"), its sum ("sum") or each element ("none")."""
    _warn_of_sizes(input, target)
    reduction = _reduction(reduction, size_average, reduce)
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
    _warn_of_sizes(input, target)
    reduction = _reduction(reduction, size_average, reduce)
    errors = (input - target).abs()
    return _reduce(errors, reduction) if weight is None else _weighted(errors, input, weight, reduction)


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
    reduction = _reduction(reduction, size_average, reduce)
    _no_gradient("nll_loss_forward", weight=weight)
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
    reduction = _reduction(reduction, size_average, reduce)
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
    _no_gradient("nll_loss_forward", weight=weight)
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
    reduction = _reduction(reduction, size_average, reduce)
    if target.shape != input.shape:
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is "
            "deprecated. Please ensure they have the same size."
        )
    _no_gradient("binary_cross_entropy", weight=weight)
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
    reduction = _reduction(reduction, size_average, reduce)
    if target.shape != input.shape:
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    _no_gradient("binary_cross_entropy_with_logits", weight=weight, pos_weight=pos_weight)
    return losses.binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction)
