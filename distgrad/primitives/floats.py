"""What a float is made of, element by element: signs, mantissas, exponents, neighbours; and divisors of integers."""

from __future__ import annotations

import numpy as np

from distgrad.primitives.elementwise import BOOL, _named, declare, elementwise, of_maths
from distgrad.primitives.kernels import Out, copy, packed


def mantissa(x: np.ndarray, out: Out = None) -> np.ndarray:
    """m of x = m * 2**e with 1/2 <= |m| < 1."""
    return copy(np.frexp(x)[0], out)


def exponent(x: np.ndarray, out: Out = None) -> np.ndarray:
    """e of the same."""
    return copy(np.frexp(x)[1], out)


declare({"signbit": packed(np.signbit)}, BOOL)
declare({"mantissa": mantissa}, flops=3)
declare({"exponent": exponent}, elementwise("int32"), flops=3)
declare(_named("exp2"), flops=10, lower=of_maths)
declare(_named("copysign fmax fmin nextafter"), flops=2)
declare(_named("gcd lcm"), flops=50)
