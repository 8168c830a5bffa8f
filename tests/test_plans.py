"""Plans, exchanges between stages and flushes, and loops over tiles."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from recorder import Recorder
from values import (
    WORKERS,
    Start,
    W,
    X,
    emit,
    known,
    put,
    same_bits,
    softmax,
    total,
    train,
)

import distgrad as torch
from distgrad import session
from distgrad.exchange import routing
from distgrad.graph import Value
from distgrad.plan.plans import Plan
from distgrad.session import placement, recording, sending
from distgrad.worker.execute import Runner
from distgrad.worker.pool import Pool
from distgrad.worker.transport import Handle

# Plans.


def test_many_light_steps_are_cut_at_their_ends(
    start: Start, plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut by the limit of pending nodes alone, each part of the loop had another plan."""
    monkeypatch.setattr(placement, "STEPS", 40)
    for module in (recording, sending):
        monkeypatch.setattr(module, "FULL", 101)
    start(2)
    x = torch.tensor(X, sharding=4)
    w = torch.ones(X.shape[1], 2, requires_grad=True)
    for _ in range(60):
        (x @ w).tanh().square().mean().backward()
        with torch.no_grad():
            w -= 0.1 * w.grad
            w.grad = None
    torch.synchronize()
    assert 1 <= len(plans) <= 4


def test_a_second_step_is_planned_for_the_price_of_a_hash(start: Start, plans: list[Plan]) -> None:
    start(2)
    x, w = put(X, 4), put(W)
    counts = []
    for step in range(6):
        rate = known(np.float32(0.1 / (step + 1)))  # scalars are data, no part of the structure
        g = emit("contract", x, emit("contract", x, w, subscripts="mk,kn->mn"), subscripts="mk,mn->kn")
        w = emit("subtract", w, emit("multiply", g, rate))
        session.flush()
        counts.append(len(plans))
    assert counts[0] >= 1
    assert counts[2:] == counts[2:3] * 4
    expected = W.copy()
    for step in range(6):
        expected = expected - X.T @ (X @ expected) * np.float32(0.1 / (step + 1))
    np.testing.assert_allclose(session.fetch(w), expected, rtol=1e-3)


def test_another_structure_is_another_plan(start: Start, plans: list[Plan]) -> None:
    start(2)
    x = put(X, 4)
    kept = []
    for name, attrs in (
        ("exp", {}),
        ("exp", {}),
        ("tanh", {}),
        ("softmax", {"dim": 0}),
        ("softmax", {"dim": 1}),
    ):
        kept.append(emit(name, x, **attrs))
        session.flush()
    assert len(plans) == 4
    y, both = emit("exp", x), emit("exp", x)  # the same nodes, but two values are wanted
    session.flush()
    assert len(plans) == 5
    for value in (*kept[:2], y, both):
        np.testing.assert_allclose(session.fetch(value), np.exp(X), rtol=1e-6)


def step_of(x: Value, w: Value) -> tuple[Value, Value]:
    """One step of a least-squares fit."""
    d = emit("tanh", emit("contract", x, w, subscripts="mk,kn->mn"))
    return emit("subtract", w, emit("contract", x, d, subscripts="mk,mn->kn")), total(
        emit("square", d), (0, 1)
    )


def test_what_is_held_belongs_to_the_structure(start: Start, plans: list[Plan]) -> None:
    start(2)
    x = put(X, 4)
    for held in (False, True, False, True):
        y = emit("exp", x)
        z = emit("negative", y)
        if not held:
            del y
        session.flush()
        np.testing.assert_allclose(session.fetch(z), -np.exp(X), rtol=1e-6)
        if held:
            np.testing.assert_allclose(session.fetch(y), np.exp(X), rtol=1e-6)
    assert len(plans) == 2


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_one_call_for_each_worker_and_stage_whatever_the_number_of_shards(
    workers: int, start: Start, plans: list[Plan]
) -> None:
    rows = 1 << 14
    array = np.ones((rows, 2), np.float32)
    sent = []
    for shards in (16, 4096):
        transport = start(workers)
        x, w = put(array, rows // shards), put(np.ones((2, 1), np.float32))
        assert x.sharding.count == shards
        for _ in range(2):
            plans.clear()
            transport.calls.clear()
            w, loss = step_of(x, w)
            session.flush()
            stages = sum(len(plan.stages) for plan in plans) or stages  # noqa: F821 - known from the step before
            assert [worker for worker, *_ in transport.calls] == list(range(workers)) * stages
            assert {method for _, method, _ in transport.calls} == {"run"}
        sent.append(transport.runs())
        session.fetch(loss)
    assert len(sent[0]) == len(sent[1])
    assert all(abs(a - b) < 64 for a, b in zip(*sent, strict=True))


@pytest.mark.parametrize(("workers", "each"), [(3, 2 + 1), (7, 4 + 2 + 1), (8, 4 + 2 + 1)])
def test_among_many_workers_replies_come_in_bundles(
    workers: int, each: int, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits, and no call takes more handles than a bundle has."""
    start(workers, shard_bytes=100)
    expected = train(4, 3)
    monkeypatch.setattr(routing, "FAN", 2)
    transport = start(workers, shard_bytes=100)
    given = []
    call = transport.call

    def counted(worker: int, method: str, args: tuple[Any, ...], returns: int) -> list[Handle]:
        given.append(sum(type(a) is Handle for a in args))
        return call(worker, method, args, returns)

    monkeypatch.setattr(transport, "call", counted)
    found = train(4, 3)
    assert all(same_bits(a, b) for a, b in zip(found, expected, strict=True))
    assert max(given) == 2
    bundles = sum(method == "bundle" for _, method, _ in transport.calls)
    assert bundles > 0
    assert bundles % each == 0


class Deaf(Recorder):
    """Workers that do nothing: what is left is the driver's own work."""

    deaf = False

    def call(self, worker: int, method: str, args: tuple[Any, ...], returns: int) -> list[Handle]:
        if not self.deaf:
            return super().call(worker, method, args, returns)
        return [Handle(worker, None) for _ in range(returns)]

    def wait(self, handles: list[Handle], timeout: float | None = None) -> list[bool]:
        return [not self.deaf and handle.ref is not None for handle in handles]


def driver_calls(work: Callable[[], Any]) -> int:
    """The number of Python and C calls that `work` takes."""
    count = 0

    def note(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def test_the_driver_works_for_ops_and_not_for_shards(start: Start) -> None:
    rows = 1 << 14
    counts = []
    for shards in (16, 4096):
        transport = start(2, recorder=Deaf)
        x, w = put(np.ones((rows, 2), np.float32), rows // shards), put(np.ones((2, 1), np.float32))
        assert isinstance(transport, Deaf)
        transport.deaf = True
        # The first two may be planned.
        counts.append([driver_calls(lambda x=x, w=w: (step_of(x, w), session.flush())) for _ in range(3)])
        transport.deaf = False
    first, many = counts
    assert many[0] < 1.2 * first[0]  # planning too
    assert many[-1] < 1.2 * first[-1]
    assert first[-1] < first[0] / 2


# Exchanges between stages and between flushes.


def test_values_of_one_flush_are_used_in_later_ones(start: Start) -> None:
    start(3)
    x = put(X, 4)
    y = emit("exp", x)
    session.flush()
    z = emit("add", y, x)
    s = total(z)
    session.flush()
    q = emit("divide", z, s)
    session.flush()
    expected = (np.exp(X) + X) / (np.exp(X) + X).sum(0)
    np.testing.assert_allclose(session.fetch(q), expected, rtol=1e-4)
    np.testing.assert_allclose(session.fetch(s), (np.exp(X) + X).sum(0), rtol=1e-5)


@pytest.mark.parametrize("first", ["driver", "workers"])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("wide", [6, 6000])
def test_a_sum_in_pieces_is_read_by_the_driver_and_by_later_stages(
    first: str, workers: int, wide: int, start: Start
) -> None:
    """`wide` is above and below the size to which pieces travel inside the reply."""
    start(workers)
    array = np.random.default_rng(1).standard_normal((40, wide)).astype(np.float32)
    x = put(array, 7)
    s = total(x)
    session.flush()
    assert s.result.box is not None
    if first == "driver":
        session.fetch(s)
    y = emit("divide", x, s)
    z = emit("add", emit("negative", s), s)
    session.flush()
    np.testing.assert_allclose(session.fetch(y), array / array.sum(0), rtol=1e-2)
    np.testing.assert_array_equal(session.fetch(z), 0)
    got = session.fetch(s)
    np.testing.assert_allclose(got, array.sum(0), rtol=1e-4, atol=1e-4)
    start(1)
    assert same_bits(session.fetch(total(put(array, 7))), got)


@pytest.mark.parametrize("workers", WORKERS)
def test_programs_of_many_stages(workers: int, start: Start, plans: list[Plan]) -> None:
    start(workers, shard_bytes=100)
    x = put(X, 4)
    y, expected = x, X.astype(np.float64)
    for n in range(4):
        y = emit("subtract", y, emit("divide", total(y, (0,), True), known(np.float32(37))))
        y = emit("divide", y, emit("sqrt", total(emit("square", y), (1,), True)))
        y = emit("cumsum", y, dim=n % 2, dtype="float32")
        expected = expected - expected.mean(0)
        expected /= np.sqrt((expected**2).sum(1, keepdims=True))
        expected = expected.cumsum(n % 2)
    np.testing.assert_allclose(session.fetch(y), expected, rtol=1e-3, atol=1e-3)
    assert max(len(plan.stages) for plan in plans) >= 8


# Loops.


@pytest.mark.parametrize("n", [1, 16_383, 16_384, 16_385, 100_003])
@pytest.mark.parametrize("cuts", [None, 40_000, [0, 5, 5, 20_000]])
def test_long_loops_with_a_ragged_last_tile(n: int, cuts: Any, start: Start) -> None:
    array = np.random.default_rng(2).standard_normal(n)
    cuts = [min(p, n) for p in cuts] if isinstance(cuts, list) else cuts
    results = []
    for workers in (1, 2):
        start(workers)
        x = put(array, cuts)
        y = emit("multiply", emit("exp", emit("negative", x)), x)
        found = y, total(y), emit("amax", y, dims=(0,), keepdim=True), emit("greater", y, known(0.0))
        results.append([session.fetch(v) for v in found])
    expected = np.exp(-array) * array
    np.testing.assert_allclose(results[0][0], expected, rtol=1e-12)
    np.testing.assert_allclose(results[0][1], expected.sum(), rtol=1e-9)
    np.testing.assert_allclose(results[0][2], expected.max(keepdims=True), rtol=1e-12)
    np.testing.assert_array_equal(results[0][3], expected > 0)
    assert all(same_bits(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    "shape", [(3, 50_000), (50_000, 3), (300, 301), (1, 40_000), (40_000, 1), (20, 30, 77)]
)
@pytest.mark.parametrize("cuts", [None, {0: 2}, {1: 150}, {0: 200, 1: [0, 2, 2]}])
def test_loops_over_arrays_of_every_form(shape: tuple[int, ...], cuts: Any, start: Start) -> None:
    array = np.random.default_rng(3).standard_normal(shape)
    if cuts == {0: 2} and shape[0] > 1000:
        cuts = {0: 20_001}
    results = []
    for workers in (1, 3):
        start(workers, shard_bytes=100_000)
        x = put(array, {d: c if isinstance(c, int) else [min(p, shape[d]) for p in c] for d, c in cuts.items()}
                if cuts else None)  # fmt: skip
        y = emit("tanh", emit("multiply", x, known(0.5)))
        last = len(shape) - 1
        found = [
            emit("subtract", y, emit("amax", y, dims=(last,), keepdim=True)),
            emit("subtract", y, total(y, (0,), True)),
            total(y, (last,)),
            total(y, tuple(range(len(shape)))),
            emit("permute", y, dims=tuple(range(len(shape)))[::-1]),
            emit("softmax", y, dim=last),
        ]
        results.append([session.fetch(v) for v in found])
    y = np.tanh(array * 0.5)
    expected = [
        y - y.max(-1, keepdims=True), y - y.sum(0, keepdims=True), y.sum(-1), y.sum(), y.transpose(), softmax(y, -1),
    ]  # fmt: skip
    for got, again, want in zip(*results, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8)
        assert same_bits(got, again)


def test_a_step_that_needs_more_than_a_tile_of_what_another_makes(start: Start) -> None:
    """Both could run by tiles of the same size, but not by the same tiles."""
    square, long = np.random.default_rng(7).standard_normal((150, 150)), np.ones((300, 100)) / 100
    for workers, cuts in itertools.product((1, 2), (None, 50)):
        start(workers)
        y, z = emit("exp", put(square, cuts)), emit("exp", put(long, cuts))
        got = session.fetch(emit("softmax", y, dim=0))
        np.testing.assert_allclose(got, softmax(np.exp(square), 0), rtol=1e-10)
        got = session.fetch(emit("add", emit("permute", y, dims=(1, 0)), y))
        np.testing.assert_allclose(got, np.exp(square).T + np.exp(square), rtol=1e-10)
        got = session.fetch(emit("contract", z, z, subscripts="mk,nk->mn"))
        np.testing.assert_allclose(got, np.exp(long) @ np.exp(long).T, rtol=1e-10)


def test_a_temporary_that_is_viewed_keeps_its_buffer(start: Start) -> None:
    array = np.random.default_rng(6).standard_normal(100_003)
    start(2)
    x = put(array, 40_000)
    columns = [emit("expand_dims", emit(name, x), dims=(1,)) for name in ("exp", "tanh")]
    difference = emit("subtract", *columns)
    columns.clear()  # what is held would be kept, and so not be a temporary
    got = session.fetch(difference)
    np.testing.assert_allclose(got, (np.exp(array) - np.tanh(array))[:, None], rtol=1e-12)


def test_a_step_writes_over_what_it_is_the_last_to_read_and_nothing_else(start: Start) -> None:
    array = np.random.default_rng(6).uniform(-3, 3.4, 100_003)
    start(2)
    x = put(array, 40_000)
    a = emit("exp", x)
    b = emit("log_sigmoid", emit("negative", emit("multiply", a, a)))  # which reads its operand twice
    c = emit("subtract", emit("sigmoid", b), b)
    d = emit("expand_dims", emit("cos", c), dims=(1,))
    e = emit(
        "squeeze_dims", emit("multiply", emit("expand_dims", emit("add", a, c), dims=(1,)), d), dims=(1,)
    )
    result = emit("cast", emit("less", e, emit("squeeze_dims", d, dims=(1,))), dtype="float64")
    total = emit("add", emit("multiply", e, result), a)
    a = b = c = d = e = result = x  # what is held would be kept, and so not be a temporary
    got = session.fetch(total)
    a = np.exp(array)
    b = -np.logaddexp(0, a * a)
    c = np.exp(b) / (1 + np.exp(b)) - b
    e = (a + c) * np.cos(c)
    np.testing.assert_allclose(got, e * (e < np.cos(c)) + a, rtol=1e-9, atol=1e-9)


def test_ufuncs_in_a_row_need_one_buffer(
    start: Start, plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTGRAD_COMPILE", "0")  # compiled they need none
    array = np.random.default_rng(6).standard_normal(100_003)
    start(2)
    got = session.fetch(emit("sin", emit("exp", emit("negative", emit("cos", put(array, 40_000))))))
    assert same_bits(got, np.sin(np.exp(-np.cos(array))))
    (fragment,) = Runner(plans[-1].stages[0].program, Pool()).fragments
    assert [runner.buffer_bytes for runner in fragment[1]] == [[262_144]]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (3, 0), (1, 1), (2, 0, 3)])
def test_tensors_of_no_size_and_of_no_dimension(shape: tuple[int, ...], workers: int, start: Start) -> None:
    array = np.random.default_rng(4).standard_normal(shape)
    ways: list[Any] = [None] if not shape else [None, {0: [0]}, {len(shape) - 1: [0, 0, shape[-1]]}]
    for cuts in ways:
        start(workers)
        x = put(array, cuts)
        dims = tuple(range(len(shape)))
        y = emit("add", emit("exp", x), known(1.0))
        found: dict[str, tuple[Value, Any]] = {
            "itself": (x, array),
            "aligned": (y, np.exp(array) + 1),
            "sum": (total(y, dims), (np.exp(array) + 1).sum()),
            "kept": (total(y, dims, True), (np.exp(array) + 1).sum(keepdims=True)),
            "flat": (emit("reshape", x, shape=(array.size,)), array.reshape(array.size)),
            "permuted": (emit("permute", x, dims=dims[::-1]), array.transpose()),
            "opened": (emit("expand_dims", x, dims=(0,)), array[None]),
            "sliced": (emit("slice", x, slices=tuple((0, n, 1) for n in shape)), array),
            "back": (
                emit("slice_put", x, y, parts=(tuple((0, n, 1) for n in shape),)),
                np.exp(array) + 1,
            ),
        }
        if shape:
            found["cat"] = (
                emit("cat", x, y, dim=0, sizes=(shape[0],) * 2),
                np.concatenate([array, np.exp(array) + 1]),
            )
            found["one"] = (total(y, (0,)), (np.exp(array) + 1).sum(0))
        for name, (value, expected) in found.items():
            got = session.fetch(value)
            assert got.shape == np.shape(expected), name
            np.testing.assert_allclose(got, expected, rtol=1e-12, err_msg=name)
