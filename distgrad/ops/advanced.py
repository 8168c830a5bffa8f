"""Integer tensors as indices: one for each of some dimensions, broadcast together. What `x[i, :, j]` is made of."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import INT64
from distgrad.ops.base import Ints, Tensor, Value, broadcast_to, cast, constant, op
from distgrad.ops.gathering import check_inside, positions
from distgrad.ops.helpers import title
from distgrad.ops.regrouping import dealt, reshaped, to_back, to_front
from distgrad.ops.samples import real
from distgrad.primitives.elementwise import broadcast_shape


def _together(indices: Sequence[Value]) -> Ints:
    """The shape to which indices broadcast."""
    shapes = [x.shape for x in indices]
    try:
        return broadcast_shape(*shapes)
    except RuntimeError:
        words = ", ".join(str(list(s)) for s in shapes)
        raise IndexError(
            f"shape mismatch: indexing tensors could not be broadcast together with shapes {words}"
        ) from None


def _flat_index(indices: Sequence[Value], dims: Ints, shape: Ints, together: Ints) -> Value:
    """The indices of several dimensions as one vector, for these dimensions made one.

    One alone may have negative elements still. Those of several are brought to 0 and up, and checked, by a `take` from
    the positions themselves; what the driver knows is done by it at once.
    """
    total = math.prod(together)
    if total and any(shape[d] == 0 for d in dims):
        raise IndexError("index is out of bounds for dimension with size 0")
    for i, (d, x) in enumerate(
        zip(dims, indices, strict=True)
    ):  # torch counts the indices, not the dimensions
        check_inside(x, i, shape[d], -shape[d], IndexError)
    if len(dims) == 1:
        return reshaped(cast(indices[0], INT64), (total,))
    sizes = [shape[d] for d in dims]
    arrays = [x.array for x in indices]
    known = [a for a in arrays if a is not None]
    if len(known) == len(arrays) and total <= 1 << 13:
        wrapped = [np.where(a < 0, a + n, a) for a, n in zip(known, sizes, strict=True)]
        strided = [a * math.prod(sizes[i + 1 :]) for i, a in enumerate(wrapped)]
        return Value.known(functools.reduce(np.add, strided).astype(np.int64).reshape(-1))
    place: Value | None = None
    for i, (n, x) in enumerate(zip(sizes, indices, strict=True)):
        every = session.emit(
            "iota", shape=(1,) * i + (n,), dim=i, cuts=None
        )  # so that an error names dimension i
        flat = reshaped(cast(x, INT64), (math.prod(x.shape),))
        found = reshaped(session.emit("take", every, flat, dim=i, size=n, wrap=True), x.shape)
        stride = math.prod(sizes[i + 1 :])
        found = found if stride == 1 else session.emit("multiply", found, constant(stride, INT64))
        place = found if place is None else session.emit("add", place, found)
    assert place is not None
    return reshaped(broadcast_to(place, together), (total,))


def _start(dims: Ints) -> int:
    """The indices' dimensions stand where the indexed ones were if those are neighbours, or first."""
    return dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0


def _gathered(x: Value, dims: Ints) -> Value:
    """`x` with the dimensions `dims` made one, at `_start(dims)`."""
    at, n = _start(dims), len(dims)
    x = x if dims[0] == at and dims[-1] == at + n - 1 else to_front(x, dims)
    return reshaped(x, (*x.shape[:at], math.prod(x.shape[at : at + n]), *x.shape[at + n :]))


def _returned(x: Value, dims: Ints, shape: Ints) -> Value:
    """The inverse of `_gathered`, to `shape`."""
    at, n = _start(dims), len(dims)
    if dims[0] == at and dims[-1] == at + n - 1:
        return reshaped(x, shape)
    rest = tuple(m for d, m in enumerate(shape) if d not in dims)
    return to_back(reshaped(x, (*(shape[d] for d in dims), *rest)), dims)


@op(
    name="IndexBackward0",
    input=lambda g, indices, dims, like: _index_sum(g, indices, dims, like.shape),
    method=False,
    samples=lambda: [
        (real(3, 4), (positions(2, 0, -1),), (0,)),
        (real(3, 4), (positions([1, 3], [0, 0]),), (1,)),
        (real(2, 3, 4), (positions(0, 1, 1), positions(3, 0, 3)), (0, 2)),
        (real(2, 3, 4), (positions([0], [2]), positions(1, 1, 3)), (1, 2)),
    ],
)
def _index(input: Value, indices: Sequence[Value], dims: Any) -> Value:
    together = _together(indices)
    flat = _flat_index(indices, dims, input.shape, together)
    x, at = _gathered(input, dims), _start(dims)
    taken = dealt(session.emit("take", x, flat, dim=at, size=x.shape[at], wrap=True), x)
    return reshaped(taken, (*x.shape[:at], *together, *x.shape[at + 1 :]))


@op(
    name="IndexPutBackward0",
    input=lambda g, indices, dims: _index(g, indices, dims),
    method=False,
    samples=lambda: [
        (real(3, 4), (positions(2, 0, -1),), (0,), (3, 4)),
        (real(2, 3), (positions(1, 1), positions(3, 0)), (0, 2), (2, 3, 4)),
    ],
)
def _index_sum(input: Value, indices: Sequence[Value], dims: Any, shape: Any) -> Value:
    """Zeros of `shape`, with each slice of `input` added where `_index` would take it from."""
    shape = tuple(shape)
    together = _together(indices)
    flat = _flat_index(indices, dims, shape, together)
    at, n, size = _start(dims), len(together), math.prod(shape[d] for d in dims)
    x = reshaped(input, (*input.shape[:at], math.prod(together), *input.shape[at + n :]))
    return _returned(session.emit("index_add", flat, x, dim=at, size=size), dims, shape)


@op(
    name="IndexPutBackward0",
    input=lambda g, indices, dims, accumulate: (
        g if accumulate else _put_at(g, indices, _zero(g), dims, False)
    ),
    values=lambda g, indices, dims: _index(g, indices, dims),
    method=("_put_at",),
    inplace="only",
    samples=lambda: [
        (real(3, 4), (positions(2, 0),), real(2, 4, seed=1), (0,), False),
        (real(3, 4), (positions([1, 3]),), real(), (1,), False),
        (real(3, 4), (positions(1, 1),), real(4, seed=1), (0,), True),
        (real(2, 3, 4), (positions(0, 1), positions(3, 0)), real(2, 1), (0, 2), False),
    ],
)
def _put_at(input: Value, indices: Sequence[Value], values: Value, dims: Any, accumulate: bool) -> Value:
    """`input` with the slices that `_index` would take replaced by `values`, or `values` added to them."""
    together = _together(indices)
    flat = _flat_index(indices, dims, input.shape, together)
    x, at, n = _gathered(input, dims), _start(dims), math.prod(together)
    region = (*x.shape[:at], *together, *x.shape[at + 1 :])
    values = _fitted(values, region)
    if values.dtype != input.dtype:
        raise RuntimeError(
            "Index put requires the source and destination dtypes match, got "
            f"{title(input.dtype)} for the destination and {title(values.dtype)} for the source."
        )
    values = reshaped(values, (*x.shape[:at], n, *x.shape[at + 1 :]))
    if accumulate:
        total = session.emit("index_add", flat, values, dim=at, size=x.shape[at])
        return _returned(session.emit("add", x, total), dims, input.shape)
    x, values = to_front(x, (at,)), to_front(values, (at,))
    made = session.emit("index_put", x, flat, values, size=x.shape[0])
    return _returned(to_back(made, (at,)), dims, input.shape)


def _fitted(values: Value, region: Ints) -> Value:
    try:
        fits = broadcast_shape(region, values.shape) == region
    except RuntimeError:
        fits = False
    if not fits:
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(values.shape)} cannot be broadcast to indexing result of "
            f"shape {list(region)}"
        )
    return broadcast_to(values, region)


def _zero(g: Tensor) -> Tensor:
    return Tensor(constant(0, g._avals.dtype))
