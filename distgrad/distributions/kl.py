"""Kullback-Leibler divergences between distributions: `kl_divergence`, and `register_kl` for those of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from distgrad.distributions.categorical import Categorical, OneHotCategorical
from distgrad.distributions.continuous import EULER, Cauchy, Gumbel, Laplace, Normal, Uniform
from distgrad.distributions.discrete import Bernoulli, Binomial, Geometric, Poisson
from distgrad.distributions.distribution import Distribution
from distgrad.distributions.exp_family import ExponentialFamily
from distgrad.distributions.gamma import Beta, Dirichlet, Gamma
from distgrad.distributions.half_line import Exponential, HalfNormal
from distgrad.distributions.transform import sum_rightmost
from distgrad.distributions.transformed import Independent, TransformedDistribution
from distgrad.ops.activations import softplus
from distgrad.ops.compare import where
from distgrad.ops.pointwise import exp, log
from distgrad.ops.probability import xlogy
from distgrad.ops.special import digamma, lgamma
from distgrad.tensor import Tensor

Rule = Callable[[Any, Any], Tensor]
_rules: dict[tuple[type, type], Rule] = {}


def register_kl(type_p: type, type_q: type) -> Callable[[Rule], Rule]:
    """A decorator: this function gives the divergence of two distributions of these types."""
    names: dict[str, Any] = {"type_p": type_p, "type_q": type_q}
    for name, given in names.items():
        if not (isinstance(given, type) and issubclass(given, Distribution)):
            raise TypeError(f"Expected {name} to be a Distribution subclass but got {given}")

    def enter(rule: Rule) -> Rule:
        _rules[type_p, type_q] = rule
        return rule

    return enter


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """∫ p log(p / q): how far q is from p, in nats, of shape `batch_shape`."""
    for one in type(p).__mro__:
        for other in type(q).__mro__:
            rule = _rules.get((one, other))
            if rule is not None:
                return rule(p, q)
    raise NotImplementedError(
        f"No KL(p || q) is implemented for p type {type(p).__name__} and q type {type(q).__name__}"
    )


@register_kl(ExponentialFamily, ExponentialFamily)
def _family(p: ExponentialFamily, q: ExponentialFamily) -> Tensor:
    """Bregman's divergence of the log normalizers: F(θq) - F(θp) - (θq - θp) · ∇F(θp)."""
    if type(p) is not type(q):
        raise NotImplementedError(
            "The cross KL-divergence between different exponential families cannot "
            "                            be computed using Bregman divergences"
        )
    params, normalizer, means = p._normalized()
    result = q._log_normalizer(*q._natural_params) - normalizer
    for mine, other, mean in zip(params, q._natural_params, means, strict=True):
        result = result - sum_rightmost((other - mine) * mean, len(q.event_shape))
    return result


def _infinite_unless(inside: Tensor, found: Tensor) -> Tensor:
    """`found`, or inf where p has values that q has not."""
    return where(inside, found, math.inf)


@register_kl(Normal, Normal)
def _normal(p: Normal, q: Normal) -> Tensor:
    ratio = (p.scale / q.scale).pow(2)
    return 0.5 * (ratio + ((p.loc - q.loc) / q.scale).pow(2) - 1 - log(ratio))


@register_kl(HalfNormal, HalfNormal)
def _half_normal(p: HalfNormal, q: HalfNormal) -> Tensor:
    ratio = (p.scale / q.scale).pow(2)
    return 0.5 * (ratio - 1 - log(ratio))


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    success = p.probs * (softplus(-q.logits) - softplus(-p.logits))
    failure = (1 - p.probs) * (softplus(q.logits) - softplus(p.logits))
    success = where(p.probs == 0, 0.0, where(q.probs == 0, math.inf, success))
    return success + where(p.probs == 1, 0.0, where(q.probs == 1, math.inf, failure))


@register_kl(Binomial, Binomial)
def _binomial(p: Binomial, q: Binomial) -> Tensor:
    one = p.probs * (p.logits - q.logits) - softplus(p.logits) + softplus(q.logits)
    return _infinite_unless(p.total_count <= q.total_count, p.total_count * one)


@register_kl(Geometric, Geometric)
def _geometric(p: Geometric, q: Geometric) -> Tensor:
    return -p.entropy() - (-q.probs).log1p() / p.probs - q.logits


@register_kl(Poisson, Poisson)
def _poisson(p: Poisson, q: Poisson) -> Tensor:
    return xlogy(p.rate, p.rate / q.rate) - (p.rate - q.rate)


@register_kl(Categorical, Categorical)
def _categorical(p: Categorical, q: Categorical) -> Tensor:
    terms = p.probs * (p.logits - q.logits)
    terms = where(q.probs == 0, math.inf, terms)
    return where(p.probs == 0, 0.0, terms).sum(-1)


@register_kl(OneHotCategorical, OneHotCategorical)
def _one_hot(p: OneHotCategorical, q: OneHotCategorical) -> Tensor:
    return _categorical(p._categorical, q._categorical)


@register_kl(Gamma, Gamma)
def _gamma(p: Gamma, q: Gamma) -> Tensor:
    return (
        q.concentration * log(p.rate / q.rate)
        + lgamma(q.concentration)
        - lgamma(p.concentration)
        + (p.concentration - q.concentration) * digamma(p.concentration)
        + (q.rate - p.rate) * (p.concentration / p.rate)
    )


@register_kl(Exponential, Exponential)
def _exponential(p: Exponential, q: Exponential) -> Tensor:
    ratio = q.rate / p.rate
    return -log(ratio) + ratio - 1


@register_kl(Exponential, Gamma)
def _exponential_gamma(p: Exponential, q: Gamma) -> Tensor:
    ratio = q.rate / p.rate
    return (
        -q.concentration * log(ratio)
        + ratio
        + lgamma(q.concentration)
        + q.concentration * EULER
        - (1 + EULER)
    )


@register_kl(Gamma, Exponential)
def _gamma_exponential(p: Gamma, q: Exponential) -> Tensor:
    return -p.entropy() - log(q.rate) + q.rate * p.concentration / p.rate


@register_kl(Beta, Beta)
def _beta(p: Beta, q: Beta) -> Tensor:
    a, b, c, d = p.concentration1, p.concentration0, q.concentration1, q.concentration0
    betas = lgamma(c) + lgamma(d) + lgamma(a + b) - lgamma(c + d) - lgamma(a) - lgamma(b)
    return betas + (a - c) * digamma(a) + (b - d) * digamma(b) + (c + d - a - b) * digamma(a + b)


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p: Dirichlet, q: Dirichlet) -> Tensor:
    a, b = p.concentration, q.concentration
    total = a.sum(-1)
    ways = lgamma(total) - lgamma(b.sum(-1)) - (lgamma(a) - lgamma(b)).sum(-1)
    return ways + ((a - b) * (digamma(a) - digamma(total).unsqueeze(-1))).sum(-1)


@register_kl(Laplace, Laplace)
def _laplace(p: Laplace, q: Laplace) -> Tensor:
    ratio, apart = p.scale / q.scale, (p.loc - q.loc).abs()
    return -log(ratio) + apart / q.scale + ratio * exp(-apart / p.scale) - 1


@register_kl(Cauchy, Cauchy)
def _cauchy(p: Cauchy, q: Cauchy) -> Tensor:
    """Chyzak and Nielsen 2019."""
    return log((p.scale + q.scale).pow(2) + (p.loc - q.loc).pow(2)) - log(4 * p.scale * q.scale)


@register_kl(Gumbel, Gumbel)
def _gumbel(p: Gumbel, q: Gumbel) -> Tensor:
    ratio, moved = p.scale / q.scale, (p.loc - q.loc) / q.scale
    return -log(ratio) - moved * -1 + exp(-moved + lgamma(1 + ratio)) + EULER * ratio - (1 + EULER)


@register_kl(Uniform, Uniform)
def _uniform(p: Uniform, q: Uniform) -> Tensor:
    inside = (q.low <= p.low) & (p.high <= q.high)
    return _infinite_unless(inside, log((q.high - q.low) / (p.high - p.low)))


@register_kl(Uniform, Normal)
def _uniform_normal(p: Uniform, q: Normal) -> Tensor:
    width = p.high - p.low
    deviation = (width.pow(2) / 12 + ((p.high + p.low - 2 * q.loc) / 2).pow(2)) / (2 * q.scale.pow(2))
    return log(math.sqrt(2 * math.pi) * q.scale / width) + deviation


@register_kl(Normal, Laplace)
def _normal_laplace(p: Normal, q: Laplace) -> Tensor:
    apart, scale = p.loc - q.loc, p.scale
    near = math.sqrt(2 / math.pi) * scale * exp(-0.5 * (apart / scale).pow(2))
    far = apart * (apart / (math.sqrt(2) * scale)).erf()
    return -p.entropy() + log(2 * q.scale) + (near + far) / q.scale


@register_kl(Laplace, Normal)
def _laplace_normal(p: Laplace, q: Normal) -> Tensor:
    squared = q.scale.pow(2)
    moments = p.scale.pow(2) + 0.5 * (p.loc - q.loc).pow(2)
    return moments / squared + 0.5 * log(2 * math.pi * squared) - log(2 * p.scale) - 1


@register_kl(Independent, Independent)
def _independent(p: Independent, q: Independent) -> Tensor:
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        raise NotImplementedError
    return sum_rightmost(kl_divergence(p.base_dist, q.base_dist), p.reinterpreted_batch_ndims)


@register_kl(TransformedDistribution, TransformedDistribution)
def _transformed(p: TransformedDistribution, q: TransformedDistribution) -> Tensor:
    if p.transforms != q.transforms or p.event_shape != q.event_shape:
        raise NotImplementedError
    return kl_divergence(p.base_dist, q.base_dist)
