"""What a float is made of, element by element: signs, exponents, neighbours; and functions that pass over nan."""

from __future__ import annotations

import math
from typing import Any

from distgrad import session
from distgrad.dtype import BOOL, default_numpy, float64
from distgrad.ops.arithmetic import pow
from distgrad.ops.base import (
    Operand,
    Tensor,
    Value,
    attach,
    broadcast_to,
    cast,
    common_dtype,
    constant,
    elementwise,
    op,
)
from distgrad.ops.compare import is_tensor, isnan, where
from distgrad.ops.outs import with_out
from distgrad.ops.pointwise import cos, exp2, floating, refuse
from distgrad.ops.samples import real, whole

__all__ = [
    "angle",
    "copysign",
    "float_power",
    "fmax",
    "fmin",
    "frexp",
    "gcd",
    "heaviside",
    "isneginf",
    "isposinf",
    "isreal",
    "lcm",
    "ldexp",
    "nextafter",
    "signbit",
    "sinc",
]


def _reals() -> list[Any]:
    return [real(2, 3), real()]


def _pairs() -> list[Any]:
    return [(real(2, 3), real(2, 3, low=-1.9, seed=1)), (real(2, 3), real(3, low=-1.8))]


def _underived(name: str) -> Any:
    raise RuntimeError(f"derivative for aten::{name} is not implemented")


# Signs.
@op(samples=lambda: [real(2, 3), whole(3)])
def signbit(input: Value) -> Value:
    """Whether an element is below 0, or is -0.0."""
    return session.emit("signbit", input)


@op(
    name=lambda input, other: f"CopysignBackward{int(not is_tensor(other))}",
    input=lambda g, input, out: g * where(input == 0, 0.0, out / where(input == 0, 1.0, input)),
    other=lambda g, like: like.zeros(),
    number_edges=False,
    inplace=True,
    samples=lambda: [*_pairs(), (real(2, 3), -0.0)],
)
def copysign(input: Value, other: Operand) -> Value:
    """|input| with the sign of `other`, whose -0.0 counts as below 0."""
    return elementwise("copysign", input, other, floating=True)


def _is_infinite(input: Value, which: float) -> Value:
    x = input if input.dtype.kind == "f" else cast(input, default_numpy())
    return session.emit("equal", x, constant(which, x.dtype))


@op(samples=lambda: [real(2, 3), whole(3)])
def isposinf(input: Value) -> Value:
    """Whether an element is inf."""
    return _is_infinite(input, math.inf)


@op(samples=lambda: [real(2, 3), whole(3)])
def isneginf(input: Value) -> Value:
    """Whether an element is -inf."""
    return _is_infinite(input, -math.inf)


@op(samples=lambda: [real(2, 3), whole(3)])
def isreal(input: Value) -> Value:
    """True everywhere, for there are no complex numbers."""
    return broadcast_to(constant(True, BOOL), input.shape, input.sharding)


@op(input=lambda g, like: like.zeros(), samples=_reals)
def angle(input: Value) -> Value:
    """π for what is below 0, else 0; nan stays nan."""
    x = floating("copy", input)
    below = session.emit("less", x, constant(0, x.dtype))
    turned = session.emit("where", below, constant(math.pi, x.dtype), constant(0, x.dtype))
    return session.emit("where", session.emit("isnan", x), x, turned)


@op(
    name="NotImplemented",
    input=lambda g: _underived("heaviside"),
    values=lambda g: _underived("heaviside"),
    inplace=True,
    samples=lambda: [(whole(2, 3), whole(3)), (whole(4), whole(4, seed=1))],
)
def heaviside(input: Value, values: Value) -> Value:
    """0 below 0, 1 above it, and `values` at 0. As in torch it has no derivative."""
    if input.dtype != values.dtype:
        raise RuntimeError("heaviside is not yet implemented for tensors with different dtypes.")
    zero = constant(0, input.dtype)
    above = cast(session.emit("less", zero, input), input.dtype)
    return session.emit("where", session.emit("equal", input, zero), values, above)


# The larger and the smaller where both are numbers. Of equal ones the first has the gradient.
def _is_first(input: Tensor, other: Tensor, larger: bool) -> Tensor:
    return (input >= other if larger else input <= other) | isnan(other)


@op(
    input=lambda g, input, other: where(_is_first(input, other, True), g, 0.0),
    other=lambda g, input, other: where(_is_first(input, other, True), 0.0, g),
    samples=_pairs,
)
def fmax(input: Value, other: Value) -> Value:
    """The larger of the two elements; where one is nan, the other."""
    return elementwise("fmax", input, other)


@op(
    input=lambda g, input, other: where(_is_first(input, other, False), g, 0.0),
    other=lambda g, input, other: where(_is_first(input, other, False), 0.0, g),
    samples=_pairs,
)
def fmin(input: Value, other: Value) -> Value:
    """The smaller of the two elements; where one is nan, the other."""
    return elementwise("fmin", input, other)


# Exponents and neighbours.
@op(
    returns=("mantissa", "exponent"),
    input=lambda g, out: g * exp2(-out[1]),
    samples=lambda: [real(2, 3), real()],
)
def frexp(input: Value) -> tuple[Value, Value]:
    """(mantissa, exponent) with input = mantissa * 2**exponent and 1/2 <= |mantissa| < 1."""
    if input.dtype.kind != "f":
        raise RuntimeError("torch.frexp() only supports floating-point dtypes")
    return session.emit("mantissa", input), session.emit("exponent", input)


@op(
    input=lambda g, other: g * exp2(other),
    other=lambda g, out: g * (out * math.log(2)),
    inplace=True,
    samples=lambda: [(real(2, 3), real(3)), (real(2, 3), whole(3))],
)
def ldexp(input: Value, other: Value) -> Value:
    """input * 2**other."""
    return elementwise("multiply", input, floating("exp2", other), floating=True)


@op(
    input=lambda g, input, other: where(input == other, 0.0, g),
    other=lambda g, like: like.zeros(),
    inplace=True,
    samples=_pairs,
)
def nextafter(input: Value, other: Value) -> Value:
    """The next number that the dtype has, from `input` on towards `other`."""
    refuse(common_dtype(input, other), "bi", "nextafter_cpu")
    return elementwise("nextafter", input, other)


# Divisors.
def _whole(primitive: str, input: Value, other: Value) -> Value:
    refuse(common_dtype(input, other), "bf", f"{primitive}_cpu")
    return elementwise(primitive, input, other)


def _wholes() -> list[Any]:
    return [(whole(2, 3, high=30), whole(3, low=-9, high=30)), (whole(4, high=30), whole(4, high=30, seed=1))]


@op(inplace=True, samples=_wholes)
def gcd(input: Value, other: Value) -> Value:
    """The greatest common divisor, not below 0."""
    return _whole("gcd", input, other)


@op(inplace=True, samples=_wholes)
def lcm(input: Value, other: Value) -> Value:
    """The least common multiple, not below 0."""
    return _whole("lcm", input, other)


# Others.
def _sinc_input(g: Tensor, input: Tensor, out: Tensor) -> Tensor:
    at_0 = input == 0  # where the slope is that of -π²x²/6
    slope = (cos(input * math.pi) - out) / where(at_0, 1.0, input)
    return g * where(at_0, 0.0 - input * (math.pi**2 / 3), slope)


@op(input=_sinc_input, inplace=True, samples=_reals)
def sinc(input: Value) -> Value:
    """sin(πx) / (πx); 1 at 0."""
    turned = elementwise("multiply", input, math.pi, floating=True)
    at_0 = session.emit("equal", turned, constant(0, turned.dtype))
    quotient = session.emit("divide", session.emit("sin", turned), turned)
    return session.emit("where", at_0, constant(1, turned.dtype), quotient)


@with_out
def float_power(input: Any, exponent: Any) -> Tensor:
    """input ** exponent, worked out as float64."""
    return pow(_double(input), _double(exponent))


def _double(x: Any) -> Any:
    return x.to(float64) if isinstance(x, Tensor) else float(x)


def _float_power_(self: Tensor, exponent: Any) -> Tensor:
    """The same, written into the tensor, which is of float64."""
    if self.dtype is not float64:
        raise RuntimeError(
            f"the base given to float_power_ has dtype {self.dtype.title} but the operation's result requires dtype "
            "Double"
        )
    return self.pow_(_double(exponent))


attach(float_power=float_power, float_power_=_float_power_)
