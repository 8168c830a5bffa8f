"""Products with weights as functions: `linear` and `bilinear`."""

from __future__ import annotations

import math

from distgrad.ops.base import Tensor, call
from distgrad.ops.linear import weighted
from distgrad.session import batching

__all__ = [
    "bilinear",
    "linear",
]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias, with input (..., in), weight (out, in) or (in,), and a bias that broadcasts."""
    if not input.dim() or not weight.dim():
        raise RuntimeError(
            f"both arguments to linear need to be at least 1D, but they are {input.dim()}D and {weight.dim()}D"
        )
    if bias is None or not (input.dim() == 2 or _is_fused(input, bias)):
        out = _product(input, weight)
        if bias is None:
            return out
        return out + bias if batching.is_batched(bias._avals) else out.add_(bias)
    if weight.dim() == 1:
        raise RuntimeError("mat2 must be a matrix, got 1-D tensor")
    out = weighted(_rows(input), weight, bias)
    return out if input.dim() == 2 else out.reshape((*input.shape[:-1], weight.shape[0]))


def _is_fused(input: Tensor, bias: Tensor) -> bool:
    """Whether torch adds the bias to rows, not to the product in the shape that it has in the end."""
    return (bias.dim() == 1 or sum(n != 1 for n in bias.shape) == 1) and input.is_contiguous()


def _rows(input: Tensor) -> Tensor:
    """As a matrix, the last dimension along its rows."""
    return input if input.dim() == 2 else input.reshape(math.prod(input.shape[:-1]), input.shape[-1])


def _product(input: Tensor, weight: Tensor) -> Tensor:
    """input @ weight.T, in which the weights keep the order of their dimensions if there are rows."""
    if weight.dim() == 1 or input.dim() == 1:
        return call("matmul", input, weight.t())
    out = weighted(_rows(input), weight, None)
    return out if input.dim() == 2 else call("_unsafe_view", out, (*input.shape[:-1], weight.shape[0]))


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """sum over i, j of input1[..., i] weight[k, i, j] input2[..., j], plus bias[k]: (..., k).

    It is one product of the pairs input1[i] input2[j], side by side, with the weights.
    """
    _check_bilinear(input1, input2, weight, bias)
    pairs = (input1.unsqueeze(-1) * input2.unsqueeze(-2)).flatten(-2)
    return linear(pairs, weight.flatten(1), bias)


def _check_bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    def differ(what: str, other: str, one: int, two: int, where: str = "") -> None:
        if one != two:
            verb, but = ("does", "but expected") if other else ("do", "and")
            raise RuntimeError(f"bilinear(): {what} {verb} not match{other}{where}: got {one} {but} {two}")

    differ("input dimensions", "", input1.dim(), input2.dim())
    for d in range(input1.dim() - 1):
        differ("input batch dimensions", "", input1.shape[d], input2.shape[d], f" at dim {d}")
    differ("input1 size", " weight size", input1.shape[-1], weight.shape[1])
    differ("input2 size", " weight size", input2.shape[-1], weight.shape[2])
    if bias is not None:
        differ("bias size", " weight size", bias.shape[0], weight.shape[0])
