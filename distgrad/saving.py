"""Hooks on what is saved for backward: a thread's stack of them, and what stands in a node in place of a tensor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from distgrad.record import FREED, BackwardNode, Edge, Saved, no_grad

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


class Contents:
    """What a tensor held when it was saved, where it may change since; None once that is forgotten."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Any):
        self.tensor: Any = tensor


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
    return _packed(tensor, hooks.stack[-1], edge, is_output) if hooks.stack else None


def _packed(tensor: Any, pair: Pair, edge: Edge, is_output: bool) -> Packed:
    versions = tensor._counter
    before = versions.number
    with no_grad():
        item = pair.pack(tensor)
    if versions.number != before:
        raise RuntimeError(PACK_CHANGES)
    return Packed(item, pair.unpack, edge, is_output)


class SavedTensor:
    """What a node has saved of one tensor, as `_raw_saved_...` gives it; hooks may be set on it alone."""

    __slots__ = ("_key", "_node", "_read", "_saved")

    def __init__(self, node: BackwardNode, saved: Any, key: Any, read: Callable[[Any], Any]):
        self._node = node
        self._saved = saved  # what holds it, under the key
        self._key = key
        self._read = read  # makes a tensor of it

    def _item(self) -> Any:
        if self._node._freed:
            raise RuntimeError(FREED)
        return self._saved[self._key]

    @property
    def data(self) -> Any:
        """The tensor, or what a hook has made of it."""
        item = self._item()
        return item.item if type(item) is Packed else self._read(item)

    def unpack(self) -> Any:
        """The tensor, as backward gets it."""
        return self._read(self._item())

    @property
    def unpack_hook(self) -> Callable[[Any], Any] | None:
        """The hook that gives the tensor back, if there is one."""
        item = self._item()
        return item.unpack if type(item) is Packed else None

    def register_hooks(self, pack_hook: Any, unpack_hook: Any) -> None:
        """Keep what `pack_hook` makes of the tensor in its place; `unpack_hook` gives the tensor back."""
        if not (callable(pack_hook) and callable(unpack_hook)):
            raise TypeError(
                "register_hooks(): incompatible function arguments. The following argument types are supported:\n"
                "    1. (self: torch._C._autograd.SavedTensor, arg0: collections.abc.Callable, arg1: "
                "collections.abc.Callable) -> None"
            )
        if self._node._freed:
            raise RuntimeError(
                "Calling register_hooks on a saved tensor after it has been freed. Saved intermediate values of the "
                "graph are freed when you call .backward() or autograd.grad(). Specify retain_graph=True if you need "
                "to backward through the graph a second time or if you need to access saved variables after calling "
                "backward."
            )
        item = self._item()
        if type(item) is Packed:
            raise RuntimeError(
                "Calling register_hooks on a saved tensor whose hooks have already been set. Hint: only one pair of "
                "hooks is allowed at a time."
            )
        if item is None:
            raise RuntimeError("Calling register_hooks on a saved tensor with value None is forbidden")
        edge, is_output = (item.tensor._edge, False) if type(item) is Saved else (item.edge, item.is_output)
        tensor = self._read(item)
        self._saved[self._key] = _packed(tensor.detach(), Pair(pack_hook, unpack_hook), edge, is_output)
