"""Distributions of classes: Categorical, as numbers or as vectors with a 1, and Multinomial."""

from __future__ import annotations

import math
from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.discrete import Binomial
from distgrad.distributions.distribution import Distribution, parameters
from distgrad.distributions.utils import (
    broadcast_all,
    lazy_property,
    logits_to_probs,
    normalised,
    probs_to_logits,
    uniform,
)
from distgrad.dtype import Size, finfo
from distgrad.nn import functional as F
from distgrad.ops.compare import where
from distgrad.ops.making import arange
from distgrad.ops.pointwise import exp
from distgrad.ops.special import lgamma
from distgrad.primitives.elementwise import broadcast_shape
from distgrad.record import no_grad
from distgrad.tensor import Tensor


class Categorical(Distribution):
    """A class from 0 on, with probabilities ∝ `probs` or exp(`logits`) along the last dimension."""

    arg_constraints = parameters(probs=constraints.simplex, logits=constraints.real_vector)
    has_enumerate_support = True

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None):
        if (probs is None) == (logits is None):
            raise ValueError("Either `probs` or `logits` must be specified, but not both.")
        name, given = ("logits", logits) if probs is None else ("probs", probs)
        if given.dim() < 1:
            raise ValueError(f"`{name}` parameter must be at least one-dimensional.")
        if probs is not None:
            self.probs = probs / probs.sum(-1, keepdim=True)
        else:
            self.logits = normalised(logits)
        self._num_events = given.size(-1)
        super().__init__(given.shape[:-1], validate_args=validate_args)

    def _expand_into(self, new: Any, batch_shape: Size) -> None:
        super()._expand_into(new, batch_shape)
        new._num_events = self._num_events

    @property
    def _param(self) -> Tensor:
        return self.__dict__["probs"] if "probs" in self.__dict__ else self.__dict__["logits"]

    @property
    def support(self) -> Any:
        """0 to the number of classes - 1."""
        return constraints.integer_interval(0, self._num_events - 1)

    @lazy_property
    def logits(self) -> Tensor:
        """log(probs)."""
        return probs_to_logits(self.probs)

    @lazy_property
    def probs(self) -> Tensor:
        """softmax(logits)."""
        return logits_to_probs(self.logits)

    @property
    def param_shape(self) -> Size:
        """The shape of the parameter that was given."""
        return self._param.shape

    @property
    def mean(self) -> Tensor:
        """nan: classes are no numbers."""
        return self._param[..., 0] * math.nan

    variance = mean

    @property
    def mode(self) -> Tensor:
        """The likeliest class."""
        return self.probs.argmax(dim=-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The number of cumulative probabilities that do not exceed a uniform number."""
        with no_grad():
            shape = self._extended_shape(sample_shape)
            edges = self.probs.cumsum(-1)
            u = uniform(self.probs, (*shape, 1)) * edges[..., -1:]
            return (u >= edges[..., :-1]).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The class's logit."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.long().unsqueeze(-1)
        shape = (*broadcast_shape(value.shape[:-1], self.batch_shape), 1)
        logits = self.logits.expand((*shape[:-1], self._num_events))
        return logits.gather(-1, value.expand(shape)).squeeze(-1)

    def entropy(self) -> Tensor:
        """-Σ p log(p)."""
        return -(self.logits.clamp(min=finfo(self.logits.dtype).min) * self.probs).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All classes."""
        values = arange(self._num_events).view((-1,) + (1,) * len(self._batch_shape))
        return values.expand((-1, *self._batch_shape)) if expand else values


class OneHotCategorical(Distribution):
    """A class as a vector with a 1 at its place."""

    arg_constraints = parameters(probs=constraints.simplex, logits=constraints.real_vector)
    support = constraints.one_hot
    has_enumerate_support = True

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None):
        self._categorical = Categorical(probs, logits)
        shape = self._categorical.param_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Distribution:
        """The same distributions, repeated to another batch shape."""
        new = self._get_checked_instance(_instance)
        new._categorical = self._categorical.expand(batch_shape)
        Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def probs(self) -> Tensor:
        """Probabilities of the classes."""
        return self._categorical.probs

    @property
    def logits(self) -> Tensor:
        """Their logarithms."""
        return self._categorical.logits

    @property
    def param_shape(self) -> Size:
        """The shape of the parameter that was given."""
        return self._categorical.param_shape

    @property
    def mean(self) -> Tensor:
        """`probs`."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """The likeliest class."""
        return F.one_hot(self.probs.argmax(dim=-1), self.probs.shape[-1]).to(self.probs.dtype)

    @property
    def variance(self) -> Tensor:
        """probs (1 - probs)."""
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A class as a vector."""
        classes = self._categorical.sample(sample_shape)
        return F.one_hot(classes, self.event_shape[-1]).to(self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """The class's logit."""
        if self._validate_args:
            self._validate_sample(value)
        return self._categorical.log_prob(value.argmax(-1))

    def entropy(self) -> Tensor:
        """-Σ p log(p)."""
        return self._categorical.entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All classes."""
        n = self.event_shape[0]
        values = F.one_hot(arange(n), n).to(self.probs.dtype)
        values = values.view((n, *((1,) * len(self.batch_shape)), n))
        return values.expand((n, *self.batch_shape, n)) if expand else values


class OneHotCategoricalStraightThrough(OneHotCategorical):
    """One-hot vectors whose gradient is that of the probabilities (the straight-through estimator)."""

    has_rsample = True

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A class as a vector."""
        with no_grad():
            return OneHotCategorical.sample(self, sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A class as a vector, with the gradient of `probs`."""
        return self.sample(sample_shape) + (self.probs - self.probs.detach())


class Multinomial(Distribution):
    """How often each class comes in `total_count` draws."""

    arg_constraints = parameters(probs=constraints.simplex, logits=constraints.real_vector)
    total_count: int

    def __init__(
        self, total_count: int = 1, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ):
        if not isinstance(total_count, int):
            raise NotImplementedError("inhomogeneous total_count is not supported")
        self.total_count = total_count
        self._categorical = Categorical(probs, logits)
        shape = self._categorical.param_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Distribution:
        """The same distributions, repeated to another batch shape."""
        new = self._get_checked_instance(_instance)
        new.total_count, new._categorical = self.total_count, self._categorical.expand(batch_shape)
        Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def support(self) -> Any:
        """Counts that sum to total_count."""
        return constraints.multinomial(self.total_count)

    @property
    def probs(self) -> Tensor:
        """Probabilities of the classes."""
        return self._categorical.probs

    @property
    def logits(self) -> Tensor:
        """Their logarithms."""
        return self._categorical.logits

    @property
    def param_shape(self) -> Size:
        """The shape of the parameter that was given."""
        return self._categorical.param_shape

    @property
    def mean(self) -> Tensor:
        """total_count probs."""
        return self.probs * self.total_count

    @property
    def variance(self) -> Tensor:
        """total_count probs (1 - probs)."""
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts of `total_count` classes."""
        with no_grad():
            classes = self._categorical.sample((self.total_count, *sample_shape))
            return F.one_hot(classes, self.event_shape[-1]).sum(0).to(self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """log(n!) - Σ log(value!) + Σ value logits."""
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        logits = where((value == 0) & (logits == -math.inf), 0.0, logits)
        ways = lgamma(value.sum(-1) + 1) - lgamma(value + 1).sum(-1)
        return ways + (logits * value).sum(-1)

    def entropy(self) -> Tensor:
        """From the entropy of one draw and the binomial counts of each class."""
        n = self.total_count
        one = self._categorical.entropy()
        counts = Binomial(n, probs=self.probs).enumerate_support(expand=False)[1:]
        weights = exp(Binomial(n, probs=self.probs).log_prob(counts))
        return n * one - math.lgamma(n + 1) + (weights * lgamma(counts + 1)).sum((0, -1))
