"""Layers that normalise, beside the formulas in NumPy; their running statistics, plans and errors."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn
from distgrad.nn import functional as F

EPS = 1e-5


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(1.0, 2.0, shape)


def normal(x: np.ndarray, dims: tuple[int, ...], eps: float = EPS) -> np.ndarray:
    return (x - x.mean(dims, keepdims=True)) / np.sqrt(x.var(dims, keepdims=True) + eps)


def drawn(layer: Any, seed: int = 1) -> Any:
    """The layer in float64, with parameters that are not 1 and 0."""
    layer.double()
    for i, p in enumerate(layer.parameters()):
        p.data = distgrad.tensor(numbers(*p.shape, seed=seed + i))
    return layer


def near(tensor: Any, expected: Any, **more: float) -> None:
    np.testing.assert_allclose(tensor.detach().numpy(), expected, **{"rtol": 1e-10, "atol": 1e-10, **more})


@pytest.mark.parametrize("shape", [(7, 4), (5, 4, 3), (3, 4, 2, 3), (2, 4, 2, 1, 3)])
def test_batch_norm_trains_and_evaluates(torch: ModuleType, shape: tuple[int, ...]) -> None:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    layer, dims = drawn(kind(4)), (0, *range(2, len(shape)))
    w, b = (p.detach().numpy().reshape(4, *[1] * (len(shape) - 2)) for p in layer.parameters())
    mean, var = np.zeros(4), np.ones(4)
    for seed in (3, 4):
        x = numbers(*shape, seed=seed)
        near(layer(torch.tensor(x)), normal(x, dims) * w + b)
        mean, var = mean * 0.9 + 0.1 * x.mean(dims), var * 0.9 + 0.1 * x.var(dims, ddof=1)
    near(layer.running_mean, mean)
    near(layer.running_var, var)
    assert layer.num_batches_tracked.item() == 2
    layer.eval()
    mean, var = (v.reshape(w.shape) for v in (mean, var))
    near(layer(torch.tensor(x)), (x - mean) / np.sqrt(var + EPS) * w + b)


def test_a_plain_average_of_the_statistics(torch: ModuleType) -> None:
    layer = nn.BatchNorm1d(2, momentum=None, dtype=torch.float64)
    batches = [numbers(5, 2, seed=seed) for seed in range(3)]
    for x in batches:
        layer(torch.tensor(x))
    near(layer.running_mean, np.mean([x.mean(0) for x in batches], 0))
    near(layer.running_var, np.mean([x.var(0, ddof=1) for x in batches], 0))
    layer.reset_running_stats()
    assert layer.running_var.tolist() == [1, 1]
    assert layer.num_batches_tracked.item() == 0


def test_without_statistics_eval_normalises_the_batch(torch: ModuleType) -> None:
    layer, x = nn.BatchNorm1d(3, affine=False, track_running_stats=False).eval(), numbers(6, 3)
    near(layer(torch.tensor(x)), normal(x, (0,)))
    assert layer.state_dict() == {}


def test_layer_and_rms_norm(torch: ModuleType) -> None:
    x = numbers(3, 5, 4)
    layer = drawn(nn.LayerNorm((5, 4)))
    w, b = (p.detach().numpy() for p in layer.parameters())
    near(layer(torch.tensor(x)), normal(x, (1, 2)) * w + b)
    rms = drawn(nn.RMSNorm(4, eps=0.5))
    scale = np.sqrt((x**2).mean(-1, keepdims=True) + 0.5)
    near(rms(torch.tensor(x)), x / scale * rms.weight.detach().numpy())
    near(F.rms_norm(torch.tensor(x), (4,)), x / np.sqrt((x**2).mean(-1, keepdims=True)))


def test_group_and_instance_norm(torch: ModuleType) -> None:
    x = numbers(3, 6, 4)
    layer = drawn(nn.GroupNorm(2, 6))
    w, b = (p.detach().numpy()[:, None] for p in layer.parameters())
    near(layer(torch.tensor(x)), normal(x.reshape(3, 2, 12), (2,)).reshape(x.shape) * w + b)
    each = drawn(nn.InstanceNorm1d(6, affine=True, track_running_stats=True))
    w, b = (p.detach().numpy()[:, None] for p in each.parameters())
    near(each(torch.tensor(x)), normal(x, (2,)) * w + b)
    near(each.running_mean, 0.1 * x.mean((0, 2)))
    near(each.running_var, 0.9 + 0.1 * x.var(2, ddof=1).mean(0))
    near(nn.InstanceNorm1d(6)(torch.tensor(x[0])), normal(x[0], (1,)))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_local_responses(torch: ModuleType, size: int) -> None:
    x = numbers(2, 6, 3)
    total = np.zeros_like(x)
    for c in range(6):
        for other in range(c - size // 2, c + (size - 1) // 2 + 1):
            if 0 <= other < 6:
                total[:, c] += x[:, other] ** 2
    found = nn.LocalResponseNorm(size, alpha=0.3, beta=0.6, k=2.0)(torch.tensor(x))
    near(found, x / (2 + 0.3 * total / size) ** 0.6)


def test_unit_vectors(torch: ModuleType) -> None:
    x = numbers(3, 4)
    near(F.normalize(torch.tensor(x)), x / np.linalg.norm(x, axis=1, keepdims=True))
    near(F.normalize(torch.tensor(x), p=1, dim=0), x / np.abs(x).sum(0))
    assert F.normalize(torch.zeros(2, 3)).tolist() == [[0, 0, 0]] * 2


def test_constant_and_far_off_numbers_are_normalised(torch: ModuleType) -> None:
    """In float32 a mean of 1e6 with a deviation of 1: the sums may not lose it."""
    x = (1e6 + np.tile([-1.0, 1.0], 64)).astype(np.float32).reshape(1, 128)
    near(F.layer_norm(torch.tensor(x), (128,)), np.tile([-1.0, 1.0], 64)[None], rtol=1e-4)
    assert F.layer_norm(torch.full((2, 8), 0.1), (8,)).abs().max().item() == 0


def test_a_layer_norm_of_many_rows_is_one_stage_forth_and_back(start: Any, plans: list[Any]) -> None:
    start(workers=3, shard_bytes=1 << 12)
    layer, x = nn.LayerNorm(16), distgrad.randn(1024, 16)
    distgrad.synchronize()
    plans.clear()
    (g,) = distgrad.autograd.grad((layer(x.requires_grad_()) ** 3).sum(), x)
    assert g.abs().sum().item() > 0
    assert [len(plan.stages) for plan in plans] == [1]


def test_statistics_of_sharded_batches_stay_on_the_workers(start: Any) -> None:
    transport = start(workers=3, shard_bytes=1 << 10)
    layer, x = nn.BatchNorm2d(3), distgrad.randn(16, 3, 8, 8)
    layer(x)
    assert transport.calls == []
    near(layer.running_mean, 0.1 * x.numpy().mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (
            lambda: F.layer_norm(distgrad.ones(2, 4), (3,)),
            RuntimeError,
            "Given normalized_shape=[3], expected input with shape [*, 3], but got input of size[2, 4]",
        ),
        (
            lambda: F.layer_norm(distgrad.ones(2, 4), (4,), distgrad.ones(4).double()),
            RuntimeError,
            "mixed dtype (CPU): expect parameter to have scalar type of Float",
        ),
        (
            lambda: F.group_norm(distgrad.ones(2, 6, 4), 4),
            RuntimeError,
            "Expected number of channels in input to be divisible by num_groups, but got input of shape [2, 6, 4] and "
            "num_groups=4",
        ),
        (
            lambda: nn.BatchNorm1d(3)(distgrad.ones(1, 3)),
            ValueError,
            "Expected more than 1 value per channel when training, got input size torch.Size([1, 3])",
        ),
        (
            lambda: nn.BatchNorm2d(3)(distgrad.ones(1, 3)),
            ValueError,
            "expected 4D input (got 2D input)",
        ),
        (
            lambda: nn.BatchNorm1d(5)(distgrad.ones(2, 3)),
            RuntimeError,
            "running_mean should contain 3 elements not 5",
        ),
        (
            lambda: nn.InstanceNorm1d(5, affine=True)(distgrad.ones(2, 3, 4)),
            ValueError,
            "expected input's size at dim=1 to match num_features (5), but got: 3.",
        ),
        (
            lambda: nn.GroupNorm(4, 6),
            ValueError,
            "num_channels (6) must be divisible by num_groups (4)",
        ),
    ],
)
def test_errors(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        act()
    assert str(caught.value) == text


def test_an_old_state_without_a_count_of_batches_loads() -> None:
    layer = nn.BatchNorm1d(2)
    state = {k: v for k, v in layer.state_dict().items() if k != "num_batches_tracked"}
    assert str(layer.load_state_dict(state)) == "<All keys matched successfully>"


@pytest.mark.parametrize("name", ["layer", "group", "batch", "rms"])
def test_one_kernel_and_several_give_the_same_bits(name: str) -> None:
    """What is small is normalised by one kernel, what is large by several."""
    shape = {"layer": (30, 40), "rms": (30, 40)}.get(name, (6, 8, 5, 5))
    data = np.random.default_rng(0).normal(size=shape).astype("f")
    layers = {
        "layer": lambda: nn.LayerNorm(40),
        "group": lambda: nn.GroupNorm(2, 8),
        "batch": lambda: nn.BatchNorm2d(8),
        "rms": lambda: nn.RMSNorm(40),
    }
    found = []
    for limit in (0, 1 << 20):
        with distgrad.init("inproc", workers=2, inline_bytes=limit):
            x, layer = distgrad.tensor(data).requires_grad_(), layers[name]()
            out = layer(x * 1.5)
            out.backward(distgrad.tensor(data[::-1].copy()))
            found.append([t.detach().numpy() for t in (out, x.grad, *(p.grad for p in layer.parameters()))])
    for got, want in zip(*found, strict=True):
        np.testing.assert_array_equal(got, want)


def test_no_rows_have_groups() -> None:
    assert distgrad.nn.functional.group_norm(distgrad.zeros(0, 4, 3), 2).shape == (0, 4, 3)
