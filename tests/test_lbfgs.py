"""L-BFGS against the matrices of BFGS, and its line search against the conditions that it is to satisfy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from values import Start

import distgrad as torch
from distgrad.optim.line_search import ARMIJO, CURVATURE, Point, Search, interpolate

LBFGS = torch.optim.LBFGS
RNG = np.random.default_rng(2)
ROOT = RNG.standard_normal((7, 7))
CURVED = ROOT @ ROOT.T + 3 * np.eye(7)
SLOPES = RNG.standard_normal(7)


def parameters(places: str) -> list[torch.Tensor]:
    """Seven numbers as a matrix and a vector; the matrix cut."""
    w, b = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    return [p.requires_grad_() for p in (w.reshard([0, 1, 2]) if places == "workers" else w, b)]


def quadratic(optimizer: Any, params: list[torch.Tensor]) -> Any:
    a, c = torch.from_numpy(CURVED), torch.from_numpy(SLOPES)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        x = torch.cat([p.reshape(-1) for p in params])
        loss = x @ a @ x / 2 - c @ x + torch.cos(x).sum()
        loss.backward()
        return loss

    return closure


def slope_at(x: np.ndarray) -> np.ndarray:
    return CURVED @ x - SLOPES - np.sin(x)


def by_matrices(lr: float, steps: int, memory: int) -> list[np.ndarray]:
    """H is made anew from the last changes: H ← (I − s yᵀ / yᵀs) H (I − y sᵀ / yᵀs) + s sᵀ / yᵀs, from sᵀy / yᵀy."""
    x, changes, seen = np.zeros(7), [], []
    g = slope_at(x)
    for k in range(steps):
        if k == 0:
            move = -g * min(1, 1 / np.abs(g).sum()) * lr
        else:
            s, y = changes[-1]
            h = s @ y / (y @ y) * np.eye(7)
            for s, y in changes[-memory:]:
                rho = 1 / (s @ y)
                left = np.eye(7) - rho * np.outer(s, y)
                h = left @ h @ left.T + rho * np.outer(s, s)
            move = -lr * h @ g
        x = x + move
        changes.append((move, slope_at(x) - g))
        g = slope_at(x)
        seen.append(x)
    return seen


@pytest.mark.parametrize("places", ["driver", "workers"])
@pytest.mark.parametrize("memory", [3, 100])
def test_iterations_are_those_of_the_matrices(start: Start, places: str, memory: int) -> None:
    if places == "workers":
        start(3, 32)
    params = parameters(places)
    optimizer = LBFGS(params, lr=0.5, max_iter=1, history_size=memory)
    closure = quadratic(optimizer, params)
    for want in by_matrices(0.5, 7, memory):
        optimizer.step(closure)
        got = np.concatenate([p.detach().numpy().ravel() for p in params])
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    state = optimizer.state[params[0]]
    assert (state["n_iter"], state["func_evals"], len(state["old_dirs"])) == (7, 7, min(6, memory))


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def descend(steps: int, **options: Any) -> tuple[torch.Tensor, Any, list[float]]:
    x = torch.tensor([-1.2, 1.0, 0.5, -0.7], dtype=torch.float64, requires_grad=True)
    optimizer, losses = LBFGS([x], line_search_fn="strong_wolfe", **options), []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = rosenbrock(x)
        loss.backward()
        losses.append(loss.item())
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return x, optimizer, losses


def test_a_line_search_finds_the_bottom_of_a_valley() -> None:
    x, optimizer, losses = descend(4)
    np.testing.assert_allclose(x.grad.numpy(), 0, atol=1e-4)
    assert losses[-1] == pytest.approx(3.701428610, rel=1e-8)  # the other valley of four dimensions
    state = optimizer.state[x]
    assert (state["n_iter"], state["func_evals"]) == (28, 32)  # as torch needs
    assert len(losses) == 32


def test_a_saved_state_goes_on() -> None:
    x, optimizer, _ = descend(1, max_iter=6)
    told = optimizer.state_dict()
    assert list(told["state"]) == [0]
    y = x.detach().clone().requires_grad_()
    other = LBFGS([y])
    other.load_state_dict(told)
    assert other.state_dict()["param_groups"] == told["param_groups"]
    for z, own in ((x, optimizer), (y, other)):

        def closure(z: torch.Tensor = z) -> torch.Tensor:
            z.grad = None
            loss = rosenbrock(z)
            loss.backward()
            return loss

        own.step(closure)
    np.testing.assert_array_equal(x.detach().numpy(), y.detach().numpy())


@pytest.mark.parametrize("first", [1e-3, 0.3, 1.0, 30.0])
def test_a_search_ends_where_both_conditions_hold(first: float) -> None:
    def at(t: float) -> Point:
        """(t − 2)⁴ + 2 sin 3t: with several valleys."""
        return Point(t, (t - 2) ** 4 + 2 * np.sin(3 * t), None, 4 * (t - 2) ** 3 + 6 * np.cos(3 * t))

    start = at(0.0)
    search = Search(at, start, 1.0, 25)
    found = search.run(first)
    assert found.f <= start.f + ARMIJO * found.t * start.slope
    assert abs(found.slope) <= -CURVATURE * start.slope
    assert search.evaluations <= 26


def test_the_cubic_is_least_where_it_is_said() -> None:
    def at(t: float) -> Point:
        return Point(t, t**3 - 3 * t, None, 3 * t**2 - 3)

    for a, b in ((0.0, 3.0), (3.0, 0.0), (0.5, 1.1)):
        assert interpolate(at(a), at(b)) == pytest.approx(1, rel=1e-12)
    assert interpolate(at(0.0), at(3.0), (1.5, 2.0)) == 1.5
    assert interpolate(Point(0, 0, None, 1.0), Point(1, 9, None, 30.0)) == 0.5  # without a least point


def test_wrong_arguments_are_refused() -> None:
    p, q = (torch.ones(2, requires_grad=True) for _ in range(2))
    with pytest.raises(ValueError, match="LBFGS doesn't support per-parameter options"):
        LBFGS([{"params": [p]}, {"params": [q]}])
    optimizer = LBFGS([p], line_search_fn="other")
    with pytest.raises(RuntimeError, match=r"^only 'strong_wolfe' is supported$"):
        optimizer.step(lambda: (p.square().sum().backward(), p.square().sum())[1])


def test_it_stops_where_the_gradient_is_none() -> None:
    p = torch.zeros(2, requires_grad=True)
    optimizer = LBFGS([p, torch.ones(3, requires_grad=True)])
    calls = []

    def closure() -> float:
        calls.append(1)
        (p**2).sum().backward()
        return 0.0

    assert optimizer.step(closure) == 0.0
    assert len(calls) == 1
