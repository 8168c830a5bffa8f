"""Views by windows, strides and numbers of parts: unfold, as_strided, hsplit, vsplit, dsplit, adjoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.ops.base import Tensor, attach, call, normal_dim
from distgrad.strided import Strided

__all__ = ["adjoint", "as_strided", "dsplit", "hsplit", "vsplit"]


def unfold(self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` elements along a dimension, one every `step`, as a further dimension at the end.

    A view where windows do not overlap; else a copy, which torch would not make.
    """
    shape = tuple(self.shape)
    d = normal_dim(dimension, len(shape))
    length = shape[d] if shape else 1
    if size < 0 or size > length:
        raise RuntimeError(f"maximum size for tensor at dimension {d} is {length} but size is {size}")
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    if size == 0:
        raise NotImplementedError("unfold(): windows of no elements are not supported")
    x = self if shape else self.reshape(1)
    count = (length - size) // step + 1
    if size <= step and count * step <= length:
        windows = call("narrow", x, d, 0, count * step).unflatten(d, (count, step))
        return windows.narrow(d + 1, 0, size).movedim(d + 1, -1)
    parts = [call("narrow", x, d, k, (count - 1) * step + 1) for k in range(size)]
    every = tuple(slice(None, None, step if i == d else 1) for i in range(x.dim()))
    return call("stack", [part[every] for part in parts], -1)


def as_strided(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """The elements of the storage at an offset, in this shape: of what lies in C order, and in C order again.

    Other strides are not supported: see `unfold`, `diagonal`, `expand` and `t` for the views that need them.
    """
    size, stride = tuple(size), tuple(stride)
    if len(size) != len(stride):
        raise RuntimeError("mismatch in length of strides and shape")
    offset = input.storage_offset() if storage_offset is None else storage_offset
    wanted = Strided.contiguous(size).strides
    if not input.is_contiguous() or any(
        n > 1 and s != w for n, s, w in zip(size, stride, wanted, strict=True)
    ):
        raise NotImplementedError(f"as_strided(): strides {stride} of shape {size} are not those of C order")
    first, count = offset - input.storage_offset(), math.prod(size)
    if first < 0 or first + count > input.numel():
        raise NotImplementedError("as_strided(): elements outside of the tensor itself are not supported")
    found: Tensor = input.view(-1)[first : first + count].view(size)
    return found


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
