"""Distributions against SciPy's densities and quantiles, and their divergences against integrals."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

import distgrad
from distgrad.session import door
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

ONES = {  # (parameters, SciPy's distribution)
    "HalfCauchy": ((2.0,), stats.halfcauchy(scale=2)),
    "Weibull": ((2.0, 3.0), stats.weibull_min(3, scale=2)),
    "Pareto": ((2.0, 3.0), stats.pareto(3, scale=2)),
    "GeneralizedPareto": ((1.0, 2.0, 0.3), stats.genpareto(0.3, loc=1, scale=2)),
    "InverseGamma": ((3.0, 2.0), stats.invgamma(3, scale=2)),
    "FisherSnedecor": ((5.0, 7.0), stats.f(5, 7)),
    "NegativeBinomial": ((3.0, 0.4), stats.nbinom(3, 0.6)),
    "VonMises": ((0.5, 2.0), stats.vonmises(2, loc=0.5)),
    "Normal": ((0.5, 2.0), stats.norm(0.5, 2)),
    "Uniform": ((0.2, 0.7), stats.uniform(0.2, 0.5)),
    "Beta": ((2.0, 3.0), stats.beta(2, 3)),
    "Exponential": ((2.0,), stats.expon(scale=0.5)),
    "Gamma": ((2.0, 3.0), stats.gamma(2, scale=1 / 3)),
    "Gumbel": ((0.3, 2.0), stats.gumbel_r(0.3, 2)),
}
NEW = list(ONES)[:8]


def make(torch: ModuleType, name: str, grad: bool = False) -> Any:
    given = [torch.tensor(p, dtype=torch.float64, requires_grad=grad) for p in ONES[name][0]]
    return getattr(torch.distributions, name)(*given), given


@pytest.mark.parametrize("name", NEW)
def test_densities_and_moments(name: str) -> None:
    torch, other = distgrad, ONES[name][1]
    d, _ = make(torch, name)
    discrete = name == "NegativeBinomial"
    x = np.array([0.0, 2, 5]) if discrete else other.ppf([0.05, 0.3, 0.6, 0.95])
    density = other.logpmf(x) if discrete else other.logpdf(x)
    np.testing.assert_allclose(d.log_prob(torch.tensor(x)).numpy(), density, rtol=1e-7, atol=1e-9)
    if name == "VonMises":  # of angles
        assert d.variance.item() == pytest.approx(1 - special.iv(1, 2.0) / special.iv(0, 2.0), rel=1e-9)
        return
    np.testing.assert_allclose([d.mean.item(), d.variance.item()], [other.mean(), other.var()], rtol=1e-9)
    if name in ("FisherSnedecor", "NegativeBinomial"):
        return
    np.testing.assert_allclose(d.entropy().item(), other.entropy(), rtol=1e-6)
    np.testing.assert_allclose(d.cdf(torch.tensor(x)).numpy(), other.cdf(x), rtol=1e-9)
    if name != "InverseGamma":
        np.testing.assert_allclose(d.icdf(d.cdf(torch.tensor(x))).numpy(), x, rtol=1e-9)


def test_kumaraswamy_and_continuous_bernoulli() -> None:
    """By integrals over their densities, which their distribution functions must match too."""
    torch = distgrad
    grid = (np.arange(200_000) + 0.5) / 200_000
    x = torch.tensor(grid)
    near, far = (torch.tensor(p, dtype=torch.float64) for p in (0.5003, 0.3))
    a, b = (torch.tensor(p, dtype=torch.float64) for p in (2.0, 3.0))
    D = torch.distributions
    for d in (D.Kumaraswamy(a, b), D.ContinuousBernoulli(far), D.ContinuousBernoulli(near)):
        density = d.log_prob(x).exp().numpy()
        mean = (grid * density).mean()
        assert density.mean() == pytest.approx(1, abs=1e-6)
        assert d.mean.item() == pytest.approx(mean, rel=1e-5)
        assert d.variance.item() == pytest.approx(((grid - mean) ** 2 * density).mean(), rel=1e-5)
        assert d.entropy().item() == pytest.approx(-(density * np.log(density)).mean(), abs=1e-5)
        np.testing.assert_allclose(
            d.cdf(x).numpy()[999::9999], np.cumsum(density)[999::9999] / 200_000, atol=2e-4
        )
        u = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        np.testing.assert_allclose(d.cdf(d.icdf(u)).numpy(), u.numpy(), rtol=1e-3)
    assert D.Kumaraswamy(a, b).mode.item() == pytest.approx(math.sqrt(0.2))


@pytest.mark.parametrize("name", NEW)
def test_samples(name: str) -> None:
    door.shutdown()
    door.attach(InProcess(3, Worker), inline_bytes=0, shard_bytes=1 << 13)
    torch = distgrad
    torch.manual_seed(1)
    d, given = make(torch, name, True)
    shape = (20_000,)
    x = d.rsample(shape) if d.has_rsample else d.sample(shape)
    values = x.detach().numpy()
    found = [(values <= q).mean() for q in ONES[name][1].ppf([0.2, 0.5, 0.8])]
    np.testing.assert_allclose(found, ONES[name][1].cdf(ONES[name][1].ppf([0.2, 0.5, 0.8])), atol=0.015)
    if d.has_rsample:
        x.clamp(max=10).mean().backward()
        assert all(np.isfinite(p.grad.numpy()).all() for p in given)
    door.shutdown()


PAIRS = [
    *((p, "Exponential") for p in ("Beta", "Pareto", "Uniform")),
    *((p, "Normal") for p in ("Beta", "Exponential", "Gamma", "Gumbel", "Pareto")),
    *((p, "Gamma") for p in ("Beta", "Pareto", "Uniform", "Exponential")),
    *((p, "Gumbel") for p in ("Exponential", "Gamma", "Normal", "Uniform")),
    *(
        ("Uniform", "Beta"),
        ("Weibull", "Weibull"),
        ("HalfCauchy", "HalfCauchy"),
        ("InverseGamma", "InverseGamma"),
    ),
]


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_divergences(p: str, q: str) -> None:
    """Means over quantiles of p."""
    torch = distgrad
    D, wide = torch.distributions, 1.3
    mine, _ = make(torch, p)
    given = [torch.tensor(v * wide, dtype=torch.float64) for v in ONES[q][0]]
    other = getattr(D, q)(*given)
    u = (np.arange(400_000) + 0.5) / 400_000
    x = torch.tensor(ONES[p][1].ppf(u))
    apart = (mine.log_prob(x) - other.log_prob(x)).mean().item()
    assert D.kl_divergence(mine, other).item() == pytest.approx(apart, rel=5e-3, abs=1e-3)


def test_divergences_that_are_infinite() -> None:
    torch = distgrad
    for p, q in (("Normal", "Gamma"), ("Exponential", "Uniform"), ("Pareto", "Beta"), ("Gumbel", "Pareto")):
        assert torch.distributions.kl_divergence(make(torch, p)[0], make(torch, q)[0]).item() == math.inf
    assert (
        torch.distributions.kl_divergence(make(torch, "Uniform")[0], make(torch, "Pareto")[0]).item()
        == math.inf
    )


def test_mixtures(anywhere: ModuleType) -> None:
    torch = anywhere
    D, weights = torch.distributions, [0.2, 0.3, 0.5]
    loc, scale = [-1.0, 0.0, 2.0], [0.5, 1.0, 0.3]
    centres = torch.tensor(loc, requires_grad=True)
    d = D.MixtureSameFamily(D.Categorical(torch.tensor(weights)), D.Normal(centres, torch.tensor(scale)))
    x = np.linspace(-3, 3, 7)
    parts = list(zip(weights, loc, scale, strict=True))
    density = sum(w * stats.norm(m, s).pdf(x) for w, m, s in parts)
    below = sum(w * stats.norm(m, s).cdf(x) for w, m, s in parts)
    values = torch.tensor(x, dtype=torch.float32)
    np.testing.assert_allclose(d.log_prob(values).detach().numpy(), np.log(density), rtol=1e-5)
    np.testing.assert_allclose(d.cdf(values).detach().numpy(), below, rtol=1e-4)
    assert (d.mean.item(), d.variance.item()) == pytest.approx((0.8, 1.955), rel=1e-6)
    d.log_prob(values).sum().backward()
    slope = sum(w * stats.norm(m, s).pdf(x) * (x - m) / s**2 * (m == -1) for w, m, s in parts) / density
    assert centres.grad[0].item() == pytest.approx(slope.sum(), rel=1e-5)
    vectors = D.MixtureSameFamily(
        D.Categorical(logits=torch.zeros(3, 2)),
        D.Independent(D.Normal(torch.arange(12.0).view(3, 2, 2), torch.ones(3, 2, 2)), 1),
    )
    assert (vectors.batch_shape, vectors.event_shape) == ((3,), (2,))
    assert vectors.sample((4,)).shape == (4, 3, 2)
    assert vectors.mean.tolist() == [[1, 2], [5, 6], [9, 10]]
    assert vectors.log_prob(torch.ones(3, 2)).shape == (3,)
    drawn = d.expand((2,)).sample((3000,)).numpy()
    assert drawn.shape == (3000, 2)
    np.testing.assert_allclose((drawn < 0).mean(), below[3], atol=0.03)
    with pytest.raises(
        ValueError, match=r"`mixture_distribution component` \(3\) does not equal `component_dist"
    ):
        D.MixtureSameFamily(D.Categorical(torch.ones(3)), D.Normal(torch.zeros(2), 1.0))


def test_relaxed_distributions(anywhere: ModuleType) -> None:
    """Densities after Maddison and others (2017); at a low temperature nearly all values are at the ends."""
    torch = anywhere
    D, t, p = torch.distributions, 0.7, 0.3
    d = D.RelaxedBernoulli(torch.tensor(t), probs=torch.tensor(p, requires_grad=True))
    x = np.array([0.1, 0.5, 0.8])
    alpha = p / (1 - p)
    density = t * alpha * x ** (-t - 1) * (1 - x) ** (-t - 1) / (alpha * x**-t + (1 - x) ** -t) ** 2
    values = torch.tensor(x, dtype=torch.float32)
    np.testing.assert_allclose(d.log_prob(values).detach().exp().numpy(), density, rtol=1e-4)
    near = D.RelaxedBernoulli(torch.tensor(0.01), probs=torch.tensor(p)).rsample((500,))
    assert near.mean().item() == pytest.approx(p, abs=0.1)
    probs = np.array([0.2, 0.3, 0.5])
    many = D.RelaxedOneHotCategorical(torch.tensor(t), probs=torch.tensor(probs, dtype=torch.float32))
    x = np.array([0.1, 0.6, 0.3])
    terms = probs * x ** (-t - 1)
    density = math.factorial(2) * t**2 * terms.prod() / (probs * x**-t).sum() ** 3
    found = many.log_prob(torch.tensor(x, dtype=torch.float32)).exp().item()
    assert found == pytest.approx(density, rel=1e-4)
    drawn = many.rsample((5,))
    np.testing.assert_allclose(drawn.sum(-1).numpy(), np.ones(5), rtol=1e-5)
    assert D.LogisticNormal(torch.zeros(2), torch.ones(2)).sample((4,)).shape == (4, 3)
