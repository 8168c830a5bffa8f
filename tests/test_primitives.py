"""Every primitive of the table: its kernel against a reference, and its label rule tried out on random cuts.

The checkers themselves are tested with planted faults: a wrong rule and a dropped one must be found.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pytest
from cases import CASES, avals_of, run, run_whole
from elementwise_cases import UNARY
from hypothesis import given, settings
from hypothesis import strategies as st

from distgrad.primitives import MERGES, TABLE, Aval, Labels, Place, Primitive

# The checkers.
Points = dict[int, list[int]]


def check_cut(
    primitive: Primitive, arrays: Sequence[np.ndarray], attrs: dict[str, Any], labels: Labels, cuts: Points
) -> None:
    """Run the kernel cell by cell, with the labels cut at `cuts`, and compare what comes together with the whole."""
    expected = run_whole(primitive, arrays, attrs)
    tensors = [a.shape for a in arrays], [e.shape for e in expected]
    parts: list[dict[Any, list[np.ndarray]]] = [{} for _ in expected]  # by the piece's number and region
    for numbers in itertools.product(*(range(len(edges) - 1) for edges in cuts.values())):
        number = dict(zip(cuts, numbers, strict=True))
        cell = {label: (cuts[label][i], cuts[label][i + 1]) for label, i in number.items()}
        ins, outs = (
            tuple(
                tuple((0, n) if label is None else cell[label] for label, n in zip(names, shape, strict=True))
                for names, shape in zip(rows, shapes, strict=True)
            )
            for rows, shapes in zip((labels.ins, labels.outs), tensors, strict=True)
        )
        pieces = [a[tuple(slice(*b) for b in region)] for a, region in zip(arrays, ins, strict=True)]
        results = run(primitive, pieces, attrs, Place(ins, outs))
        for part, names, region, result in zip(parts, labels.outs, outs, results, strict=True):
            part.setdefault((tuple(number.get(x) for x in names), region), []).append(np.asarray(result))
    for want, part in zip(expected, parts, strict=True):
        got = np.empty_like(want)
        for (_, region), partials in part.items():
            assert len(partials) == 1 or labels.merge is not None
            with np.errstate(all="ignore"):
                got[tuple(slice(*b) for b in region)] = reduce(MERGES[labels.merge or "add"], partials)
        if "rounds" in primitive.traits and want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
        else:
            np.testing.assert_array_equal(got, want)


def lengths(arrays: Sequence[np.ndarray], outs: Sequence[Aval], labels: Labels) -> dict[int, int]:
    """The length of each label, which has to be one; labels are unique in an operand."""
    found: dict[int, int] = {}
    for names, shape in zip(
        (*labels.ins, *labels.outs), [*(a.shape for a in arrays), *(a.shape for a in outs)], strict=True
    ):
        assert len(names) == len(shape)
        used = [label for label in names if label is not None]
        assert len(used) == len(set(used))
        for label, n in zip(names, shape, strict=True):
            assert label is None or found.setdefault(label, n) == n
    return found


def dropped(
    primitive: Primitive, arrays: Sequence[np.ndarray], attrs: dict[str, Any], labels: Labels
) -> list[Any]:
    """Dimensions that are labelled None and could be cut together, found by trying."""
    outs = primitive.shape(avals_of(arrays), attrs)
    shapes = [*(a.shape for a in arrays), *(a.shape for a in outs)]
    names = [*labels.ins, *labels.outs]
    free = [
        (t, d)
        for t, row in enumerate(names)
        for d, label in enumerate(row)
        if label is None and shapes[t][d] > 1
    ]
    new = 1 + max(lengths(arrays, outs, labels), default=0)
    found = []
    for count in range(1, len(free) + 1):
        for chosen in itertools.combinations(free, count):
            sizes = {shapes[t][d] for t, d in chosen}
            inputs = {t for t, _ in chosen if t < len(arrays)}
            if len(sizes) > 1 or len({t for t, _ in chosen}) < count or not inputs:
                continue
            rows = [
                tuple(new if (t, d) in chosen else x for d, x in enumerate(row))
                for t, row in enumerate(names)
            ]
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
            data = np.arange(30, dtype="float32").reshape(
                attrs["shape"], order="F" if attrs.get("fortran") else "C"
            )
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
            expected = want(
                *(a.astype("float64") if a.dtype == "float32" and name in UNARY else a for a in arrays)
            )
        expected = expected if isinstance(expected, tuple) else (expected,)
        for result, e in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, e, rtol=3e-6, atol=2e-6)
    turned = [np.array(a, order="F") if a.ndim > 1 else np.repeat(a, 2)[::2] if a.ndim else a for a in arrays]
    for result, again in zip(results, run_whole(primitive, turned, attrs), strict=True):
        if name == "contract":
            np.testing.assert_allclose(result, again, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(result, again)  # the same bits whatever the strides
    if "into" in primitive.traits and len(results) > 1:
        outs = tuple(np.full_like(result, 1) for result in results)
        for out, into, result in zip(
            outs, run_whole(primitive, arrays, attrs, out=outs), results, strict=True
        ):
            assert into is out
            np.testing.assert_array_equal(out, result)
    elif "into" in primitive.traits:
        (result,) = results
        for out in (np.full_like(result, 1), np.full((*result.shape, 2), 1, result.dtype)[..., 0]):
            (into,) = run_whole(primitive, arrays, attrs, out=out)
            assert into is out
            np.testing.assert_array_equal(out, result)
    if "over" in primitive.traits:
        (result,) = results
        for n, a in enumerate(arrays):
            if (a.shape, a.dtype) == (result.shape, result.dtype):
                again = [x.copy() for x in arrays]
                with np.errstate(all="ignore"):
                    primitive.kernel(*again, **attrs, out=again[n])
                np.testing.assert_array_equal(again[n], result)
    if "onto" in primitive.traits:
        (result,) = results
        base = np.full_like(result, 3 if name == "index_add" else 0)
        (onto,) = run_whole(primitive, arrays, attrs, onto=base)
        assert onto is base
        np.testing.assert_allclose(onto, result + (3 if name == "index_add" else 0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(tenths=st.lists(st.lists(st.integers(0, 10), max_size=2).map(sorted), min_size=5, max_size=5))
def test_label_rule_holds_for_any_cut(name: str, sample: Any, tenths: list[list[int]]) -> None:
    for i in range(len(CASES[name])):
        primitive, arrays, attrs, _ = sample(name, i)
        avals = avals_of(arrays)
        labels = primitive.labels(avals, attrs)
        sizes = lengths(arrays, primitive.shape(avals, attrs), labels)
        cuts = {
            k: [0, *(n * t // 10 for t in ts), n] for (k, n), ts in zip(sizes.items(), tenths, strict=False)
        }
        check_cut(primitive, arrays, attrs, labels, cuts)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(CASES))
def test_no_rule_is_dropped(name: str, sample: Any) -> None:
    for number, c in enumerate(CASES[name]):
        primitive, arrays, attrs, _ = sample(name, number)
        labels = primitive.labels(avals_of(arrays), attrs)
        # these leave a small operand whole, which costs less than to merge partial results
        if name not in ("take", "gather", "index_add") or labels.merge:
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


def halve(primitive: Primitive, arrays: Sequence[np.ndarray], attrs: dict[str, Any], labels: Labels) -> None:
    sizes = lengths(arrays, primitive.shape(avals_of(arrays), attrs), labels)
    check_cut(primitive, arrays, attrs, labels, {label: [0, n // 2, n] for label, n in sizes.items()})


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_rule_is_found(name: str, sample: Any) -> None:
    primitive, arrays, attrs, _ = sample(name, 0)
    halve(primitive, arrays, attrs, primitive.labels(avals_of(arrays), attrs))
    with pytest.raises((AssertionError, ValueError, IndexError)):
        halve(primitive, arrays, attrs, PLANTED[name])


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
