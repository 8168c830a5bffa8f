"""References of convolutions, pooling and padding, as loops over all windows: see `references.py`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import window_cases as cases
from references import Array, reference


# Convolutions. x is (N, C, *spatial), w (O, C / groups, *kernel), y (N, O, *spatial).
def steps(n: int, value: Any) -> tuple[int, ...]:
    found = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return found * n if len(found) == 1 else found


def pairs(of_x: Any, kernel: Any, of_y: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """All (place in x, offset, place in y) that belong together."""
    for t in np.ndindex(*of_y):
        for k in np.ndindex(*kernel):
            at = tuple(
                a * s + b * d - p for a, b, s, d, p in zip(t, k, stride, dilation, padding, strict=True)
            )
            if all(0 <= i < n for i, n in zip(at, of_x, strict=True)):
                yield at, k, t


def channels(groups: int, o: int, c: int) -> Any:
    """All (channel of y, channel of x, second index of w) that belong together."""
    for i, j in itertools.product(range(o), range(c // groups)):
        yield i, i // (o // groups) * (c // groups) + j, j


@reference("_convolve")
def convolve(
    x: Array, w: Array, stride: Any, padding: Any, dilation: Any, groups: int, size: Any, bias: Any = None
) -> Array:
    y = np.zeros((len(x), len(w), *size), x.dtype)
    for at, k, t in pairs(x.shape[2:], w.shape[2:], size, stride, padding, dilation):
        for o, c, j in channels(groups, len(w), x.shape[1]):
            y[(slice(None), o, *t)] += w[(o, j, *k)] * x[(slice(None), c, *at)]
    return y if bias is None else y + bias.reshape(-1, *[1] * len(size))


@reference("_convolve_input")
def convolve_input(
    y: Array, w: Array, stride: Any, padding: Any, dilation: Any, groups: int, size: Any, bias: Any = None
) -> Array:
    x = np.zeros((len(y), w.shape[1] * groups, *size), y.dtype)
    for at, k, t in pairs(size, w.shape[2:], y.shape[2:], stride, padding, dilation):
        for o, c, j in channels(groups, len(w), x.shape[1]):
            x[(slice(None), c, *at)] += w[(o, j, *k)] * y[(slice(None), o, *t)]
    return x if bias is None else x + bias.reshape(-1, *[1] * len(size))


@reference("_convolve_weight")
def convolve_weight(
    x: Array, y: Array, stride: Any, padding: Any, dilation: Any, groups: int, size: Any
) -> Array:
    w = np.zeros((y.shape[1], x.shape[1] // groups, *size), x.dtype)
    for at, k, t in pairs(x.shape[2:], size, y.shape[2:], stride, padding, dilation):
        for o, c, j in channels(groups, len(w), x.shape[1]):
            w[(o, j, *k)] += x[(slice(None), c, *at)] @ y[(slice(None), o, *t)]
    return w


@reference("conv1d", "conv2d", "conv3d")
def conv(
    x: Array,
    w: Array,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    n = w.ndim - 2
    if not len(w):
        raise ValueError("no output channels")
    if x.ndim == n + 1:
        return conv(x[None], w, bias, stride, padding, dilation, groups)[0]
    stride, dilation = steps(n, stride), steps(n, dilation)
    reach = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
    size = x.shape[2:]
    if padding == "same":
        padding = [r // 2 for r in reach]
    else:
        padding = steps(n, 0 if padding == "valid" else padding)
        size = tuple(
            (a + 2 * p - r - 1) // s + 1 for a, p, r, s in zip(size, padding, reach, stride, strict=True)
        )
    return convolve(x, w, stride, padding, dilation, groups, size, bias)


@reference("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    y: Array,
    w: Array,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    extra: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    n = w.ndim - 2
    if not len(w):
        raise ValueError("no input channels")
    if y.ndim == n + 1:
        return conv_transpose(y[None], w, bias, stride, padding, extra, groups, dilation)[0]
    stride, padding, extra, dilation = (steps(n, v) for v in (stride, padding, extra, dilation))
    each = zip(y.shape[2:], w.shape[2:], stride, padding, extra, dilation, strict=True)
    size = tuple((t - 1) * s - 2 * p + d * (k - 1) + e + 1 for t, k, s, p, e, d in each)
    return convolve_input(y, w, stride, padding, dilation, groups, size, bias)


@reference("convolution")
def _(
    x: Array,
    w: Array,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    extra: Any,
    groups: int,
) -> Array:
    if transposed:
        return conv_transpose(x, w, bias, stride, padding, extra, groups, dilation)
    return conv(x, w, bias, stride, padding, dilation, groups)


@reference("conv_tbc")
def _(x: Array, w: Array, bias: Array, pad: int = 0) -> Array:
    return conv(x.transpose(1, 2, 0), w.transpose(2, 1, 0), bias, 1, pad).transpose(2, 0, 1)


# Padding.
@reference("constant_pad_nd")
def _(x: Array, pad: Any, value: float = 0) -> Array:
    for i in range(0, len(pad), 2):
        d = x.ndim - 1 - i // 2
        for end in (0, 1):
            n = pad[i + end]
            if n < 0:
                x = np.delete(x, range(-n) if end == 0 else range(x.shape[d] + n, x.shape[d]), d)
            else:
                widths = [(n * (1 - end), n * end) if e == d else (0, 0) for e in range(x.ndim)]
                x = np.pad(x, widths, constant_values=value)
    return x


@reference("_taken")
def _(x: Array, dims: Any, positions: Any, node: str = "") -> Array:
    for d, places in zip(dims, positions, strict=True):
        x = np.stack([x.take(i, d) for i in places], d)
    return x


@reference("_untaken")
def _(x: Array, dims: Any, positions: Any, shape: Any) -> Array:
    for d, places in zip(dims, positions, strict=True):
        parts = [np.zeros_like(x.take(0, d)) for _ in range(shape[d])]
        for i, place in enumerate(places):
            parts[place] = parts[place] + x.take(i, d)
        x = np.stack(parts, d)
    return x


# Windows: those of `primitive_cases`, with the arguments of the ops.
def how(windows: Any, size: Any) -> dict[str, Any]:
    return dict(zip(("kernel", "stride", "padding", "dilation"), windows, strict=True)) | {
        "size": tuple(size)
    }


def lead(x: Array, windows: Any) -> tuple[int, ...]:
    return x.shape[: x.ndim - len(windows[0])]


@reference("_window_sum")
def _(x: Array, windows: Any, size: Any, node: str = "") -> Array:
    return cases.window_sum(x, **how(windows, size))


@reference("_window_spread")
def _(y: Array, windows: Any, size: Any) -> Array:
    linear = cases.transposed(cases.window_sum, len(lead(y, windows)))
    return linear(y, **how(windows, size)).astype(y.dtype)


@reference("_window_gather")
def _(x: Array, windows: Any, size: Any) -> Array:
    return cases.window_gather(x, **how(windows, size))


@reference("_window_scatter")
def _(y: Array, windows: Any, size: Any) -> Array:
    linear = cases.transposed(cases.window_gather, y.ndim - 2 * len(size))
    return linear(y, **how(windows, size)).astype(y.dtype)


def low(x: Array) -> Any:
    return -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min


@reference("_window_max")
def _(x: Array, windows: Any, size: Any, node: str = "") -> Array:
    return cases.offsets(x, outside=low(x), **how(windows, size)).max(0)


@reference("_window_argmax")
def _(x: Array, windows: Any, size: Any) -> Array:
    return cases.offsets(x, outside=low(x), **how(windows, size)).argmax(0).astype("int32")


@reference("_window_pick")
def _(x: Array, which: Array, windows: Any) -> Array:
    return cases.window_pick(x, which, **how(windows, which.shape[which.ndim - len(windows[0]) :]))


@reference("_window_place")
def _(y: Array, which: Array, windows: Any, size: Any) -> Array:
    linear = cases.transposed(cases.window_pick, len(lead(y, windows)))
    return linear(y, which, **how(windows, size)).astype(y.dtype)


@reference("_window_places")
def _(which: Array, windows: Any, size: Any) -> Array:
    out = np.zeros(which.shape, np.int64)
    n = len(size)
    for at in np.ndindex(*which.shape):
        offset = np.unravel_index(which[at], windows[0])
        where = [t * s - p + k * d for t, k, s, p, d in zip(at[-n:], offset, *windows[1:], strict=True)]
        for w, length in zip(where, size, strict=True):
            out[at] = out[at] * length + w
    return out
