"""Reading and writing along one dimension at positions that a tensor tells: gather, scatter, take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import INT64
from distgrad.ops.base import (
    Operand,
    Tensor,
    Value,
    broadcast_to,
    call,
    cast,
    composite,
    constant,
    normal_dim,
    op,
)
from distgrad.ops.helpers import title
from distgrad.ops.regrouping import dealt, padded, part, reshaped
from distgrad.ops.samples import real
from distgrad.primitives.elementwise import broadcast_shape

__all__ = ["gather", "scatter_add", "take", "take_along_dim"]

Shape = tuple[int, ...]


def positions(*rows: Any) -> Tensor:
    """An int64 tensor, for samples."""
    return Tensor(Value.known(np.array(rows, np.int64)))


def first_outside(index: Value, low: int, size: int) -> int | None:
    """The first index that is not in `low:size`, if the driver knows them; what it does not know, the kernels check."""
    array = index.array
    if array is None or array.size == 0 or (array.min() >= low and array.max() < size):
        return None
    return int(array[(array < low) | (array >= size)].flat[0])


def check_inside(
    index: Value, dim: int, size: int, low: int = 0, error: type[Exception] = RuntimeError
) -> None:
    """torch's error for an index that is not in `low:size`."""
    if (wrong := first_outside(index, low, size)) is not None:
        raise error(f"index {wrong} is out of bounds for dimension {dim} with size {size}")


def _index_of(name: str, index: Value, words: str = "int32 or int64") -> Value:
    if index.dtype.kind != "i":
        raise RuntimeError(f"{name}(): Expected dtype {words} for index")
    return cast(index, INT64)


def _lifted(x: Value) -> Value:
    """A 0-d tensor as one of one element."""
    return x if x.shape else session.emit("expand_dims", x, dims=(0,))


def _like_shape(x: Value, shape: Shape) -> Value:
    return x if x.shape == shape else session.emit("squeeze_dims", x, dims=(0,))


# An index for each element of the result.
def _check_shapes(kind: str, input: Value, index: Value, dim: int, src: Value | None = None) -> None:
    """torch's errors: index has as many dimensions as input, and along all but `dim` it is no longer than that."""
    if max(1, len(index.shape)) != max(1, len(input.shape)):
        raise RuntimeError(f"Index tensor must have the same number of dimensions as {kind} tensor")
    if src is not None and max(1, len(index.shape)) != max(1, len(src.shape)):
        raise RuntimeError("Index tensor must have the same number of dimensions as src tensor")
    wrong = [d for d, n in enumerate(index.shape) if d != dim and n > (input.shape or (1,))[d]]
    sizes = list(index.shape), list(input.shape)
    shapes = f"xpected index {sizes[0]} to be no larger than self {sizes[1]} apart from dimension {dim}"
    if wrong and kind == "input":
        raise RuntimeError(f"Size does not match at dimension {wrong[0]} e{shapes}")
    larger = src is not None and any(n > m for n, m in zip(index.shape, src.shape, strict=False))
    if wrong or larger:
        more = f" and to be no larger size than src {list(src.shape)}" if src is not None else ""
        raise RuntimeError(f"E{shapes}{more}")


def _others(input: Value, index: Value, dim: int) -> Value:
    """What of `input` the index reaches: as long as that along all dimensions but `dim`."""
    return part(input, (*index.shape[:dim], input.shape[dim], *index.shape[dim + 1 :]))


@op(
    input=lambda g, dim, index, like: scatter_add(like.zeros(), dim, index, g),
    samples=lambda: [
        (real(3, 4), 0, positions([0, 1, 2, 1], [2, 2, 0, 0])),
        (real(3, 4), -1, positions([0, 3, 0], [1, 1, 2])),
        (real(4), 0, positions(3, 3, 0)),
    ],
)
def gather(input: Value, dim: int, index: Value, *, sparse_grad: bool = False) -> Value:
    """out[i][j][k] = input[i][index[i][j][k]][k] for `dim` 1, and so on for the others."""
    dim, shape = normal_dim(dim, len(input.shape)), index.shape
    index = _index_of("gather", index, "int32/int64")
    if 0 in shape:
        return broadcast_to(constant(0, input.dtype), shape)
    _check_shapes("input", input, index, dim)
    input, index = _lifted(input), _lifted(index)
    size = input.shape[dim]
    check_inside(index, dim, size)
    return _like_shape(session.emit("gather", _others(input, index, dim), index, dim=dim, size=size), shape)


def _src_gradient(g: Tensor, dim: int, index: Tensor, like: Any) -> Tensor:
    """What was read of src is what the index covers; the rest has gradient 0."""
    g = gather(g, dim, index)
    return (
        g
        if tuple(g.shape) == like.shape
        else call("slice_put", like.zeros(), g, tuple((0, n, 1) for n in g.shape))
    )


def _scattered(g: Tensor, dim: int, index: Tensor) -> Tensor:
    return scatter(g, dim, index, 0)


@op(
    name=lambda input, dim, index, src, value: (
        f"ScatterBackward{0 if isinstance(src, (Tensor, np.ndarray)) else 1}"
    ),
    input=_scattered,
    src=_src_gradient,
    number_edges=False,
    inplace=True,
    samples=lambda: [
        (real(3, 4), 0, positions([0, 1, 2, 1], [2, 2, 0, 0]), real(2, 4)),
        (real(3, 4), 1, positions([0, 3], [1, 2]), real(3, 4, seed=1)),
        (real(4), 0, positions(3, 0), 1.5),
    ],
)
def scatter(
    input: Value,
    dim: int,
    index: Value,
    src: Operand | None = None,
    *,
    value: Operand | None = None,
) -> Value:
    """`input` with out[i][index[i][j][k]][k] = src[i][j][k] for `dim` 1, and so on; `src` may be a number.

    Of several writes to one place the last counts.
    """
    src = value if src is None else src
    if src is None:
        raise TypeError('scatter() missing 1 required positional arguments: "src"')
    dim = normal_dim(dim, len(input.shape))
    index = _index_of("scatter", index, "int32/int64")
    tensor = type(src) is Value
    if tensor and src.dtype != input.dtype:  # type: ignore[union-attr]
        raise RuntimeError("scatter(): Expected self.dtype to be equal to src.dtype")
    if 0 in index.shape:
        return input
    _check_shapes("self", input, index, dim, src if tensor else None)  # type: ignore[arg-type]
    base, index = _lifted(input), _lifted(index)
    size = base.shape[dim]
    check_inside(index, dim, size)
    written = part(_lifted(src), index.shape) if tensor else broadcast_to(cast(src, input.dtype), index.shape)  # type: ignore[arg-type]
    made = session.emit("scatter", _others(base, index, dim), index, written, dim=dim, size=size)
    return _like_shape(padded(base, made), input.shape)


@op(
    input=lambda g: g,
    src=_src_gradient,
    inplace=True,
    samples=lambda: [
        (real(3, 4), 0, positions([0, 1, 2, 1], [2, 1, 0, 0]), real(2, 4)),
        (real(3, 4), 1, positions([3, 3], [1, 2]), real(3, 4, seed=1)),
    ],
)
def scatter_add(input: Value, dim: int, index: Value, src: Value) -> Value:
    """`input` with out[i][index[i][j][k]][k] += src[i][j][k] for `dim` 1, and so on."""
    dim = normal_dim(dim, len(input.shape))
    index = _index_of("scatter", index, "int32/int64")
    if src.dtype != input.dtype:
        raise RuntimeError("scatter(): Expected self.dtype to be equal to src.dtype")
    if 0 in index.shape:
        return input
    _check_shapes("self", input, index, dim, src)
    base, index = _lifted(input), _lifted(index)
    size = base.shape[dim]
    check_inside(index, dim, size)
    total = session.emit("scatter_add", index, part(_lifted(src), index.shape), dim=dim, size=size)
    return _like_shape(padded(base, session.emit("add", part(base, total.shape), total)), input.shape)


# An index into the flattened tensor.
@op(
    input=lambda g, index, like: _put_flat(g, index, like.shape),
    samples=lambda: [(real(3, 4), positions([0, 5], [-1, 5])), (real(3), positions(2))],
)
def take(input: Value, index: Value) -> Value:
    """The elements at the positions `index` of the flattened tensor, in the shape of `index`."""
    if index.dtype != INT64:
        raise RuntimeError(f"take(): Expected a long tensor for index, but got {title(index.dtype)}")
    n = math.prod(input.shape)
    if (wrong := first_outside(index, -n, n)) is not None:
        raise IndexError(f"out of range: tried to access index {wrong} on a tensor of {n} elements.")
    flat, places = reshaped(input, (n,)), reshaped(index, (math.prod(index.shape),))
    return reshaped(dealt(session.emit("take", flat, places, dim=0, size=n, wrap=True)), index.shape)


@op(
    name="PutBackward0",
    input=lambda g, index: take(g, index),
    method=False,
    samples=lambda: [(real(2, 2), positions([0, 5], [-1, 5]), (3, 4))],
)
def _put_flat(input: Value, index: Value, shape: Any) -> Value:
    """Zeros, with each element of `input` added at its position in the flattened tensor."""
    flat, places = (reshaped(x, (math.prod(x.shape),)) for x in (input, index))
    return reshaped(session.emit("index_add", places, flat, dim=0, size=math.prod(shape)), tuple(shape))


@composite(samples=lambda: [(real(3, 4), positions([1], [0], [3]), 1), (real(3, 4), positions(5, 1))])
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` with `input` and `indices` broadcast along all dimensions but `dim`; without `dim` on flat tensors."""
    if dim is None:
        flat, places = input.reshape(-1), indices.reshape(-1)
        return gather(flat, 0, places)
    n, m = input.dim(), indices.dim()
    if n != m:
        raise RuntimeError(
            "torch.take_along_dim(): input and indices should have the same number of dimensions, but got "
            f"{n} dimensions for input, and {m} dimensions for indices"
        )
    if indices.dtype.numpy != INT64:
        raise RuntimeError(
            f"torch.take_along_dim(): dtype of indices should be Long but got {indices.dtype.title}"
        )
    d = normal_dim(dim, n)
    places = _from_front(indices, input.shape[d])
    # The shapes to which the two broadcast, apart from `dim`.
    one = broadcast_shape(
        (*input.shape[:d], 1, *input.shape[d + 1 :]), (*indices.shape[:d], 1, *indices.shape[d + 1 :])
    )
    input, places = (x.expand((*one[:d], x.shape[d], *one[d + 1 :])) for x in (input, places))
    return gather(input, d, places)


def _from_front(indices: Tensor, size: int) -> Tensor:
    value = indices._value
    if value.array is not None and (value.array.size == 0 or value.array.min() >= 0):
        return indices
    return call("where", indices < 0, indices + size, indices)
