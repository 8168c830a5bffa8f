"""arctan: t + t³ P(t²), and a base: of t = |x| up to 0.65, (|x| - 1) / (|x| + 1) up to 1.6, and -1 / |x| above.

The bases are 0, π/4 and π/2. Sun's fdlibm (s_atan.c) does so with five intervals. |x| - 1 is exact, and t is so small
there that what rounding |x| + 1 leaves out counts little. P by Remez's exchange in 200 bits, then each coefficient
rounded: relative error 2^-30.9, 2^-60.
"""

from __future__ import annotations

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.maths.steps import polynomial, sign_of, two_sum, with_sign
from distgrad.compiler.maths.trigonometric import OF

P = {
    "float": (
        -0.33333322405815125,
        0.19999396800994873,
        -0.1427287757396698,
        0.109795480966568,
        -0.08347698301076889,
        0.05241173133254051,
        -0.01838843524456024,
    ),
    "double": (
        -0.33333333333333265,
        0.1999999999998288,
        -0.14285714284223047,
        0.11111111045120346,
        -0.09090907346830256,
        0.07692277562437463,
        -0.06666306859679161,
        0.05879273094521959,
        -0.052438115582262974,
        0.046714139829520815,
        -0.040301456856112965,
        0.031601152612834256,
        -0.020280838473834606,
        0.009056680148043773,
        -0.0020338796776868504,
    ),
}


def arctan(b: Builder, x: Lanes) -> Lanes:
    """The angle from -π/2 to π/2 whose tangent is x."""
    one, zero, size = b.like(x, 1), b.like(x, 0), b.absolute(x)
    quarter, quarter_low, _ = OF[x.type].quarter
    middle, large = b.less(b.like(x, 0.65), size), b.less(b.like(x, 1.6), size)

    def choose(small: Lanes, between: Lanes, great: Lanes) -> Lanes:
        return b.select(large, great, b.select(middle, between, small))

    t = b.divide(
        choose(size, b.subtract(size, one), b.like(x, -1)),
        choose(one, b.add(size, one), size),
    )
    base = choose(zero, b.like(x, quarter / 2), b.like(x, quarter))
    low = choose(zero, b.like(x, quarter_low / 2), b.like(x, quarter_low))
    z = b.multiply(t, t)
    rest = b.fma(b.multiply(t, z), polynomial(b, z, P[x.type]), low)
    high, left = two_sum(b, base, t)
    return with_sign(b, b.add(high, b.add(left, rest)), sign_of(b, x))
