"""Pooling functions and layers: against loops over windows, with positions, where nothing is largest, and messages."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn
from distgrad.nn import functional as F

RNG = np.random.default_rng(5)


def pooled(x: np.ndarray, windows: list[Any], how: Any) -> np.ndarray:
    """`how` of the elements that each window has, which are given for each dimension."""
    sizes = [len(w) for w in windows]
    out = np.zeros((*x.shape[: x.ndim - len(windows)], *sizes))
    for at in itertools.product(*map(range, sizes)):
        inside = x
        for d, i in enumerate(at):
            inside = inside.take(windows[d][i], x.ndim - len(windows) + d)
        out[(..., *at)] = how(inside.reshape(*out.shape[: x.ndim - len(windows)], -1))
    return out


def steps(n: int, k: int, s: int, p: int = 0, d: int = 1, ceil: bool = False) -> list[list[int]]:
    room = n + 2 * p - d * (k - 1) - 1
    t = (-(-room // s) if ceil else room // s) + 1
    starts = [i * s - p for i in range(t) if not ceil or i * s < n + p]
    return [[a + j * d for j in range(k) if 0 <= a + j * d < n] for a in starts]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_maxima_and_means(torch: ModuleType, n: int) -> None:
    x = RNG.standard_normal((3, 2, *(5, 4, 3)[:n]))
    windows = [steps(length, 3, 2, 1, ceil=True) for length in x.shape[2:]]
    maxima = getattr(F, f"max_pool{n}d")(torch.tensor(x), 3, 2, 1, 1, True)
    np.testing.assert_array_equal(maxima.numpy(), pooled(x, windows, lambda e: e.max(-1)))
    means = getattr(F, f"avg_pool{n}d")(torch.tensor(x), 3, 2, 1, True, False)
    np.testing.assert_allclose(means.numpy(), pooled(x, windows, lambda e: e.mean(-1)), rtol=1e-12)
    norms = getattr(F, f"lp_pool{n}d")(torch.tensor(x), 2.0, 2)
    windows = [steps(length, 2, 2) for length in x.shape[2:]]
    np.testing.assert_allclose(
        norms.numpy(), pooled(x, windows, lambda e: np.sqrt((e**2).sum(-1))), rtol=1e-12
    )


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("t", [1, 2, 3, 7])
def test_windows_of_any_number(torch: ModuleType, n: int, t: int) -> None:
    x = RNG.standard_normal((2, 3, *(5, 4, 6)[:n]))
    windows = [[list(range(i * m // t, -(-(i + 1) * m // t))) for i in range(t)] for m in x.shape[2:]]
    leaf = torch.tensor(x, requires_grad=True)
    means = getattr(F, f"adaptive_avg_pool{n}d")(leaf, t)
    np.testing.assert_allclose(
        means.detach().numpy(), pooled(x, windows, lambda e: e.mean(-1)), rtol=1e-12, atol=1e-15
    )
    maxima, places = getattr(F, f"adaptive_max_pool{n}d")(leaf, t, True)
    np.testing.assert_array_equal(maxima.detach().numpy(), pooled(x, windows, lambda e: e.max(-1)))
    flat = x.reshape(2, 3, -1)
    found = np.take_along_axis(flat, places.numpy().reshape(2, 3, -1), -1)
    np.testing.assert_array_equal(found.reshape(maxima.shape), maxima.detach().numpy())
    (g,) = torch.autograd.grad(maxima.sum(), leaf)
    want = np.zeros_like(flat)
    for i, j in np.ndindex(2, 3):
        np.add.at(want[i, j], places.numpy()[i, j].ravel(), 1)
    np.testing.assert_array_equal(g.numpy(), want.reshape(x.shape))


def test_positions_where_nothing_is_largest(torch: ModuleType) -> None:
    """The numbers are torch's: the last nan; of equal elements the first that is no padding."""
    nan = float("nan")
    values, places = F.max_pool1d(torch.tensor([[[nan, 1, nan, 3]]]), 3, 1, return_indices=True)
    assert values.isnan().all()
    assert places.tolist() == [[[2, 2]]]
    low = torch.full((1, 1, 4), -float("inf"))
    assert F.max_pool1d(low, 3, 1, 1, return_indices=True)[1].tolist() == [[[0, 0, 1, 2]]]


def test_inverse_of_maxima(torch: ModuleType) -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4).requires_grad_()
    values, places = F.max_pool2d(x, 2, return_indices=True)
    assert places.tolist() == [[[[5, 7], [13, 15]]]]
    back = F.max_unpool2d(values, places, 2)
    want = np.zeros((1, 1, 4, 4))
    want[0, 0, 1::2, 1::2] = [[5, 7], [13, 15]]
    np.testing.assert_array_equal(back.detach().numpy(), want)
    (back * back).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * want)
    assert tuple(F.max_unpool2d(values, places, 2, output_size=(5, 5)).shape) == (1, 1, 5, 5)
    with pytest.raises(ValueError, match=r'invalid output_size "\(7, 5\)" \(dim 0 must be between 2 and 6\)'):
        F.max_unpool2d(values, places, 2, output_size=(7, 5))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.MaxPool2d(2), "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"),
        (nn.AvgPool1d(2), "AvgPool1d(kernel_size=(2,), stride=(2,), padding=(0,))"),
        (nn.AvgPool2d((2, 3)), "AvgPool2d(kernel_size=(2, 3), stride=(2, 3), padding=0)"),
        (nn.LPPool2d(2, 3), "LPPool2d(norm_type=2, kernel_size=3, stride=None, ceil_mode=False)"),
        (nn.AdaptiveAvgPool2d((None, 3)), "AdaptiveAvgPool2d(output_size=(None, 3))"),
        (nn.MaxUnpool2d(2), "MaxUnpool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))"),
    ],
)
def test_printed(layer: Any, text: str) -> None:
    assert repr(layer) == text


def ones(*shape: int) -> Any:
    return distgrad.ones(*shape)


WRONG = [
    (lambda: F.max_pool1d(ones(6), 3), r"max_pool1d: Expected 2D or 3D .* but got:\[6\]"),
    (lambda: F.max_pool1d(ones(1, 2, 6), 3, padding=2), "padding should be at most half of kernel size, but got"),
    (lambda: F.max_pool1d(ones(1, 2, 6), 8), r"max_pool1d\(\) Invalid computed output size: "),
    (lambda: F.max_pool2d(ones(6, 6), 3), r"non-empty 3D or 4D \(batch mode\) tensor expected for input"),
    (lambda: F.max_pool2d(ones(1, 2, 6, 6), 3, padding=2), "pad=2, kernel_size=3 and dilation=1"),
    (lambda: F.max_pool2d(ones(1, 2, 6, 6), 3, padding=-1), "pad must be non-negative, but got pad: -1"),
    (lambda: F.max_pool2d(ones(1, 2, 6, 6), 3, 0), "stride should not be zero"),
    (lambda: F.max_pool2d(ones(1, 2, 6, 6), 8), r"Given input size: \(2x6x6\). Calculated output size: \(2x"),
    (lambda: F.max_pool2d(ones(1, 2, 6, 6), (3, 3, 3)), "kernel_size must either be a single int, or a tuple of two"),
    (lambda: F.max_pool2d(ones(1, 2, 6, 6), 3, dilation=0), "but got dilationH: 0 dilationW: 0"),
    (lambda: F.avg_pool2d(ones(1, 2, 6, 6), 2, divisor_override=0), "divisor must be not zero"),
    (lambda: F.adaptive_avg_pool2d(ones(6, 6), 3), r"Expected 3D or 4D tensor, but got \[6, 6\]"),
    (lambda: F.adaptive_avg_pool2d(ones(1, 2, 6, 6), -1), r"or equal to 0 but received \{-1, -1\}"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "text"), WRONG)
def test_refused_as_in_torch(call: Any, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        call()
