"""Convolutions of one, two and three spatial dimensions, and transposed ones.

What users give becomes a call of one of the three ops of `convolving.py`.
"""

from __future__ import annotations

from distgrad.ops.base import Ints, Tensor, call, composite
from distgrad.ops.convolution_arguments import (
    Some,
    batched,
    check_bias,
    check_channels,
    check_extra,
    check_rest,
    check_weight,
    planned,
    spatial,
)
from distgrad.ops.convolving import _convolve, _convolve_input
from distgrad.ops.samples import real

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_tbc",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolution",
]


# From what users give to the ops.
def _conv(
    name: str,
    n: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Some,
    padding: Some | str,
    dilation: Some,
    groups: int,
) -> Tensor:
    x, whole = batched(name, input, n)
    if isinstance(padding, str):
        y = _named(x, weight, bias, stride, padding, dilation, groups)
    else:
        y = _convolution(x, weight, bias, stride, padding, dilation, groups)
    return y if whole else call("squeeze", y, 0)


def _named(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Some, padding: str, dilation: Some, groups: int
) -> Tensor:
    """`padding="same"` keeps the spatial lengths, with one zero more behind than in front where it must be."""
    if padding not in ("same", "valid"):
        raise RuntimeError(f"Invalid padding string: '{padding}'")
    if padding == "valid":
        return _convolution(x, weight, bias, stride, 0, dilation, groups)
    if weight.dim() < 3:
        raise RuntimeError("weight should have at least three dimensions")
    if groups <= 0:
        raise RuntimeError("non-positive groups is not supported")
    n = weight.dim() - 2
    for title_, value in (("stride", stride), ("dilation", dilation)):
        if spatial(value, n) is None:
            raise RuntimeError(f"{title_} cannot broadcast to {n} dimensions")
    if any(s != 1 for s in spatial(stride, n) or ()):
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    reach = [d * (k - 1) for d, k in zip(spatial(dilation, n) or (), weight.shape[2:], strict=True)]
    return _convolution(
        x, weight, bias, stride, [max(0, r // 2) for r in reach], dilation, groups, tuple(x.shape[2:])
    )


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Some,
    padding: Some,
    dilation: Some,
    groups: int,
    size: Ints | None = None,
) -> Tensor:
    plan = planned(weight, stride, padding, dilation, 0, groups)
    check_weight(x, weight, groups)
    check_channels(x, weight, f"groups={groups}", weight.shape[1] * groups, x.shape)
    check_bias(weight, bias, "", weight.shape[0])
    lengths = [s + 2 * p for s, p in zip(x.shape[2:], plan.padding, strict=True)]
    kernel = [d * (k - 1) + 1 for d, k in zip(plan.dilation, weight.shape[2:], strict=True)]
    if size is None:
        if any(s < k for s, k in zip(lengths, kernel, strict=True)):
            shown, wanted = (" x ".join(map(str, what)) for what in (lengths, kernel))
            raise RuntimeError(
                f"Calculated padded input size per channel: ({shown}). Kernel size: ({wanted}). Kernel size can't be "
                "greater than actual input size"
            )
        size = tuple((s - k) // t + 1 for s, k, t in zip(lengths, kernel, plan.stride, strict=True))
    check_rest(x, weight, bias, plan, groups)
    return _convolve(x, weight, *plan[:3], groups, size, bias)


def _conv_transpose(
    name: str,
    n: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Some,
    padding: Some | str,
    output_padding: Some,
    groups: int,
    dilation: Some,
) -> Tensor:
    if isinstance(padding, str):
        raise TypeError(f"{name}(): argument 'padding' must be tuple of ints, not str")
    y, whole = batched(name, input, n)
    x = _transposed(y, weight, bias, stride, padding, output_padding, groups, dilation)
    return x if whole else call("squeeze", x, 0)


def _transposed(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Some,
    padding: Some,
    output_padding: Some,
    groups: int,
    dilation: Some,
) -> Tensor:
    plan = planned(weight, stride, padding, dilation, output_padding, groups)
    check_weight(y, weight, groups)
    check_channels(y, weight, "transposed=1", weight.shape[0], y.shape)
    check_bias(weight, bias, "transposed=1, ", weight.shape[1] * groups)
    check_rest(y, weight, bias, plan, groups)
    check_extra(plan)
    size = tuple(
        (t - 1) * s - 2 * p + d * (k - 1) + e + 1
        for t, k, s, p, d, e in zip(y.shape[2:], weight.shape[2:], *plan, strict=True)
    )
    if min(size) < 1:
        given, made = (" x ".join(map(str, what)) for what in (y.shape[2:], size))
        raise RuntimeError(
            f"Given input size per channel: ({given}). Calculated output size per channel: ({made}). Output size is "
            "too small"
        )
    return _convolve_input(y, weight, *plan[:3], groups, size, bias)


# What users call.
@composite(
    method=False,
    samples=lambda: [
        (real(2, 2, 5), real(3, 2, 3), real(3)),
        (real(2, 5), real(2, 1, 2), None, 2, 1, 2, 2),
        (real(2, 2, 5), real(1, 2, 2), None, 1, "same", 3),
    ],
)
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Some = 1,
    padding: Some | str = 0,
    dilation: Some = 1,
    groups: int = 1,
) -> Tensor:
    """(N, C, L) or (C, L), weight (O, C / groups, K): the sum of products over windows of length K, for each of O.

    `padding` zeros stand at both ends, "same" keeps the length. Windows begin `stride` apart, their elements are
    `dilation` apart. Each of the groups of channels has its own part of the output channels.
    """
    return _conv("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


@composite(
    method=False,
    samples=lambda: [
        (real(2, 2, 3, 4), real(2, 2, 2, 3), real(2)),
        (real(2, 3, 4), real(2, 1, 2, 2), real(2), (2, 1), (1, 2), (1, 2), 2),
        (real(1, 2, 3, 3), real(1, 2, 2, 3), None, 1, "same"),
        (real(2, 1, 3, 3), real(2, 1, 2, 2), None, 1, "valid"),
    ],
)
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Some = 1,
    padding: Some | str = 0,
    dilation: Some = 1,
    groups: int = 1,
) -> Tensor:
    """(N, C, H, W) or (C, H, W), weight (O, C / groups, K, L). See `conv1d`."""
    return _conv("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


@composite(
    method=False,
    samples=lambda: [
        (real(2, 2, 2, 3, 2), real(2, 2, 1, 2, 2), real(2), 1, (0, 1, 0)),
        (real(2, 3, 2, 2), real(2, 1, 2, 1, 2), None, (2, 1, 1), 1, 1, 2),
    ],
)
def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Some = 1,
    padding: Some | str = 0,
    dilation: Some = 1,
    groups: int = 1,
) -> Tensor:
    """(N, C, D, H, W) or (C, D, H, W), weight (O, C / groups, J, K, L). See `conv1d`."""
    return _conv("conv3d", 3, input, weight, bias, stride, padding, dilation, groups)


@composite(
    method=False,
    samples=lambda: [
        (real(2, 2, 3), real(2, 3, 2), real(3), 2, 1, 1),
        (real(2, 3), real(2, 1, 3), None, 1, 0, 0, 2, 2),
    ],
)
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Some = 1,
    padding: Some = 0,
    output_padding: Some = 0,
    groups: int = 1,
    dilation: Some = 1,
) -> Tensor:
    """(N, C, L) or (C, L), weight (C, O / groups, K): the gradient of `conv1d` for its input, as an op of its own.

    `output_padding` elements are added at the end, of the lengths that `stride` makes the same.
    """
    args = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose("conv_transpose1d", 1, input, weight, bias, *args)


@composite(
    method=False,
    samples=lambda: [
        (real(2, 2, 2, 3), real(2, 2, 2, 2), real(2), (2, 1), 0, (1, 0)),
        (real(2, 2, 3), real(2, 1, 2, 2), real(2), 1, 1, 0, 2, (1, 2)),
    ],
)
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Some = 1,
    padding: Some = 0,
    output_padding: Some = 0,
    groups: int = 1,
    dilation: Some = 1,
) -> Tensor:
    """(N, C, H, W) or (C, H, W), weight (C, O / groups, K, L). See `conv_transpose1d`."""
    args = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose("conv_transpose2d", 2, input, weight, bias, *args)


@composite(
    method=False, samples=lambda: [(real(2, 2, 1, 2, 2), real(2, 2, 1, 2, 2), real(2), (1, 2, 1), (0, 1, 0))]
)
def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Some = 1,
    padding: Some = 0,
    output_padding: Some = 0,
    groups: int = 1,
    dilation: Some = 1,
) -> Tensor:
    """(N, C, D, H, W) or (C, D, H, W), weight (C, O / groups, J, K, L). See `conv_transpose1d`."""
    args = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose("conv_transpose3d", 3, input, weight, bias, *args)


@composite(
    method=False,
    samples=lambda: [
        (real(2, 2, 5), real(3, 2, 3), real(3), (1,), (1,), (1,), False, (0,), 1),
        (real(2, 2, 3), real(2, 3, 2), real(3), (2,), (1,), (1,), True, (1,), 1),
    ],
)
def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Some,
    padding: Some,
    dilation: Some,
    transposed: bool,
    output_padding: Some,
    groups: int,
) -> Tensor:
    """`conv1d` to `conv3d` and `conv_transpose1d` to `conv_transpose3d`, by the number of dimensions of the weight."""
    if transposed:
        return _transposed(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _convolution(input, weight, bias, stride, padding, dilation, groups)


@composite(method=False, samples=lambda: [(real(4, 2, 2), real(2, 2, 3), real(3), 1)])
def conv_tbc(input: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """`conv1d` of input (length, N, C) with weight (K, C, O): (length, N, O)."""
    turned = call("permute", input, 1, 2, 0)
    out = _conv("conv_tbc", 1, turned, call("permute", weight, 2, 1, 0), bias, 1, pad, 1, 1)
    return call("permute", out, 2, 0, 1)
