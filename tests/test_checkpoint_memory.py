"""Checkpoints free the workers' memory: what they hold between forward and backward, and at the worst moment."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from op_calls import workers

import distgrad as torch
from distgrad.session import door, placement
from distgrad.tensor import Tensor
from distgrad.utils.checkpoint import checkpoint

ROWS, WIDTH = 1 << 10, 16
ONE = ROWS * WIDTH * 8 // 2  # bytes of an activation on each of two workers


@pytest.fixture(autouse=True)
def two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(placement, "LIGHT", 1 << 16)
    with workers(shard_bytes=2048):
        yield


class Net:
    """Blocks of two layers, each with a norm over all rows."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(ROWS, WIDTH, dtype=torch.float64)
        self.weights = [
            torch.randn(WIDTH, WIDTH, dtype=torch.float64).div(4).requires_grad_() for _ in range(6)
        ]
        torch.synchronize()

    @staticmethod
    def block(h: Tensor, *weights: Tensor) -> Tensor:
        for w in weights:
            h = h @ w
            h = ((h - h.mean(0)) / (h.var(0) + 1e-5).sqrt()).tanh()
        return h

    def loss(self, kind: str) -> Tensor:
        h = self.x
        for i in (0, 2, 4):
            ws = self.weights[i : i + 2]
            if kind == "plain":
                h = self.block(h, *ws)
            else:
                h = checkpoint(self.block, h, *ws, use_reentrant=kind == "reentrant")
        return (h**2).mean()


def measured(kind: str) -> tuple[int, list[np.ndarray]]:
    """The most bytes that a worker held, and the gradients."""
    net = Net()
    with torch.profile() as p:
        net.loss(kind).backward()
        torch.synchronize()
    gradients = [w.grad.numpy() for w in net.weights if w.grad is not None]
    return max(worker.measured for worker in p.peak_bytes), gradients


@pytest.mark.parametrize("kind", ["reentrant", "not"])
def test_a_block_at_a_time_is_there(kind: str) -> None:
    most, wants = measured("plain")
    less, found = measured(kind)
    assert less <= 0.7 * most
    assert len(found) == len(wants) == 6
    for g, want in zip(found, wants, strict=True):
        np.testing.assert_allclose(g, want, rtol=1e-9, atol=1e-15)


def test_what_is_held_between_forward_and_backward() -> None:
    net = Net()
    held = {}
    for kind in ("plain", "not"):
        loss = net.loss(kind)
        loss.item()
        held[kind] = max(worker.stored - worker.freed for worker in door.current().calls.held())
        del loss
    assert held["plain"] >= 12 * ONE
    assert held["not"] <= 5 * ONE  # the data, and what goes into the blocks
