"""The examples of a Gaussian process and of a physics-informed network, and the same programs with torch."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from distgrad.session import door
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

EXAMPLES = Path(__file__).parents[1] / "examples"
WITH_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not there")


def program(name: str, library: str = "distgrad") -> Any:
    """An example as a module, with another library under the name `torch` if so said."""
    text = (EXAMPLES / f"{name}.py").read_text()
    line = "import distgrad as torch\n"
    assert line in text
    module = ModuleType(f"{name}_with_{library}")
    sys.modules[module.__name__] = module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the libraries that it imports say of one another
        exec(compile(text.replace(line, f"import {library} as torch\n"), name, "exec"), module.__dict__)
    return module


PROCESS, PHYSICS = program("gaussian_process"), program("physics_informed")


@pytest.fixture(autouse=True, params=["driver", "workers"])
def place(request: pytest.FixtureRequest) -> Iterator[None]:
    door.shutdown()
    small = {} if request.param == "driver" else {"inline_bytes": 0, "shard_bytes": 1024}
    door.attach(InProcess(3, Worker), **small)
    yield
    door.shutdown()


def test_the_marginal_likelihood_and_predictions_are_those_of_scikit_learn() -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: PLC0415  (slow)
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel  # noqa: PLC0415

    torch = PROCESS.torch
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(12, 2)), rng.normal(size=12), rng.normal(size=(5, 2))
    scales, amplitude, noise = [0.7, 1.9], 1.3, 0.4
    model = PROCESS.GaussianProcess(2)
    with torch.no_grad():
        model.log_scales.copy_(torch.tensor(scales).log())
        model.log_amplitude.fill_(np.log(amplitude))
        model.log_noise.fill_(np.log(noise))
    kernel = ConstantKernel(amplitude**2) * RBF(scales) + WhiteKernel(noise**2)
    other = GaussianProcessRegressor(kernel, optimizer=None).fit(x, y)
    value, slopes = other.log_marginal_likelihood(kernel.theta, eval_gradient=True)
    found = model.log_likelihood(torch.tensor(x), torch.tensor(y))
    np.testing.assert_allclose(found.item(), value, rtol=1e-6)
    found.backward()
    ours = [2 * slopes[0], *slopes[1:3], 2 * slopes[3]]  # of logarithms of squares there
    got = [model.log_amplitude.grad.item(), *model.log_scales.grad.tolist(), model.log_noise.grad.item()]
    np.testing.assert_allclose(got, ours, rtol=1e-5)
    mean, deviation = model.predict(torch.tensor(x), torch.tensor(y), torch.tensor(new))
    wanted = other.predict(new, return_std=True)
    np.testing.assert_allclose(mean.detach().numpy(), wanted[0], rtol=1e-6)
    np.testing.assert_allclose(deviation.detach().numpy(), wanted[1], rtol=1e-6)


def test_a_fit_makes_the_data_likelier() -> None:
    torch = PROCESS.torch
    parts, names = PROCESS.split_patients()
    assert (parts[0].shape, parts[1].shape, len(names)) == ((353, 10), (89, 10), 10)
    x, y = torch.tensor(parts[0][:60]), torch.tensor(parts[2][:60])
    losses = PROCESS.fit(PROCESS.GaussianProcess(10), x, y, 4)
    assert losses == sorted(losses, reverse=True)


def test_the_residual_is_made_of_the_right_derivatives() -> None:
    """Of u = -sin(pi x), which is what a network of zeros leaves: u_t = 0."""
    torch = PHYSICS.torch
    model = PHYSICS.Solution(4, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    x = np.linspace(-0.9, 0.9, 7)
    points = torch.tensor(np.stack([x, x * 0 + 0.5], 1).astype("f"))
    s, c = np.sin(np.pi * x), np.cos(np.pi * x)
    want = np.pi * s * c - PHYSICS.VISCOSITY * np.pi**2 * s
    np.testing.assert_allclose(PHYSICS.residual(model, points).detach().numpy(), want, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_residual() -> None:
    PHYSICS.torch.manual_seed(0)
    losses = PHYSICS.train(PHYSICS.Solution(8, 1), 10, 32)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_the_exact_solution_obeys_the_equation() -> None:
    x, h = np.linspace(-0.8, 0.8, 9), 1e-4
    u, later, earlier, right, left = (
        PHYSICS.exact(x + dx, 0.3 + dt) for dx, dt in ((0, 0), (0, h), (0, -h), (h, 0), (-h, 0))
    )
    terms = (later - earlier) / (2 * h) + u * (right - left) / (2 * h)
    np.testing.assert_allclose(terms, PHYSICS.VISCOSITY * (right - 2 * u + left) / h**2, atol=1e-4)


@WITH_TORCH
def test_with_torch_the_gaussian_process_is_the_same() -> None:
    found = []
    for module in (PROCESS, program("gaussian_process", "torch")):
        parts, _ = module.split_patients()
        x, new, y, _ = (module.torch.tensor(part[:50]) for part in parts)
        model = module.GaussianProcess(10)
        losses = module.fit(model, x, y, 5)
        found.append([losses, *(p.detach().numpy() for p in model.predict(x, y, new))])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8)


@WITH_TORCH
def test_with_torch_the_network_is_the_same() -> None:
    other = program("physics_informed", "torch")
    models = [module.Solution(8, 2) for module in (PHYSICS, other)]
    state = {name: PHYSICS.torch.tensor(p.numpy()) for name, p in models[1].state_dict().items()}
    models[0].load_state_dict(state)
    points = np.random.default_rng(0).uniform(0, 1, (40, 2)).astype("f")
    losses = []
    for module, model in zip((PHYSICS, other), models, strict=True):
        optimizer = module.torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(4):
            optimizer.zero_grad()
            loss = (module.residual(model, module.torch.tensor(points)) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    np.testing.assert_allclose(losses[:4], losses[4:], rtol=1e-4)
