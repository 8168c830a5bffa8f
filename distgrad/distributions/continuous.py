"""Distributions of real numbers by location and scale, or by rate. Samples are quantiles or shifted normal numbers."""

from __future__ import annotations

import math
from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.distribution import Distribution, parameters
from distgrad.distributions.exp_family import ExponentialFamily
from distgrad.distributions.utils import broadcast_all, normal, tiny, uniform
from distgrad.ops.making import full_like
from distgrad.ops.pointwise import atan, exp, expm1, log, log1p, sign, tan
from distgrad.ops.probability import ndtr, ndtri
from distgrad.tensor import Tensor

EULER = 0.57721566490153286060


class _Located(Distribution):
    """A distribution with parameters of one shape, the first of which is given as many as it has names."""

    has_rsample = True
    names: tuple[str, ...] = ("loc", "scale")

    def __init__(self, *parameters: Any, validate_args: bool | None = None):
        for name, value in zip(self.names, broadcast_all(*parameters), strict=True):
            setattr(self, name, value)
        super().__init__(getattr(self, self.names[0]).shape, validate_args=validate_args)

    def _checked(self, value: Tensor) -> None:
        if self._validate_args:
            self._validate_sample(value)


class _LocScale(_Located):
    """A distribution of all real numbers by its location and scale."""

    arg_constraints = parameters(loc=constraints.real, scale=constraints.positive)
    support = constraints.real
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None):
        super().__init__(loc, scale, validate_args=validate_args)


class Normal(_LocScale, ExponentialFamily):
    """The normal distribution with mean `loc` and standard deviation `scale`."""

    _mean_carrier_measure = 0

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return self.loc / self.scale.pow(2), -0.5 * self.scale.pow(2).reciprocal()

    def _log_normalizer(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return -0.25 * x.pow(2) / y + 0.5 * log(-math.pi / y)

    @property
    def mean(self) -> Tensor:
        """`loc`."""
        return self.loc

    mode = mean

    @property
    def stddev(self) -> Tensor:
        """`scale`."""
        return self.scale

    @property
    def variance(self) -> Tensor:
        """scale²."""
        return self.stddev.pow(2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """loc + scale * ε with ε standard normal."""
        return self.loc + normal(self.loc, self._extended_shape(sample_shape)) * self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        """-((value - loc) / scale)² / 2 - log(scale) - log(2π) / 2."""
        self._checked(value)
        deviation = (value - self.loc) / self.scale
        return -0.5 * deviation**2 - log(self.scale) - 0.5 * math.log(2 * math.pi)

    def cdf(self, value: Tensor) -> Tensor:
        """Φ((value - loc) / scale)."""
        self._checked(value)
        return ndtr((value - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        """loc + scale Φ⁻¹(value)."""
        return self.loc + self.scale * ndtri(value)

    def entropy(self) -> Tensor:
        """log(2πe scale²) / 2."""
        return 0.5 + 0.5 * math.log(2 * math.pi) + log(self.scale)


class Laplace(_LocScale):
    """The Laplace distribution: density exp(-|x - loc| / scale) / (2 scale)."""

    @property
    def mean(self) -> Tensor:
        """`loc`."""
        return self.loc

    mode = mean

    @property
    def variance(self) -> Tensor:
        """2 scale²."""
        return 2 * self.scale.pow(2)

    @property
    def stddev(self) -> Tensor:
        """√2 scale."""
        return math.sqrt(2) * self.scale

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The quantile of a uniform number from (-1, 1)."""
        u = 2 * uniform(self.loc, self._extended_shape(sample_shape)) - 1
        return self.loc - self.scale * sign(u) * log1p(-u.abs().clamp(max=1 - tiny(u)))

    def log_prob(self, value: Tensor) -> Tensor:
        """-|value - loc| / scale - log(2 scale)."""
        self._checked(value)
        return -log(2 * self.scale) - (value - self.loc).abs() / self.scale

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of `value` or less."""
        self._checked(value)
        deviation = value - self.loc
        return 0.5 - 0.5 * sign(deviation) * expm1(-deviation.abs() / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        """The inverse of `cdf`."""
        term = value - 0.5
        return self.loc - self.scale * sign(term) * log1p(-2 * term.abs())

    def entropy(self) -> Tensor:
        """1 + log(2 scale)."""
        return 1 + log(2 * self.scale)


class Cauchy(_LocScale):
    """The Cauchy distribution with median `loc` and half width `scale`."""

    @property
    def mean(self) -> Tensor:
        """nan: there is none."""
        return full_like(self.loc, math.nan)

    @property
    def mode(self) -> Tensor:
        """`loc`."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """inf."""
        return full_like(self.loc, math.inf)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The quantile of a uniform number."""
        return self.icdf(uniform(self.loc, self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """-log(π scale (1 + ((value - loc) / scale)²))."""
        self._checked(value)
        return -math.log(math.pi) - log(self.scale) - log1p(((value - self.loc) / self.scale) ** 2)

    def cdf(self, value: Tensor) -> Tensor:
        """atan((value - loc) / scale) / π + 1/2."""
        self._checked(value)
        return atan((value - self.loc) / self.scale) / math.pi + 0.5

    def icdf(self, value: Tensor) -> Tensor:
        """tan(π (value - 1/2)) scale + loc."""
        return tan(math.pi * (value - 0.5)) * self.scale + self.loc

    def entropy(self) -> Tensor:
        """log(4π scale)."""
        return math.log(4 * math.pi) + log(self.scale)


class Gumbel(_LocScale):
    """The distribution of the largest of many numbers: cdf exp(-exp(-(x - loc) / scale))."""

    @property
    def mean(self) -> Tensor:
        """loc + 0.577... scale."""
        return self.loc + self.scale * EULER

    @property
    def mode(self) -> Tensor:
        """`loc`."""
        return self.loc

    @property
    def stddev(self) -> Tensor:
        """π scale / √6."""
        return math.pi / math.sqrt(6) * self.scale

    @property
    def variance(self) -> Tensor:
        """(π scale)² / 6."""
        return self.stddev.pow(2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The quantile of a uniform number."""
        u = uniform(self.loc, self._extended_shape(sample_shape)).clamp(min=tiny(self.loc))
        return self.icdf(u)

    def log_prob(self, value: Tensor) -> Tensor:
        """-z - exp(-z) - log(scale), z = (value - loc) / scale."""
        self._checked(value)
        z = (value - self.loc) / self.scale
        return -z - exp(-z) - log(self.scale)

    def cdf(self, value: Tensor) -> Tensor:
        """exp(-exp(-(value - loc) / scale))."""
        self._checked(value)
        return exp(-exp(-(value - self.loc) / self.scale))

    def icdf(self, value: Tensor) -> Tensor:
        """loc - scale log(-log(value))."""
        return self.loc - self.scale * log(-log(value))

    def entropy(self) -> Tensor:
        """log(scale) + 1.577..."""
        return log(self.scale) + (1 + EULER)


class Uniform(_Located):
    """Numbers from [low, high), all equally likely."""

    names = ("low", "high")
    arg_constraints = parameters(low=constraints.dependent, high=constraints.dependent)
    low: Tensor
    high: Tensor

    def __init__(self, low: Any, high: Any, validate_args: bool | None = None):
        super().__init__(low, high, validate_args=validate_args)
        known = self._can_check(self.low) and self._can_check(self.high)
        if self._validate_args and known and not (self.low < self.high).all():
            raise ValueError("Uniform is not defined when low>= high")

    @property
    def support(self) -> Any:
        """[low, high]."""
        return constraints.interval(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        """The middle."""
        return (self.high + self.low) / 2

    @property
    def mode(self) -> Tensor:
        """nan: all are as likely."""
        return self.high * math.nan

    @property
    def stddev(self) -> Tensor:
        """(high - low) / √12."""
        return (self.high - self.low) / 12**0.5

    @property
    def variance(self) -> Tensor:
        """(high - low)² / 12."""
        return (self.high - self.low).pow(2) / 12

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """low + u (high - low)."""
        u = uniform(self.low, self._extended_shape(sample_shape))
        return self.low + u * (self.high - self.low)

    def log_prob(self, value: Tensor) -> Tensor:
        """-log(high - low); -inf outside."""
        self._checked(value)
        inside = (self.low <= value) & (self.high > value)
        return log(inside.type_as(self.low)) - log(self.high - self.low)

    def cdf(self, value: Tensor) -> Tensor:
        """(value - low) / (high - low), from 0 to 1."""
        self._checked(value)
        return ((value - self.low) / (self.high - self.low)).clamp(min=0, max=1)

    def icdf(self, value: Tensor) -> Tensor:
        """low + value (high - low)."""
        return value * (self.high - self.low) + self.low

    def entropy(self) -> Tensor:
        """log(high - low)."""
        return log(self.high - self.low)
