"""Distributions of positive numbers, and of those from 0 to 1: HalfCauchy, Weibull, Pareto, Kumaraswamy and their kin.

Samples are quantiles of uniform numbers, or ratios of samples of the Gamma distribution.
"""

from __future__ import annotations

import math
from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.continuous import EULER, _Located
from distgrad.distributions.distribution import parameters
from distgrad.distributions.utils import tiny, uniform
from distgrad.ops.compare import where
from distgrad.ops.making import full_like
from distgrad.ops.pointwise import atan, exp, expm1, log, log1p, tan
from distgrad.ops.special import digamma, lgamma
from distgrad.tensor import Tensor


class _ByQuantile(_Located):
    """One whose samples are quantiles of uniform numbers from (0, 1)."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The quantile of a uniform number."""
        like = getattr(self, self.names[0])
        u = uniform(like, self._extended_shape(sample_shape))
        return self.icdf(u.clamp(min=tiny(u)))


class HalfCauchy(_ByQuantile):
    """The absolute value of a Cauchy number with median 0 and half width `scale`."""

    names = ("scale",)
    arg_constraints = parameters(scale=constraints.positive)
    support = constraints.nonnegative
    scale: Tensor

    def __init__(self, scale: Any, validate_args: bool | None = None):
        super().__init__(scale, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """inf."""
        return full_like(self.scale, math.inf)

    variance = mean

    @property
    def mode(self) -> Tensor:
        """0."""
        return full_like(self.scale, 0)

    def log_prob(self, value: Tensor) -> Tensor:
        """log(2 / π) - log(scale) - log(1 + (value / scale)²); -inf below 0."""
        self._checked(value)
        found = math.log(2 / math.pi) - log(self.scale) - log1p((value / self.scale) ** 2)
        return where(value >= 0, found, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """2 atan(value / scale) / π."""
        self._checked(value)
        return 2 / math.pi * atan(value / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        """scale tan(π value / 2)."""
        return self.scale * tan(math.pi / 2 * value)

    def entropy(self) -> Tensor:
        """log(2π scale)."""
        return math.log(2 * math.pi) + log(self.scale)

    def __repr__(self) -> str:
        return "HalfCauchy()"


class Weibull(_ByQuantile):
    """The Weibull distribution: 1 - cdf = exp(-(x / scale)^concentration)."""

    names = ("scale", "concentration")
    arg_constraints = parameters(scale=constraints.positive, concentration=constraints.positive)
    support = constraints.positive
    scale: Tensor
    concentration: Tensor

    def __init__(self, scale: Any, concentration: Any, validate_args: bool | None = None):
        super().__init__(scale, concentration, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """scale Γ(1 + 1 / concentration)."""
        return self.scale * exp(lgamma(1 + 1 / self.concentration))

    @property
    def mode(self) -> Tensor:
        """scale (1 - 1 / concentration)^(1 / concentration), or 0."""
        k = self.concentration
        safe = where(k > 1, k, 2.0)
        return where(k > 1, self.scale * ((safe - 1) / safe) ** (1 / safe), 0.0)

    @property
    def variance(self) -> Tensor:
        """scale² (Γ(1 + 2 / concentration) - Γ(1 + 1 / concentration)²)."""
        one, two = (lgamma(1 + n / self.concentration) for n in (1, 2))
        return self.scale.pow(2) * (exp(two) - exp(2 * one))

    def log_prob(self, value: Tensor) -> Tensor:
        """log(k / scale) + (k - 1) log(value / scale) - (value / scale)^k."""
        self._checked(value)
        k, z = self.concentration, value / self.scale
        return log(k / self.scale) + (k - 1) * log(z) - z**k

    def cdf(self, value: Tensor) -> Tensor:
        """1 - exp(-(value / scale)^k)."""
        self._checked(value)
        return -expm1(-((value / self.scale) ** self.concentration))

    def icdf(self, value: Tensor) -> Tensor:
        """scale (-log(1 - value))^(1 / k)."""
        return self.scale * (-log1p(-value)) ** (1 / self.concentration)

    def entropy(self) -> Tensor:
        """0.577... (1 - 1 / k) + log(scale / k) + 1."""
        k = self.concentration
        return EULER * (1 - 1 / k) + log(self.scale / k) + 1


class Pareto(_ByQuantile):
    """The Pareto distribution of type 1: 1 - cdf = (scale / x)^alpha from `scale` on."""

    names = ("scale", "alpha")
    arg_constraints = parameters(alpha=constraints.positive, scale=constraints.positive)
    scale: Tensor
    alpha: Tensor

    def __init__(self, scale: Any, alpha: Any, validate_args: bool | None = None):
        super().__init__(scale, alpha, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """From `scale` on."""
        return constraints.greater_than_eq(self.scale)

    @property
    def mean(self) -> Tensor:
        """alpha scale / (alpha - 1), or inf."""
        a = self.alpha.clamp(min=1)
        return a * self.scale / (a - 1)

    @property
    def mode(self) -> Tensor:
        """`scale`."""
        return self.scale

    @property
    def variance(self) -> Tensor:
        """scale² alpha / ((alpha - 1)² (alpha - 2)), or inf."""
        a = self.alpha.clamp(min=2)
        return self.scale.pow(2) * a / ((a - 1).pow(2) * (a - 2))

    def log_prob(self, value: Tensor) -> Tensor:
        """log(alpha) + alpha log(scale) - (alpha + 1) log(value)."""
        self._checked(value)
        return log(self.alpha) + self.alpha * log(self.scale) - (self.alpha + 1) * log(value)

    def cdf(self, value: Tensor) -> Tensor:
        """1 - (scale / value)^alpha."""
        self._checked(value)
        return -expm1(self.alpha * log(self.scale / value))

    def icdf(self, value: Tensor) -> Tensor:
        """scale (1 - value)^(-1 / alpha)."""
        return self.scale * exp(-log1p(-value) / self.alpha)

    def entropy(self) -> Tensor:
        """log(scale / alpha) + 1 + 1 / alpha."""
        return log(self.scale / self.alpha) + (1 + self.alpha.reciprocal())


class GeneralizedPareto(_ByQuantile):
    """The generalised Pareto distribution: 1 - cdf = (1 + c z)^(-1 / c), z = (x - loc) / scale, c = concentration."""

    names = ("loc", "scale", "concentration")
    arg_constraints = parameters(
        loc=constraints.real, scale=constraints.positive, concentration=constraints.real
    )
    loc: Tensor
    scale: Tensor
    concentration: Tensor

    def __init__(self, loc: Any, scale: Any, concentration: Any, validate_args: bool | None = None):
        super().__init__(loc, scale, concentration, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """From `loc` on; for a concentration below 0 up to loc - scale / concentration."""
        c = self.concentration
        end = self.loc - self.scale / where(c < 0, c, -1.0)
        return constraints.interval(self.loc, where(c < 0, end, math.inf))

    def _safe(self) -> tuple[Tensor, Tensor]:
        """Where the concentration is 0, and one that is not."""
        zero = self.concentration == 0
        return zero, where(zero, 1.0, self.concentration)

    @property
    def mean(self) -> Tensor:
        """loc + scale / (1 - c), or inf."""
        c = self.concentration
        return where(c < 1, self.loc + self.scale / (1 - where(c < 1, c, 0.0)), math.inf)

    @property
    def variance(self) -> Tensor:
        """scale² / ((1 - c)² (1 - 2c)), or inf."""
        c = where(self.concentration < 0.5, self.concentration, 0.0)
        found = self.scale.pow(2) / ((1 - c).pow(2) * (1 - 2 * c))
        return where(self.concentration < 0.5, found, math.inf)

    @property
    def mode(self) -> Tensor:
        """`loc`."""
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        """-(1 + 1 / c) log(1 + c z) - log(scale); -z - log(scale) for c = 0."""
        self._checked(value)
        zero, c = self._safe()
        z = (value - self.loc) / self.scale
        return where(zero, -z, -(1 + 1 / c) * log1p(c * z)) - log(self.scale)

    def cdf(self, value: Tensor) -> Tensor:
        """1 - (1 + c z)^(-1 / c)."""
        self._checked(value)
        zero, c = self._safe()
        z = (value - self.loc) / self.scale
        return -expm1(where(zero, -z, -log1p(c * z) / c))

    def icdf(self, value: Tensor) -> Tensor:
        """loc + scale ((1 - value)^-c - 1) / c."""
        zero, c = self._safe()
        less = -log1p(-value)
        return self.loc + self.scale * where(zero, less, expm1(c * less) / c)

    def entropy(self) -> Tensor:
        """1 + log(scale) + c."""
        return 1 + log(self.scale) + self.concentration


class Kumaraswamy(_ByQuantile):
    """The Kumaraswamy distribution: 1 - cdf = (1 - x^concentration1)^concentration0 from 0 to 1."""

    names = ("concentration1", "concentration0")
    arg_constraints = parameters(concentration1=constraints.positive, concentration0=constraints.positive)
    support = constraints.unit_interval
    concentration1: Tensor
    concentration0: Tensor

    def __init__(self, concentration1: Any, concentration0: Any, validate_args: bool | None = None):
        super().__init__(concentration1, concentration0, validate_args=validate_args)

    def _moment(self, n: int) -> Tensor:
        """The mean of x^n: b B(1 + n / a, b)."""
        first, b = 1 + n / self.concentration1, self.concentration0
        return exp(log(b) + lgamma(first) + lgamma(b) - lgamma(first + b))

    @property
    def mean(self) -> Tensor:
        """The first moment."""
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        """From the first two moments."""
        return self._moment(2) - self._moment(1).pow(2)

    @property
    def mode(self) -> Tensor:
        """((a - 1) / (ab - 1))^(1 / a); nan where a or b is below 1."""
        a, b = self.concentration1, self.concentration0
        found = exp((log1p(-1 / a) - log(b - 1 / a)) / a)
        return where((a < 1) | (b < 1), math.nan, found)

    def log_prob(self, value: Tensor) -> Tensor:
        """log(ab) + (a - 1) log(value) + (b - 1) log(1 - value^a)."""
        self._checked(value)
        a, b = self.concentration1, self.concentration0
        return log(a) + log(b) + (a - 1) * log(value) + (b - 1) * log1p(-(value**a))

    def cdf(self, value: Tensor) -> Tensor:
        """1 - (1 - value^a)^b."""
        self._checked(value)
        return -expm1(self.concentration0 * log1p(-(value**self.concentration1)))

    def icdf(self, value: Tensor) -> Tensor:
        """(1 - (1 - value)^(1 / b))^(1 / a)."""
        return (-expm1(log1p(-value) / self.concentration0)) ** (1 / self.concentration1)

    def entropy(self) -> Tensor:
        """1 - 1 / b + (1 - 1 / a) (ψ(b + 1) + 0.577...) - log(ab)."""
        a, b = self.concentration1, self.concentration0
        return 1 - 1 / b + (1 - 1 / a) * (digamma(b + 1) + EULER) - log(a) - log(b)
