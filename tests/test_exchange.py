"""The fixed tree and the moves between workers: the same bits however the shards are spread, each element once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_trees import LEAVES, WIDTH, quick, reference

from distgrad.errors import WireError
from distgrad.exchange import Failure, Reduce, ReduceScatter, Reshard, Tree, held, inside, reduce, senders
from distgrad.exchange.routing import addressed, receivers
from distgrad.exchange.tree import subtrees
from distgrad.primitives import MERGES
from distgrad.program import Send, Slot
from distgrad.sharding import Cut, Sharding, owned
from distgrad.worker.execute import outgoing

# Sums on a grid.


@st.composite
def sums(draw: st.DrawFn) -> Reduce:
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    return Reduce(tuple(counts), tuple(draw(st.booleans()) for _ in counts), "add")


@quick
@given(sums())
def test_leaves_number_the_sums_and_the_places_in_them_in_c_order(what: Reduce) -> None:
    grid = list(itertools.product(*(range(n) for n in what.counts)))
    axes = list(zip(what.counts, what.reduced, strict=True))
    sizes = [math.prod(n for n, r in axes if r is reduced) for reduced in (False, True)]
    numbered = list(what.leaves(range(len(grid))))
    assert sorted((kept, leaf) for _, kept, leaf in numbered) == list(itertools.product(*map(range, sizes)))
    for (shard, kept, leaf), cell in zip(numbered, grid, strict=True):
        assert grid[shard] == cell
        for number, reduced in ((kept, False), (leaf, True)):
            along = [(i, n) for i, n, r in zip(cell, what.counts, what.reduced, strict=True) if r is reduced]
            expected = 0
            for i, n in along:
                expected = expected * n + i
            assert number == expected


def exchanged(
    what: Reduce, merge: str, workers: int, partials: Sequence[np.ndarray], channel: str
) -> list[np.ndarray]:
    """All sums, as a stage merges, sends and receives them."""
    what = Reduce(what.counts, what.reduced, merge)
    kept = math.prod(n for n, r in zip(what.counts, what.reduced, strict=True) if not r)
    sent = []
    for w in range(workers):
        trees: dict[int, Tree] = {}
        for shard, number, leaf in what.leaves(owned(len(partials), workers, w)):
            trees.setdefault(number, what.tree()).push(0, leaf, partials[shard])
        sent.append(outgoing(Send(0, what, channel), trees, w, workers))
    slot = Slot(partials[0].dtype, Sharding(tuple(Cut.even(kept * n, n) for n in partials[0].shape)))
    if channel != "each":
        return what.receive([s[0] for s in sent], workers, range(kept), slot)
    received: list[np.ndarray] = []
    for w in range(workers):
        mine = held(kept, workers, w)
        result = what.receive([s[w] for s in sent], workers, mine, slot)
        assert len(result) == len(mine)
        received += result
    return received


@quick
@given(
    sums(), st.integers(1, 6), st.sampled_from(["small", "large", "each"]), st.sampled_from(sorted(MERGES))
)
def test_sums_have_the_same_bits_for_any_number_of_workers(
    what: Reduce, workers: int, channel: str, merge: str
) -> None:
    count = math.prod(what.counts)
    kept = math.prod(n for n, r in zip(what.counts, what.reduced, strict=True) if not r)
    if channel == "each" and kept == 1:
        channel = "large"  # a single sum goes to all
    partials: list[np.ndarray] = list(LEAVES[:count])
    if merge in ("and", "or"):
        partials = [p > 0 for p in partials]
    elif merge == "disjoint":  # each element in one of them
        partials = [np.where(np.arange(WIDTH) == n, p, 0) for n, p in enumerate(partials)]
    got = exchanged(what, merge, workers, partials, channel)
    assert len(got) == kept
    for number in range(kept):
        mine = [partials[shard] for shard, k, _ in what.leaves(range(count)) if k == number]
        expected = np.asarray(reference(mine, MERGES[merge]))
        assert (got[number].dtype, got[number].tobytes()) == (expected.dtype, expected.tobytes())


@quick
@given(st.integers(1, 9), st.integers(1, 6), st.lists(st.integers(0, 8), max_size=4), st.integers(1, 4))
def test_a_sum_that_goes_in_cuts_has_the_bits_of_the_whole(
    count: int, workers: int, inner: list[int], across: int
) -> None:
    partials = [a.reshape(8, 8) for a in LEAVES[:count]]
    target = Sharding((Cut.at(8, [0, *sorted(inner), 8]), Cut.even(8, across)))
    what = ReduceScatter((count,), (True,), "add", target)
    sent = []
    for w in range(workers):
        tree = Tree(np.add)
        for leaf in owned(count, workers, w):
            tree.push(0, leaf, partials[leaf])
        trees = {0: tree} if tree.stack else {}
        sent.append(outgoing(Send(0, what, "each"), trees, w, workers))
    expected = reference(partials)
    for w in range(workers):
        mine = held(target.count, workers, w)
        got = what.receive([s[w] for s in sent], workers, mine, Slot(partials[0].dtype, target))
        cells = [target.cell(shard) for shard in mine]
        assert len(got) == len(mine)
        for array, cell in zip(got, cells, strict=True):
            assert array.tobytes() == expected[tuple(slice(lo, hi) for lo, hi in cell)].tobytes()


@quick
@given(sums(), st.integers(1, 6))
def test_what_is_sent_for_a_sum_is_known_on_both_sides(what: Reduce, workers: int) -> None:
    count = math.prod(what.counts)
    kept = math.prod(n for n, r in zip(what.counts, what.reduced, strict=True) if not r)
    covered: dict[int, list[int]] = {k: [] for k in range(kept)}
    reduced = count // kept
    for w in range(workers):
        found = subtrees(what.axes, owned(count, workers, w), what.exact)
        assert what.sent(workers, w, range(kept)) == [(k, len(trees)) for k, trees in found.items()]
        for k, trees in found.items():
            for level, i in trees:
                covered[k] += [n for n in range(i << level, (i + 1) << level) if n < reduced]
    assert all(sorted(numbers) == list(range(reduced)) for numbers in covered.values())


def test_few_arrays_are_sent_for_a_sum() -> None:
    what = Reduce((4096,), (True,), "add")
    for workers in (2, 3, 7):
        for w in range(workers):
            ((_, sent),) = what.sent(workers, w, range(1))
            assert sent <= 2 * math.log2(4096 / workers) + 2


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_parts_that_do_not_overlap_leave_as_one(workers: int) -> None:
    what = Reduce((13,), (True,), "disjoint")
    parts = [np.where(np.arange(26) // 2 == shard, LEAVES[0, :26], 0) for shard in range(13)]
    assert [n for w in range(workers) for _, n in what.sent(workers, w, range(1))] == [1] * workers
    (whole,) = exchanged(what, "disjoint", workers, parts, "large")
    assert whole.tobytes() == LEAVES[0, :26].tobytes()


def test_scalar_partials_are_merged() -> None:
    what = Reduce((5,), (True,), "add")
    partials = [np.asarray(np.float32(v)) for v in LEAVES[:5, 0]]
    (total,) = exchanged(what, "add", 3, partials, "small")
    assert (total.shape, total.dtype) == ((), np.float32)
    assert total.tobytes() == np.asarray(reference(partials)).tobytes()


# Moves.


@st.composite
def moves(draw: st.DrawFn) -> Reshard:
    """Two random ways to cut a tensor, with empty shards."""
    shape = draw(st.lists(st.integers(0, 7), max_size=3))

    def cut(size: int) -> Cut:
        return Cut.at(size, [0, *sorted(draw(st.lists(st.integers(0, size), max_size=3))), size])

    return Reshard(Sharding(tuple(map(cut, shape))), Sharding(tuple(map(cut, shape))))


def check_overlaps(move: Reshard, listing: Callable[..., Any]) -> None:
    count = np.zeros(move.target.shape, int)
    pairs = []
    for source, target, region in listing(move, range(move.source.count), range(move.target.count)):
        pairs.append((source, target))
        for cell in (move.source.cell(source), move.target.cell(target)):
            assert all(a <= lo < hi <= b for (lo, hi), (a, b) in zip(region, cell, strict=True))
        count[tuple(slice(lo, hi) for lo, hi in region)] += 1
    assert (count == 1).all()
    assert pairs == sorted(set(pairs))


@quick
@given(moves())
def test_overlaps_cover_the_target_exactly_once(move: Reshard) -> None:
    check_overlaps(move, Reshard.overlaps)


def test_a_dropped_or_doubled_overlap_is_found() -> None:
    move = Reshard(Sharding((Cut.even(6, 2),)), Sharding((Cut.even(6, 4),)))
    check_overlaps(move, Reshard.overlaps)
    with pytest.raises(AssertionError):
        check_overlaps(move, lambda *args: itertools.islice(Reshard.overlaps(*args), 1, None))
    with pytest.raises(AssertionError):
        check_overlaps(move, lambda *args: [*Reshard.overlaps(*args), *Reshard.overlaps(*args)])


@quick
@given(moves(), st.integers(1, 5), st.booleans())
def test_moved_shards_hold_what_they_should(move: Reshard, workers: int, each: bool) -> None:
    array = np.arange(math.prod(move.source.shape)).reshape(move.source.shape)
    each = each and move.target.count > 1
    send = Send(0, move, "each" if each else "large")

    def pieces(sharding: Sharding, w: int) -> list[np.ndarray]:
        shards = held(sharding.count, workers, w)
        return [array[tuple(slice(lo, hi) for lo, hi in sharding.cell(s))] for s in shards]

    sent = [outgoing(send, pieces(move.source, w), w, workers) for w in range(workers)]
    for w in range(workers):
        shards = held(move.target.count, workers, w) if each else range(move.target.count)
        items = [s[w if each else 0] for s in sent]
        got = move.receive(items, workers, shards, Slot(array.dtype, move.target))
        expected = [array[tuple(slice(lo, hi) for lo, hi in move.target.cell(s))] for s in shards]
        assert [g.shape for g in got] == [e.shape for e in expected]
        assert all(np.array_equal(g, e) for g, e in zip(got, expected, strict=True))
    total = sum(a.size for s in sent for item in s for a in item)
    assert total == array.size  # nothing is sent twice, though a whole value lies on every worker


@quick
@given(st.integers(0, 1), st.data())
def test_pieces_that_stay_apart_read_like_a_shard(dim: int, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    base = Cut.even(2 * shape[dim], data.draw(st.integers(1, 5)))
    start, other = data.draw(st.integers(0, shape[dim])), data.draw(st.integers(0, shape[dim]))
    cuts = [Cut(n) for n in shape]
    shardings = []
    for first in (start, other):
        cuts[dim] = base.sliced(first, shape[dim], 1)
        shardings.append(Sharding(tuple(cuts)))
    move = Reshard(*shardings)
    regions = [[tuple(slice(*b) for b in s.cell(i)) for i in range(s.count)] for s in shardings]
    (items,) = outgoing(Send(0, move, "large"), [array[r] for r in regions[0]], 0, 1)
    shards, slot = range(move.target.count), Slot(array.dtype, move.target)
    for got, region in zip(move.receive([items], 1, shards, slot, along=dim), regions[1], strict=True):
        expected = array[region]
        length = expected.shape[dim]
        lo = data.draw(st.integers(0, max(0, length - 1)))
        hi = data.draw(st.integers(min(lo + 1, length), length))
        tile = (*(slice(None),) * dim, slice(lo, hi))
        assert np.array_equal(got[tile], expected[tile])
        assert not isinstance(got, np.ndarray) or got.shape == expected.shape
    if move.source != move.target and items:
        with pytest.raises(WireError, match=r"shard: .* of shape"):
            move.receive([[a[..., None] for a in items]], 1, shards, slot, along=dim)


def test_one_worker_speaks_for_a_whole_value() -> None:
    whole = Sharding.whole((3,))
    assert [len(senders(whole, 4, w)) for w in range(4)].count(1) == 1
    assert [list(held(1, 4, w)) for w in range(4)] == [[0]] * 4
    assert inside(((2, 4), (5, 6)), ((1, 9), (5, 7))) == (slice(1, 3), slice(0, 1))


@pytest.mark.parametrize("channel", ["small", "large", "each"])
def test_a_failure_is_sent_to_every_receiver(channel: str) -> None:
    failure = Failure("ValueError", "text", 3, 7)
    sent = outgoing(Send(0, Reduce((4,), (False,), "add"), channel), failure, 0, 3)
    assert sent == [failure] * (3 if channel == "each" else 1)


def test_what_is_remembered_of_subtrees_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = reduce._subtrees.cache  # type: ignore[attr-defined]
    monkeypatch.setattr(cache, "limit", 100_000)
    for n in range(1, 300):
        Reduce((n,), (True,), "add").sent(2, 0, range(1))
    assert cache.nbytes <= 100_000
    assert 20 < len(cache) < 100


@quick
@given(moves(), st.integers(1, 9))
def test_whoever_gets_a_moved_shard_is_addressed(move: Reshard, workers: int) -> None:
    send = Send(0, move, "each")
    if move.target.count == 1:
        return
    for w in range(workers):
        found = receivers((send,), workers, w)
        assert w not in found
        assert list(found) == sorted(set(found))
        for to in range(workers):
            parts = move.overlaps(owned(move.source.count, workers, w), held(move.target.count, workers, to))
            assert to in (*found, w) or not list(parts)


@quick
@given(sums(), st.integers(1, 9))
def test_whoever_owns_a_sum_is_addressed(what: Reduce, workers: int) -> None:
    total = math.prod(n for n, r in zip(what.counts, what.reduced, strict=True) if not r)
    if total == 1:
        return
    for w in range(workers):
        found = receivers((Send(0, what, "each"),), workers, w)
        for to in range(workers):
            assert to in (*found, w) or not what.sent(workers, w, held(total, workers, to))


def test_addresses_do_not_grow_with_the_square_of_the_workers() -> None:
    """Rows cut otherwise go to neighbours, and a sum in four pieces to four workers."""
    workers, rows = 1024, Cut.even(1 << 24, 1 << 12)
    move = Reshard(Sharding((Cut.even(1 << 24, 1 << 10),)), Sharding((rows,)))
    assert sum(len(to) for to in addressed((Send(0, move, "each"),), workers)) <= 2 * workers
    what = Reduce((4, 4096), (False, True), "add")
    assert all(len(to) <= 4 for to in addressed((Send(0, what, "each"),), workers))
