"""What a loop on tiles reads is what was meant: temporaries, though others replace them, and scalars in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import distgrad as torch

X, Y = np.random.default_rng(0).standard_normal((2, 60, 70), np.float32)


@pytest.fixture(params=[1, 2, 3])
def workers(request: pytest.FixtureRequest) -> Iterator[int]:
    with torch.init("inproc", workers=request.param, inline_bytes=0, shard_bytes=4_096):
        yield request.param


@pytest.mark.parametrize(
    "f",
    [
        lambda x, y, m: (m.exp(x + y) * (x - y)) * m.exp(x + y),  # the exponential is read twice
        lambda x, y, m: m.square(x + y) - m.flip(x * y, (1,)) * m.square(x + y),
        lambda x, y, m: (x + y) * m.flip(x + y, (0,)),
        lambda x, y, m: (y.sum(1)[:, None] + 1) * (x + y) - y,  # smaller than the result
        lambda x, y, m: ((x > y) & (y > 0)) | ((x + y) < 0),  # of another dtype
        lambda x, y, m: m.where(x + y > 0, x + y, x * y) - 1,
        lambda x, y, m: (x + y) ** 3 - (x * y) ** 4,
    ],
)
def test_what_is_read_again_is_not_written_over(workers: int, f: Callable[..., Any]) -> None:
    got = f(torch.from_numpy(X), torch.from_numpy(Y), torch).numpy()
    np.testing.assert_allclose(got, f(X, Y, np), rtol=1e-5, atol=1e-5)


def test_scalars_are_those_of_each_run(workers: int) -> None:
    x = torch.from_numpy(X)
    for number in (2.0, 3.0, -1.0):
        np.testing.assert_array_equal((x * number + number).numpy(), X * number + number)
