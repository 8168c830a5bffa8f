"""Normalisation as functions: batch, instance, layer, group and RMS norm, local responses, and unit vectors.

Numbers that are summed to a mean are summed in float64; the steps from `input` to the result, and those of the
gradient, are one plan on the workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.dtype import finfo, float32
from distgrad.nn.functional.reduction import no_gradient
from distgrad.ops.base import Tensor
from distgrad.ops.joining import cat
from distgrad.ops.normalizing import _normalize_by, _standardize
from distgrad.record import no_grad

__all__ = [
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "normalize",
    "rms_norm",
]

Maybe = Tensor | None


# What torch checks.
def _more_than_one(size: Any) -> None:
    if size[0] * math.prod(size[2:]) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")


def _same_dtypes(input: Tensor, *parameters: Maybe) -> None:
    given = [p for p in parameters if p is not None]
    if input.is_floating_point() and any(p.dtype is not input.dtype for p in given):
        if any(p.dtype is not float32 for p in given):
            raise RuntimeError("mixed dtype (CPU): expect parameter to have scalar type of Float")
        raise RuntimeError("mixed dtype (CPU): all inputs must share same datatype.")


def _have_elements(count: int, times: int = 1, **parameters: Maybe) -> None:
    for name, p in parameters.items():
        if p is not None and p.numel() * times != count:
            raise RuntimeError(f"{name} should contain {count} elements not {p.numel() * times}")


def _check_statistics(mean: Maybe, variance: Maybe) -> None:
    for name, p in (("running_mean", mean), ("running_var", variance)):
        if p is None:
            raise RuntimeError(f"{name} must be defined in evaluation mode")


def _update(running: Maybe, new: Tensor, momentum: Any) -> None:
    if running is not None:
        running.copy_(running * (1 - momentum) + new * momentum)


# Batches of channels: (N, C, ...).
def _channels(p: Maybe, ndim: int) -> Any:
    """A vector with one number for each channel, as broadcasts against (N, C, ...)."""
    return None if p is None else p.reshape([1, -1] + [1] * (ndim - 2))


def batch_norm(
    input: Tensor,
    running_mean: Maybe,
    running_var: Maybe,
    weight: Maybe = None,
    bias: Maybe = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel of `input` (N, C, ...) less its mean, over its standard deviation, times weight plus bias (C,).

    In training these are the batch's, and the running ones move towards them by `momentum`, in place: the variance of
    n elements as their squared deviations over n - 1. Else they are the running ones. By Ioffe and Szegedy (2015).
    """
    if training:
        _more_than_one(input.size())
    if eps < 0 or (training and eps == 0):
        when = "positive during training" if training else "non-negative"
        raise ValueError(f"batch_norm eps must be {when}, but got {eps}")
    if not training:
        _check_statistics(running_mean, running_var)
    channels = input.shape[1] if input.dim() > 1 else 0
    _have_elements(channels, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    no_gradient("native_batch_norm", running_mean=running_mean, running_var=running_var)
    _same_dtypes(input, weight, bias, running_mean, running_var)
    ndim = input.dim()
    w, b = _channels(weight, ndim), _channels(bias, ndim)
    if not training:
        return _normalize_by(input, _channels(running_mean, ndim), _channels(running_var, ndim), w, b, eps)
    dims = (0, *range(2, ndim))
    out, mean, variance = _standardize(input, w, b, dims, eps, "NativeBatchNormBackward0")
    with no_grad():
        n = math.prod(input.shape[d] for d in dims)
        _update(running_mean, mean.reshape(-1), momentum)
        _update(running_var, variance.reshape(-1) * (n / max(n - 1, 1)), momentum)
    return out


def instance_norm(
    input: Tensor,
    running_mean: Maybe = None,
    running_var: Maybe = None,
    weight: Maybe = None,
    bias: Maybe = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`batch_norm` of each sample by itself; the running statistics move towards the mean of those of the samples."""
    size, ndim = input.size(), input.dim()
    if use_input_stats and math.prod(size[2:]) == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {size}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    if not use_input_stats and running_mean is None:
        raise RuntimeError(
            "Expected running_mean and running_var to be defined when use_input_stats is false"
        )
    statistics = {"running_mean": running_mean, "running_var": running_var}
    _have_elements(size[0] * size[1], size[0], **statistics, weight=weight, bias=bias)
    no_gradient("native_batch_norm", **statistics)
    _same_dtypes(input, weight, bias, running_mean, running_var)
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims, w, b = tuple(range(2, ndim)), _channels(weight, ndim), _channels(bias, ndim)
    out, mean, variance = _standardize(input, w, b, dims, eps, "NativeBatchNormBackward0")
    with no_grad():
        n, flat = math.prod(size[2:]), (size[0], size[1])
        _update(running_mean, mean.reshape(flat).mean(0), momentum)
        _update(running_var, variance.reshape(flat).mean(0) * (n / max(n - 1, 1)), momentum)
    return out


def group_norm(
    input: Tensor, num_groups: int, weight: Maybe = None, bias: Maybe = None, eps: float = 1e-5
) -> Tensor:
    """Each of `num_groups` groups of neighbouring channels of (N, C, ...) normalised, times weight plus bias (C,).

    By Wu and He (2018).
    """
    if input.dim() < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {input.dim()}")
    n, channels, *rest = input.shape
    _more_than_one([n * channels // num_groups, num_groups, *rest])
    shape = list(input.shape)
    if channels % num_groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{shape} and num_groups={num_groups}"
        )
    for name, p in (("weight", weight), ("bias", bias)):
        if p is not None and tuple(p.shape) != (channels,):
            # torch names the shape of the weight in both messages.
            got = list((p if weight is None else weight).shape)
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, but got {name} of "
                f"shape {got} and input of shape {shape}"
            )
    _same_dtypes(input, weight, bias)
    rest = math.prod(input.shape[2:])
    grouped = input.reshape(n, num_groups, channels // num_groups, rest)
    w, b = (None if p is None else p.reshape(1, num_groups, -1, 1) for p in (weight, bias))
    out = _standardize(grouped, w, b, (2, 3), eps, "NativeGroupNormBackward0")[0]
    return out.reshape(shape)


# The last dimensions.
def _trailing(input: Tensor, normalized_shape: Any, star: str, **parameters: Maybe) -> tuple[int, ...]:
    """The last dimensions of `input`, as many as `normalized_shape` has."""
    shape = list(normalized_shape)
    if not shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, but got "
            "normalized_shape = []"
        )
    for name, p in parameters.items():
        if p is not None and list(p.shape) != shape:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape {list(p.shape)} and "
                f"normalized_shape = {shape}"
            )
    if list(input.shape[-len(shape) :]) != shape or input.dim() < len(shape):
        wanted = ", ".join(map(str, shape))
        raise RuntimeError(
            f"Given normalized_shape={shape}, expected input with shape [*{star}{wanted}], but got input of "
            f"size{list(input.shape)}"
        )
    return tuple(range(input.dim() - len(shape), input.dim()))


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Maybe = None,
    bias: Maybe = None,
    eps: float = 1e-5,
) -> Tensor:
    """The last dimensions, which are `normalized_shape`, normalised together, times weight plus bias of that shape.

    By Ba, Kiros and Hinton (2016).
    """
    dims = _trailing(input, normalized_shape, ", ", weight=weight, bias=bias)
    _same_dtypes(input, weight, bias)
    return _standardize(input, weight, bias, dims, eps, "NativeLayerNormBackward0")[0]


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Maybe = None, eps: float | None = None
) -> Tensor:
    """input / sqrt(mean(input**2) + eps) * weight, the mean along the last dimensions, which are `normalized_shape`.

    `eps` is by default that of the dtype. By Zhang and Sennrich (2019).
    """
    dims = _trailing(input, normalized_shape, "", weight=weight)
    if not input.is_floating_point():
        raise NotImplementedError(f"\"rms_norm\" not implemented for '{input.dtype.title}'")
    eps = finfo(input.dtype).eps if eps is None else eps
    same = weight is None or weight.dtype is input.dtype
    out = _standardize(input, weight if same else None, None, dims, eps, "MulBackward0", False)[0]
    return out if same else (out * weight).to(input.dtype)


# Others.
def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """input / (k + alpha * mean(input**2))**beta, the mean over `size` neighbouring channels of (N, C, ...).

    Beyond the first and the last channel there are zeros, which count. By Krizhevsky et al. (2012).
    """
    ndim, channels = input.dim(), input.shape[1] if input.dim() > 1 else 0
    if ndim < 3:
        raise ValueError(f"Expected 3D or higher dimensionality {' ' * 25}input (got {ndim} dimensions)")
    if input.numel() == 0:
        return input
    before, after = size // 2, (size - 1) // 2
    squares, shape = input * input, list(input.shape)
    pads = [squares.new_zeros([*shape[:1], n, *shape[2:]]) for n in (before, after)]
    padded = cat([pads[0], squares, pads[1]], 1)
    total = padded.narrow(1, 0, channels)
    for shift in range(1, size):
        total = total + padded.narrow(1, shift, channels)
    return input / (total * (alpha / size) + k) ** beta


def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Maybe = None) -> Tensor:
    """input / max(norm, eps), with the `p`-norm along `dim`."""
    found = input / input.norm(p, dim, keepdim=True).clamp_min(eps).expand_as(input)
    if out is None:
        return found
    if out.shape != found.shape:
        raise NotImplementedError("normalize(): an `out` of another shape is not resized")
    return out.copy_(found)
