"""Mathematics that gives the same bits on every processor.

Each function takes a builder and lanes of float or double, and writes steps that IEEE 754 rounds in one way: sums,
products, quotients, roots, fused multiply-adds, comparisons, integers; in a fixed order. So neither the width of
vectors nor the processor changes a bit (of NaN the sign and payload may differ). Errors are at most 1 ulp of float32
(2 of powers, 1.1 of softplus and log_sigmoid) and 2 of float64; `tests/test_maths.py` holds them. Zeros, infinities
and NaN give what C99 and NumPy say.
"""

from distgrad.compiler.maths.arcs import arccos, arccosh, arcsin, arcsinh, arctan2, arctanh, hypot
from distgrad.compiler.maths.error import erf, erfc
from distgrad.compiler.maths.exponential import exp, exp2, expm1, sigmoid
from distgrad.compiler.maths.hyperbolic import cosh, log_sigmoid, sinh, softplus, tanh
from distgrad.compiler.maths.inverse import arctan
from distgrad.compiler.maths.logarithm import log, log1p, log2, log10
from distgrad.compiler.maths.power import power
from distgrad.compiler.maths.trigonometric import cos, sin, tan

__all__ = [
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "cos",
    "cosh",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "hypot",
    "log",
    "log1p",
    "log2",
    "log10",
    "log_sigmoid",
    "power",
    "sigmoid",
    "sin",
    "sinh",
    "softplus",
    "tan",
    "tanh",
]
