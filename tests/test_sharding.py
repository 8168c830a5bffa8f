"""`Cut` and `Sharding` against brute force: every method must say what listing all elements says."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distgrad.cutting import sharding_of
from distgrad.sharding import Cut, Region, Sharding, owned, owner, sharding_from_wire

quick = settings(max_examples=50, deadline=None, derandomize=True, database=None)


@st.composite
def cuts(draw: st.DrawFn, longest: int = 9) -> Cut:
    """Whole, even, regular or at points; pieces may be empty, and so may the dimension."""
    size = draw(st.integers(0, longest))
    if draw(st.booleans()):
        step, offset = draw(st.integers(1, longest)), draw(st.integers(0, 2 * longest))
        return Cut.regular(size, step, offset, max(1, -(-(size + offset) // step)) + draw(st.integers(0, 2)))
    if draw(st.booleans()):
        return Cut.even(size, draw(st.integers(0, longest)))
    inner = draw(st.lists(st.integers(0, size), max_size=4))
    return Cut.at(size, [0, *sorted(inner), size])


shardings = st.lists(cuts(6), max_size=3).map(lambda c: Sharding(tuple(c)))


def pieces(cut: Cut) -> list[set[int]]:
    """The elements of each piece."""
    return [set(range(*cut.bounds(i))) for i in range(cut.count)]


def elements(region: Region) -> set[tuple[int, ...]]:
    return set(itertools.product(*(range(lo, hi) for lo, hi in region)))


# Cuts.


@quick
@given(cuts())
def test_pieces_of_a_cut_hold_each_element_once_and_in_order(cut: Cut) -> None:
    listed = [e for i in range(cut.count) for e in range(*cut.bounds(i))]
    assert listed == list(range(cut.size))
    assert cut.count == len(cut.edges) - 1 >= 1
    assert [cut.bounds(i) for i in range(cut.count)] == list(itertools.pairwise(cut.edges))
    assert cut.longest == max(len(p) for p in pieces(cut))


@quick
@given(cuts())
def test_equal_points_are_equal_cuts(cut: Cut) -> None:
    again = Cut.at(cut.size, cut.edges)
    assert again == cut
    assert hash(again) == hash(cut)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Cut.at(10, [0, 4, 8, 10]), Cut.even(10, 4)),
        (Cut.at(8, [0, 4, 8]), Cut.even(8, 4)),
        (Cut.at(7, [0, 7]), Cut(7)),
        (Cut.even(7, 7), Cut(7)),
        (Cut.even(7, 100), Cut(7)),
        (Cut.even(0, 3), Cut(0)),
        (Cut.at(0, [0, 0]), Cut(0)),
        (Cut.at(5, np.array([0, 2, 4, 5])), Cut.even(5, 2)),
    ],
)
def test_two_ways_to_write_one_cut(a: Cut, b: Cut) -> None:
    assert a == b
    assert hash(a) == hash(b)


def test_an_empty_piece_tells_cuts_apart() -> None:
    assert Cut.at(4, [0, 2, 2, 4]) != Cut.at(4, [0, 2, 4])
    assert Cut.at(4, [0, 4, 4]) != Cut(4)
    assert Cut.at(0, [0, 0, 0]).count == 2


@quick
@given(st.integers(0, 9), st.integers(1, 9), st.integers(0, 20), st.integers(1, 5))
def test_regular_points_outside_of_the_dimension_are_moved_to_its_ends(
    size: int, step: int, offset: int, more: int
) -> None:
    count = -(-(size + offset) // step) + more
    cut = Cut.regular(size, step, offset, count)
    assert cut.points is None
    assert cut.edges == (*(min(size, max(0, i * step - offset)) for i in range(count)), size)
    assert sharding_from_wire(msgpack.unpackb(msgpack.packb([cut.wire()]))).cuts == (cut,)


@pytest.mark.parametrize(
    "wire", [[9, 3, 0, 3], [9, 3, 0, 2], [9, 3, -1, 4], [9, 0, 0, 1], [9, 3, 1], [9, 9, 0, 1]]
)
def test_a_regular_cut_is_read_only_as_it_is_written(wire: list[int]) -> None:
    with pytest.raises(ValueError, match="not a cut"):
        sharding_from_wire([wire])


def test_slices_of_many_pieces_stay_small() -> None:
    cut = Cut.even(1 << 40, 1 << 20)
    for start, length, step in [(1, (1 << 40) - 1, 1), (5, 1 << 30, 1), (7, 1 << 30, 16), (1 << 39, 9, 1)]:
        sliced = cut.sliced(start, length, step)
        assert sliced.count == cut.count
        assert len(sliced.wire()) == 4
        assert sliced.unshifted().bounds(0)[0] == 0


@pytest.mark.parametrize("points", [[], [0], [1, 4], [0, 3], [0, 5], [0, 3, 2, 4], [-1, 4], [0, -1, 4]])
def test_points_that_do_not_rise_from_0_to_the_size_are_refused(points: list[int]) -> None:
    with pytest.raises(ValueError, match="must rise from 0 to 4"):
        Cut.at(4, points)


def test_a_short_first_piece_of_a_long_dimension_costs_nothing() -> None:
    assert Cut.at(1 << 60, [0, 1, 1 << 60]).count == 2


@quick
@given(cuts(), st.data())
def test_overlapping_pieces_are_those_that_share_elements(cut: Cut, data: st.DataObject) -> None:
    lo = data.draw(st.integers(0, cut.size))
    hi = data.draw(st.integers(0, cut.size))
    found = cut.overlapping(lo, hi)
    sharing = [i for i, piece in enumerate(pieces(cut)) if piece & set(range(lo, hi))]
    assert [i for i in found if pieces(cut)[i]] == sharing
    if sharing:  # empty pieces only inside
        assert (found[0], found[-1]) == (sharing[0], sharing[-1])


@quick
@given(cuts(), st.integers(0, 4))
def test_scaled_cut_falls_between_the_same_elements(cut: Cut, factor: int) -> None:
    scaled = cut.scaled(factor)
    assert scaled.size == cut.size * factor
    assert pieces(scaled) == [{e * factor + k for e in piece for k in range(factor)} for piece in pieces(cut)]


@quick
@given(cuts(), st.integers(0, 4))
def test_divided_cut_undoes_scaling_or_splits_a_run(cut: Cut, factor: int) -> None:
    divided = cut.divided(factor)
    if factor and all(edge % factor == 0 for edge in cut.edges):
        assert divided is not None
        assert divided.edges == tuple(edge // factor for edge in cut.edges)
        assert divided.scaled(factor) == cut
    else:
        assert divided is None


@quick
@given(cuts(), st.data())
def test_sliced_cut_leaves_each_element_in_its_piece(cut: Cut, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, cut.size))
    step = data.draw(st.integers(1, 4))
    length = data.draw(st.integers(0, max(0, -(-(cut.size - start) // step))))
    sliced = cut.sliced(start, length, step)
    chosen = range(start, start + length * step, step)
    assert sliced.count == cut.count
    assert pieces(sliced) == [{k for k, e in enumerate(chosen) if e in piece} for piece in pieces(cut)]


# Shardings.


@quick
@given(shardings)
def test_cells_of_a_sharding_hold_each_element_once(sharding: Sharding) -> None:
    count = np.zeros(sharding.shape, int)
    for shard in range(sharding.count):
        count[tuple(slice(*b) for b in sharding.cell(shard))] += 1
    assert (count == 1).all()
    assert sharding.count == math.prod(sharding.grid) >= 1
    assert sharding.largest == max(len(elements(sharding.cell(i))) for i in range(sharding.count))
    assert sharding.cut_dims == tuple(d for d, c in enumerate(sharding.cuts) if c.count > 1)


@quick
@given(shardings)
def test_shards_are_numbered_in_c_order(sharding: Sharding) -> None:
    numbers = list(itertools.product(*(range(n) for n in sharding.grid)))
    for shard, number in enumerate(numbers):
        expected = tuple(cut.bounds(i) for cut, i in zip(sharding.cuts, number, strict=True))
        assert sharding.cell(shard) == expected


@quick
@given(shardings, st.data())
def test_overlapping_shards_are_those_that_share_elements(sharding: Sharding, data: st.DataObject) -> None:
    region = tuple((data.draw(st.integers(0, n)), data.draw(st.integers(0, n))) for n in sharding.shape)
    found = list(sharding.overlapping(region))
    assert found == sorted(set(found))
    cells = [elements(sharding.cell(i)) for i in range(sharding.count)]
    wanted = elements(region)
    sharing = [i for i, cell in enumerate(cells) if cell & wanted]
    assert [i for i in found if cells[i]] == sharing


@quick
@given(shardings)
def test_a_sharding_is_a_value(sharding: Sharding) -> None:
    again = Sharding(tuple(Cut.at(c.size, c.edges) for c in sharding.cuts))
    assert again == sharding
    assert hash(again) == hash(sharding)
    assert {again: 1}[sharding] == 1
    assert f"shards={sharding.count}" in repr(sharding)


def test_repr_names_the_cuts() -> None:
    sharding = sharding_of((10, 6, 3), {0: 4, 1: [2, 2]})
    expected = "Sharding(shape=(10, 6, 3), shards=9, cuts={0: every 4, 1: [0, 2, 2, 6]})"
    assert repr(sharding) == expected


def test_a_tensor_without_dimensions_has_one_shard() -> None:
    whole = Sharding.whole(())
    assert (whole.count, whole.cell(0), whole.largest, list(whole.overlapping(()))) == (1, (), 1, [0])
    assert Sharding.whole((3, 4)) is Sharding.whole([3, 4])


# On the wire.


@quick
@given(shardings)
def test_wire_round_trip(sharding: Sharding) -> None:
    assert sharding_from_wire(msgpack.unpackb(msgpack.packb(sharding.wire()))) == sharding


number = st.one_of(st.integers(-2, 9), st.sampled_from([1 << 40, -(1 << 40)]))
anything = st.one_of(number, st.booleans(), st.floats(), st.text(max_size=2), st.none())


@quick
@given(st.lists(st.lists(st.one_of(number, anything), max_size=5), max_size=3))
def test_from_wire_takes_only_what_wire_can_have_written(raw: list[Any]) -> None:
    try:
        sharding = sharding_from_wire(raw)
    except ValueError:
        return
    assert all(n >= 0 for n in sharding.shape)
    assert sharding_from_wire(sharding.wire()) == sharding
    assert all(type(i) is int for c in raw for i in c)


@pytest.mark.parametrize(
    "cut",
    [[], [3], [3, 3], [3, 4], [-1, 0], [3, -2], [3, 1, 1], [3, True], [3.0, 1], [3, -1], [3, -1, 0, 2],
     [3, -1, 1, 3], [3, -1, 0, 2, 1, 3], [None, 0], ["3", 0]],
)  # fmt: skip
def test_a_damaged_cut_is_refused(cut: list[Any]) -> None:
    with pytest.raises(ValueError, match="cut"):
        sharding_from_wire([cut])


# Owners.


@quick
@given(st.integers(1, 200), st.integers(1, 70))
def test_ranges_of_the_workers_follow_each_other_and_owner_is_the_inverse(count: int, workers: int) -> None:
    ranges = [owned(count, workers, w) for w in range(workers)]
    assert [s for r in ranges for s in r] == list(range(count))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
    for shard in range(count):
        assert shard in ranges[owner(count, workers, shard)]


# Default cuts.

shapes = st.lists(st.sampled_from([0, 1, 2, 3, 7, 255, 256, 257, 300, 1000, 4097]), max_size=4).map(tuple)
itemsizes = st.sampled_from([1, 4, 8])
budgets = st.sampled_from([1, 16, 1 << 10, 1 << 16, 1 << 20])
