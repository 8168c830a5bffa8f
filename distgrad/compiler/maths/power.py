"""x^y = 2^(y log2 x), with the logarithm as a sum of two numbers.

x = 2^k (1 + f) with 1 + f from √½ to √2; log(1 + f) = 2s + 2/3 s³ + s⁵ R(s²) with s = f / (2 + f), of which the first
two terms carry what rounding leaves out; products are split by fused multiply-adds. As in Sun's fdlibm (e_pow.c), which
cuts words instead. The ends are those of C99 (annex F.9.4.4).
"""

from __future__ import annotations

import numpy as np

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.maths.exponential import exp2
from distgrad.compiler.maths.logarithm import BINARY, parted
from distgrad.compiler.maths.steps import polynomial, sign_of, two_sum, with_sign

Pair = tuple[Lanes, Lanes]

# R: relative error of the logarithm 2^-36.8, 2^-66.3.
R = {
    "float": (0.40000152587890625, 0.2854708433151245, 0.23419815301895142),
    "double": (
        0.4000000000000227,
        0.28571428570092056,
        0.2222222252132879,
        0.1818178423902604,
        0.15386763448135785,
        0.13256670633071332,
        0.13197734644007417,
    ),
}
TWO_THIRDS = {
    "float": (0.6666666865348816, -1.9868214925130207e-08),
    "double": (2 / 3, 3.700743415417188e-17),
}


def _product(b: Builder, x: Lanes, y: Lanes) -> Pair:
    """x · y, and what rounding it leaves out."""
    high = b.multiply(x, y)
    return high, b.fma(x, y, b.negative(high))


def _constant(b: Builder, x: Pair, high: float, low: float) -> Pair:
    """x times a number, both sums of two."""
    made, left = _product(b, x[0], b.like(x[0], high))
    left = b.fma(x[0], b.like(made, low), left)
    return made, b.fma(x[1], b.like(made, high), left)


def _ratio(b: Builder, f: Lanes) -> Pair:
    """f / (2 + f)."""
    below, missing = two_sum(b, b.like(f, 2), f)
    reciprocal = b.divide(b.like(f, 1), below)
    s = b.multiply(f, reciprocal)
    rest = b.fma(b.negative(s), missing, b.fma(b.negative(s), below, f))
    return s, b.multiply(rest, reciprocal)


def _log2(b: Builder, x: Lanes) -> Pair:
    """log2 x, of positive numbers."""
    k, f = parted(b, x, 0.7071067811865476)
    s, low = _ratio(b, f)
    twice, twice_low = b.add(s, s), b.add(low, low)
    z, z_low = _product(b, s, s)
    z_low = b.fma(twice, low, z_low)
    cube, cube_low = _product(b, s, z)
    cube_low = b.fma(s, z_low, b.fma(low, z, cube_low))
    part, part_low = _constant(b, (cube, cube_low), *TWO_THIRDS[x.type])
    tail = b.fma(b.multiply(cube, z), polynomial(b, z, R[x.type]), b.add(twice_low, part_low))
    high, left = two_sum(b, twice, part)
    of = BINARY[x.type]
    high, low = _constant(b, (high, b.add(left, tail)), of.unit, of.unit_low)
    high, left = two_sum(b, k, high)
    return high, b.add(left, low)


def power(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """x^y: NaN of a negative x with a y that is not whole; 1 of y = 0 and of x = 1, whatever the other is."""
    zero, one, infinite = b.like(x, 0), b.like(x, 1), b.like(x, np.inf)
    size = b.absolute(x)
    high, low = _log2(b, size)
    # So large a y gives 0 or infinity, unless |x| = 1.
    most = b.like(y, 2.0**65)
    bounded = b.select(b.less(most, y), most, b.select(b.less(y, b.negative(most)), b.negative(most), y))
    product, left = _product(b, bounded, high)
    made = exp2(b, product, b.fma(bounded, low, left))
    ended = b.logical_or(b.equal(size, zero), b.equal(size, infinite))
    grows = b.logical_xor(b.less(y, zero), b.equal(size, infinite))
    made = b.select(ended, b.select(grows, infinite, zero), made)
    half = b.multiply(y, b.like(y, 0.5))
    whole = b.equal(b.trunc(y), y)
    odd = b.logical_and(whole, b.not_equal(b.trunc(half), half))
    sign = sign_of(b, x)
    made = with_sign(b, made, b.select(odd, sign, b.like(sign, 0)))
    negative = b.logical_and(b.less(x, zero), b.less(b.negative(infinite), x))
    made = b.select(b.logical_and(negative, b.logical_not(whole)), b.like(x, np.nan), made)
    made = b.select(b.compare("uno", x, y), b.add(x, y), made)
    return b.select(b.logical_or(b.equal(y, zero), b.equal(x, one)), one, made)
