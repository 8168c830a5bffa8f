"""Warnings that torch gives once in a process."""

from __future__ import annotations

import sys
import warnings

from distgrad.callsites import PACKAGE

_always = False
_given: set[str] = set()


def set_warn_always(b: bool, /) -> None:
    """Whether warnings that are else given once in a process are given each time."""
    global _always
    if not isinstance(b, bool):
        raise TypeError(f"setWarnOnlyOnce expects a bool, but got {type(b).__name__}")
    _always = b


def is_warn_always_enabled() -> bool:
    """What `set_warn_always` was given; False before."""
    return _always


def warn_once(text: str) -> None:
    """Warn at the user's line, unless that was done already."""
    if text in _given and not _always:
        return
    _given.add(text)
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)
