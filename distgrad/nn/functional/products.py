"""Products with weights as functions: `linear`."""

from __future__ import annotations

from distgrad.ops.base import Tensor, call
from distgrad.ops.linear import addmm

__all__ = [
    "linear",
]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias, with input (..., in), weight (out, in) or (in,), bias (out,) or ()."""
    if not input.dim() or not weight.dim():
        raise RuntimeError(
            f"both arguments to linear need to be at least 1D, but they are {input.dim()}D and {weight.dim()}D"
        )
    if weight.dim() == 1:
        if bias is not None and bias.dim():
            raise RuntimeError("mat2 must be a matrix, got 1-D tensor")
        out = call("matmul", input, weight)
        return out if bias is None else out + bias
    if bias is None and input.dim() < 3:
        return call("matmul", input, weight.t())
    rows = input if input.dim() == 2 else input.reshape(-1, input.shape[-1])
    out = call("mm", rows, weight.t()) if bias is None else addmm(bias, rows, weight.t())
    if input.dim() == 2:
        return out
    shape = (*input.shape[:-1], weight.shape[0])
    return call("_unsafe_view", out, shape) if bias is None else out.reshape(shape)
