"""Fractional max pooling: windows of one size at places that a random number spaces, by Graham (2014)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.nn.arguments import each
from distgrad.ops.base import Tensor
from distgrad.ops.gathering import gather
from distgrad.ops.joining import cat
from distgrad.ops.making import arange
from distgrad.ops.random import rand

__all__ = [
    "fractional_max_pool2d",
    "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d",
    "fractional_max_pool3d_with_indices",
]


def _sizes(n: int, input: Tensor, output_size: Any, output_ratio: Any) -> tuple[int, ...]:
    if output_size is None and output_ratio is None:
        raise ValueError(
            f"fractional_max_pool{n}d requires specifying either an output_size or an output_ratio"
        )
    if output_size is not None:
        return each(output_size, n)
    return tuple(int(m * r) for m, r in zip(input.shape[-n:], each(output_ratio, n), strict=True))


def _check(n: int, input: Tensor, kernel: Sequence[int], size: Sequence[int], samples: Tensor) -> None:
    name = f"fractional_max_pool{n}d{'_out' if n == 3 else ''}()"
    axes = ("time", "height", "width")[-n:]
    for axis, m, k, t in zip(axes, input.shape[-n:], kernel, size, strict=True):
        if t + k - 1 > m:
            raise RuntimeError(f"{name}: pool {axis} {k} too large relative to input {axis} {m}")
    if samples.dtype is not input.dtype:
        raise RuntimeError("Expect _random_samples to have the same dtype as input")
    if samples.dim() != 3:
        raise RuntimeError(f"Expect _random_samples to have 3 dimensions, got {samples.dim()}")
    if input.dim() == n + 2 and samples.shape[0] < input.shape[0]:
        raise RuntimeError("Expect _random_samples.size(0) no less then input batch size.")
    if samples.shape[1] != input.shape[-n - 1]:
        raise RuntimeError("Expect _random_samples.size(1) equals to input channel size.")
    if samples.shape[2] != n:
        raise RuntimeError(f"Expect _random_samples.size(2) equals to {n}; got {samples.shape[2]}.")


def _starts(sample: Tensor, length: int, size: int, kernel: int) -> Tensor:
    """Where `size` windows begin: spaced by (length - kernel) / (size - 1) from a random place, rounded down."""
    last = (sample.long() * 0 + (length - kernel)).unsqueeze(-1)
    if size == 1:
        return last
    alpha, sample = (length - kernel) / (size - 1), sample.unsqueeze(-1)
    steps = arange(size - 1, dtype=sample.dtype)
    return cat([((sample + steps) * alpha).long() - (sample * alpha).long(), last], -1)


def _pool(n: int, input: Tensor, kernel_size: Any, output_size: Any, output_ratio: Any, samples: Any) -> Any:
    """(maxima, their places in the flattened planes): all elements of all windows are gathered, and compared."""
    kernel, size = each(kernel_size, n), _sizes(n, input, output_size, output_ratio)
    batched = input.dim() == n + 2
    if samples is None:
        samples = rand(input.shape[0] if batched else 1, input.size(-n - 1), n, dtype=input.dtype)
    _check(n, input, kernel, size, samples)
    x = input if batched else input.unsqueeze(0)
    lead, lengths = tuple(x.shape[:2]), tuple(x.shape[2:])
    samples = samples[: lead[0]]
    places: Any = 0
    for d in range(n):
        which = d if n == 3 else n - 1 - d  # of two the first number is that of the width
        starts = _starts(samples[..., which], lengths[d], size[d], kernel[d])
        inside = starts.unsqueeze(-1) + arange(kernel[d])
        shape = [1] * 2 * n
        shape[d], shape[n + d] = size[d], kernel[d]
        places = places * lengths[d] + inside.reshape(*lead, *shape)
    index = places.expand(*lead, *size, *kernel).reshape(*lead, *size, math.prod(kernel))
    flat = gather(x.reshape(*lead, math.prod(lengths)), -1, index.reshape(*lead, -1))
    values, best = flat.reshape(*lead, *size, math.prod(kernel)).max(-1)
    found = gather(index, -1, best.unsqueeze(-1)).squeeze(-1)
    return (values, found) if batched else (values.squeeze(0), found.squeeze(0))


def fractional_max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """`fractional_max_pool2d`, and where in its plane each maximum stands."""
    return _pool(2, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """The maxima of `output_size` windows, or `output_ratio` times the size of (N, C, H, W) or (C, H, W).

    Each plane has its own random spacing: `_random_samples` (N, C, 2) from 0 to 1.
    """
    found = _pool(2, input, kernel_size, output_size, output_ratio, _random_samples)
    return found if return_indices else found[0]


def fractional_max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """`fractional_max_pool3d`, and where in its volume each maximum stands."""
    return _pool(3, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """The same of (N, C, T, H, W) or (C, T, H, W)."""
    found = _pool(3, input, kernel_size, output_size, output_ratio, _random_samples)
    return found if return_indices else found[0]
