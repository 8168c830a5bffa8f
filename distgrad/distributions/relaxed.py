"""Distributions that stand for discrete ones and have gradients: relaxed Bernoulli and categorical, and their kin.

By Maddison and others (2017), and Jang and others (2017); ContinuousBernoulli by Loaiza-Ganem and Cunningham (2019).
"""

from __future__ import annotations

import math
from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.categorical import Categorical
from distgrad.distributions.continuous import Normal
from distgrad.distributions.discrete import _Binary
from distgrad.distributions.distribution import Distribution, parameters
from distgrad.distributions.exp_family import ExponentialFamily
from distgrad.distributions.transformed import TransformedDistribution
from distgrad.distributions.transforms import ExpTransform, SigmoidTransform, StickBreakingTransform
from distgrad.distributions.utils import broadcast_all, clamp_probs, uniform
from distgrad.dtype import Size
from distgrad.nn import functional as F
from distgrad.ops.compare import where
from distgrad.ops.making import as_tensor
from distgrad.ops.norms import logsumexp
from distgrad.ops.pointwise import exp, expm1, log, log1p
from distgrad.tensor import Tensor


def _temperature(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else as_tensor(float(value))


class LogitRelaxedBernoulli(_Binary):
    """The logit of a relaxed Bernoulli number: (logits + logistic noise) / temperature."""

    arg_constraints = parameters(probs=constraints.unit_interval, logits=constraints.real)
    support = constraints.real
    has_rsample = True
    temperature: Tensor

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ):
        self.temperature = _temperature(temperature)
        super().__init__(self._parameters(probs, logits).shape, validate_args=validate_args)

    def _expand_into(self, new: Any, batch_shape: Size) -> None:
        super()._expand_into(new, batch_shape)
        new.temperature = self.temperature

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(logit(u) + logit(probs)) / temperature."""
        shape = self._extended_shape(sample_shape)
        probs, u = clamp_probs(self.probs.expand(shape)), clamp_probs(uniform(self.probs, shape))
        return (log(u) - log1p(-u) + log(probs) - log1p(-probs)) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        """log(temperature) + d - 2 log(1 + exp(d)), d = logits - temperature value."""
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        d = logits - value * self.temperature
        return log(self.temperature) + d - 2 * F.softplus(d)


class RelaxedBernoulli(TransformedDistribution):
    """A number from 0 to 1, the nearer to a Bernoulli number the lower the temperature."""

    arg_constraints = parameters(probs=constraints.unit_interval, logits=constraints.real)
    support = constraints.unit_interval
    base_dist: LogitRelaxedBernoulli

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ):
        super().__init__(LogitRelaxedBernoulli(temperature, probs, logits), SigmoidTransform(), validate_args)

    @property
    def temperature(self) -> Tensor:
        """How smooth it is."""
        return self.base_dist.temperature

    @property
    def logits(self) -> Tensor:
        """log(probs / (1 - probs))."""
        return self.base_dist.logits

    @property
    def probs(self) -> Tensor:
        """The probability of success."""
        return self.base_dist.probs

    def __repr__(self) -> str:
        return Distribution.__repr__(self)


class ExpRelaxedCategorical(Distribution):
    """The logarithm of a relaxed vector of classes: logits and Gumbel noise over the temperature, normalised."""

    arg_constraints = parameters(probs=constraints.simplex, logits=constraints.real_vector)
    support = constraints.real_vector
    has_rsample = True
    temperature: Tensor

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ):
        self.temperature, self._categorical = _temperature(temperature), Categorical(probs, logits)
        shape = self._categorical.param_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Distribution:
        """The same distributions, repeated to another batch shape."""
        new = self._get_checked_instance(_instance)
        new.temperature, new._categorical = self.temperature, self._categorical.expand(batch_shape)
        Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def param_shape(self) -> Size:
        """The shape of the parameter that was given."""
        return self._categorical.param_shape

    @property
    def logits(self) -> Tensor:
        """log(probs)."""
        return self._categorical.logits

    @property
    def probs(self) -> Tensor:
        """Probabilities of the classes."""
        return self._categorical.probs

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """log softmax((logits - log(-log(u))) / temperature)."""
        u = clamp_probs(uniform(self.logits, self._extended_shape(sample_shape)))
        scores = (self.logits - log(-log(u))) / self.temperature
        return scores - logsumexp(scores, -1, keepdim=True)

    def log_prob(self, value: Tensor) -> Tensor:
        """log((K - 1)!) + (K - 1) log(temperature) + Σ log softmax(logits - temperature value)."""
        if self._validate_args:
            self._validate_sample(value)
        k = self._categorical._num_events
        logits, value = broadcast_all(self.logits, value)
        score = logits - value * self.temperature
        found = (score - logsumexp(score, -1, keepdim=True)).sum(-1)
        return found + math.lgamma(k) + (k - 1) * log(self.temperature)


class RelaxedOneHotCategorical(TransformedDistribution):
    """A vector of probabilities, the nearer to a class the lower the temperature."""

    arg_constraints = parameters(probs=constraints.simplex, logits=constraints.real_vector)
    support = constraints.simplex
    base_dist: ExpRelaxedCategorical

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ):
        base = ExpRelaxedCategorical(temperature, probs, logits, validate_args=validate_args)
        super().__init__(base, ExpTransform(), validate_args)

    @property
    def temperature(self) -> Tensor:
        """How smooth it is."""
        return self.base_dist.temperature

    @property
    def logits(self) -> Tensor:
        """log(probs)."""
        return self.base_dist.logits

    @property
    def probs(self) -> Tensor:
        """Probabilities of the classes."""
        return self.base_dist.probs

    def __repr__(self) -> str:
        return Distribution.__repr__(self)


class LogisticNormal(TransformedDistribution):
    """Probabilities of one class more than there are normal numbers, by breaking a stick."""

    arg_constraints = parameters(loc=constraints.real, scale=constraints.positive)
    support = constraints.simplex
    base_dist: Any

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None):
        base: Distribution = Normal(loc, scale, validate_args=validate_args)
        base = base if base.batch_shape else base.expand((1,))
        super().__init__(base, StickBreakingTransform(), validate_args)

    @property
    def loc(self) -> Tensor:
        """The means."""
        found: Tensor = self.base_dist.base_dist.loc
        return found

    @property
    def scale(self) -> Tensor:
        """The standard deviations."""
        found: Tensor = self.base_dist.base_dist.scale
        return found

    def __repr__(self) -> str:
        return Distribution.__repr__(self)


class ContinuousBernoulli(_Binary, ExponentialFamily):
    """Numbers from 0 to 1 with density ∝ probs^x (1 - probs)^(1 - x).

    For `probs` between `lims` what is 0 / 0 at 1/2 is taken from its Taylor series.
    """

    arg_constraints = parameters(probs=constraints.unit_interval, logits=constraints.real)
    support = constraints.unit_interval
    has_rsample = True
    _mean_carrier_measure = 0

    def __init__(
        self,
        probs: Any = None,
        logits: Any = None,
        lims: tuple[float, float] = (0.499, 0.501),
        validate_args: bool | None = None,
    ):
        given = self._parameters(probs, logits)
        self._lims = lims
        super().__init__(given.shape, validate_args=validate_args)
        if probs is not None:  # after the check
            self.probs = clamp_probs(self.probs)

    def _expand_into(self, new: Any, batch_shape: Size) -> None:
        super()._expand_into(new, batch_shape)
        new._lims = self._lims

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def _log_normalizer(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """log((exp(x) - 1) / x); near 0 its Taylor series."""
        low, high = self._lims[0] - 0.5, self._lims[1] - 0.5
        far = (x <= low) | (x > high)
        safe = where(far, x, low)
        series = 0.5 * x + x.pow(2) / 24.0 - x.pow(4) / 2880.0
        return where(far, log(expm1(safe).abs()) - log(safe.abs()), series)

    def _far(self) -> tuple[Tensor, Tensor]:
        """Where `probs` is not near 1/2, and a probability that is so everywhere."""
        low, high = self._lims
        far = (self.probs <= low) | (self.probs > high)
        return far, where(far, self.probs, low)

    def _log_norm(self) -> Tensor:
        """The logarithm of what makes the integral 1: 2 atanh(1 - 2p) / (1 - 2p)."""
        far, p = self._far()
        found = log((log1p(-p) - log(p)).abs()) - log((1 - 2 * p).abs())
        x = (self.probs - 0.5).pow(2)
        return where(far, found, math.log(2.0) + (4.0 / 3.0 + 104.0 / 45.0 * x) * x)

    @property
    def mean(self) -> Tensor:
        """p / (2p - 1) + 1 / (log(1 - p) - log(p))."""
        far, p = self._far()
        x = self.probs - 0.5
        near = 0.5 + (1.0 / 3.0 + 16.0 / 45.0 * x.pow(2)) * x
        return where(far, p / (2 * p - 1) + 1 / (log1p(-p) - log(p)), near)

    @property
    def variance(self) -> Tensor:
        """p (p - 1) / (1 - 2p)² + 1 / (log(1 - p) - log(p))²."""
        far, p = self._far()
        x = (self.probs - 0.5).pow(2)
        near = 1.0 / 12.0 - (1.0 / 15.0 - 128.0 / 945.0 * x) * x
        return where(far, p * (p - 1) / (1 - 2 * p).pow(2) + 1 / (log1p(-p) - log(p)).pow(2), near)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The quantile of a uniform number."""
        return self.icdf(uniform(self.probs, self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """value log(p) + (1 - value) log(1 - p), and the norm."""
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        return self._log_norm() - F.binary_cross_entropy_with_logits(logits, value, reduction="none")

    def cdf(self, value: Tensor) -> Tensor:
        """(p^x (1 - p)^(1 - x) + p - 1) / (2p - 1)."""
        if self._validate_args:
            self._validate_sample(value)
        far, p = self._far()
        found = (exp(value * log(p) + (1 - value) * log1p(-p)) + p - 1) / (2 * p - 1)
        return where(far, found, value).clamp(min=0.0, max=1.0)

    def icdf(self, value: Tensor) -> Tensor:
        """(log(1 - p + value (2p - 1)) - log(1 - p)) / (log(p) - log(1 - p))."""
        far, p = self._far()
        found = (log1p(-p + value * (2 * p - 1)) - log1p(-p)) / (log(p) - log1p(-p))
        return where(far, found, value)

    def entropy(self) -> Tensor:
        """mean (log(1 - p) - log(p)) - log(1 - p), less the norm."""
        less, more = log1p(-self.probs), log(self.probs)
        return self.mean * (less - more) - self._log_norm() - less
