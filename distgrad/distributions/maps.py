"""Maps of numbers, vectors and matrices with a known derivative."""

from __future__ import annotations

import math
from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.transform import Transform, sum_rightmost
from distgrad.distributions.utils import tiny
from distgrad.ops.activations import logsigmoid, softmax, softplus
from distgrad.ops.joining import cat
from distgrad.ops.making import as_tensor, full_like
from distgrad.ops.pointwise import atanh, exp, log, log1p, tanh
from distgrad.ops.rearranging import tril
from distgrad.ops.special import sigmoid
from distgrad.tensor import Tensor


class _Elementwise(Transform):
    """An increasing map of numbers."""

    bijective = True
    sign_of_slope = 1

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    __hash__ = object.__hash__


class ExpTransform(_Elementwise):
    """y = exp(x)."""

    codomain = constraints.positive

    def _call(self, x: Tensor) -> Tensor:
        return exp(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return log(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """x."""
        return x


class SigmoidTransform(_Elementwise):
    """y = 1 / (1 + exp(-x))."""

    codomain = constraints.unit_interval

    def _call(self, x: Tensor) -> Tensor:
        y = sigmoid(x)
        return y.clamp(min=tiny(y), max=1 - _eps(y))

    def _inverse(self, y: Tensor) -> Tensor:
        y = y.clamp(min=tiny(y), max=1 - _eps(y))
        return log(y) - log1p(-y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """-softplus(-x) - softplus(x)."""
        return -softplus(-x) - softplus(x)


def _eps(x: Tensor) -> float:
    return 2.0**-24 if x.element_size() == 4 else 2.0**-53


class TanhTransform(_Elementwise):
    """y = tanh(x)."""

    codomain = constraints.interval(-1.0, 1.0)

    def _call(self, x: Tensor) -> Tensor:
        return tanh(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return atanh(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """2 (log(2) - x - softplus(-2x)), exact where 1 - tanh² is near 0."""
        return 2.0 * (math.log(2.0) - x - softplus(-2.0 * x))


class SoftplusTransform(_Elementwise):
    """y = log(1 + exp(x))."""

    codomain = constraints.positive

    def _call(self, x: Tensor) -> Tensor:
        return softplus(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return log(-(-y).expm1()) + y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log(sigmoid(x))."""
        return logsigmoid(x)


class PowerTransform(Transform):
    """y = x**exponent, of positive numbers."""

    domain = constraints.positive
    codomain = constraints.positive
    bijective = True

    def __init__(self, exponent: Any, cache_size: int = 0):
        super().__init__(cache_size)
        self.exponent = exponent if isinstance(exponent, Tensor) else as_tensor(exponent)

    @property
    def sign(self) -> Any:
        """That of the exponent."""
        return self.exponent.sign()

    def _call(self, x: Tensor) -> Tensor:
        return x.pow(self.exponent)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.pow(1 / self.exponent)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |exponent y / x|."""
        return log((self.exponent * y / x).abs())


class AbsTransform(Transform):
    """y = |x|, which has two inverses: the positive one is given."""

    codomain = constraints.positive

    def _call(self, x: Tensor) -> Tensor:
        return x.abs()

    def _inverse(self, y: Tensor) -> Tensor:
        return y


class AffineTransform(Transform):
    """y = loc + scale x; an event has `event_dim` dimensions."""

    bijective = True

    def __init__(self, loc: Any, scale: Any, event_dim: int = 0, cache_size: int = 0):
        super().__init__(cache_size)
        self.loc, self.scale, self._event_dim = loc, scale, event_dim
        if event_dim:
            self.domain = self.codomain = constraints.independent(constraints.real, event_dim)

    @property
    def event_dim(self) -> int:
        """How many dimensions one value has."""
        return self._event_dim

    @property
    def sign(self) -> Any:
        """That of the scale."""
        if isinstance(self.scale, Tensor):
            return self.scale.sign()
        return 1 if self.scale > 0 else -1 if self.scale < 0 else 0

    def _call(self, x: Tensor) -> Tensor:
        return self.loc + self.scale * x

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - self.loc) / self.scale

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |scale|, for each element of an event."""
        if isinstance(self.scale, Tensor):
            found = log(self.scale.abs()).expand(x.shape)
        else:
            found = full_like(x, math.log(math.fabs(self.scale)))
        return sum_rightmost(found, self._event_dim)


class SoftmaxTransform(Transform):
    """y = softmax(x), along the last dimension: not one to one, and without a density."""

    domain = constraints.real_vector
    codomain = constraints.simplex

    def _call(self, x: Tensor) -> Tensor:
        return softmax(x, -1)

    def _inverse(self, y: Tensor) -> Tensor:
        return log(y)


class StickBreakingTransform(Transform):
    """From k - 1 real numbers to k that sum to 1: each takes a part of what the ones before have left."""

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        offset = x.shape[-1] + 1 - _counted(x)
        z = sigmoid(x - log(offset))
        left = (1 - z).cumprod(-1)
        return _padded(z, 0, 1, 1.0) * _padded(left, 1, 0, 1.0)

    def _inverse(self, y: Tensor) -> Tensor:
        inner = y[..., :-1]
        offset = y.shape[-1] - _counted(inner)
        left = (1 - inner.cumsum(-1)).clamp(min=tiny(y))
        return log(inner) - log(left) + log(offset)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Σ logsigmoid(x - log(offset)) - (x - log(offset)) + log(y), over k - 1."""
        offset = x.shape[-1] + 1 - _counted(x)
        x = x - log(offset)
        return (-x + logsigmoid(x) + log(y[..., :-1])).sum(-1)

    def forward_shape(self, shape: Any) -> Any:
        """One more number."""
        return (*shape[:-1], shape[-1] + 1)

    def inverse_shape(self, shape: Any) -> Any:
        """One number less."""
        return (*shape[:-1], shape[-1] - 1)


def _counted(x: Tensor) -> Tensor:
    """1, 2, ... along the last dimension."""
    return full_like(x, 1).cumsum(-1)


def _padded(x: Tensor, before: int, after: int, value: float) -> Tensor:
    """More numbers along the last dimension."""
    parts = [full_like(x[..., :1], value)] * before + [x] + [full_like(x[..., :1], value)] * after
    return cat(parts, -1)


class LowerCholeskyTransform(Transform):
    """From any square matrix to a lower triangular one with a positive diagonal."""

    domain = constraints.independent(constraints.real, 2)
    codomain = constraints.lower_cholesky

    def _call(self, x: Tensor) -> Tensor:
        return tril(x, -1) + exp(x.diagonal(dim1=-2, dim2=-1)).diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        return tril(y, -1) + log(y.diagonal(dim1=-2, dim2=-1)).diag_embed()
