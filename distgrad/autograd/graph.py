"""Edges of the graph, hooks on several of them, and hooks on what is saved: as `torch.autograd.graph`."""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad import saving, session
from distgrad.autograd.pushing import keep_tangents
from distgrad.handles import RemovableHandle
from distgrad.ops.inplace import INFERENCE
from distgrad.record import BackwardNode, grad_mode
from distgrad.saving import Contents
from distgrad.tensor import Tensor

__all__ = [
    "GradientEdge",
    "Node",
    "allow_mutation_on_saved_tensors",
    "disable_saved_tensors_hooks",
    "get_gradient_edge",
    "increment_version",
    "register_multi_grad_hook",
    "save_on_cpu",
    "saved_tensors_hooks",
]

Node = BackwardNode  # torch's name


class GradientEdge(NamedTuple):
    """Where a tensor's gradient is worked out: stands for the tensor among the arguments of `backward` and `grad`."""

    node: BackwardNode
    output_nr: int
    ownership_token: BackwardNode | None = None


def get_gradient_edge(tensor: Tensor) -> GradientEdge:
    """The edge of a tensor that requires grad."""
    node, output = tensor._edge
    if node is None:
        raise RuntimeError(
            "It is not possible to get the gradient edge for a Tensor that does not require gradients"
        )
    return GradientEdge(node, output)


def increment_version(tensor: Any) -> None:
    """Count a change in place that was made otherwise, of one tensor or several."""
    for one in (tensor,) if isinstance(tensor, Tensor) else tensor:
        if one.is_inference():
            raise RuntimeError(INFERENCE)
        one._counter.number += 1


class _Handles(RemovableHandle):
    """Takes a hook on several tensors out."""

    def __init__(self, handles: Sequence[RemovableHandle]):
        self.handles = tuple(handles)

    def remove(self) -> None:
        """Take it out of all of them."""
        for handle in self.handles:
            handle.remove()

    def __getstate__(self) -> tuple[Any, ...]:
        return self.handles

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.handles = state


def register_multi_grad_hook(
    tensors: Sequence[Tensor], fn: Callable[[Any], Any], *, mode: str = "all"
) -> RemovableHandle:
    """Call `fn` once in each backward pass that comes to some of these tensors.

    With mode "all" it gets a list of their gradients, when the last one is there; None for tensors to which the pass
    does not come. With mode "any" it gets the gradient that is there first.
    """
    if mode not in ("all", "any"):
        raise ValueError(f"Expects mode to be one of {('all', 'any')} but got {mode}")
    for tensor in tensors:
        if not tensor.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    hook = (_All if mode == "all" else _Any)([tensor._edge[0] for tensor in tensors], fn)
    return _Handles([t.register_hook(functools.partial(hook.arrives, i)) for i, t in enumerate(tensors)])


class _Any:
    """The first gradient of each pass."""

    def __init__(self, nodes: Sequence[Any], fn: Callable[[Any], Any]):
        self.fn = fn
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()  # passes; they may run side by side
        self.lock = threading.Lock()

    def arrives(self, i: int, g: Tensor) -> None:
        """The gradient of tensor number i is there."""
        now = grad_mode.current
        with self.lock:
            if now in self.seen:
                return
            self.seen.add(now)
        self.fn(g)


class _All:
    """All gradients of each pass. It holds the nodes, for it asks whether a pass comes to them."""

    def __init__(self, nodes: Sequence[Any], fn: Callable[[Any], Any]):
        self.nodes = nodes
        self.fn = fn
        self.found: weakref.WeakKeyDictionary[Any, tuple[list[Any], set[int]]] = weakref.WeakKeyDictionary()
        self.lock = threading.Lock()

    def arrives(self, i: int, g: Tensor) -> None:
        """The gradient of tensor number i is there."""
        now = grad_mode.current
        assert now is not None
        with self.lock:
            if now not in self.found:
                awaited = {k for k, node in enumerate(self.nodes) if now.runs(node)}
                self.found[now] = ([None] * len(self.nodes), awaited)
            grads, awaited = self.found[now]
            grads[i] = g
            awaited.discard(i)
            complete = not awaited
        if complete:
            del self.found[now]
            self.fn(grads)


class saved_tensors_hooks:
    """In this block what ops save for backward goes through hooks; of blocks in blocks the innermost holds.

    Args:
        pack_hook: called with each tensor that is saved; what it returns is kept in its place. It must not change it.
        unpack_hook: called with that when backward needs the tensor; gives it back.

    What an unpacked tensor was when it was saved is for the hooks to know: changes in place are not noticed.
    """

    def __init__(self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]):
        self.pack_hook = pack_hook
        self.unpack_hook = unpack_hook

    def __enter__(self) -> None:
        saving.push(saving.Pair(self.pack_hook, self.unpack_hook))

    def __exit__(self, *exc: object) -> None:
        saving.pop()


class save_on_cpu(saved_tensors_hooks):
    """In this block what ops save for backward is held by the driver, not by the workers.

    It is fetched when it is saved, which waits for it, and sent again when backward needs it, cut as it was. This
    makes room on workers whose memory is short where the driver's is not.

    Args:
        pin_memory, device_type: accepted and without effect, as in torch where there is no accelerator.
    """

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda"):
        super().__init__(_to_driver, _from_driver)


def _to_driver(tensor: Tensor) -> tuple[np.ndarray, Any]:
    return session.fetch(tensor._value), tensor.sharding


def _from_driver(packed: tuple[np.ndarray, Any]) -> Tensor:
    array, cuts = packed
    value = session.constant(array)
    if value.sharding != cuts:
        with session.called("save_on_cpu"):
            value = session.emit("reshard", value, cuts=cuts)
    return Tensor(value)


@contextlib.contextmanager
def disable_saved_tensors_hooks(error_message: str) -> Iterator[None]:
    """In this block nobody may set hooks: who tries gets a RuntimeError with this message."""
    before = saving.hooks.refusal
    saving.refuse(error_message)
    try:
        yield
    finally:
        saving.refuse(before)


class _Mutation(threading.local):
    """Which block of `allow_mutation_on_saved_tensors` this thread is in."""

    def __init__(self) -> None:
        self.block: _Kept | None = None


class _Kept:
    """All that was saved in one block."""

    def __init__(self) -> None:
        self._items: weakref.WeakSet[Contents] = weakref.WeakSet()

    def pack(self, tensor: Tensor) -> Contents:
        """Values never change: a tensor of its own on this one is what it was saved as, without a copy."""
        item = Contents(Tensor(tensor._value))
        keep_tangents(item.tensor, tensor)
        self._items.add(item)
        return item

    def clear(self) -> None:
        """Forget all of it."""
        for item in self._items:
            item.tensor = None


_mutation = _Mutation()
OUTSIDE = (
    "Trying to backward outside of the 'allow_mutation_on_saved_tensors' contextin which the graph was originally "
    "recorded."
)


def _contents(item: Contents) -> Tensor:
    if _mutation.block is None or item.tensor is None:
        raise AssertionError(OUTSIDE)
    return item.tensor


@contextlib.contextmanager
def allow_mutation_on_saved_tensors() -> Iterator[_Kept]:
    """In this block tensors that were saved for backward may be changed: backward sees what they were then.

    Both belong into the block. Nothing is copied, since only what a tensor stands for changes in place.
    """
    if _mutation.block is not None:
        raise RuntimeError("allow_mutation_on_saved_tensors contexts cannot be nested")
    kept = _mutation.block = _Kept()
    try:
        with saved_tensors_hooks(kept.pack, _contents):
            yield kept
    finally:
        kept.clear()
        _mutation.block = None
