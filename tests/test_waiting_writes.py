"""Writes to parts of a tensor wait, and are done in one pass when it is read: values, structure, and who sees what."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from values import Start, emit, known, put

import distgrad as t
from distgrad import session
from distgrad.errors import DistgradError
from distgrad.plan.plans import Plan
from distgrad.session import door
from distgrad.session.writes import LazyWrites
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker


def puts(plans: list[Plan]) -> list[int]:
    """How many parts each step that writes parts writes, in the order of the plans."""
    steps = [
        s
        for p in plans
        for g in p.stages
        for f in g.program.fragments
        for loop in f.loops
        for s in loop.steps
    ]
    return [len(s.attrs["parts"]) for s in steps if s.primitive.name == "slice_put"]


def test_writes_of_rows_are_one_pass(start: Start, plans: list[Plan]) -> None:
    start(2, shard_bytes=64)
    y = t.zeros(40, 4)
    for i in range(0, 40, 2):
        y[i] = float(i)
    for i in range(1, 40, 2):
        y[i] += t.tensor([1.0, 2.0, 3.0, 4.0])
    want = np.zeros((40, 4))
    want[::2] = np.arange(0, 40, 2)[:, None]
    want[1::2] = [1, 2, 3, 4]
    np.testing.assert_array_equal(y.numpy(), want)
    assert puts(plans) == [40]


def test_known_rows_side_by_side_are_one_part(start: Start, plans: list[Plan]) -> None:
    door.shutdown()
    door.attach(InProcess(2, Worker), shard_bytes=1024)
    y = t.zeros(100, 40)
    for i in range(100):
        y[i] = t.tensor(np.full(40, i, np.float32))
    np.testing.assert_array_equal(y.numpy(), np.repeat(np.arange(100.0), 40).reshape(100, 40))
    assert puts(plans) == [1]


def test_a_recurrence_reads_what_was_written(torch: ModuleType) -> None:
    y = torch.ones(20, 3)
    for i in range(1, 20):
        y[i] = y[i - 1] * 2 + 1
    np.testing.assert_array_equal(y.numpy(), np.repeat(2.0 ** np.arange(1, 21) - 1, 3).reshape(20, 3))


def test_a_recurrence_is_one_pass(start: Start, plans: list[Plan]) -> None:
    start(2, shard_bytes=64)
    y = t.ones(40, 4)
    for i in range(1, 40):
        y[i] = y[i - 1] + 1
    np.testing.assert_array_equal(y.numpy()[:, 1], np.arange(1.0, 41))
    assert puts(plans) == [39]


def test_overlapping_writes_are_done_in_their_order(torch: ModuleType) -> None:
    y = torch.zeros(10, 6)
    y[2:8] = 1.0
    y[:, 3] = torch.tensor([float(i) for i in range(10)])
    y[4:6, 2:5] += 10
    y[::3, ::2] = -1.0
    y[2:8] *= 2
    want = np.zeros((10, 6))
    want[2:8] = 1
    want[:, 3] = np.arange(10)
    want[4:6, 2:5] += 10
    want[::3, ::2] = -1
    want[2:8] *= 2
    np.testing.assert_array_equal(y.numpy(), want)


def test_what_was_read_before_a_write_stays(torch: ModuleType) -> None:
    y = torch.zeros(12, 4)
    y[0] = 1.0
    clone, doubled, row = y.clone(), y * 2, y[3] + 0
    alias, view = y.detach(), y[3]
    y[3] = 5.0
    again = y.clone()
    y[0] = 7.0
    want = np.zeros((12, 4))
    want[0] = 1
    np.testing.assert_array_equal(clone.numpy(), want)
    np.testing.assert_array_equal(doubled.numpy(), want * 2)
    np.testing.assert_array_equal(row.numpy(), np.zeros(4))
    want[3] = 5
    np.testing.assert_array_equal(view.numpy(), want[3])
    np.testing.assert_array_equal(again.numpy(), want)
    want[0] = 7
    np.testing.assert_array_equal(alias.numpy(), want)
    np.testing.assert_array_equal(y.numpy(), want)


def test_two_histories_from_one_value(torch: ModuleType) -> None:
    y = torch.zeros(12, 4)
    y[0] = 1.0
    z = y.clone()
    for i in range(1, 12):
        y[i] = float(i)
        z[i] = -float(i)
    np.testing.assert_array_equal(y.numpy()[:, 2], [1, *range(1, 12)])
    np.testing.assert_array_equal(z.numpy()[:, 2], [1, *range(-1, -12, -1)])


def test_a_saved_value_is_the_one_before_the_write(torch: ModuleType) -> None:
    w = torch.ones(8, 4, requires_grad=True)
    y = w * 3
    y[0] = 2.0
    saved = y.clone()
    loss = (saved * saved).sum()
    with torch.no_grad():
        y[1] = 100.0
    loss.backward()
    want = np.full((8, 4), 18.0)
    want[0] = 0
    np.testing.assert_array_equal(w.grad.numpy(), want)


def test_the_gradient_goes_through_every_write(torch: ModuleType) -> None:
    w = torch.tensor(np.arange(1.0, 9), requires_grad=True)
    y = torch.zeros(8, 2, dtype=torch.float64)
    for i in range(8):
        y[i] = w[i] * w[i]
    y[7] = 0.0
    (y * torch.tensor([1.0, 10.0], dtype=torch.float64)).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), [22.0 * n for n in range(1, 8)] + [0.0])


def test_an_error_of_a_source_is_that_of_the_tensor(start: Start) -> None:
    start(2, shard_bytes=64)
    y = t.zeros(40, 4)
    taken = emit("take", put(np.ones((9, 4), np.float32), 3), put([3, 12]), dim=0, size=9, wrap=True)
    y[3] = t.Tensor(taken)[1]
    y[4] = 2.0
    with pytest.raises(IndexError, match="index 12 is out of bounds"):
        y.sum().item()


def test_writes_wait_for_synchronize(start: Start, plans: list[Plan]) -> None:
    start(2, shard_bytes=64)
    y = t.ones(40, 4)
    session.synchronize()
    y[3] = 2.0
    session.flush()
    assert puts(plans) == []
    session.synchronize()
    assert puts(plans) == [1]
    assert y.sum().item() == 164


def test_writes_of_a_session_that_is_gone(start: Start) -> None:
    start(2, shard_bytes=64)
    y = t.ones(40, 4)
    session.synchronize()
    y[3] = 2.0
    start(2, shard_bytes=64)
    with pytest.raises(DistgradError, match="lost"):
        y.sum().item()


def written_twice() -> list[Any]:
    """A tensor, cloned between two writes that overlap: the clone, and the tensor."""
    y = t.zeros(12, 40)
    y[2:6] = 1.0
    clone = y.clone()
    y[4:8] = 2.0
    return [clone.numpy()[:, 0].tolist(), y.numpy()[:, 0].tolist()]


WRITTEN_TWICE = [[0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0]]


def lost(inputs: Any, parts: Any) -> Any:
    return inputs[:-1], parts[:-1]


def swapped(inputs: Any, parts: Any) -> Any:
    return (inputs[0], *reversed(inputs[1:])), parts[::-1]


@pytest.mark.parametrize("fault", [None, lost, swapped])
def test_a_write_that_is_lost_or_out_of_order_is_found(
    fault: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(2, shard_bytes=256)
    call = LazyWrites.call

    def faulty(self: LazyWrites) -> Any:
        inputs, attrs = call(self)
        if fault is None or len(inputs) < 3:
            return inputs, attrs
        inputs, parts = fault(inputs, attrs["parts"])
        return inputs, {"parts": parts}

    monkeypatch.setattr(LazyWrites, "call", faulty)
    assert (written_twice() == WRITTEN_TWICE) == (fault is None)


def test_a_reader_of_the_contents_before_that_sees_those_after_is_found(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(2, shard_bytes=256)
    call = LazyWrites.call
    monkeypatch.setattr(LazyWrites, "call", lambda self: call(LazyWrites(self.log, len(self.log.parts))))
    assert written_twice()[0] != WRITTEN_TWICE[0]


def test_memory_that_is_still_read_is_not_written_over(start: Start) -> None:
    """Two passes over one tensor in one stage, the first of which is read again after the second."""
    start(2, shard_bytes=256)
    x = put(np.zeros((12, 40), np.float32), 3)
    rows = tuple((((k, 1, 1), (0, 40, 1)),) for k in (2, 9))
    one = emit("slice_put", x, known(np.float32(1.0)), parts=rows[0])
    two = emit("slice_put", one, known(np.float32(2.0)), parts=rows[1])
    three = emit("slice_put", two, known(np.float32(3.0)), parts=rows[0])
    both = emit("subtract", three, one)
    assert session.fetch(both)[:, 0].tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2, 0, 0]


Dims = tuple[int, ...]


def keys(shape: Dims) -> st.SearchStrategy[Any]:
    def one(n: int) -> st.SearchStrategy[Any]:
        cuts = st.tuples(st.integers(0, n), st.integers(0, n), st.integers(1, 3))
        return st.integers(-n, n - 1) | cuts.map(lambda c: slice(min(c[:2]), max(c[:2]), c[2]))

    return st.tuples(*map(one, shape)) | one(shape[0])


@st.composite
def programs(draw: st.DrawFn) -> tuple[Dims, list[tuple[Any, ...]]]:
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    kinds = st.sampled_from(
        ["number", "row", "add", "move", "scale", "clone", "sum", "read", "flush", "mask", "index"]
    )
    steps = [
        (kind, draw(keys(shape)), draw(st.integers(-9, 9))) for kind in draw(st.lists(kinds, max_size=14))
    ]
    return shape, steps


def run(torch: Any, y: Any, steps: list[tuple[Any, ...]], start_flush: Any) -> list[Any]:
    """The tensors or arrays that a random program leaves behind; the same code for NumPy."""
    kept: list[Any] = []
    copy = (lambda a: a.copy()) if isinstance(y, np.ndarray) else (lambda a: a.clone())
    for kind, key, n in steps:
        if kind == "number":
            y[key] = float(n)
        elif kind == "row":
            y[key] = y[key] * 0 + n
        elif kind == "add":
            y[key] += n
        elif kind == "move":
            y[key] = copy(y[key]) * 2 - 1
        elif kind == "scale":
            y *= n
        elif kind == "clone":
            kept.append(copy(y))
        elif kind == "sum":
            kept.append(y.sum())
        elif kind == "read":
            kept.append(copy(y[key]))
        elif kind == "mask":
            y[y > n] = float(-n)
        elif kind == "index":
            rows = [abs(n) % y.shape[0], 0]
            y[rows] = float(n)
        elif kind == "flush":
            start_flush()
    return [*kept, y]


@settings(max_examples=30)
@given(programs(), st.sampled_from([0, 1, 2, 3]))
def test_random_writes_and_reads_give_what_numpy_gives(program: Any, workers: int) -> None:
    shape, steps = program
    array = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    door.shutdown()
    if workers:
        door.attach(InProcess(workers, Worker), inline_bytes=0, shard_bytes=32)
    else:
        door.attach(InProcess(2, Worker))
    try:
        got = run(t, t.tensor(array), steps, session.flush)
        want = run(np, array, steps, lambda: None)
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs)
    finally:
        door.shutdown()
