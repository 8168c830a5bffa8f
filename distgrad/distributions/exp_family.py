"""Exponential families: densities h(x) exp(θ · t(x) - F(θ)), whose entropies and divergences follow from F alone."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.drivers import grad
from distgrad.distributions.distribution import Distribution
from distgrad.tensor import Tensor


class ExponentialFamily(Distribution):
    """A distribution that tells its natural parameters θ, its log normalizer F, and the mean of log h.

    A derived class has `_natural_params`, a tuple of tensors, `_log_normalizer(*natural_params)`, and
    `_mean_carrier_measure`.
    """

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def _mean_carrier_measure(self) -> float:
        raise NotImplementedError

    def _normalized(self) -> tuple[list[Tensor], Tensor, tuple[Any, ...]]:
        """(θ, F(θ), the gradient of F there), which is the mean of t."""
        params = [p.detach().requires_grad_() for p in self._natural_params]
        normalizer = self._log_normalizer(*params)
        return params, normalizer, grad(normalizer.sum(), params, create_graph=True)

    def entropy(self) -> Tensor:
        """F(θ) - θ · ∇F(θ) less the mean of log h."""
        params, normalizer, means = self._normalized()
        result = normalizer - self._mean_carrier_measure
        for p, mean in zip(params, means, strict=True):
            result = result - (p * mean).reshape((*self._batch_shape, -1)).sum(-1)
        return result
