"""Whether loops are compiled in this process: settled when a session or a worker begins."""

from __future__ import annotations

import importlib.util
import os

_on = False


def wanted(asked: bool | None) -> bool:
    """What a session does that was asked for it, or by default: unless DISTGRAD_COMPILE is 0."""
    return os.environ.get("DISTGRAD_COMPILE", "1") != "0" if asked is None else asked


def possible() -> bool:
    """Whether the compiler can be imported."""
    return importlib.util.find_spec("llvmlite") is not None


def turn(on: bool) -> None:
    """Compile from now on, or do not."""
    global _on
    _on = on


def on() -> bool:
    """Whether loops are compiled."""
    return _on
