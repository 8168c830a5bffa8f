"""Views of some of the elements: slices, select, narrow.

All that selects with start, length and step along dimensions is written with `slice_take` and `slice_put`.
"""

from __future__ import annotations

import operator
from typing import Any

from distgrad import session
from distgrad.dtype import BOOL
from distgrad.ops.base import (
    Ints,
    Tensor,
    Value,
    broadcast_to,
    cast,
    composite,
    constant,
    normal_dim,
    op,
)
from distgrad.ops.moves import Move, Slice, Slices, Squeeze
from distgrad.ops.regrouping import compact
from distgrad.ops.samples import real
from distgrad.ops.views import unsqueeze
from distgrad.sharding import Sharding


@op(
    name="SliceBackward0",
    input=lambda g, slices, like: slice_pad(g, slices, like.sharding),
    view=lambda shape, slices: (Slice(tuple(slices)),),
    method=False,
    samples=lambda: [(real(5, 4), ((1, 2, 2), (0, 4, 1)))],
)
def slice_take(input: Value, slices: Any) -> Value:
    """The elements `start + i * step`, for i below `length`, for the (start, length, step) of each dimension."""
    return compact(session.part(input, slices))


@op(
    name="SliceScatterBackward0",
    input=lambda g, slices: slice_put(g, _zero(), slices),
    src=lambda g, slices: slice_take(g, slices),
    method=False,
    samples=lambda: [(real(5, 4), real(2, 4), ((1, 2, 2), (0, 4, 1)))],
)
def slice_put(input: Value, src: Value, slices: Any) -> Value:
    """`input` with the elements that `slice_take` selects replaced by those of `src`."""
    shape = tuple(s[1] for s in slices)
    src = cast(src, input.dtype)
    return session.put(input, broadcast_to(src, shape) if src.shape else src, slices)


@op(
    name="SliceBackwardBackward0",
    input=lambda g, slices: slice_take(g, slices),
    method=False,
    samples=lambda: [(real(2, 4), ((1, 2, 2), (0, 4, 1)), Sharding.whole((5, 4)))],
)
def slice_pad(input: Value, slices: Any, cuts: Sharding) -> Value:
    """Zeros, cut like `cuts`, with the elements that `slice_take` selects replaced by those of `input`."""
    return session.emit("pad", input, slices=slices, cuts=cuts)


def _zero() -> Tensor:
    return Tensor(constant(0, BOOL))


def full_slices(shape: Ints) -> list[tuple[int, int, int]]:
    """The slices that select everything."""
    return [(0, n, 1) for n in shape]


def _along(shape: Ints, dim: int, start: int, length: int, step: int = 1) -> Slices:
    slices = full_slices(shape)
    slices[normal_dim(dim, len(shape))] = (start, length, step)
    return tuple(slices)


def _selected(shape: Ints, dim: int, index: int) -> Slices:
    if not shape:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    n = shape[normal_dim(dim, len(shape))]
    if not -n <= index < n:
        raise IndexError(
            f"select(): index {index} out of range for tensor of size {list(shape)} at dimension {dim}"
        )
    return _along(shape, dim, index % n, 1)


@op(
    input=lambda g, dim, index, like: slice_pad(
        unsqueeze(g, normal_dim(dim, like.ndim)), _selected(like.shape, dim, index), like.sharding
    ),
    view=lambda shape, dim, index: _select_moves(shape, dim, index),
    samples=lambda: [(real(3, 4), 0, 1), (real(3, 4), -1, -2), (real(3), 0, 0)],
)
def select(input: Value, dim: int, index: int) -> Value:
    """The elements at `index` of dimension `dim`, without that dimension."""
    index = operator.index(index)
    part = compact(session.part(input, _selected(input.shape, dim, index)))
    return session.emit("squeeze_dims", part, dims=(normal_dim(dim, len(input.shape)),))


def _select_moves(shape: Ints, dim: int, index: int) -> tuple[Move, ...]:
    return Slice(_selected(shape, dim, operator.index(index))), Squeeze((normal_dim(dim, len(shape)),))


@composite(samples=lambda: [(real(5, 4), 0, 1, 3), (real(5, 4), -1, 0, 2)])
def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """`length` elements from `start` along `dim`."""
    shape = tuple(input.shape)
    if not shape:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    n = shape[normal_dim(dim, len(shape))]
    first = operator.index(start)
    if not -n <= first <= n:
        raise IndexError(f"start out of range (expected to be in range of [{-n}, {n}], but got {first})")
    first = first + n if first < 0 else first
    if length < 0:
        raise RuntimeError("narrow(): length must be non-negative.")
    if first + length > n:
        raise RuntimeError(f"start ({first}) + length ({length}) exceeds dimension size ({n}).")
    return slice_take(input, _along(shape, dim, first, length))
