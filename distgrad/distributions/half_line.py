"""Densities on the half-line from 0 that fall all the way: exponential and half of a normal one."""

from __future__ import annotations

import math
from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.continuous import _Located
from distgrad.distributions.distribution import parameters
from distgrad.distributions.exp_family import ExponentialFamily
from distgrad.distributions.utils import normal, uniform
from distgrad.ops.compare import where
from distgrad.ops.making import full_like
from distgrad.ops.pointwise import expm1, log, log1p
from distgrad.ops.probability import ndtr, ndtri
from distgrad.tensor import Tensor


class Exponential(_Located, ExponentialFamily):
    """Waiting times with density rate exp(-rate x)."""

    names = ("rate",)
    _mean_carrier_measure = 0
    arg_constraints = parameters(rate=constraints.positive)
    support = constraints.nonnegative
    rate: Tensor

    def __init__(self, rate: Any, validate_args: bool | None = None):
        super().__init__(rate, validate_args=validate_args)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (-self.rate,)

    def _log_normalizer(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return -log(-x)

    @property
    def mean(self) -> Tensor:
        """1 / rate."""
        return self.rate.reciprocal()

    @property
    def mode(self) -> Tensor:
        """0."""
        return full_like(self.rate, 0)

    @property
    def stddev(self) -> Tensor:
        """1 / rate."""
        return self.rate.reciprocal()

    @property
    def variance(self) -> Tensor:
        """1 / rate²."""
        return self.rate.pow(-2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The quantile of a uniform number."""
        return -log1p(-uniform(self.rate, self._extended_shape(sample_shape))) / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        """log(rate) - rate value."""
        self._checked(value)
        return log(self.rate) - self.rate * value

    def cdf(self, value: Tensor) -> Tensor:
        """1 - exp(-rate value)."""
        self._checked(value)
        return -expm1(-self.rate * value)

    def icdf(self, value: Tensor) -> Tensor:
        """-log(1 - value) / rate."""
        return -log1p(-value) / self.rate

    def entropy(self) -> Tensor:
        """1 - log(rate)."""
        return 1 - log(self.rate)


class HalfNormal(_Located):
    """The absolute value of a normal number with mean 0 and standard deviation `scale`."""

    names = ("scale",)
    arg_constraints = parameters(scale=constraints.positive)
    support = constraints.nonnegative
    scale: Tensor

    def __init__(self, scale: Any, validate_args: bool | None = None):
        super().__init__(scale, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """scale √(2 / π)."""
        return self.scale * math.sqrt(2 / math.pi)

    @property
    def mode(self) -> Tensor:
        """0."""
        return full_like(self.scale, 0)

    @property
    def variance(self) -> Tensor:
        """scale² (1 - 2 / π)."""
        return self.scale.pow(2) * (1 - 2 / math.pi)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """scale |ε| with ε standard normal."""
        return self.scale * normal(self.scale, self._extended_shape(sample_shape)).abs()

    def log_prob(self, value: Tensor) -> Tensor:
        """Twice the normal density; -inf below 0."""
        self._checked(value)
        found = math.log(2 / math.pi) / 2 - log(self.scale) - 0.5 * (value / self.scale) ** 2
        return where(value >= 0, found, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """2 Φ(value / scale) - 1."""
        self._checked(value)
        return 2 * ndtr(value / self.scale) - 1

    def icdf(self, value: Tensor) -> Tensor:
        """scale Φ⁻¹((value + 1) / 2)."""
        return self.scale * ndtri((value + 1) / 2)

    def entropy(self) -> Tensor:
        """log(πe scale² / 2) / 2."""
        return 0.5 + 0.5 * math.log(math.pi / 2) + log(self.scale)
