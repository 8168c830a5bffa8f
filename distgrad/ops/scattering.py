"""Scattering with a reduction: scatter(reduce=), scatter_reduce, index_reduce.

What is scattered to a place, and what stood there if `include_self`, are reduced to one. Of the places that nothing is
scattered to, each keeps what stood there. The formulas take `index` with an entry for each element of `src`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from distgrad import session
from distgrad.dtype import BOOL, INT64
from distgrad.ops import gathering
from distgrad.ops.base import Tensor, Value, attach, broadcast_to, call, cast, constant, normal_dim, op
from distgrad.ops.gathering import (
    _check_shapes,
    _index_of,
    _lifted,
    _like_shape,
    _src_gradient,
    check_inside,
    first_outside,
    gather,
    positions,
    scatter_add,
)
from distgrad.ops.helpers import title
from distgrad.ops.indexed_slices import _check_slices
from distgrad.ops.making import full, ones_like, zeros_like
from distgrad.ops.regrouping import padded, part
from distgrad.ops.samples import real

__all__ = ["index_reduce", "scatter", "scatter_reduce"]

FOLDS = {
    "prod": ("scatter_multiply", "multiply"),
    "amax": ("scatter_maximum", "maximum"),
    "amin": ("scatter_minimum", "minimum"),
}
TWICE = (
    "scatter_reduce(): Double backward is unsupported for src when >1 zeros in src are scattered to the same position "
    "in self"
)
OLD = (
    "The reduce argument of torch.scatter with Tensor src is deprecated and will be removed in a future PyTorch "
    "release. Use torch.scatter_reduce instead for more reduction options."
)
BETA = "index_reduce() is in beta and the API may change at any time."


# Values.
def _reduced(base: Value, index: Value, src: Value, dim: int, reduce: str, include_self: bool) -> Value:
    """The part of the result that `index` reaches; all have as many dimensions, `src` the shape of `index`."""
    at = {"dim": dim, "size": base.shape[dim]}
    if base.dtype == BOOL and reduce == "sum":
        reduce = "amax"
    if reduce in FOLDS:
        fold, combine = FOLDS[reduce]
        made = session.emit(fold, index, src, **at)
        if include_self:
            return session.emit(combine, part(base, made.shape), made)
    else:
        made = session.emit("scatter_add", index, src, **at)
        if include_self:
            made = session.emit("add", part(base, made.shape), made)
        if include_self and reduce == "sum":
            return made
    ones = broadcast_to(constant(1, INT64), index.shape)
    count = session.emit("scatter_add", index, ones, **at)
    untouched = session.emit("equal", count, constant(0, INT64))
    if reduce == "mean":
        more = constant(1, INT64) if include_self else cast(untouched, INT64)
        count = cast(session.emit("add", count, more), base.dtype)
        made = session.emit("divide" if base.dtype.kind == "f" else "floor_divide", made, count)
    return made if include_self else session.emit("where", untouched, part(base, made.shape), made)


# Gradients.
def _apart(g: Tensor, dim: int, index: Tensor, include_self: bool) -> Tensor:
    """The gradient of what stood there: none where something was scattered, unless that was reduced with it."""
    return g if include_self else gathering.scatter(g, dim, index, 0)


def _members(like: Tensor, dim: int, index: Tensor, include_self: bool) -> Tensor:
    """1 where what stood there is part of the result."""
    return _apart(ones_like(like), dim, index, include_self)


def _cut(src: Tensor, index: Tensor) -> Tensor:
    """What of `src` is scattered."""
    return src if src.shape == index.shape else src[tuple(slice(n) for n in index.shape)]


def _share(g: Tensor, input: Tensor, dim: int, index: Tensor, src: Tensor, out: Tensor, own: bool) -> Any:
    """Extrema: (gradient for each of those that are equal to the result, who of input is, who of src is)."""
    mine = (input == out).to(g.dtype) * _members(g, dim, index, own) if own else _members(g, dim, index, own)
    theirs = (_cut(src, index) == gather(out, dim, index)).to(g.dtype)
    return g / scatter_add(mine, dim, index, theirs), mine, theirs


def _input_gradient(
    g: Tensor,
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor,
    reduce: str,
    include_self: bool,
    out: Tensor,
) -> Tensor:
    if reduce == "mean":
        members = _members(g, dim, index, include_self)
        g = g / scatter_add(members, dim, index, ones_like(src))
    elif reduce == "prod" and include_self:  # the product of the others, also where input is zero
        whole = input.masked_fill(input == 0, 1)
        g = g * scatter_reduce(whole, dim, index, src, "prod") / whole
    elif reduce in ("amax", "amin") and include_self:
        share, mine, _ = _share(g, input, dim, index, src, out, True)
        g = share * mine
    return _apart(g, dim, index, include_self)


def _gradient_of_src(
    g: Tensor,
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor,
    reduce: str,
    include_self: bool,
    like: Any,
    out: Tensor,
) -> Tensor:
    if reduce == "mean":
        members = _members(g, dim, index, include_self)
        g = g / scatter_add(members, dim, index, ones_like(src))
    if reduce in ("sum", "mean"):
        return _src_gradient(g, dim, index, like)
    src = _cut(src, index)
    if reduce == "prod":
        made = _product_gradient(g, input, dim, index, src, include_self, out)
    else:
        share, _, theirs = _share(g, input, dim, index, src, out, include_self)
        made = gather(share, dim, index) * theirs
    if tuple(made.shape) == like.shape:
        return made
    return call("slice_put", like.zeros(), made, tuple((0, n, 1) for n in made.shape))


def _product_gradient(
    g: Tensor, input: Tensor, dim: int, index: Tensor, src: Tensor, include_self: bool, out: Tensor
) -> Tensor:
    """The product of the others: by division, or made again without the zero where there is a single one."""
    zero = src == 0
    zeros = gather(scatter_add(zeros_like(input), dim, index, zero.to(input.dtype)), dim, index).detach()
    alone = zero.logical_and(zeros == 1)
    without = scatter_reduce(input, dim, index, src.masked_fill(alone, 1), "prod", include_self=include_self)
    divided = gather(g * out, dim, index) / src.masked_fill(zero, 1)
    return _once(call("where", alone, gather(g * without, dim, index), divided), zeros > 1)


@op(
    input=lambda g, several: call("where", several, float("nan"), g),
    method=False,
    samples=lambda: [(real(3), real(3) > 10)],
)
def _once(input: Value, several: Value) -> Value:
    """A gradient that is right, but whose own is not where `several`: there that is nan, where torch raises."""
    return session.emit("where", several, input, input)  # for each sample that `several` is of


# Ops.
@op(
    input=_input_gradient,
    src=_gradient_of_src,
    inplace=True,
    samples=lambda: [
        (real(3, 4), 0, positions([0, 1, 2, 1], [2, 1, 0, 0]), real(2, 4), "sum"),
        (real(3, 4), 1, positions([3, 3, 1], [1, 2, 1]), real(3, 4, seed=1), "prod"),
        (real(3, 4), 1, positions([3, 3, 1], [1, 2, 1]), real(3, 4, seed=1), "mean"),
        (real(3, 4), -1, positions([3, 3, 1], [1, 2, 1]), real(3, 4, seed=1), "amax"),
        (real(4), 0, positions(1, 1, 3), real(3, seed=2), "amin", {"include_self": False}),
        (real(4), 0, positions(1, 1, 3), real(3, seed=2), "mean", {"include_self": False}),
        (real(4), 0, positions(1, 1, 3), real(3, seed=2), "prod", {"include_self": False}),
    ],
)
def scatter_reduce(
    input: Value, dim: int, index: Value, src: Value, reduce: str, *, include_self: bool = True
) -> Value:
    """`input`, with src[i][j][k] reduced into place [i][index[i][j][k]][k] for `dim` 1, and so on.

    `reduce` is "sum", "prod", "mean", "amax" or "amin". With `include_self` what stood in a place counts too.
    """
    dim = normal_dim(dim, len(input.shape))
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise RuntimeError(f"reduce argument must be either sum, prod, mean, amax or amin, got {reduce}")
    index = _index_of("scatter", index, "int32/int64")
    if src.dtype != input.dtype:
        raise RuntimeError("scatter(): Expected self.dtype to be equal to src.dtype")
    if input.dtype == BOOL and reduce == "mean":
        raise NotImplementedError("\"scatter_gather_tensor_cpu_reduce_mean\" not implemented for 'Bool'")
    if 0 in index.shape:
        return input
    _check_shapes("self", input, index, dim, src)
    base, index = _lifted(input), _lifted(index)
    check_inside(index, dim, base.shape[dim])
    made = _reduced(base, index, part(_lifted(src), index.shape), dim, reduce, bool(include_self))
    return _like_shape(padded(base, made), input.shape)


def _spread(index: Tensor, source: Tensor, dim: int) -> Tensor:
    """A list of positions along `dim` as one for each element of `source`."""
    n = source.dim()
    shape = tuple(index.numel() if d == dim % max(n, 1) else 1 for d in range(n))
    return index.long().reshape(shape).expand(tuple(source.shape))


def _of_list(formula: Callable[..., Any]) -> Callable[..., Any]:
    """The formula of `scatter_reduce` for a list of positions."""

    def gradient(
        g: Tensor,
        input: Tensor,
        dim: int,
        index: Tensor,
        source: Tensor,
        reduce: str,
        include_self: bool,
        like: Any,
        out: Tensor,
    ) -> Any:
        if source.numel() == 0:
            return g if formula is _input_gradient else like.zeros()
        more = (like, out) if formula is _gradient_of_src else (out,)
        return formula(g, input, dim, _spread(index, source, dim), source, reduce, include_self, *more)

    return gradient


@op(
    input=_of_list(_input_gradient),
    source=_of_list(_gradient_of_src),
    inplace=True,
    samples=lambda: [
        (real(3, 4), 0, positions(2, 0, 2), real(3, 4, seed=1), "prod"),
        (real(3, 4), 1, positions(3, 3), real(3, 2), "mean"),
        (real(3, 4), 1, positions(3, 3), real(3, 2), "amax", {"include_self": False}),
        (real(4), -1, positions(1, 1), real(2), "amin"),
    ],
)
def index_reduce(
    input: Value, dim: int, index: Value, source: Value, reduce: str, *, include_self: bool = True
) -> Value:
    """`input` with the slices of `source` reduced into the positions `index` along `dim`: see `scatter_reduce`."""
    dim = normal_dim(dim, len(input.shape))
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise RuntimeError(
            f"index_reduce(): Expected reduce to be one of prod, mean, amax or amin but got {reduce}."
        )
    if index.dtype.kind != "i":
        raise RuntimeError(
            f"index_reduce_(): Expected dtype int32/int64 for index but got: {title(index.dtype)}"
        )
    if len(index.shape) > 1:
        raise IndexError(
            f"index_reduce_(): Index is supposed to be a vector, but got dim: {len(index.shape)} with type: "
            f"{title(index.dtype)} and size: {list(index.shape)}"
        )
    if source.dtype != input.dtype:
        kinds = f"self ({title(input.dtype)}) and source ({title(source.dtype)})"
        raise RuntimeError(f"index_reduce_(): {kinds} must have the same scalar type")
    base, src, index = _lifted(input), _lifted(source), _lifted(cast(index, INT64))
    _check_slices(
        "source tensor shape must match self tensor shape, excluding the specified dimension.", base, src, dim
    )
    if index.shape[0] != src.shape[dim]:
        counts = (
            f"Number of indices ({index.shape[0]}) should be equal to source.size(dim): ({src.shape[dim]})"
        )
        raise RuntimeError(f"index_reduce_(): {counts}, for dim: {dim}")
    if first_outside(index, 0, base.shape[dim]) is not None:
        raise IndexError("index out of range in self")
    if 0 in src.shape:
        return input
    wide = session.emit("expand_dims", index, dims=tuple(d for d in range(len(src.shape)) if d != dim))
    made = _reduced(base, broadcast_to(wide, src.shape), src, dim, reduce, bool(include_self))
    return _like_shape(padded(base, made), input.shape)


def _warned(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, with torch's warning."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        warnings.warn(BETA, stacklevel=2)
        return function(*args, **kwargs)

    return call


REDUCTIONS = {"add": "sum", "multiply": "prod"}


def _scattering(plain: Callable[..., Tensor], reducing: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def scatter(
        input: Tensor,
        dim: int,
        index: Tensor,
        src: Any = None,
        *,
        value: Any = None,
        reduce: str | None = None,
        out: Any = None,
    ) -> Tensor:
        """`input` with out[i][index[i][j][k]][k] = src[i][j][k] for `dim` 1, and so on; `src` may be a number.

        Of several writes to one place the last counts. With `reduce` "add" or "multiply" all count: see
        `scatter_reduce`. Unlike torch's these have gradients.
        """
        more = {} if out is None else {"out": out}
        if reduce is None:
            named = {} if value is None else {"value": value}
            return plain(input, dim, index, *(() if src is None else (src,)), **named, **more)
        if reduce not in REDUCTIONS:
            raise RuntimeError("reduce argument must be either add or multiply.")
        src = value if src is None else src
        if isinstance(src, Tensor):
            warnings.warn(OLD, stacklevel=2)
        else:
            src = full(tuple(index.shape), src, dtype=input.dtype)
        return reducing(input, dim, index, src, REDUCTIONS[reduce], **more)

    return scatter


index_reduce = _warned(index_reduce)
attach(index_reduce=index_reduce, index_reduce_=_warned(Tensor.index_reduce_))  # type: ignore[attr-defined]
scatter = _scattering(gathering.scatter, scatter_reduce)
attach(scatter=scatter, scatter_=_scattering(Tensor.scatter_, Tensor.scatter_reduce_))  # type: ignore[attr-defined]
