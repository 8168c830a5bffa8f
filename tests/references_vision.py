"""References of ops for images: see `references.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from references import Array, reference
from references_conv import how
from window_cases import transposed, window_gather


def im2col(x: Array, windows: Any, size: Any) -> Array:
    found = window_gather(x, **how(windows, size))
    return found.reshape(len(x), -1, np.prod(size))


@reference("_im2col")
def _(x: Array, windows: Any, size: Any) -> Array:
    return im2col(x, windows, size)


@reference("_col2im")
def _(y: Array, windows: Any, size: Any, of_x: Any) -> Array:
    columns = y.reshape(len(y), -1, *windows[0], *size)
    return transposed(window_gather, 2)(columns, **how(windows, of_x)).astype(y.dtype)


@reference("pixel_shuffle")
def shuffled(x: Array, r: int) -> Array:
    *lead, c, h, w = x.shape
    out = np.zeros((*lead, c // r**2, h * r, w * r), x.dtype)
    for i in range(r):
        for j in range(r):
            out[..., i::r, j::r] = x[..., i * r + j :: r * r, :, :]
    return out


@reference("pixel_unshuffle")
def _(x: Array, r: int) -> Array:
    *lead, c, h, w = x.shape
    out = np.zeros((*lead, c * r**2, h // r, w // r), x.dtype)
    for i in range(r):
        for j in range(r):
            out[..., i * r + j :: r * r, :, :] = x[..., i::r, j::r]
    return out


@reference("channel_shuffle")
def _(x: Array, groups: int) -> Array:
    n = x.shape[1] // groups
    return np.stack([x[:, i * n + j] for j in range(n) for i in range(groups)], 1) if n else x.copy()


def matrix(pairs: Any, n: int) -> Array:
    made = np.zeros((len(pairs[0][0]), n))
    for places, weights in pairs:
        for i, (place, weight) in enumerate(zip(places, weights, strict=True)):
            made[i, place] += weight
    return made


@reference("_resampled")
def _(x: Array, dims: Any, taps: Any, node: str) -> Array:
    for d, pairs in zip(dims, taps, strict=True):
        x = np.moveaxis(np.moveaxis(x, d, -1) @ matrix(pairs, x.shape[d]).T, -1, d)
    return x


@reference("_unsampled")
def _(x: Array, dims: Any, taps: Any, shape: Any, node: str) -> Array:
    for d, pairs in zip(dims, taps, strict=True):
        x = np.moveaxis(np.moveaxis(x, d, -1) @ matrix(pairs, shape[d]), -1, d)
    return x
