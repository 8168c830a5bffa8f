"""erf and erfc.

Up to 1, erf x = x + x P(x²); above, erf x = 1 - e^L(x - 1) with L the logarithm of erfc (N. Juffa's form for CUDA).
Above 0.65, erfc x = e^(-x²) G(q) / (1 + 2x) with q = (x - 3) / (x + 3) (Shepherd and Laframboise, Mathematics of
Computation 36, 1981), where -x², the exponential and the quotient are sums of two numbers. The polynomials make the
greatest error of erf or erfc least (Remez's exchange in 200 bits, then each coefficient rounded).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.maths.exponential import reduced
from distgrad.compiler.maths.steps import (
    BIAS,
    at_most,
    polynomial,
    power_of_two,
    scaled,
    sign_of,
    two_sum,
    with_sign,
)


class Error(NamedTuple):
    """Numbers of one type of floats."""

    p: Sequence[float]  # relative error of erf 2^-29.6, 2^-62.7
    power: Sequence[float]  # L: error of erf 2^-29.9, 2^-57.5
    g: Sequence[float]  # error 2^-28.7, 2^-60.4
    g_low: float  # of the first coefficient
    one: float  # erf is 1 above
    none: float  # erfc is 0 above


SINGLE = Error(
    p=(
        0.12837916612625122,
        -0.3761262595653534,
        0.1128358542919159,
        -0.026853812858462334,
        0.005188327748328447,
        -0.0008010193705558777,
        7.853860734030604e-05,
    ),
    power=(
        -1.8496055603027344,
        -2.6389667987823486,
        -0.8431181907653809,
        -0.041501227766275406,
        0.009891672059893608,
        -0.0018266703700646758,
        0.00018569354142528027,
    ),
    g=(
        1.2530080080032349,
        -0.1356210708618164,
        -0.04756222292780876,
        0.1296434998512268,
        -0.11927547305822372,
        0.06832890212535858,
        -0.02375313825905323,
        0.0024268082343041897,
        0.0018175076693296432,
        -0.0005768223199993372,
    ),
    g_low=4.976876093163184e-08,
    one=4.0,
    none=10.2,
)
DOUBLE = Error(
    p=(
        0.1283791670955126,
        -0.3761263890318375,
        0.11283791670954857,
        -0.026866170645072896,
        0.005223977624780875,
        -0.0008548326978742633,
        0.00012055331036913795,
        -1.4925593507190665e-05,
        1.6460972821184708e-06,
        -1.6350025260055463e-07,
        1.4657880051996075e-08,
        -1.1365666624576815e-09,
        5.945262640769013e-11,
    ),
    power=(
        -1.8496055099332482,
        -2.6389675142347815,
        -0.8431072563590897,
        -0.04156109803252299,
        0.010033825268986244,
        -0.001977901865354072,
        0.00023731948256201267,
        2.6286538915154332e-05,
        -2.7176672071928276e-05,
        9.634443300979885e-06,
        -2.0867683517409558e-06,
        1.6365536697995618e-07,
        8.600999520209855e-08,
        -4.754919087660408e-08,
        1.3774062755868619e-08,
        -2.7177999417002363e-09,
        3.756417180977954e-10,
        -3.497997603236385e-11,
        1.97433634109348e-12,
        -5.1008717975891154e-14,
    ),
    g=(
        1.2530080582697296,
        -0.1356211061245812,
        -0.047562294353450975,
        0.12964515870276527,
        -0.11927366341529207,
        0.06830802734379572,
        -0.023770514919063977,
        0.002529391819482762,
        0.0018886903633507555,
        -0.0007798323084790615,
        -0.00010515981020357284,
        0.00012509959090135607,
        4.94937178892745e-06,
        -2.010155857519508e-05,
        -7.304398266757271e-07,
        3.474986660750656e-06,
        3.5267943813227624e-07,
        -6.205464887481214e-07,
        -1.3279396573958742e-07,
        1.0459639441018434e-07,
        3.156447296326467e-08,
        -1.3122535615583171e-08,
        -2.8060276346934866e-09,
    ),
    g_low=4.4842639983287856e-17,
    one=6.0,
    none=27.3,
)
OF = {"float": SINGLE, "double": DOUBLE}
LEAST = 0.65  # from which erfc takes its own formula


def _small(b: Builder, x: Lanes) -> Lanes:
    """(erf x) / x - 1, up to 1."""
    return polynomial(b, b.multiply(x, x), OF[x.type].p)


def erf(b: Builder, x: Lanes) -> Lanes:
    """2/√π times the integral of e^(-t²) from 0 to x."""
    one, size = b.like(x, 1), b.absolute(x)
    bounded = at_most(b, size, OF[x.type].one)
    power = polynomial(b, b.subtract(bounded, one), OF[x.type].power)
    part = reduced(b, power, BIAS[x.type])
    c = power_of_two(b, part.whole, x.type)
    large = b.fma(b.negative(c), b.add(part.r, part.rest), b.subtract(one, c))
    # e^L is below 1/4: so what is left out of 1 - c counts nothing unless c is far below the last place of 1.
    small = b.fma(size, _small(b, size), size)
    return with_sign(b, b.select(b.less(one, size), large, small), sign_of(b, x))


def _ratio(b: Builder, x: Lanes) -> tuple[Lanes, Lanes]:
    """e^(x²) erfc x, for x ≥ `LEAST`, as a sum of two numbers."""
    one, three = b.like(x, 1), b.like(x, 3)
    q = b.divide(b.subtract(x, three), b.add(x, three))
    first, *others = OF[x.type].g
    top, left = two_sum(b, b.like(x, first), b.multiply(q, polynomial(b, q, others)))
    left = b.add(left, b.like(x, OF[x.type].g_low))
    below, missing = two_sum(b, b.add(x, x), one)
    reciprocal = b.divide(one, below)
    quotient = b.multiply(top, reciprocal)
    rest = b.fma(b.negative(quotient), missing, b.fma(b.negative(quotient), below, top))
    return quotient, b.multiply(b.add(rest, left), reciprocal)


def _tail(b: Builder, x: Lanes) -> Lanes:
    """erfc x, for x ≥ `LEAST`."""
    one = b.like(x, 1)
    square = b.multiply(x, x)
    left = b.fma(x, x, b.negative(square))
    part = reduced(b, b.negative(square), 2 * BIAS[x.type])
    e, e_low = two_sum(b, one, part.r)
    e_low = b.add(e_low, part.rest)
    e_low = b.fma(b.negative(left), b.add(e, e_low), e_low)
    quotient, low = _ratio(b, x)
    made = b.multiply(e, quotient)
    rest = b.fma(e, quotient, b.negative(made))
    rest = b.fma(e, low, b.fma(e_low, quotient, rest))
    return scaled(b, b.add(made, rest), part.whole)


def erfc(b: Builder, x: Lanes) -> Lanes:
    """1 - erf x, to the same relative accuracy where it is small."""
    one, least = b.like(x, 1), b.like(x, LEAST)
    size = b.absolute(x)
    tail = _tail(b, at_most(b, b.select(b.less(size, least), one, size), OF[x.type].none))
    tail = b.select(b.less(x, b.like(x, 0)), b.subtract(b.like(x, 2), tail), tail)
    w = b.subtract(one, x)
    middle = b.subtract(b.subtract(b.subtract(one, w), x), b.multiply(x, _small(b, x)))
    return b.select(b.less(size, least), b.add(w, middle), tail)
