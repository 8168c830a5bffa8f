"""Checks of what a user gives: TypeError for another type, ValueError out of range; both say what is accepted."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number of at least {least}, not {_shown(value)}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def real(name: str, value: Any, least: float) -> float:
    """A number of at least `least`, which may be infinite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number of at least {least:g}, not {_shown(value)}")
    if math.isnan(value) or value < least:
        raise ValueError(f"{name} must be at least {least:g}, got {value}")
    return value  # type: ignore[return-value]


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) < 60 else type(value).__name__
