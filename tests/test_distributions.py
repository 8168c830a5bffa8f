"""Distributions beside SciPy's: densities, moments, samples and their gradients, divergences by quadrature."""

from __future__ import annotations

import itertools
import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

import distgrad as t
from distgrad import distributions as D
from distgrad.distributions import constraints, kl_divergence, transforms

A, B = np.array([0.4, 1.0, 2.5]), np.array([0.7, 1.5, 3.0])
P = np.array([0.1, 0.5, 0.8])


def tensor(x: Any) -> Any:
    return t.tensor(np.asarray(x, np.float64))


# Each with SciPy's.
CONTINUOUS: dict[str, tuple[Any, Any]] = {
    "Normal": (lambda: D.Normal(tensor(A), tensor(B)), stats.norm(A, B)),
    "Laplace": (lambda: D.Laplace(tensor(A), tensor(B)), stats.laplace(A, B)),
    "Cauchy": (lambda: D.Cauchy(tensor(A), tensor(B)), stats.cauchy(A, B)),
    "Gumbel": (lambda: D.Gumbel(tensor(A), tensor(B)), stats.gumbel_r(A, B)),
    "Uniform": (lambda: D.Uniform(tensor(A), tensor(A + B)), stats.uniform(A, B)),
    "Exponential": (lambda: D.Exponential(tensor(A)), stats.expon(scale=1 / A)),
    "HalfNormal": (lambda: D.HalfNormal(tensor(B)), stats.halfnorm(scale=B)),
    "Gamma": (lambda: D.Gamma(tensor(A), tensor(B)), stats.gamma(A, scale=1 / B)),
    "Chi2": (lambda: D.Chi2(tensor(B)), stats.chi2(B)),
    "Beta": (lambda: D.Beta(tensor(A), tensor(B)), stats.beta(A, B)),
    "StudentT": (lambda: D.StudentT(tensor(B), tensor(A), tensor(B)), stats.t(B, A, B)),
    "LogNormal": (lambda: D.LogNormal(tensor(A), tensor(B)), stats.lognorm(B, scale=np.exp(A))),
}
DISCRETE: dict[str, tuple[Any, Any]] = {
    "Bernoulli": (lambda: D.Bernoulli(tensor(P)), stats.bernoulli(P)),
    "Bernoulli by logits": (lambda: D.Bernoulli(logits=tensor(np.log(P / (1 - P)))), stats.bernoulli(P)),
    "Binomial": (lambda: D.Binomial(5, tensor(P)), stats.binom(5, P)),
    "Geometric": (lambda: D.Geometric(tensor(P)), stats.geom(P, loc=-1)),
    "Poisson": (lambda: D.Poisson(tensor(B)), stats.poisson(B)),
}


def known(found: Any, want: np.ndarray, **tolerance: float) -> None:
    np.testing.assert_allclose(found.numpy(), want, **{"rtol": 1e-9, "atol": 1e-10, **tolerance})


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous(torch: ModuleType, name: str) -> None:
    make, want = CONTINUOUS[name]
    p, x = make(), want.ppf([[0.2], [0.7]])
    known(p.log_prob(tensor(x)), want.logpdf(x))
    mean, variance = want.stats("mv")
    if name == "Cauchy":  # torch says that it is infinite, SciPy that there is none
        variance = np.full(3, math.inf)
    if name == "StudentT":  # torch has nan where there is no mean, SciPy inf
        mean, variance = np.where(B > 1, A, math.nan), np.where(B > 1, variance, math.nan)
    known(p.mean, mean)
    known(p.variance, variance)
    known(p.stddev, np.sqrt(variance))
    assert (p.batch_shape, p.event_shape, p.expand((2, 3)).batch_shape) == ((3,), (), (2, 3))
    known(p.expand((2, 3)).log_prob(tensor(x)), want.logpdf(x))
    if name not in ("StudentT", "Beta"):
        known(p.cdf(tensor(x)), want.cdf(x))
    if name not in ("StudentT", "Beta", "Gamma", "Chi2"):
        known(p.icdf(tensor([[0.2], [0.7]])), x)
    known(p.entropy(), want.entropy(), rtol=1e-6)


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete(torch: ModuleType, name: str) -> None:
    make, want = DISCRETE[name]
    p, x = make(), np.array([[0.0], [1.0]])
    known(p.log_prob(tensor(x)), want.logpmf(x))
    known(p.mean, want.mean())
    known(p.variance, want.var())
    if name != "Poisson":
        known(p.entropy(), [stats.geom(q).entropy() for q in P] if name == "Geometric" else want.entropy())
    if p.has_enumerate_support:
        known(p.log_prob(p.enumerate_support()).exp().sum(0), np.ones(3))


SAMPLED = {**CONTINUOUS, **DISCRETE}


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_have_the_distribution(name: str) -> None:
    t.manual_seed(len(name))
    make, want = SAMPLED[name]
    x = make().sample((4000,)).numpy()
    for i in range(3):
        if name in CONTINUOUS:
            u = (
                np.sort(make().cdf(tensor(x))[:, i].numpy())
                if name not in ("StudentT", "Beta")
                else np.sort(want.cdf(x)[:, i])
            )
            assert np.abs(u - (np.arange(4000) + 0.5) / 4000).max() < 0.03  # Kolmogorov: 0.026 at 1 %
        else:
            assert abs(x[:, i].mean() - want.mean()[i]) < 5 * want.std()[i] / math.sqrt(4000)
            assert abs(x[:, i].var() / want.var()[i] - 1) < 0.25


def test_samples_do_not_depend_on_the_number_of_workers(start: Any) -> None:
    found = []
    for workers in (1, 2, 3):
        start(workers, shard_bytes=64)
        t.manual_seed(3)
        a = tensor(np.linspace(0.1, 4, 37))
        drawn = [
            D.Gamma(a, a).sample(),
            D.Poisson(a).sample(),
            D.Beta(a, a).sample((2,)),
            D.Normal(a, a).sample(),
        ]
        found.append([x.numpy() for x in drawn])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


# Gradients through samples: E f'(x) dx/dθ is the derivative of E f(x).
@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("Normal", lambda a: D.Normal(a, a), lambda a: 4 * a),  # E x² = a² + a²
        ("Gamma", lambda a: D.Gamma(a, 2.0), lambda a: (2 * a + 1) / 4),  # (a² + a) / 4
        ("Beta", lambda a: D.Beta(a, 2 * a), lambda a: -1 / 3 * 2 / (3 * a + 1) ** 2),  # (a+1)/(3(3a+1))
        ("Exponential", lambda a: D.Exponential(a), lambda a: -4 / a**3),  # 2 / a²
        ("Uniform", lambda a: D.Uniform(-a, a), lambda a: 2 * a / 3),  # a² / 3
        ("Laplace", lambda a: D.Laplace(0.0, a), lambda a: 4 * a),  # 2 a²
    ],
)
def test_gradients_of_samples(torch: ModuleType, name: str, make: Any, expected: Any) -> None:
    torch.manual_seed(5)
    a = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    x = make(a).rsample((3000,))
    (x**2).mean().backward()
    assert abs(a.grad.item() - expected(1.3)) < 0.12 * abs(expected(1.3))


def test_a_gamma_sample_is_not_differentiated_twice() -> None:
    a = t.tensor(1.3, requires_grad=True)
    (g,) = t.autograd.grad(a * D.Gamma(a, 1.0).rsample(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.backward()


# Classes.
def test_classes(torch: ModuleType) -> None:
    probs = np.array([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])
    for p in (D.Categorical(tensor(3 * probs)), D.Categorical(logits=tensor(np.log(probs + 1e-300) + 2))):
        known(p.log_prob(torch.tensor([2, 0])), np.log([0.5, 0.6]))
        known(p.probs, probs, atol=1e-15)
        entropy = [-(q[q > 0] * np.log(q[q > 0])).sum() for q in probs]
        known(p.entropy(), entropy)
        torch.manual_seed(1)
        drawn = p.sample((2000,)).numpy()
        assert (drawn.shape, drawn.dtype) == ((2000, 2), np.int64)
        for i in (0, 1):
            np.testing.assert_allclose(np.bincount(drawn[:, i], minlength=3) / 2000, probs[i], atol=0.05)
        assert p.enumerate_support().shape == (3, 2)
    one = D.OneHotCategorical(tensor(probs))
    x = one.sample((5,))
    assert x.shape == (5, 2, 3)
    assert (x.sum(-1) == 1).all()
    known(one.log_prob(tensor([[0, 0, 1], [1, 0, 0]])), np.log([0.5, 0.6]))
    many = D.Multinomial(4, tensor(probs))
    x = np.array([[1, 1, 2], [1, 3, 0]])
    known(
        many.log_prob(tensor(x)), [stats.multinomial(4, q).logpmf(y) for q, y in zip(probs, x, strict=True)]
    )
    assert (many.sample((7,)).sum(-1) == 4).all()
    known(D.Multinomial(3, tensor(probs[:1])).entropy(), stats.multinomial(3, probs[0]).entropy()[None])


def test_dirichlet(torch: ModuleType) -> None:
    a = np.array([0.5, 1.0, 3.0])
    p, want = D.Dirichlet(tensor(a)), stats.dirichlet(a)
    x = np.array([0.2, 0.3, 0.5])
    known(p.log_prob(tensor(x)), want.logpdf(x))
    known(p.entropy(), want.entropy())
    known(p.mean, want.mean())
    known(p.variance, want.var())
    torch.manual_seed(0)
    known(p.sample((3000,)).mean(0), want.mean(), atol=0.03)


def test_normal_vectors(torch: ModuleType) -> None:
    loc = np.array([0.3, -1.0, 0.5])
    lower = np.array([[1.2, 0, 0], [0.4, 0.9, 0], [-0.3, 0.2, 0.7]])
    covariance, x = lower @ lower.T, np.array([[0.1, 0.2, 0.3], [1.0, -1.0, 0.5]])
    want = stats.multivariate_normal(loc, covariance)
    for given in (
        {"covariance_matrix": covariance},
        {"scale_tril": lower},
        {"precision_matrix": np.linalg.inv(covariance)},
    ):
        p = D.MultivariateNormal(tensor(loc), **{name: tensor(matrix) for name, matrix in given.items()})
        known(p.log_prob(tensor(x)), want.logpdf(x))
        known(p.entropy(), want.entropy())
        known(p.covariance_matrix, covariance)
        known(p.precision_matrix, np.linalg.inv(covariance))
        known(p.variance, np.diag(covariance))
        assert p.expand((2,)).log_prob(tensor(x)).shape == (2,)
    torch.manual_seed(4)
    drawn = p.sample((4000,)).numpy()
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.12)
    q = D.MultivariateNormal(tensor(0 * loc), tensor(np.eye(3)))
    trace, d = np.trace(covariance), loc @ loc
    known(kl_divergence(p, q), 0.5 * (trace + d - 3 - np.linalg.slogdet(covariance)[1]))
    with pytest.raises(ValueError, match="Exactly one of covariance_matrix"):
        D.MultivariateNormal(tensor(loc))


# Divergences by quadrature.
PAIRS = [
    (D.Normal(0.3, 1.2), D.Normal(-0.5, 0.8)),
    (D.Laplace(0.3, 1.2), D.Laplace(-0.5, 0.8)),
    (D.Normal(0.3, 1.2), D.Laplace(-0.5, 0.8)),
    (D.Laplace(0.3, 0.7), D.Normal(-0.5, 0.8)),
    (D.Gumbel(0.3, 0.7), D.Gumbel(-0.5, 0.8)),
    (D.Cauchy(0.3, 0.7), D.Cauchy(-0.5, 0.8)),
    (D.Gamma(2.5, 1.2), D.Gamma(1.3, 0.4)),
    (D.Exponential(1.2), D.Gamma(1.3, 0.4)),
    (D.Gamma(2.5, 1.2), D.Exponential(0.7)),
    (D.Exponential(1.2), D.Exponential(0.7)),
    (D.HalfNormal(1.2), D.HalfNormal(0.7)),
    (D.Beta(2.5, 1.2), D.Beta(1.3, 3.4)),
    (D.Uniform(-0.5, 0.7), D.Normal(0.2, 1.1)),
    (D.Uniform(-0.5, 0.7), D.Uniform(-1.0, 2.0)),
    (D.LogNormal(0.1, 0.5), D.LogNormal(0.4, 0.9)),
]
RANGES = {
    "Gamma": (0, 60),
    "Exponential": (0, 60),
    "HalfNormal": (0, 15),
    "Beta": (0, 1),
    "Uniform": (-0.5, 0.7),
    "LogNormal": (1e-9, 60),
}


@pytest.mark.parametrize(("p", "q"), PAIRS, ids=[f"{type(p).__name__}-{type(q).__name__}" for p, q in PAIRS])
def test_divergence(p: Any, q: Any) -> None:
    low, high = RANGES.get(type(p).__name__, (-30, 30))
    if type(p).__name__ == "Cauchy":
        low, high = -1e5, 1e5

    def integrand(x: float) -> float:
        at = t.tensor(x, dtype=t.float64)
        log_p = p.log_prob(at).item()
        return math.exp(log_p) * (log_p - q.log_prob(at).item())

    edges = [low, -3, 0, 3, high] if low < -3 else [low, high]
    fine = {"limit": 200, "epsabs": 1e-6, "epsrel": 1e-6}
    want = sum(integrate.quad(integrand, a, b, **fine)[0] for a, b in itertools.pairwise(edges))
    assert abs(kl_divergence(p, q).item() - want) < 2e-4 * max(1, abs(want))


def test_divergence_of_counts() -> None:
    for p, q, n in (
        (D.Poisson(2.0), D.Poisson(3.5), 60),
        (D.Bernoulli(0.2), D.Bernoulli(0.7), 2),
        (D.Binomial(4, 0.2), D.Binomial(4, 0.7), 5),
        (D.Geometric(0.4), D.Geometric(0.7), 200),
    ):
        x = t.arange(n, dtype=t.float32)
        log_p, log_q = p.log_prob(x), q.log_prob(x)
        assert abs(kl_divergence(p, q).item() - (log_p.exp() * (log_p - log_q)).sum().item()) < 1e-5
    one, other = D.Categorical(tensor([0.2, 0.8, 0])), D.Categorical(tensor([0.5, 0.25, 0.25]))
    assert abs(kl_divergence(one, other).item() - (0.2 * math.log(0.4) + 0.8 * math.log(3.2))) < 1e-12
    assert kl_divergence(other, one).item() == math.inf
    with pytest.raises(NotImplementedError, match="No KL"):
        kl_divergence(D.Normal(0.0, 1.0), one)
    with pytest.raises(NotImplementedError, match="between different exponential families"):
        kl_divergence(D.Normal(0.0, 1.0), D.Poisson(1.0))


def test_a_divergence_of_ones_own() -> None:
    class Point(D.Distribution):
        pass

    @D.register_kl(Point, D.Normal)
    def divergence(p: Any, q: Any) -> Any:
        return q.scale

    assert kl_divergence(Point(), D.Normal(0.0, 3.0)).item() == 3


# Maps.
MAPS = [
    transforms.ExpTransform(),
    transforms.SigmoidTransform(),
    transforms.TanhTransform(),
    transforms.SoftplusTransform(),
    transforms.AffineTransform(1.0, -2.0),
    transforms.ComposeTransform([transforms.AffineTransform(0.1, 0.5), transforms.TanhTransform()]),
    transforms.ComposeTransform([transforms.ExpTransform(), transforms.PowerTransform(2.0)]),
]


@pytest.mark.parametrize("map", MAPS, ids=repr)
def test_maps(torch: ModuleType, map: Any) -> None:
    x = torch.tensor([-1.2, 0.1, 0.7], dtype=torch.float64, requires_grad=True)
    y = map(x)
    known(map.inv(y).detach(), x.detach().numpy())
    (slope,) = torch.autograd.grad(y.sum(), x)
    known(map.log_abs_det_jacobian(x, y).detach(), np.log(np.abs(slope.numpy())))
    assert map.inv.inv is map or isinstance(map, transforms.ComposeTransform)
    assert map.with_cache()(x) is not None


def test_stick_breaking(torch: ModuleType) -> None:
    x = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    map = transforms.StickBreakingTransform()
    y = map(x)
    assert abs(y.sum().item() - 1) < 1e-12
    known(map.inv(y), x.numpy())
    x.requires_grad_()
    rows = [torch.autograd.grad(map(x)[i], x)[0].numpy() for i in range(3)]
    known(map.log_abs_det_jacobian(x, map(x)).detach(), np.linalg.slogdet(rows)[1])


def test_transformed_and_independent(torch: ModuleType) -> None:
    base = D.Normal(tensor([0.0, 1.0]), tensor([1.0, 2.0]))
    p = D.Independent(base, 1)
    x = tensor([[0.5, -1.0], [0.0, 2.0]])
    known(p.log_prob(x), stats.norm([0, 1], [1, 2]).logpdf(x.numpy()).sum(-1))
    assert (p.batch_shape, p.event_shape, p.entropy().shape, p.rsample((4,)).shape) == ((), (2,), (), (4, 2))
    flow = D.TransformedDistribution(base, [transforms.AffineTransform(0.5, 2.0), transforms.ExpTransform()])
    want = stats.lognorm([2, 4], scale=np.exp([0.5, 2.5]))
    y = np.array([1.5, 3.0])
    known(flow.log_prob(tensor(y)), want.logpdf(y))
    known(flow.cdf(tensor(y)), want.cdf(y))
    known(flow.icdf(tensor([0.3, 0.6])), want.ppf([0.3, 0.6]))
    assert flow.expand((3, 2)).sample().shape == (3, 2)


# What is refused.
def test_arguments_are_checked() -> None:
    with pytest.raises(
        ValueError,
        match=r"Expected parameter scale \(Tensor of shape \(\)\) of distribution Normal\(loc: "
        r"0\.0, scale: -1\.0\) to satisfy the constraint GreaterThan\(lower_bound=0\.0\), but found invalid",
    ):
        D.Normal(0.0, -1.0)
    with pytest.raises(ValueError, match="Input arguments must all be instances of Number"):
        D.Normal("a", 1.0)
    with pytest.raises(ValueError, match="but not both"):
        D.Bernoulli(0.5, 0.5)
    with pytest.raises(ValueError, match="at least one-dimensional"):
        D.Categorical(t.tensor(0.5))
    with pytest.raises(ValueError, match="Uniform is not defined when low>= high"):
        D.Uniform(1.0, 1.0)
    p = D.Normal(t.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"Value is not broadcastable with batch_shape\+event_shape"):
        p.log_prob(t.zeros(2))
    with pytest.raises(ValueError, match=r"to be within the support \(Real\(\)\)"):
        p.log_prob(t.tensor(math.nan))
    with pytest.raises(ValueError, match="to be within the support"):
        D.Bernoulli(0.5).log_prob(t.tensor(2.0))
    D.Normal(0.0, -1.0, validate_args=False)
    assert repr(p) == "Normal(loc: torch.Size([3]), scale: torch.Size([3]))"
    assert repr(D.Independent(p, 1)) == "Independent(Normal(loc: torch.Size([3]), scale: torch.Size([3])), 1)"


def test_what_lies_on_the_workers_is_not_waited_for(start: Any) -> None:
    recorder = start(2)
    scale = -t.rand(4)
    p = D.Normal(0.0, scale)
    p.log_prob(p.rsample())
    assert recorder.calls == []
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        D.Normal(0.0, scale, validate_args=True)


def test_constraints() -> None:
    x = t.tensor([-1.0, 0.0, 0.5, 1.0, 2.0])
    for constraint, want in (
        (constraints.real, [1, 1, 1, 1, 1]),
        (constraints.positive, [0, 0, 1, 1, 1]),
        (constraints.nonnegative, [0, 1, 1, 1, 1]),
        (constraints.unit_interval, [0, 1, 1, 1, 0]),
        (constraints.boolean, [0, 1, 0, 1, 0]),
        (constraints.nonnegative_integer, [0, 1, 0, 1, 1]),
        (constraints.integer_interval(0, 1), [0, 1, 0, 1, 0]),
        (constraints.less_than(1.0), [1, 1, 1, 0, 0]),
        (constraints.half_open_interval(0.0, 1.0), [0, 1, 1, 0, 0]),
    ):
        assert constraint.check(x).tolist() == [bool(n) for n in want], constraint
    assert constraints.simplex.check(t.tensor([[0.5, 0.5], [0.5, 0.6]])).tolist() == [True, False]
    assert constraints.one_hot.check(t.tensor([[0.0, 1.0], [1.0, 1.0]])).tolist() == [True, False]
    assert constraints.lower_cholesky.check(t.tensor([[1.0, 0.0], [2.0, 3.0]])).item() is True
    assert constraints.lower_cholesky.check(t.tensor([[1.0, 1.0], [2.0, 3.0]])).item() is False
    with pytest.raises(ValueError, match="dependent constraint"):
        constraints.dependent.check(x)
