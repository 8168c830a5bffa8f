"""Element by element: cases of the primitives and, below, references of the ops (see `cases.py`, `references.py`)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from cases import RNG, case, flags, integers, normal, words
from references import Array, numpys, reference, same
from scipy import special, stats

# The primitives.
UFUNCS = words(
    "negative absolute sign exp expm1 log log1p log2 log10 sqrt square reciprocal sin cos tan arcsin arccos arctan "
    "sinh cosh tanh arcsinh arccosh arctanh floor ceil rint trunc logical_not isnan isinf isfinite copy"
)
UNARY: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in UFUNCS},
    "rsqrt": lambda x: x**-0.5,
    "sigmoid": special.expit,
    "log_sigmoid": special.log_expit,
    "relu": lambda x: x * (x > 0),
    "erf": np.vectorize(math.erf, otypes=["float64"]),
    "erfc": np.vectorize(math.erfc, otypes=["float64"]),
    "lgamma": np.vectorize(math.lgamma, otypes=["float64"]),
    "digamma": special.digamma,
}
for _name, _want in UNARY.items():
    for _dtype in ("float32", "float64"):
        case(_name, _want, normal(7, 5, dtype=_dtype))
    case(_name, _want, normal())
for _name in words("negative absolute sign square copy logical_not isnan"):
    case(_name, UNARY[_name], integers(7, 5, dtype="int32"))
case("absolute", np.absolute, flags(7))
case("sign", lambda x: x, flags(7))
for _from, _to in itertools.permutations(("float32", "float64", "int32", "int64", "bool"), 2):
    case("cast", lambda x, to=_to: x.astype(to), normal(4, 3).astype(_from), dtype=_to)
for _beta, _threshold in ((1.0, 20.0), (2.0, 3.0), (-1.5, 20.0)):
    case(
        "softplus",
        lambda x, b=_beta, t=_threshold: np.where(x * b > t, x, np.logaddexp(0, x * b) / b),
        normal(7, 5) * 5,
        beta=_beta,
        threshold=_threshold,
    )
for _name in words("erfinv erfcx ndtr ndtri log_ndtr entr i0 i0e i1 i1e"):
    for _dtype in ("float32", "float64"):
        case(_name, getattr(special, _name), np.abs(normal(7, 5, dtype=_dtype)) % 1)
for _name, _want in {
    **{name: getattr(special, name) for name in words("xlogy xlog1py zeta gammainc gammaincc")},
    "logaddexp": np.logaddexp,
    "logaddexp2": np.logaddexp2,
    "gamma_quantile": lambda a, u: stats.gamma.ppf(u, a),
    "poisson_quantile": lambda rate, u: stats.poisson.ppf(u, rate),
    "gamma_slope": None,  # by the op
}.items():
    case(_name, _want, np.abs(normal(7, 5, dtype="float64")) + 1.1, RNG.random((7, 1)))
BESSEL: dict[str, Callable[..., Any]] = {  # by the functions of any order
    **{
        f"bessel_{k}{n}": lambda x, f=f, n=n: f(n, x)
        for k, f in (("j", special.jv), ("y", special.yv))
        for n in (0, 1)
    },
    **{f"modified_bessel_k{n}": lambda x, n=n: special.kv(n, x) for n in (0, 1)},
    **{f"scaled_modified_bessel_k{n}": lambda x, n=n: special.kve(n, x) for n in (0, 1)},
    "airy_ai": lambda x: np.sqrt(x / 3) / np.pi * special.kv(1 / 3, 2 / 3 * x**1.5),
    "spherical_bessel_j0": lambda x: special.spherical_jn(0, x),
}
for _name, _want in BESSEL.items():
    case(_name, _want, np.abs(normal(7, 5)) + 0.2)
    case(_name, _want, np.abs(normal(40, dtype="float64")) + 0.2)
for _n in (1, 2):
    case("polygamma", lambda x, n=_n: special.polygamma(n, x), np.abs(normal(7, 5)) + 0.2, n=_n)
_ab = np.abs(normal(2, 7, 5, dtype="float64")) + 0.3
case("beta_quantile", lambda a, b, u: stats.beta.ppf(u, a, b), *_ab, RNG.random((7, 5)))
case("beta_slope", None, *_ab, RNG.random((7, 5)))
case(
    "binomial_quantile",
    lambda n, p, u: stats.binom.ppf(u, n, p),
    np.floor(_ab[0] * 9),
    *RNG.random((2, 7, 5)),
)
for _n in range(8):
    case("integer_power", lambda x, n=_n: x**n, normal(6, 3), n=_n)
    case("integer_power", lambda x, n=_n: x**n, integers(6, 3), n=_n)
for _decimals in (-1, 0, 2):
    case("round_decimals", lambda x, n=_decimals: np.round(x, n), normal(6, 3) * 20, decimals=_decimals)

for _name, _want in {"exp2": np.exp2, "signbit": np.signbit, "mantissa": lambda x: np.frexp(x)[0]}.items():
    case(_name, _want, normal(7, 5))
    case(_name, _want, normal(40, dtype="float64"))
case("exponent", lambda x: np.frexp(x)[1], normal(7, 5) * 1000)
case("signbit", np.signbit, integers(7, 5))
for _name in words("copysign fmax fmin nextafter"):
    case(_name, getattr(np, _name), normal(7, 5), normal(5))
    case(_name, getattr(np, _name), normal(7, 1, dtype="float64"), normal(5, dtype="float64"))
for _name in words("gcd lcm"):
    case(_name, getattr(np, _name), integers(7, 5), integers(5))
    case(_name, getattr(np, _name), integers(7, 5, dtype="int32"), integers(7, 1, dtype="int32"))
for _name in words("fmax fmin"):
    case(_name, getattr(np, _name), integers(7, 5), integers(5))

FLOATS = words("add subtract multiply divide arctan2 hypot maximum minimum remainder floor_divide fmod")
COMPARISONS = words("equal not_equal less less_equal greater greater_equal")
LOGICAL = words("logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor")
for _name in FLOATS + COMPARISONS:
    _want = getattr(np, _name)
    case(_name, _want, normal(7, 5), normal(7, 5))
    case(_name, _want, normal(7, 1, dtype="float64"), normal(5, dtype="float64"))
    case(_name, _want, normal(), normal(3, 4, 1))
    if _name not in ("divide", "arctan2", "hypot"):
        case(_name, _want, integers(7, 5), integers(7, 5, low=1))
for _name in COMPARISONS + LOGICAL:
    case(_name, getattr(np, _name), flags(7, 5), flags(5))
for _name in ("left_shift", "right_shift"):
    case(_name, getattr(np, _name), integers(7, 5), integers(5, low=-2, high=70))
    case(_name, getattr(np, _name), integers(7, 5, dtype="int32"), integers(7, 5, high=40, dtype="int32"))
case("power", np.power, np.abs(normal(7, 5)), normal(5))
case("power", np.power, integers(7, 5), integers(7, 5, low=0, high=4))
case("where", np.where, flags(7, 5), normal(7, 5), normal(5))
case("where", np.where, flags(5), integers(7, 1), integers())
_steps = np.arange(35, dtype=np.float32).reshape(7, 5)
for _zero in (np.zeros((), np.float32), np.array(-0.0, np.float32)):
    case("where", np.where, _steps % 3 == 1, _zero, _steps * np.nan)
    case("where", np.where, _steps[:, :1] % 3 == 1, _steps, _zero)


# The ops.
same(**numpys(
    "exp expm1 log log1p log2 log10 sqrt square abs sign positive sin cos tan sinh cosh tanh floor ceil trunc isnan "
    "isinf isfinite logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not "
    "maximum minimum hypot fmod remainder floor_divide nan_to_num isclose "
    "exp2 deg2rad rad2deg signbit copysign isposinf isneginf isreal angle fmax fmin frexp nextafter "
    "gcd lcm sinc"
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
    heaviside=lambda x, values: np.where(x == 0, values, x > 0).astype(x.dtype),
    ldexp=lambda x, n: x * 2.0**n,
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


BESSEL |= {"modified_bessel_i0": special.i0, "modified_bessel_i1": special.i1}
same(**{name: lambda n, f=f: f(n).astype(np.float32) for name, f in BESSEL.items()})  # of integers


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
