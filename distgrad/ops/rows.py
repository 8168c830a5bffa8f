"""All slices along a dimension, each a view: unbind, and `for row in x`; and parts put together again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from distgrad import session
from distgrad.ops.base import (
    Like,
    Tensor,
    Value,
    attach,
    broadcast_to,
    constant,
    normal_dim,
    op,
)
from distgrad.ops.calling import output, record, unwrap
from distgrad.ops.regrouping import compact
from distgrad.ops.samples import real
from distgrad.ops.slices import _along, _select_moves, slice_take
from distgrad.ops.table import BY_FUNCTION
from distgrad.ops.views import unsqueeze
from distgrad.record import grad_mode
from distgrad.sharding import Sharding

BROUGHT = 64 << 20  # bytes of a tensor whose rows `unbind` brings to the driver


@op(
    name="SliceBackwardBackward0",
    parts=lambda g, slices: [slice_take(g, s) for s in slices],
    method=False,
    samples=lambda: [
        ((real(2, 4), real(1, 4)), (((0, 2, 2), (0, 4, 1)), ((3, 1, 1), (0, 4, 1))), Sharding.whole((5, 4)))
    ],
)
def put_parts(parts: Sequence[Value], slices: Any, cuts: Sharding) -> Value:
    """Zeros, cut like `cuts`, with the elements of each of `slices` replaced by those of a part: one pass for all."""
    made = broadcast_to(constant(0, parts[0].dtype), cuts.shape, cuts)
    for part, where in zip(parts, slices, strict=True):
        made = session.put(made, part, where)
    return made


def _put_all(gs: list[Any], dim: int, like: Like) -> Tensor:
    d = normal_dim(dim, like.ndim)
    there = [i for i, g in enumerate(gs) if g is not None]
    slices = tuple([_along(like.shape, d, i, 1) for i in there])
    return put_parts([unsqueeze(gs[i], d) for i in there], slices, like.sharding)


@op(
    multi=True,
    input=lambda g, dim, like: _put_all(g, dim, like),
    view=lambda shape, index, dim: _select_moves(shape, dim, index),
    samples=lambda: [(real(3, 2),), (real(3, 2), 1)],
)
def unbind(input: Value, dim: int = 0) -> tuple[Value, ...]:
    """All slices along `dim`, without that dimension."""
    if not input.shape:
        raise RuntimeError("Dimension specified as 0 but tensor has no dimensions")
    d = normal_dim(dim, len(input.shape))
    near = input.result.spec.nbytes <= BROUGHT
    return tuple([row for start in _blocks(input, d) for row in _slices(input, d, start, near)])


def _blocks(input: Value, d: int) -> range:
    """Where blocks of slices begin. One is as large as a shard: it comes at once, and they are cut from it."""
    n = input.shape[d]
    if input.sharding.count == 1:
        return range(0, n, max(1, n))
    return range(0, n, max(1, session.shard_bytes() * n // max(1, input.result.spec.nbytes)))


def _slices(input: Value, d: int, start: int, near: bool) -> Iterator[Value]:
    """The slices of the block that begins at `start`, which is fetched if it is to be `near`."""
    n = min(_blocks(input, d).step, input.shape[d] - start)
    block = input
    if input.sharding.count > 1:
        block = compact(session.part(input, _along(input.shape, d, start, n)))
        if near:
            session.bring(block)
        start = 0
    for i in range(start, start + n):
        yield session.emit("squeeze_dims", session.part(block, _along(block.shape, d, i, 1)), dims=(d,))


def _iter(self: Tensor) -> Iterator[Tensor]:
    """The slices along dimension 0, as `unbind` gives them, a block at a time: what comes later is not there yet."""
    if not self.dim():
        raise TypeError("iteration over a 0-d tensor")
    if self.sharding.count == 1:
        return iter(unbind(self))
    op, args = BY_FUNCTION[unbind], (self, 0)
    operands, tracked = unwrap(op, args)
    node = record(op, args, operands) if tracked and grad_mode.enabled else None
    if node is not None:
        node.made = len(self)
        if session.batching.used:
            node.note_levels(operands[:1] * len(self))
    return _rows(self, args, node)


def _rows(self: Tensor, args: Any, node: Any) -> Iterator[Tensor]:
    number = self._counter.number
    for start in _blocks(self._value, 0):
        generation = self._storage.generation
        for i, row in enumerate(_slices(self._value, 0, start, True), start):
            tensor = output(BY_FUNCTION[unbind], args, row, i, node)
            assert tensor._view is not None
            tensor._view.generation, tensor._view.seen = (
                generation,
                number,
            )  # if it was changed since, that is seen
            yield tensor


attach(__iter__=_iter)
