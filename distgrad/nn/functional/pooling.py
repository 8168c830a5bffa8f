"""Pooling as functions: maxima, means and norms of windows, of windows of any number, and the inverse of maxima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL
from distgrad.ops.base import Tensor, call
from distgrad.ops.convolution_arguments import spatial
from distgrad.ops.padding import _taken, constant_pad_nd
from distgrad.ops.pooling import (
    Some,
    Windows,
    _window_argmax,
    _window_max,
    _window_places,
    _window_sum,
    avg_pool,
    check_input,
    max_pool,
    unpooled,
    windows_of,
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
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool1d_with_indices",
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_pool3d",
    "max_pool3d_with_indices",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
]

Sizes = Any  # an integer or None for each dimension, or one for all


# Maxima.
def _max(
    n: int, input: Tensor, kernel: Some, stride: Any, padding: Some, dilation: Some, ceil: bool, indices: bool
) -> Any:
    name = f"max_pool{n}d"
    if n == 1:
        check_input(name, input, 1)
        windows = _line(kernel, stride, padding, dilation)
        length = input.shape[-1] + 2 * windows.padding[0] - windows.dilation[0] * (windows.kernel[0] - 1) - 1
        if length < 0:
            room = -(-length // windows.stride[0]) if ceil else length // windows.stride[0]
            raise RuntimeError(f"max_pool1d() Invalid computed output size: {room + 1}")
        if not input.is_floating_point():
            raise NotImplementedError(f"\"max_pool1d_impl\" not implemented for '{input.dtype.title}'")
    else:
        windows = windows_of(name, n, kernel, stride, padding, dilation)
        check_input(name if n == 2 else "max_pool3d_with_indices_out_cpu_template", input, n)
    made, places = max_pool(name, n, input, windows, ceil, indices)
    return (made, places) if indices else made


def _line(kernel: Some, stride: Any, padding: Some, dilation: Some) -> Windows:
    """The arguments of `max_pool1d`, which has words of its own."""
    left = stride is None or (isinstance(stride, (tuple, list)) and not len(stride))
    found: dict[str, Any] = {"kernel_size": kernel, "stride": kernel if left else stride}
    found |= {"padding": padding, "dilation": dilation}
    values: list[tuple[int]] = []
    for name, value in found.items():
        items = list(value) if isinstance(value, (tuple, list)) else [value]
        if len(items) != 1:
            kinds = "an int, list of ints or tuple of ints"
            if name != "kernel_size":
                kinds = f"{'None, ' if name == 'stride' else ''}an int, list of ints, or tuple of ints"
            raise RuntimeError(f"max_pool1d() {name} must be {kinds} of size 1 but got size {len(items)}")
        values.append((items[0],))
        if name == "padding" and items[0] < 0:
            raise RuntimeError(f"max_pool1d() padding must be non-negative, but got {items[0]}")
        if name != "padding" and items[0] <= 0:
            raise RuntimeError(f"max_pool1d() {name} must be greater than zero, but got {items[0]}")
    made = Windows(*values)
    if made.padding[0] > made.kernel[0] // 2:
        raise RuntimeError(
            "max_pool1d() padding should be at most half of kernel size, but got "
            f"padding={made.padding[0]} and kernel_size={made.kernel[0]}"
        )
    return made


def max_pool1d(
    input: Tensor,
    kernel_size: Some,
    stride: Any = None,
    padding: Some = 0,
    dilation: Some = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window along the last dimension of (N, C, L) or (C, L); see `max_pool2d`."""
    return _max(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor,
    kernel_size: Some,
    stride: Any = None,
    padding: Some = 0,
    dilation: Some = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of (N, C, H, W) or (C, H, W); nan counts as the largest.

    Windows begin `stride` (the size of the kernel) apart, the first `padding` before the elements. With `ceil_mode`
    the last may reach over the end. With `return_indices` also where the elements stand in the flattened plane.
    """
    return _max(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor,
    kernel_size: Some,
    stride: Any = None,
    padding: Some = 0,
    dilation: Some = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of (N, C, D, H, W) or (C, D, H, W); see `max_pool2d`."""
    return _max(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _with_indices(function: Any) -> Any:
    def pool(
        input: Tensor,
        kernel_size: Some,
        stride: Any = None,
        padding: Some = 0,
        dilation: Some = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        return function(input, kernel_size, stride, padding, dilation, ceil_mode, True)

    pool.__name__ = pool.__qualname__ = f"{function.__name__}_with_indices"
    pool.__doc__ = f"`{function.__name__}`, with the positions."
    return pool


max_pool1d_with_indices = _with_indices(max_pool1d)
max_pool2d_with_indices = _with_indices(max_pool2d)
max_pool3d_with_indices = _with_indices(max_pool3d)


# Means.
def avg_pool1d(
    input: Tensor,
    kernel_size: Some,
    stride: Any = None,
    padding: Some = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window along the last dimension of (N, C, L) or (C, L); see `avg_pool2d`."""
    check_input("avg_pool1d", input, 1)
    for name, value in (("kernel_size", kernel_size), ("stride", stride), ("padding", padding)):
        if isinstance(value, (tuple, list)) and len(value) > 1:
            raise RuntimeError(f"avg_pool1d() argument '{name}' should contain one int (got {len(value)})")
    windows = windows_of("avg_pool1d", 1, kernel_size, stride, padding, 1, "")
    return avg_pool(1, input, windows, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Tensor,
    kernel_size: Some,
    stride: Any = None,
    padding: Some = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window of (N, C, H, W) or (C, H, W).

    With `count_include_pad` the zeros of the padding count as elements; `divisor_override` is divided by instead.
    """
    windows = windows_of("avg_pool2d", 2, kernel_size, stride, padding, 1)
    check_input("avg_pool2d", input, 2)
    return avg_pool(2, input, windows, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Tensor,
    kernel_size: Some,
    stride: Any = None,
    padding: Some = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window of (N, C, D, H, W) or (C, D, H, W); see `avg_pool2d`."""
    windows = windows_of("avg_pool3d", 3, kernel_size, stride, padding, 1, "")
    check_input("avg_pool3d", input, 3)
    return avg_pool(3, input, windows, ceil_mode, count_include_pad, divisor_override)


# Norms.
def _lp(n: int, input: Tensor, p: float, kernel: Some, stride: Any, ceil: bool) -> Tensor:
    """The mean of p-th powers, times how many there are, without its sign, to the power 1 / p."""
    function = (avg_pool1d, avg_pool2d, avg_pool3d)[n - 1]
    means = function(input.pow(p), kernel, stride, 0, ceil)
    count = math.prod(spatial(kernel, n) or ())
    return ((call("sign", means) * call("relu", call("abs", means))) * count).pow(1.0 / p)


def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Some, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(sum of x**p) ** (1/p) of each window along the last dimension of (N, C, L) or (C, L)."""
    return _lp(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Some, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(sum of x**p) ** (1/p) of each window of (N, C, H, W) or (C, H, W)."""
    return _lp(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Some, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(sum of x**p) ** (1/p) of each window of (N, C, D, H, W) or (C, D, H, W)."""
    return _lp(3, input, norm_type, kernel_size, stride, ceil_mode)


# Windows of any number: window i of t goes from floor(i n / t) to ceil((i + 1) n / t).
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


# The inverse of maxima.
def _unpool(
    n: int, input: Tensor, indices: Tensor, kernel: Some, stride: Any, padding: Some, output_size: Any
) -> Tensor:
    windows = windows_of(f"max_unpool{n}d", n, kernel, stride, padding, 1)
    size = _unpooled_size(n, input, windows, output_size)
    if indices.dtype.title != "Long":
        raise RuntimeError(f"elements in indices should be type int64 but got: {indices.dtype.title}")
    if input.dim() not in (n + 1, n + 2):
        raise RuntimeError(
            f"Input to max_unpooling{n}d should be a {n + 1}d or {n + 2}d Tensor, but got a tensor with {input.dim()} "
            "dimensions."
        )
    if tuple(input.shape) != tuple(indices.shape):
        raise RuntimeError(
            f"Expected shape of indices to be same as that of the input tensor ({list(input.shape)}) but got indices "
            f"tensor with shape: {list(indices.shape)}"
        )
    if input._avals.dtype == BOOL:
        raise NotImplementedError(f"\"max_unpool{n}d\" not implemented for 'Bool'")
    return unpooled(input, indices, size)


def _unpooled_size(n: int, input: Tensor, windows: Windows, output_size: Any) -> tuple[int, ...]:
    each = zip(input.shape[max(0, input.dim() - n) :], *windows[:3], strict=False)
    usual = tuple((t - 1) * s + k - 2 * p for t, k, s, p in each)
    if output_size is None:
        return usual
    wanted = tuple(output_size)
    if len(wanted) == n + 2:
        wanted = wanted[2:]
    if len(wanted) != n:
        raise ValueError(
            f"output_size should be a sequence containing {n} or {n + 2} elements, but it has a length of "
            f"'{len(wanted)}'"
        )
    for d, (w, u, s) in enumerate(zip(wanted, usual, windows.stride, strict=True)):
        if not u - s < w < u + s:
            raise ValueError(f'invalid output_size "{wanted}" (dim {d} must be between {u - s} and {u + s})')
    return wanted


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Some,
    stride: Any = None,
    padding: Some = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of `max_pool1d` where that took its elements from: zeros elsewhere."""
    return _unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Some,
    stride: Any = None,
    padding: Some = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of `max_pool2d` where that took its elements from: zeros elsewhere."""
    return _unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Some,
    stride: Any = None,
    padding: Some = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of `max_pool3d` where that took its elements from: zeros elsewhere."""
    return _unpool(3, input, indices, kernel_size, stride, padding, output_size)
