"""Pieces that overlap: random stencils and their gradients, and what the planner makes of the usual ones."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distgrad as torch
from distgrad.exchange import Joined
from distgrad.plan.plans import Plan
from distgrad.sharding import Cut, Sharding, sharding_from_wire


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    torch.shutdown()
    yield
    torch.shutdown()


@pytest.fixture
def tiny_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard has several tiles, with borders between them."""
    monkeypatch.setattr("distgrad.plan.fuse.TILE", 120)
    monkeypatch.setattr("distgrad.plan.fuse.READ", 200)


Slices = tuple[slice, ...]


@st.composite
def stencils(draw: st.DrawFn) -> tuple[tuple[int, ...], Any, list[tuple[str, int, int, Slices]]]:
    """A shape, how it is cut, and steps: what is done, with which two values so far, and a slice that both take."""
    shape = tuple(draw(st.lists(st.integers(1, 90), min_size=1, max_size=1)))
    shape += tuple(draw(st.lists(st.integers(1, 12), max_size=1)))
    piece = st.integers(1, 40)
    points = st.lists(st.integers(0, shape[0]), min_size=1, max_size=4).map(sorted)
    how = draw(
        st.one_of(piece, piece, points, st.fixed_dictionaries({0: piece, len(shape) - 1: st.integers(1, 12)}))
    )
    shapes = [shape]
    steps = []
    for _ in range(draw(st.integers(1, 7))):
        kind = draw(
            st.sampled_from(["between", "between", "multiply", "square", "joined", "roll", "strided"])
        )
        i = draw(st.integers(0, len(shapes) - 1))
        like = [j for j, s in enumerate(shapes) if s == shapes[i]]
        j = draw(st.sampled_from(like))
        taken = tuple(draw(st.integers(0, min(3, n - 1))) for n in shapes[i])
        n = list(shapes[i])
        if kind == "between":
            n = [a - b for a, b in zip(n, taken, strict=True)]
        elif kind == "joined":
            n[0] += taken[0]
        elif kind == "strided":
            n[0] = -(-n[0] // 2)
        shapes.append(tuple(n))
        steps.append((kind, i, j, taken))
    return shape, how, steps


def result(x: Any, steps: Any) -> Any:
    """What the steps make of x, and a loss."""
    values = [x]
    for kind, i, j, taken in steps:
        a, b = values[i], values[j]
        if kind == "between":  # the end of one and the beginning of the other
            end = tuple(slice(k, None) for k in taken)
            begin = tuple(slice(n - k) for n, k in zip(b.shape, taken, strict=True))
            made = a[end] * 0.5 - b[begin]
        elif kind == "multiply":
            made = a * b + 1
        elif kind == "square":
            made = a**2 - b
        elif kind == "joined":
            made = torch.cat((a[: taken[0]], b))
        elif kind == "roll":
            made = a.roll(taken[0], 0) - b
        else:
            made = a[::2] * 2
        values.append(made / 8)
    return sum((v.sin() * v).sum() for v in values[1:]) + (values[-1] ** 2).sum()


def derivatives(x: Any, steps: Any) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss, its gradient, and the gradient of the square of that."""
    loss = result(x, steps)
    (g,) = torch.autograd.grad(loss, x, create_graph=True)
    (g**2).sum().backward()
    assert x.grad is not None
    return loss.item(), g.detach().numpy(), x.grad.numpy()


@pytest.mark.sweep
@settings(max_examples=100, derandomize=True, database=None)
@given(stencils())
def test_random_stencils(tiny_tiles: None, case: Any) -> None:
    shape, how, steps = case
    array = np.random.default_rng(0).standard_normal(shape)
    found = set()
    for workers in (1, 2, 3):
        with torch.init("inproc", workers=workers, inline_bytes=0, shard_bytes=2000):
            x = torch.tensor(array, requires_grad=True, sharding=how)
            loss, gradient, second = derivatives(x, steps)
            found.add((loss, gradient.tobytes(), second.tobytes()))
    assert len(found) == 1
    with torch.init("inproc", workers=1):  # all in the driver
        y = torch.tensor(array, requires_grad=True)
        expected = derivatives(y, steps)
        np.testing.assert_allclose(loss, expected[0], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(second, expected[2], rtol=1e-8, atol=1e-10)


def rosenbrock(x: Any) -> Any:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def laplacian(x: Any) -> Any:
    return ((x[2:] - 2 * x[1:-1] + x[:-2]) ** 2).sum()


def variation(x: Any) -> Any:
    """Total variation of a picture, smoothed."""
    across, along = x[1:, 1:] - x[1:, :-1], x[1:, 1:] - x[:-1, 1:]
    return (across**2 + along**2 + 1e-3).sqrt().sum()


def diffused(x: Any) -> Any:
    """Two steps of the heat equation."""
    u = x
    for _ in range(2):
        u = u[1:-1] + 0.1 * (u[2:] - 2 * u[1:-1] + u[:-2])
    return (u**2).sum()


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (rosenbrock, (4000,)),
        (laplacian, (4000,)),
        (variation, (400, 10)),
        (diffused, (4000,)),
        (lambda x: ((x[1:, 1:] - x[1:, :-1]) * (x[1:, 1:] + x[:-1, :-1])).mean(), (400, 10)),
    ],
)
def test_borders_are_exchanged_once(
    tiny_tiles: None, plans: list[Plan], loss: Callable[[Any], Any], shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).random(shape)
    found = set()
    for workers in (1, 2, 3):
        with torch.init("inproc", workers=workers, inline_bytes=0, shard_bytes=2000):
            x = torch.tensor(array, requires_grad=True, sharding=len(array) // 16)
            torch.synchronize()
            plans.clear()
            loss(x).backward()
            torch.synchronize()
            (plan,) = plans
            assert len(plan.stages) == 2
            (fragment,) = [f for s in plan.stages for f in s.program.fragments if f.count > 1]
            assert len(fragment.loops) == 1  # nothing goes through memory between forward and backward
            assert x.grad is not None
            found.add(x.grad.numpy().tobytes())
    assert len(found) == 1


def test_far_neighbours_are_moved(plans: list[Plan]) -> None:
    """What lies half a shard away is not computed twice."""
    with torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=2000):
        x = torch.tensor(np.arange(4000.0), requires_grad=True, sharding=250)
        loss = ((x[120:] - x[:-120]) ** 2).sum()
        loss.backward()
        assert x.grad is not None
        g = x.grad.numpy()
    cuts = [slot.sharding.cuts for plan in plans for s in plan.stages for slot in s.program.slots]
    assert all(cut.overlap == 0 for c in cuts for cut in c)
    assert np.array_equal(g[:120], np.full(120, -240.0))
    assert np.array_equal(g[120:-120], np.zeros(4000 - 240))


def test_what_is_kept_does_not_overlap(plans: list[Plan]) -> None:
    with torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=2000):
        x = torch.tensor(np.arange(4000.0), requires_grad=True, sharding=250)
        y = x**2
        d = y[1:] - y[:-1]
        (d**2).sum().backward()
        assert np.array_equal(d.detach().numpy(), np.diff(np.arange(4000.0) ** 2))
        assert np.array_equal(y.detach().numpy(), np.arange(4000.0) ** 2)
    kept = [form for plan in plans for stage in plan.stages for form in stage.keep]
    assert all(cut.overlap == 0 for _, sharding in kept for cut in sharding.cuts)


@st.composite
def overlapping(draw: st.DrawFn, size: int, step: int, count: int) -> Cut:
    """A cut with this size and pace that leaves nothing out."""
    offset = draw(st.integers(0, 3))
    return Cut.regular(size, step, offset, count, draw(st.integers(max(1, size + offset - count * step), 9)))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Cut, Cut]:
    size, step = draw(st.integers(1, 12)), draw(st.integers(2, 6))
    count = max(2, -(-size // step)) + draw(st.integers(0, 1))
    return draw(overlapping(size, step, count)), draw(overlapping(size, step, count))


@settings(max_examples=200, derandomize=True, database=None)
@given(pairs(), st.data())
def test_cuts_that_overlap(pair: tuple[Cut, Cut], data: st.DataObject) -> None:
    cut, other = pair
    held = [set(range(*cut.bounds(i))) for i in range(cut.count)]
    assert set().union(*held) == set(range(cut.size))
    assert cut.lengths == tuple(len(h) for h in held)
    assert cut.longest >= max(cut.lengths)
    lo = data.draw(st.integers(0, cut.size - 1))
    hi = data.draw(st.integers(lo + 1, cut.size))
    meeting = {i for i, h in enumerate(held) if h & set(range(lo, hi))}
    assert meeting <= set(cut.overlapping(lo, hi)) <= {*meeting, *(i for i, h in enumerate(held) if not h)}
    sharding = Sharding((cut,))
    if cut.overlap <= cut.step:
        assert sharding_from_wire(sharding.wire()) == sharding
    else:  # no plan has pieces that overlap by more than a quarter
        with pytest.raises(ValueError, match="not a cut"):
            sharding_from_wire(sharding.wire())
    if cut.covers(other):
        assert all(set(range(*other.bounds(i))) <= h for i, h in enumerate(held))
    for i in range(cut.count):
        tiles = range(i * cut.step, (i + 1) * cut.step)
        parts = [cut.part(a, a + 1) for a in tiles]
        assert set().union(*(range(*p) for p in parts)) == held[i]
        assert cut.part(tiles.start, tiles.stop) == cut.bounds(i)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_first_piece_of_overlapping_cuts_may_be_empty(workers: int) -> None:
    with torch.init("inproc", workers=workers, inline_bytes=0, shard_bytes=128):
        x = torch.tensor(np.ones(64, np.float32), requires_grad=True)
        both = torch.cat([x[2:-1], x])
        padded = torch.cat([torch.zeros(1), both, torch.zeros(1)]).tanh()
        loss = (1 * padded).sum() + (4 * both).sum()
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
        slope = 1 - np.tanh(1.0) ** 2
        times = np.r_[1, 1, [2] * 61, 1]
        np.testing.assert_allclose(g.detach().numpy(), times * (slope + 4), rtol=1e-5)
        assert loss.item() == pytest.approx(125 * (np.tanh(1.0) + 4), rel=1e-5)
        (h,) = torch.autograd.grad((g * g).sum(), x)
        second = -2 * np.tanh(1.0) * slope
        np.testing.assert_allclose(h.numpy(), 2 * times * (slope + 4) * times * second, rtol=1e-4)


def stored_by(workers: Any) -> int:
    """Bytes that workers in this process have on loan."""
    gc.collect()
    torch.memory()
    return sum(w.pool.held for w in workers)


def borders_alone(workers: Any) -> int:
    """How many borders are stored; none of them keeps alive what it arrived in."""
    joined = [
        piece for w in workers for value in w.store.values() for piece in value if type(piece) is Joined
    ]
    borders = [array for j in joined for array in j.pieces if array.nbytes < 100]
    assert all(array.base is None for array in borders)
    shards = [array for j in joined for array in j.pieces if array.nbytes >= 100]
    assert all(array.base is not None for array in shards)  # they are not copied
    return len(borders)


@pytest.mark.sweep
@pytest.mark.parametrize("loss", [rosenbrock, laplacian, diffused])
def test_borders_are_kept_while_a_tensor_does_not_change(
    plans: list[Plan], loss: Callable[[Any], Any]
) -> None:
    array = np.random.default_rng(0).random(1 << 18)
    found = set()
    for workers in (1, 2, 3):
        with torch.init("inproc", workers=workers, inline_bytes=0, shard_bytes=1 << 16) as session:
            x = torch.tensor(array, requires_grad=True)
            torch.synchronize()
            there = session.transport._workers  # type: ignore[attr-defined]
            before = stored_by(there)
            gradients = []
            for stages in ([2], [1], []):  # of the plans that are made
                plans.clear()
                loss(x).backward()
                torch.synchronize()
                assert [len(plan.stages) for plan in plans] == stages
                assert x.grad is not None
                gradients.append(x.grad.numpy().tobytes())
                x.grad = None
                assert stored_by(there) == before
                assert borders_alone(there) >= x.sharding.count - 1
            with torch.no_grad():
                x.sub_(0.5)
            plans.clear()
            loss(x).backward()
            torch.synchronize()
            assert max(len(plan.stages) for plan in plans) == 2
            assert x.grad is not None
            changed = x.grad.numpy()
            found.add((*gradients, changed.tobytes()))
            del x
            assert stored_by(there) == 0
            assert all(len(w.store) == 0 for w in there)
    assert len(set(next(iter(found))[:3])) == 1
    assert len(found) == 1
    y = torch.tensor(array - 0.5, requires_grad=True)
    loss(y).backward()
    assert y.grad is not None
    np.testing.assert_allclose(changed, y.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_kept_borders_serve_what_reads_whole_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are not laid side by side in tiles."""
    wholes = []
    whole = Joined.whole
    monkeypatch.setattr(Joined, "whole", lambda joined: wholes.append(joined) or whole(joined))
    array = np.random.default_rng(0).standard_normal((2000, 8))
    found = set()
    for workers in (1, 2, 3):
        with torch.init("inproc", workers=workers, inline_bytes=0, shard_bytes=1 << 13):
            x = torch.tensor(array)
            for _ in range(2):
                assert not wholes
                found.add((x[1:] - x[:-1]).abs().sum().item())
            beside = torch.cat([x[1:], x[:-1]], 1)
            np.testing.assert_array_equal(beside.numpy(), np.concatenate([array[1:], array[:-1]], 1))
            assert len(wholes) == x.sharding.count - 1
            wholes.clear()
    assert len(found) == 1


def test_wide_borders_are_not_kept(plans: list[Plan]) -> None:
    with torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=2000):
        x = torch.tensor(np.arange(4000.0), sharding=250)
        for _ in range(2):
            assert ((x[40:] - x[:-40]) ** 2).sum().item() == 3960 * 1600
    assert not any(plan.copies for plan in plans)


def test_what_lay_here_before_is_kept_as_it_is_and_nothing_else_alive() -> None:
    shard, neighbour = np.arange(1.0), np.arange(1000.0)
    joined = Joined([neighbour[-3:], shard], 0, np.empty, 1)
    joined.settle()
    assert joined.pieces[0].base is None
    assert joined.pieces[1] is shard
    np.testing.assert_array_equal(joined.whole(), [997, 998, 999, 0])
