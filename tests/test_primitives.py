"""Every primitive of the table: its kernel against a reference, and its label rule tried out on random cuts.

The checkers themselves are tested with planted faults: a wrong rule and a dropped one must be found.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from distgrad.primitives import MERGES, TABLE, Aval, Labels, Place, Primitive
from distgrad.sharding import Cut, Sharding

RNG = np.random.default_rng(0)
INEXACT = {"sum", "prod", "contract", "softmax", "log_softmax", "index_add", "scatter_add"}  # order of additions


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


# Element by element.
UNARY: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in "negative absolute sign exp expm1 log log1p log2 log10 sqrt square".split()},
    **{name: getattr(np, name) for name in "reciprocal sin cos tan arcsin arccos arctan sinh cosh tanh".split()},
    **{name: getattr(np, name) for name in "arcsinh arccosh arctanh floor ceil rint trunc logical_not".split()},
    **{name: getattr(np, name) for name in "isnan isinf isfinite copy".split()},
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
for _name in "negative absolute sign square copy logical_not isnan".split():
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
for _n in range(8):
    case("integer_power", lambda x, n=_n: x**n, normal(6, 3), n=_n)
    case("integer_power", lambda x, n=_n: x**n, integers(6, 3), n=_n)
for _decimals in (-1, 0, 2):
    case("round_decimals", lambda x, n=_decimals: np.round(x, n), normal(6, 3) * 20, decimals=_decimals)

FLOATS = "add subtract multiply divide arctan2 maximum minimum remainder floor_divide fmod".split()
COMPARISONS = "equal not_equal less less_equal greater greater_equal".split()
LOGICAL = "logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor".split()
for _name in FLOATS + COMPARISONS:
    _want = getattr(np, _name)
    case(_name, _want, normal(7, 5), normal(7, 5))
    case(_name, _want, normal(7, 1, dtype="float64"), normal(5, dtype="float64"))
    case(_name, _want, normal(), normal(3, 4, 1))
    if _name not in ("divide", "arctan2"):
        case(_name, _want, integers(7, 5), integers(7, 5, low=1))
for _name in COMPARISONS + LOGICAL:
    case(_name, getattr(np, _name), flags(7, 5), flags(5))
case("power", np.power, np.abs(normal(7, 5)), normal(5))
case("power", np.power, integers(7, 5), integers(7, 5, low=0, high=4))
case("where", np.where, flags(7, 5), normal(7, 5), normal(5))
case("where", np.where, flags(5), integers(7, 1), integers())

# Reductions.
REDUCTIONS = {"sum": np.sum, "prod": np.prod, "amax": np.amax, "amin": np.amin, "any": np.any, "all": np.all}
for _name, _want in REDUCTIONS.items():
    for _shape, _dims in (
        ((7, 5), (0,)), ((7, 5), (1,)), ((7, 5), (0, 1)), ((6, 70), (1,)), ((90, 4), (0,)), ((4, 5, 6), (1,)),
        ((4, 5, 6), (0, 2)), ((4, 5, 6), (1, 2)), ((9,), (0,)), ((7, 5), ()), ((), ()),
    ):  # fmt: skip
        for _keepdim in (False, True):
            _x = flags(*_shape) if _name in ("any", "all") else normal(*_shape)
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
case("cumsum", lambda x: x.cumsum(0), flags(9), dim=0, dtype="int64")
case("flip", lambda x: x[::-1, :, ::-1], normal(3, 4, 5), dims=(0, 2))
for _shape, _dim in (((6, 5), 1), ((6, 5), 0), ((4, 70), 1), ((3, 4, 5), 1), ((7,), 0)):
    case("softmax", lambda x, d=_dim: special.softmax(x, d), normal(*_shape), dim=_dim)
    case("log_softmax", lambda x, d=_dim: special.log_softmax(x, d), normal(*_shape), dim=_dim)

# Products.
SIZES = dict(zip("mknbcd", (5, 4, 7, 3, 2, 6), strict=True))
for _subscripts in (
    "mk,kn->mn mk,nk->mn km,kn->mn mk,kn->nm mk,k->m k,km->m k,k-> m,n->mn m,n->nm bmk,bkn->bmn bmk,bnk->bmn bk,bk->b "
    "bmk,bk->bm bm,bn->bmn kb,bk->b mkc,ckn->mn mdk,nk->mdn bmdk,bkn->bmdn bm,b->mb ,m->m ,-> mbk,nkb->nbm"
).split():
    _a, _b = _subscripts.split("->")[0].split(",")
    for _make in (normal, integers):
        case(
            "contract",
            lambda a, b, s=_subscripts: np.einsum(s, a, b),
            _make(*(SIZES[c] for c in _a)),
            _make(*(SIZES[c] for c in _b)),
            subscripts=_subscripts,
        )

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
case("gather", lambda x, i: np.take_along_axis(x, i, 0), normal(8, 3), integers(5, 3, low=0, high=8), dim=0, size=8)


def added(idx: np.ndarray, src: np.ndarray, dim: int, size: int) -> np.ndarray:
    out = np.zeros((*src.shape[:dim], size, *src.shape[dim + 1 :]), src.dtype)
    for at in np.ndindex(*src.shape):
        out[(*at[:dim], idx[at] if idx.ndim == src.ndim else idx[at[dim]], *at[dim + 1 :])] += src[at]
    return out


for _dim, _make in itertools.product((0, 1, 2), (normal, integers)):
    _shape = (9, 4, 5)
    _idx = integers(*_shape, low=0, high=3)
    case("scatter_add", lambda i, s, d=_dim: added(i, s, d, 3), _idx, _make(*_shape), dim=_dim, size=3)
    _idx = integers(_shape[_dim], low=-3, high=3)
    case("index_add", lambda i, s, d=_dim: added(i, s, d, 3), _idx, _make(*_shape), dim=_dim, size=3)
case("index_add", lambda i, s: added(i, s, 0, 4), integers(9, low=0, high=4), normal(9), dim=0, size=4)


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


# The checkers.
def avals_of(arrays: Sequence[np.ndarray]) -> list[Aval]:
    return [Aval(a.shape, a.dtype) for a in arrays]


def run(primitive: Primitive, arrays: Sequence[np.ndarray], attrs: dict[str, Any], at: Place, **out: Any) -> tuple[Any, ...]:
    """The results of the kernel, after a check that they have the shapes and dtypes that were promised."""
    copies = [a.copy() for a in arrays]
    with np.errstate(all="ignore"):
        results = primitive.kernel(*arrays, **attrs, **({"at": at} if primitive.placed else {}), **out)
    results = results if isinstance(results, tuple) else (results,)
    for result, region in zip(results, at.outs, strict=True):
        assert result.shape == tuple(hi - lo for lo, hi in region)
        if not primitive.view:
            assert not any(np.shares_memory(result, a) for a in arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    return results


def whole(shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[tuple[int, int], ...], ...]:
    return tuple(tuple((0, n) for n in shape) for shape in shapes)


def run_whole(primitive: Primitive, arrays: Sequence[np.ndarray], attrs: dict[str, Any], **out: Any) -> tuple[Any, ...]:
    avals = avals_of(arrays)
    outs = primitive.shape(avals, attrs)
    results = run(primitive, arrays, attrs, Place(whole([a.shape for a in avals]), whole([a.shape for a in outs])), **out)
    assert [r.dtype for r in results] == [a.dtype for a in outs]
    return results


Points = dict[int, list[int]]


def check_cut(primitive: Primitive, arrays: Sequence[np.ndarray], attrs: dict[str, Any], labels: Labels, cuts: Points) -> None:
    """Run the kernel cell by cell, with the labels cut at `cuts`, and compare what comes together with the whole."""
    expected = run_whole(primitive, arrays, attrs)
    tensors = [a.shape for a in arrays], [e.shape for e in expected]
    parts: list[dict[Any, list[np.ndarray]]] = [{} for _ in expected]
    for bounds in itertools.product(*(zip(edges, edges[1:], strict=False) for edges in cuts.values())):
        cell = dict(zip(cuts, bounds, strict=True))
        ins, outs = (
            tuple(
                tuple((0, n) if label is None else cell[label] for label, n in zip(names, shape, strict=True))
                for names, shape in zip(rows, shapes, strict=True)
            )
            for rows, shapes in zip((labels.ins, labels.outs), tensors, strict=True)
        )
        pieces = [a[tuple(slice(*b) for b in region)] for a, region in zip(arrays, ins, strict=True)]
        for part, region, result in zip(parts, outs, run(primitive, pieces, attrs, Place(ins, outs)), strict=True):
            part.setdefault(region, []).append(np.asarray(result))
    for want, part in zip(expected, parts, strict=True):
        got = np.empty_like(want)
        for region, partials in part.items():
            assert len(partials) == 1 or labels.merge is not None
            with np.errstate(all="ignore"):
                got[tuple(slice(*b) for b in region)] = reduce(MERGES[labels.merge or "add"], partials)
        if primitive.name in INEXACT and want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
        else:
            np.testing.assert_array_equal(got, want)


def lengths(arrays: Sequence[np.ndarray], outs: Sequence[Aval], labels: Labels) -> dict[int, int]:
    """The length of each label, which has to be one; labels are unique in an operand."""
    found: dict[int, int] = {}
    for names, shape in zip((*labels.ins, *labels.outs), [*(a.shape for a in arrays), *(a.shape for a in outs)], strict=True):
        assert len(names) == len(shape)
        used = [label for label in names if label is not None]
        assert len(used) == len(set(used))
        for label, n in zip(names, shape, strict=True):
            assert label is None or found.setdefault(label, n) == n
    return found


def dropped(primitive: Primitive, arrays: Sequence[np.ndarray], attrs: dict[str, Any], labels: Labels) -> list[Any]:
    """Dimensions that are labelled None and could be cut together, found by trying."""
    (aval, *_) = outs = primitive.shape(avals_of(arrays), attrs)
    del aval
    shapes = [*(a.shape for a in arrays), *(a.shape for a in outs)]
    names = [*labels.ins, *labels.outs]
    free = [(t, d) for t, row in enumerate(names) for d, label in enumerate(row) if label is None and shapes[t][d] > 1]
    new = 1 + max(lengths(arrays, outs, labels), default=0)
    found = []
    for count in range(1, len(free) + 1):
        for chosen in itertools.combinations(free, count):
            sizes = {shapes[t][d] for t, d in chosen}
            inputs = {t for t, _ in chosen if t < len(arrays)}
            if len(sizes) > 1 or len({t for t, _ in chosen}) < count or not inputs:
                continue
            rows = [tuple(new if (t, d) in chosen else x for d, x in enumerate(row)) for t, row in enumerate(names)]
            n = sizes.pop()
            for merge in MERGES if len(inputs) == count else (labels.merge,):
                rule = Labels(tuple(rows[: len(arrays)]), tuple(rows[len(arrays) :]), merge)
                cuts = {k: [0, size] for k, size in lengths(arrays, outs, labels).items()}
                try:
                    for at in range(1, n):
                        check_cut(primitive, arrays, attrs, rule, {**cuts, new: [0, at, n]})
                    found.append(rule)
                except Exception:
                    continue
    return found


# The tests.
EACH = pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, cases in CASES.items() for i in range(len(cases))]
)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], tuple[Any, ...]]:
    """A function that gives primitive, arrays, attributes and reference of a case, with its file in place."""
    folder = tmp_path_factory.mktemp("npy")

    def get(name: str, number: int) -> tuple[Any, ...]:
        arrays, attrs, want = CASES[name][number]
        if "path" in attrs:
            path = folder / f"{name}{number}.npy"
            data = np.arange(30, dtype="float32").reshape(attrs["shape"], order="F" if attrs.get("fortran") else "C")
            np.save(path, data)
            attrs = {**attrs, "path": str(path)}
            want = want or (lambda: data)
        return TABLE[name], arrays, attrs, want

    return get


def test_every_primitive_with_labels_has_a_case() -> None:
    assert set(CASES) == {name for name, primitive in TABLE.items() if primitive.labels is not None}
    assert all(set(c.attrs) == set(TABLE[name].attrs) for name, cases in CASES.items() for c in cases)


@EACH
def test_kernel_gives_the_reference(name: str, number: int, sample: Any) -> None:
    primitive, arrays, attrs, want = sample(name, number)
    results = run_whole(primitive, arrays, attrs)
    if want is not None:
        with np.errstate(all="ignore"):
            expected = want(*(a.astype("float64") if a.dtype == "float32" and name in UNARY else a for a in arrays))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for result, e in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, e, rtol=3e-6, atol=2e-6)
    turned = [np.array(a, order="F") if a.ndim > 1 else np.repeat(a, 2)[::2] if a.ndim else a for a in arrays]
    for result, again in zip(results, run_whole(primitive, turned, attrs), strict=True):
        if name == "contract":
            np.testing.assert_allclose(result, again, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(result, again)  # the same bits whatever the strides
    if primitive.into:
        (result,) = results
        for out in (np.full_like(result, 1), np.full((*result.shape, 2), 1, result.dtype)[..., 0]):
            (into,) = run_whole(primitive, arrays, attrs, out=out)
            assert into is out
            np.testing.assert_array_equal(out, result)


@EACH
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_label_rule_holds_for_any_cut(name: str, number: int, sample: Any, data: st.DataObject) -> None:
    primitive, arrays, attrs, _ = sample(name, number)
    avals = avals_of(arrays)
    labels = primitive.labels(avals, attrs)
    cuts = {}
    for label, n in lengths(arrays, primitive.shape(avals, attrs), labels).items():
        cuts[label] = [0, *sorted(data.draw(st.lists(st.integers(0, n), max_size=2))), n]
    check_cut(primitive, arrays, attrs, labels, cuts)


@pytest.mark.parametrize("name", sorted(CASES))
def test_no_rule_is_dropped(name: str, sample: Any) -> None:
    for number, c in enumerate(CASES[name]):
        primitive, arrays, attrs, _ = sample(name, number)
        labels = primitive.labels(avals_of(arrays), attrs)
        # take and gather leave a small operand whole, which costs less than to merge partial results
        if name not in ("take", "gather") or labels.merge:
            assert dropped(primitive, arrays, attrs, labels) == [], c


PLANTED = {
    "softmax": Labels(((0, 1),), ((0, 1),)),
    "sort": Labels(((0, 1),), ((0, 1), (0, 1))),
    "sum": Labels(((0, 1),), ((1,),), "maximum"),
    "amax": Labels(((0, 1),), ((1,),), "add"),
    "permute": Labels(((0, 1, 2),), ((0, 1, 2),)),
    "contract": Labels(((0, None), (None, 1)), ((1, 0),)),
    "scatter_add": Labels(((0, 1, 2), (0, 1, 2)), ((0, 1, 2),)),
    "take": Labels(((0, 1), (None,)), ((None, 1),), "maximum"),
    "index_put": Labels(((0, 1), (2,), (2, 1)), ((0, 1),), "add"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_rule_is_found(name: str, sample: Any) -> None:
    primitive, arrays, attrs, _ = sample(name, 0)
    labels = PLANTED[name]
    with pytest.raises((AssertionError, ValueError, IndexError)):
        sizes = lengths(arrays, primitive.shape(avals_of(arrays), attrs), labels)
        check_cut(primitive, arrays, attrs, labels, {k: [0, n // 2, n] for k, n in sizes.items()})


@pytest.mark.parametrize(
    ("name", "poorer"),
    [
        ("add", Labels(((0, None), (0, None)), ((0, None),))),
        ("sum", Labels(((None, 1),), ((1,),))),
        ("contract", Labels(((0, None), (None, 1)), ((0, 1),), "add")),
        ("sort", Labels(((None, None),), ((None, None), (None, None)))),
    ],
)
def test_a_dropped_rule_is_found(name: str, poorer: Labels, sample: Any) -> None:
    primitive, arrays, attrs, _ = sample(name, 0)
    assert dropped(primitive, arrays, attrs, poorer)
