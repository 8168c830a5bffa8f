"""Checks of what a user gives: TypeError for another type, ValueError out of range; both say what is accepted."""

from __future__ import annotations

import math
import numbers
import operator
import re
from typing import Any

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {f"{letter}ib": 1 << 10 * n for n, letter in enumerate("kmgt", 1)}


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


def nbytes(name: str, size: int | str) -> int:
    """Bytes above 0, from a number or from a text such as "2GiB" or "500 MB"."""
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        raise TypeError(f'{name} takes bytes or a text such as "2GiB", not {type(size).__name__}')
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", size)
        if found is None or found[2].lower() not in UNITS:
            raise ValueError(f'{name} takes bytes or a text such as "2GiB", not {size!r}')
        size = int(float(found[1]) * UNITS[found[2].lower()])
    if size <= 0:
        raise ValueError(f"{name} takes more than 0 bytes")
    return size


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) < 60 else type(value).__name__
