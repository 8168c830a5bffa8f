"""Initial values of parameters, as torch draws them: `nn.init`. All change their tensor in place and give it back."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

from distgrad.dtype import FLOAT64
from distgrad.ops.base import call
from distgrad.ops.linalg import linalg_svd
from distgrad.ops.making import eye as _identity
from distgrad.ops.probability import ndtri
from distgrad.ops.random import drawn
from distgrad.ops.random import normal_ as _normal
from distgrad.ops.random import uniform_ as _uniform
from distgrad.record import no_grad
from distgrad.tensor import Tensor

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

LINEAR = {"linear", "sigmoid", *(f"conv{way}{n}d" for way in ("", "_transpose") for n in (1, 2, 3))}
GAINS = {"tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 3.0 / 4}


def calculate_gain(nonlinearity: str, param: Any = None) -> float:
    """The factor that keeps the variance through an activation; `param` is the slope of leaky_relu."""
    if nonlinearity in LINEAR:
        return 1
    if nonlinearity in GAINS:
        return GAINS[nonlinearity]
    if nonlinearity != "leaky_relu":
        raise ValueError(f"Unsupported nonlinearity {nonlinearity}")
    slope = 0.01 if param is None else param
    if isinstance(slope, bool) or not isinstance(slope, (int, float)):
        raise ValueError(f"negative_slope {param} not a valid number")
    return math.sqrt(2.0 / (1 + slope**2))


# Plain distributions.
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Numbers from [a, b)."""
    with no_grad():
        return _uniform(tensor, a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Numbers from the normal distribution."""
    with no_grad():
        return _normal(tensor, mean, std, generator=generator)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """`val` everywhere."""
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """1 everywhere."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """0 everywhere."""
    with no_grad():
        return tensor.zero_()


def eye_(tensor: Tensor) -> Tensor:
    """Ones on the diagonal of a matrix, zeros elsewhere."""
    if tensor.dim() != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    with no_grad():
        return tensor.copy_(_identity(*tensor.shape, dtype=tensor.dtype, sharding=tensor.sharding))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution's weight (out, in / groups, ...) that hands as many channels on as it can."""
    dimensions = tensor.dim()
    if dimensions not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if tensor.shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    rows, columns = tensor.shape[0] // groups, tensor.shape[1]
    middle = tuple(n // 2 for n in tensor.shape[2:])
    with no_grad():
        tensor.zero_()
        if not tensor.numel():
            return tensor
        for group in range(groups):  # a view for each: the diagonals of the middle taps
            block = tensor[(slice(group * rows, (group + 1) * rows), slice(None), *middle)]
            block.copy_(_identity(rows, columns, dtype=tensor.dtype))
    return tensor


# Scaled by the number of inputs and outputs.
def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    if tensor.dim() < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def _calculate_correct_fan(tensor: Tensor, mode: str) -> int:
    mode, modes = mode.lower(), ["fan_in", "fan_out"]
    if mode not in modes:
        raise ValueError(f"Mode {mode} not supported, please use one of {modes}")
    return _calculate_fan_in_and_fan_out(tensor)[mode == "fan_out"]


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform with the standard deviation gain * sqrt(2 / (fan_in + fan_out)), by Glorot and Bengio (2010)."""
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / sum(_calculate_fan_in_and_fan_out(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with the standard deviation gain * sqrt(2 / (fan_in + fan_out)), by Glorot and Bengio (2010)."""
    std = gain * math.sqrt(2.0 / sum(_calculate_fan_in_and_fan_out(tensor)))
    return normal_(tensor, 0.0, std, generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float | None:
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return None
    fan = _calculate_correct_fan(tensor, mode)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Uniform with the standard deviation gain / sqrt(fan), by He et al. (2015); `a` is leaky_relu's slope."""
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    if std is None:
        return tensor
    bound = math.sqrt(3.0) * std
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Normal with the standard deviation gain / sqrt(fan), by He et al. (2015); `a` is leaky_relu's slope."""
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    return tensor if std is None else normal_(tensor, 0.0, std, generator)


# Others.
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Any = None,
) -> Tensor:
    """Numbers from the normal distribution, of which none is outside of [a, b]: its quantiles at uniform numbers."""
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. The distribution of values may be "
            "incorrect.",
            stacklevel=2,
        )
    low, high = (a - mean) / std, (b - mean) / std
    side = -1.0 if low > 0 else 1.0  # above the mean probabilities are told apart from the other end
    low, high = sorted((side * low, side * high))
    bottom, top = (0.5 * math.erfc(-x / math.sqrt(2.0)) for x in (low, high))
    with no_grad():
        shape, cuts = tuple(tensor.shape), tensor.sharding
        uniform = drawn("trunc_normal_", shape, "uniform", FLOAT64, sharding=cuts, generator=generator)
        quantiles = ndtri(Tensor(uniform) * (top - bottom) + bottom)
        return tensor.copy_((quantiles * (side * std) + mean).clamp(a, b))


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """A matrix, of all but the first dimension together, with orthogonal rows or columns of length `gain`.

    All such matrices are equally likely: it is U V^T for the singular vectors of a normal one. By Saxe et al. (2013).
    """
    if tensor.dim() < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if tensor.numel() == 0:
        return tensor
    with no_grad():
        rows = tensor.shape[0]
        matrix = _normal(tensor.new_empty((rows, tensor.numel() // rows)), generator=generator)
        u, _, vh = linalg_svd(matrix)
        return tensor.copy_(call("matmul", u, vh).reshape(tensor.shape) * gain)


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """A matrix of normal numbers, of which in each column the part `sparsity` is 0. By Martens (2010)."""
    if tensor.dim() != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    rows = tensor.shape[0]
    none = math.ceil(sparsity * rows)
    with no_grad():
        _normal(tensor, 0.0, std, generator=generator)
        if none:
            lots = _uniform(tensor.new_empty(tensor.shape), generator=generator)
            last = lots.sort(0)[0][none - 1]  # of those that are to be 0
            tensor.masked_fill_(lots <= last, 0.0)
    return tensor


# The names of old.
def _old(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    name = function.__name__

    @functools.wraps(function)
    def old(*args: Any, **kwargs: Any) -> Tensor:
        warnings.warn(
            f"`nn.init.{name[:-1]}` is now deprecated in favor of `nn.init.{name}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    old.__name__ = name[:-1]
    old.__doc__ = f"Deprecated: `{name}`."
    return old


uniform, normal, constant, eye = _old(uniform_), _old(normal_), _old(constant_), _old(eye_)
dirac, xavier_uniform, xavier_normal = _old(dirac_), _old(xavier_uniform_), _old(xavier_normal_)
kaiming_uniform, kaiming_normal = _old(kaiming_uniform_), _old(kaiming_normal_)
orthogonal, sparse = _old(orthogonal_), _old(sparse_)
