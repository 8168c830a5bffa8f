"""Views in place: `t_`, `transpose_`, `squeeze_`, `unsqueeze_`, `as_strided_`.

The tensor keeps its storage and sees it otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from distgrad.callsites import call_site
from distgrad.dual import below, forward, give, highest
from distgrad.ops import inplace as writing
from distgrad.ops.base import Tensor, attach
from distgrad.ops.calling import record, unwrap
from distgrad.ops.chains import Chain, Step
from distgrad.ops.node import node_classes
from distgrad.ops.paths import _view_along
from distgrad.ops.table import BY_FUNCTION
from distgrad.ops.views import squeeze, t, transpose, unsqueeze
from distgrad.ops.windows import PART, strided, strided_path
from distgrad.record import grad_mode
from distgrad.session import batching, called
from distgrad.storage import View

__all__: list[str] = []


def _turning(function: Any, name: str, node: str | Callable[..., str]) -> Callable[..., Tensor]:
    """The method `name` that makes a tensor what the view op gives of it; its history is a node of class `node`."""
    op = BY_FUNCTION[function].renamed(name.rstrip("_"), lambda op: node_classes(op, node))
    moves = op.view
    assert moves is not None

    def changed(self: Tensor, bound: tuple[Any, ...]) -> Tensor:
        if forward.on and (level := highest(bound)) >= 0:
            tangent = forward.at(self, level)
            with below(level):
                changed(self, bound)
                give(self, level, function(tangent, *bound[1:]))
            return self
        writing.check(self)
        operands, tracked = unwrap(op, bound)
        with called(name):
            value = op.run(*operands)
        made = record(op, bound, operands, self) if tracked and grad_mode.enabled else None
        if made is not None and batching.used:
            made.note_levels([value])
        _see(self, Step(moves, self._avals.shape, bound[1:]), value)
        self._counter.number += 1
        self._counter.changed = call_site(name)
        if made is not None:
            writing.move(self, made, 0)
        if self._view is not None:
            self._view.seen = self._counter.number
        return self

    def call(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return changed(self, op.bind((self, *args), kwargs))

    functools.update_wrapper(call, op.body)
    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"`{op.name}` of this tensor itself, which keeps its storage."
    return call


def _see(tensor: Tensor, step: Any, value: Any) -> None:
    """Have the tensor see its storage by one step more; `value` is what it finds there."""
    storage, before = tensor._storage, tensor._view
    steps = (step,) if before is None else (*before.chain.steps, step)
    chain = Chain(storage.value.shape, steps, 0 if before is None else before.chain.depth)
    generation = storage.generation if value.result.lazy is None else -1
    tensor._view = View(chain, value, generation, None if before is None else before.base, 0)
    tensor._view.creation = None if before is None else before.creation


def _squeezing(input: Any, dim: Any) -> str:
    return f"SqueezeBackward{3 if dim is None else 5 if isinstance(dim, (tuple, list)) else 4}"


_strided = _turning(_view_along, "as_strided_", "AsStridedBackward1")


def as_strided_(self: Tensor, size: Any, stride: Any, storage_offset: int | None = None) -> Tensor:
    """`as_strided` of this tensor itself, which keeps its storage."""
    size, stride, offset = strided(self, size, stride, storage_offset)
    path = strided_path(self, size, stride, offset)
    if path is None:
        raise NotImplementedError(PART)
    return _strided(self, path, "AsStridedBackward1")


_transposing = _turning(transpose, "transpose_", "TransposeBackward1")
attach(
    as_strided_=as_strided_,
    t_=_turning(t, "t_", "TBackward1"),
    transpose_=_transposing,
    swapaxes_=_transposing,
    swapdims_=_transposing,
    squeeze_=_turning(squeeze, "squeeze_", _squeezing),
    unsqueeze_=_turning(unsqueeze, "unsqueeze_", "UnsqueezeBackward1"),
)
