"""Primitives that map pieces to pieces: reshape, cat, compress, uncompress, reshard; `slices.py` has those that select.

Each has a rule of its own that says how its operands must be cut so that every shard of the result can be made on the
spot; what does not fit is resharded by an exchange before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.cutting import default_sharding
from distgrad.primitives.base import (
    Attrs,
    Aval,
    Labels,
    Layout,
    Offset,
    Place,
    Primitive,
    expect,
    expect_cuts,
    expect_dims,
    primitive,
)
from distgrad.primitives.batching import NO_DYNAMIC_SHAPE, Batch, Refused, back, front, shifted
from distgrad.primitives.rules import holding, settled
from distgrad.sharding import Cut, Region, Sharding, extent


def _first_long(shape: tuple[int, ...]) -> int:
    return next((d for d, n in enumerate(shape) if n != 1), 0)


def _leading(shape: tuple[int, ...], cut: Cut) -> Sharding:
    d = _first_long(shape)
    return Sharding(tuple(cut if i == d else Cut(n) for i, n in enumerate(shape)))


def _rows(shape: tuple[int, ...]) -> int:
    """Elements in one step along the first dimension that is longer than one."""
    return math.prod(shape[_first_long(shape) + 1 :])


def _leading_cut(aval: Aval, sharding: Sharding, shard_bytes: int) -> Cut:
    """Its cut along the first long dimension if that is the only one; else a new one."""
    d = _first_long(aval.shape)
    if sharding.cut_dims == (d,):
        return sharding.cuts[d]
    n = aval.shape[d]
    return Cut.even(n, max(1, n * shard_bytes // max(1, aval.nbytes)))


# reshape: C order on both sides, so a cut along the leading dimension is a cut of the flat array.
def _reshape_rule(
    avals: Sequence[Aval], shardings: Sequence[Sharding], attrs: Attrs, shard_bytes: int
) -> Layout:
    (aval,), (sharding,), shape = avals, shardings, attrs["shape"]
    if sharding.count == 1 or not shape or aval.size == 0:
        return Layout(1, (Sharding.whole(aval.shape),), (Sharding.whole(shape),))
    cut = _leading_cut(aval, sharding, shard_bytes)
    row_in, row_out = _rows(aval.shape), _rows(shape)
    out = cut.scaled(row_in).divided(row_out)
    if out is None:
        step = math.lcm(row_in, row_out)
        step *= max(1, shard_bytes // (step * aval.dtype.itemsize))
        cut = Cut.even(aval.size // row_in, step // row_in)
        out = Cut.even(aval.size // row_out, step // row_out)
    need = _leading(aval.shape, cut)
    return Layout(need.count, (need,), (_leading(shape, out),))


def _reshaped(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    made = Aval(attrs["shape"], avals[0].dtype)
    expect(made.size == avals[0].size, "{} cannot become {}", avals[0].shape, made.shape)
    return (made,)


def _reshape(a: np.ndarray, *, at: Place, shape: tuple[int, ...]) -> np.ndarray:
    return a.reshape(extent(at.outs[0]))


def _reshape_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    """The batch stays in front; where samples are cut, and the batch is not, it is behind for a while: a cut of their
    first dimension then is one of the whole again.
    """
    (x,), shape = xs, attrs["shape"]
    if batch.cut.count > 1 or x.sharding.count == 1:
        return batch.apply(made.name, xs, {"shape": (batch.size, *shape)})
    n, m = len(x.shape), len(shape) + 1
    x = batch.emit("permute", x, dims=back(n, n - 1))
    x = batch.emit(made.name, x, shape=(*shape, batch.size))
    return (batch.emit("permute", x, dims=front(m, m - 1)),)


primitive(
    "reshape",
    _reshape,
    _reshaped,
    regroup=_reshape_rule,
    batch=_reshape_batched,
    fits=settled(_reshape_rule),
    attrs={"shape": "shape"},
    traits={"placed", "view"},
    flops=0,
)


# cat: every operand is cut where the result's cuts fall inside it.
def _cat_shape(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    d, first = attrs["dim"], avals[0]
    expect_dims((d,), len(first.shape))
    expect(len({(*a.shape[:d], 1, *a.shape[d + 1 :]) for a in avals}) == 1, "other shapes beside `dim`")
    expect({a.dtype for a in avals} == {first.dtype}, "operands of several dtypes")
    expect(tuple(a.shape[d] for a in avals) == attrs["sizes"], "sizes {}", attrs["sizes"])
    return (Aval((*first.shape[:d], sum(attrs["sizes"]), *first.shape[d + 1 :]), first.dtype),)


def _offsets(avals: Sequence[Aval], d: int) -> list[int]:
    ends = np.cumsum([0, *(a.shape[d] for a in avals)])
    return [int(e) for e in ends]


def _cat_rule(avals: Sequence[Aval], shardings: Sequence[Sharding], attrs: Attrs, shard_bytes: int) -> Layout:
    d = attrs["dim"]
    (out,) = _cat_shape(avals, attrs)
    cut = [i for i, s in enumerate(shardings) if s.count > 1]
    primary = max(cut, key=lambda i: (avals[i].nbytes, -i), default=None)
    if primary is not None and d not in shardings[primary].cut_dims:
        grid = Sharding(
            tuple(c if i != d else Cut(out.shape[d]) for i, c in enumerate(shardings[primary].cuts))
        )
    elif primary is not None or out.nbytes > shard_bytes:
        grid = default_sharding(out.shape, out.dtype.itemsize, shard_bytes)
    else:
        grid = Sharding.whole(out.shape)
    needs = tuple(
        s if s.count == 1 else _part(grid, d, start, a) if grid.count > 1 else Sharding.whole(a.shape)
        for s, a, start in zip(shardings, avals, _offsets(avals, d), strict=False)
    )
    return Layout(grid.count, needs, (grid,))


def _part(grid: Sharding, d: int, start: int, aval: Aval) -> Sharding:
    cut = grid.cuts[d].sliced(start, aval.shape[d], 1)
    return Sharding(tuple(cut if i == d else c for i, c in enumerate(grid.cuts)))


def _cat_fits(made: Layout, avals: Sequence[Aval], attrs: Attrs) -> bool:
    (grid,) = made.outs
    parts = zip(made.needs, avals, _offsets(avals, attrs["dim"]), strict=False)
    return all(s.count == 1 or s == _part(grid, attrs["dim"], start, a) for s, a, start in parts)


def _cat(
    *arrays: np.ndarray, at: Place, dim: int, sizes: tuple[int, ...], out: np.ndarray | None = None
) -> np.ndarray:
    lo, hi = at.outs[0][dim]
    if out is None:
        out = np.empty(extent(at.outs[0]), arrays[0].dtype)
    start = 0
    for array, region, n in zip(arrays, at.ins, sizes, strict=True):
        first, last = max(lo, start), min(hi, start + n)
        if first < last:
            to = [slice(None)] * out.ndim
            to[dim] = slice(first - lo, last - lo)
            piece = tuple(
                slice(first - start - r[0], last - start - r[0])
                if i == dim
                else slice(o[0] - r[0], o[1] - r[0])
                for i, (r, o) in enumerate(zip(region, at.outs[0], strict=True))
            )
            out[tuple(to)] = array[piece]
        start += n
    return out


primitive(
    "cat",
    _cat,
    _cat_shape,
    regroup=_cat_rule,
    batch=shifted("dim"),
    fits=_cat_fits,
    attrs={"dim": "int", "sizes": "ints"},
    traits={"into", "placed"},
    flops=0,
)


# compress and uncompress: the chosen elements of a flat array; `cuts` holds how many each shard has.
def _compress_rule(
    avals: Sequence[Aval], shardings: Sequence[Sharding], attrs: Attrs, shard_bytes: int
) -> Layout:
    mask: Sharding = shardings[-1]
    cuts = attrs["cuts"] or Sharding.whole((attrs["size"],))
    return Layout(mask.count, (mask, mask), (cuts,))


def _masked(mask: Aval) -> None:
    expect(len(mask.shape) == 1 and mask.dtype.kind == "b", "a mask is one list of bools")


def _compressed(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    a, mask = avals
    _masked(mask)
    expect(a.shape == mask.shape, "a mask of {} for {}", mask.shape, a.shape)
    expect(0 <= attrs["size"] <= a.size, "{} of {} elements", attrs["size"], a.size)
    expect_cuts(attrs["cuts"], (attrs["size"],))
    return (Aval((attrs["size"],), a.dtype),)


def _check_count(mask: np.ndarray, region: Region) -> None:
    if np.count_nonzero(mask) != region[0][1] - region[0][0]:
        raise ValueError(f"{np.count_nonzero(mask)} elements are chosen, not {region[0][1] - region[0][0]}")


def _compress(a: np.ndarray, mask: np.ndarray, *, at: Place, size: int, cuts: Sharding | None) -> np.ndarray:
    _check_count(mask, at.outs[0])
    return a[mask]


def _chosen(batch: Batch, mask: Any, batched: bool, size: int, cuts: Sharding | None) -> Any:
    """The positions that a mask chooses: the same for all samples."""
    if batched:
        raise RuntimeError(NO_DYNAMIC_SHAPE.format("masked_select"))
    where = batch.emit("iota", shape=mask.shape, dim=0, cuts=mask.sharding)
    return batch.emit("compress", where, mask, size=size, cuts=cuts)


def _compress_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    (a, mask), size = xs, attrs["size"]
    chosen = _chosen(batch, mask, flags[1], size, attrs["cuts"])
    return (batch.emit("take", a, chosen, dim=1, size=mask.shape[0], wrap=False),)


def _uncompress_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    a, mask = xs
    chosen = _chosen(batch, mask, flags[1], a.shape[1] if flags[0] else a.shape[0], attrs["cuts"])
    return (batch.emit("index_add", chosen, a, dim=1, size=mask.shape[0]),)


primitive(
    "compress",
    _compress,
    _compressed,
    regroup=_compress_rule,
    batch=_compress_batched,
    fits=settled(_compress_rule),
    attrs={"size": "int", "cuts": "cuts"},
    traits={"placed"},
    flops=0,
)


def _uncompress_rule(
    avals: Sequence[Aval], shardings: Sequence[Sharding], attrs: Attrs, shard_bytes: int
) -> Layout:
    mask: Sharding = shardings[-1]
    return Layout(mask.count, (attrs["cuts"] or Sharding.whole(avals[0].shape), mask), (mask,))


def _uncompressed(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    a, mask = avals
    _masked(mask)
    expect(len(a.shape) == 1 and a.size <= mask.size, "{} in {}", a.shape, mask.shape)
    expect_cuts(attrs["cuts"], a.shape)
    return (Aval(mask.shape, a.dtype),)


def _uncompress(a: np.ndarray, mask: np.ndarray, *, at: Place, cuts: Sharding | None) -> np.ndarray:
    _check_count(mask, at.ins[0])
    out = np.zeros(mask.shape, a.dtype)
    out[mask] = a
    return out


primitive(
    "uncompress",
    _uncompress,
    _uncompressed,
    regroup=_uncompress_rule,
    batch=_uncompress_batched,
    fits=settled(_uncompress_rule),
    attrs={"cuts": "cuts"},
    traits={"placed"},
    flops=0,
)


def _shard_counts(mask: np.ndarray, *, at: Place, cuts: Sharding) -> np.ndarray:
    out = np.zeros(cuts.count, np.int64)
    lo, hi = at.ins[0][0]
    if cuts.count == 1:
        out[0] = np.count_nonzero(mask)
        return out
    for shard in cuts.overlapping(((lo, hi),)):
        a, b = cuts.cell(shard)[0]
        out[shard] = np.count_nonzero(mask[max(a, lo) - lo : max(0, min(b, hi) - lo)])
    return out


def _counted(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    _masked(avals[0])
    expect(attrs["cuts"] is not None, "needs cuts")
    expect_cuts(attrs["cuts"], avals[0].shape)
    return (Aval((attrs["cuts"].count,), np.dtype("int64")),)


primitive(
    "shard_counts",
    _shard_counts,
    _counted,
    labels=lambda avals, attrs: Labels(((0,),), ((None,),), "add"),
    batch=Refused(NO_DYNAMIC_SHAPE.format("nonzero")),
    attrs={"cuts": "cuts"},
    traits={"placed"},
)


# reshard: the same elements, cut otherwise. Where they lie cut, the exchange before it does the work.
def _reshard_rule(
    avals: Sequence[Aval], shardings: Sequence[Sharding], attrs: Attrs, shard_bytes: int
) -> Layout:
    target = attrs["cuts"]
    need = shardings[0] if shardings[0].count == 1 else target
    return Layout(target.count, (need,), (target,))


def _recut(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    expect(attrs["cuts"] is not None, "needs cuts")
    expect_cuts(attrs["cuts"], avals[0].shape)
    return (avals[0],)


def _reshard(a: np.ndarray, *, at: Place, cuts: Sharding) -> np.ndarray:
    return a[tuple(slice(lo - b, hi - b) for (lo, hi), (b, _) in zip(at.outs[0], at.ins[0], strict=True))]


def _reshard_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    return batch.apply(made.name, xs, {"cuts": batch.cuts(attrs["cuts"], xs[0].dtype.itemsize)})


primitive(
    "reshard",
    _reshard,
    _recut,
    regroup=_reshard_rule,
    batch=_reshard_batched,
    fits=holding(lambda attrs, d, bounds: bounds),
    attrs={"cuts": "cuts"},
    traits={"placed", "view", "shifts"},
    flops=0,
    lower=Offset(lambda dims, cuts: (0,) * dims),
)
