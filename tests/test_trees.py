"""The fixed tree of additions: any owners of its leaves give the same bits, and an altered order is found."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distgrad.exchange import Tree
from distgrad.sharding import owned

quick = settings(max_examples=50, deadline=None, derandomize=True, database=None)

# Floats for which every order of additions gives other bits.
RNG = np.random.default_rng(5)
WIDTH = 64
LEAVES = (RNG.standard_normal((64, WIDTH)) * 10.0 ** RNG.integers(-2, 3, (64, WIDTH))).astype(np.float32)

Merge = Callable[..., Any]


def reference(arrays: Sequence[np.ndarray], merge: Merge = np.add) -> np.ndarray:
    """The tree by its definition: pairs of neighbours, then pairs of pairs; one left over goes up as it is."""
    level = list(arrays)
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [merge(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


def spread(tree: Callable[[Any], Tree], arrays: Sequence[np.ndarray], edges: Sequence[int]) -> np.ndarray:
    """The merge by workers that own the leaves between `edges`, and one that puts together what they send."""
    final = tree(np.add)
    for lo, hi in itertools.pairwise(edges):
        own = tree(np.add)
        for i in range(lo, hi):
            own.push(0, i, arrays[i])
        for level, i, array, _ in own.stack:
            final.push(level, i, array)
    return final.finish()


def check_tree(tree: Callable[[Any], Tree], count: int, edges: Sequence[int]) -> None:
    arrays = [a.copy() for a in LEAVES[:count]]
    got = spread(tree, arrays, edges)
    assert got.tobytes() == reference(LEAVES[:count]).tobytes()
    np.testing.assert_array_equal(arrays, LEAVES[:count])  # what was sent is not written to


def test_the_leaves_tell_orders_apart() -> None:
    for count in range(3, 64):
        arrays = LEAVES[:count]
        running = np.add.accumulate(arrays)[-1]
        swapped = reference([arrays[1], arrays[2], arrays[0], *arrays[3:]])
        assert reference(arrays).tobytes() not in (
            swapped.tobytes(),
            *([running.tobytes()] if count > 3 else []),
        )


@pytest.mark.parametrize("count", range(1, 65))
def test_tree_is_that_of_the_definition(count: int) -> None:
    for workers in (1, 2, 3, 5, 64):
        ranges = [owned(count, workers, w) for w in range(workers)]
        check_tree(Tree, count, [0, *(r.stop for r in ranges)])


@quick
@given(st.integers(1, 64), st.data())
def test_any_owners_of_the_leaves_give_the_same_bits(count: int, data: st.DataObject) -> None:
    inner = data.draw(st.lists(st.integers(0, count), max_size=8))
    check_tree(Tree, count, [0, *sorted(inner), count])


class InOrder(Tree):
    """A planted fault: what there is is added up in order."""

    def push(self, level: int, i: int, array: Any, own: bool = False) -> None:
        if self.stack:
            *_, before, _ = self.stack.pop()
            array = self.merge(before, array)  # type: ignore[misc]
        self.stack.append((level, i, array, own))


class Greedy(Tree):
    """A planted fault: any two neighbours of one height are joined, whether they are siblings or not."""

    def push(self, level: int, i: int, array: Any, own: bool = False) -> None:
        while self.stack and self.stack[-1][0] == level:
            *_, before, _ = self.stack.pop()
            array, level = self.merge(before, array), level + 1  # type: ignore[misc]
        self.stack.append((level, i, array, own))

    def finish(self) -> Any:
        return reference([array for _, _, array, _ in self.stack])


class FromTheLeft(Tree):
    """A planted fault: what has no sibling is added from the left instead of the right."""

    def finish(self) -> Any:
        return np.add.accumulate([array for _, _, array, _ in self.stack])[-1]


def check_trees(tree: Callable[[Any], Tree]) -> None:
    for count, at in itertools.product(range(4, 12), range(1, 4)):
        check_tree(tree, count, [0, at, count])


@pytest.mark.parametrize("tree", [InOrder, Greedy, FromTheLeft])
def test_an_altered_order_is_found(tree: Callable[[Any], Tree]) -> None:
    check_trees(Tree)
    with pytest.raises(AssertionError):
        check_trees(tree)


def test_merges_in_place_only_what_is_its_own() -> None:
    arrays = [np.full(3, float(n)) for n in range(1, 9)]
    tree = Tree(np.add)
    for i, array in enumerate(arrays):
        tree.push(0, i, array)
    total = tree.finish()
    assert not any(np.shares_memory(total, a) for a in arrays)
    assert [a[0] for a in arrays] == list(range(1, 9))
