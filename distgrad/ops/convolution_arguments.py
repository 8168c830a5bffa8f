"""Arguments of convolutions as torch takes them, and what it says of wrong ones."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from distgrad.dtype import BOOL
from distgrad.ops.base import Ints, Tensor, call
from distgrad.ops.helpers import title
from distgrad.tensor import C_NAMES

Some = int | Sequence[int]
SAME_INPUT = " should be the same or input should be a MKLDNN tensor and weight is a dense tensor"


def spatial(value: Some, n: int) -> Ints | None:
    """One integer, or one for each spatial dimension, as a tuple of n; None if they are another number."""
    several: Any = value if isinstance(value, (tuple, list)) else (value,)
    found = tuple(map(operator.index, several))
    return found * n if len(found) == 1 else found if len(found) == n else None


class Plan(NamedTuple):
    """The arguments of a convolution, as the ops take them."""

    stride: Ints
    padding: Ints
    dilation: Ints
    extra: Ints  # output_padding


def batched(name: str, input: Tensor, n: int) -> tuple[Tensor, bool]:
    """The input with a dimension for samples, and whether it had one."""
    if input.dim() not in (n + 1, n + 2):
        raise RuntimeError(
            f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {name}, but got input of size: "
            f"{list(input.shape)}"
        )
    return (input, True) if input.dim() == n + 2 else (call("unsqueeze", input, 0), False)


def planned(weight: Tensor, stride: Some, padding: Some, dilation: Some, extra: Some, groups: int) -> Plan:
    """One number for each spatial dimension of the weight. Raises RuntimeError."""
    if weight.dim() < 3:
        raise RuntimeError("weight should have at least three dimensions")
    if groups <= 0:
        raise RuntimeError("non-positive groups is not supported")
    n = weight.dim() - 2
    named = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra}
    found = {name: spatial(value, n) for name, value in named.items()}
    for name, value in found.items():
        if value is None:
            raise RuntimeError(
                f"expected {name} to be a single integer value or a list of {n} values to match the convolution "
                f"dimensions, but got {name}={list(named[name])}"  # type: ignore[arg-type]
            )
    plan = Plan(*found.values())  # type: ignore[arg-type]
    if min(plan.padding) < 0:
        raise RuntimeError("negative padding is not supported")
    if min(plan.extra) < 0:
        raise RuntimeError("negative output_padding is not supported")
    if min(plan.stride) <= 0:
        raise RuntimeError("non-positive stride is not supported")
    return plan


def check_weight(input: Tensor, weight: Tensor, groups: int) -> None:
    """Dimensions and groups of the weight. Raises RuntimeError."""
    shape = list(weight.shape)
    if input.dim() != weight.dim():
        k = weight.dim()
        raise RuntimeError(
            f"Expected {k}-dimensional input for {k}-dimensional weight {shape}, but got "
            f"{input.dim()}-dimensional input of size {list(input.shape)} instead"
        )
    if shape[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but got weight of "
            f"size {shape} instead"
        )
    if shape[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got weight "
            f"of size [{shape}] instead"
        )


def check_channels(input: Tensor, weight: Tensor, given: str, channels: int, size: Sequence[int]) -> None:
    """Channels of the input. Raises RuntimeError."""
    if size[1] != channels:
        raise RuntimeError(
            f"Given {given}, weight of size {list(weight.shape)}, expected input{list(size)} to have {channels} "
            f"channels, but got {size[1]} channels instead"
        )


def check_bias(weight: Tensor, bias: Tensor | None, given: str, channels: int) -> None:
    """The shape of the bias. Raises RuntimeError."""
    if bias is not None and tuple(bias.shape) != (channels,):
        raise RuntimeError(
            f"Given {given}weight of size {list(weight.shape)}, expected bias to be 1-dimensional with {channels} "
            f"elements, but got bias of size {list(bias.shape)} instead"
        )


def check_rest(input: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, groups: int) -> None:
    """Dtypes, dilation and the kernel. Raises RuntimeError, or NotImplementedError for bool."""
    kinds = [x._avals.dtype for x in (input, weight)]
    if bias is not None and bias.dtype != input.dtype:
        a, b = (C_NAMES[x.dtype.name] for x in (input, bias))
        raise RuntimeError(f"Input type ({a}) and bias type ({b}) should be the same")
    if kinds[0] != kinds[1]:
        if groups > 1:
            a, b = (f"torch.{title(k)}Tensor" for k in kinds)
            raise RuntimeError(f"Input type ({a}) and weight type ({b}){SAME_INPUT}")
        raise RuntimeError(f"expected scalar type {title(kinds[0])} but found {title(kinds[1])}")
    if kinds[0] == BOOL:
        raise NotImplementedError("\"slow_conv2d_cpu\" not implemented for 'Bool'")
    if min(plan.dilation) <= 0:
        pair = list(plan.dilation) if len(plan.dilation) > 1 else [1, *plan.dilation]
        raise RuntimeError(f"dilation should be greater than zero, but got {pair}")
    kernel = tuple(weight.shape[2:])
    if 0 in kernel:
        if len(kernel) == 3:
            shown = " x ".join(map(str, kernel))
            raise RuntimeError(f"kernel size should be greater than zero, but got: {shown} (TxHxW)")
        high, wide = kernel if len(kernel) == 2 else (1, *kernel)
        raise RuntimeError(
            f"kernel size should be greater than zero, but got kernel_height: {high} kernel_width: {wide}"
        )


def check_extra(plan: Plan) -> None:
    """`output_padding` of a transposed convolution. Raises RuntimeError."""
    if all(e < max(s, d) for e, s, d in zip(plan.extra, plan.stride, plan.dilation, strict=True)):
        return
    names = ("depth", "height", "width")[-max(2, len(plan.extra)) :]
    padded = [(0,) * (len(names) - len(plan.extra)) + plan.extra]
    padded += [(1,) * (len(names) - len(v)) + v for v in (plan.stride, plan.dilation)]
    shown = " ".join(
        f"{what}_{name}: {v}"
        for what, values in zip(("output_padding", "stride", "dilation"), padded, strict=True)
        for name, v in zip(names, values, strict=True)
    )
    raise RuntimeError(f"output padding must be smaller than either stride or dilation, but got {shown}")
