"""Places that are counted through all elements in C order: `put` and `unravel_index`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from distgrad.dtype import int64
from distgrad.ops.base import Tensor, attach, call, composite
from distgrad.ops.gathering import positions
from distgrad.ops.indexing import index_put
from distgrad.ops.samples import real

__all__ = ["put", "unravel_index"]


def _check(input: Tensor, index: Any, source: Any) -> None:
    for place, (name, x) in enumerate((("index", index), ("source", source)), 1):
        if not isinstance(x, Tensor):
            kind = type(x).__name__
            raise TypeError(f"put_(): argument '{name}' (position {place}) must be Tensor, not {kind}")
    if index.dtype is not int64:
        raise RuntimeError(f"put_(): Expected a long tensor for index, but got {index.dtype.title}")
    if source.dtype is not input.dtype:
        raise RuntimeError(
            "put_(): self and source expected to have the same dtype, but got self.dtype = "
            f"{input.dtype.title} and source.dtype = {source.dtype.title}"
        )
    if source.numel() != index.numel():
        raise IndexError(
            "put_(): Expected source and index to have the same number of elements, but got source.numel() = "
            f"{source.numel()}, index.numel() = {index.numel()}"
        )
    if index.numel() and not input.numel():
        raise IndexError("put_(): Tried to put elements into an empty tensor")


@composite(
    samples=lambda: [
        (real(2, 3), positions(1, 4), real(2)),
        (real(2, 3), positions(1, 1), real(2), True),
    ]
)
def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """`input` with the elements of `source` at these places, or added there; of equal places one is written."""
    _check(input, index, source)
    if not index.numel():
        return call("clone", input)
    flat, at, new = (call("reshape", x, (-1,)) for x in (input, index, source))
    return call("reshape", index_put(flat, (at,), new, accumulate), tuple(input.shape))


def _put_(self: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """`put`, written into the tensor."""
    return self.copy_(put(self, index, source, accumulate))


def unravel_index(indices: Tensor, shape: int | Sequence[int] | Tensor) -> tuple[Tensor, ...]:
    """The places in a tensor of this `shape`, dimension by dimension, of what is counted through all its elements."""
    if indices.is_floating_point() or indices.dtype.name == "bool":
        raise TypeError(f"expected 'indices' to be integer dtype, but got {indices.dtype}")
    sizes: Any = shape.tolist() if isinstance(shape, Tensor) else shape
    sizes = (sizes,) if isinstance(sizes, int) else sizes
    if not isinstance(sizes, (tuple, list)) or not all(isinstance(n, int) for n in sizes):
        raise TypeError(f"expected 'shape' to be int or sequence of ints, but got {type(shape)}")
    if any(n < 0 for n in sizes):
        raise ValueError(f"'shape' cannot have negative values, but got {tuple(sizes)}")
    steps = [*itertools.accumulate(reversed(sizes[1:]), lambda a, b: a * b, initial=1)][::-1] if sizes else []
    return tuple(
        call("remainder", call("floor_divide", indices, step), n)
        for step, n in zip(steps, sizes, strict=True)
    )


attach(put_=_put_)
