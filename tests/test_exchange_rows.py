"""Rows taken from a cut table: each is sent once to those who need it, and only in a form that is checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import distgrad as torch
from distgrad.errors import WireError
from distgrad.exchange import rows
from distgrad.session import door
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

WIDE = 1024  # elements of a row: 16 rows of 8 KiB are looked through


def there_and_back(parts: list[np.ndarray]) -> np.ndarray:
    shape, dtype = parts[0].shape, parts[0].dtype
    found = [rows.received(iter(list(rows.sent(part))), shape, dtype) for part in parts]
    return rows.merged(found, shape, dtype, np.empty)


@given(
    st.lists(st.integers(0, 3), min_size=16, max_size=16),
    st.sampled_from(["f8", "f4", "i8", "u1", "?"]),
    st.sampled_from([WIDE * 8, WIDE * 8 + 3]),
)
def test_rows_of_several_workers_are_put_together(owner: list[int], kind: str, width: int) -> None:
    """Owner 3: nobody has the row. Zeros with a sign and NaN come as they are."""
    whole = (np.arange(16 * width).reshape(16, width) % 5).astype(kind)
    if kind[0] == "f":
        whole[3], whole[4] = -0.0, np.nan
    owners = np.array(owner)
    parts = [np.where((owners == w)[:, None], whole, whole.dtype.type(0)) for w in range(3)]
    want = np.where((owners < 3)[:, None], whole, whole.dtype.type(0))
    assert there_and_back(parts).tobytes() == want.tobytes()


def test_few_rows_are_sent_as_such_and_many_as_they_are() -> None:
    array = np.zeros((16, WIDE))
    array[[3, 7]] = 1
    index, some = rows.sent(array)
    assert (index.tolist(), some.shape) == ([3, 7], (2, WIDE))
    array[:14] = 1
    index, every = rows.sent(array)
    assert len(index) == 0
    assert every.shape == array.shape
    assert [a.shape for a in rows.sent(np.ones((2, 3)))] == [(2, 3)]


def test_elements_of_one_row_from_several_workers() -> None:
    parts = [np.zeros((16, WIDE)) for _ in range(3)]
    parts[0][2, ::3], parts[1][2, 1::3], parts[2][:15, 2::3] = 1, 2, 3
    np.testing.assert_array_equal(there_and_back(parts), sum(parts))


@pytest.mark.parametrize(
    "wrong",
    [
        [np.array([1, 1]), np.ones((2, WIDE))],
        [np.array([2, 1]), np.ones((2, WIDE))],
        [np.array([-1, 1]), np.ones((2, WIDE))],
        [np.array([1, 16]), np.ones((2, WIDE))],
        [np.array([1.0, 2.0]), np.ones((2, WIDE))],
        [np.array([1, 2]), np.ones((3, WIDE))],
        [np.array([1, 2]), np.ones((2, WIDE), np.float32)],
        [np.array([[1, 2]]), np.ones((2, WIDE))],
        [None, np.ones((16, WIDE))],
        [np.empty(0, np.int64)],
        [],
    ],
)
def test_what_is_no_rows_is_refused(wrong: list[Any]) -> None:
    with pytest.raises(WireError):
        rows.received(iter(wrong), (16, WIDE), np.dtype("f8"))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_minibatch_moves_its_rows_to_each_worker_once(workers: int) -> None:
    door.shutdown()
    door.attach(InProcess(workers, Worker), inline_bytes=0, shard_bytes=1 << 14)
    try:
        x, order = torch.randn(600, 64), torch.randperm(600)
        torch.synchronize()
        wanted = x.numpy()[order.numpy()[100:228]]
        with torch.profile() as p:
            batch = x[order[100:228]]
            made = batch * 2
            torch.synchronize()
        assert p.moved_bytes.measured <= (workers - 1) * (128 * 64 * 4 + 128 * 8 + 600 * 8)
        assert abs(p.moved_bytes.predicted - p.moved_bytes.measured) <= 0.05 * p.moved_bytes.measured
        np.testing.assert_array_equal(made.numpy(), wanted * 2)
        leaf = x.clone().requires_grad_()
        (leaf[order[100:228]] ** 2).sum().backward()
        want = np.zeros((600, 64), np.float32)
        want[order.numpy()[100:228]] = 2 * wanted
        np.testing.assert_array_equal(leaf.grad.numpy(), want)
    finally:
        door.shutdown()


def minibatch(workers: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch of 1 MiB and the gradient of its table; each worker gets the rows that it works on."""
    door.shutdown()
    door.attach(InProcess(workers, Worker), inline_bytes=0, shard_bytes=1 << 18)
    try:
        torch.manual_seed(0)
        x, order = torch.randn(256, 4096).requires_grad_(), torch.randperm(256)
        torch.synchronize()
        with torch.profile() as p:
            batch = x[order[64:129]]
            made = batch * 2
            torch.synchronize()
        assert batch.sharding.count > 3
        nbytes = batch.numel() * 4
        assert p.moved_bytes.measured <= 1.2 * nbytes * (workers - 1) / workers
        assert abs(p.moved_bytes.predicted - p.moved_bytes.measured) <= 0.2 * p.moved_bytes.measured
        assert (
            max(one.measured for one in p.peak_bytes)
            <= x.numel() * 4 / workers + 5 * nbytes / workers + 2**18
        )
        np.testing.assert_array_equal(made.detach().numpy(), x.detach().numpy()[order.numpy()[64:129]] * 2)
        return made.detach().numpy(), torch.autograd.grad((batch**2).sum(), x)[0].numpy()
    finally:
        door.shutdown()


def test_rows_of_a_batch_go_to_the_workers_that_compute_on_them() -> None:
    found = [minibatch(workers) for workers in (1, 2, 3)]
    for made, gradient in found[1:]:
        np.testing.assert_array_equal(made, found[0][0])
        np.testing.assert_array_equal(gradient, found[0][1])
