"""Reductions made of sums: var and std, norms, logsumexp, and sums that leave nan out."""

from __future__ import annotations

import math
import types
import warnings
from typing import Any

from distgrad import session
from distgrad.dtype import INT64, NAMES, OF_NUMPY, default_numpy, dtype
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
    normal_dims,
    op,
    reduce,
)
from distgrad.ops.reductions import _reductions, _shared, kept, numpy_names
from distgrad.ops.samples import real
from distgrad.ops.sums import mean, spread, sum

__all__ = ["linalg", "logsumexp", "nanmean", "nansum", "norm", "std", "std_mean", "var", "var_mean"]

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


def _variance(name: str, input: Value, dim: Any, unbiased: Any, keepdim: bool, correction: Any) -> Value:
    dim, correction = _moments(dim, unbiased, correction)
    if input.dtype.kind != "f":
        raise RuntimeError("std and var only support floating point and complex dtypes")
    n = _count(input.shape, dim)
    if n <= correction:
        warnings.warn(
            f"{name}(): degrees of freedom is <= 0. Correction should be strictly less than the reduction factor "
            "(input numel divided by output numel).",
            stacklevel=2,
        )
    total = reduce("sum", input, dim, True, dtype=NAMES[input.dtype])
    centred = session.emit("subtract", input, session.emit("divide", total, constant(n, input.dtype)))
    squares = reduce("sum", session.emit("square", centred), dim, keepdim, dtype=NAMES[input.dtype])
    return session.emit("divide", squares, constant(0 if n <= correction else n - correction, input.dtype))


def _var_input(g: Tensor, input: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any) -> Tensor:
    """2 g (x - mean) / (n - correction)."""
    dim, correction = _moments(dim, unbiased, correction)
    free = _count(tuple(input.shape), dim) - correction
    centred = input - mean(input, dim, True)
    g = kept(g, dim, keepdim, input.dim())
    if free <= 0 and len(normal_dims(dim, input.dim())) == input.dim():
        return g * call("where", centred == 0, float("nan"), INF)
    return (2 / free if free else INF) * g * centred


def _std_input(
    g: Tensor, input: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any, out: Tensor
) -> Tensor:
    """d sqrt(v) = dv / (2 sqrt(v)), and 0 where v is 0."""
    return _var_input(call("where", out == 0, 0.0, g / (out * 2)), input, dim, unbiased, keepdim, correction)


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
    return _variance("var", input, dim, unbiased, keepdim, correction)


@op(input=_std_input, samples=_spreads)
def std(
    input: Value, dim: Dims = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Value:
    """Standard deviation along `dim`: the square root of `var`."""
    return session.emit("sqrt", _variance("std", input, dim, unbiased, keepdim, correction))


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
        if 0 in (input.shape[d] for d in normal_dims(dim, len(input.shape))):
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
        return session.emit("sqrt", reduce("sum", session.emit("square", input), dim, keepdim, dtype=name))
    total = reduce("sum", session.emit("power", size, constant(p, input.dtype)), dim, keepdim, dtype=name)
    return session.emit("power", total, constant(1 / p, input.dtype))


def _norm_input(g: Tensor, input: Tensor, p: Any, dim: Dims, keepdim: bool, out: Tensor) -> Tensor:
    """g sign(x) |x|^(p-1) / norm^(p-1), and 0 where the norm is 0."""
    ndim, p = input.dim(), _order(p)
    g, norm = kept(g, dim, keepdim, ndim), kept(out, dim, keepdim, ndim)
    if p == 0:
        return input.new_zeros(tuple(input.shape)) * g
    if p == 1:
        return g * call("sign", input)
    if p == 2:
        return g * call("where", norm == 0, 0.0, input / norm)
    if p in (INF, -INF):
        size = call("abs", input)
        return _shared(g, size, dim, True, norm) * call("sign", input)
    if p < 1:
        powers = call("where", input == 0, 0.0, call("sign", input) * call("abs", input) ** (p - 1))
        return powers * (g * norm ** (1 - p))
    powers = (
        call("sign", input) * call("abs", input) ** (p - 1)
        if p < 2
        else input * call("abs", input) ** (p - 2)
    )
    return powers * call("where", norm == 0, 0.0, g / norm ** (p - 1))


def _order(p: Any) -> float:
    if p is None or p == "fro":
        return 2.0
    if isinstance(p, str):
        raise RuntimeError(f"linalg.matrix_norm: Order {p} not supported.")
    return float(p)


def _norms() -> list[Any]:
    several = [(real(2, 3), p, 1) for p in (0, 1, 2, 3, 1.5, 0.5, INF, -INF)]
    return [(real(2, 3),), (real(2, 3), "fro", (0, 1)), (real(2, 3), 2, -1, True), (real(), 3), *several]


@op(name="LinalgVectorNormBackward0", input=_norm_input, samples=_norms)
def norm(
    input: Value, p: Any = "fro", dim: Dims = None, keepdim: bool = False, dtype: dtype | None = None
) -> Value:
    """(sum |x|**p) ** (1/p) along `dim`.

    "fro" is 2; inf and -inf give the largest and the smallest |x|, 0 how many elements are not 0.
    """
    return _vector_norm(input if dtype is None else cast(input, dtype.numpy), _order(p), dim, keepdim)


@numpy_names
def _linalg_norm(
    A: Tensor, ord: Any = None, dim: Dims = None, keepdim: bool = False, *, dtype: dtype | None = None
) -> Tensor:
    """`norm` of a vector; of a matrix (or two dimensions) for `ord` None or "fro" only."""
    is_matrix = len(dim) == 2 if isinstance(dim, (tuple, list)) else dim is None and A.dim() == 2
    if ord not in (None, "fro") and is_matrix:
        raise NotImplementedError(f"linalg.norm: order {ord} of a matrix is not supported")
    return norm(A, 2 if ord is None else ord, dim, keepdim, dtype)


@numpy_names
def _linalg_vector_norm(
    x: Tensor, ord: Any = 2, dim: Dims = None, keepdim: bool = False, *, dtype: dtype | None = None
) -> Tensor:
    """`norm` of the elements along `dim`, whatever the number of dimensions."""
    return norm(x, ord, dim, keepdim, dtype)


linalg = types.SimpleNamespace(norm=_linalg_norm, vector_norm=_linalg_vector_norm)


# Sums of exponentials, and sums without nan.
def _logsumexp_input(g: Tensor, input: Tensor, dim: Dims, keepdim: bool, out: Tensor) -> Tensor:
    """g exp(x - out): the softmax."""
    ndim = input.dim()
    return kept(g, dim, keepdim, ndim) * call("exp", input - kept(out, dim, keepdim, ndim))


@op(
    input=_logsumexp_input,
    samples=lambda: [(real(2, 3), 0), (real(2, 3), (0, 1)), (real(2, 3, 2), -1, True), (real(), 0)],
)
def logsumexp(input: Value, dim: Dims, keepdim: bool = False) -> Value:
    """log(sum(exp(x))) along `dim`, with the largest element taken out first, so that nothing overflows."""
    x = floating(input)
    top = reduce("amax", x, dim, True)
    infinite = session.emit("equal", session.emit("absolute", top), constant(INF, x.dtype))
    top = session.emit("where", infinite, constant(0, x.dtype), top)
    powers = session.emit("exp", session.emit("subtract", x, top))
    total = session.emit("log", reduce("sum", powers, dim, True, dtype=NAMES[x.dtype]))
    total = session.emit("add", total, top)
    dims = normal_dims(dim, len(x.shape))
    return total if keepdim or not dims else session.emit("squeeze_dims", total, dims=dims)


def _nansum_input(g: Tensor, input: Tensor, dim: Dims, keepdim: bool, like: Like) -> Tensor:
    return call("where", call("isnan", input), 0.0, spread(g, dim, keepdim, like))


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
