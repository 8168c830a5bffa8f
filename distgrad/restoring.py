"""What was saved for backward, as tensors again."""

from __future__ import annotations

import weakref
from typing import Any

from distgrad.record import (
    FREED,
    AccumulateGrad,
    BackwardNode,
    SavedResult,
    grad_mode,
)
from distgrad.saving import Packed
from distgrad.tensor import Tensor


def restored(saved: SavedResult, owner: BackwardNode | None, where: Any) -> Tensor:
    """A result that `owner` saved, checked; in a graph again if ops are being recorded, with its tangents."""
    if saved.tangents is None:
        return _restored(saved, owner, where)
    tensor = _restored(saved, owner, where)
    tensor._tangents = saved.tangents
    return tensor


def _restored(saved: SavedResult, owner: BackwardNode | None, where: Any) -> Tensor:
    value = saved.contents(owner, where)
    node, output = saved.edge
    if not grad_mode.enabled or not (saved.is_output or node is not None):
        return Tensor(value)
    if isinstance(node, AccumulateGrad) and node.variable._value is value:
        return node.variable
    tensor = Tensor(value)
    tensor._requires_grad = True
    if isinstance(node, AccumulateGrad):
        tensor._accumulate = weakref.ref(node)
    else:
        tensor._node = owner if node is None else node
        tensor._output = output
    return tensor


def unpacked(packed: Packed, owner: BackwardNode | None) -> Tensor:
    """What a hook packed, as its pair gives it back, in the place of the graph where it was."""
    found = packed.unpack(packed.item)
    if not isinstance(found, Tensor):
        kind = type(found).__name__
        raise TypeError(
            f"Output of saved tensor unpack_hook expected to be a Tensor but got result of type {kind}"
        )
    made = _restored(SavedResult(found._value, None, packed.edge, packed.is_output), owner, None)
    if (tangents := getattr(found, "_tangents", None)) is not None:
        made._tangents = tangents
    return made


def freed() -> RuntimeError:
    """The error for a graph that was walked already."""
    return RuntimeError(FREED)
