"""sin, cos, tan: x = n π/2 + r with |r| ≤ π/4, and polynomials of r.

Of common sizes n π/2 is taken off in three parts, the first exactly by a fused multiply-add (Cody and Waite, 1980), and
what rounding leaves out of r is kept beside it. Of large ones n and r come from a product with as many bits of 2/π as x
has places before them (Payne and Hanek, 1983), in integers of 128 bits. The polynomials make the greatest relative
error of sin r, cos r and tan r least (Remez's exchange in 200 bits, then each coefficient rounded): 2^-28, 2^-33 and
2^-29.6 of float32, 2^-57.9, 2^-64 and 2^-56.2 of float64. How what is beside r counts is as in Sun's fdlibm (k_sin.c,
k_cos.c).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from distgrad.compiler.builder import BITS, Builder, Lanes
from distgrad.compiler.maths.steps import at_least, nearest, polynomial, sign_of, two_sum, with_sign

TWO_OVER_PI = 0.6366197723675814


class Circular(NamedTuple):
    """Numbers of one type of floats."""

    quarter: Sequence[float]  # π/2 as a sum
    sine: Sequence[float]
    cosine: Sequence[float]
    tangent: Sequence[float]
    far: float  # above which x is large


SINGLE = Circular(
    (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
    (-0.16666655242443085, 0.00833215843886137, -0.00019514957966748625),
    (0.04166664555668831, -0.0013887312961742282, 2.4432783902739175e-05),
    (
        0.33333349227905273,
        0.13332659006118774,
        0.05406049266457558,
        0.021279118955135345,
        0.010844006203114986,
        7.885702507337555e-05,
        0.0043816822580993176,
    ),
    far=2.0**15,
)
DOUBLE = Circular(
    (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33),
    (
        -0.1666666666666663,
        0.008333333333322063,
        -0.00019841269829542574,
        2.7557313604513173e-06,
        -2.5050745035626803e-08,
        1.5896067381344823e-10,
    ),
    (
        0.041666666666666595,
        -0.0013888888888872975,
        2.4801587288800062e-05,
        -2.7557314163986667e-07,
        2.0875698709814197e-09,
        -1.1358423578399711e-11,
    ),
    (
        0.3333333333333277,
        0.13333333333415529,
        0.05396825392623437,
        0.021869489619429965,
        0.008863219016762913,
        0.0035922904152727655,
        0.0014547498086290409,
        0.0005950992456554445,
        0.0002222775719961739,
        0.00013673711154658648,
        -2.668565266539444e-05,
        8.972869013089017e-05,
        -4.50263237973227e-05,
        2.0899412448334703e-05,
    ),
    far=2.0**20,
)
OF = {"float": SINGLE, "double": DOUBLE}


class Angle(NamedTuple):
    """|x| = n π/2 + r + low."""

    n: Lanes  # an integer, of which the last two bits are right
    r: Lanes
    low: Lanes


def _near(b: Builder, size: Lanes) -> Angle:
    first, second, third = OF[size.type].quarter
    n, whole = nearest(b, size, TWO_OVER_PI)
    exact = b.fma(n, b.like(size, -first), size)
    part = b.multiply(n, b.like(size, second))
    r = b.subtract(exact, part)
    low = b.subtract(b.subtract(exact, r), part)
    low = b.subtract(low, b.fma(n, b.like(size, second), b.negative(part)))
    return Angle(whole, r, b.fma(n, b.like(size, -third), low))


# Large angles, one at a time and in float64.


def _two_over_pi(words: int) -> np.ndarray:
    """2/π in words of 64 bits, behind one of zeros; π from Machin's formula 16 arctan(1/5) - 4 arctan(1/239)."""
    one = 1 << (64 * words + 64)

    def arctan(n: int) -> int:
        total, power, k = 0, one // n, 1
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power, k = power // (n * n), k + 2
        return total

    bits = 2 * one * (one >> 64) // (16 * arctan(5) - 4 * arctan(239))
    return np.array([0, *(bits >> 64 * k & (2**64 - 1) for k in reversed(range(words)))], np.uint64).view(
        np.int64
    )


WORDS = _two_over_pi(21)


def _far(b: Builder, size: Lanes) -> Angle:
    """Of one float64: size = m 2^e, and m · (2^e 2/π mod 4) in 128 bits, of which the first two are n.

    What is smaller than 2^10 is not wanted, but may stand beside what is: so the table has its words.
    """
    size = at_least(b, size, 2.0**10)
    table = b.table(WORDS)
    i = b.bits(size)
    m = b.logical_or(b.logical_and(i, b.like(i, 2**52 - 1)), b.like(i, 2**52))
    start = b.subtract(b.shift_right(i, 52, signed=False), b.like(i, 1023 + 52 + 2 - 64))
    word, places = b.shift_right(start, 6), b.logical_and(start, b.like(start, 63))
    words = [b.look_up(table, "i64", b.add(word, b.like(word, k))) for k in range(4)]
    rest = b.subtract(b.like(places, 63), places)

    def product(k: int) -> Lanes:
        after = b.shift_right(b.shift_right(words[k + 1], 1, signed=False), rest, signed=False)
        wide = b.convert(b.logical_or(b.shift_left(words[k], places), after), "i128")
        return b.multiply(b.convert(m, "i128"), b.logical_and(wide, b.like(wide, 2**64 - 1)))

    turns = b.add(
        b.shift_left(product(0), 64), b.add(product(1), b.shift_right(product(2), 64, signed=False))
    )
    n = b.shift_right(b.add(turns, b.like(turns, 2**125)), 126, signed=False)
    rest = b.subtract(turns, b.shift_left(n, 126))
    below = b.compare("slt", rest, b.like(rest, 0))
    rest = b.select(below, b.subtract(b.like(rest, 0), rest), rest)

    def number(place: int) -> Lanes:
        """32 bits of the rest."""
        digit = b.logical_and(b.shift_right(rest, 32 * place, signed=False), b.like(rest, 2**32 - 1))
        return b.multiply(
            b.convert(b.convert(digit, "i64"), "double"), b.like(size, 2.0 ** (32 * place - 126))
        )

    high, low = two_sum(b, number(3), number(2))
    high, low = two_sum(b, high, b.add(low, b.add(number(1), number(0))))
    first, second, _ = DOUBLE.quarter
    r = b.multiply(high, b.like(high, first))
    left = b.fma(high, b.like(high, first), b.negative(r))
    left = b.fma(high, b.like(high, second), b.fma(low, b.like(low, first), left))
    r, left = two_sum(b, r, left)
    sign = b.select(below, b.like(i, -(2**63)), b.like(i, 0))
    return Angle(b.convert(n, "i64"), with_sign(b, r, sign), with_sign(b, left, sign))


# Functions of the angle.


def _sine(b: Builder, angle: Angle, z: Lanes) -> Lanes:
    t = b.fma(b.multiply(z, angle.r), polynomial(b, z, OF[z.type].sine), angle.low)
    return b.add(angle.r, t)


def _cosine(b: Builder, angle: Angle, z: Lanes) -> Lanes:
    one, half = b.like(z, 1), b.like(z, -0.5)
    w = b.fma(z, half, one)
    left = b.fma(z, half, b.subtract(one, w))
    left = b.fma(b.multiply(z, z), polynomial(b, z, OF[z.type].cosine), left)
    return b.add(w, b.fma(b.negative(angle.r), angle.low, left))


def _odd(b: Builder, n: Lanes) -> Lanes:
    return b.not_equal(b.logical_and(n, b.like(n, 1)), b.like(n, 0))


def _turned(b: Builder, x: Lanes, n: Lanes) -> Lanes:
    """-x where n is 2 or 3, mod 4."""
    places = BITS[n.type]
    return with_sign(b, x, b.logical_and(b.shift_left(n, places - 2), b.like(n, -(2 ** (places - 1)))))


def _sin(b: Builder, angle: Angle) -> Lanes:
    z = b.multiply(angle.r, angle.r)
    made = b.select(_odd(b, angle.n), _cosine(b, angle, z), _sine(b, angle, z))
    return _turned(b, made, angle.n)


def _cos(b: Builder, angle: Angle) -> Lanes:
    z = b.multiply(angle.r, angle.r)
    made = b.select(_odd(b, angle.n), _sine(b, angle, z), _cosine(b, angle, z))
    return _turned(b, made, b.add(angle.n, b.like(angle.n, 1)))


def _tan(b: Builder, angle: Angle) -> Lanes:
    """tan r as a sum, or -1 over it; the remainder of the division mends the quotient."""
    r, one = angle.r, b.like(angle.r, 1)
    z = b.multiply(r, r)
    cube, t = b.multiply(z, r), polynomial(b, z, OF[z.type].tangent)
    high = b.fma(cube, t, r)
    low = b.fma(cube, t, b.subtract(r, high))
    low = b.add(low, b.fma(b.multiply(high, high), angle.low, angle.low))
    quotient = b.divide(b.like(r, -1), high)
    rest = b.fma(quotient, low, b.fma(quotient, high, one))
    return b.select(_odd(b, angle.n), b.fma(rest, quotient, quotient), b.add(high, low))


def _circular(b: Builder, x: Lanes, name: str, of: Callable[[Builder, Angle], Lanes]) -> Lanes:
    """`of` the angle |x|."""

    def far(b: Builder, size: Lanes) -> Lanes:
        made = b.convert(of(b, _far(b, b.convert(size, "double"))), size.type)
        return b.select(b.less(size, b.like(size, np.inf)), made, b.subtract(size, size))

    size = b.absolute(x)
    large = b.less(b.like(x, OF[x.type].far), size)
    return b.where_any(large, of(b, _near(b, size)), lambda: b.apart(f"far_{name}", far, size))


def sin(b: Builder, x: Lanes) -> Lanes:
    """The sine of x radians; NaN of infinite ones."""
    return with_sign(b, _circular(b, x, "sin", _sin), sign_of(b, x))


def cos(b: Builder, x: Lanes) -> Lanes:
    """The cosine of x radians; NaN of infinite ones."""
    return _circular(b, x, "cos", _cos)


def tan(b: Builder, x: Lanes) -> Lanes:
    """The tangent of x radians; NaN of infinite ones."""
    return with_sign(b, _circular(b, x, "tan", _tan), sign_of(b, x))
