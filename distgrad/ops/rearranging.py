"""Elements at other places: flip, roll, repeat, triangles and diagonals of matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL, INT64
from distgrad.ops.base import (
    Ints,
    Like,
    Tensor,
    Value,
    broadcast_to,
    call,
    composite,
    constant,
    normal_dim,
    op,
)
from distgrad.ops.helpers import normal_ints
from distgrad.ops.indexed_slices import index_select
from distgrad.ops.move_path import Path
from distgrad.ops.moves import Diagonal
from distgrad.ops.regrouping import reshaped
from distgrad.ops.samples import real
from distgrad.ops.shape import flatten
from distgrad.ops.slices import _along
from distgrad.ops.sums import sum
from distgrad.ops.views import expand, reshape, unsqueeze

__all__ = [
    "diag",
    "diag_embed",
    "diagflat",
    "diagonal",
    "flip",
    "fliplr",
    "flipud",
    "repeat_interleave",
    "roll",
    "tile",
    "trace",
    "tril",
    "triu",
]


# Along dimensions.
@op(
    input=lambda g, dims: flip(g, dims),
    samples=lambda: [(real(3, 2), (0,)), (real(3, 2, 2), (0, -1)), (real(), (0,))],
)
def flip(input: Value, dims: Ints) -> Value:
    """The order of the elements reversed along `dims`."""
    ndim = len(input.shape)
    found = [normal_dim(d, ndim) for d in dims]
    for i, d in enumerate(found):
        if d in found[:i]:
            raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
    return session.emit("flip", input, dims=tuple(sorted(found))) if ndim and found else input


@composite(samples=lambda: [real(2, 3)])
def fliplr(input: Tensor) -> Tensor:
    """The columns in reverse order."""
    if input.dim() < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return flip(input, (1,))


@composite(samples=lambda: [real(2, 3), real(3)])
def flipud(input: Tensor) -> Tensor:
    """The rows in reverse order."""
    if input.dim() < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return flip(input, (0,))


def _rolled(x: Value, shift: int, d: int) -> Value:
    n = x.shape[d]
    shift = shift % n if n else 0
    if not shift:
        return x
    parts = [
        session.emit("slice", x, slices=_along(x.shape, d, *s)) for s in ((n - shift, shift), (0, n - shift))
    ]
    return session.emit("cat", *parts, dim=d, sizes=(shift, n - shift))


@op(
    input=lambda g, shifts, dims: roll(g, tuple(-s for s in normal_ints("roll", "shifts", 1, shifts)), dims),
    samples=lambda: [(real(3, 2), 1), (real(3, 2), -1, 0), (real(3, 4), (1, 2), (0, 1)), (real(), 1)],
)
def roll(input: Value, shifts: Any, dims: Any = ()) -> Value:
    """The elements moved on by `shifts` along `dims`, those at the end back to the front; without `dims` when flat."""
    by, along = normal_ints("roll", "shifts", 1, shifts), normal_ints("roll", "dims", 2, dims)
    if not by:
        raise RuntimeError("`shifts` required")
    if not along and len(by) == 1:
        return reshaped(_rolled(reshaped(input, (math.prod(input.shape),)), by[0], 0), input.shape)
    if len(by) != len(along):
        raise RuntimeError(f"shifts and dimensions must align. shifts: {len(by)}, dims:{len(along)}")
    for shift, dim in zip(by, along, strict=True):
        d = normal_dim(dim, len(input.shape))
        input = _rolled(input, shift, d) if input.shape else input
    return input


# Repeating.
def _repeat_gradient(g: Tensor, repeats: Ints, like: Like) -> Tensor:
    """The sum over the repetitions."""
    shape = (1,) * (len(repeats) - like.ndim) + like.shape
    split = tuple(n for r, m in zip(repeats, shape, strict=True) for n in (r, m))
    if not like.ndim and not repeats:
        return g
    return sum(reshape(g, split), tuple(range(0, len(split), 2)))


@op(
    input=_repeat_gradient,
    samples=lambda: [(real(2, 3), (2, 2)), (real(3), (2, 1, 2)), (real(), (3,)), (real(2, 3), (1, 1))],
)
def repeat(input: Value, repeats: Ints) -> Value:
    """The tensor `repeats[d]` times one after another along each dimension d, new ones in front included."""
    if len(repeats) < len(input.shape):
        raise RuntimeError(
            "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor"
        )
    shape = (1,) * (len(repeats) - len(input.shape)) + input.shape
    target = tuple(n * r for n, r in zip(shape, repeats, strict=True))
    if any(n < 0 for n in target):
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(target)}: {list(target)}")
    if target == input.shape:
        return input
    opened = reshaped(input, tuple(m for n in shape for m in (1, n)))
    spread = session.emit(
        "expand",
        opened,
        shape=tuple(m for n, r in zip(shape, repeats, strict=True) for m in (r, n)),
        cuts=None,
    )
    return reshaped(spread, target)


@composite(samples=lambda: [(real(2, 3), 2), (real(2), (2, 2))])
def tile(input: Tensor, *dims: Any) -> Tensor:
    """`repeat`, with ones put before `dims` where the tensor has more dimensions."""
    counts = normal_ints("tile", "dims", 1, dims)
    return repeat(input, (1,) * (input.dim() - len(counts)) + counts)


@composite(
    samples=lambda: [
        (real(2, 3), 2),
        (real(2, 3), 3, 1),
        (real(2, 3), Tensor(Value.known(np.array([2, 1]))), 0),
    ]
)
def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: Any = None
) -> Tensor:
    """Each element (slice along `dim`) so many times in a row: all as often, or as the vector `repeats` tells.

    With one argument: each position as often as the vector tells.
    """
    if repeats is None:
        return Tensor(session.constant(np.repeat(np.arange(input.shape[0]), input.detach().numpy())))
    x = flatten(input) if dim is None else input
    d = normal_dim(0 if dim is None else dim, x.dim())
    n = x.shape[d]
    counts = repeats.detach().numpy() if isinstance(repeats, Tensor) else np.asarray(repeats)
    if counts.size and counts.min() < 0:
        raise RuntimeError("Repeats must be non-negative")
    if counts.ndim and counts.size != 1:
        if counts.size != n:
            raise RuntimeError(
                f"repeats must have the same size as input along dim, but got repeats.size(0) = {counts.size} and "
                f"input.size({d}) = {n}"
            )
        return index_select(x, d, Tensor(session.constant(np.repeat(np.arange(n), counts))))
    times = int(counts.reshape(-1)[0])
    shape = tuple(x.shape)
    wide = expand(unsqueeze(x, d + 1), (*shape[: d + 1], times, *shape[d + 1 :]))
    return reshape(call("clone", wide), (*shape[:d], n * times, *shape[d + 1 :]))


# Triangles.
def _triangle(name: str, keeps: str, input: Value, diagonal: int) -> Value:
    shape = input.shape
    if len(shape) < 2:
        raise RuntimeError(f"{name}: input tensor must have at least 2 dimensions")
    n, m = shape[-2:]
    rows = session.emit("iota", shape=(n, 1), dim=0, cuts=None)
    columns = session.emit("iota", shape=(1, m), dim=1, cuts=None)
    kept = session.emit(keeps, columns, session.emit("add", rows, constant(diagonal, INT64)))
    return session.emit("where", kept, input, constant(0, input.dtype))


def _triangles() -> list[Any]:
    return [real(3, 3), (real(2, 4), 1), (real(2, 3, 2), -1)]


def _zeroed(other: Any, shift: int, self: Tensor, diagonal: int) -> tuple[Tensor, int]:
    return other(Tensor(constant(True, BOOL)).expand(self.shape), diagonal + shift), 0


@op(
    input=lambda g, diagonal: tril(g, diagonal),
    inplace=True,
    fills=lambda self, diagonal: _zeroed(triu, 1, self, diagonal),
    samples=_triangles,
)
def tril(input: Value, diagonal: int = 0) -> Value:
    """The elements on and below a diagonal of the last two dimensions, zeros above."""
    return _triangle("tril", "less_equal", input, diagonal)


@op(
    input=lambda g, diagonal: triu(g, diagonal),
    inplace=True,
    fills=lambda self, diagonal: _zeroed(tril, -1, self, diagonal),
    samples=_triangles,
)
def triu(input: Value, diagonal: int = 0) -> Value:
    """The elements on and above a diagonal of the last two dimensions, zeros below."""
    return _triangle("triu", "greater_equal", input, diagonal)


# Diagonals.
def _two_dims(ndim: int, dim1: int, dim2: int) -> tuple[int, int]:
    a, b = normal_dim(dim1, ndim), normal_dim(dim2, ndim)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    return a, b


def _diagonal(shape: Ints, offset: int, dim1: int, dim2: int) -> Diagonal:
    return Diagonal(offset, *_two_dims(len(shape), dim1, dim2))


def _diagonal_pad(g: Tensor, offset: int, dim1: int, dim2: int, like: Like) -> Tensor:
    """Zeros with the diagonal `g`."""
    path = Path.of(like.shape).then(_diagonal(like.shape, offset, dim1, dim2), tuple(g.shape))
    return path.pull(g, like.sharding)


@op(
    input=_diagonal_pad,
    view=lambda shape, offset, dim1, dim2: (_diagonal(shape, offset, dim1, dim2),),
    samples=lambda: [
        (real(3, 3),),
        (real(2, 4), 1),
        (real(3, 2), -1),
        (real(2, 3, 3), 1, -2, -1),
        (real(2, 3, 4), 0, 2, 0),
    ],
)
def diagonal(input: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """A diagonal of two dimensions, as the last dimension: where `dim2`'s position is `dim1`'s plus `offset`."""
    return _diagonal(input.shape, offset, dim1, dim2).get(input)


@op(
    name="DiagonalBackward0_copy",
    input=lambda g, diagonal, like: _diagonal_pad(g, diagonal, 0, 1, like),
    method=False,
    samples=lambda: [(real(3, 3), 0), (real(2, 4), 1)],
)
def _diagonal_copy(input: Value, diagonal: int) -> Value:
    return Diagonal(diagonal, 0, 1).get(input)


@op(
    input=lambda g, offset, dim1, dim2: diagonal(g, offset, dim1, dim2),
    samples=lambda: [(real(3),), (real(2, 3), 1), (real(2, 3), -1, 0, 1)],
)
def diag_embed(input: Value, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Value:
    """Matrices with the elements of the last dimension on a diagonal, zeros elsewhere."""
    ndim = len(input.shape) + 1
    a, b = _two_dims(ndim, dim1, dim2)
    n = input.shape[-1] + abs(offset)
    shape = list(input.shape[:-1])
    for d in sorted((a, b)):
        shape.insert(d, n)
    return Diagonal(offset, a, b).put(broadcast_to(constant(0, input.dtype), tuple(shape)), input)


@composite(samples=lambda: [(real(3),), (real(3, 3),), (real(2, 3), 1)])
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A vector as the diagonal of a matrix; of a matrix a copy of the diagonal."""
    if input.dim() not in (1, 2):
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {input.dim()}D")
    return diag_embed(input, diagonal) if input.dim() == 1 else _diagonal_copy(input, diagonal)


@composite(samples=lambda: [(real(3),), (real(2, 2), 1), (real(), -1)])
def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """A matrix with all elements, in C order, on a diagonal."""
    return diag_embed(call("reshape", input, (-1,)), offset)


@op(
    input=lambda g, like: _diagonal_pad(expand(g, (min(like.shape),)), 0, 0, 1, like),
    samples=lambda: [real(3, 3), real(2, 4)],
)
def trace(input: Value) -> Value:
    """The sum of a matrix's diagonal."""
    if len(input.shape) != 2:
        raise RuntimeError(f"trace: expected a matrix, but got tensor with dim {len(input.shape)}")
    target = input.dtype if input.dtype.kind == "f" else INT64
    return session.emit("sum", Diagonal(0, 0, 1).get(input), dims=(0,), keepdim=False, dtype=str(target))
