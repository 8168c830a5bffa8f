"""Ctrl-C while workers start: it is held back until nothing is half done, and the next `init()` works."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

import pytest

import distgrad
from distgrad import interrupts
from distgrad.interrupts import held_back, safe_point

PATIENCE = 200
# Interrupts at the n-th call of a Python function within `init`: there are 200,000 while Ray is imported, 20,000 later.
PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import distgrad as torch

def interrupted(n):
    seen = 0
    def count(frame, event, arg):
        nonlocal seen
        seen += event == "call"
        if seen == n and event == "call":
            os.kill(os.getpid(), signal.SIGINT)
    sys.setprofile(count)
    try:
        torch.init(workers=1)
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)

print(interrupted({moment}), torch.is_initialized())
with torch.init(workers=1):
    print(float(torch.ones(1 << 21).sum()))
"""


@pytest.mark.sweep
@pytest.mark.parametrize("moment", [20_000, 212_000])
def test_the_next_init_works(moment: int) -> None:
    """While Ray is being imported, and while its processes start."""
    program = PROGRAM.format(moment=moment)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stdout.split("\n")[:2] == ["True False", str(float(1 << 21))], done.stderr


def poke() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_it_waits_for_a_safe_point() -> None:
    told = []

    def work() -> None:
        with held_back():
            safe_point()
            poke()
            told.append("went on")
            safe_point()
            told.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert told == ["went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_or_for_the_end_of_the_block() -> None:
    told = []

    def work() -> None:
        with held_back(), held_back():
            poke()
            poke()
            told.append("went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert told == ["went on"]
    with held_back():
        pass  # nothing is left over


def test_the_programs_own_handler_is_asked() -> None:
    told = []
    before = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    try:
        with held_back():
            poke()
            assert told == []
            safe_point()
            assert told == [signal.SIGINT]
            poke()
        assert told == [signal.SIGINT] * 2
    finally:
        signal.signal(signal.SIGINT, before)


def test_only_the_main_thread_is_interrupted() -> None:
    def run() -> None:
        with held_back():
            safe_point()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def interrupted(moment: int) -> bool:
    """Have a Ctrl-C come at an instruction of `held_back` or its `with`; whether there are so many."""
    seen = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in (interrupts.__file__, contextlib.__file__):
            return None
        frame.f_trace_opcodes = True
        seen += event == "opcode"
        if seen == moment and event == "opcode":
            signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with held_back():
            pass
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_it_may_come_at_any_moment() -> None:
    """None is lost, and the next is held back again."""
    for moment in itertools.count(1):
        if not interrupted(moment):
            break
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        safe_point()
        with held_back(), held_back():
            pass
        test_or_for_the_end_of_the_block()
    assert moment > 50


@pytest.mark.parametrize("name", ["InProcess", "attach"])
def test_an_interrupted_init_leaves_no_session(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    distgrad.shutdown()
    real = getattr(distgrad.session.door, name)

    def begin(*args: object, **options: object) -> object:
        poke()
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(distgrad.session.door, name, begin)
        with pytest.raises(KeyboardInterrupt):
            distgrad.init("inproc")
    assert not distgrad.is_initialized()
    with distgrad.init("inproc", inline_bytes=0):
        assert (distgrad.ones(3) + 1).tolist() == [2.0] * 3
