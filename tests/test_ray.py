"""Ray's own side of the transport: addresses, rooms, placement, and the lives of Ray and of its drivers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from dummies import Dummy, T, needs_proc

from distgrad.cluster import connect, launch, local, start
from distgrad.errors import ConnectError, DistgradError
from distgrad.worker.transport import Transport

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors cannot import the tests


@pytest.mark.sweep
def test_a_value_that_takes_too_long(ours: Transport) -> None:
    (slow,) = ours.call(2, "sleep", (1.0,), 1)
    (quick,) = ours.call(0, "note", (1,), 1)
    assert ours.wait([slow, quick], 0.3) == [False, True]
    with pytest.raises(TimeoutError, match=r"^no answer within 0\.1 s from worker 2$"):
        ours.get([quick, slow], 0.1)
    assert ours.get([slow], T) == [1.0]


def test_the_programs_own_ray_tasks_find_room(ours: Transport) -> None:
    task = ray.remote(num_cpus=1)(lambda: 5).remote()
    assert ray.get(task, timeout=T) == 5


@pytest.mark.sweep
@pytest.mark.parametrize("threads", [1, 2])
def test_blas_threads(ours: Transport, threads: int) -> None:
    transport = start(workers=1, threads=threads, worker=Dummy)
    found = transport.get(transport.call(0, "variables", (), 1), T)[0]
    transport.close()
    assert found == {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}


def test_ray_outlives_one_of_its_users(ours: Transport) -> None:
    assert ours.get(ours.call(0, "add", (1, 1), 1), T) == [2]
    with pytest.raises(ConnectError, match="this process uses the Ray at"):
        start("203.0.113.1:6379", worker=Dummy)


class Broken:
    def __init__(self, number: int):
        raise OSError("no disk")


@pytest.mark.sweep
def test_workers_that_cannot_be_made(ours: Transport) -> None:
    with pytest.raises(DistgradError, match=r"^worker 0 on .* could not be made: OSError: no disk"):
        start(workers=2, worker=Broken)
    with pytest.raises(ConnectError, match=r"cannot import distgrad .*install it on every node"):
        start(workers=2, worker="distgrad.absent:Worker")


def test_workers_that_find_no_room(ours: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "place", lambda nodes, *rest: [(nodes[0][0], 1000.0)] * 2)
    with pytest.raises(
        ConnectError, match=r"^2 of 2 workers .* within 1 s.* ask for 2000 CPUs, 1000 each; of the \d"
    ):
        start(workers=2, worker=Dummy, timeout=1)


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"workers": 1.5}, {"workers": True}, {"threads": 0}, {"threads": "2"}]
)
def test_numbers_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"must be (a whole number of )?at least 1"):
        start(**options)


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert connect.parse(None) == connect.parse("local") == "local"
    assert connect.parse("auto") == "auto"
    assert connect.parse("head.example.org:6379") == ("head.example.org", 6379)
    assert connect.parse("[2001:db8::1]:6379") == ("2001:db8::1", 6379)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:80")
    assert connect.parse(None) == ("192.0.2.1", 80)
    assert connect.parse("local") == "local"
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    with pytest.raises(ValueError, match="'nonsense' \\(from RAY_ADDRESS\\)"):
        connect.parse(None)


@pytest.mark.parametrize(
    "address",
    ["", "head", "head:", ":6379", "head:port", "head:0", "head:65536", "a b:1", "2001:db8::1:6379", 6379],
)
def test_text_that_is_no_address(address: Any) -> None:
    with pytest.raises(ValueError, match='must be None, "local", "auto" or "host:port"'):
        start(address)


def test_ray_client_is_refused() -> None:
    with pytest.raises(ValueError, match="Ray Client is not supported"):
        start("ray://head:10001")


def test_workers_are_placed_in_proportion_and_numbered_by_node() -> None:
    nodes = [("a", 4.0), ("none", 0.0), ("b", 16.0), ("c", 2.0)]
    plan = launch.place(nodes, None, 1)
    assert [name for name, _ in plan] == ["a"] * 4 + ["b"] * 16 + ["c"] * 2
    assert {share for _, share in plan} == {0.25}
    assert [name for name, _ in launch.place(nodes, 11, 1)] == ["a"] * 2 + ["b"] * 8 + ["c"]
    assert [name for name, _ in launch.place(nodes, None, 4)] == ["a"] + ["b"] * 4 + ["c"]
    assert [name for name, _ in launch.place([("a", 1.0), ("b", 1.0), ("c", 1.0)], 4, 1)] == [
        "a",
        "a",
        "b",
        "c",
    ]
    with pytest.raises(ConnectError, match="no CPUs"):
        launch.place([("head", 0.0)], 2, 1)
    for workers in (1, 2, 3, 7, 64, 1000):
        for threads in (1, 8):
            plan = launch.place(nodes, workers, threads)
            assert len(plan) == workers
            assert [name for name, _ in plan] == sorted(name for name, _ in plan)
            for name, cpus in nodes:
                shares = [share for node, share in plan if node == name]
                assert all(0 < share <= threads for share in shares)
                assert sum(shares) <= cpus / 4 + 0.001 * len(shares) * (cpus < 4)


@pytest.mark.parametrize("gib", [2, 7, 24, 512])
@pytest.mark.parametrize("room", [0.0625, 1, 1000])
def test_the_object_store_fits_the_machine(monkeypatch: pytest.MonkeyPatch, gib: float, room: float) -> None:
    monkeypatch.setattr(local, "machine_memory", lambda: (gib * 2**30, gib * 2**30))
    monkeypatch.setattr(local.shutil, "disk_usage", lambda _: type("Usage", (), {"free": room * 2**30}))
    monkeypatch.setattr(local.sys, "platform", "linux")
    size = local.store_size()
    assert 2**27 <= size <= gib * 2**30 / 4
    assert size <= room * 2**30 or room < 0.25


def run(script: str, watch: Callable[[str], None], **variables: str) -> tuple[int, list[str]]:
    """A program of its own, in a group of its own. `watch` sees each line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
        start_new_session=True,
    )
    lines = []
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("now"):
                os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
            watch(lines[-1])
    return process.wait(timeout=T), lines


@pytest.mark.sweep
def test_an_address_that_does_not_answer() -> None:
    """A closed port, a port where something else listens, and a machine without Ray; well within 15 s."""
    with socket.socket() as closed, socket.socket() as silent:
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        script = f"""
            import time
            from unittest import mock
            from distgrad.cluster import join, start
            from distgrad.errors import ConnectError
            join.PROBE = 2.0
            def attempt(address):
                began = time.monotonic()
                try:
                    start(address)
                except ConnectError as error:
                    print(round(time.monotonic() - began), isinstance(error, ConnectionError), error)
            attempt("127.0.0.1:{closed.getsockname()[1]}")
            attempt("127.0.0.1:{silent.getsockname()[1]}")
            with mock.patch("ray._private.services.canonicalize_bootstrap_address", return_value=None):
                attempt("auto")
        """
        code, lines = run(script, lambda line: None)
    assert code == 0
    assert re.match(
        r"0 True .*joined at 127\.0\.0\.1:\d+: nothing answers \(Connection refused\).*Check that", lines[0]
    )
    assert re.match(r"[0-6] True .*accepts connections there, but did not answer as Ray within 2 s", lines[1])
    assert re.match(r'0 True address "auto": no Ray runs on this machine', lines[2])
    assert len(lines) == 3


LIFE = """
    import contextlib, os, pathlib, signal, threading, time
    from distgrad.cluster import start

    class Sleeper:
        def __init__(self, number): pass
        def pid(self): return (os.getpid(),)
        def sleep(self, seconds): time.sleep(seconds); return (seconds,)
        def spin(self):
            while True: pass

    def family():
        rows = []
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                rows.append((folder.name, (folder / "stat").read_text().rpartition(")")[2].split()[1]))
        found = [str(os.getpid())]
        for parent in found:
            found += [pid for pid, of in rows if of == parent]
        print("family", *found[1:], flush=True)
"""


@pytest.mark.sweep
@needs_proc
def test_ctrl_c_and_a_second_session() -> None:
    """Ctrl-C while waiting; what follows works; Ray is started again, from a thread; nothing stays, on any way out."""
    script = (
        LIFE
        + """
    r = start(workers=2, worker=Sleeper)
    family()
    (slow,) = r.call(0, "sleep", (2.0,), 1)
    try:
        print("now", flush=True)
        r.get([slow], 50)
    except KeyboardInterrupt:
        print("interrupted", r.alive(), len(r.get(r.call(1, "pid", (), 1), 50)), r.get([slow], 50), flush=True)
    r.close()
    print("closed", flush=True)

    made = []
    thread = threading.Thread(target=lambda: made.append(start(workers=2, worker=Sleeper)))
    thread.start()
    thread.join()
    r = made[0]
    family()
    time.sleep(1.5)  # by now Ray's processes would be gone with the thread
    print("thread", r.alive(), len(r.get(r.call(1, "pid", (), 1), 50)), flush=True)
    r.call(0, "spin", (), 1)
    print("now", flush=True)
    r.get(r.call(1, "sleep", (50.0,), 1), 50)
    """
    )
    families: list[list[int]] = []

    def watch(line: str) -> None:
        if line.startswith("family"):
            families.append([int(pid) for pid in line.split()[1:]])
            assert len(families[-1]) > 4
        if line == "closed":
            assert gone(families[0], 20)

    code, lines = run(script, watch)
    assert "interrupted [True, True] 1 [2.0]" in lines
    assert "thread [True, True] 1" in lines
    assert code == -signal.SIGINT
    assert len(families) == 2
    assert gone(families[1], 20)


@pytest.mark.sweep
@needs_proc
def test_a_killed_driver_takes_its_ray_along() -> None:
    script = (
        LIFE
        + """
    r = start(workers=2, worker=Sleeper)
    family()
    r.call(0, "spin", (), 1)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    )
    families: list[list[int]] = []
    code, _ = run(script, lambda line: families.append([int(pid) for pid in line.split()[1:]]))
    assert code == -signal.SIGKILL
    assert len(families[0]) > 4
    assert gone(families[0], 30)


def gone(pids: list[int], seconds: float) -> bool:
    """Whether the processes end within the time; one that nobody has asked for its exit code has ended."""
    until = time.monotonic() + seconds
    while any(runs(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
