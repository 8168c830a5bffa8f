"""Activations as functions."""

from __future__ import annotations

import warnings

import numpy as np

from distgrad.dtype import dtype as Dtype
from distgrad.ops import activations, piecewise
from distgrad.ops.activations import gelu, glu, logsigmoid, softplus
from distgrad.ops.arithmetic import neg
from distgrad.ops.base import Tensor, call
from distgrad.ops.compare import where
from distgrad.ops.making import zeros_like
from distgrad.ops.piecewise import hardshrink, prelu, softshrink
from distgrad.ops.pointwise import abs as absolute
from distgrad.ops.pointwise import log, tanh
from distgrad.ops.random import drawn
from distgrad.ops.special import sigmoid

__all__ = [
    "celu",
    "celu_",
    "elu",
    "elu_",
    "gelu",
    "glu",
    "gumbel_softmax",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardtanh_",
    "leaky_relu",
    "leaky_relu_",
    "log_softmax",
    "logsigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "relu_",
    "rrelu",
    "rrelu_",
    "selu",
    "selu_",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "threshold_",
]


# Each element by itself. With `inplace` the result is written into `input`.
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0)."""
    return input.relu_() if inplace else activations.relu(input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """`input`, kept between 0 and 6."""
    return input._hardtanh_(0.0, 6.0) if inplace else piecewise.hardtanh(input, 0.0, 6.0)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """`input`, kept between `min_val` and `max_val`."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    return input._hardtanh_(min_val, max_val) if inplace else piecewise.hardtanh(input, min_val, max_val)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * hardsigmoid(input)."""
    return input._hardswish_() if inplace else piecewise.hardswish(input)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """input / 6 + 1/2, kept between 0 and 1."""
    return input._hardsigmoid_() if inplace else piecewise.hardsigmoid(input)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """`input` where it is above the threshold, else `value`."""
    return input._threshold_(threshold, value) if inplace else piecewise.threshold(input, threshold, value)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """`input`, times `negative_slope` where it is below 0."""
    return input._leaky_relu_(negative_slope) if inplace else piecewise.leaky_relu(input, negative_slope)


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """`input`, times a slope where it is below 0: in training drawn evenly from `lower` to `upper`, else their mean."""
    if lower > upper:
        raise RuntimeError("Lower bound should be less than or equal to the upper bound")
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    uniform = drawn("rrelu", tuple(input.shape), "uniform", input._avals.dtype, sharding=input.sharding)
    noise = where(input.detach() > 0, 1.0, Tensor(uniform) * (upper - lower) + lower)
    return input._rrelu_(noise) if inplace else piecewise.rrelu_with_noise(input, noise)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """`input`, and alpha * (exp(input) - 1) where it is below 0."""
    return input._elu_(alpha) if inplace else activations.elu(input, alpha)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """1.0507 * elu(input, 1.6733): a mean of 0 and a variance of 1 stay (Klambauer et al. 2017)."""
    return input._selu_() if inplace else activations.selu(input)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """`input`, and alpha * (exp(input / alpha) - 1) where it is below 0."""
    return input._celu_(alpha) if inplace else activations.celu(input, alpha)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """input * sigmoid(input)."""
    return input._silu_() if inplace else activations.silu(input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * tanh(softplus(input))."""
    return input._mish_() if inplace else activations.mish(input)


def softsign(input: Tensor) -> Tensor:
    """input / (1 + |input|)."""
    return input / (absolute(input) + 1)


def tanhshrink(input: Tensor) -> Tensor:
    """input - tanh(input)."""
    return input - tanh(input)


def relu_(input: Tensor) -> Tensor:
    """`relu` in place."""
    return relu(input, inplace=True)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`hardtanh` in place."""
    return hardtanh(input, min_val, max_val, inplace=True)


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """`threshold` in place."""
    return input._threshold_(threshold, value)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`leaky_relu` in place."""
    return leaky_relu(input, negative_slope, inplace=True)


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    """`rrelu` in place."""
    return rrelu(input, lower, upper, training, inplace=True)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`elu` in place."""
    return elu(input, alpha, inplace=True)


def selu_(input: Tensor) -> Tensor:
    """`selu` in place."""
    return selu(input, inplace=True)


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`celu` in place."""
    return celu(input, alpha, inplace=True)


# Along a dimension.
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


def softmin(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Dtype | None = None
) -> Tensor:
    """softmax(-input, dim)."""
    dim = _implicit_dim("softmin", input.dim(), _stacklevel) if dim is None else dim
    return activations.softmax(neg(input), dim, dtype)


def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """softmax((logits + noise) / tau) with noise from the Gumbel distribution, so that its largest element is at i with
    the probability softmax(logits)[i] (Jang et al. 2017).

    With `hard` the result is 1 there and 0 elsewhere, with the gradient of the soft one. `eps` has no meaning any more.
    """
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", stacklevel=2)
    if not logits.is_floating_point():
        raise RuntimeError(
            "Exponential distribution is a continuous probability distribution. dtype must be a floating point but you "
            f"specified {logits.dtype.title}"
        )
    uniform = drawn(
        "gumbel_softmax", tuple(logits.shape), "uniform", logits._avals.dtype, sharding=logits.sharding
    )
    least = float(np.finfo(logits._avals.dtype).tiny)
    noise = -log(-log(call("clamp_min", Tensor(uniform), least)))
    soft = activations.softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    chosen = call("argmax", soft.detach(), dim, True)
    ones = call("scatter", zeros_like(logits.detach()), dim, chosen, 1.0)
    return ones - soft.detach() + soft
