"""sinh, cosh, softplus, log_sigmoid.

From 1 on sinh and cosh are e^|x| / 2 ∓ e^-|x| / 2, with the first as a sum of two numbers; below, sinh x = x + x³ P(x²)
(relative error 2^-34.2, 2^-63.3; Remez's exchange in 200 bits, then each coefficient rounded).
"""

from __future__ import annotations

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.maths.exponential import OF, reduced
from distgrad.compiler.maths.logarithm import log1p
from distgrad.compiler.maths.steps import (
    BIAS,
    at_least,
    at_most,
    polynomial,
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
