"""Entropies and divergences that follow from the log normalizer, against closed forms; and a user's own family."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def values(torch: ModuleType, *numbers: float) -> Any:
    return torch.tensor(numbers, dtype=torch.float64)


FAMILIES: dict[str, Callable[[ModuleType, float], Any]] = {
    "Normal": lambda t, s: t.distributions.Normal(values(t, 0.3, -1.0) + s, values(t, 0.5, 2.0)),
    "Bernoulli": lambda t, s: t.distributions.Bernoulli(logits=values(t, 0.3, -1.0) + s),
    "ContinuousBernoulli": lambda t, s: t.distributions.ContinuousBernoulli(logits=values(t, 0.3, -1.0) + s),
    "Gamma": lambda t, s: t.distributions.Gamma(values(t, 0.6, 2.5) + s, values(t, 0.7, 1.5)),
    "Beta": lambda t, s: t.distributions.Beta(values(t, 0.6, 2.5) + s, values(t, 0.7, 1.5)),
    "Dirichlet": lambda t, s: t.distributions.Dirichlet(values(t, 0.6, 2.5, 1.0) + s),
    "Exponential": lambda t, s: t.distributions.Exponential(values(t, 0.6, 2.5) + s),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_follows_from_the_normalizer(anywhere: ModuleType, name: str) -> None:
    torch = anywhere
    family = torch.distributions.ExponentialFamily
    p, q = (FAMILIES[name](torch, shift) for shift in (0.0, 0.25))
    assert isinstance(p, family)
    if name in ("Beta", "Dirichlet"):  # which do not tell the mean of their carrier, as in torch
        with pytest.raises(NotImplementedError):
            family.entropy(p)
    else:
        np.testing.assert_allclose(family.entropy(p).tolist(), p.entropy().tolist(), rtol=1e-9)
    rule = torch.distributions.kl._rules[family, family]
    np.testing.assert_allclose(
        rule(p, q).tolist(), torch.distributions.kl_divergence(p, q).tolist(), rtol=1e-9
    )


def test_wishart_and_poisson_are_families(anywhere: ModuleType) -> None:
    torch = anywhere
    family = torch.distributions.ExponentialFamily
    p, q = (
        torch.distributions.Wishart(df, torch.eye(2, dtype=torch.float64) * s)
        for df, s in ((3.0, 1.0), (4.5, 0.5))
    )
    rule = torch.distributions.kl._rules[family, family]
    np.testing.assert_allclose(rule(p, p).tolist(), 0, atol=1e-12)
    assert rule(p, q).item() > 0
    with pytest.raises(NotImplementedError):
        torch.distributions.Poisson(values(torch, 3.0)).entropy()


def test_a_family_of_the_users_own(anywhere: ModuleType) -> None:
    torch = anywhere

    class Waiting(torch.distributions.ExponentialFamily):  # type: ignore[name-defined, misc]
        """Exponential waiting times."""

        _mean_carrier_measure = 0

        def __init__(self, rate: Any):
            self.rate = rate
            super().__init__(rate.shape, validate_args=False)

        @property
        def _natural_params(self) -> Any:
            return (-self.rate,)

        def _log_normalizer(self, x: Any) -> Any:
            return -torch.log(-x)

    p, q = Waiting(values(torch, 0.5, 3.0)), Waiting(values(torch, 2.0, 1.0))
    np.testing.assert_allclose(p.entropy().tolist(), [1 - math.log(0.5), 1 - math.log(3)])
    want = [math.log(a / b) + b / a - 1 for a, b in ((0.5, 2.0), (3.0, 1.0))]
    np.testing.assert_allclose(torch.distributions.kl_divergence(p, q).tolist(), want)
    with pytest.raises(
        NotImplementedError, match="cross KL-divergence between different exponential families"
    ):
        torch.distributions.kl_divergence(p, torch.distributions.Normal(0.0, 1.0))
    with pytest.raises(NotImplementedError):
        torch.distributions.ExponentialFamily().entropy()
