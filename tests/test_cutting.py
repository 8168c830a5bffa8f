"""How a tensor is cut where nobody says, and what a user may write."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_sharding import budgets, itemsizes, quick, shapes

from distgrad.cutting import MIN_ROWS, PRODUCT_ROOM, PRODUCT_ROWS, default_sharding, most_shards, sharding_of
from distgrad.sharding import Cut, Sharding


@quick
@given(shapes, itemsizes, budgets)
def test_default_cuts(shape: tuple[int, ...], itemsize: int, shard_bytes: int) -> None:
    sharding = default_sharding(shape, itemsize, shard_bytes)
    assert sharding.shape == shape
    assert all(cut.points is None for cut in sharding.cuts)
    assert sharding == default_sharding(shape, itemsize, shard_bytes)
    nbytes = math.prod(shape) * itemsize
    if nbytes <= max(shard_bytes, itemsize):
        assert sharding.count == 1
        return
    assert sharding.count > 1
    first = next(d for d, n in enumerate(shape) if n > 1)
    assert sharding.cut_dims[0] == first or shape[first] == MIN_ROWS
    longest = [cut.longest for cut in sharding.cuts]
    # A shard is at most as large as asked for, but a row is never cut where rows are short, nor are fewer than
    # MIN_ROWS made of a tensor that is long both ways; and a matrix has larger ones with many rows for products.
    matrix = len(shape) - first == 2 and longest[first] <= PRODUCT_ROWS
    limit = PRODUCT_ROOM * shard_bytes if matrix and min(shape[first:]) >= MIN_ROWS else shard_bytes
    assert sharding.largest * itemsize <= max(limit, itemsize) or longest[first] in (1, MIN_ROWS)
    for d in sharding.cut_dims[1:]:
        assert all(longest[e] == MIN_ROWS for e in sharding.cut_dims if e < d)


def test_default_cuts_of_a_table_and_of_a_large_matrix() -> None:
    assert default_sharding((100_000, 64), 4, 1 << 20) == sharding_of((100_000, 64), 4000)
    assert default_sharding((1, 1000, 4), 4, 1600) == sharding_of((1, 1000, 4), {1: 63})
    assert default_sharding((4096, 4096), 4, 4 << 20) == sharding_of((4096, 4096), 512)
    assert default_sharding((8192, 8192), 4, 4 << 20) == sharding_of((8192, 8192), PRODUCT_ROWS)
    assert default_sharding((300, 10_000), 4, 4 << 20) == sharding_of((300, 10_000), {0: MIN_ROWS, 1: 2500})
    both = default_sharding((50_000, 50_000), 4, 1 << 20)
    assert both == sharding_of((50_000, 50_000), {0: MIN_ROWS, 1: 1021})


# What a user writes.


def edges(sharding: Sharding) -> list[tuple[int, ...]]:
    return [cut.edges for cut in sharding.cuts]


@pytest.mark.parametrize(
    ("shape", "written", "expected"),
    [
        ((10,), 4, [(0, 4, 8, 10)]),
        ((10,), 10, [(0, 10)]),
        ((10,), [3], [(0, 3, 10)]),
        ((10,), [0, 3, 10], [(0, 3, 10)]),
        ((10,), (3, 3, 5), [(0, 3, 3, 5, 10)]),
        ((10,), [], [(0, 10)]),
        ((10,), [0], [(0, 10)]),
        ((10,), [10], [(0, 10)]),
        ((10,), [0, 10], [(0, 10)]),
        ((10,), [0, 0, 10], [(0, 0, 10)]),
        ((0,), 3, [(0, 0)]),
        ((0,), [0, 0, 0], [(0, 0, 0)]),
        ((4, 6), {1: 2}, [(0, 4), (0, 2, 4, 6)]),
        ((4, 6), {-1: [5], 0: 3}, [(0, 3, 4), (0, 5, 6)]),
        ((4, 6), {}, [(0, 4), (0, 6)]),
        ((), {}, []),
    ],
)
def test_sharding_of_what_a_user_writes(
    shape: tuple[int, ...], written: Any, expected: list[tuple[int, ...]]
) -> None:
    assert edges(sharding_of(shape, written)) == expected


def test_sharding_of_a_sharding_is_itself() -> None:
    sharding = sharding_of((4, 6), {1: 2})
    assert sharding_of((4, 6), sharding) is sharding


@pytest.mark.parametrize(
    ("shape", "written", "error", "text"),
    [
        ((4,), 0, ValueError, "at least one element"),
        ((4,), -1, ValueError, "at least one element"),
        ((4,), [3, 2], ValueError, "must rise from 0 to 4"),
        ((4,), [5], ValueError, "must rise from 0 to 4"),
        ((4,), [-1], ValueError, "must rise from 0 to 4"),
        ((4,), {1: 2}, IndexError, "but got 1"),
        ((4,), {-2: 2}, IndexError, "but got -2"),
        ((4,), "rows", TypeError, "a sharding is the length of a piece, .* not 'rows'"),
        ((4,), None, TypeError, "not None"),
        ((4,), 2.0, TypeError, r"not 2\.0"),
        ((4, 4), ((2, 2), (4,)), TypeError, "not "),
        ((4,), {"rows": 1}, TypeError, "dimensions must be whole numbers, not 'rows'"),
        ((4,), Sharding.whole((5,)), ValueError, r"for shape \[5\], the tensor has shape \[4\]"),
    ],
)
def test_sharding_of_errors(shape: tuple[int, ...], written: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        sharding_of(shape, written)


@quick
@given(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=4).map(sorted), st.booleans(), st.booleans())
def test_0_and_the_size_may_be_left_out(size: int, inner: Sequence[int], zero: bool, end: bool) -> None:
    inner = [p for p in inner if 0 < p < size]
    assume(size)
    points: Iterable[int] = [*([0] if zero else []), *inner, *([size] if end else [])]
    assert sharding_of((size,), list(points)) == Sharding((Cut.at(size, [0, *inner, size]),))


@given(st.integers(1, 10**7), st.integers(1, 64), st.sampled_from([1 << 12, 1 << 16, 1 << 20]))
def test_default_shards_are_equal_and_few_of_them_a_power_of_two(
    rows: int, columns: int, budget: int
) -> None:
    cut = default_sharding((rows, columns), 4, budget).cuts[0]
    while -(-rows // max(1, budget // (4 * columns))) > most_shards(rows * columns):
        budget *= 2  # there would be too many
    assert cut.count == 1 or cut.step * columns * 4 <= max(budget, 4 * columns)
    assert cut.count >= 16 or cut.count.bit_count() == 1 or cut.step <= 16
    last = cut.edges[-1] - cut.edges[-2]
    assert cut.count == 1 or cut.step - last < cut.count  # they could not be more equal
