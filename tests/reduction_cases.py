"""Reductions: cases of the primitives and, below, references of the ops (see `cases.py`, `references.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from cases import case, flags, integers, normal
from references import Array, numpys, reference, same

# The primitives.
REDUCTIONS = {"sum": np.sum, "prod": np.prod, "amax": np.amax, "amin": np.amin, "any": np.any, "all": np.all}
for _name, _want in REDUCTIONS.items():
    for _shape, _dims in (
        ((7, 5), (0,)), ((7, 5), (1,)), ((7, 5), (0, 1)), ((6, 70), (1,)), ((2, 600), (1,)), ((90, 4), (0,)),
        ((4, 5, 6), (1,)), ((4, 5, 6), (0, 2)), ((4, 5, 6), (1, 2)), ((9,), (0,)), ((7, 5), ()), ((), ()),
    ):  # fmt: skip
        for _keepdim in (False, True):
            _x = flags(*_shape) if _name in ("any", "all") else normal(*_shape)
            _x = 1 + _x / 40 if _name == "prod" else _x  # no product on the way leaves the range of the dtype
            case(
                _name,
                lambda x, f=_want, d=_dims, k=_keepdim: f(x, axis=d, keepdims=k),
                _x,
                dims=_dims,
                keepdim=_keepdim,
                **({"dtype": "float32"} if _name in ("sum", "prod") else {}),
            )
for _dtype in ("int64", "bool", "int32"):
    case("sum", lambda x: x.sum(0), integers(9, 5).astype(_dtype), dims=(0,), keepdim=False, dtype="int64")
case("prod", lambda x: x.prod(1), integers(4, 5), dims=(1,), keepdim=False, dtype="int64")
case("sum", lambda x: x.sum(1), integers(4, 5, dtype="int32"), dims=(1,), keepdim=False, dtype="int32")
case("amax", lambda x: x.max(0), integers(40, 5), dims=(0,), keepdim=False)
case("amin", lambda x: x.min(1), flags(4, 5), dims=(1,), keepdim=False)

for _shape, _dims in (
    ((7, 5), (0,)),
    ((7, 5), (1,)),
    ((4, 5, 6), (0, 2)),
    ((9,), (0,)),
    ((7, 5), ()),
    ((), ()),
):
    for _dtype in ("float32", "float64"):
        case(
            "square_sums",
            lambda x, d=_dims: np.stack([_none := np.zeros_like(x).sum(d), (x * x).sum(d), _none]),
            normal(*_shape, dtype=_dtype),
            dims=_dims,
            keepdim=False,
        )
for _dtype, _up, _down in (("float32", 2.0**100, 2.0**-76), ("float64", 2.0**770, 2.0**-750)):
    _parts = np.array([[0, 0, 0, 8], [2, 18, 0, 1], [5, 0, 50, 3]], _dtype)
    _roots = np.array([1, 3, 5 / _up, 2 / _down])
    case("root_of_squares", lambda x, r=_roots: r, _parts, divisor=2.0)


# The ops.
def axes(x: Array, dim: Any) -> Any:
    """NumPy's `axis` for torch's `dim`: None and () are all dimensions, and a number of 0 dimensions has one."""
    if dim is None or x.ndim == 0 or dim == ():
        return None
    return tuple(dim) if isinstance(dim, (tuple, list)) else dim


def reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    """For op(x, dim, keepdim) from NumPy's function of x, axis and keepdims."""
    return lambda x, dim=None, keepdim=False: function(x, axis=axes(x, dim), keepdims=keepdim)


def truth(function: Callable[..., Any]) -> Callable[..., Any]:
    """For all and any, of which `()` leaves the elements apart."""
    along = reduction(function)
    return lambda x, dim=None, keepdim=False: x != 0 if dim in ((), []) else along(x, dim, keepdim)


same(**{n: reduction(f) for n, f in numpys("sum mean prod amax amin nansum nanmean").items()})
same(all=truth(np.all), any=truth(np.any))
same(
    _max_whole=np.max,
    _min_whole=np.min,
    count_nonzero=lambda x, dim=None: np.sum(x != 0, axis=axes(x, dim)),
    aminmax=lambda x, dim=None, keepdim=False: tuple(
        f(x, axis=axes(x, dim), keepdims=keepdim) for f in (np.min, np.max)
    ),
    logsumexp=reduction(lambda x, axis, keepdims: np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))),
    softmax=lambda x, dim: np.exp(x) / np.exp(x).sum(axes(x, dim), keepdims=True),
    log_softmax=lambda x, dim: x - np.log(np.exp(x).sum(axes(x, dim), keepdims=True)),
    _log_softmax_backward=lambda x, g, dim: (
        g - np.exp(x) / np.exp(x).sum(axes(x, dim), keepdims=True) * g.sum(axes(x, dim), keepdims=True)
    ),
)


def where_is(find: Callable[..., Any]) -> Callable[..., Any]:
    """For argmax and argmin."""
    return lambda x, dim=None, keepdim=False: np.asarray(find(x, axis=axes(x, dim), keepdims=keepdim))


def extreme(value: Callable[..., Any], find: Callable[..., Any]) -> Callable[..., Any]:
    """For max and min: with `dim` value and position."""

    def both(x: Array, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return value(x)
        if isinstance(dim, Array):
            return (np.maximum if value is np.max else np.minimum)(x, dim)
        return reduction(value)(x, dim, keepdim), where_is(find)(x, dim, keepdim)

    return both


same(
    argmax=where_is(np.argmax),
    argmin=where_is(np.argmin),
    max=extreme(np.max, np.argmax),
    min=extreme(np.min, np.argmin),
    _max_dim=extreme(np.max, np.argmax),
    _min_dim=extreme(np.min, np.argmin),
)


@reference("var")
def var(
    x: Array, dim: Any = None, unbiased: Any = None, keepdim: bool = False, correction: Any = None
) -> Array:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    less = correction if correction is not None else 0 if unbiased is False else 1
    return np.var(x, axis=axes(x, dim), ddof=less, keepdims=keepdim)


@reference("norm", "vector_norm")
def _(x: Array, p: Any = "fro", dim: Any = None, keepdim: bool = False) -> Array:
    if p == "nuc":
        return np.linalg.norm(x, p, dim, keepdim)
    p, axis = 2 if p == "fro" else p, axes(x, dim)
    if abs(p) == math.inf:
        return (np.max if p > 0 else np.min)(abs(x), axis=axis, keepdims=keepdim)
    if p == 0:
        return np.sum((x != 0).astype(x.dtype), axis=axis, keepdims=keepdim)
    return np.sum(abs(x) ** p, axis=axis, keepdims=keepdim) ** (1 / p)


same(
    std=lambda *args, **more: np.sqrt(var(*args, **more)),
    var_mean=lambda x, *args: (var(x, *args), np.mean(x, axes(x, *args[:1] or [None]))),
    std_mean=lambda x, *args: (np.sqrt(var(x, *args)), np.mean(x, axes(x, *args[:1] or [None]))),
    sum_to_size=lambda x, *size: sum_to(x, size[0] if isinstance(size[0], tuple) else size),
)


def sum_to(x: Array, size: tuple[int, ...]) -> Array:
    more = x.ndim - len(size)
    ones = tuple(d + more for d, n in enumerate(size) if n == 1)
    return x.sum(axis=(*range(more), *ones), keepdims=True).reshape(size)
