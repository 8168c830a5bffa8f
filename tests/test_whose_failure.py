"""A failed or impossible value concerns those who read it, or what was made of it: nobody else, and them each time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distgrad as torch
from distgrad.errors import OutOfMemoryError, WorkerError
from distgrad.session import door, sending

ROOM = 1 << 20
HUGE = 1 << 20  # elements; four times the room


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.session.Session]:
    """Two workers in this process that have a MiB together, and do everything."""
    monkeypatch.setattr("distgrad.session.room.ROOM_CHECKED", 1 << 16)
    with torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=1 << 16) as session:
        nodes = [{**node, "available": ROOM} for node in session.transport.nodes()]
        monkeypatch.setattr(session.transport, "nodes", lambda: nodes)
        yield session


def line() -> int:
    return sys._getframe(1).f_lineno


def refused(read: Callable[[], Any], at: int) -> None:
    with pytest.raises(OutOfMemoryError, match=rf'File "{__file__}", line {at}\.$'):
        read()


@pytest.mark.parametrize("read_first", [True, False])
def test_what_is_too_large_concerns_those_who_read_it(session: Any, read_first: bool) -> None:
    x = torch.arange(100).float().requires_grad_()
    huge, at = torch.ones(HUGE) * 2, line()
    made = huge[:3] + 1
    y = (x * x).sum()
    if read_first:
        refused(huge.numpy, at)
    assert y.item() == 328_350  # 99 * 100 * 199 / 6
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * np.arange(100))
    for _ in range(2):
        refused(huge.tolist, at)
        refused(made.numpy, at)
        refused(lambda: repr(made), at)
        refused(huge.sum().item, at)
        refused(torch.synchronize, at)
    assert (x * 3).sum().item() == 3 * 4950
    assert made.shape == (3,)
    del huge
    assert made.tolist() == [3.0] * 3
    torch.synchronize()


def test_four_hundred_billion_numbers() -> None:
    with torch.init("inproc", workers=2):
        huge, at = torch.ones(400_000_000_000), line()
        x = torch.ones(5_000_000)
        assert x.sum().item() == 5_000_000
        refused(huge[5:8].sum().item, at)
        refused(lambda: (huge.mean() + x.mean()).item(), at)
        assert (x + 1)[4_999_999].item() == 2


def test_a_loop_goes_on_beside_it(session: Any, plans: list[Any]) -> None:
    huge = torch.zeros(HUGE) + 1
    w = torch.zeros(6, requires_grad=True)
    x = torch.arange(600).reshape(100, 6).float()
    rows = np.arange(600).reshape(100, 6).astype(np.float64)
    expected = np.zeros(6)
    for _ in range(5):
        loss = ((x @ w - 1) ** 2).mean()
        loss.backward()
        with torch.no_grad():
            w -= 1e-6 * w.grad
            w.grad = None
        expected -= 1e-6 * 2 * rows.T @ (rows @ expected - 1) / 100
        planned = len(plans)
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-4)
    assert loss.item() > 0
    assert len(plans) <= planned + 3  # what cannot be done is not planned again and again
    del huge


def test_more_than_fits_together_is_read_one_by_one(session: Any) -> None:
    many = [torch.ones(100_000) * n for n in range(8)]  # 391 KiB each
    for n in range(8):
        assert many[0][n].item() == n
        assert sum(m["held"] for m in torch.memory()) <= ROOM
        del many[0]


def test_a_pass_without_a_reader_does_what_it_can(session: Any) -> None:
    """What shares an operand with the impossible, and a hundred others, are sent; twice the half and again."""
    x = torch.arange(1000).float() + 1
    shared = x * 2  # nobody names this at the end
    huge = [shared[:1].expand(HUGE) + n for n in range(2)]
    others = [shared + n for n in range(20)]
    del shared
    session.flush()
    assert [o._value.result.pending for o in others] == [False] * 20
    assert [h._value.result.pending for h in huge] == [True] * 2
    for n, other in enumerate(others):
        np.testing.assert_array_equal(other.numpy(), 2 * np.arange(1000) + 2 + n)
    assert (huge[1]._value.result.pending, x.sum().item()) == (True, 500_500)
    with pytest.raises(OutOfMemoryError):
        huge[1].numpy()


def test_much_pending_work_beside_it_is_sent_in_time(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "FULL", 50)
    session._full = 50
    huge = torch.zeros(HUGE) + 1
    made = [huge[n : n + 2] + 1 for n in range(120)]
    x = torch.ones(10)
    for _ in range(120):
        x = x + 1
    assert len(session.pending) <= 3 + 3 * 120 + 50
    assert x.tolist() == [121.0] * 10
    del huge
    assert made[7].tolist() == [2.0, 2.0]


def test_what_cannot_be_planned_concerns_those_who_read_it(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = sending.build

    def no(captured: Any, *rest: Any) -> Any:
        if any(node.primitive.name == "sinh" for node in captured.nodes):
            raise NotImplementedError("no plan for sinh")
        return build(captured, *rest)

    monkeypatch.setattr(sending, "build", no)
    x = torch.arange(50_000).float()
    bad, good = torch.sinh(x), [x * n for n in range(5)]
    made = bad + 1
    np.testing.assert_array_equal(good[2].numpy(), 2 * np.arange(50_000))
    session.flush()
    assert not any(g._value.result.pending for g in good)
    for _ in range(2):
        for value in (made, bad):
            with pytest.raises(NotImplementedError, match="sinh"):
                value.numpy()
        with pytest.raises(NotImplementedError, match="sinh"):
            torch.synchronize()
    assert (x[:10] + 1).sum().item() == 55


def test_what_failed_on_a_worker_concerns_those_who_read_it(
    session: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = torch.arange(100).float()
    bad, at = x.index_select(0, torch.arange(2) + 99), line()
    made = bad * 2
    session.flush()
    for _ in range(40):  # more calls than may be on their way
        x = x + 1
        assert x[0].item() == x[0].item()
    x.save(tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.arange(100) + 40)
    for value in (made, bad, made):
        with pytest.raises(IndexError, match=rf"index_select, called at File .*line {at}$"):
            value.numpy()
    torch.synchronize()  # it was told
    again, at = x.index_select(0, torch.arange(1) + 7777), line()
    with pytest.raises(WorkerError, match=f"line {at}$"):
        torch.synchronize()
    torch.synchronize()
    assert again.shape == (1,)
    assert capsys.readouterr().err == ""


def test_what_nobody_asked_for_is_told_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    door.shutdown()
    torch.init("inproc", workers=2, inline_bytes=0)
    bad, at = torch.arange(3).index_select(0, torch.arange(1) + 7), line()
    assert torch.ones(3).sum().item() == 3
    torch.shutdown()
    assert f"line {at}" in capsys.readouterr().err
    assert bad.shape == (1,)


def test_of_many_that_nobody_asked_for_a_few_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    door.shutdown()
    session = torch.init("inproc", workers=2, inline_bytes=0)
    bad = [torch.arange(3).index_select(0, torch.arange(1) + n) for n in range(10, 160)]
    session.flush()
    torch.shutdown()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    assert told[-1] == "distgrad: and 97 more"  # of a hundred that are noted
    assert len(bad) == 150
