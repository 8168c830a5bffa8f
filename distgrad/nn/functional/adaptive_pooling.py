"""Pooling to a given size: window i of t goes from floor(i n / t) to ceil((i + 1) n / t)."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad import session
from distgrad.nn.functional.pooling import Sizes
from distgrad.ops.base import Tensor, call
from distgrad.ops.padding import _taken, constant_pad_nd
from distgrad.ops.pooling import (
    Windows,
    _window_argmax,
    _window_max,
    _window_places,
    _window_sum,
)

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_with_indices",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_with_indices",
]


def _sizes(name: str, n: int, input: Tensor, output_size: Sizes, maxima: bool) -> tuple[int, ...]:
    shape, k = list(input.shape), input.dim()
    wanted = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * n
    if n == 1 and (len(wanted) != 1 or None in wanted):
        if len(wanted) != 1:
            raise RuntimeError(f"{name}() argument 'output_size' should contain one int (got {len(wanted)})")
        raise TypeError(
            f"{name}(): argument 'output_size' (position 2) must be tuple of ints, but found element of type NoneType "
            "at pos 0"
        )
    if k not in (n + 1, n + 2):
        if n == 1:
            raise RuntimeError(
                f"Expected 2 to 3 dimensions, but got {k}-dimensional tensor for argument #1 'self' (while checking "
                f"arguments for {name})"
            )
        dots = ":" if maxima else ""
        raise RuntimeError(f"{name}(): Expected {n + 1}D or {n + 2}D tensor, but got{dots} {shape}")
    if len(wanted) != n:
        words = "(): internal error: output_size.size() must be" if maxima else ": output_size must be"
        raise RuntimeError(f"{name}{words} {n}")
    for d in range(k - n - maxima, k):
        if not shape[d]:
            raise RuntimeError(
                f"{name}(): Expected input to have non-zero size for non-batch dimensions, but input has sizes {shape} "
                f"with dimension {d} being empty"
            )
    made = tuple(shape[k - n + i] if t is None else t for i, t in enumerate(wanted))
    if min(made) < 0:
        if maxima:
            raise RuntimeError(
                f"Trying to create tensor with negative dimension {min(made)}: {[*shape[: k - n], *made]}"
            )
        shown = ", ".join(map(str, made))
        raise RuntimeError(
            f"{name}: elements of output_size must be greater than or equal to 0 but received {{{shown}}}"
        )
    if not input.is_floating_point():
        kernel = name.replace("1d", "2d") if n < 3 else f"{name}_cpu"
        raise NotImplementedError(f"\"{kernel}\" not implemented for '{input.dtype.title}'")
    return made


def _edges(length: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    i = np.arange(t)
    return i * length // t, -(-(i + 1) * length // t)


def _laid_out(
    input: Tensor, sizes: tuple[int, ...], repeat: bool
) -> tuple[Tensor, Windows, list[np.ndarray]]:
    """`input` with windows of one length side by side, where these lie, and each element's place along each dimension.

    A shorter window ends with its last element again or, if nothing is to `repeat`, with zeros from behind the end.
    """
    first = input.dim() - len(sizes)
    kernel, places = [], []
    for d, t in enumerate(sizes, first):
        start, stop = _edges(input.shape[d], t)
        kernel.append(int((stop - start).max()))
        at = start[:, None] + np.arange(kernel[-1])
        last = stop[:, None] - 1
        places.append(np.where(at <= last, at, last if repeat else input.shape[d]).ravel())
    moved = [d for d, at in enumerate(places, first) if not np.array_equal(at, np.arange(input.shape[d]))]
    ends = [int((places[d - first] == input.shape[d]).any()) for d in range(first, input.dim())]
    if any(ends):
        input = constant_pad_nd(input, [p for end in ends[::-1] for p in (0, end)])
    if moved:
        rows = tuple(tuple(places[d - first].tolist()) for d in moved)
        input = _taken(input, tuple(moved), rows)
    zeros, ones = (0,) * len(sizes), (1,) * len(sizes)
    return input, Windows(tuple(kernel), tuple(kernel), zeros, ones), places


def _adaptive_avg(n: int, input: Tensor, output_size: Sizes) -> Tensor:
    sizes = _sizes(f"adaptive_avg_pool{n}d", n, input, output_size, False)
    first = input.dim() - n
    if set(sizes) == {1}:
        return call("mean", input, tuple(range(first, input.dim())), True)
    if 0 in sizes or not input.numel():
        return input.new_zeros((*input.shape[:first], *sizes)) + input.sum() * 0
    laid, windows, _ = _laid_out(input, sizes, False)
    counts = [stop - start for start, stop in map(_edges, input.shape[first:], sizes)]
    total = counts[0]
    for more in counts[1:]:
        total = np.multiply.outer(total, more)
    made = _window_sum(laid, windows, sizes, f"AdaptiveAvgPool{max(2, n)}DBackward0")
    return made / Tensor(session.constant(total.astype(input._avals.dtype)))


def adaptive_avg_pool1d(input: Tensor, output_size: Sizes) -> Tensor:
    """The means of `output_size` windows that cover the last dimension of (N, C, L) or (C, L)."""
    return _adaptive_avg(1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Sizes) -> Tensor:
    """The means of so many windows that cover (N, C, H, W) or (C, H, W); None leaves a dimension as it is."""
    return _adaptive_avg(2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: Sizes) -> Tensor:
    """The means of so many windows that cover (N, C, D, H, W) or (C, D, H, W); None leaves a dimension as it is."""
    return _adaptive_avg(3, input, output_size)


def _adaptive_max(n: int, input: Tensor, output_size: Sizes, indices: bool) -> Any:
    sizes = _sizes(f"adaptive_max_pool{n}d", n, input, output_size, True)
    lead, last = tuple(input.shape[: input.dim() - n]), tuple(input.shape[input.dim() - n :])
    if 0 in sizes or not input.numel():
        made = input.new_zeros((*lead, *sizes)) + input.sum() * 0
        return (made, made.detach().long()) if indices else made
    laid, windows, places = _laid_out(input, sizes, True)
    made = _window_max(laid, windows, sizes, f"AdaptiveMaxPool{max(2, n)}DBackward0")
    if not indices:
        return made
    at = places[0]
    for length, more in zip(last[1:], places[1:], strict=True):
        at = at[..., None] * length + more
    table = Tensor(session.constant(at.ravel().astype(np.int64)))
    inside = _window_places(
        _window_argmax(laid, windows, sizes), windows, tuple(laid.shape[laid.dim() - n :])
    )
    return made, call("take", table, inside)


def adaptive_max_pool1d(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """The maxima of `output_size` windows that cover the last dimension of (N, C, L) or (C, L)."""
    return _adaptive_max(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """The maxima of so many windows that cover (N, C, H, W) or (C, H, W); None leaves a dimension as it is."""
    return _adaptive_max(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """The maxima of so many windows that cover (N, C, D, H, W) or (C, D, H, W); None leaves a dimension as it is."""
    return _adaptive_max(3, input, output_size, return_indices)


def adaptive_max_pool1d_with_indices(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """`adaptive_max_pool1d`, with the positions."""
    return _adaptive_max(1, input, output_size, True)


def adaptive_max_pool2d_with_indices(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """`adaptive_max_pool2d`, with the positions."""
    return _adaptive_max(2, input, output_size, True)


def adaptive_max_pool3d_with_indices(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """`adaptive_max_pool3d`, with the positions."""
    return _adaptive_max(3, input, output_size, True)
