"""tanh, sinh, cosh, softplus, log_sigmoid.

tanh x = 1 - 2 / (e^2|x| + 1), and x + x³ P(x²) where that is small (as in Cephes, tanhf.c; relative error 2^-29.7,
2^-57.7). From 1 on sinh and cosh are e^|x| / 2 ∓ e^-|x| / 2, with the first as a sum of two numbers; below,
sinh x = x + x³ P(x²) (2^-34.2, 2^-63.3). Polynomials: Remez's exchange in 200 bits, then each coefficient rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.maths.exponential import LOG2_E, OF, reduced
from distgrad.compiler.maths.logarithm import log1p
from distgrad.compiler.maths.steps import (
    BIAS,
    at_least,
    at_most,
    nearest,
    polynomial,
    power_of_two,
    scaled,
    sign_of,
    two_sum,
    with_sign,
)

P = {
    "float": (0.1666666716337204, 0.008333349600434303, 0.0001983615948120132, 2.8169513370812638e-06),
    "double": (
        0.16666666666666669,
        0.008333333333333148,
        0.00019841269841431873,
        2.755731915707188e-06,
        2.5052123136725614e-08,
        1.6057259768334904e-10,
        7.758748816782726e-13,
    ),
}


class Tangent(NamedTuple):
    """Numbers of tanh, of one type of floats."""

    p: Sequence[float]
    small: float  # up to which x + x³ P(x²) is the nearer one


TANGENT = {
    "float": Tangent(
        (
            -0.33333322405815125,
            0.13332977890968323,
            -0.05392930284142494,
            0.021663544699549675,
            -0.00826454721391201,
            0.002582669723778963,
            -0.00045546048204414546,
        ),
        small=0.9,
    ),
    "double": Tangent(
        (
            -0.33333333333333126,
            0.1333333333329966,
            -0.053968253949294685,
            0.021869488002544953,
            -0.008863226777277066,
            0.0035920373782493526,
            -0.0014552153591934557,
            0.0005871883966494977,
            -0.0002303967974235067,
            7.931393813083115e-05,
            -1.7178719832802032e-05,
        ),
        small=0.6,
    ),
}


def tanh(b: Builder, x: Lanes) -> Lanes:
    """(e^2x - 1) / (e^2x + 1). Where no lane needs the exponential it is left out: that is half of the time."""
    own = TANGENT[x.type]
    z, size = b.multiply(x, x), b.absolute(x)
    small = b.fma(b.multiply(z, size), polynomial(b, z, own.p), size)
    above = b.logical_not(b.less(size, b.like(x, own.small)))
    return with_sign(b, b.where_any(above, small, lambda: _large_tanh(b, size)), sign_of(b, x))


def _large_tanh(b: Builder, size: Lanes) -> Lanes:
    """1 - 2 / (e^2|x| + 1)."""
    of, one = OF[size.type], b.like(size, 1)
    bounded = at_most(b, size, of.flat / 2)
    n, whole = nearest(b, bounded, 2 * LOG2_E, BIAS[size.type])
    # 2r = 2|x| - n ln 2, but for what is lost beside 1.
    r = b.fma(n, b.like(size, -of.high / 2), bounded)
    q = polynomial(b, r, [c * 2.0 ** (k + 2) for k, c in enumerate(of.q)])
    power = b.fma(b.multiply(r, r), q, b.add(r, r))  # e^2r - 1
    c = power_of_two(b, whole, size.type)
    return b.subtract(one, b.divide(b.like(size, 2), b.fma(c, power, b.add(c, one))))


def _exponential(b: Builder, x: Lanes, shift: int) -> tuple[Lanes, Lanes]:
    """2^`shift` e^x as a sum of two numbers."""
    part = reduced(b, x, 2 * BIAS[x.type] + shift)
    high, left = two_sum(b, b.like(x, 1), part.r)
    high, low = two_sum(b, high, b.add(left, part.rest))
    return scaled(b, high, part.whole), scaled(b, low, part.whole)


def _halves(b: Builder, size: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """e^|x| / 2 as a sum of two numbers, and e^-|x| / 2."""
    high, low = _exponential(b, at_most(b, size, OF[size.type].most + 1), -1)
    return high, low, b.divide(b.like(size, 0.25), high)


def sinh(b: Builder, x: Lanes) -> Lanes:
    """(e^x - e^-x) / 2."""
    size = b.absolute(x)
    high, low, other = _halves(b, size)
    z = b.multiply(size, size)
    small = b.fma(b.multiply(z, size), polynomial(b, z, P[x.type]), size)
    large = b.add(high, b.subtract(low, other))
    return with_sign(b, b.select(b.less(size, b.like(x, 1)), small, large), sign_of(b, x))


def cosh(b: Builder, x: Lanes) -> Lanes:
    """(e^x + e^-x) / 2."""
    high, low, other = _halves(b, b.absolute(x))
    return b.add(high, b.add(low, other))


def _softplus(b: Builder, x: Lanes) -> Lanes:
    """log(1 + e^x) - max(x, 0): log(1 + e^-|x|)."""
    size = at_least(b, b.negative(b.absolute(x)), OF[x.type].least)
    high, low = _exponential(b, size, 0)
    return log1p(b, high, low)


def log_sigmoid(b: Builder, x: Lanes) -> Lanes:
    """-log(1 + e^-x)."""
    return b.subtract(at_most(b, x, 0), _softplus(b, x))


def softplus(b: Builder, x: Lanes, beta: float, threshold: float) -> Lanes:
    """log(1 + e^(βx)) / β, and x itself where βx is above the threshold, as torch has it."""
    y = b.multiply(x, b.like(x, beta)) if beta != 1 else x
    made = b.add(at_least(b, y, 0), _softplus(b, y))
    made = b.divide(made, b.like(x, beta)) if beta != 1 else made
    return b.select(b.less(b.like(x, threshold), y), x, made)
