"""From shard rules to layouts: for any cuts of the operands, what the shards compute comes together as the whole.

Every primitive of the table is tried, and the checkers are tried with planted faults.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import test_primitives
from cases import CASES, avals_of, normal, run, run_whole
from hypothesis import given, settings
from hypothesis import strategies as st
from regrouping_cases import REGROUPINGS, SCHEMES, Regrouping, by_scheme, cut, wanted

from distgrad.exchange import Tree, reduce_of
from distgrad.primitives import MERGES, TABLE, Aval, Labels, Layout, Primitive
from distgrad.primitives.rules import agrees, layout, place
from distgrad.sharding import Cut, Sharding

sample = test_primitives.sample
quick = settings(max_examples=6, deadline=None, derandomize=True, database=None)


@st.composite
def random_cuts(draw: st.DrawFn, shape: tuple[int, ...]) -> Sharding:
    if draw(st.booleans()):
        return Sharding.whole(shape)
    dims = draw(st.sets(st.integers(0, len(shape) - 1), max_size=2)) if shape else ()
    return cut(shape, {d: draw(st.lists(st.integers(0, shape[d]), max_size=3)) for d in dims})


# The checker.


def check(
    primitive: Primitive,
    arrays: Sequence[np.ndarray],
    attrs: dict[str, Any],
    shardings: Sequence[Sharding],
    expected: Sequence[np.ndarray],
    shard_bytes: int,
    exact: bool,
) -> Layout:
    """Lay a node out, run it shard by shard and compare what comes together with what is expected."""
    avals = avals_of(arrays)
    outs = tuple(primitive.shape(avals, attrs))
    made = layout(primitive, avals, outs, shardings, attrs, shard_bytes)
    assert agrees(made, primitive, avals, attrs)
    assert [s.shape for s in made.needs] == [a.shape for a in arrays]
    assert [s.shape for s in made.outs] == [o.shape for o in outs] == [e.shape for e in expected]
    parts: list[dict[int, Any]] = [
        {} for _ in outs
    ]  # of each result: the pieces, or trees of partial results
    places = list(reduce_of(made).leaves(range(made.shards))) if made.merged else []
    for shard in range(made.shards):
        at = place(made, shard, [a.shape for a in arrays], [o.shape for o in outs])
        for need, region in zip(made.needs, at.ins, strict=True):
            assert need.count == 1 or region == need.cell(shard)
        pieces = [
            np.asarray(a[tuple(slice(*b) for b in region)]) for a, region in zip(arrays, at.ins, strict=True)
        ]
        for k, result in enumerate(run(primitive, pieces, attrs, at)):
            if made.merged:
                _, kept, leaf = places[shard]
                assert at.outs[k] == made.outs[k].cell(kept)
                parts[k].setdefault(kept, Tree(MERGES[made.labels.merge])).push(0, leaf, np.asarray(result))  # type: ignore[union-attr, index]
            else:
                assert at.outs[k] == made.outs[k].cell(shard)
                parts[k][shard] = np.asarray(result)
    for part, sharding, want in zip(parts, made.outs, expected, strict=True):
        assert sorted(part) == list(range(sharding.count))
        got = np.empty_like(want)
        for shard, piece in part.items():
            with np.errstate(all="ignore"):
                got[tuple(slice(*b) for b in sharding.cell(shard))] = piece.finish() if made.merged else piece
        if exact:
            np.testing.assert_array_equal(got, want)
        else:
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    return made


def check_case(
    name: str, arrays: Sequence[np.ndarray], attrs: dict[str, Any], shardings: Sequence[Sharding]
) -> Layout:
    """A case of the table of primitives with labels."""
    primitive = TABLE[name]
    expected = run_whole(primitive, arrays, attrs)
    shard_bytes = 1 + max(x.nbytes for x in (*arrays, *expected)) // 4
    exact = "rounds" not in primitive.traits or expected[0].dtype.kind != "f"
    return check(primitive, arrays, attrs, shardings, expected, shard_bytes, exact)


def hinted(name: str, attrs: dict[str, Any], cuts: Callable[[tuple[int, ...]], Sharding]) -> dict[str, Any]:
    """The attributes, with cuts for the result where the primitive takes some."""
    return {**attrs, "cuts": cuts(attrs["shape"])} if "cuts" in attrs and "shape" in attrs else attrs


# The tests.


@pytest.mark.parametrize("name", sorted(CASES))
def test_layouts_give_the_whole(name: str, sample: Any) -> None:
    for number, scheme in itertools.product(range(len(CASES[name])), SCHEMES):
        _, arrays, attrs, _ = sample(name, number)
        shardings = [by_scheme(scheme, a.shape) for a in arrays]
        check_case(name, arrays, attrs, shardings)
        if "cuts" in attrs:
            check_case(name, arrays, hinted(name, attrs, partial(by_scheme, scheme)), shardings)


@pytest.mark.parametrize("name", sorted(CASES))
@quick
@given(data=st.data())
def test_layouts_of_operands_that_are_cut_differently(name: str, sample: Any, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(CASES[name]) - 1))
    _, arrays, attrs, _ = sample(name, number)
    shardings = [data.draw(random_cuts(a.shape)) for a in arrays]
    check_case(name, arrays, hinted(name, attrs, lambda shape: data.draw(random_cuts(shape))), shardings)


def check_regrouping(case: Regrouping, shardings: Sequence[Sharding], shard_bytes: int) -> Layout:
    attrs = case.attrs(shardings)
    return check(TABLE[case.name], case.arrays, attrs, shardings, [wanted(case)], shard_bytes, exact=True)


@pytest.mark.parametrize("number", range(len(REGROUPINGS)))
def test_regroupings_give_the_whole(number: int) -> None:
    case = REGROUPINGS[number]
    for scheme, shard_bytes in itertools.product(SCHEMES, (1, 24, 1 << 20)):
        check_regrouping(case, [by_scheme(scheme, a.shape) for a in case.arrays], shard_bytes)


@settings(quick, max_examples=120)
@given(st.data())
def test_regroupings_of_operands_that_are_cut_differently(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(REGROUPINGS))
    shardings = [data.draw(random_cuts(a.shape)) for a in case.arrays]
    check_regrouping(case, shardings, data.draw(st.sampled_from([1, 24, 100])))


@pytest.mark.parametrize(
    "slices", [((0, 4, 2),), ((5, 2, 1),), ((4, 3, -2),), ((0, 1, 0),), (), ((0, 1, 1), (0, 1, 1))]
)
def test_slices_that_are_not_in_the_tensor_are_refused(slices: Any) -> None:
    x = avals_of([normal(6)])
    with pytest.raises(ValueError, match=r"slice|zip"):
        TABLE["slice"].shape(x, {"slices": slices})
    with pytest.raises(ValueError, match=r"slice|zip"):
        TABLE["slice_put"].shape([*x, *avals_of([normal(*(s[1] for s in slices))])], {"parts": (slices,)})


def test_a_source_that_does_not_fill_its_slice_is_refused() -> None:
    for source in (normal(2), normal(3, 1), normal(dtype="float64"), normal(3, dtype="float64")):
        with pytest.raises(ValueError, match="does not fill the slice"):
            TABLE["slice_put"].shape(avals_of([normal(6), source]), {"parts": (((0, 3, 2),),)})


def test_every_primitive_is_tried() -> None:
    assert {*CASES, *(c.name for c in REGROUPINGS)} == set(TABLE)


# Rules keep what is cut where it is.


def stays(made: Layout, shardings: Sequence[Sharding]) -> bool:
    """Whether the node runs on as many shards as one of its operands has, which need not move."""
    return any(
        s.count == made.shards > 1 and s == need for s, need in zip(shardings, made.needs, strict=True)
    )


def gathered(table: dict[str, Primitive], sample: Any) -> set[str]:
    """Primitives that need their operands moved or whole, whichever dimension is cut."""
    found = set()
    for name in CASES:
        done = False
        for number in range(len(CASES[name])):
            _, arrays, attrs, _ = sample(name, number)
            avals = avals_of(arrays)
            outs = tuple(table[name].shape(avals, attrs))
            for d in range(max((a.ndim for a in arrays), default=0)):
                shardings = [cut(a.shape, {d: [1]} if d < a.ndim else {}) for a in arrays]
                done = done or stays(layout(table[name], avals, outs, shardings, attrs, 1 << 20), shardings)
        if not done and any(c.arrays for c in CASES[name]):
            found.add(name)
    return found


# The key of a draw is two numbers, and an optimizer changes by `update_all` what has one shard.
WHOLE = {"random", "update_all"}


def test_no_rule_gathers_what_is_cut(sample: Any) -> None:
    assert gathered(TABLE, sample) == WHOLE


@pytest.mark.parametrize("name", ["add", "sum", "contract", "softmax", "take", "permute"])
def test_a_dropped_rule_is_found(name: str, sample: Any) -> None:
    def none(avals: Any, attrs: Any) -> Labels:
        labels = TABLE[name].labels(avals, attrs)  # type: ignore[misc]
        rows = [tuple((None,) * len(row) for row in rows) for rows in (labels.ins, labels.outs)]
        return Labels(rows[0], rows[1], labels.merge)

    assert gathered({**TABLE, name: replace(TABLE[name], labels=none)}, sample) == {name, *WHOLE}


def test_operands_that_are_cut_alike_stay_where_they_are() -> None:
    s = cut((12, 6), {0: [5, 5, 9]})
    x = avals_of([normal(12, 6)])[0]
    for name, n, attrs in (("add", 2, {}), ("exp", 1, {}), ("where", 3, {}), ("softmax", 1, {"dim": 1})):
        made = layout(TABLE[name], [x] * n, [x], [s] * n, attrs, 1)
        assert (made.needs, made.outs, made.shards, made.merged) == ((s,) * n, (s,), 4, False)


def test_operands_that_are_shifted_meet_where_nothing_is() -> None:
    base = Cut.even(20, 5)
    shifted, more, apart = base.sliced(1, 17, 1), base.sliced(3, 17, 1), Cut.at(17, [0, 2, 9, 10, 17])
    row = [(Aval((17,), np.dtype("float32")), Sharding((c,))) for c in (shifted, more, apart)]

    def grid(*which: int) -> Cut:
        avals, shardings = zip(*(row[i] for i in which), strict=True)
        return layout(TABLE["add"], avals, avals[:1], shardings, {}, 8).grid[0][1]

    assert grid(0, 0) == shifted
    assert grid(0, 1) == grid(1, 0) == base.sliced(0, 17, 1) == Cut.even(17, 5)
    assert grid(0, 2) == shifted


def test_a_small_operand_is_whole_on_every_worker_and_a_large_one_stays() -> None:
    """x @ w with x cut by rows; x.T @ y, which is summed over the shards."""
    x, w, y = normal(12, 6), normal(6, 4), normal(12, 4)
    rows = cut(x.shape, {0: [5, 9]})
    made = check_case("contract", (x, w), {"subscripts": "mk,kn->mn"}, [rows, Sharding.whole(w.shape)])
    assert (made.needs, made.merged) == ((rows, Sharding.whole(w.shape)), False)
    assert made.outs == (cut(y.shape, {0: [5, 9]}),)
    made = check_case("contract", (x, y), {"subscripts": "mk,mn->kn"}, [rows, cut(y.shape, {0: [5, 9]})])
    assert (made.needs, made.merged) == ((rows, cut(y.shape, {0: [5, 9]})), True)
    assert made.outs == (Sharding.whole((6, 4)),)


# Planted faults.

SHIFTED: dict[str, Callable[[Layout], Layout]] = {
    "results cut elsewhere": lambda made: made._replace(outs=(cut(made.outs[0].shape, {0: [1, 2, 3]}),)),
    "results not cut": lambda made: made._replace(outs=(Sharding.whole(made.outs[0].shape),)),
    "operands cut elsewhere": lambda made: made._replace(needs=(cut(made.needs[0].shape, {0: [1, 2, 3]}),)),
    "a shard too few": lambda made: made._replace(shards=made.shards - 1),
}


@pytest.mark.parametrize("fault", SHIFTED)
@pytest.mark.parametrize("name", ["reshape", "slice", "reshard"])
def test_a_wrong_regrouping_is_found(name: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in REGROUPINGS if c.name == name and c.arrays[0].shape in ((35,), (9,)))
    shardings = [cut(case.arrays[0].shape, {0: [4, 6, 8]})]
    target = cut(case.arrays[0].shape, {0: [2, 6, 7]})
    case = case if name != "reshard" else case._replace(attrs=lambda s: {"cuts": target})
    check_regrouping(case, shardings, 24)
    rule = TABLE[name].regroup
    wrong = replace(TABLE[name], regroup=lambda *args: SHIFTED[fault](rule(*args)))  # type: ignore[misc]
    monkeypatch.setitem(TABLE, name, wrong)
    with pytest.raises((AssertionError, ValueError, IndexError, RuntimeError)):
        check_regrouping(case, shardings, 24)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("sum", Labels(((0, 1),), ((1,),), "maximum")),
        ("sum", Labels(((0, 1),), ((1,),), "multiply")),
        ("softmax", Labels(((0, 1),), ((0, 1),))),
        ("contract", Labels(((0, 1), (1, 2)), ((0, 2),), "maximum")),
        ("contract", Labels(((0, 1), (2, None)), ((0, None),), "add")),
        ("cumsum", Labels(((0, 1),), ((0, 1),))),
        ("index_add", Labels(((0,), (0, 1, 2)), ((None, 1, 2),), "maximum")),
    ],
)
def test_a_wrong_label_rule_is_found(
    name: str, wrong: Labels, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, arrays, attrs, _ = sample(name, 0)

    def try_all() -> None:
        for scheme in SCHEMES:
            check_case(name, arrays, attrs, [by_scheme(scheme, a.shape) for a in arrays])

    try_all()
    monkeypatch.setitem(TABLE, name, replace(TABLE[name], labels=lambda avals, attrs: wrong))
    with pytest.raises((AssertionError, ValueError, IndexError, RuntimeError)):
        try_all()


def test_layouts_that_a_rule_cannot_have_made_are_told() -> None:
    x = avals_of([normal(12, 6)])[0]
    s = cut((12, 6), {0: [5]})
    made = layout(TABLE["exp"], [x], [x], [s], {}, 1)
    assert agrees(made, TABLE["exp"], [x], {})
    other = cut((12, 6), {0: [6]})
    for wrong in (
        made._replace(needs=(other,)), made._replace(outs=(other,)), made._replace(shards=3),
        made._replace(grid=()), made._replace(grid=((0, other.cuts[0]),)), made._replace(grid=((1, s.cuts[0]),)),
        made._replace(grid=made.grid * 2), made._replace(merged=True), made._replace(labels=None),
    ):  # fmt: skip
        assert not agrees(wrong, TABLE["exp"], [x], {})
