"""First and second derivatives of pooling, resizing and sampling against finite differences, wherever they run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import distgrad as torch
from distgrad.nn import functional as F
from distgrad.session import door
from distgrad.tensor import Tensor
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

Case = tuple[Callable[..., Tensor], Callable[[], list[Tensor]]]


def distinct(*shape: int) -> list[Tensor]:
    """Numbers in some order, far enough from each other that a maximum stays where it is."""
    order = torch.randperm(math.prod(shape)).double().reshape(shape)
    return [(order * 0.3 + 0.05).requires_grad_()]


def with_grid(*shape: int) -> list[Tensor]:
    grid = (torch.rand(1, 2, 2, 2, dtype=torch.float64) - 0.5) * 1.3
    return [*distinct(*shape), grid.requires_grad_()]


def one() -> list[Tensor]:
    return distinct(2, 1, 6)


def two() -> list[Tensor]:
    return distinct(1, 1, 4, 5)


def three() -> list[Tensor]:
    return distinct(1, 1, 3, 4, 3)


def sampled(mode: str, padding: str) -> Case:
    return lambda x, g: F.grid_sample(x, g, mode, padding, False), lambda: with_grid(1, 1, 3, 4)


def thirds(x: Tensor) -> Tensor:
    samples = torch.full((1, x.shape[1], 2), 0.3, dtype=torch.float64)
    return F.fractional_max_pool2d(x, 2, output_size=(2, 3), _random_samples=samples)


def unpooled(x: Tensor) -> Tensor:
    return F.max_unpool2d(*F.max_pool2d(x, 2, 2, return_indices=True), 2, 2)


def turned(theta: Tensor) -> Tensor:
    x = torch.arange(12, dtype=torch.float64).sin().reshape(1, 1, 3, 4)
    return F.grid_sample(x, F.affine_grid(theta * 0.3, (1, 1, 2, 2), align_corners=True), align_corners=True)


CASES: dict[str, Case] = {
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 2, 1), one),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2, 1, 1, ceil_mode=True, count_include_pad=False), two),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2, 1), three),
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2, 1), one),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2, 1, 0, 2), two),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2, 1), three),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), two),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, 2), three),
    "adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 4), one),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (3, 2)), two),
    "lp_pool1d": (lambda x: F.lp_pool1d(x + 1, 3.0, 2), one),
    "lp_pool2d": (lambda x: F.lp_pool2d(x + 1, 2.5, 2), two),
    "fractional_max_pool2d": (thirds, two),
    "max_unpool2d": (unpooled, lambda: distinct(1, 1, 4, 4)),
    "nearest": (lambda x: F.interpolate(x, scale_factor=1.7), two),
    "linear": (lambda x: F.interpolate(x, size=9, mode="linear"), one),
    "bilinear": (lambda x: F.interpolate(x, size=(7, 3), mode="bilinear"), two),
    "bilinear, corners": (lambda x: F.interpolate(x, size=(7, 3), mode="bilinear", align_corners=True), two),
    "bicubic": (lambda x: F.interpolate(x, size=(5, 6), mode="bicubic"), two),
    "antialias": (lambda x: F.interpolate(x, size=(2, 3), mode="bilinear", antialias=True), two),
    "trilinear": (lambda x: F.interpolate(x, size=(2, 5, 4), mode="trilinear"), three),
    "area": (lambda x: F.interpolate(x, size=(2, 3), mode="area"), two),
    "unfold": (lambda x: F.unfold(x, 2), two),
    "fold": (lambda x: F.fold(F.unfold(x, 2), (4, 5), 2), two),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), lambda: distinct(1, 4, 2, 3)),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), lambda: distinct(1, 1, 4, 4)),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), lambda: distinct(1, 4, 2, 2)),
    "reflect": (lambda x: F.pad(x, (1, 2, 1, 1), mode="reflect"), two),
    "circular": (lambda x: F.pad(x, (1, 2), mode="circular"), one),
    "replicate": (lambda x: F.pad(x, (1, 2), mode="replicate"), one),
    "local_response_norm": (lambda x: F.local_response_norm(x, 2), lambda: distinct(1, 3, 2, 3)),
    "affine_grid": (turned, lambda: [(torch.rand(1, 2, 3, dtype=torch.float64) - 0.4).requires_grad_()]),
    **{
        f"{mode} samples, {padding}": sampled(mode, padding)
        for mode in ("bilinear", "nearest", "bicubic")
        for padding in ("zeros", "border", "reflection")
    },
}


def checked(name: str, fast: bool) -> None:
    function, inputs = CASES[name]
    torch.manual_seed(3)
    given: list[Any] = inputs()
    assert torch.autograd.gradcheck(function, given, fast_mode=fast)
    assert torch.autograd.gradgradcheck(lambda *xs: function(*xs) ** 2, given, atol=1e-4, fast_mode=fast)


@pytest.mark.parametrize("name", ["avg_pool2d", "max_pool2d", "bilinear", "bilinear samples, zeros"])
def test_a_few(name: str) -> None:
    door.shutdown()
    checked(name, fast=True)


LONG = "bicubic samples"  # thousands of nodes, which take minutes to plan for shards of 64 bytes


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "workers"), [(n, w) for n in CASES for w in (0, 1, 3) if not (w and n.startswith(LONG))]
)
def test_all(name: str, workers: int) -> None:
    """Every element of the Jacobians in the driver; one random projection of them on workers."""
    door.shutdown()
    if workers:
        door.attach(InProcess(workers, Worker), inline_bytes=0, shard_bytes=64)
    try:
        checked(name, fast=workers > 0)
    finally:
        door.shutdown()
