"""Windows as columns, resampling, and sampling on grids: against what they are defined by, and messages of torch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import distgrad
from distgrad import nn
from distgrad.nn import functional as F

RNG = np.random.default_rng(8)


def test_columns_of_windows_make_a_convolution(torch: ModuleType) -> None:
    x, w = torch.tensor(RNG.standard_normal((3, 2, 5, 4))), torch.tensor(RNG.standard_normal((4, 2, 2, 3)))
    columns = nn.Unfold((2, 3), padding=1, stride=(2, 1))(x)
    want = F.conv2d(x, w, None, (2, 1), 1)
    np.testing.assert_allclose(
        (w.reshape(4, -1) @ columns).reshape(want.shape).numpy(), want.numpy(), atol=1e-12
    )
    ones = nn.Fold((5, 4), (2, 3), padding=1, stride=(2, 1))(
        F.unfold(torch.ones_like(x), (2, 3), 1, 1, (2, 1))
    )
    assert ones[0, 0].tolist() == [[2, 3, 3, 2], [2, 3, 3, 2], [2, 3, 3, 2], [2, 3, 3, 2], [2, 3, 3, 2]]


@pytest.mark.parametrize("aligned", [False, True])
def test_linear_functions_stay_linear(torch: ModuleType, aligned: bool) -> None:
    """Between the middles of the outermost pixels."""
    image = torch.tensor(np.add.outer(3.0 * np.arange(6), np.arange(5.0))[None, None])
    made = F.interpolate(image, (11, 9), mode="bilinear", align_corners=aligned).numpy()[0, 0]
    at = [
        np.linspace(0, n - 1, t) if aligned else np.clip((np.arange(t) + 0.5) * n / t - 0.5, 0, n - 1)
        for n, t in ((6, 11), (5, 9))
    ]
    np.testing.assert_allclose(made, np.add.outer(3 * at[0], at[1]), rtol=1e-12)


def test_cubic_weights(torch: ModuleType) -> None:
    """Those of Keys with a = -0.75, half way between two pixels: -3/32, 19/32, 19/32, -3/32."""
    x = torch.tensor(RNG.standard_normal((1, 1, 9, 9)))
    made = F.interpolate(x, (17, 17), mode="bicubic", align_corners=True).numpy()[0, 0]
    np.testing.assert_allclose(made[::2, ::2], x.numpy()[0, 0], rtol=1e-12)
    rows = x.numpy()[0, 0, 4]
    want = [np.dot([-3 / 32, 19 / 32, 19 / 32, -3 / 32], rows[i - 1 : i + 3]) for i in range(1, 7)]
    np.testing.assert_allclose(made[8, 3:15:2], want, rtol=1e-12)


def test_nearest_and_area(torch: ModuleType) -> None:
    x = torch.arange(5.0).reshape(1, 1, 5)
    assert F.interpolate(x, 3).tolist() == [[[0, 1, 3]]]
    assert F.interpolate(x, 3, mode="nearest-exact").tolist() == [[[0, 2, 4]]]
    assert F.interpolate(x, scale_factor=2).tolist() == [[[0, 0, 1, 1, 2, 2, 3, 3, 4, 4]]]
    assert F.interpolate(x, 2, mode="area").tolist() == [[[1, 3]]]


def test_antialias_keeps_the_mean(torch: ModuleType) -> None:
    x = torch.tensor(RNG.standard_normal((2, 1, 12, 12)), requires_grad=True)
    constant = F.interpolate(torch.full((1, 1, 12, 12), 2.5), 5, mode="bicubic", antialias=True)
    np.testing.assert_allclose(constant.numpy(), 2.5, rtol=1e-6)
    made = F.interpolate(x, 3, mode="bilinear", antialias=True)
    weights = np.maximum(1 - np.abs(np.arange(12)[None] - (4 * np.arange(3)[:, None] + 1.5)) / 4, 0)
    weights /= weights.sum(1, keepdims=True)
    want = np.einsum("ih,jw,nchw->ncij", weights, weights, x.detach().numpy())
    np.testing.assert_allclose(made.detach().numpy(), want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("mode", "order"), [("nearest", 0), ("bilinear", 1)])
@pytest.mark.parametrize(
    ("outside", "name"), [("zeros", "grid-constant"), ("border", "nearest"), ("reflection", "mirror")]
)
def test_grid_against_scipy(torch: ModuleType, mode: str, order: int, outside: str, name: str) -> None:
    x, grid = RNG.standard_normal((2, 3, 5, 4)), RNG.uniform(-1.4, 1.4, (2, 3, 2, 2))
    made = F.grid_sample(torch.tensor(x), torch.tensor(grid), mode, outside, True).numpy()
    rows, columns = (grid[..., 1] + 1) * 2, (grid[..., 0] + 1) * 1.5
    for n, c in np.ndindex(2, 3):
        at = np.stack([rows[n], columns[n]])
        want = ndimage.map_coordinates(x[n, c], at, order=order, mode=name, cval=0.0)
        np.testing.assert_allclose(made[n, c], want, rtol=1e-10, atol=1e-12)


def test_grid_has_gradients(torch: ModuleType) -> None:
    x = torch.tensor(RNG.standard_normal((2, 1, 4, 4)), requires_grad=True)
    theta = torch.tensor(RNG.standard_normal((2, 2, 3)) * 0.3, requires_grad=True)

    def value(t: Any) -> Any:
        return (F.grid_sample(x, F.affine_grid(t, (2, 1, 3, 3), False), align_corners=False) ** 2).sum()

    (g,) = torch.autograd.grad(value(theta), theta)
    step = 1e-6
    for at in ((0, 0, 0), (0, 1, 2), (1, 0, 1), (1, 1, 0)):
        moved = [theta.detach().numpy().copy() for _ in range(2)]
        moved[0][at] += step
        moved[1][at] -= step
        up, down = (value(torch.tensor(m)).item() for m in moved)
        np.testing.assert_allclose(g.numpy()[at], (up - down) / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.Unfold(2), "Unfold(kernel_size=2, dilation=1, padding=0, stride=1)"),
        (nn.Fold((4, 4), 2), "Fold(output_size=(4, 4), kernel_size=2, dilation=1, padding=0, stride=1)"),
        (nn.Upsample(scale_factor=2), "Upsample(scale_factor=2.0, mode='nearest')"),
        (nn.UpsamplingBilinear2d((3, 3)), "UpsamplingBilinear2d(size=(3, 3), mode='bilinear')"),
        (nn.PixelShuffle(2), "PixelShuffle(upscale_factor=2)"),
    ],
)
def test_printed(layer: Any, text: str) -> None:
    assert repr(layer) == text


def ones(*shape: int) -> Any:
    return distgrad.ones(*shape)


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: F.unfold(ones(1, 2, 4, 4), 5), RuntimeError, r"sliding blocks as \(0, 0\), but its components"),
    (lambda: F.fold(ones(1, 8, 8), (4, 4), 2), RuntimeError, r"sliding blocks 3 \* 3 = 9, but got input.size\(2\)=8"),
    (lambda: F.pixel_shuffle(ones(1, 7, 2, 2), 2), RuntimeError, r"input.size\(-3\)=7 is not divisible by 4"),
    (lambda: F.interpolate(ones(1, 2, 4)), ValueError, "either size or scale_factor should be defined"),
    (lambda: F.interpolate(ones(1, 2, 4), 2, mode="bilinear"), NotImplementedError, "bilinear mode needs 4D input"),
    (lambda: F.interpolate(ones(1, 2, 4), 0), RuntimeError, r"input \(W: 4\) and output \(W: 0\)"),
    (lambda: F.interpolate(ones(1, 2, 4), 2, align_corners=True), ValueError, "align_corners option can only be set"),
    (lambda: F.grid_sample(ones(2, 1, 3, 3), ones(1, 3, 3, 2)), RuntimeError, "to have same batch size, but got"),
    (lambda: F.affine_grid(ones(1, 2, 2), (1, 1, 4, 4)), ValueError, "affine matrices of shape Nx2x3 for size"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Default grid_sample")
@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
def test_refused_as_in_torch(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
