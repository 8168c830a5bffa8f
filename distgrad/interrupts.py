"""Ctrl-C, held back while something is under way that must not be broken off in the middle, such as Ray's start."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # of which `signal` makes enums, in 20 us for each block
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class _Held:
    """One that waits, and what the program does at SIGINT; they mean something while `_note` takes the signal."""

    handler: Callable[..., Any] | int | None = None
    waits = False


@contextmanager
def held_back() -> Iterator[None]:
    """Have a Ctrl-C wait for the next `safe_point`, or for the end of the block.

    Only in the main thread, which alone is interrupted. What the program itself has set for SIGINT happens then.
    Who takes the signal tells whether it is held back, and changes at once: no Ctrl-C comes when that is half done.
    """
    handler = _signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or handler in (None, signal.SIG_IGN, _note):
        yield
        return
    _Held.waits = False
    _signal.signal(signal.SIGINT, _note)
    try:
        _Held.handler = handler
        yield
    finally:
        _signal.signal(signal.SIGINT, handler)
        _let(handler)


def safe_point() -> None:
    """Here a Ctrl-C may come that was held back."""
    if _signal.getsignal(signal.SIGINT) is _note and threading.current_thread() is threading.main_thread():
        _let(_Held.handler)


def _note(number: int, frame: Any) -> None:
    _Held.waits = True


def _let(handler: Callable[..., Any] | int | None) -> None:
    if _Held.waits:
        _Held.waits = False
        if callable(handler):
            handler(signal.SIGINT, sys._getframe())
        else:  # the system's own way, which ends the process
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
