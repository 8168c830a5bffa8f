"""Rows that are taken from tables inside compiled loops: NumPy's elements, torch's errors, in one pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from compiled_runs import results as run_on
from values import same_bits

import distgrad as torch
from distgrad.plan import fuse

functional = torch.nn.functional


results = partial(run_on, shard_bytes=3000)


@pytest.fixture(autouse=True)
def small_tiles(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are several in a shard."""
    for name in ("TILE", "READ"):
        monkeypatch.setattr(fuse, name, 4096)


def table(rows: int, columns: int, dtype: str = "f8", seed: int = 0) -> Any:
    return torch.from_numpy((10 * np.random.default_rng(seed).normal(size=(rows, columns))).astype(dtype))


def indices(n: int, low: int, high: int, seed: int = 1) -> Any:
    """Cut into several pieces."""
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high, n)).reshard({0: n // 5})


def factorisation() -> list[Any]:
    """Squared error of products of two rows, with both gradients."""
    u, v = table(90, 12).requires_grad_(), table(40, 12, seed=2).requires_grad_()
    i, j = indices(2000, 0, 90), indices(2000, -40, 40, seed=3)
    z = (functional.embedding(i, u) * v[j]).sum(1)
    loss = ((z - i) ** 2).mean()
    loss.backward()
    return [loss, u.grad, v.grad]


def kept() -> list[Any]:
    """The rows themselves are wanted too, and are taken twice by the same numbers."""
    i, u, v = indices(1500, -30, 30), table(30, 17), table(30, 17, seed=5)
    rows = u[i]
    return [rows, rows * v[i] + 1, rows.amax(1)]


def same_numbers_of_two_tables() -> list[Any]:
    """Negative numbers count from the end of each table."""
    i = indices(1500, -20, 20)
    return [table(20, 8)[i] - 2 * table(31, 8, seed=4)[i]]


def softmax_of_rows() -> list[Any]:
    """What is taken goes through several phases."""
    u = table(50, 33).requires_grad_()
    y = torch.softmax(u[indices(1200, 0, 50)], 1)
    loss = (y * y).sum() + y[:, 3].sum()
    loss.backward()
    return [loss, u.grad]


def other_orders() -> list[Any]:
    """A table in Fortran order, and one whose rows have gaps."""
    i = indices(1500, 0, 20)
    return [table(9, 20).T[i] * 2, table(20, 30)[:, 3:20][i] + 1]


def numbers_that_are_computed() -> list[Any]:
    """They are checked before they are used, wherever they come from."""
    i = indices(1500, -50, 50)
    return [table(20, 9)[(i * 3 + 1) % 20] * i[:, None], table(20, 9)[i.abs() // 3] + 1]


def whole_numbers() -> list[Any]:
    i = indices(1500, 0, 20)
    u = table(20, 9, "i8")
    return [u[i] * 3 - 1, (u > 0)[i].any(1), u[i].sum(0)]


PROGRAMS = [
    factorisation,
    kept,
    same_numbers_of_two_tables,
    softmax_of_rows,
    other_orders,
    numbers_that_are_computed,
    whole_numbers,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_programs(program, nests):
    expected = results(program, 2, compile=False)
    one, five = (results(program, workers, compile=True) for workers in (1, 5))
    for got, again, want in zip(one, five, expected, strict=True):
        assert same_bits(got, again)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(want).max())
    assert any(nest.taken for nest in nests) or program is numbers_that_are_computed


def test_what_is_taken_is_not_stored(nests):
    results(factorisation, 1, compile=True)
    taking = {id(nest): nest for nest in nests if nest.taken}
    (nest,) = taking.values()
    assert len(nest.taken) == 2
    assert not any(nest.values[v].space == "full" for v in nest.outputs)


@pytest.mark.parametrize(
    ("wrong", "message"), [(20, "out of range"), (-1, "out of range"), (1 << 40, "out of range")]
)
def test_a_wrong_number_is_the_op_s_own_error(wrong, message):
    def program() -> list[Any]:
        i = indices(1500, 0, 20).clone()
        i[1234] = wrong
        return [(functional.embedding(i, table(20, 8)) * 2 + 1).sum(1)]

    with pytest.raises(IndexError, match=f"{message}.*in embedding"):
        results(program, 2, compile=True)


def test_a_wrong_number_that_is_computed_is_found():
    def program() -> list[Any]:
        i = indices(1500, 0, 20)
        return [(table(20, 9)[i + i // 19] * 2).sum(1)]

    with pytest.raises(IndexError, match="index 20 is out of bounds for dimension 0 with size 20"):
        results(program, 2, compile=True)


def test_a_number_beyond_the_end_of_one_of_two_tables():
    def program() -> list[Any]:
        i = indices(1500, 0, 30)
        return [table(30, 8)[i] - table(29, 8)[i]]

    with pytest.raises(IndexError, match="index 29 is out of bounds for dimension 0 with size 29"):
        results(program, 2, compile=True)
