"""One element of each row apart from the others, inside compiled loops: `gather` and `scatter` by one index a row."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from compiled_runs import results as run_on
from values import same_bits

import distgrad as torch
from distgrad.plan import fuse
from distgrad.session import door

functional = torch.nn.functional
results = partial(run_on, shard_bytes=3000)


@pytest.fixture(autouse=True)
def small_tiles(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are several in a shard."""
    for name in ("TILE", "READ"):
        monkeypatch.setattr(fuse, name, 4096)


def table(*shape: int, dtype: str = "f8", seed: int = 0) -> Any:
    return torch.from_numpy((10 * np.random.default_rng(seed).normal(size=shape)).astype(dtype))


def classes(*shape: int, below: int, seed: int = 1) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, below, shape))


def odd_values(dtype: str, shape: tuple[int, ...]) -> Any:
    """Zeros of both signs, infinities and NaN among others."""
    x = 10 * np.random.default_rng(3).normal(size=shape)
    if dtype[0] == "f":
        x.reshape(-1)[::7] = np.resize([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-310], x.reshape(-1)[::7].shape)
    with np.errstate(over="ignore", under="ignore"):
        return torch.from_numpy(x.astype(dtype))


def cross_entropy() -> list[Any]:
    x = table(301, 37).requires_grad_()
    y = classes(301, below=37).clone()
    y[17] = -100  # is ignored
    loss = functional.cross_entropy(x, y, label_smoothing=0.1)
    loss.backward()
    return [loss, x.grad]


def sequences() -> list[Any]:
    """Rows have two dimensions, and a length that is no whole number of vectors."""
    x = table(40, 9, 70, dtype="f4").requires_grad_()
    picked = torch.log_softmax(x, 2).gather(2, classes(40, 9, 1, below=70))
    picked.square().sum().backward()
    return [picked, x.grad]


def gradient_of_what_is_picked() -> list[Any]:
    x = table(300, 40).requires_grad_()
    picked = (x * 2).gather(1, classes(300, 1, below=40))
    (picked * picked.detach()).sum().backward()
    return [picked, x.grad * 3]


def of_each_dtype() -> list[Any]:
    """What is picked has all of its bits."""
    made, y = [], classes(200, 1, below=33)
    for dtype in ("f4", "f8", "i4", "i8"):
        x = odd_values(dtype, (200, 33))
        made += [(-x).gather(1, y), (-x).sum(1), -x]
    odd = table(200, 33) > 0
    return [*made, odd.logical_not().gather(1, y), odd.logical_not()]


def put_into_rows() -> list[Any]:
    """Sources and bases with odd values; nothing is added to other elements."""
    made, y = [], classes(200, 1, below=33)
    for dtype in ("f4", "f8", "i4", "i8"):
        base, src = odd_values(dtype, (200, 33)), odd_values(dtype, (200, 1))
        made += [(-base).scatter(1, y, src) * 2, torch.zeros_like(base).scatter_add(1, y, src) * 2]
    return made


def last_of_three_dimensions() -> list[Any]:
    """What follows the picked dimension has length 1."""
    x, y = table(150, 12, 1), classes(150, 1, 1, below=12)
    return [(x * 3).gather(1, y) + 1, (x * 3).amax(1, keepdim=True)]


def several_of_a_row() -> list[Any]:
    """These are no picks: NumPy's kernels do them."""
    x = table(200, 20)
    return [(x * 2).gather(1, classes(200, 3, below=20)), (x * 2).gather(0, classes(1, 20, below=200))]


PROGRAMS = [
    cross_entropy,
    sequences,
    gradient_of_what_is_picked,
    of_each_dtype,
    put_into_rows,
    last_of_three_dimensions,
    several_of_a_row,
]
EXACT = (of_each_dtype, put_into_rows, last_of_three_dimensions, several_of_a_row)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_programs(program, nests):
    expected = results(program, 2, compile=False)
    one, five = (results(program, workers, compile=True) for workers in (1, 5))
    for got, again, want in zip(one, five, expected, strict=True):
        assert same_bits(got, again)
        if program in EXACT:
            assert same_bits(got, want) or (
                np.isnan(want).any() and np.array_equal(got, want, equal_nan=True)
            )
        else:
            tolerance = 1e-12 if want.dtype == np.float64 else 1e-5
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())
    assert any(nest.counter is not None for nest in nests) == (program is not several_of_a_row)


def test_softmax_and_its_gradient_are_one_nest(nests):
    def program() -> list[Any]:
        x = table(301, 37).requires_grad_()
        loss = functional.cross_entropy(x, classes(301, below=37))
        loss.backward()
        return [loss, x.grad]

    results(program, 1, compile=True)
    (nest,) = {id(nest): nest for nest in nests if nest.counter is not None}.values()
    assert nest.phases == 3
    assert [nest.values[v].space for v in nest.outputs].count("full") == 1


def test_one_element_of_each_row_alone_is_no_nest(nests):
    """All elements would be read."""
    x, y = table(300, 40), classes(300, 1, below=40)
    door.shutdown()
    results(lambda: [x.gather(1, y).square().sum()], 1, compile=True)
    assert all(nest.counter is None for nest in nests)


@pytest.mark.parametrize("wrong", [37, -1, 1 << 40, -(1 << 62)])
def test_a_wrong_index_is_the_op_s_own_error(wrong):
    def program() -> list[Any]:
        y = classes(300, 1, below=37).clone()
        y[123] = wrong
        return [(table(300, 37) * 2).gather(1, y)]

    with pytest.raises(RuntimeError, match=f"index {wrong} is out of bounds for dimension 1 with size 37"):
        results(program, 2, compile=True)


def test_a_wrong_index_that_is_computed_is_found():
    def program() -> list[Any]:
        y = classes(300, 1, below=37)
        x = table(300, 37)
        return [(x * 2).scatter(1, y + y // 36, x[:, :1])]

    with pytest.raises(RuntimeError, match="index 37 is out of bounds for dimension 1 with size 37"):
        results(program, 2, compile=True)
