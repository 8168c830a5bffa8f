"""Signs, neighbours and shifts, as NumPy has them."""

from __future__ import annotations

from distgrad.compiler.builder import BITS, Builder, Lanes
from distgrad.compiler.maths.steps import sign_of, with_sign


def signbit(b: Builder, x: Lanes) -> Lanes:
    """Whether the bit of the sign is set."""
    i = b.bits(x)
    return b.less(i, b.like(i, 0))


def copysign(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """|x| with the sign of y."""
    return with_sign(b, b.absolute(x), sign_of(b, y))


def fmax(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """The larger, or the one that is not NaN."""
    made = b.maximum(x, y)
    return b.select(b.isnan(x), y, b.select(b.isnan(y), x, made)) if x.floating else made


def fmin(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """The smaller, or the one that is not NaN."""
    made = b.minimum(x, y)
    return b.select(b.isnan(x), y, b.select(b.isnan(y), x, made)) if x.floating else made


def nextafter(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """The float next to x on the way to y: one more or one less, as integers, by the sign of x."""
    zero, i = b.like(x, 0), b.bits(x)
    grows = b.equal(b.convert(b.less(x, y), i.type), b.convert(b.less(zero, x), i.type))
    moved = b.floats(b.add(i, b.select(grows, b.like(i, 1), b.like(i, -1))))
    moved = b.select(b.equal(x, zero), with_sign(b, b.floats(b.like(i, 1)), sign_of(b, y)), moved)
    return b.select(b.compare("uno", x, y), b.add(x, y), b.select(b.equal(x, y), y, moved))


def _shifted(b: Builder, code: str, x: Lanes, y: Lanes, beyond: Lanes) -> Lanes:
    """x shifted by y; `beyond` where x has not so many bits, or y is negative."""
    good = b.compare("ult", y, b.like(y, BITS[x.type]))
    by = b.select(good, y, b.like(y, 0))
    return b.select(good, b.shift_left(x, by) if code == "left" else b.shift_right(x, by), beyond)


def left_shift(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """x 2^y; 0 where all bits are shifted out."""
    return _shifted(b, "left", x, y, b.like(x, 0))


def right_shift(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """x / 2^y, rounded down."""
    return _shifted(b, "right", x, y, b.shift_right(x, BITS[x.type] - 1))
