"""Distributions of counts: Bernoulli, Binomial, Geometric, Poisson."""

from __future__ import annotations

import math
from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.distribution import Distribution, parameters
from distgrad.distributions.exp_family import ExponentialFamily
from distgrad.distributions.utils import (
    broadcast_all,
    lazy_property,
    logits_to_probs,
    probs_to_logits,
    tiny,
    uniform,
)
from distgrad.dtype import Size
from distgrad.nn import functional as F
from distgrad.ops.compare import where
from distgrad.ops.making import arange, full_like
from distgrad.ops.pointwise import exp, log, log1p
from distgrad.ops.probability import _binomial_quantile, _poisson_quantile, xlogy
from distgrad.ops.special import lgamma
from distgrad.record import no_grad
from distgrad.tensor import Tensor


class _Binary(Distribution):
    """Trials with a probability of success, given as `probs` or as `logits`."""

    def _parameters(self, probs: Any, logits: Any) -> Tensor:
        """The one that was given."""
        if (probs is None) == (logits is None):
            raise ValueError("Either `probs` or `logits` must be specified, but not both.")
        if probs is not None:
            (self.probs,) = broadcast_all(probs)
            return self.probs
        (self.logits,) = broadcast_all(logits)
        return self.logits

    @property
    def _param(self) -> Tensor:
        return self.__dict__["probs"] if "probs" in self.__dict__ else self.__dict__["logits"]

    @property
    def param_shape(self) -> Size:
        """The shape of the parameter that was given."""
        return self._param.shape

    @lazy_property
    def logits(self) -> Tensor:
        """log(probs / (1 - probs))."""
        return probs_to_logits(self.probs, is_binary=True)

    @lazy_property
    def probs(self) -> Tensor:
        """1 / (1 + exp(-logits))."""
        return logits_to_probs(self.logits, is_binary=True)


class Bernoulli(_Binary, ExponentialFamily):
    """1 with probability `probs`, else 0."""

    _mean_carrier_measure = 0
    arg_constraints = parameters(probs=constraints.unit_interval, logits=constraints.real)
    support = constraints.boolean
    has_enumerate_support = True

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None):
        super().__init__(self._parameters(probs, logits).shape, validate_args=validate_args)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def _log_normalizer(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return log1p(exp(x))

    @property
    def mean(self) -> Tensor:
        """`probs`."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """The likelier of 0 and 1; nan at 1/2."""
        return where(self.probs == 0.5, math.nan, (self.probs >= 0.5).to(self.probs.dtype))

    @property
    def variance(self) -> Tensor:
        """probs (1 - probs)."""
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Zeros and ones in the dtype of the parameter."""
        with no_grad():
            shape = self._extended_shape(sample_shape)
            return (uniform(self.probs, shape) < self.probs).to(self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """value log(probs) + (1 - value) log(1 - probs)."""
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        return -F.binary_cross_entropy_with_logits(logits, value.to(logits.dtype), reduction="none")

    def entropy(self) -> Tensor:
        """-p log(p) - (1 - p) log(1 - p)."""
        return F.binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """0 and 1."""
        return _enumerated(self, 2, self._param, expand)


def _enumerated(of: Distribution, count: int, like: Tensor, expand: bool) -> Tensor:
    values = arange(count, dtype=like.dtype).view((-1,) + (1,) * len(of.batch_shape))
    return values.expand((-1, *of.batch_shape)) if expand else values


class Binomial(_Binary):
    """The number of successes in `total_count` trials."""

    arg_constraints = parameters(
        total_count=constraints.nonnegative_integer,
        probs=constraints.unit_interval,
        logits=constraints.real,
    )
    has_enumerate_support = True

    def __init__(
        self, total_count: Any = 1, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ):
        given = self._parameters(probs, logits)
        count, given = broadcast_all(total_count, given)
        self.total_count = count.type_as(given)
        setattr(self, "logits" if probs is None else "probs", given)
        super().__init__(given.shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """0 to total_count."""
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        """total_count probs."""
        return self.total_count * self.probs

    @property
    def mode(self) -> Tensor:
        """The largest whole number below (total_count + 1) probs, at most total_count."""
        return ((self.total_count + 1) * self.probs).floor().minimum(self.total_count)

    @property
    def variance(self) -> Tensor:
        """total_count probs (1 - probs)."""
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The quantile of a uniform number."""
        with no_grad():
            shape = self._extended_shape(sample_shape)
            n, p = self.total_count.double().expand(shape), self.probs.double().expand(shape)
            return _binomial_quantile(n, p, uniform(p, shape, double=True)).to(self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """log(n over value) + value logits - n log(1 + exp(logits))."""
        if self._validate_args:
            self._validate_sample(value)
        n = self.total_count
        ways = lgamma(n + 1) - lgamma(value + 1) - lgamma(n - value + 1)
        above = self.logits.clamp(min=0)
        return ways + value * self.logits - n * (above + log1p(exp(-self.logits.abs())))

    def entropy(self) -> Tensor:
        """The sum over the support; all must have as many trials."""
        n = int(self.total_count.max())
        if not (self.total_count == n).all():
            raise NotImplementedError("Inhomogeneous total count not supported by `entropy`.")
        log_prob = self.log_prob(self.enumerate_support(False))
        return -(exp(log_prob) * log_prob).sum(0)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """0 to total_count, of which all must have the same."""
        n = int(self.total_count.max())
        if not (self.total_count == n).all():
            raise NotImplementedError("Inhomogeneous total count not supported by `enumerate_support`.")
        return _enumerated(self, n + 1, self._param, expand)


class Geometric(_Binary):
    """The number of failures before the first success."""

    arg_constraints = parameters(probs=constraints.unit_interval, logits=constraints.real)
    support = constraints.nonnegative_integer

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None):
        super().__init__(self._parameters(probs, logits).shape, validate_args=validate_args)
        if self._validate_args and probs is not None and self._can_check(self.probs):
            valid = self.probs > 0
            if not valid.all():
                raise ValueError(
                    f"Expected parameter probs ({type(self.probs).__name__} of shape {tuple(self.probs.shape)}) of "
                    f"distribution {self!r} to be positive but found invalid values:\n{self.probs[~valid]}"
                )

    @property
    def mean(self) -> Tensor:
        """1 / probs - 1."""
        return 1 / self.probs - 1

    @property
    def mode(self) -> Tensor:
        """0."""
        return full_like(self.probs, 0)

    @property
    def variance(self) -> Tensor:
        """(1 / probs - 1) / probs."""
        return (1 / self.probs - 1) / self.probs

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The quantile of a uniform number."""
        with no_grad():
            u = uniform(self.probs, self._extended_shape(sample_shape)).clamp(min=tiny(self.probs))
            return (log(u) / log1p(-self.probs)).floor()

    def log_prob(self, value: Tensor) -> Tensor:
        """value log(1 - probs) + log(probs)."""
        if self._validate_args:
            self._validate_sample(value)
        value, probs = broadcast_all(value, self.probs)
        safe = where((probs == 1) & (value == 0), 0.0, probs)
        return value * log1p(-safe) + log(self.probs)

    def entropy(self) -> Tensor:
        """That of one trial, over the probability of success."""
        return F.binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none") / self.probs


class Poisson(ExponentialFamily):
    """Counts with mean `rate`."""

    arg_constraints = parameters(rate=constraints.nonnegative)
    support = constraints.nonnegative_integer

    def __init__(self, rate: Any, validate_args: bool | None = None):
        (self.rate,) = broadcast_all(rate)
        super().__init__(self.rate.shape, validate_args=validate_args)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (log(self.rate),)

    def _log_normalizer(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return exp(x)

    @property
    def mean(self) -> Tensor:
        """`rate`."""
        return self.rate

    @property
    def mode(self) -> Tensor:
        """The largest whole number up to `rate`."""
        return self.rate.floor()

    @property
    def variance(self) -> Tensor:
        """`rate`."""
        return self.rate

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The quantile of a uniform number."""
        with no_grad():
            shape = self._extended_shape(sample_shape)
            rate = self.rate.double().expand(shape)
            return _poisson_quantile(rate, uniform(rate, shape, double=True)).to(self.rate.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """value log(rate) - rate - log(value!)."""
        if self._validate_args:
            self._validate_sample(value)
        rate, value = broadcast_all(self.rate, value)
        return xlogy(value, rate) - rate - lgamma(value + 1)
