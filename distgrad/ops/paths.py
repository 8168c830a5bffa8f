"""Following the path of a view, and writing along it, as ops: what becomes of gradients once a view was written to."""

from __future__ import annotations

from typing import Any

from distgrad.dtype import BOOL
from distgrad.ops.base import Tensor, Value, broadcast_to, cast, constant, op
from distgrad.ops.move_path import Path
from distgrad.ops.moves import Expand, Permute, Slice, Squeeze
from distgrad.ops.samples import real
from distgrad.ops.window_moves import path_of, strides, windows
from distgrad.sharding import Sharding

__all__: list[str] = []


@op(
    name=lambda input, path, name: name,
    input=lambda g, path, like: _pad_along(g, path, like.sharding),
    view=lambda shape, path, name: (*path.moves, *([Expand(path.shape)] if path.repeated else [])),
    method=False,
    samples=lambda: [
        (real(3, 4), strides((3, 4), (2, 3), (1, 4), 1), "AsStridedBackward0"),
        (real(3, 4), strides((3, 4), (3, 2, 2), (3, 0, 2), 2), "AsStridedBackward0"),
        (real(3, 7), path_of((3, 7), windows((3, 7), 1, 5, 3, 1)), "UnfoldBackward0"),
        (real(5, 2), path_of((5, 2), windows((5, 2), 0, 2, 4, 1)), "UnfoldBackward0"),
    ],
)
def _view_along(input: Value, path: Any, name: str) -> Value:
    """The elements to which `path` leads, as a view."""
    return path.get(input)


def _column(times: int = 0) -> Path:
    """From a 3 by 4 matrix to every other element of its second column, or to so many rows of these."""
    moves = (Slice(((0, 2, 2), (1, 1, 1))), Permute((1, 0)))
    return Path(moves, (1, 2), (times, 2)) if times else Path((*moves, Squeeze((0,))), (2,), (2,))


def _zero() -> Tensor:
    return Tensor(constant(0, BOOL))


@op(
    name="AsStridedBackward0",
    input=lambda g, path, like: _pad_along(g, path, like.sharding),
    method=False,
    samples=lambda: [(real(3, 4), _column()), (real(3, 4), _column(3))],
)
def _follow(input: Value, path: Any) -> Value:
    """The elements to which `path` leads."""
    return path.get(input)


@op(
    name=lambda input, src, path, name: name,
    input=lambda g, path: _put_along(g, _zero(), path),
    src=lambda g, path: _follow(g, path),
    method=False,
    samples=lambda: [(real(3, 4), real(2), _column())],
)
def _put_along(input: Value, src: Value, path: Any, name: str = "AsStridedScatterBackward0") -> Value:
    """`input` with the elements to which `path` leads replaced."""
    return path.put(input, broadcast_to(cast(src, input.dtype), path.shape))


@op(
    name="AsStridedBackward0",
    input=lambda g, path: _follow(g, path),
    method=False,
    samples=lambda: [
        (real(2), _column(), Sharding.whole((3, 4))),
        (real(3, 2), _column(3), Sharding.whole((3, 4))),
    ],
)
def _pad_along(input: Value, path: Any, cuts: Sharding) -> Value:
    """Zeros, cut like `cuts`, to which the elements of `input` are added that `path` would find there."""
    return path.pad(input, cuts)
