"""log, log2, log10, log1p: x = 2^k (1 + f) with 1 + f about 1, and log x = k log 2 + f + y(f).

k log 2 is a sum of two numbers, of which the product with the first is exact; f is exact, and what rounding k log 2 + f
leaves out is added to y (Cody and Waite; Sun's fdlibm, e_log.c). For float32 y = f² q(f) with 1 + f from 2/3 to 4/3;
for float64 y = s (f²/2 + R(s²)) - f²/2 with s = f / (2 + f) and 1 + f from √½ to √2, as in fdlibm. The polynomials make
the greatest relative error of the logarithm least (Remez's exchange in 200 bits, then each coefficient rounded).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distgrad.compiler.builder import INTEGER, Builder, Lanes
from distgrad.compiler.maths.steps import BIAS, MANTISSA, SMALLEST, polynomial, two_sum


class Base(NamedTuple):
    """1 / log(base) and log 2 / log(base), each as a sum of two numbers; k times `two` is exact."""

    unit: float
    unit_low: float
    two: float
    two_low: float


NATURAL = {
    "float": Base(1.0, 0.0, 0.693145751953125, 1.4286068203094173e-06),
    "double": Base(1.0, 0.0, 0.693147180559663, 2.8235290563031577e-13),
}
BINARY = {
    "float": Base(1.4426950216293335, 1.9259629911266175e-08, 1.0, 0.0),
    "double": Base(1.4426950408889634, 2.0355273740931033e-17, 1.0, 0.0),
}
DECIMAL = {
    "float": Base(0.4342944920063019, -1.0103050052231683e-08, 0.301025390625, 4.605038981195214e-06),
    "double": Base(0.4342944819032518, 1.098319650216765e-17, 0.30102999566383914, 1.42050232272661e-13),
}

Q = (
    -0.5,
    0.3333320915699005,
    -0.24999716877937317,
    0.20010747015476227,
    -0.16682305932044983,
    0.14001159369945526,
    -0.12167152017354965,
    0.1400476098060608,
    -0.1294897049665451,
)
R = (
    0.6666666666666735,
    0.39999999999411096,
    0.28571428743262606,
    0.22222198475992952,
    0.18183569739489244,
    0.15313903254223568,
    0.1479750763903558,
)
START = {"float": 2 / 3, "double": 0.7071067811865476}  # the least 1 + f


def _bits(type: str, number: float) -> int:
    kind, whole = (np.float32, np.int32) if type == "float" else (np.float64, np.int64)
    return int(np.array(number, kind).view(whole))


def _parted(b: Builder, x: Lanes, least: float) -> tuple[Lanes, Lanes]:
    """k + bias, as an integer, and 1 + f from `least` to twice that, of positive normal numbers."""
    kind, places, start = INTEGER[x.type], MANTISSA[x.type], _bits(x.type, least)
    i = b.add(b.bits(x), b.constant(kind, (BIAS[x.type] << places) - start))
    rest = b.logical_and(i, b.constant(kind, (1 << places) - 1))
    return b.shift_right(i, places, signed=False), b.floats(b.add(rest, b.constant(kind, start)))


def _number(b: Builder, k: Lanes, type: str) -> Lanes:
    """k - bias as a float: k becomes the last bits of a power of two, which is taken off."""
    unit = 2.0 ** MANTISSA[type]
    above = b.floats(b.logical_or(k, b.constant(k.type, _bits(type, unit))))
    return b.subtract(above, b.constant(type, unit + BIAS[type]))


def parted(b: Builder, x: Lanes, least: float) -> tuple[Lanes, Lanes]:
    """k and f, both exact, of any positive number."""
    below = b.less(x, b.like(x, SMALLEST[x.type]))
    more = MANTISSA[x.type] + 1
    k, m = _parted(b, b.select(below, b.multiply(x, b.like(x, 2.0**more)), x), least)
    n = _number(b, k, x.type)
    n = b.select(below, b.subtract(n, b.like(x, more)), n)
    return n, b.subtract(m, b.like(x, 1))


def _beyond(b: Builder, f: Lanes, unit: float, low: Lanes) -> Lanes:
    """y(f) · `unit` + `low`."""
    square = b.multiply(f, f)
    if f.type == "float":
        return b.fma(square, polynomial(b, f, [q * unit for q in Q]), low)
    s = b.divide(f, b.add(f, b.like(f, 2)))
    z = b.multiply(s, s)
    half = b.multiply(square, b.like(f, 0.5))
    inner = b.fma(z, polynomial(b, z, R), half)
    if unit == 1:
        return b.subtract(b.fma(s, inner, low), half)
    return b.fma(b.fma(s, inner, b.negative(half)), b.like(f, unit), low)


def _sum(b: Builder, k: Lanes, f: Lanes, of: Base, lost: Lanes | None = None) -> Lanes:
    """k log 2 + f + y(f) + `lost` (1 - f), in units of the base."""
    low = b.multiply(k, b.like(k, of.two_low)) if of.two_low else None
    first = f
    if of.unit != 1:
        first = b.multiply(f, b.like(f, of.unit))
        rest = b.fma(f, b.like(f, of.unit), b.negative(first))
        rest = b.fma(f, b.like(f, of.unit_low), rest)
        low = b.add(low, rest) if low else rest
    if lost:
        low = b.add(low, b.fma(b.negative(f), lost, lost)) if low else lost
    assert low
    y = _beyond(b, f, of.unit, low)
    high, left = two_sum(b, b.multiply(k, b.like(k, of.two)) if of.two != 1 else k, first)
    return b.add(high, b.add(left, y))


def _ends(b: Builder, x: Lanes, made: Lanes, pole: float) -> Lanes:
    """`made`, but -inf at the pole, NaN below, and x itself where that is infinite or NaN."""
    least = b.like(x, pole)
    made = b.select(b.less(least, x), made, b.select(b.less(x, least), b.like(x, np.nan), b.like(x, -np.inf)))
    return b.select(b.less(x, b.like(x, np.inf)), made, b.add(x, x))


def _log(b: Builder, x: Lanes, of: Base) -> Lanes:
    k, f = parted(b, x, START[x.type])
    return _ends(b, x, _sum(b, k, f, of), 0)


def log(b: Builder, x: Lanes) -> Lanes:
    """The natural logarithm."""
    return _log(b, x, NATURAL[x.type])


def log2(b: Builder, x: Lanes) -> Lanes:
    """The logarithm to base 2; whole for powers of two."""
    return _log(b, x, BINARY[x.type])


def log10(b: Builder, x: Lanes) -> Lanes:
    """The logarithm to base 10."""
    return _log(b, x, DECIMAL[x.type])


def log1p(b: Builder, x: Lanes, low: Lanes | None = None) -> Lanes:
    """log(1 + x + `low`): what rounding 1 + x leaves out is added to f (Kahan; fdlibm, s_log1p.c)."""
    one = b.like(x, 1)
    u = b.add(x, one)
    lost = b.subtract(x, b.subtract(u, one))
    lost = b.multiply(b.add(lost, low) if low else lost, b.like(x, 0.5))
    k, m = _parted(b, u, START[x.type])
    # 2^(1 - k): 2^-k may be no normal number.
    scale = b.subtract(b.constant(k.type, 2 * BIAS[x.type] + 1), k)
    scale = b.floats(b.shift_left(scale, MANTISSA[x.type]))
    m = b.subtract(m, one)
    f = b.fma(lost, scale, m)
    lost = b.fma(lost, scale, b.subtract(m, f))
    made = _ends(b, x, _sum(b, _number(b, k, x.type), f, NATURAL[x.type], lost), -1)
    return b.select(b.less(b.absolute(x), b.like(x, 2.0 ** -(MANTISSA[x.type] + 2))), x, made)
