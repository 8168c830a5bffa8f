"""Results of kernels that a walk over the table does not show: torch's edge cases, errors, random numbers, files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES, normal, run, run_whole, whole
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from distgrad.primitives import TABLE, Place
from distgrad.primitives.base import primitive
from distgrad.primitives.elementwise import aligned


def call(name: str, *arrays: Any, **attrs: Any) -> Any:
    results = run_whole(TABLE[name], [np.asarray(a) for a in arrays], attrs)
    return results if len(results) > 1 else results[0]


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("name", "arrays", "attrs", "want"),
    [
        ("sign", [[NAN, -0.0, 2.0]], {}, [0, 0, 1]),
        ("maximum", [[NAN, 1.0], [1.0, NAN]], {}, [NAN, NAN]),
        ("amin", [[[1.0, NAN], [2.0, 3.0]]], {"dims": (1,), "keepdim": False}, [NAN, 2]),
        ("argmax", [[1.0, NAN, 3.0, NAN]], {"dim": 0, "keepdim": False}, 1),
        ("argmin", [[2, 1, 1]], {"dim": 0, "keepdim": False}, 1),
        ("relu", [[NAN, -1.0]], {}, [NAN, 0]),
        ("rint", [[0.5, 1.5, 2.5]], {}, [0, 2, 2]),
        ("remainder", [[-5, 5, -5], [3, -3, -3]], {}, [1, -1, -2]),
        ("power", [[1, -1, -1, 2, 0], [-1, -2, -3, -1, -2]], {}, [1, 1, -1, 0, 0]),
        ("lgamma", [[0.0, -1.0, -INF]], {}, [INF, INF, INF]),
        ("digamma", [[0.0, -1.0]], {}, [-INF, NAN]),
        ("sigmoid", [[INF, -INF, NAN, -800.0]], {}, [1, 0, NAN, 0]),
        ("softplus", [[INF, -INF, NAN, 900.0]], {"beta": 1.0, "threshold": 20.0}, [INF, 0, NAN, 900]),
        ("log_sigmoid", [[INF, -INF, NAN, 900.0, -900.0]], {}, [0, -INF, NAN, 0, -900]),
        ("logical_xor", [[NAN, 0.0], [0.0, 0.0]], {}, [True, False]),
        (
            "floor_divide",
            [[1.0, -1.0, 0.0, INF, -5.0], [0.0, 0.0, 0.0, 1.0, INF]],
            {},
            [INF, -INF, NAN, NAN, -1],
        ),
        ("softmax", [[[-INF, 0.0], [-INF, -INF]]], {"dim": 1}, [[0, 1], [NAN, NAN]]),
    ],
)
def test_edge_cases_are_as_in_torch(name: str, arrays: Any, attrs: dict[str, Any], want: Any) -> None:
    np.testing.assert_array_equal(call(name, *arrays, **attrs), want)


@np.errstate(all="ignore")
@pytest.mark.parametrize(
    "name", [p.name for p in TABLE.values() if p.labels is aligned and "into" in p.traits]
)
def test_gaps_change_nothing(name: str) -> None:
    """Columns of matrices, as tiles of one column read and write them: not all of NumPy's ufuncs are right there."""
    for (arrays, attrs, _), gap, n in itertools.product(CASES[name], (2, 4, 8, 16), (3, 40)):
        operands = [np.resize(a, (n, gap))[:, 0] for a in arrays]
        want = TABLE[name].kernel(*(a.copy() for a in operands), **attrs)
        out = np.zeros((n, gap), want.dtype)[:, 0]
        TABLE[name].kernel(*operands, **attrs, out=out)
        np.testing.assert_array_equal(out, want)


@np.errstate(all="ignore")
@pytest.mark.parametrize("name", [p.name for p in TABLE.values() if "exact" in p.traits])
def test_an_element_alone_has_the_bits_that_it_has_in_an_array(name: str) -> None:
    """So that a constant may be folded before it is expanded."""
    for arrays, attrs, _ in CASES[name]:
        operands = np.broadcast_arrays(*arrays)
        whole = TABLE[name].kernel(*(np.ascontiguousarray(a) for a in operands), **attrs)
        for i in range(0, whole.size, 7):
            alone = TABLE[name].kernel(*(a.reshape(-1)[i] for a in operands), **attrs)
            assert np.asarray(alone, whole.dtype).tobytes() == whole.reshape(-1)[i].tobytes()


def test_a_trait_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'nothing' has traits that there are not: \['inot'\]"):
        primitive("nothing", np.abs, TABLE["absolute"].shape, traits={"inot"})
    assert "nothing" not in TABLE


def test_nan_is_sorted_as_the_largest() -> None:
    x = [3.0, NAN, 1.0, -0.0, 0.0]
    assert call("sort", x, dim=0, descending=True)[1].tolist() == [1, 0, 2, 3, 4]
    assert call("sort", x, dim=0, descending=False)[1].tolist() == [3, 4, 2, 0, 1]


def test_softplus_is_exact_for_small_and_large_arguments() -> None:
    x = np.array([-30.0, -5.0, 19.9, 25.0], "float32")
    want = np.log1p(np.exp(x.astype("float64")))
    np.testing.assert_allclose(call("softplus", x, beta=1.0, threshold=20.0), want, rtol=3e-7)
    np.testing.assert_allclose(call("log_sigmoid", -x), -want, rtol=3e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_sigmoid_has_the_same_bits_whatever_lies_beside(dtype: str) -> None:
    x = np.linspace(-1000, 80, 501).astype(dtype)
    got = call("log_sigmoid", x)
    np.testing.assert_allclose(got, special.log_expit(x.astype("float64")), rtol=3e-7)
    assert got.tobytes() == b"".join(call("log_sigmoid", piece).tobytes() for piece in np.split(x, 3))


@pytest.mark.parametrize("name", ["remainder", "floor_divide", "fmod"])
def test_integers_divided_by_zero(name: str) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        call(name, [1, 2], [1, 0])
    assert call(name, np.zeros((0, 2), int), [1, 0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("error", "name", "arrays", "attrs"),
    [
        (IndexError("index out of range in self"), "take", [[1, 2, 3], [-1]], {"dim": 0, "wrap": False}),
        (
            IndexError("index 3 is out of bounds for dimension 0 with size 3"),
            "take",
            [[1, 2, 3], [3]],
            {"dim": 0, "wrap": True},
        ),
        (
            RuntimeError("index 3 is out of bounds for dimension 0 with size 3"),
            "gather",
            [[1, 2, 3], [0, 3]],
            {"dim": 0},
        ),
        (
            RuntimeError("index -1 is out of bounds for dimension 0 with size 3"),
            "scatter_add",
            [[-1], [1]],
            {"dim": 0},
        ),
        (
            RuntimeError("index 7 is out of bounds for dimension 0 with size 3"),
            "scatter",
            [[1, 2, 3], [7], [1]],
            {"dim": 0},
        ),
        (
            IndexError("index -4 is out of bounds for dimension 0 with size 3"),
            "index_put",
            [[1, 2, 3], [-4], [1]],
            {},
        ),
        (
            IndexError("index 5 is out of bounds for dimension 0 with size 3"),
            "index_add",
            [[5], [1]],
            {"dim": 0},
        ),
    ],
)
def test_positions_outside(error: Exception, name: str, arrays: Any, attrs: dict[str, Any]) -> None:
    with pytest.raises(type(error), match=str(error)):
        call(name, *arrays, **attrs, size=3)


@pytest.mark.parametrize("subscripts", ["mk,kn", "mm,mn->n", "mk,kn->m", "mk->m", "m,m->mm", "m1,1n->mn"])
def test_subscripts_that_are_not_a_contraction(subscripts: str) -> None:
    with pytest.raises(ValueError, match="not a contraction"):
        call("contract", np.ones((2, 2)), np.ones((2, 2)), subscripts=subscripts)


def draw(
    shape: tuple[int, ...], region: Any, kind: str, key: tuple[int, int] = (1, 2), dtype: str = "float32"
) -> np.ndarray:
    at = Place((((0, 2),),), (region,))
    attrs = {"shape": shape, "kind": kind, "dtype": dtype, "low": -2, "high": 5}
    return run(TABLE["random"], [np.array(key)], attrs, at)[0]


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    data=st.data(),
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    long=st.sampled_from([1, 100, 3000]),
)
def test_any_region_of_a_random_tensor_has_the_same_bits(
    data: st.DataObject, shape: list[int], long: int
) -> None:
    shape[-1] *= long
    region = tuple(tuple(sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n))))) for n in shape)
    everything = draw(tuple(shape), whole([tuple(shape)])[0], "uniform")
    np.testing.assert_array_equal(
        draw(tuple(shape), region, "uniform"), everything[tuple(slice(*b) for b in region)]
    )


def test_random_numbers_have_their_distribution() -> None:
    n = 200_000
    region = ((0, n),)
    uniform, gauss = draw((n,), region, "uniform"), draw((n,), region, "normal", dtype="float64")
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert stats.kstest(gauss, "norm").pvalue > 1e-3
    np.testing.assert_allclose(draw((n,), region, "normal"), gauss, rtol=1e-4, atol=5e-4)
    counts = np.bincount(draw((n,), region, "integers", dtype="int64") + 2)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-3
    assert abs(np.corrcoef(uniform, draw((n,), region, "uniform", (1, 3)))[0, 1]) < 0.01
    assert not np.array_equal(uniform, draw((n,), region, "uniform", (2, 2)))


def test_pieces_of_a_file_are_written_where_they_belong(tmp_path: Path) -> None:
    data, path = normal(6, 5), tmp_path / "x.npy"
    np.save(path, np.zeros((6, 5), "float32"))
    for rows, columns in itertools.product(((0, 4), (4, 4), (4, 6)), ((0, 2), (2, 5))):
        at = Place(((rows, columns),), ((),))
        attrs = {"path": str(path), "offset": 128, "shape": (6, 5)}
        (written,) = run(TABLE["write_npy"], [data[slice(*rows), slice(*columns)]], attrs, at)
        assert written == 4 * (rows[1] - rows[0]) * (columns[1] - columns[0])
    np.testing.assert_array_equal(np.load(path), data)
