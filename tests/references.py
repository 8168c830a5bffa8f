"""What each op gives, written anew in NumPy: from the op's name to a function of arrays in place of tensors.

The arguments are those of the op, in order and by name. Nothing here is shared with distgrad. float64 in, float64 out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special, stats

Array = np.ndarray
REFERENCES: dict[str, Callable[..., Any]] = {}

# Ops that have none, each with the reason.
NO_REFERENCE: dict[str, str] = {}


def reference(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            assert name not in REFERENCES, name
            REFERENCES[name] = function
        return function

    return enter


def same(**functions: Callable[..., Any]) -> None:
    for name, function in functions.items():
        reference(name)(function)


def numpys(names: str) -> dict[str, Callable[..., Any]]:
    """NumPy's functions of these names."""
    return {name: getattr(np, name) for name in names.split()}


# Element by element.
same(**numpys(
    "exp expm1 log log1p log2 log10 sqrt square abs sign positive sin cos tan sinh cosh tanh floor ceil trunc isnan "
    "isinf isfinite logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not "
    "maximum minimum fmod remainder floor_divide nan_to_num isclose"
))  # fmt: skip
same(
    add=lambda a, b, alpha=1: a + alpha * b,
    sub=lambda a, b, alpha=1: a - alpha * b,
    rsub=lambda a, b, alpha=1: b - alpha * a,
    _rsub_scalar=lambda a, b, alpha=1: b - alpha * a,
    mul=np.multiply,
    neg=np.negative,
    bitwise_left_shift=lambda a, b: np.vectorize(shifted, [np.int64])(a, b),
    bitwise_right_shift=lambda a, b: np.vectorize(lambda a, b: int(a) >> min(int(b), 64), [np.int64])(a, b),
    pow=lambda a, b: power(np.asarray(a), np.asarray(b)),
    rsqrt=lambda x: x**-0.5,
    reciprocal=lambda x: 1 / x,
    sgn=np.sign,
    asin=np.arcsin,
    acos=np.arccos,
    atan=np.arctan,
    asinh=np.arcsinh,
    acosh=np.arccosh,
    atanh=np.arctanh,
    atan2=np.arctan2,
    frac=lambda x: x - np.trunc(x),
    round=lambda x, decimals=0: np.round(x, decimals),
    eq=np.equal,
    ne=np.not_equal,
    lt=np.less,
    le=np.less_equal,
    gt=np.greater,
    ge=np.greater_equal,
    where=np.where,
    _where=np.where,
    allclose=np.allclose,
    equal=np.array_equal,
    sigmoid=special.expit,
    erf=special.erf,
    erfc=special.erfc,
    lgamma=special.gammaln,
    digamma=special.psi,
    polygamma=special.polygamma,
    mvlgamma=lambda x, p: np.vectorize(lambda a: special.multigammaln(a, p), ["float64"])(x),
    gammainc=special.gammainc,
    gammaincc=special.gammaincc,
    zeta=special.zeta,
    erfinv=special.erfinv,
    erfcx=lambda x: np.exp(x**2) * special.erfc(x),
    ndtr=stats.norm.cdf,
    ndtri=stats.norm.ppf,
    log_ndtr=stats.norm.logcdf,
    xlogy=lambda x, y: x * np.log(y),
    xlog1py=lambda x, y: x * np.log1p(y),
    entr=lambda x: -x * np.log(x),
    logaddexp=lambda x, y: np.log(np.exp(x) + np.exp(y)),
    logaddexp2=lambda x, y: np.log2(np.exp2(x) + np.exp2(y)),
    i0=lambda x: special.iv(0, x),
    i0e=lambda x: special.ive(0, x),
    i1=lambda x: special.iv(1, x),
    i1e=lambda x: special.ive(1, x),
    _gamma_quantile=lambda a, u: stats.gamma.ppf(u, a),
    _gamma_slope=lambda a, u: slope(lambda a: stats.gamma.ppf(u, a), a),
    _beta_quantile=lambda a, b, u: stats.beta.ppf(u, a, b),
    _beta_slope=lambda a, b, u: slope(lambda a: stats.beta.ppf(u, a, b), a),
    _poisson_quantile=lambda rate, u: stats.poisson.ppf(u, rate),
    _binomial_quantile=lambda n, p, u: stats.binom.ppf(u, n, p),
    logit=lambda x, eps=0.0: special.logit(np.clip(x, eps, 1 - eps)),
    relu=lambda x: np.where(x > 0, x, 0),
    clamp=lambda x, min=None, max=None: np.clip(x, min, max),
    clamp_min=np.maximum,
    clamp_max=np.minimum,
    lerp=lambda a, b, weight: a + weight * (b - a),
    addcmul=lambda x, a, b, value=1: x + np.asarray(value).astype(x.dtype) * a * b,
    addcdiv=lambda x, a, b, value=1: x + value * a / b,
    divided=np.divide,
)


def slope(f: Callable[[Array], Array], a: Array) -> Array:
    """The derivative, by Richardson's extrapolation of central differences."""
    steps = [(f(a + h) - f(a - h)) / (2 * h) for h in (1e-2, 5e-3, 2.5e-3)]
    better = [(4 * steps[i + 1] - steps[i]) / 3 for i in (0, 1)]
    return (16 * better[1] - better[0]) / 15


def shifted(a: Any, b: Any) -> int:
    """a * 2**b, of which 64 bits are kept."""
    bits = (int(a) << int(b)) % 2**64
    return bits - 2**64 if bits >= 2**63 else bits


def power(a: Array, b: Array) -> Array:
    if np.result_type(a, b).kind == "i" and (b < 0).any():  # then as torch has it: 1 / a, cut off
        return np.trunc(a.astype(float) ** b).astype(int)
    return np.power(a, b)


@reference("div")
def _(a: Any, b: Any, rounding_mode: str | None = None) -> Array:
    return {None: np.divide, "floor": np.floor_divide, "trunc": lambda a, b: np.trunc(a / b)}[rounding_mode](
        a, b
    )


# Copies and conversions.
same(
    clone=np.copy,
    _own=np.copy,
    contiguous=np.copy,
    reshard=lambda x, sharding: x,
    _reshard=lambda x, cuts: x,
    copy=lambda x, src: np.broadcast_to(src, x.shape).astype(x.dtype),
    fill=lambda x, value: np.full_like(x, value),
    zero=np.zeros_like,
    _to_copy=lambda x, dtype: x.astype(dtype.numpy),
    to=lambda x, *args: next((x.astype(a.numpy) for a in args if hasattr(a, "numpy")), x),
)


# Reductions.
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


@reference("_drawn_from")
def _(input: Array, drawn: Array, node: str) -> Array:
    return drawn
