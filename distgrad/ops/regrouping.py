"""Values arranged otherwise, with care for their cuts: for bodies of ops that reshape and select."""

from __future__ import annotations

import math

from distgrad import session
from distgrad.cutting import SHARED, default_sharding
from distgrad.graph import Value
from distgrad.sharding import Cut, Sharding

Ints = tuple[int, ...]

__all__ = ["compact", "dealt", "padded", "part", "reshaped", "to_back", "to_front"]


def compact(x: Value) -> Value:
    """`x` in one shard where it is small, in its default cuts where it has far more shards than those.

    A small part of a large tensor comes in as many shards as that has, most of them empty.
    """
    cuts, aval = x.sharding, x.result.aval
    if cuts.count == 1:
        return x
    usual = default_sharding(aval.shape, aval.dtype.itemsize, session.shard_bytes())
    if aval.nbytes <= session.shard_bytes():
        usual = Sharding.whole(aval.shape)
    elif cuts.count <= 4 * usual.count:
        return x
    return session.emit("reshard", x, cuts=usual)


def dealt(x: Value, table: Value | None = None) -> Value:
    """`x` in its default cuts if it is one large shard; else compact.

    What is taken from a `table` that is cut has to be sent anyway: a batch of a quarter of a shard is cut already, so
    that each worker gets the rows that it works on, and no others.
    """
    aval, shard = x.result.aval, session.shard_bytes()
    sent = table is not None and table.sharding.count > 1
    if x.sharding.count > 1 or aval.nbytes <= (shard // 4 if sent else shard):
        return compact(x)
    room = min(shard, max(shard // 8, aval.nbytes // SHARED)) if sent else shard
    return session.emit("reshard", x, cuts=default_sharding(aval.shape, aval.dtype.itemsize, room))


def reshaped(x: Value, shape: Ints) -> Value:
    """The elements in C order in another shape.

    The primitive is local where a cut of the first dimension is one of the new shape too. Anything else goes through
    the flat tensor: a cut of whole rows is a cut of that, and there the cuts are moved to where the new shape has rows.
    """
    if x.shape == shape:
        return x
    if x.sharding.count > 1:
        if 0 in shape:
            x = session.emit("reshard", x, cuts=Sharding.whole(x.shape))
        elif _long(x.shape) == _long(shape) and all(x.shape[d] > 1 for d in x.sharding.cut_dims):
            return _ones(x, shape)
        elif not _direct(x, shape):
            x = session.emit("reshape", x, shape=(math.prod(shape),))
    return session.emit("reshape", x, shape=shape)


def _long(shape: Ints) -> Ints:
    return tuple(n for n in shape if n != 1)


def _ones(x: Value, shape: Ints) -> Value:
    """Only dimensions of length 1 come and go: the cuts stay."""
    if dims := tuple(d for d, n in enumerate(x.shape) if n == 1):
        x = session.emit("squeeze_dims", x, dims=dims)
    if dims := tuple(d for d, n in enumerate(shape) if n == 1):
        x = session.emit("expand_dims", x, dims=dims)
    return x


def _direct(x: Value, shape: Ints) -> bool:
    """Whether each shard of `x` is a run of whole rows of `shape`."""
    cut_dims = x.sharding.cut_dims
    if len(cut_dims) != 1 or any(n != 1 for n in x.shape[: cut_dims[0]]):
        return False
    first = next((d for d, n in enumerate(shape) if n != 1), 0)
    rows: Cut = x.sharding.cuts[cut_dims[0]].scaled(math.prod(x.shape[cut_dims[0] + 1 :]))
    return rows.divided(math.prod(shape[first + 1 :])) is not None


def to_front(x: Value, dims: Ints) -> Value:
    """`x` with these dimensions first, the others after them in order."""
    order = (*dims, *(d for d in range(len(x.shape)) if d not in dims))
    return x if order == tuple(range(len(order))) else session.emit("permute", x, dims=order)


def to_back(x: Value, dims: Ints) -> Value:
    """The inverse of `to_front`: the first dimensions at their old places `dims`."""
    order = (*dims, *(d for d in range(len(x.shape)) if d not in dims))
    if order == tuple(range(len(order))):
        return x
    return session.emit("permute", x, dims=tuple(order.index(d) for d in range(len(order))))


def part(x: Value, shape: Ints) -> Value:
    """The corner of `x` with this shape."""
    if x.shape == shape:
        return x
    return session.part(x, tuple((0, n, 1) for n in shape))


def padded(base: Value, corner: Value) -> Value:
    """`base` with its corner replaced."""
    if base.shape == corner.shape:
        return corner
    return session.put(base, corner, tuple((0, n, 1) for n in corner.shape))
