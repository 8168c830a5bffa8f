"""Distributions of matrices and of low rank against SciPy; maps onto sets, whose derivatives are those of autograd."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

import distgrad

V = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 1.5]])
X = np.array([[3.0, 0.5, 0.1], [0.5, 2.0, 0.2], [0.1, 0.2, 2.5]])
W, D = np.arange(12.0).reshape(2, 3, 2) / 7 - 0.5, np.array([0.5, 1.0, 2.0])


def test_low_rank_is_the_full_one(anywhere: ModuleType) -> None:
    torch = anywhere
    dist = torch.distributions
    loc, w, d = (torch.tensor(a) for a in (np.arange(3.0), W, D))
    low = dist.LowRankMultivariateNormal(loc, w, d)
    covariance = W @ W.swapaxes(-1, -2) + np.diag(D)
    full = [stats.multivariate_normal(np.arange(3.0), c) for c in covariance]
    np.testing.assert_allclose(
        low.log_prob(loc * 1.5).numpy(), [f.logpdf(np.arange(3.0) * 1.5) for f in full], rtol=1e-10
    )
    np.testing.assert_allclose(low.entropy().numpy(), [f.entropy() for f in full], rtol=1e-10)
    np.testing.assert_allclose(low.precision_matrix.numpy(), np.linalg.inv(covariance), rtol=1e-9)
    np.testing.assert_allclose((low.scale_tril @ low.scale_tril.mT).numpy(), covariance, rtol=1e-10)
    other = dist.MultivariateNormal(loc + 1, covariance_matrix=torch.tensor(V))
    same = dist.MultivariateNormal(loc, covariance_matrix=torch.tensor(covariance))
    for p, q, one, two in ((low, other, same, other), (other, low, other, same), (low, low, same, same)):
        np.testing.assert_allclose(
            dist.kl_divergence(p, q).numpy(), dist.kl_divergence(one, two).numpy(), rtol=1e-9, atol=1e-12
        )
    assert low.rsample((4,)).shape == (4, 2, 3)
    with pytest.raises(ValueError, match="cov_factor must be a batch of matrices with shape 3 x m"):
        dist.LowRankMultivariateNormal(loc, w[:, :2], d)


@pytest.mark.parametrize("name", ["covariance_matrix", "precision_matrix", "scale_tril"])
def test_wishart(anywhere: ModuleType, name: str) -> None:
    torch = anywhere
    given = {
        "covariance_matrix": V,
        "precision_matrix": np.linalg.inv(V),
        "scale_tril": np.linalg.cholesky(V),
    }
    d = torch.distributions.Wishart(5.0, **{name: torch.tensor(given[name])})
    other = stats.wishart(5, V)
    assert d.log_prob(torch.tensor(X)).item() == pytest.approx(other.logpdf(X), rel=1e-9)
    assert d.entropy().item() == pytest.approx(other.entropy(), rel=1e-9)
    for ours, theirs in ((d.mean, other.mean()), (d.variance, other.var()), (d.mode, other.mode())):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9)
    drawn = d.rsample((800,))
    np.testing.assert_allclose(drawn.mean(0).numpy(), 5 * V, atol=0.8)
    assert d.support.check(drawn).all()
    with pytest.raises(ValueError, match=r"Value of df=1.0 expected to be greater than ndim - 1 = 2\."):
        torch.distributions.Wishart(1.0, torch.tensor(V))


def test_correlations(anywhere: ModuleType) -> None:
    torch = anywhere
    concentration = 1.7
    d = torch.distributions.LKJCholesky(2, torch.tensor(concentration, dtype=torch.float64))
    r = (np.arange(400) + 0.5) / 200 - 1
    zeros, ones = np.zeros(400), np.ones(400)
    factors = np.stack([ones, zeros, r, np.sqrt(1 - r**2)], -1).reshape(400, 2, 2)
    density = d.log_prob(torch.tensor(factors)).exp().numpy()
    norm = math.gamma(concentration + 0.5) / (math.gamma(concentration) * math.sqrt(math.pi))
    np.testing.assert_allclose(density, norm * (1 - r**2) ** (concentration - 1), rtol=1e-9)
    many = torch.distributions.LKJCholesky(3, torch.tensor([1.0, 4.0])).sample((500,))
    assert many.shape == (500, 2, 3, 3)
    found = (many @ many.mT).numpy()
    np.testing.assert_allclose(found.diagonal(axis1=-2, axis2=-1), np.ones((500, 2, 3)), rtol=1e-5)
    # The variance of a correlation is 1 / (2 concentration + dim - 1).
    np.testing.assert_allclose(found[:, :, 1, 0].var(0), [1 / 4, 1 / 10], rtol=0.25)


SETS = {
    "positive": (3,),
    "less_than(2.0)": (3,),
    "interval(1.0, 3.0)": (3,),
    "unit_interval": (3,),
    "simplex": (3,),
    "corr_cholesky": (6,),
    "independent(positive, 1)": (3,),
    "cat([positive, real], 0, [1, 2])": (3,),
    "stack([positive, unit_interval, real])": (3,),
}


@pytest.mark.parametrize("name", SETS)
def test_maps_onto_sets(name: str) -> None:
    torch = distgrad
    dist: Any = torch.distributions
    where = eval(name, dict(vars(dist.constraints)))
    t = dist.biject_to(where)
    x = torch.tensor(np.linspace(-1.2, 1.5, SETS[name][0]), requires_grad=True)
    y = t(x)
    assert where.check(y.detach()).all()
    np.testing.assert_allclose(t.inv(y).detach().numpy(), x.detach().numpy(), rtol=1e-6)
    jacobian = torch.autograd.functional.jacobian(t, x).numpy()
    if name == "simplex":  # the last number is what is left
        jacobian = jacobian[:-1]
    elif name == "corr_cholesky":
        jacobian = jacobian[np.tril_indices(4, -1)]
    expected = np.log(abs(np.linalg.det(jacobian.reshape(len(x), len(x)))))
    assert t.log_abs_det_jacobian(x, y).sum().item() == pytest.approx(expected, rel=1e-6)


def test_maps_that_forget(anywhere: ModuleType) -> None:
    torch = anywhere
    dist = torch.distributions
    c = dist.constraints
    x = torch.tensor(V)
    for where in (c.positive_definite, c.lower_cholesky, c.positive_semidefinite):
        y = dist.transform_to(where)(x)
        assert where.check(y).all()
        np.testing.assert_allclose(
            dist.transform_to(where).inv(y).tril().numpy(), x.tril().numpy(), atol=1e-9
        )
    assert c.simplex.check(dist.transform_to(c.simplex)(x)).all()
    with pytest.raises(NotImplementedError, match="Cannot transform _PositiveDefinite constraints"):
        dist.biject_to(c.positive_definite)
    with pytest.raises(
        TypeError, match="Expected constraint to be either a Constraint subclass or instance, but got 3"
    ):
        dist.biject_to.register(3, dist.biject_to)
    turned = dist.TransformedDistribution(
        dist.Normal(torch.zeros(2, 3), 1.0), dist.ReshapeTransform((2, 3), (6,))
    )
    assert (turned.event_shape, turned.log_prob(torch.zeros(6)).item()) == (
        (6,),
        pytest.approx(-3 * math.log(2 * math.pi)),
    )
    uniform = dist.TransformedDistribution(
        dist.Normal(0.0, 1.0), dist.CumulativeDistributionTransform(dist.Normal(0.0, 1.0))
    )
    np.testing.assert_allclose(uniform.log_prob(torch.tensor([0.2, 0.7])).numpy(), [0, 0], atol=1e-6)
