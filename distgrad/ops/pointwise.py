"""Functions of one variable, element by element: exponentials, roots, angles, rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL
from distgrad.ops.base import Tensor, Value, attach, composite, elementwise, op
from distgrad.ops.helpers import title
from distgrad.ops.samples import positive as above_zero
from distgrad.ops.samples import real


def floating(primitive: str, input: Value, **attrs: Any) -> Value:
    """Apply a primitive to floats; integers and bools become the default floating dtype first."""
    return elementwise(primitive, input, floating=True, **attrs)


def refuse(input: Value | np.dtype, kinds: str, kernel: str) -> None:
    """Raise torch's error for a dtype that its kernel of this name does not take; NumPy's letters for `kinds`."""
    found = input if isinstance(input, np.dtype) else input.dtype
    if found.kind in kinds:
        raise NotImplementedError(f"\"{kernel}\" not implemented for '{title(found)}'")


def _reals() -> list[Any]:
    return [real(2, 3), real()]


def _positives() -> list[Any]:
    return [above_zero(2, 3), above_zero()]


def _fractions() -> list[Any]:
    return [real(2, 3, low=-0.9, high=0.9)]


# Exponentials and logarithms.
@op(input=lambda g, out: g * out, inplace=True, samples=_reals)
def exp(input: Value) -> Value:
    """e to the power of `input`."""
    return floating("exp", input)


@op(input=lambda g, out: g * (out * math.log(2)), inplace=True, samples=_reals)
def exp2(input: Value) -> Value:
    """2 to the power of `input`."""
    return floating("exp2", input)


@op(input=lambda g, out: g * (out + 1), inplace=True, samples=_reals)
def expm1(input: Value) -> Value:
    """exp(input) - 1, exact near 0."""
    return floating("expm1", input)


@op(input=lambda g, input: g / input, inplace=True, samples=_positives)
def log(input: Value) -> Value:
    """The natural logarithm."""
    return floating("log", input)


@op(name="Log1PBackward0", input=lambda g, input: g / (input + 1), inplace=True, samples=_positives)
def log1p(input: Value) -> Value:
    """log(1 + input), exact near 0."""
    return floating("log1p", input)


@op(input=lambda g, input: g / (input * math.log(2)), inplace=True, samples=_positives)
def log2(input: Value) -> Value:
    """The logarithm to base 2."""
    return floating("log2", input)


@op(input=lambda g, input: g / (input * math.log(10)), inplace=True, samples=_positives)
def log10(input: Value) -> Value:
    """The logarithm to base 10."""
    return floating("log10", input)


# Powers.
@op(input=lambda g, out: g / (2 * out), inplace=True, samples=_positives)
def sqrt(input: Value) -> Value:
    """The square root."""
    return floating("sqrt", input)


@op(input=lambda g, out: -0.5 * g * out**3, inplace=True, samples=_positives)
def rsqrt(input: Value) -> Value:
    """1 / sqrt(input)."""
    return floating("rsqrt", input)


@op(name="PowBackward0", input=lambda g, input: g * (2 * input), inplace=True, samples=_reals)
def square(input: Value) -> Value:
    """input * input; bools give int64."""
    return elementwise("square", input) if input.dtype != BOOL else session.emit("cast", input, dtype="int64")


@op(input=lambda g, out: -g * (out * out), inplace=True, samples=_positives)
def reciprocal(input: Value) -> Value:
    """1 / input."""
    return floating("reciprocal", input)


# Signs.
@op(input=lambda g, input: g * sign(input), inplace=True, method=("abs", "absolute"), samples=_reals)
def abs(input: Value) -> Value:
    """The absolute value; its gradient at 0 is 0."""
    refuse(input, "b", "abs_cpu")
    return session.emit("absolute", input)


@op(input=lambda g, like: like.zeros(), inplace=True, samples=_reals)
def sign(input: Value) -> Value:
    """-1, 0 or 1."""
    return session.emit("sign", input)


@op(input=lambda g, like: like.zeros(), inplace=True, samples=_reals)
def sgn(input: Value) -> Value:
    """-1, 0 or 1: `sign`, for there are no complex numbers."""
    return session.emit("sign", input)


@composite(samples=lambda: [real(2, 3)])
def positive(input: Tensor) -> Tensor:
    """The tensor itself."""
    if input._avals.dtype == BOOL:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


# Angles.
@op(input=lambda g, input: g * cos(input), inplace=True, samples=_reals)
def sin(input: Value) -> Value:
    """The sine."""
    return floating("sin", input)


@op(input=lambda g, input: g * -sin(input), inplace=True, samples=_reals)
def cos(input: Value) -> Value:
    """The cosine."""
    return floating("cos", input)


@op(input=lambda g, out: g * (1 + out * out), inplace=True, samples=_fractions)
def tan(input: Value) -> Value:
    """The tangent."""
    return floating("tan", input)


@op(
    input=lambda g, input: g * rsqrt(1 - input * input),
    inplace=True,
    method=("asin", "arcsin"),
    samples=_fractions,
)
def asin(input: Value) -> Value:
    """The angle from -π/2 to π/2 whose sine is `input`."""
    return floating("arcsin", input)


@op(
    input=lambda g, input: g * -rsqrt(1 - input * input),
    inplace=True,
    method=("acos", "arccos"),
    samples=_fractions,
)
def acos(input: Value) -> Value:
    """The angle from 0 to π whose cosine is `input`."""
    return floating("arccos", input)


@op(input=lambda g, input: g / (input * input + 1), inplace=True, method=("atan", "arctan"), samples=_reals)
def atan(input: Value) -> Value:
    """The angle from -π/2 to π/2 whose tangent is `input`."""
    return floating("arctan", input)


@op(input=lambda g, input: g * cosh(input), inplace=True, samples=_reals)
def sinh(input: Value) -> Value:
    """The hyperbolic sine."""
    return floating("sinh", input)


@op(input=lambda g, input: g * sinh(input), inplace=True, samples=_reals)
def cosh(input: Value) -> Value:
    """The hyperbolic cosine."""
    return floating("cosh", input)


@op(input=lambda g, out: g * (1 - out * out), inplace=True, samples=_reals)
def tanh(input: Value) -> Value:
    """The hyperbolic tangent."""
    return floating("tanh", input)


@op(
    input=lambda g, input: g * rsqrt(input * input + 1),
    inplace=True,
    method=("asinh", "arcsinh"),
    samples=_reals,
)
def asinh(input: Value) -> Value:
    """The inverse of sinh."""
    return floating("arcsinh", input)


@op(
    input=lambda g, input: g * rsqrt(input * input - 1),
    inplace=True,
    method=("acosh", "arccosh"),
    samples=lambda: [real(2, 3, low=1.1, high=3.0)],
)
def acosh(input: Value) -> Value:
    """The inverse of cosh, from 1 up."""
    return floating("arccosh", input)


@op(
    input=lambda g, input: g / (1 - input * input),
    inplace=True,
    method=("atanh", "arctanh"),
    samples=_fractions,
)
def atanh(input: Value) -> Value:
    """The inverse of tanh."""
    return floating("arctanh", input)


@op(name="Deg2RadBackward0", input=lambda g: g * (math.pi / 180), inplace=True, samples=_reals)
def deg2rad(input: Value) -> Value:
    """Degrees as radians."""
    return elementwise("multiply", input, math.pi / 180, floating=True)


@op(name="Rad2DegBackward0", input=lambda g: g * (180 / math.pi), inplace=True, samples=_reals)
def rad2deg(input: Value) -> Value:
    """Radians as degrees."""
    return elementwise("multiply", input, 180 / math.pi, floating=True)


# Rounding: flat between its steps, so the gradient is 0.
def _rounded(primitive: str, input: Value, kernel: str) -> Value:
    refuse(input, "b", kernel)
    return session.emit(primitive, input) if input.dtype.kind == "f" else input


@op(input=lambda g, like: like.zeros(), inplace=True, samples=_reals)
def floor(input: Value) -> Value:
    """The largest whole number that is not above `input`."""
    return _rounded("floor", input, "floor_vml_cpu")


@op(input=lambda g, like: like.zeros(), inplace=True, samples=_reals)
def ceil(input: Value) -> Value:
    """The smallest whole number that is not below `input`."""
    return _rounded("ceil", input, "ceil_vml_cpu")


@op(input=lambda g, like: like.zeros(), inplace=True, method=("trunc", "fix"), samples=_reals)
def trunc(input: Value) -> Value:
    """The whole part: rounded towards 0."""
    return _rounded("trunc", input, "trunc_vml_cpu")


@op(
    name=lambda input, decimals: "RoundBackward1" if decimals else "RoundBackward0",
    input=lambda g, like: like.zeros(),
    inplace=True,
    samples=lambda: [real(2, 3), (real(2, 3), {"decimals": 1})],
)
def round(input: Value, *, decimals: int = 0) -> Value:
    """The nearest number with so many decimals; halves go to the even neighbour."""
    if not decimals:
        return _rounded("rint", input, "round_vml_cpu")
    refuse(input, "bi", "round_cpu")
    return session.emit("round_decimals", input, decimals=decimals)


@op(input=lambda g: g, inplace=True, samples=_reals)
def frac(input: Value) -> Value:
    """What is left without the whole part."""
    refuse(input, "bi", "frac_cpu")
    return session.emit("subtract", input, session.emit("trunc", input))


attach(__abs__=abs)
absolute, fix = abs, trunc
arcsin, arccos, arctan, arcsinh, arccosh, arctanh = asin, acos, atan, asinh, acosh, atanh

__all__ = [
    "abs",
    "absolute",
    "acos",
    "acosh",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctanh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "ceil",
    "cos",
    "cosh",
    "deg2rad",
    "exp",
    "exp2",
    "expm1",
    "fix",
    "floor",
    "frac",
    "log",
    "log1p",
    "log2",
    "log10",
    "positive",
    "rad2deg",
    "reciprocal",
    "round",
    "rsqrt",
    "sgn",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
]
