"""sum, mean and sum_to_size, which undoes broadcasting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import INT64, NAMES, OF_NUMPY, dtype
from distgrad.ops.base import (
    Dims,
    Ints,
    Like,
    Tensor,
    Value,
    broadcast_to,
    constant,
    normal_dims,
    op,
    reduce,
)
from distgrad.ops.samples import real


def spread(g: Tensor, dim: Dims, keepdim: bool, like: Like) -> Tensor:
    """The gradient of a reduction laid along the dimensions that were reduced, as large as `like`."""
    return _spread(g, () if keepdim else normal_dims(dim, like.ndim), like.shape, like.sharding)


@op(
    name="ExpandBackward0",
    input=lambda g, dims: sum(g, dims) if dims else g,
    method=False,
    samples=lambda: [(real(3), (0,), (2, 3)), (real(2, 1), (), (2, 3)), (real(2), (1,), (2, 4))],
)
def _spread(input: Value, dims: Any, shape: Any, cuts: Any = None) -> Value:
    """New dimensions at `dims`, then repeated to `shape`."""
    if dims and input.shape:
        input = session.emit("expand_dims", input, dims=tuple(dims))
    return broadcast_to(input, tuple(shape), cuts)


def _sum_name(input: Any, dim: Dims, keepdim: bool, dtype: Any) -> str:
    return "SumBackward0" if dim is None else "SumBackward1"


def _reductions() -> list[Any]:
    return [(real(2, 3),), (real(2, 3), 0), (real(2, 3), -1, True), (real(2, 3, 2), (0, 2)), (real(),)]


@op(
    name=_sum_name,
    input=lambda g, dim, keepdim, like: spread(g, dim, keepdim, like),
    samples=_reductions,
)
def sum(input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: dtype | None = None) -> Value:
    """Sum along `dim`: one, several, or all. Integers and bools are summed as int64."""
    _check_keepdim("sum", keepdim)
    target = dtype.numpy if dtype is not None else input.dtype if input.dtype.kind == "f" else INT64
    return reduce("sum", input, dim, keepdim, dtype=NAMES[target])


@op(
    name=lambda input, dim, keepdim, dtype: "MeanBackward0" if dim is None else "MeanBackward1",
    input=lambda g, dim, keepdim, like: spread(g / _count(like.shape, dim), dim, keepdim, like),
    samples=_reductions,
)
def mean(input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: dtype | None = None) -> Value:
    """Mean along `dim`: one, several, or all."""
    _check_keepdim("mean", keepdim)
    target = input.dtype if dtype is None else dtype.numpy
    if target.kind != "f":
        which = "Input" if dtype is None else "Optional"
        raise RuntimeError(
            f"mean(): could not infer output dtype. {which} dtype must be either a floating point or complex dtype. "
            f"Got: {OF_NUMPY[target].title}"
        )
    total = reduce("sum", input, dim, keepdim, dtype=NAMES[target])
    return session.emit("divide", total, constant(_count(input.shape, dim), target))


def _count(shape: tuple[int, ...], dim: Dims) -> int:
    return math.prod(shape[d] for d in normal_dims(dim, len(shape)))


def _check_keepdim(op_name: str, keepdim: Any) -> None:
    if not isinstance(keepdim, (bool, np.bool_)):
        raise TypeError(
            f"{op_name}(): argument 'keepdim' (position 2) must be bool, not {type(keepdim).__name__}"
        )


@op(
    name="SumBackward1",
    input=lambda g, like: _spread(g, (), like.shape, like.sharding),
    samples=lambda: [(real(2, 3), 1, 3), (real(2, 3), 3), (real(4, 2, 3), 2, 1)],
)
def sum_to_size(input: Value, size: Ints) -> Value:
    """The sum over the dimensions that broadcasting added or lengthened, so that the result has shape `size`."""
    shape = input.shape
    more = len(shape) - len(size)
    if more < 0 or any(n != m and m != 1 for n, m in zip(shape[more:], size, strict=True)):
        raise RuntimeError(f"size {{{list(size)}}} is not expandable to size {{{list(shape)}}}.")
    name = NAMES[input.dtype if input.dtype.kind == "f" or (size == shape and shape) else INT64]
    leading = tuple(range(more))
    ones = tuple(d for d, m in enumerate(size, more) if m == 1 and shape[d] != 1)
    if name != NAMES[input.dtype] and not (ones or leading):
        return session.emit("cast", input, dtype=name)
    if ones or leading:
        input = session.emit("sum", input, dims=leading + ones, keepdim=True, dtype=name)
    return session.emit("squeeze_dims", input, dims=leading) if leading else input
