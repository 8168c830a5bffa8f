"""Both transports do the same for the same calls; and Ray is started, joined, lost and left in an orderly way."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from dummies import Dummy, T, end

from distgrad.cluster import start
from distgrad.errors import DistgradError, WireError, WorkerError, WorkerLostError
from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import DRIVER, Transport, machine_memory


@pytest.fixture(params=["inproc", "ray"])
def transport(request: pytest.FixtureRequest) -> Transport:
    if request.param == "inproc":
        return InProcess(3, lambda number: Dummy(number, start=7))
    return request.getfixturevalue("ours")


@pytest.fixture(params=["inproc", "ray"])
def mortal(request: pytest.FixtureRequest) -> Iterator[Transport]:
    """Two workers that a test may end."""
    if request.param == "ray":
        request.getfixturevalue("ours")  # then Ray is there already
    transport: Transport = (
        InProcess(2, Dummy) if request.param == "inproc" else start(workers=2, worker=Dummy)
    )
    yield transport
    transport.close()


# The same on both


def test_calls_run_in_order_each_on_its_worker(transport: Transport) -> None:
    items = [[worker, i] for i in range(20) for worker in range(3)]
    for item in items:
        transport.call(item[0], "note", (item,), 1)
    for worker in range(3):
        handles = transport.call(worker, "tell", (), 3)
        assert [h.worker for h in handles] == [worker] * 3
        number, log, pid = transport.get(handles, T)
        assert number == worker
        assert log[0] == 7
        assert [item for item in log if item in items] == [item for item in items if item[0] == worker]
        assert pid == transport.nodes()[worker]["pid"]


def test_a_call_without_results_runs(transport: Transport) -> None:
    assert transport.call(1, "nothing", (), 0) == []
    assert "nothing" in transport.get(transport.call(1, "tell", (), 3), T)[1]


def test_handles_are_resolved_on_the_way(transport: Transport) -> None:
    (one,) = transport.call(0, "add", (1, 2), 1)
    put = transport.put(100)
    assert put.worker == DRIVER
    (two,) = transport.call(1, "add", (one, put), 1)
    (three,) = transport.call(2, "add", (two, two), 1)
    assert transport.get([three, one, put, two], T) == [206, 3, 100, 103]


def test_large_values_go_from_worker_to_worker(transport: Transport) -> None:
    box, array = transport.call(0, "make", (300_000,), 2)
    assert transport.get(transport.call(1, "keep", (array,), 1), T) == [False]
    assert transport.get(transport.call(1, "kept_sum", (), 1), T) == [300_000.0]
    found = transport.get([box], T)[0]["array"]
    assert found.dtype == np.float32
    assert not found.flags.writeable


@pytest.mark.parametrize("size", [3, 300_000])
def test_what_goes_in_and_out_is_a_copy(transport: Transport, size: int) -> None:
    mine = np.ones(size)
    (keep,) = transport.call(0, "keep", (mine,), 1)
    mine[:] = 5
    assert transport.get([keep], T) == [False]
    assert transport.get(transport.call(0, "kept_sum", (), 1), T) == [size]

    mine = np.ones(size)
    put = transport.put(mine)
    mine[:] = 5
    _, made = transport.call(0, "make", (size,), 2)
    transport.call(0, "spoil", (), 0)
    for array in transport.get([put, made], T):
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, 1)


def test_an_error_is_raised_by_get_with_its_type_and_text(transport: Transport) -> None:
    handles = transport.call(0, "fail", (ValueError("no good"),), 2)
    for _ in range(2):
        with pytest.raises(WorkerError, match=r"^ValueError: no good$") as caught:
            transport.get([handles[1]], T)
        assert caught.value.__cause__ is None
        assert "Traceback" not in str(caught.value)
        assert "ray" not in "".join(traceback.format_exception_only(caught.value)).lower()
    assert transport.wait(handles, T) == [True, True]
    assert transport.get(transport.call(0, "add", (1, 1), 1), T) == [2]  # the session goes on


def test_errors_of_distgrad_keep_their_type(transport: Transport) -> None:
    with pytest.raises(WireError, match=r"^trailing bytes$") as caught:
        transport.get(transport.call(0, "fail", (WireError("trailing bytes"),), 1), T)
    assert type(caught.value) is WireError


def test_a_failed_argument_fails_the_call_that_takes_it(transport: Transport) -> None:
    before = transport.get(transport.call(2, "tell", (), 3), T)
    (bad,) = transport.call(0, "fail", (KeyError("k"),), 1)
    (next_,) = transport.call(1, "add", (1, bad), 1)
    (last,) = transport.call(2, "note", (next_,), 1)
    with pytest.raises(WorkerError, match=r"^KeyError: 'k'$"):
        transport.get([last], T)
    assert transport.get(transport.call(2, "tell", (), 3), T) == before  # it did not run


@pytest.mark.parametrize(
    ("method", "args", "text"),
    [
        ("wrong", (), "TypeError: wrong must return a tuple of 1, got list"),
        ("tell", (), "TypeError: tell must return a tuple of 1, got a tuple of 3"),
        ("nowhere", (), "AttributeError: 'Dummy' object has no attribute 'nowhere'"),
        ("add", (1,), r"TypeError: .*missing 1 required positional argument"),
    ],
)
def test_a_wrong_call_is_an_error(
    transport: Transport, method: str, args: tuple[Any, ...], text: str
) -> None:
    with pytest.raises(WorkerError, match=text):
        transport.get(transport.call(0, method, args, 1), T)


def test_a_handle_inside_an_argument_is_refused(transport: Transport) -> None:
    handle = transport.put(1)
    with pytest.raises(TypeError, match="must be an argument of its own"):
        transport.call(0, "note", ([handle],), 1)
    assert transport.get(transport.call(0, "note", (handle,), 1), T) == [1]


def test_waiting(transport: Transport) -> None:
    handles = transport.call(0, "note", (1,), 1) + transport.call(1, "note", (2,), 1)
    assert transport.wait(handles * 2, T) == [True] * 4
    assert transport.wait([], T) == []
    assert transport.get([], T) == []


def test_places_and_lives(transport: Transport) -> None:
    assert transport.alive() == [True] * 3
    places = transport.nodes()
    assert len(places) == transport.workers == 3
    total, available = machine_memory()
    for place in places:
        assert set(place) == {"node", "ip", "pid", "total", "available"}
        assert place["total"] == total
        assert abs(place["available"] - available) < total / 2
        assert 0 < place["available"] <= total
    places[0]["total"] = 0
    assert transport.nodes()[0]["total"] == total


def test_a_lost_worker_is_named_and_the_others_go_on(mortal: Transport) -> None:
    _, large = mortal.call(0, "make", (300_000,), 2)
    mortal.wait([large], T)
    assert mortal.alive() == [True, True]
    if not isinstance(mortal, InProcess):
        mortal.call(0, "sleep", (T,), 1)
    queued = [] if isinstance(mortal, InProcess) else mortal.call(0, "note", (1,), 1)
    (other,) = mortal.call(1, "add", (1, 1), 1)
    began = time.monotonic()
    end(mortal, 0)
    for handles in (queued, mortal.call(0, "note", (2,), 1), mortal.call(0, "tell", (), 3)):
        if handles:
            with pytest.raises(WorkerLostError, match=r"^worker 0 .*lost") as caught:
                mortal.get([other, *handles], T)
            assert caught.value.__cause__ is None
            assert mortal.alive() == [False, True]
    assert time.monotonic() - began < 2  # 10 to 30 ms on an idle machine
    (late,) = mortal.call(0, "note", (3,), 1)
    (next_,) = mortal.call(1, "note", (late,), 1)
    with pytest.raises(WorkerLostError, match=r"^worker 0 .*lost"):
        mortal.get([next_], T)
    assert mortal.get(mortal.call(1, "keep", (large,), 1), T) == [False]  # what it had made is still there
    assert mortal.get([other], T) == [2]
    assert len(mortal.nodes()) == 2


def test_closing(mortal: Transport) -> None:
    (handle,) = mortal.call(0, "note", (1,), 1)
    mortal.close()
    mortal.close()
    for use in (
        lambda: mortal.call(0, "note", (1,), 1),
        lambda: mortal.get([handle], T),
        lambda: mortal.put(1),
        mortal.alive,
        mortal.nodes,
    ):
        with pytest.raises(DistgradError, match="session is closed"):
            use()
