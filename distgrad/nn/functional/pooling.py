"""Pooling as functions: maxima, means and norms of windows, of windows of any number, and the inverse of maxima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.dtype import BOOL
from distgrad.ops.base import Tensor, call
from distgrad.ops.convolution_arguments import spatial
from distgrad.ops.pooling import (
    Some,
    Windows,
    avg_pool,
    check_input,
    max_pool,
    unpooled,
    windows_of,
)

__all__ = [
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
