"""Stencils as machine code: beside NumPy's passes, for any slices, pads, cuts and tiles; what is dear is made once."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from compiled_runs import results as run_on
from compiled_runs import watch
from hypothesis import given, settings
from hypothesis import strategies as st
from values import same_bits

import distgrad as torch
from distgrad.compiler.stencil import Stencil
from distgrad.plan import fuse
from distgrad.worker import compiled, tiles
from distgrad.worker.making import Unit

pad = torch.nn.functional.pad
FAR = 1 << 40


results = partial(run_on, shard_bytes=2000)


@pytest.fixture(autouse=True)
def small_tiles(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are several in a shard."""
    for name in ("TILE", "READ", "HALOED"):
        monkeypatch.setattr(fuse, name, 512)


@pytest.fixture
def nests(monkeypatch: pytest.MonkeyPatch) -> list[Stencil]:
    """Those that are called."""
    return watch(monkeypatch, compiled.StencilCall)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Unit, Any]]:
    """Units of stencils that are called, and where their places lie in a tile."""
    found: list[tuple[Unit, Any]] = []
    begin = compiled.StencilCall.__init__

    def watched(self: Any, unit: Unit, regs: Any, sources: Any, regions: Any, shares: Any) -> None:
        found.append((unit, regions))
        begin(self, unit, regs, sources, regions, shares)

    monkeypatch.setattr(compiled.StencilCall, "__init__", watched)
    return found


# Programs at random.

STEPS = ["slice", "slice", "pad", "add", "multiply", "where", "exp", "row", "column", "square"]


@st.composite
def programs(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, Any]], Any]:
    """A shape, steps on values that are made one after the other, and how it is cut."""
    dims = draw(st.integers(1, 3))
    longest = {1: 1500, 2: 90, 3: 20}[dims]
    shape = tuple(draw(st.integers(8, longest)) for _ in range(dims))
    steps = []
    for _ in range(draw(st.integers(2, 9))):
        name = draw(st.sampled_from(STEPS))
        ends = [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(dims)]
        steps.append((name, (draw(st.integers(0, 9)), draw(st.integers(0, 9)), ends)))
    return shape, steps, draw(st.sampled_from([2, 3, 5]))


def crop(x: Any, y: Any) -> tuple[Any, Any]:
    """As much of both as they have in common."""
    least = [min(n, m) for n, m in zip(x.shape, y.shape, strict=True)]
    index = tuple(slice(0, n) for n in least)
    return x[index], y[index]


def step(name: str, x: Any, y: Any, ends: list[tuple[int, int]]) -> Any:
    """One value more."""
    if name == "slice":
        return x[tuple(slice(a, n - b) for n, (a, b) in zip(x.shape, ends, strict=True))]
    if name == "pad":
        return pad(x, [n for pair in reversed(ends) for n in pair])
    if name == "row":
        return x * torch.arange(x.shape[-1], dtype=x.dtype)
    if name == "column":
        return x + torch.arange(x.shape[0], dtype=x.dtype).view(-1, *[1] * (x.ndim - 1)) / 100
    if name == "exp":
        return torch.exp(x / (1 + x.abs()))
    if name == "square":
        return x * x / (1 + x * x)
    x, y = crop(x, y)
    if name == "where":
        return torch.where(x > y, x, 2 * y)
    return x + y if name == "add" else x * y / (1 + y.abs())


def run(shape: tuple[int, ...], steps: list[tuple[str, Any]], cut: int, dtype: Any) -> list[Any]:
    """The values at the end, their sum, and its gradient."""
    x = torch.from_numpy(np.random.default_rng(1).normal(size=shape).astype(dtype))
    x = x.reshard({0: -(-shape[0] // cut)}).requires_grad_()
    values = [x]
    for name, (i, j, ends) in steps:
        made = step(name, values[i % len(values)], values[j % len(values)], ends)
        if min(made.shape) > 4:
            values.append(made)
    total = sum((v * v).sum() for v in values[-2:])
    total.backward()
    return [values[-1], total, x.grad]


def compare(made: tuple[tuple[int, ...], list[tuple[str, Any]], Any], dtype: Any, rtol: float) -> None:
    """Compiled or not, and on one worker or three."""
    expected = results(lambda: run(*made, dtype), 2, compile=False)
    one, three = (results(lambda: run(*made, dtype), workers, compile=True) for workers in (1, 3))
    for got, again, want in zip(one, three, expected, strict=True):
        assert same_bits(got, again)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * max(1, np.abs(want).max()))


@settings(max_examples=12, deadline=None)
@given(programs())
def test_programs_at_random(made):
    compare(made, np.float64, 1e-12)


@pytest.mark.sweep
@settings(max_examples=250, deadline=None)
@given(programs(), st.sampled_from([np.float32, np.float64]))
def test_many_programs_at_random(made, dtype):
    compare(made, dtype, 1e-4 if dtype == np.float32 else 1e-12)


# What is known of single ones.


def rosenbrock() -> list[Any]:
    x = torch.from_numpy(np.random.default_rng(0).random(3001)).reshard({0: 600}).requires_grad_()
    loss = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
    loss.backward()
    return [loss, x.grad]


def heat() -> list[Any]:
    u = torch.from_numpy(np.random.default_rng(0).random((70, 41))).reshard({0: 20}).requires_grad_()
    inner = u[1:-1, 1:-1]
    new = inner + 0.1 * (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * inner)
    loss = (new.exp() * new).sum()
    loss.backward()
    return [new, loss, u.grad]


def integers() -> list[Any]:
    n = torch.arange(2000).view(50, 40).reshard({0: 20})
    near = pad(n[1:, 1:] - n[:-1, :-1], (1, 0, 1, 0))
    return [near * 2, near.sum(), (near[:, 1:] > near[:, :-1]).any()]


def one_row() -> list[Any]:
    """Taken again and again, from a table that has no other, and then sliced."""
    row = torch.arange(33).view(1, 33)
    taken = row[torch.zeros(200, dtype=torch.int64).reshard({0: 20})] * 2 + 1
    return [taken[1:] - taken[:-1] + row, taken.sum()]


@pytest.mark.parametrize("program", [rosenbrock, heat, integers, one_row], ids=lambda p: p.__name__)
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_known_ones(program, workers, nests):
    expected = results(program, 1, compile=False)
    for got, want in zip(results(program, workers, compile=True), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(want).max())
    assert nests


def test_value_and_gradient_are_made_in_one_pass(nests):
    results(rosenbrock, 1, compile=True)
    assert len(set(map(id, nests))) == 1
    assert {nests[0].values[v].space for v in nests[0].outputs} == {"full", "one"}


def test_what_is_dear_is_not_made_again_for_each_neighbour(nests):
    def program() -> list[Any]:
        y = torch.exp(torch.from_numpy(np.random.default_rng(0).random(3001)).reshard({0: 600}))
        return [y[2:] - 2 * y[1:-1] + y[:-2]]

    results(program, 1, compile=True)
    made, read = {id(nest): nest for nest in nests}.values()
    assert len(made.instances) == 2
    assert len(read.inputs) == 2  # the exponentials, and a number
    assert {by for v, by in read.instances if v == read.inputs[0]} == {(0,), (1,), (2,)}


def halves() -> list[Any]:
    y = torch.arange(8000, dtype=torch.float64).reshard({0: 1000}) * 0.5 - 7
    return [y + 1, y[1600:] * 3]


@pytest.mark.parametrize("workers", [1, 3])
def test_parts_that_lie_far_from_each_other_are_made_side_by_side(workers, calls):
    expected = results(halves, 1, compile=False)
    for got, want in zip(results(halves, workers, compile=True), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)
    assert calls
    for unit, regions in calls:
        longest = max(hi - lo for region in regions for lo, hi in region[:1])
        assert all(hi - lo <= longest for lo, hi in compiled.boxed(unit, regions)[:1])


def scaled() -> list[Any]:
    """Whose constants and column have one element for many."""
    x = torch.arange(600, dtype=torch.float64).view(100, 6).reshard({0: 50})
    return [(x[1:] - x[:-1]) * x[:-1, :1] * 0.5]


def test_a_box_may_lie_anywhere(calls):
    results(scaled, 1, compile=True)
    assert any(None in spot.dims for unit, _ in calls for spot in unit.spots[: len(unit.inputs)])
    for unit, regions in list(calls):
        far = []
        for spot, region in zip(unit.spots, regions, strict=True):
            along = spot.dims[0]  # the dimension that the box has first
            far.append(
                [(lo + FAR, hi + FAR) if d == along else (lo, hi) for d, (lo, hi) in enumerate(region)]
            )
        here, there = (
            compiled.StencilCall(unit, [], range(len(unit.inputs) + len(unit.outputs)), at, [])
            for at in (regions, far)
        )
        assert list(here.arguments) == list(there.arguments)


def test_a_box_that_is_too_long_is_left_to_numpy(monkeypatch, calls):
    monkeypatch.setattr(tiles, "LONGEST", 20)
    expected = results(heat, 1, compile=False)
    for got, want in zip(results(heat, 1, compile=True), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    assert not calls


def test_what_another_shape_holds_is_refused():
    place = compiled._Box(None, 0, (3, 4), (0, 1), [0, 0], np.dtype("f4"), written=False)
    for wrong in (np.zeros((4, 3), "f4"), np.zeros((3, 4)), np.zeros(12, "f4")):
        with pytest.raises(ValueError, match="is read"):
            place.put(wrong)
