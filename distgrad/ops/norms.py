"""Reductions made of sums: var and std, norms, logsumexp, and sums that leave nan out."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import FLOAT64, INT64, NAMES, OF_NUMPY, default_numpy, dtype, float64
from distgrad.ops.base import (
    Dims,
    Ints,
    Like,
    Tensor,
    Value,
    attach,
    call,
    cast,
    composite,
    constant,
    normal_dim,
    normal_dims,
    op,
    reduce,
)
from distgrad.ops.reductions import _reductions, kept, numpy_names, shared_with_nan
from distgrad.ops.samples import real
from distgrad.ops.sums import mean, spread, sum

__all__ = ["logsumexp", "nanmean", "nansum", "renorm", "std", "std_mean", "var", "var_mean"]

INF = float("inf")


def floating(input: Value) -> Value:
    """Integers and bools as the default floating dtype."""
    return input if input.dtype.kind == "f" else cast(input, default_numpy())


def _count(shape: Ints, dim: Dims) -> int:
    return math.prod(shape[d] for d in normal_dims(dim, len(shape)))


# Variance.
def _moments(dim: Any, unbiased: Any, correction: Any) -> tuple[Dims, float]:
    """`dim` and the correction from the ways to say them: `var(False)`, `var(0, False)`, `var(0, correction=0)`."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return dim, correction


def _centred(name: str, input: Value, dim: Dims, correction: float) -> tuple[Value, float]:
    """The elements less their mean, and how many of them are free."""
    if input.dtype.kind != "f":
        raise RuntimeError("std and var only support floating point and complex dtypes")
    n = _count(input.shape, dim)
    if n <= correction:
        warnings.warn(
            f"{name}(): degrees of freedom is <= 0. Correction should be strictly less than the reduction factor "
            "(input numel divided by output numel).",
            stacklevel=2,
        )
    total = reduce("sum", input, dim, True, dtype="float64")
    middle = cast(session.emit("divide", total, constant(n, FLOAT64)), input.dtype)
    return session.emit("subtract", input, middle), max(0, n - correction)


def _less_mean(input: Tensor, dim: Dims) -> Tensor:
    """The elements less their mean, which is worked out in float64: 0 where all are equal, and it does not overflow."""
    middle = mean(input, dim, True, dtype=float64)
    return input - (middle if input.dtype is float64 else call("_to_copy", middle, input.dtype))


def _var_input(g: Tensor, input: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any) -> Tensor:
    """2 g (x - mean) / (n - correction)."""
    dim, correction = _moments(dim, unbiased, correction)
    free = _count(tuple(input.shape), dim) - correction
    centred = _less_mean(input, dim)
    g = kept(g, dim, keepdim, input.dim())
    if free <= 0 and len(normal_dims(dim, input.dim())) == input.dim():
        return g * call("where", centred == 0, float("nan"), INF)
    return (2 / free if free else INF) * g * centred


def _std_input(
    g: Tensor, input: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any, out: Tensor
) -> Tensor:
    """g (x - mean) / ((n - correction) std), and 0 where the deviation is 0."""
    dims, correction = _moments(dim, unbiased, correction)
    free = _count(tuple(input.shape), dims) - correction
    if free <= 0:
        return _var_input(
            call("where", out == 0, 0.0, g / (out * 2)), input, dim, unbiased, keepdim, correction
        )
    g, out = (kept(t, dims, keepdim, input.dim()) for t in (g, out))
    return (g / free) * (_less_mean(input, dims) / _never_zero(out))


def _never_zero(x: Tensor) -> Tensor:
    """`x`, but infinite where it is 0: what is divided by it is 0 there, and so are all derivatives."""
    return call("where", x == 0, INF, x)


def _spreads() -> list[Any]:
    return [
        (real(2, 3),),
        (real(2, 3), 1),
        (real(4, 3), 0, False, True),
        (real(2, 3, 2), (0, 2), {"correction": 0}),
        (real(3), False),
    ]


@op(input=_var_input, samples=_spreads)
def var(
    input: Value, dim: Dims = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Value:
    """Variance along `dim`: the sum of squared distances from the mean over n - `correction` (default 1)."""
    dim, correction = _moments(dim, unbiased, correction)
    centred, free = _centred("var", input, dim, correction)
    squares = reduce("sum", session.emit("square", centred), dim, keepdim, dtype=NAMES[input.dtype])
    return session.emit("divide", squares, constant(free, input.dtype))


@op(input=_std_input, samples=_spreads)
def std(
    input: Value, dim: Dims = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Value:
    """Standard deviation along `dim`: the square root of `var`, also where that is beyond the dtype."""
    dim, correction = _moments(dim, unbiased, correction)
    centred, free = _centred("std", input, dim, correction)
    return _root(centred, dim, keepdim, free)


def _root(x: Value, dim: Dims, keepdim: bool, divisor: float = 1) -> Value:
    """The root of the sum of squares over `divisor`."""
    return session.emit("root_of_squares", reduce("square_sums", x, dim, keepdim), divisor=float(divisor))


def _with_mean(deviation: Any, input: Tensor, dim: Any, args: tuple[Any, ...], more: dict[str, Any]) -> Any:
    keepdim = args[1] if len(args) > 1 else more.get("keepdim", False)
    return deviation(input, dim, *args, **more), mean(input, None if isinstance(dim, bool) else dim, keepdim)


@composite(method=False, samples=lambda: [(real(2, 3),), (real(2, 3), 0)])
@numpy_names
def var_mean(input: Tensor, dim: Any = None, *args: Any, **more: Any) -> Any:
    """(`var`, `mean`)."""
    return _with_mean(var, input, dim, args, more)


@composite(method=False, samples=lambda: [(real(2, 3),), (real(2, 3), 0)])
@numpy_names
def std_mean(input: Tensor, dim: Any = None, *args: Any, **more: Any) -> Any:
    """(`std`, `mean`)."""
    return _with_mean(std, input, dim, args, more)


# Norms.
def _vector_norm(input: Value, p: float, dim: Dims, keepdim: bool) -> Value:
    if input.dtype.kind != "f":
        got = OF_NUMPY[input.dtype].title
        raise RuntimeError(
            f"linalg.vector_norm: Expected a floating point or complex tensor as input. Got {got}"
        )
    name, size = NAMES[input.dtype], session.emit("absolute", input)
    if p in (INF, -INF):
        if _has_none(input.shape, dim):
            which = "inf" if p > 0 else "-inf"
            raise RuntimeError(
                f"linalg.vector_norm cannot compute the {which} norm on an empty tensor because the operation does not "
                "have an identity"
            )
        return reduce("amax" if p > 0 else "amin", size, dim, keepdim)
    if p == 0:
        return reduce(
            "sum",
            cast(session.emit("not_equal", input, constant(0, input.dtype)), input.dtype),
            dim,
            keepdim,
            dtype=name,
        )
    if p == 1:
        return reduce("sum", size, dim, keepdim, dtype=name)
    if p == 2:
        return _root(input, dim, keepdim)
    scale = None if _has_none(input.shape, dim) else _scale(size, p, dim)
    size = size if scale is None else session.emit("divide", size, scale)
    total = reduce("sum", session.emit("power", size, constant(p, input.dtype)), dim, True, dtype=name)
    root = session.emit("power", total, constant(1 / p, input.dtype))
    root = root if scale is None else session.emit("multiply", root, scale)
    dims = normal_dims(dim, len(input.shape))
    return root if keepdim or not dims else session.emit("squeeze_dims", root, dims=dims)


def _scale(size: Value, p: float, dim: Dims) -> Value:
    """What |x| is divided by so that no power overflows: the largest, or the smallest for p < 0, if that is usable."""
    top = reduce("amax" if p > 0 else "amin", size, dim, True)
    usable = session.emit("isfinite", session.emit("reciprocal", top))
    usable = session.emit("logical_and", usable, session.emit("isfinite", top))
    return session.emit("where", usable, top, constant(1, size.dtype))


def _has_none(shape: Ints, dim: Dims) -> bool:
    return 0 in (shape[d] for d in normal_dims(dim, len(shape)))


def _norm_input(g: Tensor, input: Tensor, p: Any, dim: Dims, keepdim: bool, out: Tensor) -> Tensor:
    """g sign(x) |x|^(p-1) / norm^(p-1), and 0 where the norm is 0."""
    ndim, p = input.dim(), _order(p)
    g, norm = kept(g, dim, keepdim, ndim), kept(out, dim, keepdim, ndim)
    if p == 0:
        return input.new_zeros(tuple(input.shape)) * g
    if p == 1:
        return g * call("sign", input)
    if p == 2:
        return g * (input / _never_zero(norm))
    if p in (INF, -INF):
        return shared_with_nan(g, call("abs", input), dim, norm) * call("sign", input)
    if p >= 2:
        ratio = input / _never_zero(norm)
        return g * (ratio * call("abs", ratio) ** (p - 2))
    # The power is not taken of 0, where it or its derivative is infinite.
    none = (input == 0) | (norm == 0)
    size = call("where", none, 1.0, call("abs", input))
    if 0 < p < 1:
        powers = size ** (p - 1) * norm ** (1 - p)
    else:
        powers = (size / _never_zero(norm)) ** (p - 1)
    return g * call("where", none, 0.0, call("sign", input) * powers)


def _order(p: Any) -> float:
    if p is None or p == "fro":
        return 2.0
    if isinstance(p, str):
        raise RuntimeError(f"linalg.matrix_norm: Order {p} not supported.")
    return float(p)


def _norms() -> list[Any]:
    several = [(real(2, 3), p, 1) for p in (0, 1, 2, 3, 1.5, 0.5, INF, -INF)]
    return [(real(2, 3),), (real(2, 3), "fro", (0, 1)), (real(2, 3), 2, -1, True), (real(), 3), *several]


@op(name="LinalgVectorNormBackward0", input=_norm_input, method=False, samples=_norms)
def vector_norm(
    input: Value, p: Any = "fro", dim: Dims = None, keepdim: bool = False, dtype: dtype | None = None
) -> Value:
    """(sum |x|**p) ** (1/p) along `dim`; 0 gives how many elements are not 0. See `norm`."""
    return _vector_norm(input if dtype is None else cast(input, dtype.numpy), _order(p), dim, keepdim)


# Sums of exponentials, and sums without nan.
def _finite_top(x: Value, dim: Dims) -> Value:
    """The largest element along `dim`, which is kept; the largest finite number in the place of an infinite one."""
    most = float(np.finfo(x.dtype).max)
    top = session.emit("maximum", reduce("amax", x, dim, True), constant(-most, x.dtype))
    return session.emit("minimum", top, constant(most, x.dtype))


def _logsumexp_input(g: Tensor, input: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    """g times the softmax: of the steps of the way forward, so that what runs with it makes no exponential anew.

    The gradient does not depend on `top`, which is a constant here.
    """
    ndim = input.dim()
    powers = call("exp", input - Tensor(_finite_top(input._avals, dim)))
    total = sum(powers, dim, True) if ndim else powers
    return powers * (kept(g, dim, keepdim, ndim) / total)


@op(
    input=_logsumexp_input,
    samples=lambda: [(real(2, 3), 0), (real(2, 3), (0, 1)), (real(2, 3, 2), -1, True), (real(), 0)],
)
def logsumexp(input: Value, dim: Dims, keepdim: bool = False) -> Value:
    """log(sum(exp(x))) along `dim`, with the largest element taken out first, so that nothing overflows."""
    x = floating(input)
    top = _finite_top(x, dim)
    powers = session.emit("exp", session.emit("subtract", x, top))
    total = session.emit("log", reduce("sum", powers, dim, True, dtype=NAMES[x.dtype]))
    total = session.emit("add", total, top)
    dims = normal_dims(dim, len(x.shape))
    return total if keepdim or not dims else session.emit("squeeze_dims", total, dims=dims)


def _nansum_input(g: Tensor, input: Tensor, dim: Dims, keepdim: bool, like: Like) -> Tensor:
    return call("where", call("isnan", input), 0.0, spread(g, dim, keepdim, like))


@composite(samples=lambda: [(real(2, 3), 2, 0, 0.7), (real(2, 3), 1, 1, 2.0), (real(2, 2, 2), INF, -1, 0.5)])
def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Each slice along `dim` scaled down so that its p-norm is at most `maxnorm`."""
    if p <= 0:
        raise RuntimeError("renorm: non-positive-norm not supported")
    if maxnorm < 0:
        raise RuntimeError(f"renorm: expected maxnorm to be >= 0 but got {maxnorm:g}")
    if input.dim() < 2:
        raise RuntimeError(f"renorm: input needs at least 2 dimensions, got {input.dim()} dimensions")
    along = normal_dim(dim, input.dim())
    if not input.is_floating_point():
        raise RuntimeError(
            "linalg.vector_norm: Expected a floating point or complex tensor as input. "
            f"Got {input.dtype.title}"
        )
    size = call("norm", input, float(p), tuple(d for d in range(input.dim()) if d != along), True)
    return input * call("where", size > maxnorm, maxnorm / (size + 1e-7), 1.0)


def _renorm_(self: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """`renorm`, written into the tensor."""
    return self.copy_(renorm(self, p, dim, maxnorm))


attach(renorm_=_renorm_)


@op(input=_nansum_input, samples=_reductions)
def nansum(input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: dtype | None = None) -> Value:
    """`sum` with nan counted as 0."""
    target = dtype.numpy if dtype is not None else input.dtype if input.dtype.kind == "f" else INT64
    if input.dtype.kind == "f":
        input = session.emit("where", session.emit("isnan", input), constant(0, input.dtype), input)
    return reduce("sum", input, dim, keepdim, dtype=NAMES[target])


@composite(samples=_reductions)
@numpy_names
def nanmean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: dtype | None = None) -> Tensor:
    """The mean of those elements that are not nan."""
    if not input.is_floating_point():
        raise RuntimeError(
            f"nanmean(): expected input to have floating point or complex dtype but got {input.dtype.title}"
        )
    return nansum(input, dim, keepdim, dtype=dtype) / sum(
        call("logical_not", call("isnan", input)), dim, keepdim
    )
