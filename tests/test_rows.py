"""Rows, elements and small slices of large tensors: what they cost, what they are, and their gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from values import Start

import distgrad as t
from distgrad import session
from distgrad.errors import WireError
from distgrad.exchange import Reshard
from distgrad.plan.plans import Plan
from distgrad.session import door
from distgrad.sharding import Cut, Sharding, owned
from distgrad.wire import decode
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

A = np.arange(400.0).reshape(100, 4)


def on_workers(array: np.ndarray, rows: int) -> t.Tensor:
    x = t.tensor(array).reshard(rows)
    session.synchronize()
    return x


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_an_element_is_sent_by_the_shard_that_has_it_and_nothing_is_computed(
    workers: int, start: Start, plans: list[Plan]
) -> None:
    for rows in (50, 5, 1):
        start(workers)
        x = on_workers(A, rows)
        plans.clear()
        assert (x[7, 2].item(), x[99].numpy().tolist()) == (30.0, A[99].tolist())
        for plan in plans:
            (stage,) = plan.stages
            assert stage.program.fragments == ()
            (send,) = stage.program.sends
            assert isinstance(send.what, Reshard)
            sent = [
                [*send.what.overlaps(owned(send.what.source.count, workers, w), range(1))]
                for w in range(workers)
            ]
            assert sum(map(len, sent)) == 1
        assert len(plans) == 2


def test_rows_and_slices_have_their_values(torch: ModuleType) -> None:
    x = torch.tensor(A).reshard(3)
    y = x * 2
    for key in (0, -1, (slice(3, 9), 2), slice(1, 90, 7), (slice(2, 60, 3), slice(1, 4, 2)), slice(5, 5)):
        np.testing.assert_array_equal(x[key].numpy(), A[key])
        np.testing.assert_array_equal(y[key].numpy(), A[key] * 2)
    assert [row.sum().item() for row in x] == A.sum(1).tolist()
    assert [row.sum().item() for row in y.t()] == (2 * A).sum(0).tolist()
    assert [c.sum().item() for c in x.unbind(1)] == A.sum(0).tolist()
    total = x[0] + x[50] * x[99]
    np.testing.assert_array_equal(total.numpy(), A[0] + A[50] * A[99])


def test_a_slice_that_arrives_may_be_wanted_and_read_on(start: Start) -> None:
    """`v` comes whole from the shards of `p`, is negated where it arrives, and is still named."""
    start(2, 64)
    p = t.ones(3, 3, dtype=t.float64) * 1
    p.fill_(-3.0)
    p.mul_(2.0)
    v = p[1:]
    wide = p.expand(1, 3, 3)
    v.unsqueeze(2).neg_()
    assert p.tolist() == [[-6.0] * 3, [6.0] * 3, [6.0] * 3]
    assert (v.tolist(), wide.tolist()) == (p.tolist()[1:], [p.tolist()])


def test_rows_come_in_blocks(plans: list[Plan]) -> None:
    door.shutdown()
    door.attach(InProcess(2, Worker), shard_bytes=1024)
    try:
        x = on_workers(np.arange(8000.0).reshape(1000, 8), 10)
        plans.clear()
        rows = iter(x)
        next(rows)
        assert len(plans) == 1
        assert sum(row[0].item() for row in rows) == np.arange(8, 8000, 8).sum()
        assert len(plans) == math.ceil(1000 / 16)
    finally:
        door.shutdown()


def test_rows_are_views(torch: ModuleType) -> None:
    x = torch.tensor(A).reshard(30)
    want = A.copy()
    for i, row in enumerate(x):
        assert row._base is x
        if i % 10 == 0:
            row.mul_(2)
            x[99] += 1
            want[i] *= 2
            want[99] += 1
        if i == 99:
            np.testing.assert_array_equal(row.numpy(), want[99])
    np.testing.assert_array_equal(x.numpy(), want)
    rows = x.unbind(0)
    x[5] = 0.0
    want[5] = 0
    for row, right in zip(rows, want, strict=True):
        np.testing.assert_array_equal(row.numpy(), right)


def test_rows_share_one_node_and_their_gradients_come_together(torch: ModuleType) -> None:
    x = torch.tensor(A, requires_grad=True)
    y = x.reshard(7)
    rows = list(y)
    assert {row.grad_fn for row in rows} == {rows[0].grad_fn}
    assert [row.output_nr for row in rows[:3]] == [0, 1, 2]
    assert rows[0].grad_fn.name() == "UnbindBackward0"
    with pytest.raises(RuntimeError, match="Output 3 of Unbind is a view and is being modified inplace"):
        rows[3].mul_(2)
    loss = sum((float(i) * row * row).sum() for i, row in enumerate(rows) if i != 20)
    loss.backward()
    scale = np.arange(100.0)[:, None] * (np.arange(100) != 20)[:, None]
    np.testing.assert_array_equal(x.grad.numpy(), 2 * scale * A)


def test_the_gradient_of_rows_is_one_pass(start: Start, plans: list[Plan]) -> None:
    start(2, shard_bytes=256)
    x = t.tensor(A).reshard(8).requires_grad_()
    session.synchronize()
    loss = sum((row * row).sum() for row in x)
    plans.clear()
    loss.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * A)
    programs = [stage.program for plan in plans for stage in plan.stages]
    steps = [s for p in programs for f in p.fragments for loop in f.loops for s in loop.steps]
    assert [len(s.attrs["parts"]) for s in steps if s.primitive.name == "slice_put"] == [100]


def test_second_derivatives_go_through_rows(torch: ModuleType) -> None:
    x = torch.tensor(A[:6], requires_grad=True)
    first, _, *_, last = x.reshard(2).unbind(0)
    (g,) = torch.autograd.grad((first * first * last).sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), x)
    want = np.zeros((6, 4))
    want[0], want[5] = 2 * A[5] + 2 * A[0], 2 * A[0]
    np.testing.assert_array_equal(h.numpy(), want)


def test_a_number_has_no_rows() -> None:
    with pytest.raises(TypeError, match="iteration over a 0-d tensor"):
        iter(t.tensor(1.0))


# Moves of slices.
@st.composite
def moves(draw: st.DrawFn) -> Reshard:
    """A slice of a tensor that is cut in a random way, sent to random cuts."""
    shape = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))

    def cut(size: int) -> Cut:
        return Cut.at(size, [0, *sorted(draw(st.lists(st.integers(0, size), max_size=3))), size])

    slices = []
    for n in shape:
        start, step = draw(st.integers(0, n)), draw(st.integers(1, 3))
        slices.append((start, draw(st.integers(0, max(0, -(-(n - start) // step)))), step))
    lengths = [n for _, n, _ in slices]
    return Reshard(Sharding(tuple(map(cut, shape))), Sharding(tuple(map(cut, lengths))), tuple(slices))


def check(move: Reshard, listing: Callable[..., Any]) -> None:
    """Every element of the target comes once, and is the right one."""
    array = np.arange(math.prod(move.source.shape)).reshape(move.source.shape)
    assert move.slices is not None
    want = array[tuple(slice(a, a + n * s, s) for a, n, s in move.slices)]
    got, count = np.zeros_like(want), np.zeros_like(want)
    for source, target, region in listing(move, range(move.source.count), range(move.target.count)):
        cell = move.source.cell(source)
        piece = array[tuple(slice(lo, hi) for lo, hi in cell)]
        there = tuple(slice(lo, hi) for lo, hi in region)
        assert all(
            a <= lo < hi <= b for (lo, hi), (a, b) in zip(region, move.target.cell(target), strict=True)
        )
        got[there] = piece[move.inside(region, cell)]
        count[there] += 1
    assert (count == 1).all()
    np.testing.assert_array_equal(got, want)


@settings(max_examples=80)
@given(moves(), st.integers(1, 4))
def test_a_slice_is_sent_exactly_once(move: Reshard, workers: int) -> None:
    check(move, Reshard.overlaps)
    everything = range(move.target.count)
    for w in range(workers):
        mine = owned(move.source.count, workers, w)
        mine_alone = [o for o in move.overlaps(range(move.source.count), everything) if o[0] in mine]
        assert [*move.overlaps(mine, everything)] == mine_alone
        if mine and (move.source.cut_dims or move.target.cut_dims):
            reached, _ = move.reach(mine)
            assert {target for _, target, _ in mine_alone} <= set(reached)


def test_a_dropped_or_doubled_part_is_found() -> None:
    move = Reshard(Sharding((Cut.even(9, 2),)), Sharding((Cut.even(4, 3),)), ((1, 4, 2),))
    check(move, Reshard.overlaps)
    with pytest.raises(AssertionError):
        check(move, lambda *args: itertools.islice(Reshard.overlaps(*args), 1, None))
    with pytest.raises(AssertionError):
        check(move, lambda *args: [*Reshard.overlaps(*args), *Reshard.overlaps(*args)])


@pytest.mark.parametrize(
    "slices",
    [
        [[7, 1, 1], [0, 4, 1]],
        [[100, 1, 1], [0, 4, 1]],
        [[-1, 1, 1], [0, 4, 1]],
        [[0, 1, 1]],
        3,
        [[0, 1, 0], [0, 4, 1]],
    ],
)
def test_a_slice_that_is_not_there_is_refused(slices: Any, start: Start, plans: list[Plan]) -> None:
    start(2)
    x = on_workers(A, 5)
    plans.clear()
    assert x[7].sum().item() == A[7].sum()
    raw = msgpack.unpackb(plans[0].stages[0].data, raw=False)
    (send,) = raw["sends"]
    assert send[1][-1] == [[7, 1, 1], [0, 4, 1]]
    send[1][-1] = slices
    if slices == [[7, 1, 1], [0, 4, 1]]:
        decode(msgpack.packb(raw))
        return
    with pytest.raises(WireError, match="send"):
        decode(msgpack.packb(raw))
