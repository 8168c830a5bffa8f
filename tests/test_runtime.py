"""The runtime from `emit` to `fetch`, with workers in this process: same bits everywhere, and nothing is left over."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from primitive_cases import run_whole
from recorder import Recorder

from distgrad import session
from distgrad.errors import DistgradError, OutOfMemoryError, WorkerError
from distgrad.graph import Value
from distgrad.plan.build import Plan
from distgrad.primitives import TABLE
from distgrad.session import core, door
from distgrad.session.calls import IN_FLIGHT
from distgrad.sharding import sharding_of
from distgrad.worker import address
from distgrad.worker.transport import Handle

Start = Callable[..., Recorder]
Cuts = Any
WORKERS = (1, 2, 3, 5)
emit = session.emit


@pytest.fixture
def start() -> Iterator[Start]:
    """Begin a session with so many workers; all tensors are on the workers."""

    def begin(workers: int = 2, shard_bytes: int = 1 << 20, recorder: type[Recorder] = Recorder) -> Recorder:
        door.shutdown()
        transport = recorder(workers)
        door.attach(transport, inline_bytes=0, shard_bytes=shard_bytes)
        transport.calls.clear()
        return transport

    yield begin
    door.shutdown()


def put(array: Any, cuts: Cuts = None) -> Value:
    """The array on the workers; cut as a user writes it, or (None) whole."""
    array = np.asarray(array)
    return session.constant(array, None if cuts is None else sharding_of(array.shape, cuts))


def known(x: Any) -> Value:
    return Value.known(np.asarray(x))


def total(x: Value, dims: tuple[int, ...] = (0,), keepdim: bool = False) -> Value:
    return emit("sum", x, dims=dims, keepdim=keepdim, dtype=x.dtype.name)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


# Many values, each with what NumPy says.

RNG = np.random.default_rng(0)
X = RNG.standard_normal((37, 6)).astype(np.float32)
G = RNG.standard_normal((37, 5)).astype(np.float32)
W = RNG.standard_normal((6, 5)).astype(np.float32)
B = RNG.standard_normal(5).astype(np.float32)
IDX = np.array([5, 1, 36, 0, 5])
CUTS: dict[str, Cuts] = {
    "whole": None,
    "even": 4,
    "uneven, with empty shards": [0, 0, 1, 1, 20, 30, 37],
    "last": {1: [2, 2, 3]},
    "both": {0: 10, 1: 2},
}


def softmax(x: np.ndarray, dim: int) -> np.ndarray:
    e = np.exp(x - x.max(dim, keepdims=True))
    return e / e.sum(dim, keepdims=True)


def changed(x: np.ndarray, at: Any, values: Any, how: Any = None) -> np.ndarray:
    x = x.copy()
    if how is None:
        x[at] = values
    else:
        how.at(x, at, values)
    return x


def work(cut_x: Cuts, cut_g: Cuts) -> dict[str, tuple[Value, np.ndarray]]:
    """Values of every kind, from operands that are cut as told."""
    x, g, w, b = put(X, cut_x), put(G, cut_g), put(W), known(B)
    h = emit("add", emit("contract", x, w, subscripts="mk,kn->mn"), b)
    q = emit("multiply", emit("tanh", h), g)
    t = emit("permute", x, dims=(1, 0))
    idx = known(IDX)
    taken = emit("take", x, idx, dim=0, size=37, wrap=True)
    part = emit("slice", x, slices=((3, 10, 3), (1, 4, 1)))
    rows = [emit("slice", x, slices=((i, 36, 1), (0, 6, 1))) for i in (0, 1)]
    values, order = session.emit_all("sort", x, dim=0, descending=False)
    xw, Q, P = X @ W + B, np.tanh(X @ W + B) * G, X[3:33:3, 1:5]
    return {
        "h": (h, xw),
        "q": (q, Q),
        "weights' gradient": (emit("contract", x, q, subscripts="mk,mn->kn"), X.T @ Q),
        "sum of all": (total(q, (0, 1)), Q.sum()),
        "sum of columns": (total(q), Q.sum(0)),
        "sum of rows": (total(q, (1,), True), Q.sum(1, keepdims=True)),
        "divided by a sum": (emit("divide", q, total(q, (0,), True)), Q / Q.sum(0)),
        "softmax 1": (emit("softmax", x, dim=1), softmax(X, 1)),
        "softmax 0": (emit("softmax", x, dim=0), softmax(X, 0)),
        "amax": (emit("amax", x, dims=(0,), keepdim=False), X.max(0)),
        "transposed": (t, X.T),
        "of a transposed": (emit("contract", t, x, subscripts="km,mn->kn"), X.T @ X),
        "outer": (emit("contract", x, t, subscripts="mk,kn->mn"), X @ X.T),
        "reshaped": (emit("reshape", emit("reshape", x, shape=(222,)), shape=(6, 37)), X.reshape(6, 37)),
        "slice": (part, P),
        "differences": (emit("subtract", rows[1], rows[0]), X[1:] - X[:-1]),
        "cat 1": (emit("cat", x, g, dim=1, sizes=(6, 5)), np.concatenate([X, G], 1)),
        "cat 0": (emit("cat", q, g, q, dim=0, sizes=(37, 37, 37)), np.concatenate([Q, G, Q])),
        "put": (
            emit("slice_put", x, part, slices=((0, 10, 2), (2, 4, 1))),
            changed(X, (slice(0, 20, 2), slice(2, 6)), P),
        ),
        "flipped": (emit("flip", x, dims=(0,)), X[::-1]),
        "cumsum": (emit("cumsum", x, dim=0, dtype="float32"), X.cumsum(0)),
        "sorted": (values, np.sort(X, 0)),
        "order": (order, np.argsort(X, 0, kind="stable")),
        "taken": (taken, X[IDX]),
        "added": (
            emit("index_add", idx, taken, dim=0, size=37),
            changed(np.zeros_like(X), IDX, X[IDX], np.add),
        ),
        "resharded": (emit("reshard", x, cuts=sharding_of((37, 6), {0: [7, 9], 1: 3})), X),
        "expanded": (
            emit("expand", known(np.float32([[2]])), shape=(37, 6), cuts=x.sharding),
            np.full_like(X, 2),
        ),
        "chosen": (
            emit("where", emit("greater", x, known(np.float32(0))), x, known(np.float32(-1))),
            np.where(X > 0, X, np.float32(-1)),
        ),
        "empty": (emit("slice", x, slices=((4, 0, 1), (0, 6, 1))), X[4:4]),
        "sum of nothing": (total(emit("slice", x, slices=((4, 0, 1), (0, 6, 1)))), np.zeros(6, "f4")),
    }


reference: dict[Any, dict[str, np.ndarray]] = {}


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("cut_g", ["whole", "even", "last"])
@pytest.mark.parametrize("cut_x", CUTS)
def test_results_are_numpys_and_their_bits_the_same_on_any_number_of_workers(
    cut_x: str, cut_g: str, workers: int, start: Start
) -> None:
    start(workers, shard_bytes=300)
    made = work(CUTS[cut_x], {"whole": None, "even": 9, "last": {1: 2}}[cut_g])
    if workers % 2:
        session.flush()
    got = {name: session.fetch(value) for name, (value, _) in made.items()}
    for name, (value, expected) in made.items():
        assert got[name].shape == value.shape == expected.shape
        assert got[name].dtype == value.dtype
        np.testing.assert_allclose(got[name], expected, rtol=2e-4, atol=2e-4, err_msg=name)
    first = reference.setdefault((cut_x, cut_g), got)
    assert [name for name in got if not same_bits(got[name], first[name])] == []


@pytest.mark.parametrize("workers", [1, 3])
def test_fusing_changes_nothing(workers: int, start: Start) -> None:
    """All at once, and each node by a flush of its own."""
    for cuts in CUTS.values():
        start(workers, shard_bytes=300)
        fused = {name: session.fetch(value) for name, (value, _) in work(cuts, 9).items()}
        start(workers, shard_bytes=300)
        record = core.Session.record

        def alone(self: Any, *args: Any, record: Any = record) -> Any:
            values = record(self, *args)
            self.flush()
            return values

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core.Session, "record", alone)
            made = work(cuts, 9)
        for name, (value, _) in made.items():
            np.testing.assert_allclose(session.fetch(value), fused[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_inprocess_workers_by_init() -> None:
    door.shutdown()
    with door.init("inproc", workers=3, inline_bytes=0, shard_bytes=300):
        for value, expected in work(4, 9).values():
            np.testing.assert_allclose(session.fetch(value), expected, rtol=2e-4, atol=2e-4)
    assert not session.is_initialized()


def train(cuts: Cuts, steps: int) -> list[np.ndarray]:
    """Logistic regression by gradient descent: weights, bias and the losses."""
    x, y = (
        put(X, cuts),
        put((X[:, :1] > 0.3).astype(np.float32), cuts if isinstance(cuts, int | list) else None),
    )
    w, b, rate = put(W[:, :1]), put(np.zeros(1, np.float32)), known(np.float32(0.1))
    losses = []
    for _ in range(steps):
        p = emit("sigmoid", emit("add", emit("contract", x, w, subscripts="mk,kn->mn"), b))
        d = emit("subtract", p, y)
        losses.append(total(emit("square", d), (0, 1)))
        w = emit("subtract", w, emit("multiply", rate, emit("contract", x, d, subscripts="mk,mn->kn")))
        b = emit("subtract", b, emit("multiply", rate, total(d)))
        session.flush()
    return [session.fetch(v) for v in (w, b, *losses)]


@pytest.mark.parametrize("cuts", CUTS)
def test_training_has_the_same_bits_on_any_number_of_workers(cuts: str, start: Start) -> None:
    runs = []
    for workers in WORKERS:
        start(workers, shard_bytes=100)
        runs.append(train(CUTS[cuts], 6))
    losses = [float(v) for v in runs[0][2:]]
    assert losses == sorted(losses, reverse=True)
    for run in runs[1:]:
        assert all(same_bits(a, b) for a, b in zip(run, runs[0], strict=True))


# Random graphs.

SHAPES = [(12, 6), (6,), (12, 1), (1,), (), (0, 6), (6, 6)]


def fits(*arrays: np.ndarray) -> bool:
    try:
        np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        return False
    return True


def choices(arrays: list[np.ndarray]) -> list[tuple[str, tuple[int, ...], dict[str, Any]]]:
    """What could be done next: primitive, operands and attributes."""
    found: list[tuple[str, tuple[int, ...], dict[str, Any]]] = []
    for i, a in enumerate(arrays):
        found += [(name, (i,), {}) for name in ("tanh", "negative", "sigmoid")]
        found += [("sum", (i,), {"dims": dims, "keepdim": keep, "dtype": "float64"})
                  for dims in {(), (0,)[: a.ndim], tuple(range(a.ndim))} for keep in (True, False)]  # fmt: skip
        found.append(("reshape", (i,), {"shape": (a.size,)}))
        found.append(("permute", (i,), {"dims": tuple(range(a.ndim))[::-1]}))
        if a.ndim:
            found.append(("flip", (i,), {"dims": (0,)}))
            found.append(("cumsum", (i,), {"dim": 0, "dtype": "float64"}))
            found.append(
                ("slice", (i,), {"slices": tuple((n // 3, (n - n // 3 + 1) // 2, 2) for n in a.shape)})
            )
            inner = tuple((0, n, 1) for n in a.shape[1:])
            if a.size:
                found += [("slice", (i,), {"slices": ((k, len(a) - 1, 1), *inner)}) for k in (0, 1)]
            wider = sharding_of((len(a) + 2, *a.shape[1:]), 3)
            found.append(("pad", (i,), {"slices": ((1, len(a), 1), *inner), "cuts": wider}))
            found.append(("cat", (i, i), {"dim": a.ndim - 1, "sizes": (a.shape[-1],) * 2}))
            found.append(("reshard", (i,), {"cuts": sharding_of(a.shape, {-1: [a.shape[-1] // 2]})}))
            if a.size:
                found.append(("softmax", (i,), {"dim": a.ndim - 1}))
                found.append(("amax", (i,), {"dims": (0,), "keepdim": True}))
                found.append(("reshard", (i,), {"cuts": sharding_of(a.shape, 5)}))
        for j, b in enumerate(arrays):
            if a.ndim == b.ndim and all(m <= n for n, m in zip(a.shape, b.shape, strict=True)):
                slices = tuple((n - m, m, 1) for n, m in zip(a.shape, b.shape, strict=True))
                found.append(("slice_put", (i, j), {"slices": slices}))
            if fits(a, b):
                found += [(name, (i, j), {}) for name in ("add", "multiply", "maximum", "subtract")]
            if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0]:
                found.append(("contract", (i, j), {"subscripts": "mk,kn->mn"}))
            if a.ndim == b.ndim == 2 and a.shape[0] == b.shape[0]:
                found.append(("contract", (i, j), {"subscripts": "km,kn->mn"}))
    return [f for f in found if run_size(arrays, f) <= 2000]


def run_size(arrays: list[np.ndarray], choice: tuple[str, tuple[int, ...], dict[str, Any]]) -> int:
    name, ins, attrs = choice
    primitive = TABLE[name]
    return primitive.shape([door_aval(arrays[i]) for i in ins], attrs)[0].size


def door_aval(array: np.ndarray) -> Any:
    return Value.known(array).result.aval


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_random_graphs(data: st.DataObject) -> None:
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    arrays = [rng.standard_normal(draw(st.sampled_from(SHAPES))) for _ in range(draw(st.integers(1, 3)))]
    cuts = [
        {
            d: sorted(draw(st.lists(st.integers(0, n), max_size=3)))
            for d, n in enumerate(a.shape)
            if draw(st.booleans())
        }
        for a in arrays
    ]
    steps: list[Any] = []
    for _ in range(draw(st.integers(1, 9))):
        name, ins, attrs = draw(st.sampled_from(choices(arrays)))
        steps.append((name, ins, attrs, draw(st.sampled_from(["go on"] * 4 + ["flush", "fetch", "drop"]))))
        arrays.append(np.asarray(run_whole(TABLE[name], [arrays[i] for i in ins], attrs)[0]))
    inputs = len(cuts)
    shard_bytes = draw(st.sampled_from([1, 64, 200, 1 << 20]))
    runs = []
    for workers in (1, draw(st.integers(2, 5))):
        door.shutdown()
        transport = Recorder(workers)
        door.attach(transport, inline_bytes=0, shard_bytes=shard_bytes)
        try:
            values: list[Value | None] = [put(a, c) for a, c in zip(arrays, cuts, strict=False)]
            for n, (name, ins, attrs, then) in enumerate(steps):
                values.append(emit(name, *(values[i] for i in ins), **attrs))  # type: ignore[arg-type]
                if then == "flush":
                    session.flush()
                elif then == "fetch":
                    session.fetch(values[-1])  # type: ignore[arg-type]
                elif then == "drop" and not any(inputs + n in later for _, later, _, _ in steps[n + 1 :]):
                    values[-1] = None
            got = [None if v is None else session.fetch(v) for v in values]
            runs.append(got)
            del values
            session.flush()  # work that nobody waits for holds its operands until then
            session.memory()
            assert [dict(w.store) for w in transport.objects] == [{}] * workers
        finally:
            door.shutdown()
    for array, one, many in zip(arrays, *runs, strict=True):
        if one is not None and many is not None:
            np.testing.assert_allclose(one, array, rtol=1e-9, atol=1e-9)
            assert same_bits(one, many)


# What is not needed is not done, and what is not held is freed.


def test_a_node_that_nobody_holds_never_runs(start: Start) -> None:
    start()
    x = put(X, 4)
    bad = emit("take", x, put([99]), dim=0, size=37, wrap=True)
    further = emit("exp", bad)
    good = emit("exp", x)
    del bad, further
    np.testing.assert_allclose(session.fetch(good), np.exp(X), rtol=1e-6)
    session.synchronize()


def test_nothing_is_sent_for_dropped_values(start: Start) -> None:
    transport = start()
    x = put(X, 4)
    transport.calls.clear()
    emit("exp", x)
    session.flush()
    assert transport.calls == []


def test_a_value_that_only_a_held_one_needs_is_not_kept(start: Start) -> None:
    transport = start()
    x = put(X, 4)
    y = emit("negative", emit("exp", x))
    session.flush()
    assert [len(w.store) for w in transport.objects] == [2, 2]
    np.testing.assert_allclose(session.fetch(y), -np.exp(X), rtol=1e-6)


@pytest.mark.parametrize("cuts", [None, 4, {1: 2}])
def test_freed_values_are_freed_on_the_workers(cuts: Cuts, start: Start) -> None:
    transport = start(3)
    made = work(cuts, 9)
    session.flush()
    for value, _ in made.values():
        session.fetch(value)
    assert all(w.store for w in transport.objects)
    made.clear()
    del value
    gc.collect()
    session.memory()
    assert [dict(w.store) for w in transport.objects] == [{}] * 3
    assert [dict(w.slots) for w in transport.objects] == [{}] * 3
    assert [dict(w.stash) for w in transport.objects] == [{}] * 3


def test_memory_goes_back_to_the_pool_and_is_used_again(start: Start) -> None:
    transport = start(2)
    big = put(np.zeros((4, 100_000), np.float32), 1)
    shard = 100_000 * 4
    for _ in range(3):
        y = emit("exp", big)
        session.flush()
        held = session.memory()
        assert all(4 * shard <= m["held"] <= 4 * shard + 8 * 4096 for m in held)
        del y
        held = session.memory()
        assert all(2 * shard <= m["held"] <= 2 * shard + 4 * 4096 for m in held)
        assert all(2 * shard <= m["pooled"] <= 2 * shard + 4 * 4096 for m in held)
    del big
    assert [m["held"] for m in session.memory()] == [0, 0]
    assert all(
        w.pool.free == sum(b.nbytes for bs in w.pool._blocks.values() for b in bs) for w in transport.objects
    )


def test_a_small_view_does_not_keep_a_large_array(start: Start) -> None:
    start(2)
    x = emit("exp", put(np.zeros((4, 100_000), np.float32), 1))
    y = emit("slice", x, slices=((0, 4, 1), (5, 10, 1)))
    session.flush()
    del x
    assert [m["held"] for m in session.memory()] == [0, 0]
    np.testing.assert_array_equal(session.fetch(y), np.ones((4, 10), np.float32))


def test_a_fetched_array_stays_as_it_was(start: Start) -> None:
    """Though the memory that it was computed in is used again."""
    start(2)
    big = put(np.arange(200_000, dtype=np.float32), 50_000)
    y = emit("negative", big)
    got = session.fetch(y)
    assert not got.flags.writeable
    del y
    for _ in range(3):
        session.fetch(emit("exp", big))
    np.testing.assert_array_equal(got, -np.arange(200_000, dtype=np.float32))


def test_an_array_may_be_changed_after_it_was_sent(start: Start) -> None:
    start(2)
    array = np.arange(100_000, dtype=np.float32)
    value = put(array, 30_000)
    array[:] = 0
    np.testing.assert_array_equal(session.fetch(value), np.arange(100_000, dtype=np.float32))


def test_many_flushes_leave_nothing_behind(start: Start) -> None:
    transport = start(2, shard_bytes=100)
    x, w = put(X, 4), put(W)
    for _ in range(3 * IN_FLIGHT):
        h = emit("contract", x, w, subscripts="mk,kn->mn")
        w = emit("add", w, emit("contract", x, emit("softmax", h, dim=0), subscripts="mk,mn->kn"))
        session.flush()
    session.fetch(w)
    del h, w
    session.memory()
    assert [len(worker.store) for worker in transport.objects] == [1, 1]
    assert [worker.stash for worker in transport.objects] == [{}, {}]


# Plans.


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """All plans that are made."""
    made: list[Plan] = []
    build = core.build

    def noted(*args: Any) -> Plan:
        made.append(build(*args))
        return made[-1]

    monkeypatch.setattr(core, "build", noted)
    return made


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
    monkeypatch.setattr(address, "FAN", 2)
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
                emit("slice_put", x, y, slices=tuple((0, n, 1) for n in shape)),
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


# Errors.


def line() -> int:
    return sys._getframe(1).f_lineno


def bad_take(x: Value) -> tuple[Value, int]:
    """Takes a row that is not there; only one shard's worker fails."""
    return emit("take", x, put([3, 99]), dim=0, size=37, wrap=True), line()


@pytest.mark.parametrize("cuts", [None, 4, {1: 2}])
@pytest.mark.parametrize("workers", WORKERS)
def test_an_error_in_a_kernel_names_the_op_and_the_line_and_spoils_nothing_else(
    workers: int, cuts: Cuts, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(workers)
    x = put(X, cuts)
    before = emit("exp", x)
    monkeypatch.setattr(session.current_op, "name", "index_select", raising=False)
    bad, at = bad_take(x)
    monkeypatch.setattr(session.current_op, "name", "?")
    poisoned = emit("subtract", emit("exp", bad), total(bad, (0,), True))
    good = emit("multiply", before, x)
    moved = emit("cumsum", good, dim=0, dtype="float32")
    session.flush()
    messages = []
    for value in (bad, bad, poisoned, poisoned):
        with pytest.raises(
            IndexError, match="index 99 is out of bounds for dimension 0 with size 37"
        ) as caught:
            session.fetch(value)
        assert isinstance(caught.value, WorkerError)
        messages.append(str(caught.value))
    assert set(messages) == {messages[0]}
    assert f'index_select, called at File "{__file__}", line {at}' in messages[0]
    np.testing.assert_allclose(session.fetch(good), np.exp(X) * X, rtol=1e-6)
    np.testing.assert_allclose(session.fetch(moved), (np.exp(X) * X).cumsum(0), rtol=1e-3, atol=1e-3)
    with pytest.raises(IndexError, match="index 99"):
        emit("exp", bad)
    after = emit("negative", before)  # the session goes on
    np.testing.assert_allclose(session.fetch(after), -np.exp(X), rtol=1e-6)
    session.synchronize()


def test_an_error_that_nobody_asked_for_is_told_once(start: Start) -> None:
    start(2)
    x = put(X, 4)
    bad, at = bad_take(x)
    good = emit("exp", x)
    with pytest.raises(IndexError, match=f"line {at}$"):
        session.synchronize()
    session.synchronize()
    np.testing.assert_allclose(session.fetch(good), np.exp(X), rtol=1e-6)
    with pytest.raises(IndexError, match=f"line {at}$"):
        session.fetch(bad)


def test_what_is_made_of_a_failed_value_in_a_later_flush_fails_alike(start: Start) -> None:
    start(3)
    x = put(X, 4)
    bad, at = bad_take(x)
    session.flush()
    later = emit("subtract", emit("exp", bad), total(bad, (0,), True))
    session.flush()
    mixed = total(emit("add", later, known(np.float32(1))), (0, 1))
    for value in (mixed, later):
        with pytest.raises(IndexError, match=f"line {at}$"):
            session.fetch(value)
    np.testing.assert_array_equal(session.fetch(emit("add", x, x)), X + X)


def test_each_of_two_errors_is_told_with_its_own_line(start: Start) -> None:
    start(2)
    x, zero = put(np.arange(9), 2), put(np.zeros(9, np.int64), 2)
    a, b = emit("remainder", x, zero), emit("floor_divide", x, zero)
    c, at = bad_take(put(X, 4))
    session.flush()
    for value, text in ((a, "ZeroDivisionError"), (b, "ZeroDivisionError"), (c, f"index 99.*line {at}$")):
        with pytest.raises(WorkerError, match=text):
            session.fetch(value)
    np.testing.assert_array_equal(session.fetch(emit("add", x, zero)), np.arange(9))


def test_an_error_in_a_tile_of_a_long_loop(start: Start) -> None:
    array = np.ones(100_003, np.int64)
    array[70_000] = 0
    start(2)
    x = put(array, 40_000)
    y = emit("add", x, x)
    bad = emit("floor_divide", y, x)
    good = emit("multiply", y, x)
    after = total(emit("negative", bad))
    session.flush()
    for value in (bad, after):
        with pytest.raises(WorkerError, match="ZeroDivisionError"):
            session.fetch(value)
    np.testing.assert_array_equal(session.fetch(good), 2 * array * array)
    assert session.fetch(total(good)) == 2 * (array * array).sum()


@pytest.mark.parametrize("flushed", [True, False])
def test_an_error_in_small_work_that_waits_for_a_sum(flushed: bool, start: Start) -> None:
    """Such work is left pending and done where its result is asked for."""
    start(2)
    s = total(put(X, 4))
    bad, at = emit("take", s, put([99]), dim=0, size=6, wrap=True), line()
    further = emit("exp", bad)
    if flushed:
        session.flush()
    for value in (further, bad):
        with pytest.raises(IndexError, match="index 99 is out of bounds") as caught:
            session.fetch(value)
        assert isinstance(caught.value, WorkerError)
        assert f'File "{__file__}", line {at}' in str(caught.value)
    np.testing.assert_allclose(session.fetch(s), X.sum(0), rtol=1e-4)
    np.testing.assert_array_equal(session.fetch(put(X, 4)), X)


def test_an_error_that_is_heard_of_while_work_is_sent_spoils_nothing(start: Start) -> None:
    """More stages are sent than may be on their way, so the driver hears of the first before it has sent the last."""
    start(2)
    x = put(X, 4)
    bad, _ = bad_take(x)
    session.flush()
    told = 0
    for _ in range(3 * IN_FLIGHT):
        x = emit("add", x, known(np.float32(1)))
        try:
            session.flush()
        except IndexError:
            told += 1
    try:
        session.synchronize()
    except IndexError:
        told += 1
    assert told == 1
    np.testing.assert_allclose(session.fetch(x), X + 3 * IN_FLIGHT, rtol=1e-5)
    with pytest.raises(IndexError):
        session.fetch(bad)


def test_an_error_keeps_no_values_alive(start: Start) -> None:
    transport = start(2)

    def fail() -> None:
        x = emit("exp", put(X, 4))
        bad, _ = bad_take(x)
        for value in (bad, bad, x):
            with contextlib.suppress(WorkerError):
                session.fetch(value)

    fail()
    session.memory()
    assert [dict(w.store) for w in transport.objects] == [{}, {}]


def test_more_memory_than_there_is_is_refused_before_anything_is_sent(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = start(2)
    real = transport.nodes
    monkeypatch.setattr(transport, "nodes", lambda: [{**n, "available": 1 << 30} for n in real()])
    key = put([1, 2])
    shape = (1 << 20, 1 << 10)  # 4 GiB
    big = emit("random", key, shape=shape, kind="uniform", dtype="float32", low=0, high=0, cuts=None)
    small = emit("exp", put(X, 4))
    transport.calls.clear()
    for _ in range(2):
        with pytest.raises(
            OutOfMemoryError, match=r"needs 4,29\d,\d{3},\d{3} bytes .* 1,073,741,824 bytes free"
        ):
            session.flush()
        with pytest.raises(MemoryError):
            session.fetch(small)
    assert transport.calls == []
    del big
    np.testing.assert_allclose(session.fetch(small), np.exp(X), rtol=1e-6)


def test_an_array_that_does_not_fit_is_not_sent(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = start(2)
    real = transport.nodes
    monkeypatch.setattr(transport, "nodes", lambda: [{**n, "available": 1 << 20} for n in real()])
    array = np.broadcast_to(np.float32(1), (1 << 20, 1 << 7))
    with pytest.raises(OutOfMemoryError, match="Nothing was sent"):
        session.constant(array, sharding_of(array.shape, 1 << 18))
    assert transport.calls == []


# The end of a session.


def old_values(start: Start) -> dict[str, Value]:
    """A stored value, a sum in pieces and a pending one, of a session that has ended."""
    start(2)
    x = put(X, 4)
    values = {"stored": emit("exp", x), "boxed": total(x)}
    session.flush()
    values["pending"] = emit("exp", x)
    door.shutdown()
    return values


@pytest.mark.parametrize("kind", ["stored", "boxed", "pending"])
def test_values_of_a_session_that_was_shut_down_say_so(
    kind: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = old_values(start)[kind]
    with monkeypatch.context() as patch:
        patch.setattr(door, "init", lambda *args, **kwargs: pytest.fail("a session is started in vain"))
        with pytest.raises(DistgradError, match="contents were lost"):
            session.fetch(value)
    start(2)
    with pytest.raises(DistgradError, match="contents were lost"):
        session.fetch(value)
    with pytest.raises(DistgradError, match="contents were lost"):
        session.fetch(emit("exp", value))
    np.testing.assert_array_equal(session.fetch(put(X, 4)), X)


def test_a_value_that_was_fetched_outlives_its_session(start: Start) -> None:
    start(2)
    value = emit("negative", put(X, 4))
    session.fetch(value)
    door.shutdown()
    np.testing.assert_array_equal(session.fetch(value), -X)
    start(3)
    np.testing.assert_array_equal(session.fetch(emit("negative", value)), X)


def test_a_large_value_of_the_driver_is_sent_once(start: Start) -> None:
    transport = start(2)
    value = known(np.arange(50_000, dtype=np.float32))
    for _ in range(3):
        assert session.fetch(emit("amax", value, dims=(0,), keepdim=False)) == 49_999
    assert [method for _, method, _ in transport.calls].count("load") == 2


def test_workers_that_begin_a_new_session_forget_the_old_one(start: Start) -> None:
    transport = start(2)
    kept = emit("exp", put(X, 4))
    session.flush()
    assert door.detach() is transport
    door.attach(transport, inline_bytes=0, shard_bytes=100)
    assert [dict(w.store) for w in transport.objects] == [{}, {}]
    with pytest.raises(DistgradError, match="contents were lost"):
        session.fetch(kept)
    del kept
    again = emit("exp", put(X, 4))
    np.testing.assert_allclose(session.fetch(again), np.exp(X), rtol=1e-6)


def test_long_chains_need_no_recursion(start: Start) -> None:
    start(2)
    x = put(np.ones(3, np.float32), 2)
    one = known(np.float32(1))
    for _ in range(2000):
        x = emit("add", x, one)
    np.testing.assert_array_equal(session.fetch(x), np.full(3, 2001, np.float32))


def test_operands_may_be_the_same_value(start: Start) -> None:
    for workers, cuts in itertools.product(WORKERS, (None, 4, {1: 2})):
        start(workers)
        x = put(X, cuts)
        np.testing.assert_array_equal(session.fetch(emit("add", x, x)), X + X)
        got = session.fetch(emit("contract", x, x, subscripts="mk,nk->mn"))
        np.testing.assert_allclose(got, X @ X.T, rtol=1e-4, atol=1e-4)
