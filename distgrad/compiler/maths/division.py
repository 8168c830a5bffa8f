"""fmod, remainder and floor_divide, exactly, as C99 and NumPy have them; of float32 by way of float64.

The remainder of a rounded quotient is a float (Boldo and Daumas, Representable correcting terms, ARITH 2003): a fused
multiply-add gives it. Each round takes 52 bits from the quotient, so nearly always one is enough.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.maths.steps import MANTISSA, at_least, sign_of, with_sign

PLACES = MANTISSA["double"]
# So often more than the divisor the quotient may be infinite: then the divisor is taken so many times.
FAR = (2.0**1000, 2.0**500)


def fmod(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """What division leaves of x, with its sign; NaN of an infinite x, and where y is 0."""
    wide = [b.convert(b.absolute(v), "double") for v in (x, y)]
    inside = b.logical_and(b.isfinite(x), b.less_equal(wide[1], wide[0]))
    inside = b.logical_and(inside, b.less(b.like(y, 0), b.absolute(y)))
    left = b.select(inside, wide[0], b.like(wide[0], 0))
    by = b.select(inside, wide[1], b.like(wide[1], 1))
    left = _repeated(b, left, lambda left: _taken(b, left, by, x.type), lambda left: b.less_equal(by, left))
    made = with_sign(b, b.convert(left, x.type), sign_of(b, x))
    small = b.logical_and(b.isfinite(x), b.less(b.absolute(x), b.absolute(y)))
    return b.select(inside, made, b.select(small, x, b.like(x, np.nan)))


def _repeated(b: Builder, x: Lanes, step: Callable[[Lanes], Lanes], more: Callable[[Lanes], Lanes]) -> Lanes:
    """What `step` makes of x, and again of that, until `more` is true of no lane."""
    before, inside, after = b.block, b.new_block(), b.new_block()
    b.line(f"br label %{inside}")
    b.begin(inside)
    name, place = b.fresh(), len(b.lines)
    b.line("")
    made = step(Lanes(name, x.type))
    mask = f"{b.vector('i1')} {more(made).name}"
    some = b.intrinsic(f"llvm.vector.reduce.or.v{b.lanes}i1", "i1", mask)
    b.line(f"br i1 {some}, label %{inside}, label %{after}")
    phi = f"phi {b.vector(x.type)} [{x.name}, %{before}], [{made.name}, %{b.block}]"
    b.lines[place] = f"  {name} = {phi}"
    b.begin(after)
    return made


def _taken(b: Builder, left: Lanes, by: Lanes, type: str) -> Lanes:
    """`left` less a multiple of `by`, from 0 on: the highest bits of the quotient are taken."""
    for far in FAR if type == "double" else ():
        more = b.multiply(by, b.like(by, far))
        by = b.select(b.less_equal(more, left), more, by)
    quotient = b.trunc(b.divide(left, by))
    rest = b.fma(b.negative(quotient), by, left)
    # The quotient's last place, or 1: so much too large it is if it was rounded up.
    i = b.bits(quotient)
    exponent = b.logical_and(i, b.like(i, 0x7FF << PLACES))
    place = at_least(b, b.floats(b.subtract(exponent, b.like(i, PLACES << PLACES))), 1)
    return b.select(b.less(rest, b.like(rest, 0)), b.fma(place, by, rest), rest)


def _below(b: Builder, x: Lanes, y: Lanes) -> tuple[Lanes, Lanes]:
    """fmod, and where it is not 0 and has not the sign of y."""
    rest, zero = fmod(b, x, y), b.like(x, 0)
    other = b.logical_xor(b.less(y, zero), b.less(rest, zero))
    return rest, b.logical_and(b.not_equal(rest, zero), other)


def remainder(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """What division that is rounded down leaves, with the sign of y."""
    rest, below = _below(b, x, y)
    nothing = with_sign(b, b.like(x, 0), sign_of(b, y))
    made = b.select(b.equal(rest, b.like(x, 0)), nothing, rest)
    return b.select(below, b.add(rest, y), made)


def floor_divide(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """x / y, rounded down, from what `remainder` takes off; x / y itself where y is 0."""
    rest, below = _below(b, x, y)
    zero, quotient = b.like(x, 0), b.divide(x, y)
    made = b.divide(b.subtract(x, rest), y)
    made = b.select(below, b.subtract(made, b.like(x, 1)), made)
    down = b.floor(made)
    up = b.less(b.like(x, 0.5), b.subtract(made, down))
    down = b.select(up, b.add(down, b.like(x, 1)), down)
    down = b.select(b.equal(made, zero), with_sign(b, zero, sign_of(b, quotient)), down)
    return b.select(b.equal(y, zero), quotient, down)
