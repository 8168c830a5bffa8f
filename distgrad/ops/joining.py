"""Joining tensors, and splitting them into views: cat, stack, hstack, split, chunk and their kin."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from distgrad import session
from distgrad.ops.base import Like, Tensor, Value, cast, common_dtype, composite, normal_dim, op
from distgrad.ops.moves import Slice
from distgrad.ops.regrouping import compact
from distgrad.ops.rows import put_parts
from distgrad.ops.samples import real
from distgrad.ops.shape import atleast_1d, atleast_2d, atleast_3d
from distgrad.ops.slices import _along, select, slice_take
from distgrad.ops.views import reshape

__all__ = [
    "cat",
    "chunk",
    "column_stack",
    "concat",
    "concatenate",
    "dstack",
    "hstack",
    "row_stack",
    "split",
    "split_with_sizes",
    "stack",
    "tensor_split",
    "vstack",
]

Ints = tuple[int, ...]


# Joining.
def _left_out(shape: Ints, ndim: int) -> bool:
    """Whether `cat` takes no notice of a tensor: an empty vector fits to everything."""
    return shape == (0,) and ndim != 1


def _joinable(shapes: Sequence[Ints], dim: int) -> tuple[int, int]:
    """The number of dimensions and the dimension to join along; torch's errors where shapes do not fit."""
    for i, shape in enumerate(shapes):
        if not shape:
            raise RuntimeError(f"zero-dimensional tensor (at position {i}) cannot be concatenated")
    ndim = max((len(s) for s in shapes if s != (0,)), default=1)
    counted = [(i, s) for i, s in enumerate(shapes) if not _left_out(s, ndim)]
    d = normal_dim(dim, ndim)
    _, first = counted[0]
    for i, shape in counted[1:]:
        if len(shape) != len(first):
            raise RuntimeError(
                f"Tensors must have same number of dimensions: got {len(first)} and {len(shape)}"
            )
        for j, (n, m) in enumerate(zip(first, shape, strict=True)):
            if j != d and n != m:
                raise RuntimeError(
                    f"Sizes of tensors must match except in dimension {d}. Expected size {n} but got size {m} for "
                    f"tensor number {i} in the list."
                )
    return ndim, d


def _cat_gradients(g: Tensor, dim: int, like: list[Like]) -> list[Any]:
    """For each tensor its part of g."""
    shape = tuple(g.shape)
    d, start = normal_dim(dim, len(shape)), 0
    parts: list[Any] = []
    for one in like:
        if _left_out(one.shape, len(shape)):
            parts.append(None)
            continue
        parts.append(slice_take(g, _along(shape, d, start, one.shape[d])))
        start += one.shape[d]
    return parts


@op(
    tensors=_cat_gradients,
    method=False,
    samples=lambda: [
        ((real(2, 3), real(1, 3)),),
        ((real(2, 3), real(2, 1), real(2, 2)), -1),
        ((real(2), real(0), real(3)),),
        ((real(2, 3), real(0), real(2, 3, seed=1)), 0),
    ],
)
def cat(tensors: Sequence[Value], dim: int = 0) -> Value:
    """The tensors one after another along `dim`."""
    if not tensors:
        raise ValueError("torch.cat(): expected a non-empty list of Tensors")
    ndim, d = _joinable([x.shape for x in tensors], dim)
    common = common_dtype(*tensors)
    parts = [cast(x, common) for x in tensors if not _left_out(x.shape, ndim)]
    return session.emit("cat", *parts, dim=d, sizes=tuple(x.shape[d] for x in parts))


@op(
    tensors=lambda g, dim, like: [select(g, dim, i) for i in range(len(like))],
    method=False,
    samples=lambda: [((real(2, 3), real(2, 3, seed=1)),), ((real(2), real(2)), -1), ((real(), real()),)],
)
def stack(tensors: Sequence[Value], dim: int = 0) -> Value:
    """The tensors one after another along a new dimension."""
    if not tensors:
        raise RuntimeError("stack expects a non-empty TensorList")
    first = tensors[0].shape
    for i, x in enumerate(tensors):
        if x.shape != first:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(first)} at entry 0 and {list(x.shape)} at "
                f"entry {i}"
            )
    d = normal_dim(dim, len(first) + 1)
    common = common_dtype(*tensors)
    parts = [session.emit("expand_dims", cast(x, common), dims=(d,)) for x in tensors]
    return session.emit("cat", *parts, dim=d, sizes=(1,) * len(parts))


def _several(tensors: Any) -> Sequence[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else tensors


def _pair() -> list[Any]:
    return [((real(2, 3), real(2, 3, seed=1)),), ((real(3), real(3)),)]


@composite(method=False, samples=_pair)
def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors side by side: along dimension 1, vectors along 0."""
    parts = [atleast_1d(x) for x in _several(tensors)]
    return cat(parts, 0 if parts[0].dim() == 1 else 1)


@composite(method=False, samples=_pair)
def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors one below another: along dimension 0, vectors as rows."""
    return cat([atleast_2d(x) for x in _several(tensors)], 0)


row_stack = vstack


@composite(method=False, samples=_pair)
def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors along dimension 2."""
    return cat([atleast_3d(x) for x in _several(tensors)], 2)


@composite(method=False, samples=_pair)
def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors side by side, vectors as columns."""
    return cat([x if x.dim() > 1 else reshape(x, (x.numel(), 1)) for x in _several(tensors)], 1)


# Splitting.
def _lengths(n: int, sizes: Any, dim: int) -> list[int]:
    """How long each part of a dimension of length `n` is."""
    if isinstance(sizes, (tuple, list)):
        sections = [operator.index(s) for s in sizes]
        got = f"but got split_sizes={sections}"
        if any(s < 0 for s in sections):
            raise RuntimeError(f"split_with_sizes expects split_sizes have only non-negative entries, {got}")
        if sum(sections) != n:
            raise RuntimeError(
                f"split_with_sizes expects split_sizes to sum exactly to {n} (input tensor's size at dimension {dim}), "
                f"{got}"
            )
        return sections
    size = operator.index(sizes)
    if size < 0:
        raise RuntimeError(f"split expects split_size be non-negative, but got split_size={size}")
    if size == 0 and n:
        raise RuntimeError(f"split_size can only be 0 if dimension size is 0, but got dimension size of {n}")
    count = max(1, math.ceil(n / size)) if size else 1
    return [min(size, n - i * size) for i in range(count)]


def _parts(shape: Ints, sizes: Any, dim: int) -> list[Any]:
    """The slices of the parts."""
    d = normal_dim(dim, len(shape))
    lengths = _lengths(shape[d], sizes, d)
    starts = accumulate([0, *lengths])
    return [_along(shape, d, start, n) for start, n in zip(starts, lengths, strict=False)]


def _split_gradient(g: list[Any], split_size_or_sections: Any, dim: int, like: Like) -> Tensor:
    """The parts' gradients joined again; those of parts that were not used are zeros."""
    if None not in g and len(g) == len(_parts(like.shape, split_size_or_sections, dim)):
        return cat(g, dim)
    parts = zip(g, _parts(like.shape, split_size_or_sections, dim), strict=False)
    there = [(one, slices) for one, slices in parts if one is not None]
    return put_parts([one for one, _ in there], tuple(slices for _, slices in there), like.sharding)


def _split_name(tensor: Any, split_size_or_sections: Any, dim: int) -> str:
    several = isinstance(split_size_or_sections, (tuple, list))
    return "SplitWithSizesBackward0" if several else "SplitBackward0"


@op(
    name=_split_name,
    multi=True,
    tensor=_split_gradient,
    view=lambda shape, index, sizes, dim: (Slice(tuple(_parts(shape, sizes, dim)[index])),),
    samples=lambda: [(real(5, 2), 2), (real(2, 5), [1, 4], 1), (real(3), 1)],
)
def split(tensor: Value, split_size_or_sections: Any, dim: int = 0) -> tuple[Value, ...]:
    """Views of parts along `dim`: of one length (the last may be shorter), or of the lengths in a list."""
    if not tensor.shape:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    parts = _parts(tensor.shape, split_size_or_sections, dim)
    return tuple(compact(session.part(tensor, s)) for s in parts)


@composite(samples=lambda: [(real(5, 2), [2, 3])])
def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> Any:
    """Views of parts of these lengths along `dim`."""
    return split(input, list(split_sizes), dim)


@composite(samples=lambda: [(real(5, 2), 2), (real(2, 6), 4, 1)])
def chunk(input: Tensor, chunks: int, dim: int = 0) -> Any:
    """Views of at most `chunks` parts of one length along `dim`; the last may be shorter."""
    if not input.dim():
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    n = input.shape[normal_dim(dim, input.dim())]
    return split(input, -(-n // chunks) if n else [0] * chunks, dim)


@composite(samples=lambda: [(real(5, 2), 3), (real(2, 6), (1, 4), 1)])
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> Any:
    """Views of parts along `dim`: so many, as equal as can be, or cut at the indices given."""
    if not input.dim():
        raise RuntimeError(
            "tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims"
        )
    shape, how = tuple(input.shape), indices_or_sections
    d = normal_dim(dim, len(shape))
    n = shape[d]
    if isinstance(how, Tensor):
        how = how.tolist()
    if isinstance(how, int):
        if how <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {how}")
        ends = [n * i // how if n % how == 0 else (n // how) * i + min(i, n % how) for i in range(how + 1)]
    else:
        ends = [slice(i).indices(n)[1] for i in how]
        ends = [0, *ends, n]
    return tuple(slice_take(input, _along(shape, d, lo, max(0, hi - lo))) for lo, hi in pairwise(ends))


concat = concatenate = cat
