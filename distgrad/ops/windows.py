"""Views by windows, strides and numbers of parts: unfold, as_strided, hsplit, vsplit, dsplit, adjoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.ops.base import Tensor, attach, call, normal_dim
from distgrad.ops.helpers import normal_ints
from distgrad.ops.move_path import Path
from distgrad.ops.window_moves import path_of, strides, windows
from distgrad.strided import Ints

__all__ = ["adjoint", "as_strided", "dsplit", "hsplit", "vsplit"]


def unfold(self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` elements along a dimension, one every `step`, as a further dimension at the end: a view."""
    shape = tuple(self.shape)
    d = normal_dim(dimension, len(shape))
    length = shape[d] if shape else 1
    if size < 0 or size > length:
        raise RuntimeError(f"maximum size for tensor at dimension {d} is {length} but size is {size}")
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    if not shape:
        return call("unsqueeze", self, 0).narrow(0, 0, size)
    count = (length - size) // step + 1
    if size == 0:  # of no elements
        return self.new_zeros((*shape[:d], count, *shape[d + 1 :], 0))
    return call("_view_along", self, path_of(shape, windows(shape, d, count, size, step)), "UnfoldBackward0")


def as_strided(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """The elements of the storage that these strides, from an offset on, lead to: a view.

    As everywhere strides are those of a tensor in one process. What lies neither in the tensor itself nor in the base
    of which it is a view cannot be told to where gradients go, and is not supported.
    """
    size, stride, offset = strided(input, size, stride, storage_offset)
    if 0 in size:
        return input.reshape(-1)[:0].reshape(size)
    for x in (input, input._base):
        if x is None or (input.requires_grad and not x.requires_grad):
            continue
        path = strided_path(x, size, stride, offset)
        if path is not None:
            return call("_view_along", x, path, "AsStridedBackward0")
    raise NotImplementedError(PART)


def strided(input: Tensor, size: Any, stride: Any, storage_offset: int | None) -> tuple[Ints, Ints, int]:
    """The arguments of `as_strided`, checked."""
    size, stride = normal_ints("as_strided", "size", 0, size), normal_ints("as_strided", "stride", 1, stride)
    if len(size) != len(stride):
        raise RuntimeError("mismatch in length of strides and shape")
    offset = input.storage_offset() if storage_offset is None else storage_offset
    _check_strides(input, size, stride, offset)
    return size, stride, offset


PART = "as_strided(): of a tensor on a part of its storage only what lies in that part"


def strided_path(x: Tensor, size: Ints, stride: Ints, offset: int) -> Path | None:
    """From a tensor to the elements of its storage that these strides lead to; None if it does not have them all."""
    span = sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
    first = offset - x.storage_offset()
    if x._layout.span is None or not 0 <= first <= x.numel() - span:
        return None
    return strides(tuple(x.shape), size, stride, first, _falling(tuple(x.shape), x.stride()))


def _falling(shape: Ints, along: Ints) -> Ints:
    """The dimensions in the order of their strides, those of length 1 first."""
    return tuple(sorted(range(len(shape)), key=lambda d: (shape[d] != 1, -along[d])))


def _check_strides(input: Tensor, size: Ints, stride: Ints, offset: int) -> None:
    """torch's errors."""
    if offset < 0:
        raise RuntimeError(f"Tensor: invalid storage offset {offset}")
    if min(stride, default=0) < 0:
        raise RuntimeError(
            f"as_strided: Negative strides are not supported at the moment, got strides: {list(stride)}"
        )
    if min(size, default=0) < 0:
        raise RuntimeError(
            f"Storage size calculation overflowed with sizes={list(size)} and strides={list(stride)}"
        )
    each, there = input.itemsize, math.prod(input._storage.value.shape)
    needed = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
    if 0 not in size and needed > there:
        raise RuntimeError(
            f"setStorage: sizes {list(size)}, strides {list(stride)}, storage offset {offset}, and itemsize {each} "
            f"requiring a storage size of {needed * each} are out of bounds for storage of size {there * each}"
        )


def _split(input: Tensor, parts: Any, dim: int, name: str, least: int) -> tuple[Tensor, ...]:
    if input.dim() < least:
        raise RuntimeError(
            f"torch.{name} requires a tensor with at least {least} dimension{'s' * (least > 1)}, but got a tensor with "
            f"{input.dim()} dimensions!"
        )
    if isinstance(parts, int) and (parts <= 0 or input.shape[dim] % parts):
        raise RuntimeError(
            f"torch.{name} attempted to split along dimension {dim}, but the size of the dimension "
            f"{input.shape[dim]} is not divisible by the split_size {parts}!"
        )
    found: tuple[Tensor, ...] = call("tensor_split", input, parts, dim)
    return found


def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Parts along dimension 1; of a vector along dimension 0."""
    return _split(input, indices_or_sections, min(1, input.dim() - 1), "hsplit", 1)


def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Parts along dimension 0."""
    return _split(input, indices_or_sections, 0, "vsplit", 2)


def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Parts along dimension 2."""
    return _split(input, indices_or_sections, 2, "dsplit", 3)


def adjoint(input: Tensor) -> Tensor:
    """The last two dimensions exchanged: numbers are real."""
    found: Tensor = input.transpose(-2, -1)
    return found


attach(unfold=unfold, as_strided=as_strided, hsplit=hsplit, vsplit=vsplit, dsplit=dsplit, adjoint=adjoint)
