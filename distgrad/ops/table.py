"""The table of all ops: tests and documentation walk it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.ops.declaration import Op

OPS: dict[str, Op] = {}
UNLISTED: dict[str, Op] = {}  # those that are no part of the table
BY_FUNCTION: dict[Callable[..., Any], Op] = {}  # all of them, from what users call


def register(op: Op, listed: bool = True) -> None:
    """Enter an op; a name stands once."""
    if listed and op.name in OPS:
        raise ValueError(f"op {op.name!r} is declared twice")
    (OPS if listed else UNLISTED)[op.name] = op
    BY_FUNCTION[op.function] = op


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call an op by name: for formulas that need ops of files that import theirs."""
    return (UNLISTED.get(name) or OPS[name]).function(*args, **kwargs)
