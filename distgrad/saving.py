"""Hooks on what is saved for backward: a thread's stack of them, and what stands in a node in place of a tensor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from distgrad.record import Edge, no_grad

PACK_CHANGES = (
    "A saved tensor pack hook is modifying its input in place. Tensors provided as input to pack hook cannot be "
    "modified by in-place operations as this can lead to unexpected side-effects. Please open an issue if you need to "
    "perform in-place operations on the input to a pack hook."
)


class Pair(NamedTuple):
    """The two hooks of a user."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


class _Hooks(threading.local):
    """The pairs that are set in this thread, of which the last holds, and why none may be set."""

    def __init__(self) -> None:
        self.stack: list[Pair] = []
        self.refusal: str | None = None


class _Active:
    """How many pairs are set in all threads: ops look at this first."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


hooks, active = _Hooks(), _Active()


class Packed:
    """What a hook gave for a tensor, and the tensor's place in the graph: see `SavedResult`."""

    __slots__ = ("edge", "is_output", "item", "unpack")

    def __init__(self, item: Any, unpack: Callable[[Any], Any], edge: Edge, is_output: bool):
        self.item = item
        self.unpack = unpack
        self.edge = edge
        self.is_output = is_output


def push(pair: Pair) -> None:
    """Set hooks in this thread; a RuntimeError where they are refused."""
    if hooks.refusal is not None:
        raise RuntimeError(hooks.refusal)
    hooks.stack.append(pair)
    active.count += 1


def pop() -> None:
    """Take the last hooks away."""
    hooks.stack.pop()
    active.count -= 1


def refuse(message: str | None) -> None:
    """Let nobody set hooks in this thread: who tries gets this message. None: let them again."""
    if message is not None and hooks.stack:
        raise RuntimeError(message)
    hooks.refusal = message


def packed(tensor: Any, edge: Edge, is_output: bool = False) -> Packed | None:
    """The tensor as this thread's hooks pack it; None if there are none."""
    if not hooks.stack:
        return None
    pair = hooks.stack[-1]
    versions = tensor._counter
    before = versions.number
    with no_grad():
        item = pair.pack(tensor)
    if versions.number != before:
        raise RuntimeError(PACK_CHANGES)
    return Packed(item, pair.unpack, edge, is_output)
