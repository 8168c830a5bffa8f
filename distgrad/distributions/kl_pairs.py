"""Divergences between distributions of two families: -H(p) - E log q, from entropies and means under p.

Where p has values that q has not, the divergence is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from distgrad.distributions.continuous import EULER, Gumbel, Laplace, Normal, Uniform
from distgrad.distributions.discrete import Bernoulli, Binomial, Poisson
from distgrad.distributions.gamma import Beta, Gamma
from distgrad.distributions.gamma_ratios import InverseGamma
from distgrad.distributions.half_line import Exponential
from distgrad.distributions.kl import _infinite_unless, kl_divergence, register_kl
from distgrad.distributions.positive import HalfCauchy, Pareto, Weibull
from distgrad.distributions.relaxed import ContinuousBernoulli
from distgrad.ops.compare import where
from distgrad.ops.making import full_like
from distgrad.ops.pointwise import exp, log
from distgrad.ops.probability import xlogy
from distgrad.ops.special import digamma, lgamma
from distgrad.tensor import Tensor

_p: type
_q: type


def _shaped(p: Any, q: Any) -> Tensor:
    return p.mean + q.mean


# Of one family.
@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _continuous_bernoulli(p: ContinuousBernoulli, q: ContinuousBernoulli) -> Tensor:
    apart = p.mean * (p.logits - q.logits)
    return apart + p._log_norm() + (-p.probs).log1p() - q._log_norm() - (-q.probs).log1p()


@register_kl(Pareto, Pareto)
def _pareto(p: Pareto, q: Pareto) -> Tensor:
    ratio = q.alpha / p.alpha
    found = q.alpha * log(p.scale / q.scale) - log(ratio) + ratio - 1
    return _infinite_unless(p.scale >= q.scale, found)


@register_kl(HalfCauchy, HalfCauchy)
def _half_cauchy(p: HalfCauchy, q: HalfCauchy) -> Tensor:
    return 2 * log(p.scale + q.scale) - log(4 * p.scale * q.scale)


@register_kl(InverseGamma, InverseGamma)
def _inverse_gamma(p: InverseGamma, q: InverseGamma) -> Tensor:
    return kl_divergence(Gamma(p.concentration, p.rate), Gamma(q.concentration, q.rate))


@register_kl(Weibull, Weibull)
def _weibull(p: Weibull, q: Weibull) -> Tensor:
    """Bauckhage 2013."""
    k, m = p.concentration, q.concentration
    norms = log(k) - k * log(p.scale) - log(m) + m * log(q.scale)
    powers = exp(m * log(p.scale / q.scale) + lgamma(m / k + 1))
    return norms + (k - m) * (log(p.scale) - EULER / k) + powers - 1


# To an exponential distribution: -E log q = rate E x - log(rate). Of positive numbers alone.
def _to_exponential(p: Any, q: Exponential) -> Tensor:
    return -p.entropy() - log(q.rate) + q.rate * p.mean


for _p in (Beta, ContinuousBernoulli, Pareto):
    register_kl(_p, Exponential)(_to_exponential)


@register_kl(Uniform, Exponential)
def _uniform_exponential(p: Uniform, q: Exponential) -> Tensor:
    return _infinite_unless(p.low >= 0, _to_exponential(p, q))


# To a normal distribution: -E log q from mean and variance.
def _to_normal(p: Any, q: Normal) -> Tensor:
    moments = (p.variance + (p.mean - q.loc).pow(2)) / q.scale.pow(2)
    found = -p.entropy() + 0.5 * moments + log(q.scale) + 0.5 * math.log(2 * math.pi)
    return found if type(p) is not Pareto else _infinite_unless(p.alpha > 2, found)


for _p in (Beta, ContinuousBernoulli, Exponential, Gamma, Gumbel, Pareto):
    register_kl(_p, Normal)(_to_normal)


# To a Gamma distribution: -E log q = lgamma(a) - a log(rate) - (a - 1) E log x + rate E x.
def _to_gamma(p: Any, q: Gamma, mean_of_log: Tensor) -> Tensor:
    a = q.concentration
    return -p.entropy() + lgamma(a) - a * log(q.rate) - (a - 1) * mean_of_log + q.rate * p.mean


@register_kl(Beta, Gamma)
def _beta_gamma(p: Beta, q: Gamma) -> Tensor:
    return _to_gamma(p, q, digamma(p.concentration1) - digamma(p.concentration1 + p.concentration0))


@register_kl(Pareto, Gamma)
def _pareto_gamma(p: Pareto, q: Gamma) -> Tensor:
    return _infinite_unless(p.alpha > 1, _to_gamma(p, q, log(p.scale) + 1 / p.alpha))


@register_kl(Uniform, Gamma)
def _uniform_gamma(p: Uniform, q: Gamma) -> Tensor:
    low = where(p.low >= 0, p.low, 0.0)
    of_log = (xlogy(p.high, p.high) - xlogy(low, low)) / (p.high - p.low) - 1
    return _infinite_unless(p.low >= 0, _to_gamma(p, q, of_log))


# To a uniform or Beta distribution.
@register_kl(Beta, Uniform)
def _beta_uniform(p: Beta, q: Uniform) -> Tensor:
    return _infinite_unless((q.low <= 0) & (q.high >= 1), -p.entropy() + log(q.high - q.low))


@register_kl(Beta, ContinuousBernoulli)
def _beta_continuous_bernoulli(p: Beta, q: ContinuousBernoulli) -> Tensor:
    return -p.entropy() - p.mean * q.logits - (-q.probs).log1p() - q._log_norm()


@register_kl(ContinuousBernoulli, Uniform)
def _continuous_bernoulli_uniform(p: ContinuousBernoulli, q: Uniform) -> Tensor:
    return _infinite_unless((q.low <= 0) & (q.high >= 1), -p.entropy() + log(q.high - q.low))


@register_kl(Uniform, Beta)
def _uniform_beta(p: Uniform, q: Beta) -> Tensor:
    inside = (p.low >= 0) & (p.high <= 1)
    low, high = where(inside, p.low, 0.0), where(inside, p.high, 1.0)
    width = high - low
    of_log = (xlogy(high, high) - xlogy(low, low)) / width - 1
    of_rest = (xlogy(1 - low, 1 - low) - xlogy(1 - high, 1 - high)) / width - 1
    a, b = q.concentration1, q.concentration0
    beta = lgamma(a) + lgamma(b) - lgamma(a + b)
    return _infinite_unless(inside, -p.entropy() + beta - (a - 1) * of_log - (b - 1) * of_rest)


@register_kl(Uniform, ContinuousBernoulli)
def _uniform_continuous_bernoulli(p: Uniform, q: ContinuousBernoulli) -> Tensor:
    found = -p.entropy() - p.mean * q.logits - (-q.probs).log1p() - q._log_norm()
    return _infinite_unless((p.high <= 1) & (p.low >= 0), found)


@register_kl(Uniform, Pareto)
def _uniform_pareto(p: Uniform, q: Pareto) -> Tensor:
    of_log = (xlogy(p.high, p.high) - xlogy(p.low, p.low)) / (p.high - p.low) - 1
    found = -p.entropy() - log(q.alpha * q.scale.pow(q.alpha)) + (q.alpha + 1) * of_log
    return _infinite_unless(p.low >= q.scale, found)


# To a Gumbel distribution: -E log q = (E x - loc) / scale + exp(loc / scale) E exp(-x / scale) + log(scale).
def _to_gumbel(p: Any, q: Gumbel, of_exp: Callable[[Tensor], Tensor]) -> Tensor:
    return (
        -p.entropy() + (p.mean - q.loc) / q.scale + exp(q.loc / q.scale) * of_exp(1 / q.scale) + log(q.scale)
    )


@register_kl(Exponential, Gumbel)
def _exponential_gumbel(p: Exponential, q: Gumbel) -> Tensor:
    return _to_gumbel(p, q, lambda s: p.rate / (p.rate + s))


@register_kl(Gamma, Gumbel)
def _gamma_gumbel(p: Gamma, q: Gumbel) -> Tensor:
    return _to_gumbel(p, q, lambda s: (1 + s / p.rate).pow(-p.concentration))


@register_kl(Normal, Gumbel)
def _normal_gumbel(p: Normal, q: Gumbel) -> Tensor:
    return _to_gumbel(p, q, lambda s: exp(-s * p.loc + 0.5 * (s * p.scale).pow(2)))


@register_kl(Uniform, Gumbel)
def _uniform_gumbel(p: Uniform, q: Gumbel) -> Tensor:
    return _to_gumbel(p, q, lambda s: (exp(-s * p.low) - exp(-s * p.high)) / (s * (p.high - p.low)))


# Infinite whatever the parameters.
def _infinite(p: Any, q: Any) -> Tensor:
    return full_like(_shaped(p, q), math.inf)


_UNBOUNDED = (Gumbel, Laplace, Normal)
_HALF = (Exponential, Gamma)
for _p, _q in (
    *((p, q) for p in _UNBOUNDED for q in (Beta, ContinuousBernoulli, Exponential, Gamma, Pareto, Uniform)),
    *((p, q) for p in _HALF for q in (Beta, ContinuousBernoulli, Pareto, Uniform)),
    *((Pareto, q) for q in (Beta, ContinuousBernoulli, Uniform)),
    *((p, Pareto) for p in (Beta, ContinuousBernoulli)),
    *((Poisson, q) for q in (Bernoulli, Binomial)),
):
    register_kl(_p, _q)(_infinite)


@register_kl(Bernoulli, Poisson)
def _bernoulli_poisson(p: Bernoulli, q: Poisson) -> Tensor:
    return -p.entropy() - (p.probs * log(q.rate) - q.rate)
