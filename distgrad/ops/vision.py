"""Images arranged otherwise, or at other resolutions: windows as columns, shuffled pixels and channels, resampling."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad import session
from distgrad.graph import Value
from distgrad.ops.base import Ints, Tensor, op
from distgrad.ops.pooling import _emit
from distgrad.ops.regrouping import reshaped
from distgrad.ops.samples import real

__all__ = ["channel_shuffle", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle"]


# Windows as columns: x is (N, C, H, W), the columns are (N, C * products of the kernel, number of windows).
def _column_samples() -> list[Any]:
    return [(real(2, 2, 3, 4), ((2, 2), (1, 2), (1, 0), (1, 2)), (4, 1)), (real(2, 1, 3, 3), UNIT, (2, 2))]


UNIT = (2, 2), (1, 1), (0, 0), (1, 1)


@op(
    name="Im2ColBackward0",
    input=lambda g, windows, size, like: _col2im(g, windows, size, tuple(like.shape[2:])),
    method=False,
    samples=_column_samples,
)
def _im2col(input: Value, windows: Any, size: Ints) -> Value:
    """The windows, each as a column; there are `size` of them along each dimension."""
    n, c = input.shape[:2]
    kernel = windows[0]
    made = _emit("window_gather", input, windows=windows, size=size)
    return reshaped(made, (n, c * kernel[0] * kernel[1], size[0] * size[1]))


@op(
    name="Col2ImBackward0",
    input=lambda g, windows, size: _im2col(g, windows, size),
    method=False,
    samples=lambda: [
        (real(2, 8, 4), ((2, 2), (1, 2), (1, 0), (1, 2)), (4, 1), (3, 4)),
        (real(2, 4, 4), UNIT, (2, 2), (3, 3)),
    ],
)
def _col2im(input: Value, windows: Any, size: Ints, of_x: Ints) -> Value:
    """The transposed of `_im2col`: the elements of the columns, added where they were read."""
    n, (k, m) = input.shape[0], windows[0]
    columns = reshaped(input, (n, input.shape[1] // (k * m), k, m, *size))
    return _emit("window_scatter", columns, windows=windows, size=of_x)


# Pixels and channels. Dimensions before the channels stay as they are.
@op(
    input=lambda g, upscale_factor: pixel_unshuffle(g, upscale_factor),
    method=False,
    samples=lambda: [(real(2, 4, 2, 1), 2), (real(1, 2, 9, 1, 2), 3)],
)
def pixel_shuffle(input: Value, upscale_factor: int) -> Value:
    """(..., C * r * r, H, W) to (..., C, H * r, W * r): channels become pixels of finer planes."""
    r = upscale_factor
    _check_shuffle("pixel_shuffle", "upscale_factor", input, r)
    *lead, channels, h, w = input.shape
    if channels % (r * r):
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, "
            f"but input.size(-3)={channels} is not divisible by {r * r}"
        )
    split = reshaped(input, (*lead, channels // (r * r), r, r, h, w))
    turned = _behind(split, len(lead) + 1, (2, 0, 3, 1))
    return reshaped(turned, (*lead, channels // (r * r), h * r, w * r))


@op(
    input=lambda g, downscale_factor: pixel_shuffle(g, downscale_factor),
    method=False,
    samples=lambda: [(real(2, 1, 4, 2), 2), (real(1, 2, 1, 3, 6), 3)],
)
def pixel_unshuffle(input: Value, downscale_factor: int) -> Value:
    """The inverse of `pixel_shuffle`."""
    r = downscale_factor
    _check_shuffle("pixel_unshuffle", "downscale_factor", input, r)
    *lead, channels, h, w = input.shape
    for name, at, n in (("height", -2, h), ("width", -1, w)):
        if n % r:
            raise RuntimeError(
                f"pixel_unshuffle expects {name} to be divisible by downscale_factor, but input.size({at})={n} is not "
                f"divisible by {r}"
            )
    split = reshaped(input, (*lead, channels, h // r, r, w // r, r))
    turned = _behind(split, len(lead) + 1, (1, 3, 0, 2))
    return reshaped(turned, (*lead, channels * r * r, h // r, w // r))


def _check_shuffle(name: str, factor: str, x: Value, r: int) -> None:
    if len(x.shape) < 3:
        raise RuntimeError(
            f"{name} expects input to have at least 3 dimensions, but got input with {len(x.shape)} dimension(s)"
        )
    if r <= 0:
        raise RuntimeError(f"{name} expects a positive {factor}, but got {r}")


def _behind(x: Value, first: int, order: Ints) -> Value:
    """The dimensions from `first` on in another order."""
    return session.emit("permute", x, dims=(*range(first), *(first + i for i in order)))


@op(
    input=lambda g, groups: channel_shuffle(g, g.shape[1] // groups) if g.shape[1] else g,
    method=False,
    samples=lambda: [(real(2, 6, 2), 3), (real(1, 4, 1, 2), 2)],
)
def channel_shuffle(input: Value, groups: int) -> Value:
    """(N, C, ...) with channel j of group i, of C / groups each, at j * groups + i."""
    shape = input.shape
    if len(shape) < 3:
        raise RuntimeError(
            f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(shape)}"
        )
    if groups <= 0:
        raise RuntimeError(
            f"Number of groups to divide channels in must be positive. Value of groups:{groups}"
        )
    if shape[1] % groups:
        raise RuntimeError(
            f"Number of channels must be divisible by groups. Got {shape[1]} channels and {groups} groups."
        )
    split = reshaped(input, (shape[0], groups, shape[1] // groups, *shape[2:]))
    order = (0, 2, 1, *range(3, len(shape) + 1))
    return reshaped(session.emit("permute", split, dims=order), shape)


native_channel_shuffle = channel_shuffle


# Resampling: along each dimension every element is a sum of some others with weights.
TAPS = (((0, 0, 1), (0.75, 0.5, 1.0)), ((1, 1, 0), (0.25, 0.5, 0.0)))


@op(
    name=lambda input, dims, taps, node: node,
    input=lambda g, dims, taps, node, like: _unsampled(
        g, dims, taps, tuple(like.shape), f"{node[:-1]}Backward0"
    ),
    method=False,
    samples=lambda: [(real(2, 3, 2), (1, 2), (TAPS, TAPS), "SampledBackward0")],
)
def _resampled(input: Value, dims: Ints, taps: Any, node: str) -> Value:
    """Along each of `dims` the sum, over its taps, of the elements at positions times weights: a pair for each tap."""
    _only_floats(input)
    for d, pairs in zip(dims, taps, strict=True):
        total: Value | None = None
        for places, weights in pairs:
            part = session.emit("take", input, _positions(places), dim=d, size=input.shape[d], wrap=False)
            part = _weighted(part, weights, d)
            total = part if total is None else session.emit("add", total, part)
        assert total is not None
        input = total
    return input


@op(
    name=lambda input, dims, taps, shape, node: node,
    input=lambda g, dims, taps, node: _resampled(g, dims, taps, f"{node[:-1]}Backward0"),
    method=False,
    samples=lambda: [(real(2, 3, 3), (1, 2), (TAPS, TAPS), (2, 3, 2), "SampledBackward0")],
)
def _unsampled(input: Value, dims: Ints, taps: Any, shape: Ints, node: str) -> Value:
    """The transposed of `_resampled`, for elements of this shape."""
    _only_floats(input)
    for d, pairs in zip(dims, taps, strict=True):
        total: Value | None = None
        for places, weights in pairs:
            part = _weighted(input, weights, d)
            part = session.emit("index_add", _positions(places), part, dim=d, size=shape[d])
            total = part if total is None else session.emit("add", total, part)
        assert total is not None
        input = total
    return input


def _only_floats(x: Value) -> None:
    if x.dtype.kind != "f":
        raise NotImplementedError(f"weights that are no integers, for elements of {x.dtype}")


def _positions(places: Any) -> Value:
    return session.constant(np.array(places, np.int64))


def _weighted(x: Value, weights: Any, d: int) -> Value:
    if all(w == 1 for w in weights):
        return x
    row = np.array(weights, x.dtype).reshape(-1, *[1] * (len(x.shape) - 1 - d))
    return session.emit("multiply", x, session.constant(row))


def known(array: np.ndarray) -> Tensor:
    """A tensor that the driver has."""
    return Tensor(session.constant(array))
