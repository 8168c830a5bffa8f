"""Choosing by a mask of bools: masked_select, masked_fill, masked_scatter, nonzero, and what indexing needs for masks.

The length of a result depends on the data here, so the number of chosen elements of each shard is fetched, and
nothing else: each shard keeps its own, and the result is cut where theirs begin and end.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL, INT64
from distgrad.ops.base import (
    Ints,
    Operand,
    Tensor,
    Value,
    broadcast_to,
    call,
    composite,
    constant,
    op,
)
from distgrad.ops.helpers import check_single, filling, title
from distgrad.ops.inplace import warn_expanded
from distgrad.ops.regrouping import compact, part, reshaped, to_back, to_front
from distgrad.ops.samples import flags, real
from distgrad.primitives.elementwise import broadcast_shape
from distgrad.sharding import Cut, Sharding
from distgrad.tensor import C_NAMES

__all__ = ["argwhere", "masked_fill", "masked_scatter", "masked_select", "nonzero"]


# Counting.
_counts: weakref.WeakKeyDictionary[Value, tuple[Sharding, np.ndarray]] = weakref.WeakKeyDictionary()


def _counted(mask: Value, cuts: Sharding | None) -> tuple[Value, np.ndarray]:
    """The flat mask, cut in a way for which the number of true elements of each shard is known, and these numbers.

    They are fetched at most once for a mask, in the cuts that are asked for then (None: its own), so backward has them.
    """
    flat = reshaped(mask, (math.prod(mask.shape),))
    known = _counts.get(mask)
    if known is None:
        cuts = cuts or flat.sharding
        if mask.array is not None:
            elements = mask.array.reshape(-1)
            bounds = [cuts.cell(shard)[0] for shard in range(cuts.count)]
            counts = np.array([np.count_nonzero(elements[lo:hi]) for lo, hi in bounds])
        else:
            flat = _cut(flat, cuts)
            counts = session.fetch(session.emit("shard_counts", flat, cuts=cuts))
        known = _counts[mask] = (cuts, counts)
    return _cut(flat, known[0]), known[1]


def _cut(x: Value, cuts: Sharding) -> Value:
    return x if x.sharding == cuts else session.emit("reshard", x, cuts=cuts)


def _rows_of(flat: Value, width: int) -> Sharding | None:
    """The cuts of a flat tensor as cuts of its rows of `width` elements; None where that cannot be, or it is whole."""
    cut = flat.sharding.cuts[0].divided(width) if flat.sharding.count > 1 else None
    return None if cut is None else Sharding((cut,))


def _wide(flat_mask: Value, width: int) -> Value:
    """Each element of the mask `width` times."""
    n = flat_mask.shape[0]
    if width == 1:
        return flat_mask
    tall = session.emit("expand_dims", flat_mask, dims=(1,))
    rows = flat_mask.sharding.cuts[0]
    wide = session.emit("expand", tall, shape=(n, width), cuts=Sharding((rows, Cut(width))))
    return _cut(reshaped(wide, (n * width,)), Sharding((rows.scaled(width),)))


def _ends(mask: Value, counts: np.ndarray, width: int) -> Sharding | None:
    """Where the shards' parts of the result end; None for a mask in one shard."""
    if mask.sharding.count == 1:
        return None
    ends = [int(n) * width for n in np.cumsum([0, *counts])]
    return Sharding((Cut.at(ends[-1], ends),))


def choose(x: Value, mask: Value, dim: int) -> Value:
    """The slices of `x` where `mask` is true, which stands for the dimensions of `x` from `dim` on that it has."""
    over = tuple(range(dim, dim + len(mask.shape)))
    front = to_front(x, over)
    rest = front.shape[len(over) :]
    width = math.prod(rest)
    flat = reshaped(front, (math.prod(front.shape),))
    flat_mask, counts = _counted(mask, _rows_of(flat, width))
    total = int(counts.sum())
    ends = _ends(flat_mask, counts, width)
    chosen = session.emit("compress", flat, _wide(flat_mask, width), size=total * width, cuts=ends)
    return to_back(reshaped(compact(chosen), (total, *rest)), (dim,))


def unchoose(chosen: Value, mask: Value, dim: int) -> Value:
    """The inverse of `choose`: zeros where `mask` is false."""
    over = tuple(range(dim, dim + len(mask.shape)))
    front = to_front(chosen, (dim,))
    rest = front.shape[1:]
    width = math.prod(rest)
    flat_mask, counts = _counted(mask, None)
    flat, ends = reshaped(front, (math.prod(front.shape),)), _ends(flat_mask, counts, width)
    flat = session.emit("uncompress", flat, _wide(flat_mask, width), cuts=ends)
    return to_back(reshaped(flat, (*mask.shape, *rest)), over)


def count(mask: Value) -> int:
    """How many elements are true. Fetched, if the driver does not know."""
    return int(_counted(mask, None)[1].sum())


# Choosing elements.
@op(
    name="IndexBackward0",
    input=lambda g, mask, dim: _unchoose(g, mask, dim),
    method=False,
    samples=lambda: [(real(3, 4), flags(3, 4), 0), (real(3, 4), flags(3), 0), (real(2, 3, 4), flags(3), 1)],
)
def _choose(input: Value, mask: Value, dim: int) -> Value:
    return choose(input, mask, dim)


@op(
    name="IndexPutBackward0",
    input=lambda g, mask, dim: _choose(g, mask, dim),
    method=False,
    samples=lambda: [(call("_choose", real(3, 4), flags(3), 0), flags(3), 0)],
)
def _unchoose(input: Value, mask: Value, dim: int) -> Value:
    return unchoose(input, mask, dim)


@op(
    name="MaskedSelectBackward0",
    input=lambda g, mask: _unchoose(g, mask, 0),
    method=False,
    samples=lambda: [(real(3, 4), flags(3, 4))],
)
def _masked_select(input: Value, mask: Value) -> Value:
    return choose(input, mask, 0)


@composite(samples=lambda: [(real(3, 4), flags(3, 4)), (real(3, 4), flags(4)), (real(4), flags(3, 4))])
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements of `input` where `mask` is true, in one dimension. The two are broadcast."""
    if mask._avals.dtype != BOOL:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    shape = broadcast_shape(tuple(mask.shape), tuple(input.shape))
    input, mask = (x if tuple(x.shape) == shape else x.expand(shape) for x in (input, mask))
    return _masked_select(input, mask)


def _check_mask(name: str, mask: Value) -> None:
    if mask.dtype != BOOL:
        kind = C_NAMES[str(mask.dtype)]
        raise RuntimeError(f"{name} only supports boolean masks, but got mask with dtype {kind}")


def _where_masked(self: Tensor, mask: Tensor, value: Any) -> tuple[Tensor, Any]:
    warn_expanded(self, "masked_fill_")
    _check_mask("masked_fill_", mask._avals)
    return mask, value


def _kept(g: Tensor, mask: Tensor) -> Tensor:
    return call("where", mask, 0.0, g)


@op(
    name=lambda input, mask, value: f"MaskedFillBackward{int(isinstance(value, Tensor))}",
    input=_kept,
    value=lambda g, mask: call("where", mask, g, 0.0),
    number_edges=False,
    inplace=True,
    fills=_where_masked,
    samples=lambda: [
        (real(3, 4), flags(3, 4), 1.5),
        (real(3, 4), flags(4), real()),
        (real(4), flags(3, 4), 0),
    ],
)
def masked_fill(input: Value, mask: Value, value: Operand) -> Value:
    """`input` with `value`, a number or 0-d tensor, where `mask` is true. The two are broadcast."""
    _check_mask("masked_fill_", mask)
    check_single("masked_fill_", value)
    broadcast_shape(mask.shape, input.shape)
    return session.emit("where", mask, filling(value, input.dtype), input)


def _source_gradient(g: Tensor, mask: Tensor, like: Any) -> Tensor:
    """The chosen gradients in order; what was not used of the source has gradient 0."""
    shape = tuple(g.shape)
    chosen = _masked_select(g, mask if tuple(mask.shape) == shape else mask.expand(shape))
    n = math.prod(like.shape)
    if chosen.shape[0] < n:
        rest = Tensor(constant(0, like.dtype)).expand(n - chosen.shape[0])
        chosen = call("cat", (chosen, rest))
    return chosen.reshape(like.shape)


@op(
    input=_kept,
    source=_source_gradient,
    inplace=True,
    samples=lambda: [(real(3, 4), flags(3, 4), real(3, 4, seed=1)), (real(3, 4), flags(4), real(5, 3))],
)
def masked_scatter(input: Value, mask: Value, source: Value) -> Value:
    """`input` with its elements where `mask` is true replaced by the first elements of `source`, in order."""
    if mask.dtype != BOOL:
        raise RuntimeError(
            f"masked_scatter_ only supports boolean masks, but got mask with dtype {title(mask.dtype)}"
        )
    if source.dtype != input.dtype:
        kinds = f"{title(input.dtype)} and {title(source.dtype)}"
        raise RuntimeError(f"masked_scatter: expected self and source to have same dtypes but got{kinds}")
    shape = broadcast_shape(mask.shape, input.shape)
    mask, flat = broadcast_to(mask, shape), reshaped(source, (math.prod(source.shape),))
    total = count(mask)
    if total > flat.shape[0]:
        raise RuntimeError("Number of elements of source < number of ones in mask")
    return session.emit("where", mask, unchoose(part(flat, (total,)), mask, 0), input)


# Writing where a mask is true.
def _result_shape(input: Ints, mask: Ints, dim: int, total: int) -> Ints:
    return (*input[:dim], total, *input[dim + len(mask) :])


def _needs_count(values: Ints, input: Ints, mask: Ints, dim: int) -> bool:
    """Whether `values` has something of its own for each chosen slice, so that their number matters."""
    after = len(input) - dim - len(mask)
    return len(values) > after and values[len(values) - after - 1] != 1


def _over_mask(values: Value, mask: Value, input: Value, dim: int) -> Value:
    """`values`, the same for all chosen slices, with a dimension of length 1 for each of the mask's."""
    after = len(input.shape) - dim - len(mask.shape)
    shape = values.shape
    if len(shape) <= after:
        return values
    at = len(shape) - after - 1
    return reshaped(values, (*shape[:at], *(1 for _ in mask.shape), *shape[at + 1 :]))


def _full(mask: Value, input: Value, dim: int) -> Value:
    """`mask` with dimensions of length 1 for those of `input` that come after it."""
    after = len(input.shape) - dim - len(mask.shape)
    if not after:
        return mask
    n = len(mask.shape)
    return session.emit("expand_dims", mask, dims=tuple(range(n, n + after)))


def _values_gradient(g: Tensor, mask: Tensor, dim: int, like: Any) -> Tensor:
    """The chosen gradients; where all slices got the same values, their sum, which needs no count."""
    shape, over = tuple(g.shape), tuple(range(dim, dim + mask.dim()))
    if _needs_count(like.shape, shape, tuple(mask.shape), dim):
        return _choose(g, mask, dim)
    wide = mask.reshape((*mask.shape, *(1 for _ in shape[dim + mask.dim() :])))
    total = call("sum", call("where", wide, g, 0.0), over, True)
    return total.reshape((*shape[:dim], 1, *shape[dim + mask.dim() :]))


@op(
    name="IndexPutBackward0",
    input=lambda g, mask, dim, accumulate: g if accumulate else _put_where(g, mask, _zero(g), dim, False),
    values=_values_gradient,
    method=("_put_where",),
    inplace="only",
    samples=lambda: [
        (real(3, 4), flags(3, 4), real(), 0, False),
        (real(3, 4), flags(3), real(4), 0, True),
        (real(2, 3, 4), flags(3), real(2, 1, 4), 1, False),
        (real(3, 4), flags(4), call("_choose", real(3, 4, seed=1), flags(4), 1), 1, False),
    ],
)
def _put_where(input: Value, mask: Value, values: Value, dim: int, accumulate: bool) -> Value:
    """`input` with the slices where `mask` is true replaced by `values`, or `values` added to them."""
    counts = _needs_count(values.shape, input.shape, mask.shape, dim)
    shape = _result_shape(input.shape, mask.shape, dim, count(mask) if counts else 1)
    try:
        fits = broadcast_shape(shape, values.shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        shape = _result_shape(input.shape, mask.shape, dim, count(mask))
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(values.shape)} cannot be broadcast to indexing result of "
            f"shape {list(shape)}"
        )
    if math.prod(values.shape) == 1 and not accumulate:
        values = filling(values, input.dtype)
    if values.dtype != input.dtype:
        raise RuntimeError(
            "Index put requires the source and destination dtypes match, got "
            f"{title(input.dtype)} for the destination and {title(values.dtype)} for the source."
        )
    if counts:
        new = unchoose(broadcast_to(values, shape), mask, dim)
    else:
        new = _over_mask(values, mask, input, dim)
    other = input
    if accumulate:
        new, other = session.emit("add", input, new), input
    return session.emit("where", _full(mask, input, dim), new, other)


def _zero(g: Tensor) -> Tensor:
    return Tensor(constant(0, g._avals.dtype))


# Positions of what is true.
def true_positions(x: Value) -> tuple[Value, ...]:
    """The indices of the elements that are not zero, one vector for each dimension (one for a 0-d tensor)."""
    mask = x if x.dtype == BOOL else session.emit("not_equal", x, constant(0, x.dtype))
    shape = mask.shape or (1,)
    n = math.prod(shape)
    mask = reshaped(mask, (n,))
    # A mask whose counts are asked for again (an index that is used twice) has them; its flat form is another value.
    at = choose(
        session.emit("iota", shape=(n,), dim=0, cuts=mask.sharding if mask.sharding.count > 1 else None),
        mask,
        0,
    )
    found = []
    for d, size in enumerate(shape):
        stride = math.prod(shape[d + 1 :])
        along = at if stride == 1 else session.emit("floor_divide", at, constant(stride, INT64))
        found.append(along if d == 0 else session.emit("remainder", along, constant(size, INT64)))
    return tuple(found)


@op(method=False, samples=lambda: [flags(3, 4)])
def _nonzero_tuple(input: Value) -> tuple[Value, ...]:
    return true_positions(input)


@op(method=False, samples=lambda: [flags(3, 4), flags()])
def _nonzero(input: Value) -> Value:
    found = true_positions(input)
    total, n = found[0].shape[0], len(input.shape)
    if not n:
        return broadcast_to(constant(0, INT64), (total, 0))
    columns = [session.emit("expand_dims", x, dims=(1,)) for x in found]
    return session.emit("cat", *columns, dim=1, sizes=(1,) * n) if n > 1 else columns[0]


@composite(samples=lambda: [flags(3, 4), (flags(3, 4), {"as_tuple": True})])
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The indices of the elements that are not zero: a row for each, or, `as_tuple`, a vector for each dimension."""
    return _nonzero_tuple(input) if as_tuple else _nonzero(input)


@composite(samples=lambda: [flags(3, 4)])
def argwhere(input: Tensor) -> Tensor:
    """The indices of the elements that are not zero, a row for each."""
    return _nonzero(input)
