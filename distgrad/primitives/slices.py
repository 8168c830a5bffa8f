"""Primitives that select with start, length and step along each dimension: slice, slice_put, pad.

They map pieces to pieces, as those of `regroup.py` do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distgrad.caching import remembered
from distgrad.primitives.base import Attrs, Aval, Layout, Offset, Place, Primitive, expect, primitive
from distgrad.primitives.batching import Batch
from distgrad.primitives.rules import holding, settled
from distgrad.sharding import Bounds, Region, Sharding, extent

Triple = tuple[int, int, int]  # start, length, step
Slices = tuple[Triple, ...]


def _starts(slices: Slices) -> tuple[int, ...] | None:
    """Where a slice begins that leaves nothing out."""
    return tuple([start for start, _, _ in slices]) if all(step == 1 for _, _, step in slices) else None


def _before(slices: Slices) -> tuple[int, ...] | None:
    """How far what is put into such a slice lies from its own elements."""
    starts = _starts(slices)
    return None if starts is None else tuple([-start for start in starts])


# slice: each shard keeps what it holds of the slice; some may be left empty.
def _sliced(sharding: Sharding, slices: Slices) -> Sharding:
    return Sharding(tuple(cut.sliced(*s) for cut, s in zip(sharding.cuts, slices, strict=True)))


def _slice_rule(
    avals: Sequence[Aval], shardings: Sequence[Sharding], attrs: Attrs, shard_bytes: int
) -> Layout:
    return Layout(shardings[0].count, (shardings[0],), (_sliced(shardings[0], attrs["slices"]),))


def slice_shape(shape: tuple[int, ...], slices: Slices) -> tuple[int, ...]:
    """The lengths of a slice. Raises ValueError for one that goes backwards or reaches beyond the end."""
    for n, (start, length, step) in zip(shape, slices, strict=True):
        if step < 1 or (length and start + (length - 1) * step >= n):
            raise ValueError(f"no slice (start, length, step) {start, length, step} of {n} elements")
    return tuple(length for _, length, _ in slices)


def local(slices: Slices, part: Region, base: Region) -> tuple[slice, ...]:
    """Where, in the piece `base` of a tensor, the elements `part` of its slice lie."""
    return tuple(
        slice(start + lo * step - b, max(0, start + (hi - 1) * step + 1 - b) if hi > lo else 0, step)
        if hi > lo
        else slice(0, 0)
        for (start, _, step), (lo, hi), (b, _) in zip(slices, part, base, strict=True)
    )


def _seen(attrs: Attrs, d: int, bounds: Bounds) -> Bounds:
    """Where the elements `bounds` of a slice lie in the tensor."""
    (start, _, step), (lo, hi) = attrs["slices"][d], bounds
    return (start + lo * step, start + (hi - 1) * step + 1) if hi > lo else (0, 0)


def _slice(a: np.ndarray, *, at: Place, slices: Slices) -> np.ndarray:
    return a[local(slices, at.outs[0], at.ins[0])]


def _slice_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    return batch.apply(made.name, xs, {"slices": _behind(batch, attrs["slices"])})


def _behind(batch: Batch, slices: Slices) -> Slices:
    return ((0, batch.size, 1), *slices)


primitive(
    "slice",
    _slice,
    lambda avals, attrs: (Aval(slice_shape(avals[0].shape, attrs["slices"]), avals[0].dtype),),
    regroup=_slice_rule,
    batch=_slice_batched,
    fits=holding(_seen),
    attrs={"slices": "slices"},
    traits={"placed", "view", "shifts"},
    flops=0,
    lower=Offset(lambda dims, slices: _starts(slices)),
)


def _filling(base: Sharding, src: Sharding, slices: Slices) -> Sharding:
    """How what is put into a slice must be cut for a base that is cut like this."""
    if src.count == 1:
        return src
    return _sliced(base, slices) if base.count > 1 else Sharding.whole(src.shape)


# slice_put: parts of a tensor replaced, one after the other. What lies between two of them is copied once.
def _slice_put_shape(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    base, *sources = avals
    for src, slices in zip(sources, attrs["parts"], strict=True):
        shape = slice_shape(base.shape, slices)
        fits = src.shape == () or (
            len(src.shape) == len(shape) and all(n in (m, 1) for n, m in zip(src.shape, shape, strict=True))
        )
        if not fits or src.dtype != base.dtype:
            raise ValueError(f"{src} does not fill the slice {slices} of {base}")
    return (base,)


def _slice_put_rule(
    avals: Sequence[Aval], shardings: Sequence[Sharding], attrs: Attrs, shard_bytes: int
) -> Layout:
    base, *sources = shardings
    needs = [
        _filling(base, s, slices) if s.shape == tuple(n for _, n, _ in slices) else Sharding.whole(s.shape)
        for s, slices in zip(sources, attrs["parts"], strict=True)
    ]
    return Layout(base.count, (base, *needs), (base,))


@remembered(8 << 20, lambda _, made: 200 + 10 * made[0].nbytes)
def _bounds(parts: tuple[Slices, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where the parts begin and end, a row for each; an empty one ends before it begins."""
    triples = np.array(parts, np.int64).reshape(len(parts), len(parts[0]), 3)
    start, length, step = triples[..., 0], triples[..., 1], triples[..., 2]
    empty = (length == 0).any(1, keepdims=True)
    return start, np.where(empty, -1, start + (length - 1) * step + 1)


def meeting(parts: tuple[Slices, ...], cell: Region) -> Iterator[int]:
    """The numbers of the parts that may share elements with the piece `cell`, rising."""
    if len(parts) == 1:
        return iter((0,))
    first, end = _bounds(parts)
    lo, hi = np.array(cell, np.int64).reshape(-1, 2).T
    return iter(np.flatnonzero(((first < hi) & (end > lo)).all(1)).tolist())


def common(part: Triple, read: Triple) -> tuple[Triple, Triple] | bool | None:
    """Along one dimension what two slices have in common: which of the elements of `read`, and which of `part`.

    False: nothing. None: not told by slices.
    """
    (a, n, s), (b, m, t) = part, read
    s, t = (t if n == 1 else s), (s if m == 1 else t)  # one element has any step
    if n == m == 1:
        s = t = 1
    if s == t:
        offset, rest = divmod(a - b, s)
        lo, hi = max(0, offset), min(m, offset + n)
        return False if rest or lo >= hi else ((lo, hi - lo, 1), (lo - offset, hi - lo, 1))
    if t == 1:
        lo, hi = max(0, -(-(b - a) // s)), min(n, -(-(b + m - a) // s))
        return False if lo >= hi else ((a + lo * s - b, hi - lo, s), (lo, hi - lo, 1))
    if s == 1:
        lo, hi = max(0, -(-(a - b) // t)), min(m, -(-(a + n - b) // t))
        return False if lo >= hi else ((lo, hi - lo, 1), (b + lo * t - a, hi - lo, t))
    return None


def part_of(triple: Triple, bounds: Bounds) -> Bounds:
    """The elements of a slice that lie between `bounds` of the tensor."""
    (start, n, step), (lo, hi) = triple, bounds
    return min(n, max(0, -(-(lo - start) // step))), min(n, max(0, -(-(hi - start) // step)))


def _meeting(slices: Slices, cell: Region, source: Region) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where the elements of a slice lie: in the piece `cell` of the tensor, and in the piece `source` of the slice."""
    part = tuple(part_of(*pair) for pair in zip(slices, cell, strict=True))
    mine = tuple(slice(lo - b, hi - b) for (lo, hi), (b, _) in zip(part, source, strict=True))
    return local(slices, part, cell), mine


def _slice_put(
    base: np.ndarray,
    *sources: np.ndarray,
    at: Place,
    parts: tuple[Slices, ...],
    out: np.ndarray | None = None,
) -> np.ndarray:
    out = np.empty(base.shape, base.dtype) if out is None else out
    if out is not base:
        np.copyto(out, base)
    for k in meeting(parts, at.outs[0]):
        src, slices = sources[k], parts[k]
        if src.ndim:
            there, mine = _meeting(slices, at.outs[0], at.ins[1 + k])
            wide = zip(
                mine, src.shape, slices, strict=True
            )  # one element may stand for all along a dimension
            out[there] = src[tuple([slice(None) if m == 1 != n else i for i, m, (_, n, _) in wide])]
        else:
            out[_meeting(slices, at.outs[0], tuple([(0, n) for _, n, _ in slices]))[0]] = src
    return out


def _slice_put_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    """What is put has the dimensions of the whole or none; one element along the batch stands for all of it."""
    (base, *sources), parts = xs, attrs["parts"]
    made_sources = []
    for src, batched, slices in zip(sources, flags[1:], parts, strict=True):
        more = len(slices) + 1 - len(src.shape)
        if batched and more:
            src = batch.emit("expand_dims", src, dims=tuple(range(1, 1 + more)))
        elif src.shape and more:
            src = batch.emit("expand_dims", src, dims=(0,))
        made_sources.append(src)
    whole = tuple(_behind(batch, slices) for slices in parts)
    return batch.apply(made.name, (batch.full(base, flags[0]), *made_sources), {"parts": whole})


primitive(
    "slice_put",
    _slice_put,
    _slice_put_shape,
    regroup=_slice_put_rule,
    batch=_slice_put_batched,
    fits=settled(_slice_put_rule),
    attrs={"parts": "parts"},
    traits={"into", "over_first", "placed"},  # the sources are read after the base is copied
    flops=0,
)


# pad: a slice of zeros that is put there. A shard that it fills is passed on as it is.
def _pad_shape(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    expect(attrs["cuts"] is not None, "needs cuts")
    base = Aval(attrs["cuts"].shape, avals[0].dtype)
    if slice_shape(base.shape, attrs["slices"]) != avals[0].shape:
        raise ValueError(f"{avals[0]} does not fill the slice {attrs['slices']} of {base}")
    return (base,)


def _pad_rule(avals: Sequence[Aval], shardings: Sequence[Sharding], attrs: Attrs, shard_bytes: int) -> Layout:
    base: Sharding = attrs["cuts"]
    return Layout(base.count, (_filling(base, shardings[0], attrs["slices"]),), (base,))


def _pad(
    src: np.ndarray,
    *,
    at: Place,
    slices: Slices,
    cuts: Sharding,
    out: np.ndarray | None = None,
) -> np.ndarray:
    shape = extent(at.outs[0])
    there, mine = _meeting(slices, at.outs[0], at.ins[0])
    piece = src[mine]
    if piece.shape == shape:
        return piece
    out = np.empty(shape, src.dtype) if out is None else out
    inside = out
    for d, (n, index) in enumerate(zip(shape, there, strict=True)):
        if index.step not in (None, 1) or index.start == index.stop:
            inside[...] = 0
            break
        before = (slice(None),) * d
        inside[(*before, slice(0, index.start))] = 0
        inside[(*before, slice(index.stop, n))] = 0
        inside = inside[(*before, index)]
    out[there] = piece
    return out


def _pad_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    (x,) = xs
    cuts = batch.cuts(attrs["cuts"], x.dtype.itemsize)
    return batch.apply(made.name, xs, {"slices": _behind(batch, attrs["slices"]), "cuts": cuts})


primitive(
    "pad",
    _pad,
    _pad_shape,
    regroup=_pad_rule,
    batch=_pad_batched,
    fits=holding(lambda attrs, d, bounds: part_of(attrs["slices"][d], bounds)),
    attrs={"slices": "slices", "cuts": "cuts"},
    traits={"into", "placed", "view", "shifts"},
    flops=0,
    lower=Offset(lambda dims, slices, cuts: _before(slices), zeros=True),
)
