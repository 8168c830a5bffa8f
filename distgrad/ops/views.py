"""Views: ops whose result shares the storage of their argument."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL, dtype
from distgrad.ops.base import Ints, Like, Tensor, Value, broadcast_to, cast, composite, constant, normal_dim, op
from distgrad.ops.helpers import normal_ints
from distgrad.ops.samples import real

NOT_VIEWABLE = (
    "view size is not compatible with input tensor's size and stride (at least one dimension spans across two contiguous "
    "subspaces). Use .reshape(...) instead."
)


def inferred(shape: Ints, numel: int) -> Ints:
    """`shape` with its -1 filled in; torch's errors where it does not hold `numel` elements."""
    for i, n in enumerate(shape):
        if n < -1:
            raise RuntimeError(f"invalid shape dimension {n} at index {i} of shape {list(shape)}")
    if shape.count(-1) > 1:
        raise RuntimeError("only one dimension can be inferred")
    known = math.prod(n for n in shape if n != -1)
    if -1 in shape:
        if known == 0 and numel == 0:
            raise RuntimeError(
                f"cannot reshape tensor of 0 elements into shape {list(shape)} because the unspecified dimension size -1 "
                "can be any value and is ambiguous"
            )
        if known and numel % known == 0:
            return tuple(numel // known if n == -1 else n for n in shape)
    elif known == numel:
        return shape
    raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {numel}")


# Reshaping.
def _viewable(input: Tensor, shape: Ints) -> bool:
    """Whether the elements, where torch would have them in memory, can be seen in this shape without a copy."""
    if input._view is None:
        return True
    try:
        input._layout().reshape(shape, copy=False)
    except ValueError:
        return False
    return True


@op(
    name="ViewBackward0",
    input=lambda g, like: reshape(g, like.shape),
    view=lambda base, new, shape: reshape(new, base.shape),
    layout=lambda array, shape: array.reshape(shape, copy=False),
    method=False,
    samples=lambda: [(real(2, 3), (3, 2)), (real(2, 3), (6,)), (real(), (1, 1))],
)
def _view(input: Value, shape: Ints) -> Value:
    return session.emit("reshape", input, shape=shape)


@op(
    name="UnsafeViewBackward0",
    input=lambda g, like: reshape(g, like.shape),
    method=False,
    samples=lambda: [(real(2, 3), (3, 2))],
)
def _unsafe_view(input: Value, shape: Ints) -> Value:
    return session.emit("reshape", input, shape=shape)


def _run(op_name: str, items: tuple[Any, ...], more: dict[str, Any], *names: str) -> Ints:
    """Integers given one by one, as a tuple, or under one of `names`."""
    for name in names:
        if name in more:
            items = more.pop(name)
    if more:
        raise TypeError(f"{op_name}() got an unexpected keyword argument '{next(iter(more))}'")
    return normal_ints(op_name, names[0], 1, items)


@composite(samples=lambda: [(real(2, 3), 3, 2), (real(2, 3), (-1,))])
def reshape(input: Tensor, *shape: Any, **more: Any) -> Tensor:
    """The elements in C order in another shape; one length may be -1. A view where torch's would be one."""
    target = inferred(_run("reshape", shape, more, "shape"), input.numel())
    return _view(input, target) if _viewable(input, target) else _unsafe_view(input, target)


def _view_method(input: Tensor, *shape: Any, **more: Any) -> Tensor:
    """The elements in C order in another shape, as a view; one length may be -1. `view(dtype)` takes its own dtype only."""
    if len(shape) == 1 and isinstance(shape[0], dtype):
        if shape[0] is input.dtype:
            return _view(input, tuple(input.shape))
        raise RuntimeError("view(dtype) with another dtype is not supported: shards hold elements, not bytes")
    target = inferred(_run("view", shape, more, "size"), input.numel())
    if not _viewable(input, target):
        raise RuntimeError(NOT_VIEWABLE)
    return _view(input, target)


Tensor.view = _view_method  # type: ignore[attr-defined]


# Permuting.
@op(
    input=lambda g, dims: permute(g, inverse(dims)),
    view=lambda base, new, dims: permute(new, inverse(dims)),
    layout=lambda array, dims: array.transpose([d % array.ndim for d in dims]),
    samples=lambda: [(real(2, 3, 4), (2, 0, 1)), (real(2, 3), (-1, 0)), (real(), ())],
)
def permute(input: Value, dims: Ints) -> Value:
    """Dimension `dims[i]` becomes dimension i."""
    n = len(input.shape)
    if len(dims) != n:
        raise RuntimeError(
            "permute(sparse_coo): number of dimensions in the tensor input does not match the length of the desired "
            f"ordering of dimensions i.e. input.dim() = {n} is not equal to len(dims) = {len(dims)}"
        )
    order = tuple(normal_dim(d, n) for d in dims)
    if len(set(order)) != n:
        raise RuntimeError("permute(): duplicate dims are not allowed.")
    return session.emit("permute", input, dims=order)


def inverse(dims: Ints) -> Ints:
    """The permutation that undoes `dims`."""
    order = [d % len(dims) for d in dims]
    return tuple(order.index(i) for i in range(len(order)))


def _exchanged(n: int, dim0: int, dim1: int) -> Ints:
    order = list(range(n))
    a, b = normal_dim(dim0, n), normal_dim(dim1, n)
    if n:
        order[a], order[b] = order[b], order[a]
    return tuple(order)


@op(
    input=lambda g, dim0, dim1: transpose(g, dim0, dim1),
    view=lambda base, new, dim0, dim1: transpose(new, dim0, dim1),
    layout=lambda array, dim0, dim1: array.transpose(_exchanged(array.ndim, dim0, dim1)),
    method=("transpose", "swapaxes", "swapdims"),
    samples=lambda: [(real(2, 3, 4), 0, -1), (real(), 0, -1)],
)
def transpose(input: Value, dim0: int, dim1: int) -> Value:
    """Two dimensions exchanged."""
    return session.emit("permute", input, dims=_exchanged(len(input.shape), dim0, dim1))


@op(
    input=lambda g: t(g),
    view=lambda base, new: t(new),
    layout=lambda array: array.T,
    samples=lambda: [real(2, 3), real(3)],
)
def t(input: Value) -> Value:
    """The transpose of a matrix; vectors and numbers stay as they are."""
    n = len(input.shape)
    if n > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {n}D")
    return session.emit("permute", input, dims=tuple(reversed(range(n))))


def _reversed(self: Tensor) -> Tensor:
    """All dimensions in reverse order."""
    return permute(self, tuple(reversed(range(self.dim()))))


Tensor.T = property(_reversed)  # type: ignore[attr-defined]
Tensor.mT = property(lambda self: transpose(self, -2, -1))  # type: ignore[attr-defined]


# Repeating, and dimensions of length one.
@op(
    input=lambda g: g,
    view=lambda base, new, size, implicit: new,
    layout=lambda array, size, implicit: np.broadcast_to(array, _expanded(array.shape, size)),
    samples=lambda: [(real(3, 1), (2, 3, 4)), (real(3), (2, -1)), (real(), (2, 2))],
)
def expand(input: Value, size: Ints, *, implicit: bool = False) -> Value:
    """Dimensions of length 1 repeated to the lengths in `size`; -1 leaves one as it is."""
    return broadcast_to(input, _expanded(input.shape, size))


def _expanded(shape: Ints, size: Ints) -> Ints:
    more = len(size) - len(shape)
    if more < 0:
        raise RuntimeError(
            f"expand(torch.FloatTensor{{{list(shape)}}}, size={list(size)}): the number of sizes provided ({len(size)}) "
            f"must be greater or equal to the number of dimensions in the tensor ({len(shape)})"
        )
    result = []
    for d, n in enumerate(size):
        old = shape[d - more] if d >= more else None
        if n == -1 and old is None:
            raise RuntimeError(
                f"The expanded size of the tensor (-1) isn't allowed in a leading, non-existing dimension {d}"
            )
        if old is not None and n not in (-1, old) and old != 1:
            raise RuntimeError(
                f"The expanded size of the tensor ({n}) must match the existing size ({old}) at non-singleton dimension "
                f"{d}.  Target sizes: {list(size)}.  Tensor sizes: {list(shape)}"
            )
        result.append(old if n == -1 else n)
    return tuple(result)  # type: ignore[arg-type]


@op(
    input=lambda g, dim: squeeze(g, dim if dim >= 0 else dim + g.dim()),
    view=lambda base, new, dim: squeeze(new, dim if dim >= 0 else dim + new.dim()),
    layout=lambda array, dim: np.expand_dims(array, dim),
    samples=lambda: [(real(2, 3), 1), (real(2, 3), -1), (real(), 0)],
)
def unsqueeze(input: Value, dim: int) -> Value:
    """A new dimension of length 1 at position `dim` of the result."""
    return session.emit("expand_dims", input, dims=(normal_dim(dim, len(input.shape) + 1),))


def _squeezed(shape: Ints, dim: Any) -> Ints:
    """Which dimensions `squeeze` takes out."""
    if dim is None:
        return tuple(d for d, n in enumerate(shape) if n == 1)
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    found = {normal_dim(operator.index(d), len(shape)) for d in dims}
    return tuple(d for d in sorted(found) if d < len(shape) and shape[d] == 1)


def _squeeze_name(input: Any, dim: Any) -> str:
    return f"SqueezeBackward{0 if dim is None else 2 if isinstance(dim, (tuple, list)) else 1}"


@op(
    name=_squeeze_name,
    input=lambda g, like: reshape(g, like.shape),
    view=lambda base, new, dim: reshape(new, base.shape),
    layout=lambda array, dim: array.squeeze(_squeezed(array.shape, dim)),
    samples=lambda: [real(2, 1, 3, 1), (real(2, 1, 3, 1), 1), (real(2, 1), 0), (real(1, 2, 1), (0, 2))],
)
def squeeze(input: Value, dim: Any = None) -> Value:
    """Without the dimensions of length 1, or without those of them that are in `dim`."""
    return session.emit("squeeze_dims", input, dims=_squeezed(input.shape, dim))


# Slices. Everything that selects with start, length and step along dimensions is written with these two.
Slices = tuple[tuple[int, int, int], ...]


@op(
    name="SliceBackward0",
    input=lambda g, slices, like: slice_put(like.zeros(), g, slices),
    view=lambda base, new, slices: slice_put(base, new, slices),
    layout=lambda array, slices: array[tuple(_python_slice(*s) for s in slices)],
    method=False,
    samples=lambda: [(real(5, 4), ((1, 2, 2), (0, 4, 1)))],
)
def slice_take(input: Value, slices: Any) -> Value:
    """The elements `start + i * step`, for i below `length`, for the (start, length, step) of each dimension."""
    return session.emit("slice", input, slices=slices)


def _python_slice(start: int, length: int, step: int) -> slice:
    stop = start + length * step
    return slice(start, stop if stop >= 0 else None, step) if length else slice(0, 0)


@op(
    name="SliceScatterBackward0",
    input=lambda g, slices: slice_put(g, _zero(), slices),
    src=lambda g, slices: slice_take(g, slices),
    method=False,
    samples=lambda: [(real(5, 4), real(2, 4), ((1, 2, 2), (0, 4, 1)))],
)
def slice_put(input: Value, src: Value, slices: Any) -> Value:
    """`input` with the elements that `slice_take` selects replaced by those of `src`."""
    shape = tuple(s[1] for s in slices)
    return session.emit("slice_put", input, broadcast_to(cast(src, input.dtype), shape), slices=slices)


def _zero() -> Tensor:
    return Tensor(constant(0, BOOL))


def full_slices(shape: Ints) -> list[tuple[int, int, int]]:
    """The slices that select everything."""
    return [(0, n, 1) for n in shape]


def _along(shape: Ints, dim: int, start: int, length: int, step: int = 1) -> Slices:
    slices = full_slices(shape)
    slices[normal_dim(dim, len(shape))] = (start, length, step)
    return tuple(slices)


def _selected(shape: Ints, dim: int, index: int) -> Slices:
    if not shape:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    n = shape[normal_dim(dim, len(shape))]
    if not -n <= index < n:
        raise IndexError(f"select(): index {index} out of range for tensor of size {list(shape)} at dimension {dim}")
    return _along(shape, dim, index % n, 1)


@op(
    input=lambda g, dim, index, like: _select_put(like.zeros(), g, dim, index),
    view=lambda base, new, dim, index: _select_put(base, new, dim, index),
    layout=lambda array, dim, index: array[_at(array.ndim, dim, index)],
    samples=lambda: [(real(3, 4), 0, 1), (real(3, 4), -1, -2), (real(3), 0, 0)],
)
def select(input: Value, dim: int, index: int) -> Value:
    """The elements at `index` of dimension `dim`, without that dimension."""
    index = operator.index(index)
    part = session.emit("slice", input, slices=_selected(input.shape, dim, index))
    return session.emit("squeeze_dims", part, dims=(normal_dim(dim, len(input.shape)),))


def _at(ndim: int, dim: int, index: int) -> tuple[Any, ...]:
    return tuple(index if d == dim % ndim else slice(None) for d in range(ndim))


def _select_put(base: Tensor, new: Tensor, dim: int, index: int) -> Tensor:
    d = normal_dim(dim, base.dim())
    return slice_put(base, unsqueeze(new, d), _selected(tuple(base.shape), dim, index))


@composite(samples=lambda: [(real(5, 4), 0, 1, 3), (real(5, 4), -1, 0, 2)])
def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """`length` elements from `start` along `dim`."""
    shape = tuple(input.shape)
    n = shape[normal_dim(dim, len(shape))]
    first = operator.index(start)
    if not -n <= first <= n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n}], but got {first})")
    first = first + n if first < 0 else first
    if length < 0:
        raise RuntimeError("narrow(): length must be non-negative.")
    if first + length > n:
        raise RuntimeError(f"start ({first}) + length ({length}) exceeds dimension size ({n}).")
    return slice_take(input, _along(shape, dim, first, length))


@op(
    multi=True,
    input=lambda g, dim, like: _put_all(g, dim, like),
    view=lambda base, new, index, dim: _select_put(base, new, dim, index),
    layout=lambda array, index, dim: array[_at(array.ndim, dim, index)],
    samples=lambda: [(real(3, 2),), (real(3, 2), 1)],
)
def unbind(input: Value, dim: int = 0) -> tuple[Value, ...]:
    """All slices along `dim`, without that dimension."""
    if not input.shape:
        raise RuntimeError("Dimension specified as 0 but tensor has no dimensions")
    d = normal_dim(dim, len(input.shape))
    parts = [session.emit("slice", input, slices=_along(input.shape, d, i, 1)) for i in range(input.shape[d])]
    return tuple(session.emit("squeeze_dims", part, dims=(d,)) for part in parts)


def _put_all(gs: list[Any], dim: int, like: Like) -> Tensor:
    total = like.zeros()
    for i, g in enumerate(gs):
        if g is not None:
            total = _select_put(total, g, dim, i)
    return total


# Indexing with integers, slices, None and Ellipsis: always a view.
def basic_index(input: Tensor, key: Any) -> Tensor:
    """`input[key]` for a key (or tuple) of integers, slices, None and Ellipsis."""
    keys = key if isinstance(key, tuple) else (key,)
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if keys and not input.dim() and used:
        raise IndexError(
            "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` in C++ to convert a "
            "0-dim tensor to a number"
        )
    if used > input.dim():
        raise IndexError(f"too many indices for tensor of dimension {input.dim()}")
    dim = 0
    for k in keys:
        if k is None:
            input = unsqueeze(input, dim)
            dim += 1
        elif k is Ellipsis:
            after = keys[len(keys) - 1 - keys[::-1].index(Ellipsis) + 1 :]
            dim = input.dim() - sum(a is not None for a in after)
        elif isinstance(k, slice):
            input = _index_slice(input, dim, k)
            dim += 1
        else:
            n, i = input.shape[dim], operator.index(k)
            if not -n <= i < n:
                raise IndexError(f"index {i} is out of bounds for dimension {dim} with size {n}")
            input = select(input, dim, i)
    return input


def _index_slice(input: Tensor, dim: int, k: slice) -> Tensor:
    n = input.shape[dim]
    step = 1 if k.step is None else operator.index(k.step)
    if step <= 0:
        raise ValueError("step must be greater than zero")
    start, stop, _ = k.indices(n)
    length = max(0, -(-(stop - start) // step))
    if length == n:
        return slice_take(input, tuple(full_slices(tuple(input.shape))))
    return slice_take(input, _along(tuple(input.shape), dim, start, length, step))


def basic_assign(target: Tensor, new: Any) -> None:
    """Write `new`, a tensor or number, into a view that indexing gave; it is broadcast."""
    if isinstance(new, Tensor):
        while new.dim() > target.dim() and new.shape[0] == 1:
            new = squeeze(new, 0)
        if new.shape != target.shape:
            new = expand(new, tuple(target.shape))
    elif not isinstance(new, (bool, int, float, np.generic)):
        raise TypeError(f"can't assign a {type(new).__name__} to a {target.dtype.tensor_type}")
    target.copy_(new)
