"""Activations as functions."""

from __future__ import annotations

import warnings

from distgrad.dtype import dtype as Dtype
from distgrad.ops import activations
from distgrad.ops.activations import gelu, logsigmoid, softplus
from distgrad.ops.base import Tensor
from distgrad.ops.pointwise import tanh
from distgrad.ops.special import sigmoid

__all__ = [
    "elu",
    "elu_",
    "gelu",
    "leaky_relu",
    "leaky_relu_",
    "log_softmax",
    "logsigmoid",
    "relu",
    "relu_",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]


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


def relu_(input: Tensor) -> Tensor:
    """`relu` in place."""
    return relu(input, inplace=True)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`elu` in place."""
    return elu(input, alpha, inplace=True)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`leaky_relu` in place."""
    return leaky_relu(input, negative_slope, inplace=True)
