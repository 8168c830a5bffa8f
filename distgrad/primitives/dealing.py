"""Rows taken by each shard from itself: what a shuffle of a large table does before and after its one exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.primitives.base import Attrs, Aval, Layout, Place, Primitive, expect, primitive
from distgrad.primitives.batching import Batch, front
from distgrad.primitives.indexing import within
from distgrad.primitives.rules import settled
from distgrad.sharding import Cut, Sharding


def take_own(x: np.ndarray, idx: np.ndarray, *, at: Place, step: int) -> np.ndarray:
    """out[s] = x[s * step : (s + 1) * step][idx[s]]: block s of `step` rows gives the rows idx[s] of its own."""
    first, stop = at.outs[0][0]
    low, mine = at.ins[0][0][0], at.ins[1][0][0]
    out = np.empty((stop - first, idx.shape[1], *x.shape[1:]), x.dtype)
    for s in range(first, stop):
        rows = x[s * step - low : (s + 1) * step - low]
        np.take(rows, within(idx[s - mine], len(rows)), axis=0, out=out[s - first], mode="clip")
    return out


def _taken(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    x, idx = avals
    expect(attrs["step"] > 0 and len(x.shape) > 0, "blocks of {} rows of {}", attrs["step"], x.shape)
    good = len(idx.shape) == 2 and idx.dtype == np.int64 and idx.shape[0] == -(-x.shape[0] // attrs["step"])
    expect(good, "{} of shape {} for blocks of {} of {}", idx.dtype, idx.shape, attrs["step"], x.shape)
    return (Aval((*idx.shape, *x.shape[1:]), x.dtype),)


def _rule(avals: Sequence[Aval], shardings: Sequence[Sharding], attrs: Attrs, shard_bytes: int) -> Layout:
    """A shard for each block, unless all lies in one."""
    x, idx = shardings
    shape = (*idx.shape, *x.shape[1:])
    if x.count == 1 or idx.shape[0] < 2:
        needs = tuple(Sharding.whole(s.shape) for s in shardings)
        return Layout(1, needs, (Sharding.whole(shape),))
    blocks = idx.shape[0]
    rows = Sharding((Cut.even(x.shape[0], attrs["step"]), *(Cut(n) for n in x.shape[1:])))
    own = Sharding((Cut.even(blocks, 1), Cut(idx.shape[1])))
    return Layout(
        blocks,
        (rows, idx if idx.count == 1 else own),
        (Sharding((Cut.even(blocks, 1), *(Cut(n) for n in shape[1:]))),),
    )


def _batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    """Rows that hold the batch; with other positions for each sample, by positions in the whole."""
    x, idx = xs
    if not flags[1]:
        x = batch.emit("permute", x, dims=(1, 0, *range(2, len(x.shape))))
        out = batch.emit(made.name, x, idx, **attrs)
        return (batch.emit("permute", out, dims=front(len(out.shape), 2)),)
    starts = batch.emit("iota", shape=(idx.shape[1], 1), dim=0, cuts=None)
    starts = batch.emit("multiply", starts, batch.number(attrs["step"], idx.dtype))
    flat = batch.emit(
        "reshape", batch.emit("add", idx, starts), shape=(batch.size, idx.shape[1] * idx.shape[2])
    )
    rows = x.shape[1] if flags[0] else x.shape[0]
    out = batch.by("take", (x, flat), flags, dim=0, size=rows, wrap=False)
    return (batch.emit("reshape", out, shape=(*idx.shape, *out.shape[2:])),)


primitive(
    "take_own",
    take_own,
    _taken,
    regroup=_rule,
    fits=settled(_rule),
    batch=_batched,
    attrs={"step": "int"},
    traits={"placed"},
)
