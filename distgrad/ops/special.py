"""Special functions: sigmoid and logit, erf, the logarithm of Γ and its derivative; and nan_to_num."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import default_numpy
from distgrad.ops.base import Tensor, Value, call, cast, constant, op
from distgrad.ops.helpers import operand
from distgrad.ops.pointwise import exp, floating, reciprocal, sin, square
from distgrad.ops.samples import positive, real


def _reals() -> list[Any]:
    return [real(2, 3), real()]


@op(input=lambda g, out: g * (1 - out) * out, inplace=True, samples=_reals)
def sigmoid(input: Value) -> Value:
    """1 / (1 + exp(-input))."""
    return floating("sigmoid", input)


@op(input=lambda g, input: g * (2 / math.sqrt(math.pi) * exp(-(input * input))), inplace=True, samples=_reals)
def erf(input: Value) -> Value:
    """The error function."""
    return floating("erf", input)


@op(
    input=lambda g, input: g * (-2 / math.sqrt(math.pi) * exp(-(input * input))), inplace=True, samples=_reals
)
def erfc(input: Value) -> Value:
    """1 - erf(input), exact where that is small."""
    return floating("erfc", input)


@op(input=lambda g, input: g * digamma(input), inplace=True, samples=lambda: [positive(2, 3), positive()])
def lgamma(input: Value) -> Value:
    """log |Γ(input)|."""
    return floating("lgamma", input)


@op(input=lambda g, input: g * _trigamma(input), inplace=True, samples=lambda: [positive(2, 3), positive()])
def digamma(input: Value) -> Value:
    """The derivative of lgamma."""
    return floating("digamma", input)


STEPS = 12  # of the recurrence, after which seven terms of the asymptotic series leave an error of 1e-16
BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)


def _trigamma(x: Tensor) -> Tensor:
    """ψ'(x) = Σ 1/(x+k)² + 1/z + 1/2z² + Σ Bₙ/z²ⁿ⁺¹ with z = x + STEPS; below 1/2 by reflection at 1/2."""
    low = x < 0.5
    y = call("where", low, 1 - x, x)
    w = reciprocal(y + STEPS)
    power = w * w
    total = w + power / 2
    power = power * w
    for coefficient in BERNOULLI:
        total = total + coefficient * power
        power = power * w * w
    for k in range(STEPS):
        total = total + reciprocal(square(y + k))
    # sin πx is 0 for no x from 1/2 up as the reflection sees it, so the branch not taken has finite derivatives.
    safe = call("where", low, x, 0.5)
    return call("where", low, square(math.pi / sin(math.pi * safe)) - total, total)


# Numbers out of range.
@op(
    input=lambda g, input: g * call("isfinite", input),
    inplace=True,
    samples=lambda: [real(2, 3), (real(3), 1.0, 2.0, -2.0)],
)
def nan_to_num(
    input: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Value:
    """Put `nan` (0) for nan, and for ±inf the numbers given or the largest and smallest of the dtype."""
    dtype = input.dtype
    if dtype.kind != "f":
        return input
    info = np.finfo(dtype)
    is_nan = session.emit("isnan", input)
    out = session.emit("where", is_nan, operand(0.0 if nan is None else nan, dtype), input)
    for inf, given, limit in ((np.inf, posinf, info.max), (-np.inf, neginf, info.min)):
        infinite = session.emit("equal", input, constant(inf, dtype))
        out = session.emit("where", infinite, operand(limit if given is None else given, dtype), out)
    return out


def _logit_input(g: Tensor, input: Tensor, eps: float | None) -> Tensor:
    low, beyond = (0.0, math.nan) if eps is None else (eps, 0.0)
    return call("where", (input >= low) & (input <= 1 - low), g / (input * (1 - input)), beyond)


@op(
    input=_logit_input,
    inplace=True,
    samples=lambda: [real(2, 3, low=0.1, high=0.9), (real(2, 3, low=0.1, high=0.9), 0.25)],
)
def logit(input: Value, eps: float | None = None) -> Value:
    """log(x / (1 - x)), the inverse of sigmoid; with `eps` of x clamped to [eps, 1 - eps]."""
    x = input if input.dtype.kind == "f" else cast(input, default_numpy())
    if eps is not None:
        x = session.emit("maximum", x, constant(eps, x.dtype))
        x = session.emit("minimum", x, constant(1 - eps, x.dtype))
    rest = session.emit("subtract", constant(1, x.dtype), x)
    return session.emit("log", session.emit("divide", x, rest))


__all__ = ["digamma", "erf", "erfc", "lgamma", "logit", "nan_to_num", "sigmoid"]
