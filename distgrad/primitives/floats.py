"""What a float is made of, element by element: signs, mantissas, exponents, neighbours; and divisors of integers."""

from __future__ import annotations

import numpy as np

from distgrad.compiler.maths import bits
from distgrad.primitives.base import Lower
from distgrad.primitives.elementwise import BOOL, NUMBER, _named, declare, elementwise, of_maths
from distgrad.primitives.kernels import Out, copy, packed


def mantissa(x: np.ndarray, out: Out = None) -> np.ndarray:
    """m of x = m * 2**e with 1/2 <= |m| < 1."""
    return copy(np.frexp(x)[0], out)


def exponent(x: np.ndarray, out: Out = None) -> np.ndarray:
    """e of the same."""
    return copy(np.frexp(x)[1], out)


declare({"signbit": packed(np.signbit)}, BOOL, lower=Lower(bits.signbit))
declare({"mantissa": mantissa}, flops=3)
declare({"exponent": exponent}, elementwise("int32"), flops=3)
declare(_named("exp2"), flops=10, lower=of_maths)
declare(_named("copysign nextafter"), flops=2, lower=lambda name: Lower(getattr(bits, name)))
declare(_named("fmax fmin"), flops=2, lower=lambda name: Lower(getattr(bits, name), NUMBER))
declare(_named("gcd lcm"), flops=50)
