"""Sample inputs for the table of ops: small, float64, away from the places where a function is not smooth."""

from __future__ import annotations

import math

import numpy as np

from distgrad.graph import Value
from distgrad.tensor import Tensor


def real(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Tensor:
    """Distinct float64 numbers from `low` to `high`, evenly spread and shuffled."""
    n = math.prod(shape)
    step = (high - low) / max(n, 1)
    numbers = low + step * (np.arange(n) + 0.37)
    np.random.default_rng(seed + 17 * n).shuffle(numbers)
    return Tensor(Value.known(numbers.reshape(shape)))


def positive(*shape: int, seed: int = 0) -> Tensor:
    """Distinct numbers from 0.3 to 2.3."""
    return real(*shape, low=0.3, high=2.3, seed=seed)


def whole(*shape: int, low: int = 0, high: int = 5, seed: int = 0) -> Tensor:
    """int64 numbers from `low` to `high - 1`."""
    return Tensor(Value.known(np.random.default_rng(seed + 5).integers(low, high, shape)))


def flags(*shape: int, seed: int = 0) -> Tensor:
    """Bools; both kinds, where there are two."""
    found = np.random.default_rng(seed + 7).random(shape) < 0.5
    if np.size(found) > 1:
        found.flat[0], found.flat[-1] = True, False
    return Tensor(Value.known(np.asarray(found)))
