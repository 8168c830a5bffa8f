"""Batches of large tensors: all workers take part in a step on one, and only what is asked for is moved."""

from __future__ import annotations

import numpy as np
import pytest

import distgrad as torch
from distgrad.session import door
from distgrad.utils.data import DataLoader, TensorDataset
from distgrad.utils.data.shuffle import pieces_of, routes
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker


def step(workers: int) -> list[np.ndarray]:
    """A layer of 512 x 512 weights, on a batch of 1,024 rows that lies in one shard."""
    door.shutdown()
    door.attach(InProcess(workers, Worker), inline_bytes=0)
    torch.manual_seed(0)
    x, w = torch.randn(1024, 512), torch.randn(512, 512, requires_grad=True)
    out = (x @ w).relu()
    out.sum().backward()
    return [out.detach().numpy(), w.grad.numpy()]


def test_a_heavy_product_of_one_shard_is_cut_and_gives_the_same_bits_on_any_number_of_workers() -> None:
    try:
        one, three = step(1), step(3)
        x, w = torch.randn(1024, 512), torch.randn(512, 512, requires_grad=True)
        out = (x @ w).relu()
        assert (x.sharding.count, w.sharding.count, out.sharding.grid) == (1, 1, (4, 1))
        gradient = torch.autograd.grad(out, w, torch.ones(1024, 512))[0]
        assert gradient.sharding.count == 1
        told = torch.explain(out)
        assert told.flops < 1.1 * 2 * 1024 * 512 * 512  # not once for each worker
    finally:
        door.shutdown()
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)
    torch.manual_seed(0)
    x64, w64 = (torch.randn(*shape).double().numpy() for shape in ((1024, 512), (512, 512)))
    np.testing.assert_allclose(one[0], np.maximum(x64 @ w64, 0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(one[1], x64.T @ (x64 @ w64 > 0), rtol=1e-3, atol=1e-2)


def test_a_light_product_of_one_shard_stays_whole() -> None:
    door.shutdown()
    door.attach(InProcess(2, Worker), inline_bytes=0)
    try:
        assert (torch.randn(64, 64) @ torch.randn(64, 64)).sharding.count == 1
        assert (torch.randn(200, 1024) @ torch.randn(1024, 1024)).sharding.grid == (1, 2)  # few rows
    finally:
        door.shutdown()


# Epochs of a large table.
def epochs(workers: int, rows: int, size: int, drop_last: bool) -> list[np.ndarray]:
    door.shutdown()
    door.attach(InProcess(workers, Worker), inline_bytes=0, shard_bytes=64)
    torch.manual_seed(7)
    x, y = torch.randn(rows, 3), torch.arange(rows)
    assert x.sharding.count > 1
    loader = DataLoader(TensorDataset(x, y), size, shuffle=True, drop_last=drop_last)
    batches = [(a.numpy(), b.numpy()) for a, b in loader]
    sizes = [size] * (rows // size) + ([rows % size] if rows % size and not drop_last else [])
    assert [len(b) for _, b in batches] == [len(a) for a, _ in batches] == sizes
    order = np.concatenate([b for _, b in batches])
    taken = np.concatenate([a for a, _ in batches])
    np.testing.assert_array_equal(taken, x.numpy()[order])
    assert len(set(order.tolist())) == len(order)
    return [taken, order]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("rows", "size"), [(37, 4), (40, 8), (37, 16), (31, 5), (16, 16), (33, 32)])
def test_a_shuffled_epoch_of_a_cut_table(rows: int, size: int, drop_last: bool) -> None:
    try:
        found = [epochs(workers, rows, size, drop_last) for workers in (1, 2, 3)]
    finally:
        door.shutdown()
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_shuffled_epoch_is_one_exchange_and_its_batches_lie_on_all_workers() -> None:
    door.shutdown()
    door.attach(InProcess(2, Worker), inline_bytes=0, shard_bytes=1 << 16)
    try:
        x, y = torch.randn(4096, 128), torch.randint(9, (4096,))
        torch.synchronize()
        batches = iter(DataLoader(TensorDataset(x, y), 512, shuffle=True))
        first, _ = next(batches)
        told = torch.explain(first)
        assert told.bytes_moved < 0.7 * 4096 * 128 * 4  # half of the rows change their worker
        assert told.text.count("exchange") == 1
        assert max(told.peak_bytes) < 2.5 * 4096 * 128 * 4  # its halves of table, copy and what is under way
        first.sum().item()
        x, y = next(batches)
        assert x.sharding.grid == (4, 1)
        assert torch.explain(x).bytes_moved == 0
        assert y.tolist()
        w = torch.randn(128, 64, requires_grad=True)
        loss = (x @ w).square().sum()
        assert torch.explain(loss).bytes_moved <= 16
    finally:
        door.shutdown()


def test_routes_bring_each_row_to_its_place() -> None:
    wanted = np.random.default_rng(0).permutation(60)[:48].reshape(4, 12)
    leaving, arriving, room = routes(wanted, 7, 9)
    blocks = np.minimum(np.arange(9)[:, None, None] * 7 + leaving, 59).swapaxes(0, 1).reshape(4, -1)
    np.testing.assert_array_equal(np.take_along_axis(blocks, arriving, 1), wanted)
    assert room <= 7


def test_pieces_of_batches() -> None:
    assert [pieces_of(n, 1024) for n in (1024, 4096, 256, 100, 64, 7)] == [4, 16, 2, 1, 1, 1]
    assert pieces_of(32, 150_528) == 16  # few, but large rows


# Parts of a large table.
def test_only_rows_that_are_asked_for_are_moved() -> None:
    door.shutdown()
    door.attach(InProcess(2, Worker), inline_bytes=0, shard_bytes=1 << 16)
    try:
        x = torch.randn(4096, 128)
        torch.synchronize()
        rows = 256 * 128 * 4
        assert torch.explain(x[512:768]).bytes_moved <= rows
        order = torch.randperm(4096)
        assert torch.explain(x[order[:256]]).bytes_moved <= 2 * rows + 4096 * 8
    finally:
        door.shutdown()
