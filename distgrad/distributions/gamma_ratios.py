"""Distributions of quotients of gamma variables: inverse gamma and F."""

from __future__ import annotations

import math
from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.continuous import _Located
from distgrad.distributions.distribution import parameters
from distgrad.distributions.gamma import standard_gamma
from distgrad.distributions.utils import tiny
from distgrad.ops.compare import where
from distgrad.ops.pointwise import log, log1p
from distgrad.ops.special import digamma, gammaincc, lgamma
from distgrad.tensor import Tensor


class InverseGamma(_Located):
    """1 / x with x from Gamma(concentration, rate)."""

    names = ("concentration", "rate")
    arg_constraints = parameters(concentration=constraints.positive, rate=constraints.positive)
    support = constraints.positive
    concentration: Tensor
    rate: Tensor

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None):
        super().__init__(concentration, rate, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """rate / (concentration - 1), or inf."""
        a = self.concentration
        return where(a > 1, self.rate / (a - 1), math.inf)

    @property
    def mode(self) -> Tensor:
        """rate / (concentration + 1)."""
        return self.rate / (self.concentration + 1)

    @property
    def variance(self) -> Tensor:
        """rate² / ((concentration - 1)² (concentration - 2)), or inf."""
        a = self.concentration
        return where(a > 2, self.rate.pow(2) / ((a - 1).pow(2) * (a - 2)), math.inf)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The reciprocal of a sample of the Gamma distribution."""
        shape = self._extended_shape(sample_shape)
        return self.rate.expand(shape) / standard_gamma(self.concentration, shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """a log(rate) - (a + 1) log(value) - rate / value - lgamma(a)."""
        self._checked(value)
        a = self.concentration
        return a * log(self.rate) - (a + 1) * log(value) - self.rate / value - lgamma(a)

    def cdf(self, value: Tensor) -> Tensor:
        """Q(concentration, rate / value)."""
        self._checked(value)
        return gammaincc(self.concentration, self.rate / value)

    def entropy(self) -> Tensor:
        """a + log(rate) + lgamma(a) - (1 + a) ψ(a)."""
        a = self.concentration
        return a + log(self.rate) + lgamma(a) - (1 + a) * digamma(a)

    def __repr__(self) -> str:
        return "InverseGamma()"


class FisherSnedecor(_Located):
    """The F distribution: the ratio of two chi-squared numbers, each over its degrees of freedom."""

    names = ("df1", "df2")
    arg_constraints = parameters(df1=constraints.positive, df2=constraints.positive)
    support = constraints.positive
    df1: Tensor
    df2: Tensor

    def __init__(self, df1: Any, df2: Any, validate_args: bool | None = None):
        super().__init__(df1, df2, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """df2 / (df2 - 2); nan up to df2 = 2."""
        return where(self.df2 > 2, self.df2 / (self.df2 - 2), math.nan)

    @property
    def mode(self) -> Tensor:
        """(1 - 2 / df1) df2 / (df2 + 2); nan up to df1 = 2."""
        return where(self.df1 > 2, (self.df1 - 2) / self.df1 * self.df2 / (self.df2 + 2), math.nan)

    @property
    def variance(self) -> Tensor:
        """2 df2² (df1 + df2 - 2) / (df1 (df2 - 2)² (df2 - 4)); nan up to df2 = 4."""
        a, b = self.df1, self.df2
        found = 2 * b.pow(2) * (a + b - 2) / (a * (b - 2).pow(2) * (b - 4))
        return where(b > 4, found, math.nan)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The ratio of two samples of Gamma distributions."""
        shape = self._extended_shape(sample_shape)
        first, second = (standard_gamma(df / 2, shape) / df for df in (self.df1, self.df2))
        smallest = tiny(self.df1)
        return (first / second.clamp(min=smallest)).clamp(min=smallest)

    def log_prob(self, value: Tensor) -> Tensor:
        """With a = df1 / 2, b = df2 / 2, r = a / b: a log(r) + (a - 1) log x - (a + b) log(1 + r x) - log B(a, b)."""
        self._checked(value)
        a, b, ratio = self.df1 / 2, self.df2 / 2, self.df1 / self.df2
        beta = lgamma(a) + lgamma(b) - lgamma(a + b)
        return a * log(ratio) + (a - 1) * log(value) - (a + b) * log1p(ratio * value) - beta
