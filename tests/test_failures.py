"""Errors of kernels and of memory: told with the op and the line, and nothing else is spoiled."""

from __future__ import annotations

import contextlib
import sys
from functools import partial

import numpy as np
import pytest
from values import (
    WORKERS,
    Cuts,
    Start,
    X,
    emit,
    known,
    put,
    total,
)

import distgrad as torch
from distgrad import session
from distgrad.cutting import sharding_of
from distgrad.errors import OutOfMemoryError, WorkerError
from distgrad.graph import Value
from distgrad.session.calls import IN_FLIGHT


def line() -> int:
    return sys._getframe(1).f_lineno


def bad_take(x: Value) -> tuple[Value, int]:
    """Takes a row that is not there; only one shard's worker fails."""
    return emit("take", x, put([3, 99]), dim=0, size=37, wrap=True), line()


@pytest.mark.parametrize("cuts", [None, 4, {1: 2}])
@pytest.mark.parametrize("workers", WORKERS)
def test_an_error_in_a_kernel_names_the_op_and_the_line_and_spoils_nothing_else(
    workers: int, cuts: Cuts, start: Start
) -> None:
    start(workers)
    x = put(X, cuts)
    before = emit("exp", x)
    with session.called("index_select"):
        bad, at = bad_take(x)
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


def test_what_no_op_asked_for_is_blamed_on_its_primitive_and_not_on_the_op_before(start: Start) -> None:
    start(2)
    x = torch.tensor(X).reshard(4)  # an op
    bad, _ = bad_take(x._value)
    with pytest.raises(IndexError, match="in take, called at File"):
        session.fetch(bad)


def test_an_op_that_fails_or_calls_another_leaves_the_name_as_it_was() -> None:
    with session.called("outer"):
        torch.exp(torch.tensor(1.0))
        torch.tensor([1.0]).mul_(2).t_()
        torch.zeros(3)
        with pytest.raises(RuntimeError):
            torch.mm(torch.zeros(2, 3), torch.zeros(2, 3))
        with pytest.raises(RuntimeError):
            torch.zeros(2).add_(torch.zeros(3))
        assert session.current_op.name == "outer"
    assert session.current_op.name == ""


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


@pytest.mark.parametrize("first", ["loss", "backward", "neither"])
def test_a_bad_class_is_told_once(first: str, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """Its gradient fails too, at the same class: of that nobody hears."""
    start(3, shard_bytes=64)
    w = torch.randn(8, 4, requires_grad=True)
    target = torch.arange(40) % 5
    loss = torch.nn.functional.cross_entropy(torch.randn(40, 8) @ w, target)
    if first == "loss":
        with pytest.raises(IndexError, match="Target 4 is out of bounds"):
            loss.item()
        with pytest.raises(IndexError, match="Target 4 is out of bounds"):
            loss.backward()
    else:
        loss.backward()
        if first == "backward":
            with pytest.raises(IndexError, match="Target 4 is out of bounds"):
                loss.item()
        session.flush()
    torch.shutdown()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == (first == "neither")
    assert all("Target 4 is out of bounds. in nll_loss_forward" in line for line in told)


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
    for _ in range(3 * IN_FLIGHT):
        x = emit("add", x, known(np.float32(1)))
        session.flush()
    with pytest.raises(IndexError):
        session.synchronize()
    session.synchronize()
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
    for ask in (partial(session.fetch, big), session.synchronize) * 2:
        with pytest.raises(
            OutOfMemoryError, match=r"needs 4,29\d,\d{3},\d{3} bytes .* 1,073,741,824 bytes free"
        ):
            ask()
    assert len(transport.runs()) == 2  # of what is small
    del big, ask
    session.synchronize()
    np.testing.assert_allclose(session.fetch(small), np.exp(X), rtol=1e-6)


def test_an_array_that_does_not_fit_is_not_sent(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = start(2)
    real = transport.nodes
    monkeypatch.setattr(transport, "nodes", lambda: [{**n, "available": 1 << 20} for n in real()])
    array = np.broadcast_to(np.float32(1), (1 << 20, 1 << 7))
    with pytest.raises(OutOfMemoryError, match="Nothing was sent"):
        session.constant(array, sharding_of(array.shape, 1 << 18))
    assert all(method in ("free", "memory") for _, method, _ in transport.calls)


def test_what_failed_beside_it_changes_nothing_about_a_tile() -> None:
    """The same loop runs with other operands missing each time."""
    n = 300_000
    numbers, good = np.random.default_rng(0).standard_normal(n), np.arange(n)[::-1].copy()
    bad = good.copy()
    bad[[5, -5]] = n + 7
    with torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=1 << 20):
        base, x = torch.tensor(numbers), torch.tensor(numbers)
        for first, second in ((good, good), (bad, good), (bad, bad), (good, bad), (good, good)):
            p, q = base.take(torch.tensor(first)), base.index_select(0, torch.tensor(second))
            for taken, index in ((p, first), (q, second)):
                if index is bad:
                    with pytest.raises(IndexError):
                        taken.sum().item()
            both, alone = p * 2 + q, torch.sin(x) * 2 + 1
            np.testing.assert_allclose(alone.numpy(), np.sin(numbers) * 2 + 1)
            if first is second is good:
                np.testing.assert_allclose(both.numpy(), 3 * numbers[::-1])
            else:
                with pytest.raises(IndexError):
                    both.numpy()
