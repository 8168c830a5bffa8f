"""arcsin, arccos, arctan2, hypot, arcsinh, arccosh, arctanh; of float32 by way of float64, so rounded but once.

Up to 1/2, arcsin x = x + x³ P(x²); above, it is π/2 - 2 arcsin √((1 - x) / 2) (Sun's fdlibm, e_asin.c; relative error
2^-59.9, Remez's exchange in 200 bits, then each coefficient rounded). The hyperbolic ones are log1p of what is more
than 1, kept as a sum of two numbers (fdlibm, s_asinh.c, e_acosh.c, e_atanh.c).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.maths.inverse import P as ARCTAN
from distgrad.compiler.maths.logarithm import log1p
from distgrad.compiler.maths.steps import polynomial, sign_of, two_sum, with_sign
from distgrad.compiler.maths.trigonometric import DOUBLE

P = (
    0.1666666666666676,
    0.07499999999970802,
    0.04464285717461035,
    0.030381942707856005,
    0.022372214985474946,
    0.017351612055818103,
    0.013980820007251196,
    0.011398916847354702,
    0.010780226250493255,
    0.003706509874664806,
    0.021707201095483474,
    -0.020998716462284746,
    0.03262840940088108,
)
HALF_PI, HALF_PI_LOW, _ = DOUBLE.quarter
LARGE = 2.0**28  # from which x + √(x² ± 1) is 2x
LOG_2 = 0.6931471805599453


def _widened(function: Callable[..., Lanes]) -> Callable[..., Lanes]:
    """The same of float32, by way of float64."""

    def of(b: Builder, *xs: Lanes) -> Lanes:
        return b.convert(function(b, *[b.convert(x, "double") for x in xs]), xs[0].type)

    of.__doc__, of.__name__ = function.__doc__, function.__name__
    return of


def _halved(b: Builder, size: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """Where |x| is more than 1/2, and arcsin of it, or of √((1 - |x|) / 2), as a sum."""
    half = b.like(size, 0.5)
    large = b.less(half, size)
    z = b.select(large, b.multiply(b.subtract(b.like(size, 1), size), half), b.multiply(size, size))
    s = b.select(large, b.sqrt(z), size)
    return large, s, b.multiply(b.multiply(s, z), polynomial(b, z, P))


@_widened
def arcsin(b: Builder, x: Lanes) -> Lanes:
    """The angle from -π/2 to π/2 whose sine is x."""
    large, s, rest = _halved(b, b.absolute(x))
    high, left = two_sum(b, b.like(x, HALF_PI), b.multiply(s, b.like(x, -2)))
    above = b.add(high, b.fma(rest, b.like(x, -2), b.add(left, b.like(x, HALF_PI_LOW))))
    return with_sign(b, b.select(large, above, b.add(s, rest)), sign_of(b, x))


@_widened
def arccos(b: Builder, x: Lanes) -> Lanes:
    """The angle from 0 to π whose cosine is x."""
    large, s, rest = _halved(b, b.absolute(x))
    zero, below = b.like(x, 0), b.less(x, b.like(x, 0))
    # A multiple of π/2, and s + rest once or twice, with a sign.
    turns = b.select(large, b.select(below, b.like(x, 2), zero), b.like(x, 1))
    times = b.select(
        large, b.select(below, b.like(x, -2), b.like(x, 2)), b.select(below, b.like(x, 1), b.like(x, -1))
    )
    high, left = two_sum(b, b.multiply(turns, b.like(x, HALF_PI)), b.multiply(s, times))
    return b.add(high, b.fma(rest, times, b.fma(turns, b.like(x, HALF_PI_LOW), left)))


@_widened
def arctan2(b: Builder, y: Lanes, x: Lanes) -> Lanes:
    """The angle from -π to π of the point (x, y): arctan of the smaller over the larger, from a multiple of π/4."""
    zero, one, infinite = b.like(x, 0), b.like(x, 1), b.like(x, np.inf)
    high, wide = b.absolute(y), b.absolute(x)
    steep = b.less(wide, high)
    large, small = b.select(steep, high, wide), b.select(steep, wide, high)
    far = b.equal(large, infinite)
    small = b.select(far, b.select(b.equal(small, infinite), one, zero), small)
    large = b.select(b.logical_or(far, b.equal(large, zero)), one, large)
    # So that their sum does not overflow, and a product has all its bits.
    scale = b.select(b.less(large, b.like(x, 2.0**-900)), b.like(x, 2.0**200), one)
    scale = b.select(b.less(b.like(x, 2.0**900), large), b.like(x, 2.0**-200), scale)
    small, large = b.multiply(small, scale), b.multiply(large, scale)
    middle = b.less(b.multiply(large, b.like(x, 0.65)), small)
    t = b.divide(
        b.select(middle, b.subtract(small, large), small), b.select(middle, b.add(small, large), large)
    )
    z = b.multiply(t, t)
    rest = b.multiply(b.multiply(t, z), polynomial(b, z, ARCTAN["double"]))
    # In eighths of a turn; steep angles are taken from 2, those to the left from 4.
    eighths = b.select(middle, one, zero)
    left = b.less(b.bits(x), b.like(b.bits(x), 0))
    eighths = b.select(steep, b.subtract(b.like(x, 2), eighths), eighths)
    eighths = b.select(left, b.subtract(b.like(x, 4), eighths), eighths)
    sign = b.select(b.logical_xor(steep, left), b.like(x, -1), one)
    base = b.multiply(eighths, b.like(x, HALF_PI / 2))
    lost = b.fma(eighths, b.like(x, HALF_PI / 2), b.negative(base))
    base, more = two_sum(b, base, b.multiply(t, sign))
    low = b.fma(eighths, b.like(x, HALF_PI_LOW / 2), b.add(lost, more))
    made = with_sign(b, b.add(base, b.fma(rest, sign, low)), sign_of(b, y))
    return b.select(b.compare("uno", x, y), b.add(x, y), made)


@_widened
def hypot(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """√(x² + y²), without overflow on the way; infinite if one is, whatever the other."""
    one, infinite = b.like(x, 1), b.like(x, np.inf)
    x, y = b.absolute(x), b.absolute(y)
    large, small = b.maximum(x, y), b.minimum(x, y)
    far, near = b.less(b.like(x, 2.0**500), large), b.less(large, b.like(x, 2.0**-400))
    scale = b.select(far, b.like(x, 2.0**-600), b.select(near, b.like(x, 2.0**600), one))
    back = b.select(far, b.like(x, 2.0**600), b.select(near, b.like(x, 2.0**-600), one))
    large, small = b.multiply(large, scale), b.multiply(small, scale)
    made = b.multiply(b.sqrt(b.fma(large, large, b.multiply(small, small))), back)
    return b.select(b.logical_or(b.equal(x, infinite), b.equal(y, infinite)), infinite, made)


@_widened
def arcsinh(b: Builder, x: Lanes) -> Lanes:
    """The number whose hyperbolic sine is x: log(x + √(x² + 1)), with √(x² + 1) - 1 as a quotient."""
    one, size = b.like(x, 1), b.absolute(x)
    large = b.less(b.like(x, LARGE), size)
    z = b.multiply(size, size)
    beyond = b.divide(z, b.add(one, b.sqrt(b.add(z, one))))
    high, low = two_sum(b, size, beyond)
    made = log1p(b, b.select(large, b.subtract(size, one), high), b.select(large, b.like(x, 0), low))
    made = b.select(large, b.add(made, b.like(x, LOG_2)), made)
    return with_sign(b, b.select(b.less(size, b.like(x, 2.0**-28)), size, made), sign_of(b, x))


@_widened
def arccosh(b: Builder, x: Lanes) -> Lanes:
    """The number from 0 on whose hyperbolic cosine is x: log(1 + e + √(e² + 2e)) with e = x - 1; NaN below 1."""
    one, zero = b.like(x, 1), b.like(x, 0)
    large = b.less(b.like(x, LARGE), x)
    e = b.select(large, one, b.subtract(x, one))
    high, low = two_sum(b, b.sqrt(b.fma(e, e, b.add(e, e))), e)
    made = log1p(b, b.select(large, b.subtract(x, one), high), b.select(large, zero, low))
    made = b.select(large, b.add(made, b.like(x, LOG_2)), made)
    return b.select(b.less(x, one), b.like(x, np.nan), made)


@_widened
def arctanh(b: Builder, x: Lanes) -> Lanes:
    """The number whose hyperbolic tangent is x: log(1 + 2x / (1 - x)) / 2; NaN beyond 1."""
    one, size = b.like(x, 1), b.absolute(x)
    below, missing = two_sum(b, one, b.negative(size))
    twice = b.add(size, size)
    quotient = b.divide(twice, below)
    rest = b.fma(b.negative(quotient), missing, b.fma(b.negative(quotient), below, twice))
    rest = b.select(b.less(size, one), b.divide(rest, below), b.like(x, 0))
    made = b.multiply(log1p(b, quotient, rest), b.like(x, 0.5))
    return with_sign(b, b.select(b.less(size, b.like(x, 2.0**-28)), size, made), sign_of(b, x))
