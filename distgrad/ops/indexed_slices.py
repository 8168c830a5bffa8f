"""An index for each slice along a dimension: slices selected, added, copied and filled."""

from __future__ import annotations

from typing import Any

from distgrad import session
from distgrad.dtype import BOOL
from distgrad.ops.base import (
    Operand,
    Tensor,
    Value,
    broadcast_to,
    constant,
    normal_dim,
    op,
)
from distgrad.ops.gathering import _index_of, _lifted, _like_shape, check_inside, first_outside, positions
from distgrad.ops.helpers import check_single, filling, title
from distgrad.ops.inplace import warn_expanded
from distgrad.ops.regrouping import dealt, to_back, to_front
from distgrad.ops.samples import real

__all__ = ["index_add", "index_copy", "index_fill", "index_select"]


# An index for each slice.
def _vector(name: str, index: Value) -> Value:
    index = _index_of(name, index)
    if len(index.shape) > 1:
        raise IndexError(f"{name}(): Index is supposed to be a vector")
    return _lifted(index)


@op(
    input=lambda g, dim, index, like: index_add(like.zeros(), dim, index, g),
    samples=lambda: [
        (real(3, 4), 0, positions(2, 0, 2)),
        (real(3, 4), -1, positions(3, 1)),
        (real(5), 0, positions(4, 4)),
    ],
)
def index_select(input: Value, dim: int, index: Value) -> Value:
    """The slices of `input` along `dim` at the positions in the vector `index`."""
    dim = normal_dim(dim, len(input.shape))
    index = _vector("index_select", index)
    if not input.shape and index.shape != (1,):
        n = index.shape[0]
        raise RuntimeError(f"index_select(): Index to scalar can have only 1 value, got {n} value(s)")
    x = _lifted(input)
    if first_outside(index, 0, x.shape[dim]) is not None:
        raise IndexError("index out of range in self")
    made = session.emit("take", x, index, dim=dim, size=x.shape[dim], wrap=False)
    return dealt(_like_shape(made, input.shape) if not input.shape else made, x)


def _picked(g: Tensor, dim: int, index: Tensor) -> Tensor:
    return index_select(g, dim, index)


@op(
    input=lambda g: g,
    source=lambda g, dim, index, alpha: (
        _picked(g, dim, index) * alpha if alpha != 1 else _picked(g, dim, index)
    ),
    inplace=True,
    samples=lambda: [
        (real(3, 4), 0, positions(2, 0, 2), real(3, 4, seed=1)),
        (real(3, 4), 1, positions(3, 1), real(3, 2), {"alpha": -2.5}),
        (real(4), 0, positions(1, 1), real(2)),
    ],
)
def index_add(input: Value, dim: int, index: Value, source: Value, *, alpha: float = 1) -> Value:
    """`input` plus `alpha` times the slices of `source`, each at its position `index` along `dim`."""
    dim = normal_dim(dim, len(input.shape))
    index = _vector("index_add", index)
    base, src = _lifted(input), _lifted(source)
    if src.dtype != base.dtype:
        kinds = f"self ({title(base.dtype)}) and source ({title(src.dtype)})"
        raise RuntimeError(f"index_add_(): {kinds} must have the same scalar type")
    _check_slices(
        "source tensor shape must match self tensor shape, excluding the specified dimension.", base, src, dim
    )
    if index.shape[0] != src.shape[dim]:
        counts = (
            f"Number of indices ({index.shape[0]}) should be equal to source.size(dim): ({src.shape[dim]})"
        )
        raise RuntimeError(f"index_add_(): {counts}, for dim: {dim}")
    check_inside(index, dim, base.shape[dim])
    if alpha != 1:
        src = session.emit("multiply", src, constant(alpha, src.dtype))
    total = session.emit("index_add", index, src, dim=dim, size=base.shape[dim])
    return _like_shape(session.emit("add", base, total), input.shape)


def _check_slices(words: str, base: Value, src: Value, dim: int) -> None:
    if len(src.shape) != len(base.shape) or any(
        n != m for d, (n, m) in enumerate(zip(src.shape, base.shape, strict=True)) if d != dim
    ):
        raise RuntimeError(f"{words} Got self.shape = {list(base.shape)} source.shape = {list(src.shape)}")


def _written(base: Value, dim: int, index: Value, src: Value) -> Value:
    """`base` with its slices at `index` along `dim` replaced."""
    front, size = to_front(base, (dim,)), base.shape[dim]
    return to_back(session.emit("index_put", front, index, to_front(src, (dim,)), size=size), (dim,))


@op(
    input=lambda g, dim, index: index_fill(g, dim, index, 0),
    source=_picked,
    inplace=True,
    samples=lambda: [
        (real(3, 4), 0, positions(2, 0), real(2, 4)),
        (real(3, 4), 1, positions(3, 1), real(3, 2)),
    ],
)
def index_copy(input: Value, dim: int, index: Value, source: Value) -> Value:
    """`input` with its slices at the positions `index` along `dim` replaced by those of `source`."""
    dim = normal_dim(dim, len(input.shape))
    index = _vector("index_copy", index)
    base, src = _lifted(input), _lifted(source)
    if src.dtype != base.dtype:
        kinds = f"(self) {title(base.dtype)} and (source) {title(src.dtype)}"
        raise RuntimeError(f"index_copy_(): self and source expected to have the same dtype, but got {kinds}")
    _check_slices("index_copy_(): Source/destination tensor must have same slice shapes.", base, src, dim)
    if index.shape[0] != src.shape[dim]:
        counts = (
            f"Number of indices ({index.shape[0]}) should be equal to source.size(dim) ({src.shape[dim]})"
        )
        raise IndexError(f"index_copy_(): {counts}")
    if (wrong := first_outside(index, 0, base.shape[dim])) is not None:
        where = f"index {wrong} is out of bounds for dimension {dim} with size {base.shape[dim]}"
        raise IndexError(f"index_copy_(): {where}")
    return _like_shape(_written(base, dim, index, src), input.shape)


def _at_index(self: Tensor, dim: int, index: Tensor, value: Any) -> tuple[Tensor, Any]:
    warn_expanded(self, "index_fill_")
    if isinstance(value, Tensor):
        check_single("index_fill_", value._avals)
        value = value.to(self.dtype)
    nowhere = Tensor(constant(False, BOOL)).expand(self.shape)
    return index_fill(nowhere, dim, index, True), value


@op(
    name=lambda input, dim, index, value: f"IndexFillBackward{int(isinstance(value, Tensor))}",
    input=lambda g, dim, index: index_fill(g, dim, index, 0),
    value=lambda g, dim, index: (g - index_fill(g, dim, index, 0)).sum(),
    number_edges=False,
    inplace=True,
    fills=_at_index,
    samples=lambda: [(real(3, 4), 0, positions(2, 0), 1.5), (real(3, 4), 1, positions(-1), real())],
)
def index_fill(input: Value, dim: int, index: Value, value: Operand) -> Value:
    """`input` with `value`, a number or 0-d tensor, in its slices at the positions `index` along `dim`."""
    dim = normal_dim(dim, len(input.shape))
    index = _vector("index_fill_", index)
    check_single("index_fill_", value)
    base = _lifted(input)
    check_inside(index, dim, base.shape[dim], -base.shape[dim], IndexError)
    slices = (*base.shape[:dim], index.shape[0], *base.shape[dim + 1 :])
    return _like_shape(
        _written(base, dim, index, broadcast_to(filling(value, input.dtype), slices)), input.shape
    )
