"""Rows of few columns inside compiled loops, in which a vector has elements of several rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from compiled_runs import results as run_on
from values import same_bits

import distgrad as torch
from distgrad.compiler.nest import SHORT, Nest
from distgrad.session import door

functional = torch.nn.functional
results = partial(run_on, shard_bytes=3000)


pytestmark = pytest.mark.usefixtures("alone")


def drawn(*shape: int, dtype: str = "f8", seed: int = 0) -> Any:
    return torch.from_numpy((3 * np.random.default_rng(seed).normal(size=shape)).astype(dtype))


def classes(rows: int, columns: int, dtype: str) -> list[Any]:
    """A loss over few classes, with sums in all directions and both gradients."""
    x, w = drawn(rows, columns, dtype=dtype).requires_grad_(), drawn(columns, dtype=dtype).requires_grad_()
    y = torch.from_numpy(np.random.default_rng(1).integers(0, columns, rows))
    z = x * w
    loss = functional.cross_entropy(z, y) + torch.sigmoid(z @ w).mean()
    loss.backward()
    return [loss, x.grad, w.grad]


def distances(rows: int, columns: int, dtype: str) -> list[Any]:
    """From one place, of rows that have gaps between them; results of rows, of columns and of all."""
    wide = drawn(rows, columns + 3, dtype=dtype)
    x = wide[:, :columns] - drawn(columns, dtype=dtype, seed=2)
    length = (x * x).sum(1).sqrt()
    return [length, length.sum(), x / length[:, None], x.amin(0), x.amax(1), (x * length[:, None]).sum(0)]


def whole_numbers(rows: int, columns: int, dtype: str) -> list[Any]:
    """Ints and bools; here no rounding may differ."""
    x = drawn(rows, columns).to(torch.int64 if dtype == "f8" else torch.int32) * 1000
    near = x.abs() < 2000
    return [x.sum(1), x.amax(0), near.any(1), near.all(0), near.logical_not(), x * near, (x + 1).prod(1)]


PROGRAMS = [classes, distances, whole_numbers]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_programs(program, nests):
    check(program, (1100,), 3, "f4", nests)


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("columns", [1, 2, 3, 7, SHORT, SHORT + 1])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_all_lengths(program, columns, dtype, nests):
    check(program, (5, 301, 2500), columns, dtype, nests)


def check(program: Any, lengths: tuple[int, ...], columns: int, dtype: str, nests: list[Nest]) -> None:
    """The same bits on one worker and on five, and nearly NumPy's."""
    for rows in lengths:
        run = partial(program, rows, columns, dtype)
        expected = results(run, 2, compile=False)
        one, five = (results(run, workers, compile=True) for workers in (1, 5))
        for got, again, want in zip(one, five, expected, strict=True):
            assert same_bits(got, again)
            tolerance = (1e-12 if dtype == "f8" else 1e-5) if want.dtype.kind == "f" else 0
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())
    assert any(nest.by_rows for nest in nests) or columns == 1


def test_long_sums_are_as_exact_as_others(nests):
    """Chunks of rows are added in float64."""
    x = np.random.default_rng(0).random((200_000, 3), np.float32)

    def program() -> list[Any]:
        t = torch.from_numpy(x) * 1
        return [(t * t).sum(1).sum(), t.sum(0)]

    door.shutdown()
    loss, columns = run_on(program, 1, compile=True, shard_bytes=1 << 30)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(loss, (wide * wide).sum(), rtol=2e-7)
    np.testing.assert_allclose(columns, wide.sum(0), rtol=2e-7)


def test_odd_numbers():
    """Infinities and NaN are where NumPy has them; elements, also where zeros have signs."""

    def program() -> list[Any]:
        x = np.resize(np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1e-310]), (400, 3))
        t = torch.from_numpy(x)
        return [t * 2, (t * 2).amax(1), (t * 2).sum(1), (t * 2).amin(1) + 1, torch.softmax(t, 1)]

    made, expected = results(program, 3, True), results(program, 3, False)
    for got, want in zip(made, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-14)
    assert (np.signbit(made[0]) == np.signbit(expected[0])).all()
