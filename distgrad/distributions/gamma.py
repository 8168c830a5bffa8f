"""The Gamma family: Gamma, Chi2, Beta, Dirichlet and Student's t. Their samples are quantiles of uniform numbers.

So a sample has a gradient in the shape parameters: that of the quantile (implicit reparameterisation, Figurnov and
others 2018, without their series).
"""

from __future__ import annotations

import math
from typing import Any

from distgrad.autograd.function import Function, once_differentiable
from distgrad.distributions import constraints
from distgrad.distributions.distribution import Distribution, parameters
from distgrad.distributions.exp_family import ExponentialFamily
from distgrad.distributions.utils import broadcast_all, normal, tiny, uniform
from distgrad.dtype import Size
from distgrad.ops.compare import where
from distgrad.ops.pointwise import log, log1p
from distgrad.ops.probability import _beta_quantile, _beta_slope, _gamma_quantile, _gamma_slope, xlogy
from distgrad.ops.special import digamma, gammainc, lgamma
from distgrad.tensor import Tensor


class _StandardGamma(Function):
    """Quantiles of the Gamma distribution with rate 1, in the dtype of its shape parameter."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, u: Tensor) -> Tensor:
        """From uniform float64 numbers."""
        ctx.save_for_backward(a, u)
        return _gamma_quantile(a.double(), u).to(a.dtype).clamp(min=tiny(a))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        """The slope of the quantile."""
        a, u = ctx.saved_tensors
        return g * _gamma_slope(a.double(), u).to(a.dtype), None


class _StandardBeta(Function):
    """Quantiles of the Beta distribution, in the dtype of its parameters."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, u: Tensor) -> Tensor:
        """From uniform float64 numbers."""
        ctx.save_for_backward(a, b, u)
        return _beta_quantile(a.double(), b.double(), u).to(a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        """The slopes of the quantile; that in b follows from I(x; a, b) = 1 - I(1 - x; b, a), DLMF 8.17.4."""
        a, b, u = ctx.saved_tensors
        for_a = _beta_slope(a.double(), b.double(), u).to(a.dtype)
        for_b = -_beta_slope(b.double(), a.double(), 1 - u).to(a.dtype)
        return g * for_a, g * for_b, None


def standard_gamma(concentration: Tensor, shape: Any) -> Tensor:
    """Samples of the Gamma distribution with rate 1, of a shape to which `concentration` is expanded."""
    return _StandardGamma.apply(concentration.expand(shape), uniform(concentration, shape, double=True))


class Gamma(ExponentialFamily):
    """The Gamma distribution with shape `concentration`: density ∝ x^(concentration - 1) exp(-rate x)."""

    _mean_carrier_measure = 0
    arg_constraints = parameters(concentration=constraints.positive, rate=constraints.positive)
    support: Any = constraints.nonnegative
    has_rsample = True

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None):
        self.concentration, self.rate = broadcast_all(concentration, rate)
        super().__init__(self.concentration.shape, validate_args=validate_args)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return self.concentration - 1, -self.rate

    def _log_normalizer(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return lgamma(x + 1) + (x + 1) * log(-y.reciprocal())

    @property
    def mean(self) -> Tensor:
        """concentration / rate."""
        return self.concentration / self.rate

    @property
    def mode(self) -> Tensor:
        """(concentration - 1) / rate, or 0."""
        return ((self.concentration - 1) / self.rate).clamp(min=0)

    @property
    def variance(self) -> Tensor:
        """concentration / rate²."""
        return self.concentration / self.rate.pow(2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A quantile of a uniform number, over the rate."""
        shape = self._extended_shape(sample_shape)
        value = standard_gamma(self.concentration, shape) / self.rate.expand(shape)
        return value.clamp(min=tiny(value))

    def log_prob(self, value: Tensor) -> Tensor:
        """concentration log(rate) + (concentration - 1) log(value) - rate value - lgamma(concentration)."""
        if self._validate_args:
            self._validate_sample(value)
        return (
            xlogy(self.concentration, self.rate)
            + xlogy(self.concentration - 1, value)
            - self.rate * value
            - lgamma(self.concentration)
        )

    def cdf(self, value: Tensor) -> Tensor:
        """P(concentration, rate value)."""
        if self._validate_args:
            self._validate_sample(value)
        return gammainc(self.concentration, self.rate * value)

    def entropy(self) -> Tensor:
        """concentration - log(rate) + lgamma(concentration) + (1 - concentration) ψ(concentration)."""
        a = self.concentration
        return a - log(self.rate) + lgamma(a) + (1 - a) * digamma(a)


class Chi2(Gamma):
    """The sum of squares of `df` standard normal numbers: Gamma(df / 2, 1 / 2)."""

    arg_constraints = parameters(df=constraints.positive)

    def __init__(self, df: Any, validate_args: bool | None = None):
        (self.df,) = broadcast_all(df)
        super().__init__(0.5 * self.df, 0.5, validate_args=validate_args)

    def _expand_into(self, new: Any, batch_shape: Size) -> None:
        super()._expand_into(new, batch_shape)
        new.concentration = self.concentration.expand(batch_shape)
        new.rate = self.rate.expand(batch_shape)


class Beta(ExponentialFamily):
    """The Beta distribution: density ∝ x^(concentration1 - 1) (1 - x)^(concentration0 - 1)."""

    arg_constraints = parameters(concentration1=constraints.positive, concentration0=constraints.positive)
    support: Any = constraints.unit_interval
    has_rsample = True

    def __init__(self, concentration1: Any, concentration0: Any, validate_args: bool | None = None):
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        super().__init__(self.concentration1.shape, validate_args=validate_args)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return self.concentration1, self.concentration0

    def _log_normalizer(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    @property
    def _total(self) -> Tensor:
        return self.concentration1 + self.concentration0

    @property
    def mean(self) -> Tensor:
        """concentration1 / (concentration1 + concentration0)."""
        return self.concentration1 / self._total

    @property
    def mode(self) -> Tensor:
        """The mode where both are above 1; else an end, or nan where both ends are as likely."""
        a, b = self.concentration1, self.concentration0
        ends = where(a == b, math.nan, (a > b).to(a.dtype))
        uniform = (a == 1) & (b == 1)
        inner = (a > 1) & (b > 1)
        found = (a - 1).clamp(min=0) / where(inner, a + b - 2, 1.0)
        return where(uniform, math.nan, where(inner, found, ends))

    @property
    def variance(self) -> Tensor:
        """a b / ((a + b)² (a + b + 1))."""
        return self.concentration1 * self.concentration0 / (self._total.pow(2) * (self._total + 1))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The quantile of a uniform number."""
        shape = self._extended_shape(sample_shape)
        a, b = self.concentration1.expand(shape), self.concentration0.expand(shape)
        return _StandardBeta.apply(a, b, uniform(a, shape, double=True))

    def log_prob(self, value: Tensor) -> Tensor:
        """(a - 1) log(value) + (b - 1) log(1 - value) - log B(a, b)."""
        if self._validate_args:
            self._validate_sample(value)
        a, b = self.concentration1, self.concentration0
        return xlogy(a - 1, value) + xlogy(b - 1, 1 - value) + lgamma(a + b) - lgamma(a) - lgamma(b)

    def entropy(self) -> Tensor:
        """log B(a, b) - (a - 1) ψ(a) - (b - 1) ψ(b) + (a + b - 2) ψ(a + b)."""
        a, b, total = self.concentration1, self.concentration0, self._total
        beta = lgamma(a) + lgamma(b) - lgamma(total)
        return beta - (a - 1) * digamma(a) - (b - 1) * digamma(b) + (total - 2) * digamma(total)


class Dirichlet(ExponentialFamily):
    """Vectors that sum to 1: density ∝ Π x_i^(concentration_i - 1), along the last dimension."""

    arg_constraints = parameters(concentration=constraints.independent(constraints.positive, 1))
    support: Any = constraints.simplex
    has_rsample = True

    def __init__(self, concentration: Tensor, validate_args: bool | None = None):
        if concentration.dim() < 1:
            raise ValueError("`concentration` parameter must be at least one-dimensional.")
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args=validate_args)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.concentration,)

    def _log_normalizer(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return lgamma(x).sum(-1) - lgamma(x.sum(-1))

    @property
    def mean(self) -> Tensor:
        """concentration over its sum."""
        return self.concentration / self.concentration.sum(-1, True)

    @property
    def mode(self) -> Tensor:
        """(concentration - 1) over its sum; where some are below 1, all on the largest."""
        top = (self.concentration - 1).clamp(min=0.0)
        largest = self.concentration == self.concentration.amax(-1, True)
        alone = largest.to(top.dtype) / largest.sum(-1, True)
        return where((self.concentration < 1).all(-1, True), alone, top / top.sum(-1, True))

    @property
    def variance(self) -> Tensor:
        """a (s - a) / (s² (s + 1)), s the sum of all a."""
        total = self.concentration.sum(-1, True)
        return self.concentration * (total - self.concentration) / (total.pow(2) * (total + 1))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Gamma samples over their sum."""
        found = standard_gamma(self.concentration, self._extended_shape(sample_shape))
        return found / found.sum(-1, True)

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ (a - 1) log(value) + lgamma(Σ a) - Σ lgamma(a)."""
        if self._validate_args:
            self._validate_sample(value)
        a = self.concentration
        return xlogy(a - 1, value).sum(-1) + lgamma(a.sum(-1)) - lgamma(a).sum(-1)

    def entropy(self) -> Tensor:
        """Σ lgamma(a) - lgamma(s) - (k - s) ψ(s) - Σ (a - 1) ψ(a), of k numbers with sum s."""
        a, k = self.concentration, self.concentration.size(-1)
        s = a.sum(-1)
        return lgamma(a).sum(-1) - lgamma(s) - (k - s) * digamma(s) - ((a - 1) * digamma(a)).sum(-1)


class StudentT(Distribution):
    """Student's t with `df` degrees of freedom, moved by `loc` and scaled by `scale`."""

    arg_constraints = parameters(
        df=constraints.positive,
        loc=constraints.real,
        scale=constraints.positive,
    )
    support: Any = constraints.real
    has_rsample = True

    def __init__(self, df: Any, loc: Any = 0.0, scale: Any = 1.0, validate_args: bool | None = None):
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        super().__init__(self.df.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """`loc`; nan where df is at most 1."""
        return where(self.df > 1, self.loc, math.nan)

    @property
    def mode(self) -> Tensor:
        """`loc`."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """scale² df / (df - 2); inf where df is at most 2, nan where it is at most 1."""
        beyond = where(self.df > 1, math.inf, self.df * math.nan)
        finite = self.df > 2
        found = self.scale.pow(2) * self.df / where(finite, self.df - 2, 1.0)
        return where(finite, found, beyond)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A normal number over the root of a Chi2 number over df."""
        shape = self._extended_shape(sample_shape)
        z = standard_gamma(0.5 * self.df, shape) * 2
        return self.loc + self.scale * normal(self.df, shape) * (z / self.df).rsqrt()

    def log_prob(self, value: Tensor) -> Tensor:
        """-(df + 1) / 2 log(1 + y² / df), y = (value - loc) / scale, without the normalisation."""
        if self._validate_args:
            self._validate_sample(value)
        y = (value - self.loc) / self.scale
        z = log(self.scale) + 0.5 * log(self.df) + 0.5 * math.log(math.pi)
        z = z + lgamma(0.5 * self.df) - lgamma(0.5 * (self.df + 1))
        return -0.5 * (self.df + 1) * log1p(y**2 / self.df) - z

    def entropy(self) -> Tensor:
        """log(scale) + (df + 1)/2 (ψ((df + 1)/2) - ψ(df/2)) + log(df)/2 + log B(df/2, 1/2)."""
        half, more = 0.5 * self.df, 0.5 * (self.df + 1)
        beta = lgamma(half) + math.lgamma(0.5) - lgamma(more)
        return log(self.scale) + more * (digamma(more) - digamma(half)) + 0.5 * log(self.df) + beta
