"""NegativeBinomial: failures, or successes, that come before so many of the others."""

from __future__ import annotations

from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.discrete import _Binary
from distgrad.distributions.distribution import parameters
from distgrad.distributions.gamma import standard_gamma
from distgrad.distributions.utils import broadcast_all, uniform
from distgrad.ops.activations import logsigmoid
from distgrad.ops.compare import where
from distgrad.ops.pointwise import exp
from distgrad.ops.probability import _poisson_quantile
from distgrad.ops.special import lgamma, sigmoid
from distgrad.record import no_grad
from distgrad.tensor import Tensor


class NegativeBinomial(_Binary):
    """The number of successes, each with probability `probs`, before `total_count` failures, whole or not."""

    arg_constraints = parameters(
        total_count=constraints.greater_than_eq(0),
        probs=constraints.half_open_interval(0.0, 1.0),
        logits=constraints.real,
    )
    support = constraints.nonnegative_integer
    total_count: Tensor

    def __init__(
        self, total_count: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ):
        given = self._parameters(probs, logits)
        count, given = broadcast_all(total_count, given)
        self.total_count = count.type_as(given)
        setattr(self, "logits" if probs is None else "probs", given)
        super().__init__(given.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """total_count probs / (1 - probs)."""
        return self.total_count * exp(self.logits)

    @property
    def mode(self) -> Tensor:
        """The largest whole number up to (total_count - 1) probs / (1 - probs), or 0."""
        return ((self.total_count - 1) * exp(self.logits)).floor().clamp(min=0.0)

    @property
    def variance(self) -> Tensor:
        """mean / (1 - probs)."""
        return self.mean / sigmoid(-self.logits)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A Poisson number whose rate is a sample of Gamma(total_count, (1 - probs) / probs)."""
        with no_grad():
            shape = self._extended_shape(sample_shape)
            count, odds = self.total_count.double(), exp(self.logits.double())
            rate = standard_gamma(count, shape) * odds.expand(shape)
            return _poisson_quantile(rate, uniform(count, shape, double=True)).to(self.total_count.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """n log(1 - p) + value log(p) + log(Γ(n + value) / (value! Γ(n)))."""
        if self._validate_args:
            self._validate_sample(value)
        n = self.total_count
        ways = lgamma(n + value) - lgamma(1.0 + value) - lgamma(n)
        ways = where(n + value == 0.0, 0.0, ways)
        return n * logsigmoid(-self.logits) + value * logsigmoid(self.logits) + ways
