"""Batches of large tensors: all workers take part in a step on one, and only what is asked for is moved."""

from __future__ import annotations

import numpy as np

import distgrad as torch
from distgrad.session import door
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
