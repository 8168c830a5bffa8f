"""Reductions along one dimension, several, or all: prod, extremes and where they are, all, any, count_nonzero.

`sum` and `mean` are in `sums.py`, `var`, norms and `logsumexp` in `norms.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from distgrad import session
from distgrad.dtype import BOOL, FLOAT64, INT64, NAMES, dtype, float64
from distgrad.ops.base import (
    Dims,
    Ints,
    Like,
    Tensor,
    Value,
    call,
    cast,
    composite,
    constant,
    normal_dim,
    normal_dims,
    op,
    reduce,
)
from distgrad.ops.declaration import named_tuple
from distgrad.ops.helpers import hint
from distgrad.ops.parameters import NUMPY_NAMES
from distgrad.ops.samples import flags, positive, real
from distgrad.ops.sums import _spread, sum
from distgrad.sharding import Sharding

__all__ = [
    "all",
    "amax",
    "amin",
    "aminmax",
    "any",
    "argmax",
    "argmin",
    "count_nonzero",
    "max",
    "min",
    "prod",
]


# What reductions share.
def numpy_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a composite take `axis` for `dim` and `keepdims` for `keepdim`, as all ops do."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(
            *args,
            **{NUMPY_NAMES.get(name, name) if name != "x" else name: item for name, item in kwargs.items()},
        )

    return call


def kept(t: Tensor, dim: Dims, keepdim: bool, ndim: int) -> Tensor:
    """A reduction's result, or its gradient, with the reduced dimensions back at length 1."""
    if keepdim or t.dim() == ndim:
        return t
    dims = normal_dims(dim, ndim)
    rest = iter(t.shape)
    return _spread(t, dims, tuple(1 if d in dims else next(rest) for d in range(ndim)))


def positions(shape: Ints, dim: int, cuts: Sharding | None) -> Value:
    """int64 positions along `dim`, cut as told."""
    return session.emit("iota", shape=shape, dim=dim, cuts=hint(cuts, INT64))


def at_index(g: Tensor, index: Tensor, dim: int, keepdim: bool, like: Like) -> Tensor:
    """Zeros like the argument, with `g` at `index` along `dim`: the gradient of picking one element of each row."""
    if not like.ndim:
        return g
    index, g = kept(index, dim, keepdim, like.ndim), kept(g, dim, keepdim, like.ndim)
    here = Tensor(positions(like.shape, normal_dim(dim, like.ndim), like.sharding)) == index
    return call("where", here, g, 0.0)


def check_not_empty(name: str, shape: Ints, dim: Dims) -> None:
    """torch's errors for reductions that have no result for no elements."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        if 0 in shape:
            finding = name.startswith("arg")
            hint_ = "" if finding else " Specify the reduction dim with the 'dim' argument."
            raise (IndexError if finding else RuntimeError)(
                f"{name}(): Expected reduction dim to be specified for input.numel() == 0.{hint_}"
            )
        return
    for d in normal_dims(dim, len(shape)):
        if shape[d] == 0:
            raise IndexError(f"{name}(): Expected reduction dim {d} to have non-zero size.")


def _reductions() -> list[Any]:
    return [(real(2, 3),), (real(2, 3), 0), (real(2, 3), -1, True), (real(2, 3, 2), (0, 2)), (real(),)]


# Products.
def _prod_input(g: Tensor, input: Tensor, dim: Dims, keepdim: bool, like: Like) -> Tensor:
    """The product of the others, in float64. Those before and those after are multiplied, so nothing is divided by.

    Along a dimension that is cut the product is divided by the element, so that all stays where it is.
    """
    dims = normal_dims(dim, like.ndim)
    g = kept(g, dim, keepdim, like.ndim)
    if not dims:
        return g
    if not input.numel():
        return like.zeros()
    input = input if input.dtype is float64 else call("_to_copy", input, float64)
    if not set(dims).isdisjoint(like.sharding.cut_dims):
        return g * _others_by_division(input, dims)
    rest = tuple(d for d in range(like.ndim) if d not in dims)
    order = rest + dims
    turned = call("permute", input, order)
    flat = call("reshape", turned, (*(like.shape[d] for d in rest), -1))
    after = call("flip", _before(call("flip", flat, (-1,)), -1), (-1,))
    others = call("reshape", _before(flat, -1) * after, tuple(turned.shape))
    return g * call("permute", others, tuple(order.index(d) for d in range(like.ndim)))


def _before(x: Tensor, dim: int) -> Tensor:
    """The product of the elements before each one along `dim`."""
    return call("cumprod", moved(x, dim, 1.0), dim)


def moved(x: Tensor, dim: int, first: float) -> Tensor:
    """Each element one place on along `dim`: `first` comes in, the last goes out."""
    shape = [1 if d == dim % x.dim() else n for d, n in enumerate(x.shape)]
    rest = call("narrow", x, dim, 0, x.shape[dim] - 1)
    return call("cat", [x.new_full(shape, first), rest], dim)


def _others_by_division(input: Tensor, dims: Ints) -> Tensor:
    """p / x, where p is the product of all that are not zero, times what zeros do.

    With one zero all other elements have gradient 0; but its second derivative is not 0, hence the factor `zero`:
    the product of the zeros among the others, which is 1 where there are none, and right to its own first derivative.
    """
    is_zero = input == 0
    safe = call("where", is_zero, 1.0, input)
    others = sum(is_zero, dims, True) - is_zero.long()
    zeros = call("where", is_zero, input, 0.0)
    one = sum(zeros, dims, True) - zeros
    zero = call("where", others == 0, 1.0, call("where", others == 1, one, 0.0))
    return prod(safe, dims, True) / safe * zero


@op(
    name=lambda input, dim, keepdim, dtype: "ProdBackward0" if dim is None else "ProdBackward1",
    input=_prod_input,
    samples=lambda: [
        (positive(2, 3),),
        (positive(2, 3), 0),
        (positive(2, 3), -1, True),
        (positive(3, 2, 2), (0, 2)),
        (real(),),
    ],
)
def prod(input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: dtype | None = None) -> Value:
    """Product along `dim`. Integers and bools are multiplied as int64, float32 as float64: errors add up else."""
    target = dtype.numpy if dtype is not None else input.dtype if input.dtype.kind == "f" else INT64
    within = FLOAT64 if target.kind == "f" else target
    return cast(reduce("prod", input, dim, keepdim, dtype=NAMES[within]), target)


# Extremes.
def _shared(g: Tensor, input: Tensor, dim: Dims, keepdim: bool, out: Tensor) -> Tensor:
    """Equal extremes share the gradient evenly. No element equals nan: where one is, 0 is divided by 0, as in torch."""
    ndim = input.dim()
    hit = input == kept(out, dim, keepdim, ndim)
    count = sum(hit, dim, True) if ndim else hit.long()
    none = call("where", count == 0, math.nan, 0.0)
    return call("where", hit, kept(g, dim, keepdim, ndim) / count, none)


def shared_with_nan(g: Tensor, input: Tensor, dim: Dims, out: Tensor) -> Tensor:
    """The same where each nan counts as an extreme; g and `out` have the reduced dimensions."""
    hit = (input == out) | call("isnan", input)
    return call("where", hit, g / (sum(hit, dim, True) if input.dim() else 1), 0.0)


def _shared_by_all(g: Tensor, input: Tensor, out: Tensor) -> Tensor:
    return shared_with_nan(g, input, None, out)


@op(input=_shared, samples=_reductions)
def amax(input: Value, dim: Dims = (), keepdim: bool = False) -> Value:
    """The largest element along `dim`. Equal ones share the gradient evenly."""
    check_not_empty("amax", input.shape, dim)
    return reduce("amax", input, dim, keepdim)


@op(input=_shared, samples=_reductions)
def amin(input: Value, dim: Dims = (), keepdim: bool = False) -> Value:
    """The smallest element along `dim`. Equal ones share the gradient evenly."""
    check_not_empty("amin", input.shape, dim)
    return reduce("amin", input, dim, keepdim)


@op(name="MaxBackward1", input=_shared_by_all, method=False, samples=lambda: [real(2, 3), real()])
def _max_whole(input: Value) -> Value:
    check_not_empty("max", input.shape, None)
    return reduce("amax", input, None)


@op(name="MinBackward1", input=_shared_by_all, method=False, samples=lambda: [real(2, 3), real()])
def _min_whole(input: Value) -> Value:
    check_not_empty("min", input.shape, None)
    return reduce("amin", input, None)


def _at_indices(g: Tensor, dim: int, keepdim: bool, out: Any, like: Like) -> Tensor:
    return at_index(g, out[1], dim, keepdim, like)


def _rows() -> list[Any]:
    return [(real(2, 3), 0), (real(2, 3), -1, True), (real(2, 3, 2), 1), (real(), 0)]


@op(name="MaxBackward0", input=_at_indices, method=False, samples=_rows)
def _max_dim(input: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    check_not_empty("max", input.shape, dim)
    return reduce("amax", input, dim, keepdim), _find("amax", input, dim, keepdim)


@op(name="MinBackward0", input=_at_indices, method=False, samples=_rows)
def _min_dim(input: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    check_not_empty("min", input.shape, dim)
    return reduce("amin", input, dim, keepdim), _find("amin", input, dim, keepdim)


_Max, _Min = named_tuple("max", ("values", "indices")), named_tuple("min", ("values", "indices"))


def _forms() -> list[Any]:
    return [(real(2, 3),), (real(2, 3), 1), (real(2, 3), 0, True)]


@composite(samples=_forms)
@numpy_names
def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The largest of all elements; with `dim` (values, indices) along it; with a tensor, the larger of each pair."""
    other = dim if isinstance(dim, Tensor) else other
    if other is not None:
        return call("maximum", input, other)
    return _max_whole(input) if dim is None else _Max(_max_dim(input, _one_dim("max", dim), keepdim))


@composite(samples=_forms)
@numpy_names
def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The smallest of all elements; with `dim` (values, indices) along it; with a tensor, the smaller of each pair."""
    other = dim if isinstance(dim, Tensor) else other
    if other is not None:
        return call("minimum", input, other)
    return _min_whole(input) if dim is None else _Min(_min_dim(input, _one_dim("min", dim), keepdim))


def _one_dim(name: str, dim: Any) -> int:
    if isinstance(dim, (tuple, list)):
        raise TypeError(
            f"{name}() received an invalid combination of arguments - got (tuple): dim must be int"
        )
    return dim


_Aminmax = named_tuple("aminmax", ("min", "max"))


@composite(samples=lambda: [(real(2, 3),), (real(2, 3), {"dim": 1, "keepdim": True})])
@numpy_names
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """(smallest, largest) of all elements or along `dim`."""
    dims = () if dim is None else dim
    return _Aminmax((amin(input, dims, keepdim), amax(input, dims, keepdim)))


# Where the extremes are.
def _find(extreme: str, input: Value, dim: int | None, keepdim: bool) -> Value:
    """Where the first extreme (or nan) is: along `dim`, or in the flattened tensor.

    Along a dimension that is cut, or in all of a cut tensor, the first of all positions at which the extreme stands:
    so only extremes travel between the workers.
    """
    shape, ndim = input.shape, len(input.shape)
    if not ndim:
        return constant(0, INT64)
    dims = tuple(range(ndim)) if dim is None else (normal_dim(dim, ndim),)
    if not set(dims) & set(input.sharding.cut_dims):
        if dim is None:
            found = session.emit("reshape", input, shape=(math.prod(shape),))
            found = session.emit("arg" + extreme[1:], found, dim=0, keepdim=False)
            return session.emit("reshape", found, shape=(1,) * ndim) if keepdim else found
        return session.emit("arg" + extreme[1:], input, dim=dims[0], keepdim=bool(keepdim))
    hit = session.emit("equal", input, session.emit(extreme, input, dims=dims, keepdim=True))
    if input.dtype.kind == "f":
        hit = session.emit("logical_or", hit, session.emit("isnan", input))
    place = constant(0, INT64)
    for d in dims:
        stride = math.prod(shape[d + 1 :]) if dim is None else 1
        along = positions(shape, d, input.sharding)
        along = along if stride == 1 else session.emit("multiply", along, constant(stride, INT64))
        place = along if d == dims[0] else session.emit("add", place, along)
    place = session.emit("where", hit, place, constant(math.prod(shape[d] for d in dims), INT64))
    return session.emit("amin", place, dims=dims, keepdim=bool(keepdim))


@op(samples=_forms)
def argmax(input: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    """The position of the first largest element: in the flattened tensor, or along `dim`."""
    return _argument("argmax", "amax", input, dim, keepdim)


@op(samples=_forms)
def argmin(input: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    """The position of the first smallest element: in the flattened tensor, or along `dim`."""
    return _argument("argmin", "amin", input, dim, keepdim)


def _argument(name: str, extreme: str, input: Value, dim: Any, keepdim: bool) -> Value:
    if dim is not None and not isinstance(dim, int):
        raise TypeError(f"{name}(): argument 'dim' (position 2) must be int, not {type(dim).__name__}")
    if input.dtype == BOOL:
        raise RuntimeError(f"{name}(): does not support bool input")
    check_not_empty(name, input.shape, dim)
    return _find(extreme, input, dim, keepdim)


# Yes and no.
def _truth(primitive: str, input: Value, dim: Dims, keepdim: bool) -> Value:
    """Along no dimension at all: whether each element is nonzero. `sum` and its like take `()` for all of them."""
    if isinstance(dim, (tuple, list)) and not dim:
        return input if input.dtype == BOOL else session.emit("not_equal", input, constant(0, input.dtype))
    return reduce(primitive, input, dim, keepdim)


def _truths() -> list[Any]:
    return [(flags(2, 3),), (flags(2, 3), 0), (real(2, 3), (0, 1), True), (flags(2, 3), ()), (real(2, 3), [])]


@op(samples=_truths)
def all(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    """Whether all elements along `dim` are nonzero."""
    return _truth("all", input, dim, keepdim)


@op(samples=_truths)
def any(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    """Whether any element along `dim` is nonzero."""
    return _truth("any", input, dim, keepdim)


@op(samples=lambda: [(flags(2, 3),), (flags(2, 3), 0), (real(2, 3), (0, 1))])
def count_nonzero(input: Value, dim: Dims = None) -> Value:
    """How many elements along `dim` are not zero."""
    nonzero = input if input.dtype == BOOL else session.emit("not_equal", input, constant(0, input.dtype))
    return reduce("sum", nonzero, dim, dtype="int64")
