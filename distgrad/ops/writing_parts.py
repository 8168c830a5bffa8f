"""A tensor with a part of it replaced, as a new one: slice_scatter, select_scatter and their kin; and `fill_diagonal_`.

Each is the view op of the same name, written along instead of read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.ops.base import Ints, Tensor, attach, call, normal_dim
from distgrad.ops.inplace import OVERLAP
from distgrad.ops.making import arange
from distgrad.ops.move_path import Path
from distgrad.ops.moves import Move, Slice
from distgrad.ops.rearranging import _diagonal, diagonal
from distgrad.ops.slices import _along, _select_moves
from distgrad.ops.views import unsqueeze
from distgrad.ops.window_moves import path_of
from distgrad.ops.windows import PART, strided, strided_path

__all__ = ["as_strided_scatter", "diagonal_scatter", "select_scatter", "slice_scatter"]


def _tensors(name: str, input: Any, src: Any) -> None:
    """torch's error for what is no tensor."""
    for position, (argument, x) in enumerate((("input", input), ("src", src)), 1):
        if not isinstance(x, Tensor):
            kind = type(x).__name__
            raise TypeError(
                f"{name}(): argument '{argument}' (position {position}) must be Tensor, not {kind}"
            )


def _put(input: Tensor, src: Tensor, path: Path, name: str) -> Tensor:
    if tuple(src.shape) != path.shape:
        raise RuntimeError(
            "expected src to have a size equal to the slice of self. "
            f"src size = {list(src.shape)}, slice size = {list(path.shape)}"
        )
    return call("_put_along", input, src, path, name)


def _moved(input: Tensor, src: Tensor, moves: tuple[Move, ...], name: str) -> Tensor:
    return _put(input, src, path_of(tuple(input.shape), moves), name)


def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """`input` with `src` in place of `input[start:end:step]` along `dim`."""
    _tensors("slice_scatter", input, src)
    if not input.dim():
        raise IndexError("slice() cannot be applied to a 0-dim tensor.")
    n = input.shape[normal_dim(dim, input.dim())]
    if step <= 0:
        raise RuntimeError("slice step must be positive")
    first, last, by = slice(start, end, step).indices(n)
    slices = _along(tuple(input.shape), dim, first, len(range(first, last, by)), by)
    return _moved(input, src, (Slice(slices),), "SliceScatterBackward0")


def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """`input` with `src` at `index` of dimension `dim`."""
    _tensors("select_scatter", input, src)
    moves = _select_moves(tuple(input.shape), normal_dim(dim, input.dim()), index)
    return _moved(input, src, moves, "SelectScatterBackward0")


def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """`input` with `src` on the diagonal that `diagonal` gives."""
    _tensors("diagonal_scatter", input, src)
    move = _diagonal(tuple(input.shape), offset, dim1, dim2)
    return _moved(input, src, (move,), "DiagonalScatterBackward0")


def as_strided_scatter(
    input: Tensor, src: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """`input` with `src` at the elements that `as_strided` gives."""
    _tensors("as_strided_scatter", input, src)
    shape, along, offset = strided(input, size, stride, storage_offset)
    if 0 in shape:
        return input.clone()
    path = strided_path(input, shape, along, offset)
    if path is None:
        raise NotImplementedError(PART)
    if path.repeated or path.tangled:
        raise RuntimeError(OVERLAP)
    return _put(input, src, path, "AsStridedScatterBackward0")


def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Put a number on the main diagonal; with `wrap`, in a tall matrix again below each square, one row apart."""
    shape: Ints = tuple(self.shape)
    if len(shape) < 2:
        raise RuntimeError("dimensions must larger than 1")
    if len(shape) > 2 and len(set(shape)) > 1:
        raise RuntimeError("all dimensions of input must be of equal length")
    rows, columns = shape[0], shape[-1]
    if wrap and len(shape) == 2 and rows > columns + 1:
        place = unsqueeze(arange(rows) % (columns + 1), 1)
        return self.masked_fill_(place == arange(columns), fill_value)
    part = diagonal(self)
    for _ in shape[2:]:
        part = diagonal(part, 0, 0, -1)
    part.fill_(fill_value)
    return self


attach(
    as_strided_scatter=as_strided_scatter,
    diagonal_scatter=diagonal_scatter,
    fill_diagonal_=fill_diagonal_,
    select_scatter=select_scatter,
    slice_scatter=slice_scatter,
)
