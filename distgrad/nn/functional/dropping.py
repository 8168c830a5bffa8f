"""Dropout and its relatives as functions."""

from __future__ import annotations

from typing import Any

from distgrad.ops.base import Tensor
from distgrad.ops.random import drawn

__all__ = [
    "dropout",
]


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training, each element is 0 with probability `p`, and the others are divided by 1 - p."""
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if p == 0 or not training or input.numel() == 0:
        return input
    noise: Any = 0.0
    if p < 1:
        if not input.is_floating_point():
            title = input.dtype.title
            raise RuntimeError(f"result type Float can't be cast to the desired output type {title}")
        uniform = drawn("dropout", tuple(input.shape), "uniform", input._avals.dtype, sharding=input.sharding)
        noise = (Tensor(uniform) < 1 - p).to(input.dtype) / (1 - p)
    return input.mul_(noise) if inplace else input * noise
