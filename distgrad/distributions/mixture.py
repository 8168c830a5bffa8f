"""Mixtures of distributions of one family."""

from __future__ import annotations

from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.categorical import Categorical
from distgrad.distributions.distribution import Distribution
from distgrad.dtype import Size
from distgrad.ops.activations import log_softmax
from distgrad.ops.gathering import gather
from distgrad.ops.norms import logsumexp
from distgrad.record import no_grad
from distgrad.tensor import Tensor


class MixtureSameFamily(Distribution):
    """A value of one of the components, which are the last dimension of a batch; the first argument chooses which."""

    has_rsample = False

    def __init__(
        self,
        mixture_distribution: Categorical,
        component_distribution: Distribution,
        validate_args: bool | None = None,
    ):
        if not isinstance(mixture_distribution, Categorical):
            raise ValueError(
                " The Mixture distribution needs to be an  instance of torch.distributions.Categorical"
            )
        if not isinstance(component_distribution, Distribution):
            raise ValueError(
                "The Component distribution needs to be an instance of torch.distributions.Distribution"
            )
        mine, theirs = mixture_distribution.batch_shape, component_distribution.batch_shape
        for n, m in zip(reversed(mine), reversed(theirs[:-1]), strict=False):
            if n != 1 and m != 1 and n != m:
                raise ValueError(
                    f"`mixture_distribution.batch_shape` ({mine}) is not compatible with "
                    f"`component_distribution.batch_shape`({theirs[:-1]})"
                )
        count = mixture_distribution.param_shape[-1]
        if count != theirs[-1]:
            raise ValueError(
                f"`mixture_distribution component` ({count}) does not equal "
                f"`component_distribution.batch_shape[-1]` ({theirs[-1]})"
            )
        self.mixture_distribution, self.component_distribution = mixture_distribution, component_distribution
        super().__init__(theirs[:-1], component_distribution.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Distribution:
        """The same mixtures, repeated to another batch shape."""
        new, batch_shape = self._get_checked_instance(_instance), Size(batch_shape)
        count = self.mixture_distribution.param_shape[-1]
        new.component_distribution = self.component_distribution.expand((*batch_shape, count))
        new.mixture_distribution = self.mixture_distribution.expand(batch_shape)
        Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args, new._validates_all = self._validate_args, self._validates_all
        return new

    @property
    def support(self) -> Any:
        """That of the components."""
        return constraints.MixtureSameFamilyConstraint(self.component_distribution.support)

    @property
    def _dim(self) -> int:
        """The dimension of the components."""
        return -1 - len(self.event_shape)

    def _weights(self) -> Tensor:
        """The probabilities of the components, as broadcast against their values."""
        probs = self.mixture_distribution.probs
        return probs.reshape((*probs.shape, *[1] * len(self.event_shape)))

    @property
    def mean(self) -> Tensor:
        """The mean of the components' means."""
        return (self._weights() * self.component_distribution.mean).sum(self._dim)

    @property
    def variance(self) -> Tensor:
        """The mean of the components' variances and the variance of their means."""
        of = self.component_distribution
        apart = of.mean - self.mean.unsqueeze(self._dim)
        return (self._weights() * (of.variance + apart.pow(2))).sum(self._dim)

    def cdf(self, x: Tensor) -> Tensor:
        """The mean of the components'."""
        found = self.component_distribution.cdf(x.unsqueeze(self._dim))
        return (found * self.mixture_distribution.probs).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """The logarithm of the mean of the components' densities."""
        if self._validate_args:
            self._validate_sample(x)
        found = self.component_distribution.log_prob(x.unsqueeze(self._dim))
        return logsumexp(found + log_softmax(self.mixture_distribution.logits, -1), -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A value of each component, of which one is chosen."""
        with no_grad():
            events = self.event_shape
            which = self.mixture_distribution.sample(sample_shape)
            values = self.component_distribution.sample(sample_shape)
            at = len(tuple(sample_shape)) + len(self.batch_shape)
            which = which.reshape((*which.shape, *[1] * (len(events) + 1)))
            which = which.expand((*values.shape[:at], 1, *events))
            return gather(values, at, which).squeeze(at)

    def __repr__(self) -> str:
        return f"MixtureSameFamily(\n  {self.mixture_distribution},\n  {self.component_distribution})"
