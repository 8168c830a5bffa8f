"""Sessions as a program meets them: started by themselves, by `init`, as a block; ended at exit and by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import numpy as np
import pytest

import distgrad
from distgrad.errors import DistgradError, OutOfMemoryError

PATIENCE = 120


@pytest.fixture(autouse=True)
def no_session() -> Iterator[None]:
    distgrad.shutdown()
    yield
    distgrad.shutdown()


def start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def gone(pid: int, seconds: float = 30) -> bool:
    """Whether the process ends within this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_block_and_is_initialized() -> None:
    assert not distgrad.is_initialized()
    with distgrad.init("inproc", workers=3) as session:
        assert distgrad.is_initialized()
        assert session.transport.workers == 3
        assert [m["worker"] for m in distgrad.memory()] == [0, 1, 2]
    assert not distgrad.is_initialized()
    distgrad.shutdown()  # does nothing


def test_init_twice_and_bad_arguments() -> None:
    with distgrad.init("inproc"), pytest.raises(DistgradError, match="initialized already"):
        distgrad.init("inproc")
    for wrong in ({"workers": 0}, {"threads": 0}, {"shard_bytes": 0}, {"inline_bytes": -1}):
        with pytest.raises(ValueError, match="at least"):
            distgrad.init("inproc", **wrong)
    assert not distgrad.is_initialized()


def test_tensors_of_a_session_that_ended() -> None:
    with distgrad.init("inproc", inline_bytes=0):
        small = distgrad.ones(3) * 2
        kept = distgrad.ones(4) * 3
        assert kept.tolist() == [3.0] * 4
    assert kept.tolist() == [3.0] * 4  # it was read, so it is at hand
    with distgrad.init("inproc", inline_bytes=0):
        assert (kept + 1).tolist() == [4.0] * 4
        with pytest.raises(DistgradError, match="session"):
            small.tolist()


def test_more_memory_than_there_is_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with distgrad.init("inproc", workers=2) as session:
        large = distgrad.zeros(1 << 29) + 1
        calls = session.calls._serial
        nodes = [{**node, "available": 1 << 30} for node in session.transport.nodes()]
        monkeypatch.setattr(session.transport, "nodes", lambda: nodes)
        with pytest.raises(OutOfMemoryError, match=r"needs 2,147,483,648 bytes .* have 1,073,741,824"):
            distgrad.synchronize()
        assert session.calls._serial == calls
        del large
        distgrad.synchronize()  # nothing is wanted now, so nothing is too much


def test_what_is_on_its_way_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with distgrad.init("inproc", workers=2) as session:
        flat, wide = distgrad.zeros(1 << 26), distgrad.zeros(64, 1 << 12, sharding=32)
        distgrad.synchronize()  # 256 MiB and 1 MiB, never written
        nodes = [{**node, "available": 400 << 20} for node in session.transport.nodes()]
        monkeypatch.setattr(session.transport, "nodes", lambda: nodes)
        last = flat.cumsum(0)[-1:]  # both workers are sent all of the operand, and make all
        with pytest.raises(OutOfMemoryError, match="needs 1,073,741,832 bytes"):
            distgrad.synchronize()
        del last
        monkeypatch.setattr("distgrad.session.room.ROOM_CHECKED", 0)
        nodes = [{**node, "available": 100 << 20} for node in nodes]
        square = distgrad.einsum("ki,kj->ij", wide, wide)  # 64 MiB, and a part of the sum on each worker
        with pytest.raises(OutOfMemoryError, match="needs 134,217,728 bytes"):
            distgrad.synchronize()
        del square


def test_driver_keeps_no_large_tensor() -> None:
    array = np.arange(1 << 18, dtype=np.float32)
    with distgrad.init("inproc", workers=2, shard_bytes=1 << 16):
        x = distgrad.from_numpy(array)
        assert x.sharding.count == 16
        assert x._value.array is None
        assert np.array_equal((x * 2).numpy(), array * 2)
        assert x._value.array is None
        assert sum(m["held"] for m in distgrad.memory()) >= array.nbytes


@pytest.mark.sweep
def test_starts_by_itself_with_one_line_and_leaves_nothing() -> None:
    process = start(
        """
        import distgrad as torch
        x = torch.ones(3, requires_grad=True)
        (x * 2).sum().backward()
        assert not torch.is_initialized()
        y = torch.ones(1 << 20)
        print(float((y * 2).sum()))
        print(*[node["pid"] for node in torch.session.current().transport.nodes()])
        """
    )
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    value, pids = out.splitlines()
    assert float(value) == 2 << 20
    assert [line for line in err.splitlines() if line] == [err.strip()], "one line on stderr"
    assert err.startswith("distgrad: started a local Ray with")
    assert all(gone(int(pid)) for pid in pids.split())


@pytest.mark.sweep
def test_interrupted_program_leaves_nothing() -> None:
    process = start(
        """
        import distgrad as torch
        session = torch.init(workers=2)
        print(*[node["pid"] for node in session.transport.nodes()], flush=True)
        x = torch.rand(4_000_000)
        while True:
            x = torch.sin(x)
            float(x.sum())
        """
    )
    assert process.stdout is not None
    pids = process.stdout.readline().split()
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert "KeyboardInterrupt" in err
    assert len(pids) == 2
    assert all(gone(int(pid)) for pid in pids)
