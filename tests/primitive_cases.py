"""Sample inputs for every primitive of the table, each with a reference: and how to run one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, special, stats

from distgrad.primitives import Aval, Place, Primitive
from distgrad.sharding import Cut, Sharding

RNG = np.random.default_rng(0)


class Case(NamedTuple):
    arrays: tuple[np.ndarray, ...]
    attrs: dict[str, Any]
    want: Callable[..., Any] | None  # of the arrays; None where a test below says more


CASES: dict[str, list[Case]] = {}


def case(name: str, want: Callable[..., Any] | None, *arrays: Any, **attrs: Any) -> None:
    CASES.setdefault(name, []).append(Case(tuple(np.asarray(a) for a in arrays), attrs, want))


def normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape) * 2).astype(dtype)


def integers(*shape: int, low: int = -9, high: int = 10, dtype: str = "int64") -> np.ndarray:
    return np.asarray(RNG.integers(low, high, shape)).astype(dtype)


def flags(*shape: int) -> np.ndarray:
    return normal(*shape) > 0


def words(text: str) -> list[str]:
    return text.split()


# Element by element.
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

FLOATS = words("add subtract multiply divide arctan2 maximum minimum remainder floor_divide fmod")
COMPARISONS = words("equal not_equal less less_equal greater greater_equal")
LOGICAL = words("logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor")
for _name in FLOATS + COMPARISONS:
    _want = getattr(np, _name)
    case(_name, _want, normal(7, 5), normal(7, 5))
    case(_name, _want, normal(7, 1, dtype="float64"), normal(5, dtype="float64"))
    case(_name, _want, normal(), normal(3, 4, 1))
    if _name not in ("divide", "arctan2"):
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

# Reductions.
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


case("svd", lambda x: np.linalg.svd(x, full_matrices=False), normal(5, 3))
case("svd", lambda x: np.linalg.svd(x, full_matrices=False), normal(4, 2, 3, dtype="float64"))
case("svd_full", np.linalg.svd, normal(4, 2, 3, dtype="float64"))
_square = normal(4, 3, 3, dtype="float64") + 5 * np.eye(3)
_definite = _square @ _square.mT
case("eigh", np.linalg.eigh, _definite, lower=True)
case("qr", np.linalg.qr, normal(4, 5, 3, dtype="float64"))
case("qr_full", lambda x: np.linalg.qr(x, mode="complete"), normal(4, 5, 3, dtype="float64"))
case("cholesky", np.linalg.cholesky, _definite)
case("inverse", np.linalg.inv, _square)
case("cofactors", lambda x: np.linalg.det(x)[:, None, None] * np.linalg.inv(x).mT, _square)
case(
    "lstsq",
    lambda a, b: (np.linalg.pinv(a) @ b, np.full(4, 3.0), np.linalg.svd(a, compute_uv=False)),
    normal(4, 5, 3, dtype="float64"),
    normal(4, 5, 2, dtype="float64"),
    rcond=1e-12,
)
case("solve", np.linalg.solve, _square, normal(4, 3, 2, dtype="float64"))
_right = normal(4, 3, 2, dtype="float64")
case("solve_triangular", lambda a, b: np.linalg.solve(np.triu(a), b), _square, _right, upper=True, unit=False)
case("expm", linalg.expm, _definite / 20)
case("slogdet", lambda x: tuple(map(np.asarray, np.linalg.slogdet(x))), _square)


def recurrence(a: np.ndarray, b: np.ndarray, dim: int) -> np.ndarray:
    """The sum over j <= i of b[j] and the factors from j + 1 to i."""
    a, b = np.moveaxis(a, dim, 0), np.moveaxis(b, dim, 0)
    rows = [sum(b[j] * a[j + 1 : i + 1].prod(0) for j in range(i + 1)) for i in range(len(a))]
    return np.moveaxis(np.array(rows), 0, dim)


# One dimension whole.
for _name, _want in {"argmax": np.argmax, "argmin": np.argmin}.items():
    for _dim, _keepdim in ((0, False), (1, True), (1, False)):
        case(
            _name,
            lambda x, f=_want, d=_dim, k=_keepdim: f(x, d, keepdims=k),
            normal(6, 5),
            dim=_dim,
            keepdim=_keepdim,
        )
for _dim in (0, 1):
    case("cumsum", lambda x, d=_dim: x.cumsum(d), normal(6, 5), dim=_dim, dtype="float32")
    case("cumprod", lambda x, d=_dim: x.cumprod(d), normal(6, 5), dim=_dim, dtype="float32")
    case("recurrence", lambda a, b, d=_dim: recurrence(a, b, d), normal(6, 5), normal(6, 5), dim=_dim)
    for _descending in (False, True):
        case(
            "sort",
            lambda x, d=_dim, sign=1 - 2 * _descending: (
                np.take_along_axis(x, np.argsort(sign * x, d, kind="stable"), d),
                np.argsort(sign * x, d, kind="stable"),
            ),
            integers(8, 7, low=0, high=4),
            dim=_dim,
            descending=_descending,
        )
_wide = normal(5, 4, 6, dtype="float64"), normal(5, 4, 6, dtype="float64")
case("recurrence", lambda a, b: recurrence(a, b, 1), *_wide, dim=1)
case("recurrence", lambda a, b: recurrence(a, b, 0), normal(9), normal(9), dim=0)
case("cumsum", lambda x: x.cumsum(0), flags(9), dim=0, dtype="int64")
case("flip", lambda x: x[::-1, :, ::-1], normal(3, 4, 5), dims=(0, 2))
for _shape, _dim in (((6, 5), 1), ((6, 5), 0), ((4, 70), 1), ((3, 4, 5), 1), ((7,), 0)):
    case("softmax", lambda x, d=_dim: special.softmax(x, d), normal(*_shape), dim=_dim)
    case("log_softmax", lambda x, d=_dim: special.log_softmax(x, d), normal(*_shape), dim=_dim)
    case(
        "log_softmax_backward",
        lambda x, g, d=_dim: g - special.softmax(x, d) * g.sum(d, keepdims=True),
        normal(*_shape),
        normal(*_shape),
        dim=_dim,
    )
    case(
        "softmax_backward",
        lambda y, g, d=_dim: y * (g - (g * y).sum(d, keepdims=True)),
        normal(*_shape),
        normal(*_shape),
        dim=_dim,
    )

# Products.
SIZES = dict(zip("mknbcd", (5, 4, 7, 3, 2, 6), strict=True))
for _subscripts in words(
    "mk,kn->mn mk,nk->mn km,kn->mn mk,kn->nm mk,k->m k,km->m k,k-> m,n->mn m,n->nm bmk,bkn->bmn bmk,bnk->bmn bk,bk->b "
    "bmk,bk->bm bm,bn->bmn kb,bk->b mkc,ckn->mn mdk,nk->mdn bmdk,bkn->bmdn bm,b->mb ,m->m ,-> mbk,nkb->nbm"
):
    _a, _b = _subscripts.split("->")[0].split(",")
    for _make in (normal, integers):
        case(
            "contract",
            lambda a, b, s=_subscripts: np.einsum(s, a, b),
            _make(*(SIZES[c] for c in _a)),
            _make(*(SIZES[c] for c in _b)),
            subscripts=_subscripts,
        )


# Convolutions, as loops over all offsets.
def windows(x: np.ndarray, k: Any, size: Any, stride: Any, padding: Any, dilation: Any) -> np.ndarray:
    """What one offset reads: a view of x between enough zeros."""
    n, far = len(size), 20
    wide = np.pad(x, [(0, 0)] * (x.ndim - n) + [(far, far)] * n)
    first = [far + i * d - p for i, d, p in zip(k, dilation, padding, strict=True)]
    return wide[(..., *(slice(a, a + t * s, s) for a, t, s in zip(first, size, stride, strict=True)))]


def convolved(x: np.ndarray, w: np.ndarray, size: Any, **how: Any) -> np.ndarray:
    g = "g" * (x.ndim == len(size) + 3)
    return sum(
        np.einsum(f"n{g}c...,{g}oc->n{g}o...", windows(x, k, size, **how), w[(..., *k)])
        for k in np.ndindex(*w.shape[-len(size) :])
    )


def convolved_input(y: np.ndarray, w: np.ndarray, size: Any, **how: Any) -> np.ndarray:
    """The transposed of `convolved`, column by column."""
    x = np.zeros((*y.shape[: -len(size) - 1], w.shape[-len(size) - 1], *size))
    for at in np.ndindex(x.shape[1:]):
        one = np.zeros((1, *x.shape[1:]))
        one[(0, *at)] = 1
        x[(slice(None), *at)] = (
            (convolved(one, w, y.shape[-len(size) :], **how) * y).reshape(len(y), -1).sum(1)
        )
    return x


def convolved_weight(x: np.ndarray, y: np.ndarray, size: Any, **how: Any) -> np.ndarray:
    g, n = "g" * (x.ndim == len(size) + 3), len(size)
    t = "xyz"[:n]
    w = np.zeros((*x.shape[1 : -n - 1], y.shape[-n - 1], x.shape[-n - 1], *size))
    for k in np.ndindex(*size):
        w[(..., *k)] = np.einsum(f"n{g}c{t},n{g}o{t}->{g}oc", windows(x, k, y.shape[-n:], **how), y)
    return w


for _x, _w, _size, _how in (
    ((3, 2, 5), (4, 2, 3), (4,), ((2,), (2,), (1,))),
    ((2, 3, 4, 5), (2, 3, 2, 3), (3, 3), ((1, 1), (0, 0), (1, 1))),
    ((2, 3, 2, 4, 3), (3, 2, 2, 2, 2), (3, 2), ((1, 2), (1, 0), (2, 1))),
    ((2, 2, 2, 3, 2), (3, 2, 1, 2, 2), (2, 4, 1), ((1, 1, 1), (0, 1, 0), (1, 1, 1))),
    ((3, 4, 3, 5), (2, 4, 1, 1), (3, 5), ((1, 1), (0, 0), (1, 1))),
    ((3, 1, 3, 5), (2, 1, 1, 3), (3, 5), ((1, 1), (0, 1), (1, 1))),
    ((3, 2, 1, 5, 4), (2, 1, 1, 2, 2), (2, 4), ((2, 1), (0, 1), (1, 2))),
):  # fmt: skip
    _n = len(_size)
    _attrs = dict(zip(("stride", "padding", "dilation"), _how, strict=True))
    _y = (*_x[: -_n - 1], _w[-_n - 2], *_size)
    for _make in (normal, integers):
        for _name, _want, _a, _b, _made in (
            ("convolve", convolved, _x, _w, _size),
            ("convolve_input", convolved_input, _y, _w, _x[-_n:]),
            ("convolve_weight", convolved_weight, _x, _y, _w[-_n:]),
        ):
            _all = {**_attrs, "size": _made}
            case(_name, partial(_want, **_all), _make(*_a), _make(*_b), **_all)


# Windows: all that an offset reads, with a number where there is nothing.
def offsets(x: np.ndarray, kernel: Any, size: Any, outside: Any, **how: Any) -> np.ndarray:
    n, far = len(size), 20
    wide = np.pad(x, [(0, 0)] * (x.ndim - n) + [(far, far)] * n, constant_values=outside)
    shift = {**how, "padding": tuple(p - far for p in how["padding"])}
    inner = [wide]
    found = []
    for k in np.ndindex(*kernel):
        first = [i * d - p for i, d, p in zip(k, how["dilation"], shift["padding"], strict=True)]
        at = (slice(a, a + t * s, s) for a, t, s in zip(first, size, how["stride"], strict=True))
        found.append(inner[0][(..., *at)])
    return np.stack(found)


def transposed(linear: Callable[..., np.ndarray], lead: int) -> Callable[..., np.ndarray]:
    """The transposed of a linear function of the first operand, column by column."""

    def turned(y: np.ndarray, *more: np.ndarray, kernel: Any, size: Any, **how: Any) -> np.ndarray:
        x = np.zeros((*y.shape[:lead], *size))
        windows = y.shape[-len(size) :]
        for at in np.ndindex(*size):
            one = np.zeros_like(x)
            one[(..., *at)] = 1
            made = linear(one, *more, kernel=kernel, size=windows, **how) * y
            x[(..., *at)] = made.reshape(*y.shape[:lead], -1).sum(-1)
        return x

    return turned


def window_sum(x: np.ndarray, **how: Any) -> np.ndarray:
    return offsets(x, outside=0, **how).sum(0)


def window_pick(x: np.ndarray, which: np.ndarray, **how: Any) -> np.ndarray:
    return np.take_along_axis(offsets(x, outside=0, **how), which[None].astype(int), 0)[0]


def window_gather(x: np.ndarray, kernel: Any, **how: Any) -> np.ndarray:
    found = offsets(x, kernel, outside=0, **how)
    lead = found.shape[1 : found.ndim - len(kernel)]
    return np.moveaxis(found, 0, len(lead)).reshape(*lead, *kernel, *how["size"])


for _x, _kernel, _size, _how in (
    ((3, 2, 7), (3,), (4,), ((2,), (1,), (1,))),
    ((2, 3, 4, 5), (2, 3), (4, 2), ((1, 2), (1, 0), (1, 1))),
    ((3, 4, 6), (2, 2), (2, 3), ((2, 2), (0, 1), (1, 2))),
    ((2, 3, 3, 4), (2, 2, 2), (4, 2, 2), ((1, 1, 2), (1, 0, 0), (1, 1, 1))),
):
    _all = {**dict(zip(("stride", "padding", "dilation"), _how, strict=True)), "kernel": _kernel}
    _lead, _y = _x[: len(_x) - len(_kernel)], (*_x[: len(_x) - len(_kernel)], *_size)
    for _make in (normal, integers):
        _low = -np.inf if _make is normal else np.iinfo("int64").min
        _scatter = transposed(window_gather, len(_lead))
        _which = offsets(_make(*_x), size=_size, outside=_low, **_all).argmax(0).astype("int32")
        for _name, _want, _arrays, _made in (
            ("window_sum", window_sum, [_make(*_x)], _size),
            ("window_spread", transposed(window_sum, len(_lead)), [_make(*_y)], _x[len(_lead) :]),
            ("window_max", lambda x, o=_low, **how: offsets(x, outside=o, **how).max(0), [_make(*_x)], _size),
            ("window_argmax", lambda x, o=_low, **how: offsets(x, outside=o, **how).argmax(0), [_make(*_x)], _size),
            ("window_pick", window_pick, [_make(*_x), _which], _size),
            ("window_place", transposed(window_pick, len(_lead)), [_make(*_y), _which], _x[len(_lead) :]),
            ("window_gather", window_gather, [_make(*_x)], _size),
            ("window_scatter", _scatter, [_make(*_lead, *_kernel, *_size)], _x[len(_lead) :]),
        ):  # fmt: skip
            _attrs = {**_all, "size": _made}
            case(_name, partial(_want, **_attrs), *_arrays, **_attrs)


# Layout.
case("permute", lambda x: x.transpose(2, 0, 1), normal(3, 4, 5), dims=(2, 0, 1))
case("expand", lambda x: np.broadcast_to(x, (3, 4, 5)), normal(3, 1, 5), shape=(3, 4, 5), cuts=None)
case("expand_dims", lambda x: x[None, :, None], normal(3, 4), dims=(0, 2))
case("squeeze_dims", lambda x: x[0, :, 0], normal(1, 3, 1, 4), dims=(0, 2))

# Positions that are data. `take` and `gather` each with x smaller and x larger than the result.
for _n in (3, 20):
    _idx = integers(_n, low=-6, high=6)
    case("take", lambda x, i: x[i], normal(6, 5), _idx, dim=0, size=6, wrap=True)
    case("take", lambda x, i: x[:, i], normal(4, 6, 3), abs(_idx) % 6, dim=1, size=6, wrap=False)
    case(
        "gather",
        lambda x, i: np.take_along_axis(x, i, 1),
        normal(4, 8, 3),
        integers(4, _n, 3, low=0, high=8),
        dim=1,
        size=8,
    )
case(
    "gather",
    lambda x, i: np.take_along_axis(x, i, 0),
    normal(8, 3),
    integers(5, 3, low=0, high=8),
    dim=0,
    size=8,
)


def added(idx: np.ndarray, src: np.ndarray, dim: int, size: int) -> np.ndarray:
    out = np.zeros((*src.shape[:dim], size, *src.shape[dim + 1 :]), src.dtype)
    for at in np.ndindex(*src.shape):
        out[(*at[:dim], idx[at] if idx.ndim == src.ndim else idx[at[dim]], *at[dim + 1 :])] += src[at]
    return out


def combined(ufunc: np.ufunc, start: float) -> Any:
    def each(idx: np.ndarray, src: np.ndarray, dim: int) -> np.ndarray:
        out = np.full((*src.shape[:dim], 3, *src.shape[dim + 1 :]), start, src.dtype)
        for at in np.ndindex(*src.shape):
            there = (*at[:dim], idx[at], *at[dim + 1 :])
            out[there] = ufunc(out[there], src[at])
        return out

    return each


for _dim, (_name, _function) in itertools.product(
    (0, 1, 2),
    (
        ("scatter_multiply", combined(np.multiply, 1)),
        ("scatter_maximum", combined(np.maximum, -np.inf)),
        ("scatter_minimum", combined(np.minimum, np.inf)),
    ),
):
    _idx = integers(9, 4, 5, low=0, high=3)
    case(_name, lambda i, s, d=_dim, f=_function: f(i, s, d), _idx, normal(9, 4, 5), dim=_dim, size=3)


for _dim, _make in itertools.product((0, 1, 2), (normal, integers)):
    _shape = (9, 4, 5)
    _idx = integers(*_shape, low=0, high=3)
    case("scatter_add", lambda i, s, d=_dim: added(i, s, d, 3), _idx, _make(*_shape), dim=_dim, size=3)
    _idx = integers(_shape[_dim], low=-3, high=3)
    case("index_add", lambda i, s, d=_dim: added(i, s, d, 3), _idx, _make(*_shape), dim=_dim, size=3)
    _idx = integers(_shape[_dim], low=-13, high=13)  # a result larger than what is added
    case("index_add", lambda i, s, d=_dim: added(i, s, d, 13), _idx, _make(*_shape), dim=_dim, size=13)
case("index_add", lambda i, s: added(i, s, 0, 4), integers(9, low=0, high=4), normal(9), dim=0, size=4)
for _wrap in (True, False):
    case(
        "add_taken",
        lambda i, s, x, w: added(i, w * x[s], 0, 4),
        integers(9, low=-4, high=4),
        integers(9, low=-6 * _wrap, high=6),
        normal(6, 3),
        normal(9, 1),
        size=4,
        wrap=_wrap,
    )
case(
    "add_taken",
    lambda i, s, x: added(i, x[s], 0, 4),
    integers(9, low=-4, high=4),
    integers(9, low=0, high=6),
    normal(6, 3),
    size=4,
    wrap=True,
)


def put(base: np.ndarray, idx: np.ndarray, src: np.ndarray, dim: int) -> np.ndarray:
    out = base.copy()
    for at in np.ndindex(*src.shape):
        out[(*at[:dim], idx[at] if idx.ndim == src.ndim else idx[at[dim]], *at[dim + 1 :])] = src[at]
    return out


case(
    "scatter",
    lambda b, i, s: put(b, i, s, 1),
    normal(4, 6, 3),
    integers(4, 9, 3, low=0, high=6),
    normal(4, 9, 3),
    dim=1,
    size=6,
)
for _shape, _dim in (((8, 5), 1), ((5, 8), 0), ((4, 3, 5), 1)):
    _one = tuple(1 if d == _dim else n for d, n in enumerate(_shape))
    _idx = integers(*_one, low=0, high=_shape[_dim])
    case(
        "scatter_zeros",
        lambda b, i, s, d=_dim: put(b, i, s, d),
        np.zeros(_shape, np.float32),
        _idx,
        normal(*_one),
        dim=_dim,
        size=_shape[_dim],
    )
    case(
        "scatter_subtract",
        lambda x, w, i, s, d=_dim: put(np.zeros_like(x), i, s, d) - x * w,
        normal(*_shape),
        normal(*_one),
        _idx,
        normal(*_one),
        dim=_dim,
        size=_shape[_dim],
    )
case(
    "index_put",
    lambda b, i, s: put(b, i, s, 0),
    normal(6, 4),
    integers(9, low=-6, high=6),
    normal(9, 4),
    size=6,
)

# Sources. A file's path is put in by the fixture.
KEY = np.array([7, 3])
case("iota", lambda: np.indices((3, 4, 5))[1], shape=(3, 4, 5), dim=1, cuts=None)
for _kind, _dtype in itertools.product(("uniform", "normal"), ("float32", "float64")):
    case("random", None, KEY, shape=(6, 7, 5), kind=_kind, dtype=_dtype, low=0, high=0, cuts=None)
case("random", None, KEY, shape=(300, 40), kind="integers", dtype="int64", low=-3, high=4, cuts=None)
case("random", None, KEY, shape=(4, 9000), kind="integers", dtype="int32", low=0, high=9, cuts=None)
for _fortran in (False, True):
    case("read_npy", None, path="", offset=128, dtype="float32", shape=(6, 5), fortran=_fortran, cuts=None)
case("write_npy", lambda x: x.nbytes, normal(6, 5), path="", offset=128, shape=(6, 5))
case(
    "shard_counts",
    lambda mask: [mask[:4].sum(), mask[4:8].sum(), mask[8:].sum()],
    flags(11),
    cuts=Sharding((Cut.even(11, 4),)),
)


# How to run one.
def avals_of(arrays: Sequence[np.ndarray]) -> list[Aval]:
    return [Aval(a.shape, a.dtype) for a in arrays]


def run(
    primitive: Primitive, arrays: Sequence[np.ndarray], attrs: dict[str, Any], at: Place, **out: Any
) -> tuple[Any, ...]:
    """The results of the kernel, after a check that they have the shapes and dtypes that were promised."""
    copies = [a.copy() for a in arrays]
    with np.errstate(all="ignore"):
        results = primitive.kernel(
            *arrays, **attrs, **({"at": at} if "placed" in primitive.traits else {}), **out
        )
    results = results if isinstance(results, tuple) else (results,)
    for result, region in zip(results, at.outs, strict=True):
        assert result.shape == tuple(hi - lo for lo, hi in region)
        if "view" not in primitive.traits:
            assert not any(np.shares_memory(result, a) for a in arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    return results


def whole(shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[tuple[int, int], ...], ...]:
    return tuple(tuple((0, n) for n in shape) for shape in shapes)


def run_whole(
    primitive: Primitive, arrays: Sequence[np.ndarray], attrs: dict[str, Any], **out: Any
) -> tuple[Any, ...]:
    avals = avals_of(arrays)
    outs = primitive.shape(avals, attrs)
    results = run(
        primitive,
        arrays,
        attrs,
        Place(whole([a.shape for a in avals]), whole([a.shape for a in outs])),
        **out,
    )
    assert [r.dtype for r in results] == [a.dtype for a in outs]
    return results


# Searching, and running extremes.
for _right in (False, True):
    _side = "right" if _right else "left"
    _row = np.sort(normal(6))
    case("searchsorted", lambda r, x, s=_side: np.searchsorted(r, x, s), _row, normal(4, 3), right=_right)
    case("searchsorted", None, np.sort(normal(3, 6)), normal(3, 4), right=_right)
case("running_max", None, normal(5, 4), dim=0)
case("running_min", None, integers(5, 4), dim=1)
case("logcumsumexp", lambda x: np.log(np.cumsum(np.exp(x), 1)), normal(4, 5), dim=1)
