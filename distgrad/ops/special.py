"""Special functions: sigmoid and logit, erf, the logarithm of Γ and its relatives; and nan_to_num."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL, default_numpy
from distgrad.ops.base import (
    Operand,
    Tensor,
    Value,
    attach,
    call,
    cast,
    composite,
    constant,
    elementwise,
    op,
)
from distgrad.ops.helpers import operand
from distgrad.ops.pointwise import exp, floating, log
from distgrad.ops.samples import positive, real, whole


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


@op(
    input=lambda g, input: g * polygamma(1, input), inplace=True, samples=lambda: [positive(2, 3), positive()]
)
def digamma(input: Value) -> Value:
    """The derivative of lgamma."""
    return floating("digamma", input)


@op(
    input=lambda g, n, input: g * polygamma(n + 1, input),
    method=False,
    samples=lambda: [
        (1, positive(2, 3)),
        (1, real(3, low=-0.9, high=-0.1)),
        (2, positive()),
        (3, positive(4)),
    ],
)
def polygamma(n: int, input: Value) -> Value:
    """The derivative of order `n` of digamma; n = 0 gives digamma itself."""
    if n < 0:
        raise RuntimeError("polygamma(n, x) does not support negative n.")
    return floating("polygamma", input, n=n) if n else floating("digamma", input)


attach(polygamma=lambda self, n: polygamma(n, self))


@composite(samples=lambda: [(real(2, 3, low=1.5, high=4), 2), (real(3, low=2.5, high=4), 4)])
def mvlgamma(input: Tensor, p: int) -> Tensor:
    """The logarithm of the multivariate Gamma function: p (p - 1) / 4 log π + Σ lgamma(input - j / 2), j < p.

    DLMF 35.3.4. `input` must be above (p - 1) / 2.
    """
    if p < 1:
        raise RuntimeError("p has to be greater than or equal to 1")
    total = lgamma(input)
    for j in range(1, p):
        total = total + lgamma(input - j / 2)
    return total + p * (p - 1) / 4 * math.log(math.pi)


def _no_derivative(name: str) -> Any:
    def formula(g: Tensor) -> Tensor:
        raise NotImplementedError(f"the derivative for '{name}' is not implemented.")

    return formula


def _density(g: Tensor, input: Tensor, other: Tensor) -> Tensor:
    """The density of the Gamma distribution with shape `input` at `other`: by what gammainc rises."""
    return g * exp((input - 1) * log(other) - other - lgamma(input))


def _shapes() -> list[Any]:
    return [(whole(2, 3, low=1), positive(2, 3)), (whole(3, low=1), positive())]


@op(
    name="IgammaBackward0",
    input=_no_derivative("igamma: input"),
    other=_density,
    method=("igamma",),
    inplace=True,
    samples=_shapes,
)
def gammainc(input: Value, other: Value) -> Value:
    """The regularised lower incomplete Gamma function P(input, other). DLMF 8.2.4."""
    return elementwise("gammainc", input, other, floating=True)


@op(
    name="IgammacBackward0",
    input=_no_derivative("igammac: input"),
    other=lambda g, input, other: -_density(g, input, other),
    method=("igammac",),
    inplace=True,
    samples=_shapes,
)
def gammaincc(input: Value, other: Value) -> Value:
    """The regularised upper incomplete Gamma function, 1 - P(input, other). DLMF 8.2.4."""
    return elementwise("gammaincc", input, other, floating=True)


@op(
    name="SpecialZetaBackward0",
    input=_no_derivative("zeta"),
    other=lambda g, input, other: -g * input * zeta(input + 1, other),
    method=False,
    samples=lambda: [(whole(2, 3, low=2), positive(2, 3)), (whole(3, low=2), positive())],
)
def zeta(input: Operand, other: Operand) -> Value:
    """Hurwitz's zeta function Σ (k + other)**-input, k from 0 on. DLMF 25.11.1."""
    return elementwise("zeta", input, other, floating=True)


# Numbers out of range.
@op(
    input=lambda g, input: g * call("isfinite", input),
    inplace=True,
    fills=lambda self, *numbers: None if self.is_floating_point() else (Tensor(constant(False, BOOL)), 0),
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


igamma, igammac = gammainc, gammaincc

__all__ = [
    "digamma",
    "erf",
    "erfc",
    "igamma",
    "igammac",
    "lgamma",
    "logit",
    "mvlgamma",
    "nan_to_num",
    "polygamma",
    "sigmoid",
]
