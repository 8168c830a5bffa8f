"""Whether there is room is worked out for each node, with what its workers keep for reuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as torch
from distgrad.errors import OutOfMemoryError

MB = 1 << 20
Nodes = Callable[..., None]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Begin a session of workers on nodes: for each node how many, and the bytes that are available."""
    monkeypatch.setattr("distgrad.session.room.ROOM_CHECKED", 1)

    def begin(*counts: tuple[int, int]) -> Any:
        torch.shutdown()
        session = torch.init("inproc", workers=sum(n for n, _ in counts), inline_bytes=0, shard_bytes=1 << 16)
        place = session.transport.nodes()[0]
        places = [
            {**place, "node": f"n{i}", "ip": f"10.0.0.{i}", "available": available}
            for i, (n, available) in enumerate(counts)
            for _ in range(n)
        ]
        monkeypatch.setattr(session.transport, "nodes", lambda: places)
        return places

    yield begin
    torch.shutdown()


def test_a_small_node_beside_a_large_one(nodes: Nodes) -> None:
    nodes((1, 22 * MB), (1, 2 * MB))
    x = torch.ones(MB) + 1  # 4 MiB, of which each node gets the half
    torch.synchronize()
    y = torch.arange(2 * MB).float() + 1
    with pytest.raises(
        OutOfMemoryError,
        match=r"needs 4,194,304 bytes on the workers of 10\.0\.0\.1 \(numbers 1 to 1\), which have 2,097,152",
    ):
        y.numpy()
    assert x[5].item() == 2


def test_workers_of_one_node_share_what_it_has(nodes: Nodes) -> None:
    nodes((3, 3 * MB), (1, 22 * MB))
    fits = torch.ones(MB)  # 3 MiB of 4
    torch.synchronize()
    small = torch.ones(8).sum()
    more = torch.ones(MB + 4096)
    with pytest.raises(OutOfMemoryError, match=r"10\.0\.0\.0 \(numbers 0 to 2\), which have 3,145,728"):
        torch.synchronize()
    assert small.item() == 8
    del more
    with pytest.raises(OutOfMemoryError, match=r"10\.0\.0\.0"):
        torch.from_numpy(np.ones(MB + 4096, np.float32))
    assert fits.sum().item() == MB


def test_what_is_needed_whole_is_needed_on_every_worker(nodes: Nodes) -> None:
    nodes((1, 22 * MB), (2, 7 * MB))
    x = torch.arange(MB).reshape(1024, 1024)
    whole = x.reshard([1024]) + 1  # 8 MiB on each worker
    with pytest.raises(
        OutOfMemoryError, match=r"needs [\d,]+ bytes on the workers of 10\.0\.0\.1 \(numbers 1 to 2\)"
    ):
        whole.numpy()


def test_as_much_as_was_just_freed_is_not_refused(nodes: Nodes) -> None:
    """The pools keep it: it is not free on the machine, and yet it is there."""
    places = nodes((2, 50 * MB))
    x = torch.arange(10 * MB).float()  # 40 MiB
    torch.synchronize()
    for place in places:
        place["available"] = 10 * MB
    del x
    for n in range(3):
        x = torch.arange(10 * MB).float() * n
        assert x[1234].item() == 1234 * n
        del x
    y = torch.arange(10 * MB).float() * 5
    torch.synchronize()
    with pytest.raises(OutOfMemoryError):
        (torch.arange(10 * MB).float() * 6).numpy()
    assert y[7].item() == 35


def test_what_is_on_its_way_is_counted(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes((2, 10 * MB))
    session = torch.session.current()
    first = torch.ones(2 * MB)
    torch.synchronize()
    asked: list[str] = []
    original = session.transport.call

    def noted(worker: int, method: str, *rest: Any) -> Any:
        asked.append(method)
        return original(worker, method, *rest)

    monkeypatch.setattr(session.transport, "call", noted)
    second = torch.arange(2 * MB).float() + 1
    session.flush()
    assert "memory" not in asked  # 8 of 10 MiB: nothing to ask
    third = torch.arange(MB).float() + 1
    session.flush()
    assert "memory" in asked  # 4 MiB more while 8 may not be there yet: the workers are waited for
    assert (first[0].item(), second[0].item(), third[0].item()) == (1, 1, 1)


def test_what_is_held_for_a_while_needs_room_too(nodes: Nodes) -> None:
    """Each of 100 rows of 64 KiB is made on every worker and waits there until all are written."""
    places = nodes((1, 6 * MB), (1, 60 * MB))
    y = torch.zeros(100, 1 << 14)
    for i in range(1, 100):
        y[i] = y[i - 1] + 1
    total = y.sum()
    del y
    with pytest.raises(OutOfMemoryError, match=r"10\.0\.0\.0 \(numbers 0 to 0\), which have 6,291,456"):
        total.item()
    places[0]["available"] = 60 * MB
    assert total.item() == 4950 * (1 << 14)
