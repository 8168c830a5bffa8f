"""exp, exp2, expm1, sigmoid: powers of e by Cody and Waite's reduction.

x = n ln 2 + r with |r| ≤ ln 2 / 2, so e^x = 2^n e^r. ln 2 is a sum of two numbers; the product of n with the first is
taken off exactly by a fused multiply-add (Cody and Waite, Software Manual for the Elementary Functions, 1980; Muller et
al., Handbook of Floating-Point Arithmetic, 2018, chapter 11). e^r = 1 + r + r² q(r), where q is the polynomial that
makes the greatest relative error of e^r, or of e^r - 1, least (Remez's exchange in 200 bits, then each coefficient
rounded).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.maths.steps import (
    BIAS,
    at_least,
    at_most,
    nearest,
    polynomial,
    power_of_two,
    scaled,
    two_sum,
)

LOG2_E = 1.4426950408889634


class Exponential(NamedTuple):
    """Numbers of one type of floats."""

    high: float  # ln 2 = high + low
    low: float
    q: Sequence[float]  # relative error of e^r: 2^-28.3, 2^-57.9
    finer: Sequence[float]  # relative error of e^r - 1: 2^-32.0, 2^-61.7
    least: float  # e^x is 0 below, infinite above
    most: float
    flat: float  # e^-x is nothing beside 1, for x above
    tiny: float  # e^x - 1 is x, for |x| below


SINGLE = Exponential(
    0.6931471824645996,
    -1.904654299957768e-09,
    (
        0.4999999403953552,
        0.1666651964187622,
        0.041668400168418884,
        0.00836885068565607,
        0.0013814320554956794,
    ),
    (
        0.5,
        0.1666666716337204,
        0.04166635125875473,
        0.00833327230066061,
        0.0013941206270828843,
        0.00019914447329938412,
    ),
    least=-104.0,
    most=89.0,
    flat=20.0,
    tiny=2.0**-26,
)
DOUBLE = Exponential(
    0.6931471805599453,
    2.3190468138462996e-17,
    (
        0.5000000000000011,
        0.16666666666666408,
        0.0416666666665281,
        0.008333333333496928,
        0.001388888894424908,
        0.0001984126950273176,
        2.480149238835714e-05,
        2.7557588429973075e-06,
        2.763052345391564e-07,
        2.4999855408023816e-08,
    ),
    (
        0.5,
        0.16666666666666677,
        0.0416666666666667,
        0.008333333333321436,
        0.0013888888888866514,
        0.0001984126988667371,
        2.480158736121044e-05,
        2.755724360887368e-06,
        2.7557242192055643e-07,
        2.5109261914878464e-08,
        2.0924620806087774e-09,
    ),
    least=-746.0,
    most=710.0,
    flat=44.0,
    tiny=2.0**-55,
)
OF = {"float": SINGLE, "double": DOUBLE}


def exp(b: Builder, x: Lanes) -> Lanes:
    """e^x."""
    of = OF[x.type]
    x = at_least(b, at_most(b, x, of.most), of.least)
    n, whole = nearest(b, x, LOG2_E, 2 * BIAS[x.type])
    r = b.fma(n, b.like(x, -of.low), b.fma(n, b.like(x, -of.high), x))
    one = b.like(x, 1)
    return scaled(b, b.fma(b.fma(polynomial(b, r, of.q), r, one), r, one), whole)


# (2^r - 1) / r for |r| ≤ 1/2: relative error 2^-29.0, 2^-58.0.
BINARY = {
    "float": (
        0.6931471824645996,
        0.24022650718688965,
        0.055503278970718384,
        0.009618003852665424,
        0.001340029644779861,
        0.00015476328553631902,
    ),
    "double": (
        0.6931471805599453,
        0.24022650695910133,
        0.05550410866482174,
        0.009618129107593276,
        0.0013333558146379036,
        0.00015403530458156875,
        1.5252733867545196e-05,
        1.3215434775488028e-06,
        1.0178046458187728e-07,
        7.073867736775847e-09,
        4.457387893324276e-10,
    ),
}
MOST_BINARY = {"float": 160.0, "double": 1100.0}  # 2^-x is 0, and 2^x infinite


def exp2(b: Builder, x: Lanes, low: Lanes | None = None) -> Lanes:
    """2^(x + low), where `low` is small."""
    most = MOST_BINARY[x.type]
    n, whole = nearest(b, at_least(b, at_most(b, x, most), -most), 1, 2 * BIAS[x.type])
    r = b.subtract(x, n)
    r = at_least(b, at_most(b, b.add(r, low) if low else r, 1), -1)
    return scaled(b, b.fma(r, polynomial(b, r, BINARY[x.type]), b.like(x, 1)), whole)


class Reduced(NamedTuple):
    """e^x = 2^n (1 + r + rest): to more bits than a float has."""

    r: Lanes  # exact
    rest: Lanes
    whole: Lanes


def reduced(b: Builder, x: Lanes, bias: int) -> Reduced:
    """n and r of x; the low bits of `whole` are n + `bias`."""
    of = OF[x.type]
    n, whole = nearest(b, x, LOG2_E, bias)
    r = b.fma(n, b.like(x, -of.high), x)
    low = b.multiply(n, b.like(x, -of.low))
    beyond = b.multiply(b.multiply(r, r), polynomial(b, r, of.finer))
    low = b.fma(low, b.add(r, beyond), low)  # times e^r
    return Reduced(r, b.add(beyond, low), whole)


def _half_expm1(b: Builder, x: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """(e^x - 1) / 2 as a sum of two numbers, for x from -`flat` to `most`, and 2^(n - 1); a zero is 0.

    2^(n - 1) - 1/2 is rounded, which is seen only where it is about the reciprocal of a float's precision.
    """
    part = reduced(b, x, BIAS[x.type] - 1)
    c = power_of_two(b, part.whole, x.type)  # finite even where 2^n is not
    d = b.subtract(c, b.like(x, 0.5))
    high = b.fma(c, part.r, d)
    return high, b.fma(c, part.rest, b.fma(c, part.r, b.subtract(d, high))), c


def expm1(b: Builder, x: Lanes) -> Lanes:
    """e^x - 1."""
    of, half = OF[x.type], b.like(x, 0.5)
    high, low, c = _half_expm1(b, at_least(b, at_most(b, x, of.most), -of.flat))
    d = b.subtract(c, half)
    made = b.add(high, b.add(low, b.subtract(b.subtract(c, d), half)))
    return b.select(b.less(b.absolute(x), b.like(x, of.tiny)), x, b.add(made, made))


SHIFT = {"float": 24, "double": 54}  # e^|x| 2^-`SHIFT` is finite wherever e^-|x| is not 0


def sigmoid(b: Builder, x: Lanes) -> Lanes:
    """1 / (1 + e^|x|), whose divisor is a sum of two numbers, for x < 0, and what that leaves of 1 for others."""
    of, one, unit = OF[x.type], b.like(x, 1), b.like(x, 2.0 ** -SHIFT[x.type])
    size = at_most(b, b.absolute(x), -of.least)
    n, whole = nearest(b, size, LOG2_E, BIAS[x.type] - SHIFT[x.type])
    r = b.fma(n, b.like(x, -of.low), b.fma(n, b.like(x, -of.high), size))
    power = b.fma(b.multiply(r, r), polynomial(b, r, of.q), r)  # e^r - 1
    c = power_of_two(b, whole, x.type)
    first, missing = two_sum(b, c, unit)
    below = b.fma(c, power, first)
    missing = b.add(missing, b.fma(c, power, b.subtract(first, below)))
    quotient = b.divide(one, below)
    rest = b.fma(b.negative(quotient), missing, b.fma(b.negative(quotient), below, one))
    small = b.multiply(b.fma(rest, quotient, quotient), unit)
    return b.select(b.less(x, b.like(x, 0)), small, b.subtract(one, small))
