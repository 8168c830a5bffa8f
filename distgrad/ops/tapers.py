"""Window functions of signal processing: hann, hamming, blackman, bartlett, kaiser."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from distgrad.dtype import dtype_of, get_default_dtype
from distgrad.ops.base import Tensor
from distgrad.ops.compare import where
from distgrad.ops.making import arange, empty, integer, ones
from distgrad.ops.pointwise import cos, sqrt
from distgrad.ops.probability import i0
from distgrad.tensor import C_NAMES

__all__ = ["bartlett_window", "blackman_window", "hamming_window", "hann_window", "kaiser_window"]

OPTIONS = (
    "TensorOptions(dtype={}, device=cpu, layout=Strided (default), requires_grad={} (default), pinned_memory=false, "
    "memory_format=(nullopt))"
)


def _window(shape: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function of torch's arguments, from one of (0, 1, ..., n - 1 as floats, n) and what else the window has."""

    @functools.wraps(shape)
    def make(
        window_length: int,
        periodic: bool = True,
        *more: float,
        dtype: Any = None,
        layout: Any = None,
        device: Any = None,
        pin_memory: bool = False,
        requires_grad: bool = False,
        **named: float,
    ) -> Tensor:
        length = integer(shape.__name__, "window_length", 1, window_length)
        wanted = get_default_dtype() if dtype is None else dtype_of(dtype)
        if wanted.numpy.kind != "f":
            options = OPTIONS.format(C_NAMES[wanted.name], str(bool(requires_grad)).lower())
            raise RuntimeError(f"{shape.__name__} expects floating point dtypes, got: {options}")
        if length < 0:
            raise RuntimeError(
                f"{shape.__name__} requires non-negative window_length, got window_length={length}"
            )
        if length < 2:
            made = (empty if not length else ones)(length, dtype=wanted, device=device)
        else:
            n = length + bool(periodic)
            made = shape(arange(n, dtype=wanted, device=device), n, *more, **named)[:length]
        return made.detach().requires_grad_(requires_grad)

    return make


@_window
def bartlett_window(at: Tensor, n: int) -> Tensor:
    """1 - |2 k / (n - 1) - 1|: rises and falls in straight lines."""
    up = at * (2 / (n - 1))
    return where(at < ((n - 1) >> 1) + 1, up, 2 - up)


@_window
def hamming_window(at: Tensor, n: int, alpha: float = 0.54, beta: float = 0.46) -> Tensor:
    """alpha - beta cos(2 π k / (n - 1))."""
    return alpha - beta * cos(at * (math.pi * 2 / (n - 1)))


@_window
def hann_window(at: Tensor, n: int) -> Tensor:
    """(1 - cos(2 π k / (n - 1))) / 2."""
    return 0.5 - 0.5 * cos(at * (math.pi * 2 / (n - 1)))


@_window
def blackman_window(at: Tensor, n: int) -> Tensor:
    """0.42 - 0.5 cos(2 π k / (n - 1)) + 0.08 cos(4 π k / (n - 1))."""
    turn = at * (math.pi / (n - 1))
    return cos(turn * 4) * 0.08 - cos(turn * 2) * 0.5 + 0.42


@_window
def kaiser_window(at: Tensor, n: int, beta: float = 12.0) -> Tensor:
    """I₀(beta √(1 - (2 k / (n - 1) - 1)²)) / I₀(beta)."""
    side = (at - (n - 1) / 2) / ((n - 1) / 2)
    inner = sqrt((1 - side * side).clamp(0)) * beta
    return i0(inner) / i0(inner.new_full((), beta))
