"""Activations as layers; each says in one line what its function in `nn.functional` does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from distgrad.nn import functional as F
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter
from distgrad.ops.making import full
from distgrad.tensor import Tensor

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


class _Activation(Module):
    """Applies `function` to its input and to the attributes that `settings` names, in this order."""

    function: Callable[..., Tensor]
    settings: tuple[str, ...] = ()
    shown = "{}={}"

    def _set(self, *settings: Any) -> None:
        for name, setting in zip(self.settings, settings, strict=True):
            setattr(self, name, setting)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return type(self).function(input, *[getattr(self, name) for name in self.settings])

    def extra_repr(self) -> str:
        """The settings; `inplace` only if it is so."""
        return ", ".join(
            self.shown.format(name, getattr(self, name))
            for name in self.settings
            if name != "inplace" or self.inplace
        )


class _InPlace(_Activation):
    """One that may write its result into its input."""

    settings = ("inplace",)

    def __init__(self, inplace: bool = False):
        super().__init__()
        self._set(inplace)


class _AlongDim(_Activation):
    """One along a dimension."""

    settings = ("dim",)

    def __init__(self, dim: int | None = None):
        super().__init__()
        self._set(dim)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return type(self).function(input, self.dim, _stacklevel=5)


# Bent once or twice.
class ReLU(_InPlace):
    """max(input, 0)."""

    function = F.relu


class Hardtanh(_Activation):
    """The input, kept between `min_val` and `max_val`."""

    function = F.hardtanh
    settings = ("min_val", "max_val", "inplace")

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
    ):
        super().__init__()
        for new, old in (("min_val", min_value), ("max_val", max_value)):
            if old is not None:
                warnings.warn(
                    f"keyword argument `{new}ue` is deprecated and renamed to `{new}`",
                    FutureWarning,
                    stacklevel=2,
                )
        min_val = min_val if min_value is None else min_value
        max_val = max_val if max_value is None else max_value
        if max_val <= min_val:
            raise AssertionError(f"max_val ({max_val}) must be greater than min_val ({min_val})")
        self._set(min_val, max_val, inplace)


class ReLU6(Hardtanh):
    """The input, kept between 0 and 6."""

    def __init__(self, inplace: bool = False):
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        """`inplace`, if it is so."""
        return "inplace=True" if self.inplace else ""


class Hardswish(_InPlace):
    """input * hardsigmoid(input)."""

    function = F.hardswish

    def extra_repr(self) -> str:
        """Nothing, as torch."""
        return ""


class Hardsigmoid(Hardswish):
    """input / 6 + 1/2, kept between 0 and 1."""

    function = F.hardsigmoid


class Threshold(_Activation):
    """The input where it is above the threshold, else `value`."""

    function = F.threshold
    settings = ("threshold", "value", "inplace")

    def __init__(self, threshold: float, value: float, inplace: bool = False):
        super().__init__()
        self._set(threshold, value, inplace)


class LeakyReLU(_Activation):
    """The input, times `negative_slope` where it is below 0."""

    function = F.leaky_relu
    settings = ("negative_slope", "inplace")

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False):
        super().__init__()
        self._set(negative_slope, inplace)


class RReLU(_Activation):
    """The input, times a slope where it is below 0: in training drawn from `lower` to `upper`, else their mean."""

    function = F.rrelu
    settings = ("lower", "upper", "inplace")

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False):
        super().__init__()
        self._set(lower, upper, inplace)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)


class PReLU(Module):
    """The input, times `weight` where it is below 0: one weight, or one for each channel (dimension 1)."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None):
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = Parameter(full((num_parameters,), init, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Set all weights to the initial one."""
        self.weight.data.fill_(self.init)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """The number of weights."""
        return f"num_parameters={self.num_parameters}"


class _Shrink(_Activation):
    settings = ("lambd",)
    shown = "{1}"

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self._set(lambd)


class Hardshrink(_Shrink):
    """The input where it is further than `lambd` from 0, else 0."""

    function = F.hardshrink


class Softshrink(_Shrink):
    """The input moved towards 0 by `lambd`, and 0 where it is nearer."""

    function = F.softshrink


# Curves.
class Sigmoid(_Activation):
    """1 / (1 + exp(-input))."""

    function = F.sigmoid


class LogSigmoid(_Activation):
    """log(sigmoid(input))."""

    function = F.logsigmoid


class Tanh(_Activation):
    """The hyperbolic tangent."""

    function = F.tanh


class Tanhshrink(_Activation):
    """input - tanh(input)."""

    function = F.tanhshrink


class Softsign(_Activation):
    """input / (1 + |input|)."""

    function = F.softsign


class Softplus(_Activation):
    """log(1 + exp(beta * input)) / beta, and the input itself where beta * input is above the threshold."""

    function = F.softplus
    settings = ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self._set(beta, threshold)


class ELU(_Activation):
    """The input, and alpha * (exp(input) - 1) where it is below 0."""

    function = F.elu
    settings = ("alpha", "inplace")

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self._set(alpha, inplace)


class CELU(ELU):
    """The input, and alpha * (exp(input / alpha) - 1) where it is below 0."""

    function = F.celu


class SELU(_InPlace):
    """1.0507 * elu(input, 1.6733)."""

    function = F.selu


class SiLU(_InPlace):
    """input * sigmoid(input)."""

    function = F.silu


class Mish(_InPlace):
    """input * tanh(softplus(input))."""

    function = F.mish


class GELU(_Activation):
    """input * Φ(input), Φ the normal distribution function, or an approximation of it by "tanh"."""

    settings = ("approximate",)
    shown = "{}={!r}"

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self._set(approximate)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return F.gelu(input, approximate=self.approximate)


# Along a dimension.
class GLU(_Activation):
    """The first half of the input along `dim` times sigmoid of the second."""

    function = F.glu
    settings = ("dim",)

    def __init__(self, dim: int = -1):
        super().__init__()
        self._set(dim)


class Softmax(_AlongDim):
    """exp(input), scaled so that it sums to 1 along `dim`."""

    function = F.softmax


class Softmin(_AlongDim):
    """exp(-input), scaled so that it sums to 1 along `dim`."""

    function = F.softmin


class LogSoftmax(_AlongDim):
    """log(softmax(input, dim))."""

    function = F.log_softmax


class Softmax2d(Module):
    """softmax over the channels of (N, C, H, W) or (C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        if input.dim() not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {input.dim()}D instead")
        return F.softmax(input, -3, _stacklevel=5)
