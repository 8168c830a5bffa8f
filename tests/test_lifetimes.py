"""What is not needed is not done, what is not held is freed, and how sessions end."""

from __future__ import annotations

import gc
import itertools
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from values import (
    WORKERS,
    Cuts,
    Start,
    W,
    X,
    emit,
    known,
    numbers,
    put,
    total,
    work,
)

from distgrad import session
from distgrad.errors import DistgradError
from distgrad.graph import Value
from distgrad.plan import lower
from distgrad.session import door
from distgrad.session.calls import IN_FLIGHT
from distgrad.worker.pool import Pool, default_spare


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
        w.pool.free == sum(c.touched for cs in w.pool._chunks.values() for c in cs) for w in transport.objects
    )


def test_a_pool_keeps_what_it_may_and_no_more() -> None:
    assert default_spare() >= 256 << 20
    pool = Pool(4 << 20)
    arrays = [pool.take((1 << 20,), np.dtype(np.uint8)) for _ in range(6)]
    assert (pool.held, pool.free) == (6 << 20, 0)
    del arrays
    assert (pool.held, pool.free) == (0, 4 << 20)


def test_a_pool_may_get_memory_back_at_any_moment() -> None:
    pool = Pool(1 << 20)

    class Collecting(OrderedDict[int, Any]):
        """Stands for the collector, which may end any array between two steps of the pool's."""

        def move_to_end(self, key: int, last: bool = True) -> None:
            super().move_to_end(key, last)
            doomed.clear()

    doomed: list[np.ndarray] = []
    pool._chunks = Collecting()
    byte = np.dtype(np.uint8)
    for _ in range(3):
        array = pool.take((512 << 10,), byte)
        others = [pool.take((1 << 20,), byte), pool.take((1 << 20,), byte)]
        del array  # so that the next one of its size is a used one
        doomed += others
        del others
        array = pool.take((512 << 10,), byte)
        assert pool.held == 512 << 10
        del array
        assert (pool.held, pool.free) == (0, sum(c.touched for cs in pool._chunks.values() for c in cs))
        assert pool.free <= 1 << 20


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


@pytest.mark.parametrize(("limit", "kept"), [(1 << 16, True), ((1 << 16) - 1, False)])
def test_what_was_gathered_is_kept_up_to_a_limit(
    limit: int, kept: bool, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lower, "COPY_WHOLE", limit)
    transport = start(2)
    square = numbers(128, 128).astype(np.float32)
    a, b = put(square, 40), put(square.T, 40)
    calls = []
    for _ in range(3):
        transport.calls.clear()
        product = session.fetch(emit("contract", a, b, subscripts="mk,kn->mn"))
        np.testing.assert_allclose(product, square @ square.T, rtol=1e-5)
        calls.append(len(transport.runs()))
    assert calls == ([6, 4, 4] if kept else [6, 6, 6])
    assert all((m["held"] >= square.nbytes) == kept for m in session.memory())
    del b
    assert all(m["held"] < square.nbytes for m in session.memory())


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
