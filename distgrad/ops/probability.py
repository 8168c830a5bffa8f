"""Functions of probabilities: the normal distribution's, entropies, sums of exponentials, Bessel functions, quantiles.

Those with a name of torch.special alone are found there.
"""

from __future__ import annotations

import math
from typing import Any

from distgrad.ops.base import Operand, Tensor, Value, elementwise, op
from distgrad.ops.compare import where
from distgrad.ops.making import full_like
from distgrad.ops.pointwise import exp, floating, log, sign, square
from distgrad.ops.samples import positive, real, whole

__all__ = ["erfinv", "i0", "logaddexp", "logaddexp2", "xlogy"]

ROOT_PI = math.sqrt(math.pi)


def _reals() -> list[Any]:
    return [real(2, 3), real()]


def _fractions() -> list[Any]:
    return [real(2, 3, low=0.1, high=0.9), real(low=0.1, high=0.9)]


# The normal distribution.
@op(
    input=lambda g, out: g * (ROOT_PI / 2) * exp(square(out)),
    inplace=True,
    samples=lambda: [real(2, 3, low=-0.9, high=0.9)],
)
def erfinv(input: Value) -> Value:
    """The inverse of erf."""
    return floating("erfinv", input)


@op(
    name="SpecialErfcxBackward0",
    input=lambda g, input, out: g * (2 * input * out - 2 / ROOT_PI),
    method=False,
    samples=_reals,
)
def erfcx(input: Value) -> Value:
    """exp(x²) erfc(x)."""
    return floating("erfcx", input)


@op(
    name="SpecialNdtrBackward0",
    input=lambda g, input: g * exp(-0.5 * square(input)) / math.sqrt(2 * math.pi),
    method=False,
    samples=_reals,
)
def ndtr(input: Value) -> Value:
    """The distribution function of the standard normal distribution."""
    return floating("ndtr", input)


@op(
    name="SpecialNdtriBackward0",
    input=lambda g, out: g * math.sqrt(2 * math.pi) * exp(0.5 * square(out)),
    method=False,
    samples=_fractions,
)
def ndtri(input: Value) -> Value:
    """The quantile of the standard normal distribution: the inverse of ndtr."""
    return floating("ndtri", input)


@op(
    name="SpecialLogNdtrBackward0",
    input=lambda g, input: g * math.sqrt(2 / math.pi) / erfcx(input / -math.sqrt(2)),
    method=False,
    samples=_reals,
)
def log_ndtr(input: Value) -> Value:
    """log(ndtr(input)), exact where that is near 0."""
    return floating("log_ndtr", input)


# Entropies. 0 log 0 is 0.
def _masked_log(x: Any, y: Any, log: Any) -> Any:
    if isinstance(y, Tensor):
        return where((x == 0) & (y <= 0), 0.0, log(y))
    return where(x == 0, 0.0, log(full_like(x, y))) if y <= 0 else math.log(y)


@op(
    input=lambda g, input, other: g * _masked_log(input, other, log),
    other=lambda g, input, other: g * input / other,
    inplace=True,
    samples=lambda: [(real(2, 3), positive(2, 3)), (0.7, positive(2)), (positive(2), 1.5)],
)
def xlogy(input: Operand, other: Operand) -> Value:
    """input * log(other); 0 where `input` is 0, unless `other` is nan."""
    return elementwise("xlogy", input, other, floating=True)


@op(
    name="SpecialXlog1PyBackward0",
    input=lambda g, input, other: g * _masked_log(input, other + 1, log),
    other=lambda g, input, other: g * input / (other + 1),
    method=False,
    samples=lambda: [(real(2, 3), positive(2, 3)), (0.7, positive(2))],
)
def xlog1py(input: Operand, other: Operand) -> Value:
    """input * log(1 + other); 0 where `input` is 0, unless `other` is nan."""
    return elementwise("xlog1py", input, other, floating=True)


@op(
    name="SpecialEntrBackward0",
    input=lambda g, input: g * (-log(input) - 1),
    method=False,
    samples=lambda: [positive(2, 3), positive()],
)
def entr(input: Value) -> Value:
    """-input * log(input); 0 at 0, -inf below."""
    return floating("entr", input)


# Sums of exponentials. Where the result is infinite, so is an operand, and the difference is not a number.
def _weight(g: Tensor, x: Tensor, out: Tensor, base: float) -> Tensor:
    return g * exp(where(x == out, 0.0, (x - out) * math.log(base)))


@op(
    input=lambda g, input, out: _weight(g, input, out, math.e),
    other=lambda g, other, out: _weight(g, other, out, math.e),
    samples=lambda: [(real(2, 3), real(2, 3, seed=1)), (real(2, 3), real(3))],
)
def logaddexp(input: Value, other: Value) -> Value:
    """log(exp(input) + exp(other)), without overflow."""
    return elementwise("logaddexp", input, other, floating=True)


@op(
    input=lambda g, input, out: _weight(g, input, out, 2),
    other=lambda g, other, out: _weight(g, other, out, 2),
    samples=lambda: [(real(2, 3), real(2, 3, seed=1)), (real(2, 3), real(3))],
)
def logaddexp2(input: Value, other: Value) -> Value:
    """log2(2**input + 2**other), without overflow."""
    return elementwise("logaddexp2", input, other, floating=True)


# Bessel functions of imaginary argument. DLMF 10.29.
@op(input=lambda g, input: g * i1(input), inplace=True, samples=_reals)
def i0(input: Value) -> Value:
    """The modified Bessel function of the first kind, order 0."""
    return floating("i0", input)


@op(
    name="SpecialI0EBackward0",
    input=lambda g, input, out: g * (i1e(input) - sign(input) * out),
    method=False,
    samples=_reals,
)
def i0e(input: Value) -> Value:
    """exp(-|x|) i0(x)."""
    return floating("i0e", input)


def _over(out: Tensor, input: Tensor) -> Tensor:
    """out / input; 1/2 at 0, its limit for i1."""
    at_0 = input == 0
    return where(at_0, 0.5, out / where(at_0, 1.0, input))


@op(
    name="SpecialI1Backward0",
    input=lambda g, input, out: g * (i0(input) - _over(out, input)),
    method=False,
    samples=_reals,
)
def i1(input: Value) -> Value:
    """The modified Bessel function of the first kind, order 1."""
    return floating("i1", input)


@op(
    name="SpecialI1EBackward0",
    input=lambda g, input, out: g * (i0e(input) - out * sign(input) - _over(out, input)),
    method=False,
    samples=_reals,
)
def i1e(input: Value) -> Value:
    """exp(-|x|) i1(x)."""
    return floating("i1e", input)


# Quantiles, for random numbers. Their derivatives are those of the distributions that draw them.
@op(method=False, samples=lambda: [(positive(2, 3), real(2, 3, low=0.05, high=0.95))])
def _gamma_quantile(shape: Value, u: Value) -> Value:
    """The quantile of the Gamma distribution with rate 1."""
    return elementwise("gamma_quantile", shape, u)


@op(method=False, samples=lambda: [(positive(2, 3), real(2, 3, low=0.05, high=0.95))])
def _gamma_slope(shape: Value, u: Value) -> Value:
    """The derivative of `_gamma_quantile` in `shape`."""
    return elementwise("gamma_slope", shape, u)


@op(method=False, samples=lambda: [(positive(2, 3), positive(2, 3, seed=1), real(2, 3, low=0.05, high=0.95))])
def _beta_quantile(a: Value, b: Value, u: Value) -> Value:
    """The quantile of the Beta distribution."""
    return elementwise("beta_quantile", a, b, u)


@op(method=False, samples=lambda: [(positive(2, 3), positive(2, 3, seed=1), real(2, 3, low=0.05, high=0.95))])
def _beta_slope(a: Value, b: Value, u: Value) -> Value:
    """The derivative of `_beta_quantile` in `a`."""
    return elementwise("beta_slope", a, b, u)


@op(method=False, samples=lambda: [(positive(2, 3), real(2, 3, low=0.05, high=0.95))])
def _poisson_quantile(rate: Value, u: Value) -> Value:
    """The quantile of the Poisson distribution."""
    return elementwise("poisson_quantile", rate, u)


@op(
    method=False,
    samples=lambda: [
        (whole(2, 3, high=9).double(), real(2, 3, low=0.1, high=0.9), real(2, 3, low=0.05, high=0.95, seed=1))
    ],
)
def _binomial_quantile(n: Value, p: Value, u: Value) -> Value:
    """The quantile of the number of successes in `n` trials of probability `p`."""
    return elementwise("binomial_quantile", n, p, u)
