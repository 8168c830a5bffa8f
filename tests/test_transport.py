"""Both transports do the same for the same calls; and Ray is started, joined, lost and left in an orderly way."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from distgrad.cluster import connect, launch, local, start

from distgrad.errors import ConnectError, DistgradError, WireError, WorkerError, WorkerLostError
from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import DRIVER, Transport, machine_memory

needs_proc = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks at processes through /proc"
)

T = 60  # seconds; no test comes near

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors cannot import the tests


class Dummy:
    """A worker that shows what reaches it."""

    def __init__(self, number: int, start: int = 0):
        self.number = number
        self.log: list[Any] = [start]
        self.kept = np.zeros(0)

    def note(self, item: Any) -> tuple[Any, ...]:
        self.log.append(item)
        return (item,)

    def tell(self) -> tuple[Any, ...]:
        return (self.number, list(self.log), os.getpid())

    def nothing(self) -> tuple[Any, ...]:
        self.log.append("nothing")
        return ()

    def add(self, a: Any, b: Any) -> tuple[Any, ...]:
        return (a + b,)

    def keep(self, array: np.ndarray) -> tuple[Any, ...]:
        self.kept = array
        return (array.flags.writeable,)

    def kept_sum(self) -> tuple[Any, ...]:
        return (float(self.kept.sum()),)

    def make(self, size: int) -> tuple[Any, ...]:
        self.kept = np.ones(size, np.float32)
        return ({"array": self.kept}, self.kept)

    def spoil(self) -> tuple[Any, ...]:
        self.kept += 1
        return ()

    def fail(self, error: Exception) -> tuple[Any, ...]:
        self.log.append("failed")
        raise error

    def wrong(self) -> Any:
        return [1, 2]

    def sleep(self, seconds: float) -> tuple[Any, ...]:
        time.sleep(seconds)
        return (seconds,)

    def variables(self) -> tuple[Any, ...]:
        return ({name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")},)


def end(transport: Transport, worker: int) -> None:
    """End a worker as a crash would."""
    if isinstance(transport, InProcess):
        transport.lose(worker)
    else:
        os.kill(transport.nodes()[worker]["pid"], signal.SIGKILL)


@pytest.fixture(scope="module")
def ours() -> Iterator[Transport]:
    transport = start(workers=3, worker=Dummy, worker_options={"start": 7})
    yield transport
    transport.close()


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


# Ray


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
    with pytest.raises(ValueError, match="must be a whole number of at least 1"):
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
