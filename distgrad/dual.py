"""Forward mode's bookkeeping: which levels are open, and the tangents that tensors have at them. No mathematics here.

A tensor has at most one tangent at each level. While an op works at a level, that level and those above it are hidden
(`below`), so the primal and all that the rule computes have tangents of lower levels alone: that is what keeps one
derivative's perturbation apart from another's.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class Tangents(dict[int, Any]):
    """From a level to a tensor's tangent there."""

    __slots__ = ("__weakref__",)
    __hash__ = object.__hash__  # type: ignore[assignment]


class _Forward:
    """What ops look at: whether a level is open, and who works at it. One for the process, as in torch."""

    __slots__ = ("at", "change", "levels", "on", "run")

    def __init__(self) -> None:
        self.on = False
        self.levels: list[weakref.WeakSet[Tangents]] = []  # for each open level who has a tangent there
        self.run: Callable[..., Any]  # (op, args, level): an op with a tangent among its arguments
        self.change: Callable[..., Any]  # (op, write, args, level): the same in place
        self.at: Callable[..., Any]  # (tensor, level): the tangent


class _Hidden(threading.local):
    """The first hidden level, and whether forward mode is on, in this thread."""

    limit = 1 << 30
    enabled = True


forward = _Forward()
hidden = _Hidden()


def enter() -> int:
    """Open a level above those that are open."""
    forward.levels.append(weakref.WeakSet())
    forward.on = True
    return len(forward.levels) - 1


def leave() -> None:
    """Close the highest level: all tangents there are forgotten."""
    level = len(forward.levels) - 1
    for tangents in forward.levels.pop():
        tangents.pop(level, None)
    forward.on = bool(forward.levels)


@contextlib.contextmanager
def below(level: int) -> Iterator[None]:
    """Hide `level` and those above it."""
    before, hidden.limit = hidden.limit, level
    try:
        yield
    finally:
        hidden.limit = before


def tangents_of(tensor: Any) -> Tangents | None:
    """The tensor's own tangents, at all levels; None if it never had one."""
    return getattr(tensor, "_tangents", None)


def give(tensor: Any, level: int, tangent: Any) -> None:
    """Make `tangent` the tensor's tangent at a level. None: it has none there, even if it is a view of one that has."""
    tangents = tangents_of(tensor)
    if tangents is None:
        tensor._tangents = tangents = Tangents()
    tangents[level] = tangent
    forward.levels[level].add(tangents)


def highest(operands: Sequence[Any]) -> int:
    """The highest visible level at which one of these has a tangent; -1 if there is none."""
    if not hidden.enabled:
        return -1
    for level in range(min(len(forward.levels), hidden.limit) - 1, -1, -1):
        if any(
            any(map(functools.partial(has, level=level), item))
            if type(item) in (list, tuple)
            else has(item, level)
            for item in operands
        ):
            return level
    return -1


def has(item: Any, level: int) -> bool:
    """Whether an operand has a tangent at a level: its own, or, as a view, a part of its base's."""
    tangents = getattr(item, "_tangents", None)
    if tangents is not None and level in tangents:
        return tangents[level] is not None
    view = getattr(item, "_view", None)
    return view is not None and view.base is not None and has(view.base, level)
