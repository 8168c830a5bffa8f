"""Views that keep all elements: reshape, permute, expand, squeeze and their kin."""

from __future__ import annotations

import math
from typing import Any

from distgrad import session
from distgrad.dtype import OF_NUMPY, dtype
from distgrad.ops.base import Ints, Tensor, Value, attach, broadcast_to, composite, normal_dim, op
from distgrad.ops.helpers import normal_dims, normal_ints
from distgrad.ops.moves import Expand, Permute, Reshape, Squeeze, Unsqueeze, inverse
from distgrad.ops.regrouping import reshaped
from distgrad.ops.samples import real

NOT_VIEWABLE = (
    "view size is not compatible with input tensor's size and stride (at least one dimension "
    "spans across two contiguous "
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
                f"cannot reshape tensor of 0 elements into shape {list(shape)} because the "
                "unspecified dimension size -1 "
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
    return input._view is None or input._view.layout.reshape(shape) is not None


@op(
    name="ViewBackward0",
    input=lambda g, like: reshape(g, like.shape),
    view=lambda before, shape: (Reshape(shape, before),),
    method=False,
    samples=lambda: [(real(2, 3), (3, 2)), (real(2, 3), (6,)), (real(), (1, 1))],
)
def _view(input: Value, shape: Ints) -> Value:
    return reshaped(input, shape)


@op(
    name="UnsafeViewBackward0",
    input=lambda g, like: reshape(g, like.shape),
    method=False,
    samples=lambda: [(real(2, 3), (3, 2))],
)
def _unsafe_view(input: Value, shape: Ints) -> Value:
    return reshaped(input, shape)


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
    """The elements in C order in another shape, as a view; one length may be -1."""
    if len(shape) == 1 and isinstance(shape[0], dtype):
        if shape[0] is input.dtype:
            return _view(input, tuple(input.shape))
        raise RuntimeError("view(dtype) with another dtype is not supported: shards hold elements, not bytes")
    target = inferred(_run("view", shape, more, "size"), input.numel())
    if not _viewable(input, target):
        raise RuntimeError(NOT_VIEWABLE)
    return _view(input, target)


attach(view=_view_method)


# Permuting.
@op(
    input=lambda g, dims: permute(g, inverse(dims)),
    view=lambda shape, dims: (Permute(tuple(d % len(shape) for d in dims)),),
    samples=lambda: [(real(2, 3, 4), (2, 0, 1)), (real(2, 3), (-1, 0)), (real(), ())],
)
def permute(input: Value, dims: Ints) -> Value:
    """Dimension `dims[i]` becomes dimension i."""
    n = len(input.shape)
    if len(dims) != n:
        raise RuntimeError(
            "permute(sparse_coo): number of dimensions in the tensor input does not match the "
            "length of the desired "
            f"ordering of dimensions i.e. input.dim() = {n} is not equal to len(dims) = {len(dims)}"
        )
    order = tuple(normal_dim(d, n) for d in dims)
    if len(set(order)) != n:
        raise RuntimeError("permute(): duplicate dims are not allowed.")
    return session.emit("permute", input, dims=order)


def _exchanged(n: int, dim0: int, dim1: int) -> Ints:
    order = list(range(n))
    a, b = normal_dim(dim0, n), normal_dim(dim1, n)
    if n:
        order[a], order[b] = order[b], order[a]
    return tuple(order)


@op(
    input=lambda g, dim0, dim1: transpose(g, dim0, dim1),
    view=lambda shape, dim0, dim1: (Permute(_exchanged(len(shape), dim0, dim1)),),
    method=("transpose", "swapaxes", "swapdims"),
    samples=lambda: [(real(2, 3, 4), 0, -1), (real(), 0, -1)],
)
def transpose(input: Value, dim0: int, dim1: int) -> Value:
    """Two dimensions exchanged."""
    return session.emit("permute", input, dims=_exchanged(len(input.shape), dim0, dim1))


@op(
    input=lambda g: t(g),
    view=lambda shape: (Permute(tuple(reversed(range(len(shape))))),),
    samples=lambda: [real(2, 3), real(3)],
)
def t(input: Value) -> Value:
    """The transpose of a matrix; vectors and numbers stay as they are."""
    n = len(input.shape)
    if n > 2:
        raise RuntimeError(
            f"{session.current_op.name}() expects a tensor with <= 2 dimensions, but self is {n}D"
        )
    return session.emit("permute", input, dims=tuple(reversed(range(n))))


def _reversed(self: Tensor) -> Tensor:
    """All dimensions in reverse order."""
    return permute(self, tuple(reversed(range(self.dim()))))


def _last_two(self: Tensor) -> Tensor:
    """The last two dimensions exchanged; a number stays as it is."""
    n = self.dim()
    if n == 1:
        raise RuntimeError("tensor.mT is only supported on matrices or batches of matrices. Got 1-D tensor.")
    return transpose(self, -2, -1) if n else self


def _matrix_transposed(self: Tensor) -> Tensor:
    """The transpose of a matrix; a number stays as it is."""
    n = self.dim()
    if n not in (0, 2):
        raise RuntimeError(f"tensor.H is only supported on matrices (2-D tensors). Got {n}-D tensor.")
    return transpose(self, 0, 1) if n else self


attach(T=property(_reversed), mT=property(_last_two), H=property(_matrix_transposed))


# Repeating, and dimensions of length one.
@op(
    input=lambda g: g,
    view=lambda shape, size, implicit: (Expand(_expanded(shape, size)),),
    samples=lambda: [(real(3, 1), (2, 3, 4)), (real(3), (2, -1)), (real(), (2, 2))],
)
def expand(input: Value, size: Ints, *, implicit: bool = False) -> Value:
    """Dimensions of length 1 repeated to the lengths in `size`; -1 leaves one as it is."""
    return broadcast_to(input, _expanded(input.shape, size, OF_NUMPY[input.dtype].tensor_type))


def _expanded(shape: Ints, size: Ints, kind: str = "torch.FloatTensor") -> Ints:
    more = len(size) - len(shape)
    if more < 0:
        raise RuntimeError(
            f"expand({kind}{{{list(shape)}}}, size={list(size)}): the number of sizes "
            f"provided ({len(size)}) "
            f"must be greater or equal to the number of dimensions in the tensor ({len(shape)})"
        )
    result = []
    for d in reversed(range(len(size))):  # the last that does not fit is told of
        n = size[d]
        old = shape[d - more] if d >= more else None
        if n == -1 and old is None:
            raise RuntimeError(
                f"The expanded size of the tensor (-1) isn't allowed in a leading, non-existing dimension {d}"
            )
        if old is not None and n not in (-1, old) and old != 1:
            raise RuntimeError(
                f"The expanded size of the tensor ({n}) must match the existing size ({old}) at "
                "non-singleton dimension "
                f"{d}.  Target sizes: {list(size)}.  Tensor sizes: {list(shape)}"
            )
        result.append(old if n == -1 else n)
    return tuple(result[::-1])  # type: ignore[arg-type]


@op(
    input=lambda g, dim: squeeze(g, dim if dim >= 0 else dim + g.dim()),
    view=lambda shape, dim: (Unsqueeze(normal_dim(dim, len(shape) + 1)),),
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
    return tuple(d for d in normal_dims(dims, len(shape)) if shape[d] == 1) if dims else ()


def _squeeze_name(input: Any, dim: Any) -> str:
    return f"SqueezeBackward{0 if dim is None else 2 if isinstance(dim, (tuple, list)) else 1}"


@op(
    name=_squeeze_name,
    input=lambda g, like: reshape(g, like.shape),
    view=lambda shape, dim: (Squeeze(_squeezed(shape, dim)),),
    samples=lambda: [real(2, 1, 3, 1), (real(2, 1, 3, 1), 1), (real(2, 1), 0), (real(1, 2, 1), (0, 2))],
)
def squeeze(input: Value, dim: Any = None) -> Value:
    """Without the dimensions of length 1, or without those of them that are in `dim`."""
    return session.emit("squeeze_dims", input, dims=_squeezed(input.shape, dim))
