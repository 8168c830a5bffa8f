"""Neighbours: slices of one tensor that are used together, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import distgrad as torch

CUTS: dict[str, Any] = {
    "whole": 1 << 20,
    "default": None,
    "small": 7,
    "uneven, with empty shards": [3, 3, 40, 41, 200],
    "columns": {1: 5},
    "both": {0: 11, 1: [2, 9]},
}


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    torch.shutdown()
    yield
    torch.shutdown()


def rosenbrock(x: Any) -> Any:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def rosenbrock_gradient(x: np.ndarray) -> np.ndarray:
    r = x[1:] - x[:-1] ** 2
    g = np.zeros_like(x)
    g[1:] += 200 * r
    g[:-1] += -400 * r * x[:-1] - 2 * (1 - x[:-1])
    return g


def waves(u: Any) -> Any:
    """The square of the five-point Laplacian."""
    return ((u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1]) ** 2).sum()


def waves_gradient(u: np.ndarray) -> np.ndarray:
    inside = slice(1, -1)
    r = u[2:, inside] + u[:-2, inside] + u[inside, 2:] + u[inside, :-2] - 4 * u[inside, inside]
    g = np.zeros_like(u)
    for rows, columns, k in (
        (slice(2, None), inside, 2), (slice(-2), inside, 2), (inside, slice(2, None), 2), (inside, slice(-2), 2),
        (inside, inside, -8),
    ):  # fmt: skip
        g[rows, columns] += k * r
    return g


def strided(x: Any) -> Any:
    return (x[::2][:100] * x[1::3][:100] + x[40:140] * x[200:300]).sum()


def strided_gradient(x: np.ndarray) -> np.ndarray:
    g = np.zeros_like(x)
    g[::2][:100] += x[1::3][:100]
    g[1::3][:100] += x[::2][:100]
    g[40:140] += x[200:300]
    g[200:300] += x[40:140]
    return g


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize(
    ("loss", "gradient", "shape"),
    [
        (rosenbrock, rosenbrock_gradient, (301, 13)),
        (waves, waves_gradient, (301, 13)),
        (strided, strided_gradient, (301, 13)),
        (rosenbrock, rosenbrock_gradient, (301,)),
    ],
)
def test_gradients_have_the_same_bits_on_any_number_of_workers(
    loss: Callable[[Any], Any],
    gradient: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, ...],
    cuts: str,
) -> None:
    array = np.random.default_rng(0).standard_normal(shape)
    how = CUTS[cuts]
    if isinstance(how, dict):
        how = {d: c for d, c in how.items() if d < len(shape)}
    found = set()
    for workers in (1, 2, 3, 5):
        with torch.init("inproc", workers=workers, inline_bytes=0, shard_bytes=2000):
            x = torch.tensor(array, requires_grad=True, **({"sharding": how} if how is not None else {}))
            loss(x).backward()
            got = x.grad.numpy()
        np.testing.assert_allclose(got, gradient(array), rtol=1e-9, atol=1e-9)
        found.add(got.tobytes())
    assert len(found) == 1
