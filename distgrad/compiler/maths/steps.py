"""What several functions are made of: polynomials, clamps, powers of two."""

from __future__ import annotations

from collections.abc import Sequence

from distgrad.compiler.builder import BITS, Builder, Lanes

# Of a float type: the bits of the significand after the leading one, and the exponent's bias.
MANTISSA = {"float": 23, "double": 52}
BIAS = {"float": 127, "double": 1023}
SMALLEST = {"float": 2.0**-126, "double": 2.0**-1022}  # that is normal


def polynomial(b: Builder, x: Lanes, coefficients: Sequence[float]) -> Lanes:
    """c0 + c1 x + c2 x² + ..., by Horner's rule, each step rounded once."""
    made = b.like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        made = b.fma(made, x, b.like(x, c))
    return made


def at_most(b: Builder, x: Lanes, limit: float) -> Lanes:
    """The smaller of x and `limit`; NaN stays: one instruction on x86."""
    most = b.like(x, limit)
    return b.select(b.less(most, x), most, x)


def at_least(b: Builder, x: Lanes, limit: float) -> Lanes:
    """The larger of x and `limit`; NaN stays."""
    least = b.like(x, limit)
    return b.select(b.less(x, least), least, x)


def sign_of(b: Builder, x: Lanes) -> Lanes:
    """The bit of the sign, alone, as an integer."""
    i = b.bits(x)
    return b.logical_and(i, b.like(i, -(2 ** (BITS[i.type] - 1))))


def with_sign(b: Builder, x: Lanes, sign: Lanes) -> Lanes:
    """x with its sign turned where the bit `sign` is set."""
    return b.floats(b.logical_xor(b.bits(x), sign))


def two_sum(b: Builder, x: Lanes, y: Lanes) -> tuple[Lanes, Lanes]:
    """x + y, and what its rounding left out, exactly where |x| ≥ |y| or x = 0 (Dekker's fast sum)."""
    high = b.add(x, y)
    return high, b.add(b.subtract(x, high), y)


def nearest(b: Builder, x: Lanes, factor: float, bias: int = 0) -> tuple[Lanes, Lanes]:
    """The integer n next to `factor` · x, as a float; and an integer whose low bits are n + `bias`.

    A number added, 1.5 · 2^23 for float32, moves the binary point behind the last bit; |n + bias| < 2^22. Its own low
    bits are zero: nine of float32, twelve of float64.
    """
    magic = b.like(x, 1.5 * 2.0 ** MANTISSA[x.type] + bias)
    moved = b.fma(x, b.like(x, factor), magic)
    return b.subtract(moved, magic), b.bits(moved)


def power_of_two(b: Builder, n: Lanes, type: str) -> Lanes:
    """2^(n - bias), from the low bits of n; n - bias must be the exponent of a normal number."""
    return b.floats(b.shift_left(n, MANTISSA[type]))


def scaled(b: Builder, x: Lanes, n: Lanes) -> Lanes:
    """x · 2^(n - 2 bias), rounded once, for |x| in [1/4, 4], from the low bits of n; both halves of n are normal."""
    half = b.shift_right(n, 1, signed=False)
    first = b.multiply(x, power_of_two(b, half, x.type))
    return b.multiply(first, power_of_two(b, b.subtract(n, half), x.type))
