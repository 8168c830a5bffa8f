"""Arguments of layers: one number, or one for each spatial dimension."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def each(value: Any, n: int) -> tuple[Any, ...]:
    """A tuple of n equal items, or of those that `value` has."""
    return tuple(value) if isinstance(value, Iterable) else (value,) * n
