"""A forked child has no part in its parent's session: it is told so, hangs nowhere, and takes nothing with it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

import distgrad
from distgrad.session import door

PATIENCE = 240
PROGRAM = """
import multiprocessing, os, sys, time
import numpy as np
import distgrad as torch

def child(name, work, leave):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            print(name, "gave", work(), flush=True)
        except BaseException as error:
            print(name, type(error).__name__, error, flush=True)
        leave(7)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            print(name, "ended with", os.waitstatus_to_exitcode(status), flush=True)
            return
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    print(name, "hung", flush=True)

def again():
    torch.shutdown()
    with torch.init("inproc"):
        inside = float((torch.ones(1 << 21) * 2).sum())
    torch.init()

session = torch.init(workers=1)
print("parent", os.getpid(), flush=True)
small, stored = torch.arange(3.0), torch.ones(1 << 21) * 2
torch.synchronize()
pending = stored + 1
for name, work in {{
    "small": lambda: (small * 2).tolist(),
    "read": lambda: float(stored.sum()),
    "upload": lambda: torch.from_numpy(np.ones(1 << 21)),
    "wait": torch.synchronize,
    "memory": torch.memory,
    "save": lambda: stored.save({path!r}),
    "drop": lambda: [globals().pop(name) for name in ("stored", "pending")] and None,
    "close": torch.shutdown,
    "block": lambda: session.__exit__(),
    "again": again,
}}.items():
    child(name, work, os._exit)
child("at exit", lambda: (small * 2).tolist(), sys.exit)
child("at exit after an error", lambda: float(stored.sum()), sys.exit)
fork = multiprocessing.get_context("fork")
process = fork.Process(target=lambda: print("process", (small * 2).tolist(), flush=True))
process.start()
process.join(60)
print("process ended with", process.exitcode, flush=True)
print("parent", float(stored.sum()), float(pending.sum()))
"""


@pytest.mark.sweep
def test_children_of_a_session_on_ray(tmp_path: object) -> None:
    program = PROGRAM.format(path=f"{tmp_path}/saved.npy")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    parent = lines[0].split()[1]
    belongs = f"this session belongs to process {parent}. Process "
    refused = f"DistgradError {belongs}"
    told = dict(zip(lines[1:-1:2], lines[2:-1:2], strict=False))
    beginnings = [
        "small gave [0.0, 2.0, 4.0]",
        f"read {refused}",
        f"upload {refused}",
        f"wait {refused}",
        f"memory {refused}",
        f"save DistgradError '{tmp_path}/saved.npy' was not saved: {belongs}",
        "drop gave None",
        "close gave None",
        "block gave None",
        "again ConnectError Ray cannot be used here: process ",
        "at exit gave [0.0, 2.0, 4.0]",
        f"at exit after an error {refused}",
        "process [0.0, 2.0, 4.0]",
    ]
    assert len(told) == len(beginnings)
    for (first, last), beginning in zip(told.items(), beginnings, strict=True):
        assert first.startswith(beginning)
        assert last.endswith("ended with 0" if first.startswith("process") else "ended with 7")
    assert lines[-1] == f"parent {float(2 << 21)} {float(3 << 21)}"


def forked(work: Callable[[], bool]) -> int:
    """What a child ends with: 0 if `work` gives True there, 9 if it hangs."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return 9


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_child_has_workers_in_the_process_of_its_own() -> None:
    distgrad.shutdown()
    with distgrad.init("inproc", inline_bytes=0):
        x = distgrad.arange(5.0) + 1
        assert forked(lambda: (x * 2).tolist() == [2.0, 4.0, 6.0, 8.0, 10.0]) == 0
        assert (x * 2).sum().item() == 30.0


@pytest.mark.filterwarnings("ignore:.*fork")
def test_locks_that_another_thread_held() -> None:
    distgrad.shutdown()
    with distgrad.init("inproc", inline_bytes=0) as session:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with session.lock, door._starting:
                held.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        code = forked(lambda: (distgrad.ones(3) + 1).tolist() == [2.0] * 3 and distgrad.shutdown() is None)
        done.set()
        thread.join()
        assert code == 0
