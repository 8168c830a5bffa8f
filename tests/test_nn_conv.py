"""Convolution and padding layers: printed forms, sizes, messages, and steps on cut batches."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from references_conv import conv, conv_transpose

import distgrad
from distgrad import nn
from distgrad.nn import functional as F
from distgrad.primitives import Place, columns, depthwise
from distgrad.primitives import convolution as kernels
from distgrad.session import door
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

RNG = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: nn.Conv2d(2, 4, 3), "Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1))"),
        (
            lambda: nn.Conv1d(2, 4, 3, padding="same", groups=2, bias=False, padding_mode="circular"),
            "Conv1d(2, 4, kernel_size=(3,), stride=(1,), padding=same, groups=2, bias=False, padding_mode=circular)",
        ),
        (
            lambda: nn.ConvTranspose2d(2, 4, (3, 2), stride=2, output_padding=1, dilation=2),
            "ConvTranspose2d(2, 4, kernel_size=(3, 2), stride=(2, 2), dilation=(2, 2), output_padding=(1, 1))",
        ),
        (lambda: nn.ConstantPad2d(1, 2.0), "ConstantPad2d(padding=(1, 1, 1, 1), value=2.0)"),
        (lambda: nn.ReflectionPad1d((1, 2)), "ReflectionPad1d((1, 2))"),
        (lambda: nn.ZeroPad3d(1), "ZeroPad3d((1, 1, 1, 1, 1, 1))"),
    ],
)
def test_printed(layer: Any, text: str) -> None:
    assert repr(layer()) == text


def test_state_and_initial_values() -> None:
    layer = nn.ConvTranspose2d(4, 6, (3, 2), groups=2)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        "weight": (4, 3, 3, 2),
        "bias": (6,),
    }
    assert abs(layer.weight.detach().numpy()).max() <= 1 / np.sqrt(3 * 3 * 2)
    many = nn.Conv2d(16, 64, 3).weight.detach().numpy()
    np.testing.assert_allclose(many.std(), 1 / np.sqrt(3 * 16 * 9), rtol=0.05)  # uniform within ±1/sqrt(144)


def one(shape: tuple[int, ...], **_: Any) -> Any:
    return distgrad.ones(shape)


WRONG = [
    (lambda: F.conv2d(one((4, 4)), one((1, 1, 2, 2))), r"Expected 3D \(unbatched\) or 4D \(batched\) input to conv2d"),
    (lambda: F.conv1d(one((1, 4)), one((1, 1, 2, 2))), "Expected 4-dimensional input for 4-dimensional weight"),
    (lambda: F.conv2d(one((1, 2, 4, 4)), one((3, 3, 2, 2))), r"expected input\[1, 2, 4, 4\] to have 3 channels"),
    (lambda: F.conv2d(one((1, 4, 4, 4)), one((3, 2, 2, 2)), groups=2), "expected weight to be divisible by 2"),
    (lambda: F.conv2d(one((1, 1, 2, 2)), one((1, 1, 3, 3))), r"padded input size per channel: \(2 x 2\). Kernel size"),
    (lambda: F.conv2d(one((1, 1, 4, 4)), one((2, 1, 3, 3)), one((3,))), "expected bias to be 1-dimensional with 2"),
    (lambda: F.conv2d(one((1, 1, 4, 4)), one((2, 1, 3, 3)), stride=0), "non-positive stride is not supported"),
    (lambda: F.conv2d(one((1, 1, 4, 4)), one((2, 1, 3, 3)), padding=-1), "negative padding is not supported"),
    (lambda: F.conv2d(one((1, 1, 4, 4)), one((2, 1, 3, 3)), dilation=0), r"greater than zero, but got \[0, 0\]"),
    (lambda: F.conv2d(one((1, 1, 4, 4)), one((2, 1, 3, 3)), stride=(1, 1, 1)), r"but got stride=\[1, 1, 1\]"),
    (lambda: F.conv2d(one((1, 1, 4, 4)), one((2, 1, 3, 3)), None, 2, "same"), "not supported for strided"),
    (lambda: F.conv2d(one((1, 1, 4, 4)), one((2, 1, 3, 3)).double()), "expected scalar type Float but found Double"),
    (lambda: F.conv_transpose2d(one((1, 1, 4, 4)), one((1, 2, 2, 2)), output_padding=1), "output padding must be"),
    (lambda: F.conv_transpose2d(one((1, 3, 1, 1)), one((3, 2, 2, 2)), padding=3), r"\(-4 x -4\). Output size is too"),
    (lambda: F.pad(one((2, 3)), (1,)), "Padding length must be divisible by 2"),
    (lambda: F.pad(one((1, 2, 3)), (3, 1), "reflect"), "Padding size should be less than"),
    (lambda: F.pad(one((1, 2, 3)), (4, 1), "circular"), "wrapping around more than once"),
    (lambda: F.pad(one((1, 2, 3)), (-2, -1), "replicate"), r"input \(W: 3\) is too small. Calculated output W: 0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "text"), WRONG)
def test_refused_as_in_torch(call: Any, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        call()


def test_layers_refuse_at_once() -> None:
    with pytest.raises(ValueError, match="in_channels must be divisible by groups"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match="Invalid padding string 'foo'"):
        nn.Conv2d(4, 3, 3, padding="foo")
    with pytest.raises(ValueError, match='Only "zeros" padding mode is supported for ConvTranspose1d'):
        nn.ConvTranspose1d(4, 3, 3, padding_mode="reflect")


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes(torch: ModuleType, mode: str) -> None:
    x = normal(3, 2, 4, 5)
    layer = nn.Conv2d(2, 3, (2, 3), padding="same", padding_mode=mode, dtype=torch.float64)
    how = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    wide = np.pad(x, [(0, 0), (0, 0), (0, 1), (1, 1)], how)  # type: ignore[call-overload]
    want = conv(wide, *(p.detach().numpy() for p in (layer.weight, layer.bias)))
    np.testing.assert_allclose(layer(torch.tensor(x)).detach().numpy(), want, rtol=1e-12)


def test_output_size_chooses_among_sizes(torch: ModuleType) -> None:
    layer = nn.ConvTranspose2d(2, 1, 3, stride=2, dtype=torch.float64)
    x = normal(1, 2, 4, 4)
    w, b = (p.detach().numpy() for p in (layer.weight, layer.bias))
    got = layer(torch.tensor(x), output_size=(10, 9))
    np.testing.assert_allclose(got.detach().numpy(), conv_transpose(x, w, b, 2, 0, (1, 0)), rtol=1e-12)
    with pytest.raises(
        ValueError, match=r"requested an output size of \(8, 9\), but valid sizes range from \[9, 9\]"
    ):
        layer(torch.tensor(x), output_size=(8, 9))


def test_names_of_nodes(torch: ModuleType) -> None:
    x = torch.tensor(normal(1, 2, 3), requires_grad=True)
    w = torch.tensor(normal(2, 2, 2), requires_grad=True)
    y = F.conv1d(x, w)
    assert y.grad_fn.name() == "ConvolutionBackward0"
    assert [node is None for node, _ in y.grad_fn.next_functions] == [False, False, True]
    (g,) = torch.autograd.grad(y.sum(), w, create_graph=True)
    assert g.grad_fn.name() == "ConvolutionBackwardBackward0"


def gradients(workers: int, shard_bytes: int) -> list[np.ndarray]:
    door.shutdown()
    door.attach(InProcess(workers, Worker), inline_bytes=0, shard_bytes=shard_bytes)
    rng = np.random.default_rng(0)
    x = distgrad.tensor(rng.standard_normal((37, 4, 6, 5)).astype("f"), requires_grad=True)
    w = distgrad.tensor(rng.standard_normal((6, 2, 3, 2)).astype("f"), requires_grad=True)
    b = distgrad.tensor(rng.standard_normal(6).astype("f"), requires_grad=True)
    y = F.conv2d(x, w, b, (2, 1), 1, 1, 2)
    v = distgrad.tensor(rng.standard_normal(tuple(y.shape)).astype("f"))
    (y * y * v).sum().backward()
    found = [t.detach().numpy() for t in (y, x.grad, w.grad, b.grad)]
    door.shutdown()
    return found


def test_same_bits_on_any_number_of_workers() -> None:
    one_worker = gradients(1, 2000)
    for got, want in zip(gradients(3, 2000), one_worker, strict=True):
        np.testing.assert_array_equal(got, want)
    for got, want in zip(gradients(3, 1 << 20), one_worker, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(("waste", "products"), [(0, 0), (1000, 0), (0, 2)])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_numbers_that_are_not_finite_stay_where_they_are_read(
    monkeypatch: pytest.MonkeyPatch, waste: int, products: int, bad: float
) -> None:
    """A run of columns holds some that nobody needs: what is not finite there must reach nothing."""
    monkeypatch.setattr(columns, "WASTE", waste)
    monkeypatch.setattr(depthwise, "PRODUCTS", products)
    monkeypatch.setattr(depthwise, "LONG", 1)
    monkeypatch.setattr(depthwise, "LONG_INPUT", 1)
    how: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    x, w, y = normal(2, 1, 4, 4), normal(1, 1, 2, 2), normal(2, 1, 3, 3)
    x[0, 0, 0, 3], w[0, 0, 1, 1], y[1, 0, 0, 0] = bad, bad, 0
    with np.errstate(invalid="ignore"):
        gw = kernels.convolve_weight(x, y, size=(2, 2), at=whole(1, 1, 2, 2), **how)
        gx = kernels.convolve_input(y, w, size=(4, 4), at=whole(2, 1, 4, 4), **how)
    assert np.isfinite(gw[0, 0, :, 0]).all()  # the first column of offsets never reads the last of x
    assert np.isfinite(gx[:, 0, 0]).all()  # the last offset never writes there
    assert np.isfinite(gx[:, 0, :, 0]).all()


def whole(*shape: int) -> Place:
    return Place((), (tuple((0, n) for n in shape),))


@pytest.mark.parametrize(("block", "least"), [(64, 1), (4000, 8), (1 << 20, 256)])
def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, block: int, least: int) -> None:
    monkeypatch.setattr(columns, "BLOCK", block)
    monkeypatch.setattr(columns, "COLUMNS", least)
    x, w, y = normal(3, 2, 2, 5, 4), normal(2, 3, 2, 2, 3), normal(3, 2, 3, 3, 4)
    how: dict[str, Any] = {"stride": (2, 1), "padding": (1, 1), "dilation": (1, 1)}
    flat = x.reshape(3, 4, 5, 4), w.reshape(6, 2, 2, 3)
    want = conv(*flat, None, (2, 1), 1, 1, 2).reshape(3, 2, 3, 3, 4)
    got = kernels.convolve(x, w, size=(3, 4), at=whole(*want.shape), **how)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    gx = kernels.convolve_input(y, w, size=(5, 4), at=whole(*x.shape), **how)
    gw = kernels.convolve_weight(x, y, size=(2, 3), at=whole(*w.shape), **how)
    np.testing.assert_allclose((gx * x).sum(), (y * want).sum(), rtol=1e-10)  # both are the form itself
    np.testing.assert_allclose((gw * w).sum(), (y * want).sum(), rtol=1e-10)


@pytest.mark.parametrize("run", [1, 30, 70, 8192])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("x", "w", "stride", "padding", "dilation"),
    [
        ((3, 2, 1, 9, 4), (2, 1, 1, 3, 2), (1, 1), (1, 0), (2, 1)),
        ((3, 2, 2, 9, 4), (2, 1, 2, 2, 3), (2, 3), (1, 2), (1, 2)),
        ((3, 2, 1, 9), (2, 2, 1, 3), (2,), (2,), (1,)),
        ((2, 1, 1, 3, 4, 5), (1, 2, 1, 2, 1, 3), (1, 2, 1), (1, 0, 1), (1, 1, 1)),
    ],
)
def test_few_channels_are_as_many(
    monkeypatch: pytest.MonkeyPatch,
    run: int,
    dtype: Any,
    x: Any,
    w: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
) -> None:
    """Run by run, in blocks of any size, and as a product of matrices: the same numbers."""
    how = {"stride": stride, "padding": padding, "dilation": dilation}
    rest = zip(x[3:], w[3:], stride, padding, dilation, strict=True)
    size = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in rest)
    xs, ws, ys = (normal(*shape).astype(dtype) for shape in (x, w, (*x[:2], w[1], *size)))

    def results() -> list[np.ndarray]:
        return [
            kernels.convolve(xs, ws, size=size, at=whole(*ys.shape), **how),
            kernels.convolve_input(ys, ws, size=x[3:], at=whole(*x), **how),
            kernels.convolve_weight(xs, ys, size=w[3:], at=whole(*w), **how),
        ]

    monkeypatch.setattr(depthwise, "LONG", 1)
    monkeypatch.setattr(depthwise, "LONG_INPUT", 1)
    monkeypatch.setattr(depthwise, "RUN", run)
    monkeypatch.setattr(depthwise, "CACHED", 8 * run)
    found = results()
    monkeypatch.setattr(depthwise, "PRODUCTS", 0)
    tolerance = 1e-4 if dtype is np.float32 else 1e-12
    for got, want in zip(found, results(), strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("n", "size", "kernel", "runs"),
    [
        (4, (16,), (31,), ()),
        (1, (7, 7), (7, 7), ()),
        (1, (7, 7), (3, 3), ()),
        (8, (7, 7), (3, 3), ("input",)),
        (64, (7, 7), (3, 3), ("input", "output", "weight")),
        (1, (40, 40), (3, 3), ("input", "output", "weight")),
    ],
)
def test_short_runs_are_left_to_products_of_matrices(
    monkeypatch: pytest.MonkeyPatch, n: int, size: Any, kernel: Any, runs: Any
) -> None:
    """Each run of a small image costs a call: only windows that are added to cost more, and not from the first on."""
    seen = []
    for name in ("output", "input", "weight"):
        done = getattr(depthwise, name)
        monkeypatch.setattr(
            depthwise, name, lambda *args, name=name, done=done: (seen.append(name), done(*args))[1]
        )
    half = tuple(k // 2 for k in kernel)
    how: dict[str, Any] = {"stride": (1,) * len(size), "padding": half, "dilation": (1,) * len(size)}
    x, w = normal(n, 2, 1, *size), normal(2, 1, 1, *kernel)
    y = kernels.convolve(x, w, size=size, at=whole(*x.shape), **how)
    kernels.convolve_input(y, w, size=size, at=whole(*x.shape), **how)
    kernels.convolve_weight(x, y, size=kernel, at=whole(*w.shape), **how)
    assert sorted(seen) == list(runs)


@pytest.mark.parametrize(
    ("padding", "dilation", "size", "kernel"),
    [
        ((1, 1), (1, 1), (5, 4), (3, 3)),
        ((0, 2), (2, 1), (7, 4), (2, 3)),
        ((3, 4), (1, 2), (4, 3), (2, 2)),  # more padding than the kernel reaches
        ((1,), (2,), (6,), (3,)),
    ],
)
def test_gradients_of_inputs_read_or_write_windows(
    monkeypatch: pytest.MonkeyPatch, padding: Any, dilation: Any, size: Any, kernel: Any
) -> None:
    how: dict[str, Any] = {"stride": (1,) * len(size), "padding": padding, "dilation": dilation}
    rest = zip(size, kernel, padding, dilation, strict=True)
    of_y = tuple(n + 2 * p - d * (k - 1) for n, k, p, d in rest)
    y, w = normal(3, 2, 3, *of_y), normal(2, 3, 2, *kernel)
    found = []
    for outer in (1, 99):
        monkeypatch.setattr(kernels, "OUTER", outer)
        found.append(kernels.convolve_input(y, w, size=size, at=whole(3, 2, 2, *size), **how))
    np.testing.assert_allclose(*found, rtol=1e-12, atol=1e-12)
