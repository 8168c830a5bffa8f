"""Faults that were found once: each test is the smallest program that showed one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import distgrad as torch
from distgrad import session
from distgrad.errors import DistgradError, WorkerError
from distgrad.session import Session, door
from distgrad.session.calls import IN_FLIGHT
from distgrad.session.sending import COPIES


def start(workers: int = 2, inline_bytes: int = 0, shard_bytes: int = 64) -> Session:
    return torch.init("inproc", workers=workers, inline_bytes=inline_bytes, shard_bytes=shard_bytes)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No session before or after."""
    door.shutdown()
    yield
    door.shutdown()


def held(s: Session) -> list[tuple[int, int]]:
    """For each worker, how many values it stores and how many calls it keeps something of."""
    gc.collect()
    torch.memory()
    workers: list[Any] = s.transport._workers  # type: ignore[attr-defined]
    return [(len(w.store), len(w.stash)) for w in workers]


def failing() -> torch.Tensor:
    """A tensor that cannot be computed, which only a worker finds out."""
    return torch.gather(torch.arange(100), 0, torch.arange(4) + 1000)


def test_an_earlier_failure_does_not_lose_the_work_during_which_it_is_heard_of() -> None:
    start()
    x, bad = torch.arange(100).float(), failing()
    w = torch.zeros(100)
    for _ in range(2 * IN_FLIGHT):
        w = w + x
        session.flush()
    np.testing.assert_array_equal(w.numpy(), 2 * IN_FLIGHT * np.arange(100))
    with pytest.raises(WorkerError, match=r"test_regressions\.py"):
        torch.synchronize()
    del bad


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_work_that_ctrl_c_broke_off_is_done_the_next_time(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    s = start()
    x = torch.arange(100).float().requires_grad_()
    y = (x.reshard([50]) * 2 + x.sum()).sum()
    original, calls = s.transport.call, [0]

    def interrupted(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(s.transport, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        (y.backward(), y.item())
    assert y.item() == 2 * 4950 + 100 * 4950
    if x.grad is None:
        y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(100, 102.0))
    del x, y
    assert held(s) == [(0, 0), (0, 0)]


def test_a_time_out_does_not_lose_whose_failure_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    s = start()
    bad = failing()
    session.flush()
    original = s.transport.get

    def slow(*args: Any) -> Any:
        monkeypatch.setattr(s.transport, "get", original)
        raise TimeoutError

    monkeypatch.setattr(s.transport, "get", slow)
    with pytest.raises(TimeoutError):
        session.synchronize()
    with pytest.raises(WorkerError, match="in gather, called at"):
        bad.numpy()


def test_a_call_that_failed_is_told_once_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    s = start()
    x = torch.randn(100, 4)
    session.flush()
    worker = s.transport._workers[1]  # type: ignore[attr-defined]
    original, calls = worker.run, [0]

    def full(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise MemoryError("full")
        return original(*args)

    monkeypatch.setattr(worker, "run", full)
    y = x.reshard([50]) * 2
    with pytest.raises(WorkerError, match="full"):
        y.numpy()
    np.testing.assert_array_equal((torch.ones(100) + 1).numpy(), np.full(100, 2.0))
    del x, y
    assert held(s) == [(0, 0), (0, 0)]


def test_an_error_does_not_keep_the_frames_it_went_through() -> None:
    class Large:
        pass

    seen: list[weakref.ref[Large]] = []

    def program(read: Any) -> None:
        large = Large()
        seen.append(weakref.ref(large))
        read()

    start()
    bad = failing()
    for read in (bad.numpy, bad.numpy, lambda: bad + 1):
        with pytest.raises(WorkerError):
            program(read)
    gc.collect()
    assert [r() for r in seen] == [None] * 3


def test_an_error_of_deferred_work_names_the_line() -> None:
    start()
    total = torch.arange(100).sum()
    quotient = total // (total * 0)
    for _ in range(2):
        with pytest.raises(WorkerError, match="ZeroDivisionError in floor_divide, called at"):
            quotient.item()
    assert total.item() == 4950


@pytest.mark.sweep
def test_copies_in_other_cuts_do_not_pile_up() -> None:
    s = start(shard_bytes=256)
    x, y = torch.randn(4000, 8), torch.randn(1000) * 1
    session.flush()
    for k in range(1, 4 * COPIES):
        (x[k : k + 1000].sum(1) * y).sum().item()
    assert max(stored for stored, _ in held(s)) <= 2 + COPIES + 2


def test_a_cut_tensor_that_was_fetched_serves_in_a_later_session() -> None:
    start()
    x = torch.arange(100).float() * 1
    x.numpy()
    sharding = x.sharding
    door.shutdown()
    start(workers=3)
    assert (x + 1).sum().item() == 5050
    assert x.sharding == sharding


def test_what_was_pending_when_the_session_ended_is_lost_alone() -> None:
    start()
    lost = torch.arange(100) * 2
    door.shutdown()
    with pytest.raises(DistgradError, match="lost when its session was shut down"):
        lost.numpy()
    assert not torch.is_initialized()
    start()
    good = torch.arange(100) + 1
    with pytest.raises(DistgradError, match="lost when its session was shut down"):
        lost + 1
    np.testing.assert_array_equal(good.numpy(), np.arange(1, 101))


def test_looking_at_a_cut_tensor_changes_no_bits() -> None:
    start(inline_bytes=1 << 16, shard_bytes=4 << 20)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(9000).astype("float32")).reshard(
        [1000, 5000]
    )
    before = x.sum().item()
    x.numpy()
    assert x.sum().item() == before
    assert (x + 1).sharding == x.sharding
