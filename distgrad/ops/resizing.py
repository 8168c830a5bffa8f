"""`resize_` and `resize_as_`: a tensor takes another shape, and what there is of its storage's elements."""

from __future__ import annotations

import math
from typing import Any

from distgrad import session
from distgrad.callsites import call_site
from distgrad.formats import check_format
from distgrad.graph import Value
from distgrad.ops.base import Tensor, attach, broadcast_to, constant
from distgrad.ops.helpers import normal_ints
from distgrad.ops.regrouping import reshaped
from distgrad.storage import Storage

__all__ = ["resize_as_"]


def _taken(stored: Value, first: int, shape: tuple[int, ...]) -> Value:
    """The elements of a storage from `first` on, in C order, with zeros behind the last."""
    n = math.prod(shape)
    flat = reshaped(stored, (math.prod(stored.shape),))
    count = min(n, flat.shape[0] - first)
    part = session.emit("slice", flat, slices=((first, count, 1),))
    if count < n:
        more = broadcast_to(constant(0, stored.dtype), (n - count,))
        part = session.emit("cat", part, more, dim=0, sizes=(count, n - count))
    return reshaped(part, shape)


def _resize_(self: Tensor, *size: Any, memory_format: Any = None) -> Tensor:
    """Take this shape, with the elements in the order in which they lie. Other tensors keep the storage as it was.

    In torch a tensor that gets no larger goes on sharing its storage.
    """
    if not size:
        raise TypeError('resize_() missing 1 required positional arguments: "size"')
    shape = normal_ints("resize_", "size", 0, size)
    if self.requires_grad:
        raise RuntimeError("cannot resize variables that require grad")
    if any(n < 0 for n in shape):
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}")
    check_format("resize_", memory_format, len(shape))
    if shape == tuple(self.shape):
        return self
    with session.called("resize_"):
        value = _taken(self._storage.value, self._layout.offset, shape)
    self._storage, self._view = Storage(value), None
    self._counter.number += 1
    self._counter.changed = call_site("resize_")
    return self


def resize_as_(input: Tensor, the_template: Tensor, *, memory_format: Any = None) -> Tensor:
    """Take the shape of another tensor; see `Tensor.resize_`."""
    return _resize_(input, tuple(the_template.shape), memory_format=memory_format)


attach(resize_=_resize_, resize_as_=resize_as_)
