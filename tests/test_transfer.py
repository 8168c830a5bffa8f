"""What is read from the workers and sent to them crosses in batches, and is held once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from recorder import Recorder
from values import Start, emit, put

import distgrad as torch
from distgrad import session
from distgrad.cutting import sharding_of
from distgrad.errors import WireError
from distgrad.session import core, door, transfer
from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import Handle, Transport
from distgrad.worker.worker import Worker

CASES: dict[str, tuple[tuple[int, ...], Any]] = {
    "rows": ((1000, 7), 30),
    "columns": ((9, 1000), {1: 70}),
    "both": ((90, 100), {0: 40, 1: 30}),
    "uneven, some empty": ((1000,), [0, 0, 3, 500, 500, 999, 1000]),
    "large shards": ((60, 90), [0, 25, 60]),
    "large shards, both": ((60, 90), {0: [0, 25, 60], 1: 80}),
    "not cut": ((60, 90), None),
    "one long row": ((1, 5000), None),
    "fewer shards than workers": ((1000,), [0, 400, 1000]),
    "no dimensions": ((), None),
    "nothing": ((0, 5), None),
    "nothing, cut": ((0, 5), {1: 2}),
}


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "BATCH", -1)  # what is read at once, else
    monkeypatch.setattr(transfer, "BATCH", 1000)
    monkeypatch.setattr(transfer, "AHEAD", 3000)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, dtype: str, workers: int, small_batches: None, start: Start) -> None:
    start(workers)
    shape, cuts = CASES[case]
    array = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 1000, shape).astype(dtype)
    sharding = None if cuts is None else sharding_of(shape, cuts)
    value = session.current().upload(array, sharding)
    if sharding is not None and value.sharding != sharding:
        value = emit("reshard", value, cuts=sharding)
    for _ in range(2):
        found = session.fetch_own(value)
        np.testing.assert_array_equal(found, array, strict=True)
        found[...] = 0  # it is the caller's own
    assert door.fetch(value).flags.writeable is False


def test_views_and_arrays_that_do_not_stand_in_order(small_batches: None, start: Start) -> None:
    start(2)
    base = np.arange(6000.0).reshape(60, 100)
    for array in (base.T, base[::-1], base[:, ::2], base[::3].T, np.broadcast_to(base[0], (60, 100))):
        for cuts in (None, 7, {1: 11}):
            np.testing.assert_array_equal(session.fetch(put(array, cuts)), array)
    x = torch.from_numpy(base)
    for found, want in (
        (x.T, base.T),
        (x.flip(0), base[::-1]),
        (x[0].expand(60, 100), np.broadcast_to(base[0], (60, 100))),
    ):
        np.testing.assert_array_equal(found.numpy(), want)


class Counted(Recorder):
    """Notes what is put, and how many bytes of answers to `unload` and arguments of `load` are on their way."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.put_bytes: list[int] = []
        self.ahead: dict[int, int] = {}
        self.most = 0

    def put(self, value: Any) -> Handle:
        self.put_bytes.append(value.nbytes)
        return super().put(value)

    def call(self, worker: int, method: str, args: tuple[Any, ...], returns: int) -> list[Handle]:
        handles = super().call(worker, method, args, returns)
        if method in ("load", "unload"):
            sent = sum(getattr(a, "nbytes", 0) for a in args) if method == "load" else 0
            came = sum(a.nbytes for a in handles[0].ref.read()) if method == "unload" else 0
            self.ahead[id(handles[0])] = sent + came
            self.most = max(self.most, sum(self.ahead.values()))
        return handles

    def get(self, handles: list[Handle], timeout: float | None = None) -> list[Any]:
        for handle in handles:
            self.ahead.pop(id(handle), None)
        return super().get(handles, timeout)


@pytest.mark.parametrize("cuts", [10, [0, 900, 1000], {1: 20}])
def test_little_is_on_its_way_at_once(cuts: Any, small_batches: None, start: Start) -> None:
    transport = start(3, recorder=Counted)
    assert isinstance(transport, Counted)
    array = np.arange(50_000.0).reshape(1000, 50)
    value = put(array, cuts)
    assert transport.put_bytes == []
    largest = session.shard_bytes() if cuts == 10 else 900 * 50 * 8  # a shard is sent as it is
    assert 0 < transport.most <= max(4500, 3000 + largest)
    transport.most = 0
    np.testing.assert_array_equal(session.fetch(value), array)
    assert 0 < transport.most <= 4 * 1000


def test_what_is_not_cut_is_put_once_for_all_workers(start: Start) -> None:
    transport = start(3, recorder=Counted)
    assert isinstance(transport, Counted)
    array = np.arange(1000.0)
    value = session.current().upload(array)
    assert transport.put_bytes == [8000]
    assert max(size for _, method, size in transport.calls if method == "load") < 500
    assert [w.slots[value.result.id].sharding.count for w in transport.objects] == [1, 1, 1]
    np.testing.assert_array_equal(session.fetch(emit("add", value, value)), 2 * array)


def test_what_failed_is_told_with_its_line(small_batches: None, start: Start) -> None:
    start(2)
    bad = emit("take", put(np.arange(4000.0), 100), put([1, 99_999] * 300), dim=0, size=4000, wrap=True)
    for _ in range(2):
        with pytest.raises(IndexError, match=r"99999 is out of bounds .*called at File"):
            session.fetch(bad)


@pytest.mark.parametrize(
    "asked",
    [(1, 0, 5, -1, 0, 0), (2, 0, 1, -1, 0, 0), (1, 0, 1, 1, 0, 0), (1, -1, 1, 0, 0, 1), (1, 0, 1.0, 0, 0, 1)],
)
def test_an_unload_of_what_is_not_there_is_refused(asked: tuple[Any, ...]) -> None:
    with torch.init("inproc", workers=1, inline_bytes=0) as started:
        kept = torch.from_numpy(np.arange(5.0))
        one = torch.ones(5) + kept
        torch.synchronize()
        here = started.transport._workers[0]  # type: ignore[attr-defined]
        (number,) = list(here.store)[-1:]
        with pytest.raises(WireError):
            here.unload(number if asked[0] == 1 else number + 7, *asked[1:])
        assert len(here.unload(number, 0, 1, 0, 2, 4)[0][0]) == 2
        del one


@pytest.fixture
def on_ray(ray_workers: Transport) -> Iterator[None]:
    door.shutdown()
    door.attach(ray_workers, timeout=120)
    yield
    door.detach()


def test_the_driver_holds_what_it_reads_once(on_ray: None) -> None:
    n = 10_000_000
    x = torch.arange(n).float() * 2
    torch.synchronize()
    tracemalloc.start(1)
    try:
        found = x.numpy()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * found.nbytes
    np.testing.assert_array_equal(found, np.arange(n, dtype=np.float32) * 2)
    found[0] = 5
    uncut = torch.tensor(found, sharding=[n])
    assert uncut[[0, 1, n - 1]].tolist() == [5, 2, np.float32(n - 1) * 2]
    np.testing.assert_array_equal(uncut.numpy(), found)


def test_in_this_process_too() -> None:
    door.shutdown()
    door.attach(InProcess(2, Worker))
    array = np.random.default_rng(0).standard_normal(9_000_000)
    x = torch.from_numpy(array)
    np.testing.assert_array_equal(x.numpy(), array)
    door.shutdown()
