"""Functions for images: columns of windows and back, pixels and channels shuffled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.ops.base import Tensor, call
from distgrad.ops.convolution_arguments import spatial
from distgrad.ops.vision import (
    _col2im,
    _im2col,
    channel_shuffle,
    native_channel_shuffle,
    pixel_shuffle,
    pixel_unshuffle,
)

__all__ = ["channel_shuffle", "fold", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "unfold"]


# Windows as columns.
def _windows(kernel_size: Any, dilation: Any, padding: Any, stride: Any, output_size: Any = (1, 1)) -> Any:
    given = {"output_size": output_size, "kernel_size": kernel_size, "dilation": dilation}
    given |= {"padding": padding, "stride": stride}
    found: dict[str, Any] = {name: spatial(value, 2) for name, value in given.items()}
    for name, value in found.items():
        if value is None:
            raise RuntimeError(f"It is expected {name} equals to 2, but got size {len(given[name])}")
    size, kernel, apart, around, step = found.values()
    words = {"kernel size": ("kernel", kernel), "stride": ("stride", step), "dilation": ("dilation", apart)}
    for name, (short, (h, w)) in words.items():
        if min(h, w) <= 0:
            raise RuntimeError(
                f"{name} should be greater than zero, but got {short}_height: {h} {short}_width: {w}"
            )
    if min(around) < 0:
        raise RuntimeError(
            f"padding should be non-negative, but got pad_height: {around[0]} pad_width: {around[1]}"
        )
    return (kernel, step, around, apart), size


def _number(length: Sequence[int], windows: Any) -> tuple[int, ...]:
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(length, *windows, strict=True)
    )


def _floats(name: str, input: Tensor) -> None:
    if not input.is_floating_point():
        raise NotImplementedError(f"\"{name}\" not implemented for '{input.dtype.title}'")


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """(N, C, H, W) or (C, H, W) to (N, C * K * L, windows): each window of K by L pixels as a column."""
    windows, _ = _windows(kernel_size, dilation, padding, stride)
    shape = list(input.shape)
    if input.dim() not in (3, 4) or 0 in shape[input.dim() - 3 :]:
        raise RuntimeError(
            "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions for input, "
            f"but got: {shape}"
        )
    size = _number(shape[-2:], windows)
    if min(size) < 1:
        kernel, _, around, apart = windows
        raise RuntimeError(
            f"Given input with spatial size ({shape[-2]}, {shape[-1]}), kernel_size={kernel}, dilation={apart}, "
            f"padding={around}, calculated shape of the array of sliding blocks as {size}, but its components must be "
            "at least one."
        )
    _floats("im2col_out_cpu", input)
    if input.dim() == 4:
        return _im2col(input, windows, size)
    return call("squeeze", _im2col(call("unsqueeze", input, 0), windows, size), 0)


def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """(N, C * K * L, windows) to (N, C, H, W): the elements of the columns, added where `unfold` reads them."""
    windows, size = _windows(kernel_size, dilation, padding, stride, output_size)
    shape, (kernel, step, around, apart) = list(input.shape), windows
    if input.dim() not in (2, 3) or 0 in shape[input.dim() - 2 :]:
        raise RuntimeError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero dimensions for "
            f"input, but got: {shape}"
        )
    first = input.dim() - 2
    if shape[first] % math.prod(kernel):
        raise RuntimeError(
            f"Expected size of input's dimension {first} to be divisible by the product of kernel_size, but got "
            f"input.size({first})={shape[first]} and kernel_size={kernel}."
        )
    number = _number(size, windows)
    if math.prod(number) != shape[first + 1] or min(number) < 1:
        raise RuntimeError(
            f"Given output_size={size}, kernel_size={kernel}, dilation={apart}, padding={around}, stride={step}, "
            f"expected size of input's dimension {first + 1} to match the calculated number of sliding blocks "
            f"{number[0]} * {number[1]} = {math.prod(number)}, but got input.size({first + 1})={shape[first + 1]}."
        )
    _floats("col2im_out_cpu", input)
    if input.dim() == 3:
        return _col2im(input, windows, number, size)
    return call("squeeze", _col2im(call("unsqueeze", input, 0), windows, number, size), 0)
