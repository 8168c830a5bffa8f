"""Arithmetic of elements: add, sub, mul, div, neg, pow, and the in-place copy_, fill_ and zero_."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL, INT64
from distgrad.ops.base import (
    Operand,
    Tensor,
    Value,
    attach,
    broadcast_to,
    call,
    cast,
    common_dtype,
    composite,
    constant,
    elementwise,
    op,
    operators,
)  # fmt: skip
from distgrad.ops.helpers import as_operand
from distgrad.ops.inplace import repeated
from distgrad.ops.samples import positive, real
from distgrad.scalars import check_held

NO_BOOL_SUB = (
    "Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to "
    "invert a mask, use the "
    "`~` or `logical_not()` operator instead."
)
NO_BOOL_SUBS = (
    "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or "
    "`logical_xor()` operator instead."
)
NO_BOOL_NEG = (
    "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to invert "
    "a mask, use the `~` or "
    "`logical_not()` operator instead."
)


def _pairs() -> list[Any]:
    return [
        (real(2, 3), real(2, 3, seed=1)),
        (real(2, 3), real(3, seed=1)),
        (real(4), 1.5),
        (real(2, 1), real(1, 3)),
    ]


def _divisions() -> list[Any]:
    return [(real(2, 3), positive(2, 3)), (real(3), positive(2, 3)), (real(4), 1.5)]


def _scaled(other: Operand, alpha: Any, common: np.dtype) -> Operand:
    """alpha * other, checked as torch checks alpha."""
    if isinstance(alpha, bool) and common != BOOL:
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    if isinstance(alpha, float) and common.kind != "f":
        raise RuntimeError("For integral input tensors, argument alpha must not be a floating point number.")
    if not isinstance(other, Value):
        return bool(other * alpha) if common == BOOL else other * alpha
    return session.emit("multiply", cast(other, common), constant(alpha, common))


@op(
    input=lambda g: g,
    other=lambda g, alpha: g if alpha == 1 else g * alpha,
    inplace=True,
    samples=lambda: [*_pairs(), (real(2, 3), real(3), {"alpha": -0.5})],
)
def add(input: Operand, other: Operand, *, alpha: float = 1) -> Value:
    """input + alpha * other."""
    if alpha != 1 or alpha is True:
        other = _scaled(other, alpha, common_dtype(input, other))
    return elementwise("add", input, other)


def _sub_operands(input: Operand, other: Operand) -> None:
    first, second = _is_bool(input), _is_bool(other)
    if first or second:
        raise RuntimeError(NO_BOOL_SUBS if first and second else NO_BOOL_SUB)


def _is_bool(x: Operand) -> bool:
    return x.result.spec.dtype == BOOL if isinstance(x, Value) else isinstance(x, bool)


@op(
    input=lambda g: g,
    other=lambda g, alpha: -g if alpha == 1 else g * -alpha,
    inplace=True,
    method=("sub", "subtract"),
    samples=lambda: [*_pairs(), (real(2, 3), real(3), {"alpha": 3})],
)
def sub(input: Operand, other: Operand, *, alpha: float = 1) -> Value:
    """input - alpha * other."""
    _sub_operands(input, other)
    if alpha != 1 or alpha is True:
        other = _scaled(other, alpha, common_dtype(input, other))
    return elementwise("subtract", input, other)


@op(
    name="RsubBackward1",
    input=lambda g, alpha: -g if alpha == 1 else g * -alpha,
    samples=lambda: [(real(2, 3), 1.5)],
)
def _rsub_scalar(input: Value, other: float, *, alpha: float = 1) -> Value:
    _sub_operands(input, other)
    if alpha != 1 or alpha is True:
        input = _scaled(input, alpha, common_dtype(input, other))  # type: ignore[assignment]
    return elementwise("subtract", other, input)


@composite(samples=lambda: [(real(2, 3), real(3)), (real(2, 3), 1.5)])
def rsub(input: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """other - alpha * input."""
    if isinstance(other, (Tensor, np.ndarray)):
        return sub(other, input, alpha=alpha)
    return _rsub_scalar(input, other, alpha=alpha)


@op(
    input=lambda g, other: g * other,
    other=lambda g, input: g * input,
    inplace=True,
    method=("mul", "multiply"),
    samples=_pairs,
)
def mul(input: Operand, other: Operand) -> Value:
    """input * other, element by element."""
    return elementwise("multiply", input, other)


def _truncated(input: Operand, other: Operand) -> Value:
    """The quotient rounded towards zero."""
    common = common_dtype(input, other)
    if common.kind == "f":
        return session.emit("trunc", elementwise("divide", input, other))
    floor = elementwise("floor_divide", input, other)
    a, b, zero = as_operand(input, common), as_operand(other, common), constant(0, common)
    # The floor is one below the truncation where there is a remainder and the signs differ.
    inexact = session.emit("not_equal", session.emit("multiply", floor, b), a)
    differ = session.emit("not_equal", session.emit("less", a, zero), session.emit("less", b, zero))
    return session.emit("add", floor, cast(session.emit("logical_and", inexact, differ), common))


@op(
    name=lambda input, other, rounding_mode: "DivBackward2" if rounding_mode else "DivBackward0",
    input=lambda g, other, rounding_mode, like: like.zeros() if rounding_mode else g / other,
    other=lambda g, input, other, rounding_mode, like: (
        like.zeros() if rounding_mode else -g * (input / other / other)
    ),
    inplace=True,
    method=("div", "divide", "true_divide"),
    samples=lambda: [
        (real(2, 3), positive(2, 3)),
        (real(3), positive(2, 3)),
        (real(4), 1.5),
        (real(2, 3), positive(2, 3), {"rounding_mode": "floor"}),
        (real(3), 0.7, {"rounding_mode": "trunc"}),
    ],
)
def div(input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Value:
    """input / other; with `rounding_mode` "floor" or "trunc" rounded to whole numbers, integers staying integers."""
    if rounding_mode is None:
        return elementwise("divide", input, other, floating=True)
    if rounding_mode in ("floor", "trunc") and common_dtype(input, other) == BOOL:
        raise NotImplementedError(f"\"div_{rounding_mode}_cpu\" not implemented for 'Bool'")
    if rounding_mode == "floor":
        return elementwise("floor_divide", input, other)
    if rounding_mode == "trunc":
        return _truncated(input, other)
    raise RuntimeError(
        f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '{rounding_mode}'"
    )


@op(input=lambda g: -g, inplace=True, method=("neg", "negative"), samples=lambda: [real(2, 3), real()])
def neg(input: Value) -> Value:
    """-input."""
    if input.dtype == BOOL:
        raise RuntimeError(NO_BOOL_NEG)
    return session.emit("negative", input)


# Powers.
SPECIAL_POWERS = {0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}


def _pow_scalar(input: Value, exponent: float) -> Value:
    if input.dtype.kind != "f" and isinstance(exponent, int):
        check_held(exponent, INT64)
    common = common_dtype(input, exponent)
    if common.kind != "f":
        if exponent < 0:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
        check_held(exponent, common)
        return (
            session.emit("integer_power", cast(input, common), n=int(exponent))
            if common != BOOL
            else _power(input, exponent)
        )
    base = cast(input, common)
    if 0 <= exponent <= 4 and exponent == int(exponent):
        return session.emit("integer_power", base, n=int(exponent))
    if (primitive := SPECIAL_POWERS.get(exponent)) is not None:
        return session.emit(primitive, base)
    return elementwise("power", base, exponent)


def _power(input: Operand, exponent: Operand) -> Value:
    if common_dtype(input, exponent) == BOOL:  # a or not b
        a, b = cast(input, BOOL), cast(exponent, BOOL)
        return session.emit("logical_or", a, session.emit("logical_not", b))
    return elementwise("power", input, exponent)


def _pow_name(input: Any, exponent: Any) -> str:
    if isinstance(exponent, (Tensor, np.ndarray)):
        return "PowBackward1" if isinstance(input, (Tensor, np.ndarray)) else "PowBackward2"
    return "PowBackward0"


def _pow_input(g: Tensor, input: Tensor, exponent: Any, like: Any) -> Tensor:
    """exponent * input**(exponent - 1), and 0 for the exponent 0, where the product could be 0 * inf."""
    if not isinstance(exponent, Tensor):
        # The gradient of a sum is a scalar, so to multiply that first costs nothing.
        if exponent == 2:
            return (g * 2) * input
        return like.zeros() if exponent == 0 else (g * exponent) * input ** (exponent - 1)
    return call("where", exponent == 0, 0.0, g * (exponent * input ** (exponent - 1)))


def _pow_exponent(g: Tensor, input: Any, exponent: Tensor, out: Tensor) -> Tensor:
    """out * log(input), and 0 for the base 0 with an exponent that is not negative."""
    if not isinstance(input, Tensor):
        if input == 0:
            return call("where", exponent >= 0, 0.0, g * out * -np.inf)
        return g * (out * float(np.log(input)) if input > 0 else out * np.nan)
    wide = input if input.dtype is out.dtype else call("_to_copy", input, out.dtype)
    return g * call("where", (input == 0) & (exponent >= 0), 0.0, out * call("log", wide))


@op(
    name=_pow_name,
    input=_pow_input,
    exponent=_pow_exponent,
    number_edges=False,
    inplace=True,
    samples=lambda: (
        [(positive(2, 3), real(2, 3)), (positive(3), real(2, 1)), (1.7, real(4))]
        + [(positive(4), n) for n in (0, 1, 2, 3, 4, 0.5, -0.5, -1, -2, 2.5)]
    ),
)
def pow(input: Operand, exponent: Operand) -> Value:
    """input ** exponent."""
    if not isinstance(exponent, Value):
        if not isinstance(input, Value):
            return _power(constant(input, common_dtype(input)), exponent)
        return _pow_scalar(input, exponent)
    if isinstance(input, bool) and exponent.dtype == BOOL:
        raise NotImplementedError("\"pow\" not implemented for 'Bool'")
    return _power(input, exponent)


# Writing values.
def _copied(self: Tensor, src: Any, non_blocking: bool) -> tuple[Tensor | None, Any] | None:
    if isinstance(src, Tensor):
        if self._storage is src._storage and self._layout == src._layout:
            return Tensor(constant(False, BOOL)), 0
        if src.numel() != 1 or src.dim() > self.dim():
            return None
        src = src.reshape(())
    return None if repeated(self) else (None, Tensor(constant(0, self._avals.dtype)).copy_(src))


def _filled(self: Tensor, value: Any) -> tuple[None, Any] | None:
    single = Tensor(constant(0, self._avals.dtype)).fill_(value)
    return None if isinstance(value, Tensor) and repeated(self) else (None, single)


@op(
    name="CopyBackwards",
    input=lambda g, like: like.zeros(),
    src=lambda g: g,
    inplace="only",
    fresh=True,
    fills=_copied,
    samples=lambda: [(real(2, 3), real(3)), (real(2, 3), real(2, 3))],
)
def copy(input: Value, src: Operand, non_blocking: bool = False) -> Value:
    """The elements of `src`, broadcast to the shape of `input` and converted to its dtype."""
    return broadcast_to(as_operand(src, input.dtype), input.shape, input.sharding)


@op(
    name=lambda input, value: "FillBackward3" if isinstance(value, Tensor) else "FillBackward2",
    input=lambda g, like: like.zeros(),
    value=lambda g: g,
    number_edges=False,
    inplace="only",
    fresh=True,
    fills=_filled,
    samples=lambda: [(real(2, 3), 1.5), (real(2, 3), real())],
)
def fill(input: Value, value: Operand) -> Value:
    """`value`, a number or a 0-d tensor, in the shape and dtype of `input`."""
    if isinstance(value, Value) and value.shape:
        raise RuntimeError(
            f"fill_ only supports 0-dimension value tensor but got tensor with {len(value.shape)} dimensions."
        )
    return broadcast_to(cast(value, input.dtype), input.shape, input.sharding)


@op(
    name="ZeroBackward0",
    input=lambda g, like: like.zeros(),
    inplace="only",
    fresh=True,
    fills=lambda self: (None, 0),
    samples=lambda: [real(2, 3)],
)
def zero(input: Value) -> Value:
    """Zeros in the shape and dtype of `input`."""
    return broadcast_to(constant(0, input.dtype), input.shape, input.sharding)


def _reciprocal_times(self: Tensor, other: Any) -> Tensor:
    return other / self if isinstance(other, Tensor) else call("reciprocal", self) * other


operators(
    __add__=add, __radd__=add, __iadd__="add_",
    __sub__=sub, __rsub__=rsub, __isub__="sub_",
    __mul__=mul, __rmul__=mul, __imul__="mul_",
    __truediv__=div, __rtruediv__=_reciprocal_times, __itruediv__="div_",
    __pow__=pow, __rpow__=lambda self, other: pow(other, self), __ipow__="pow_",
)  # fmt: skip


def _positive(self: Tensor) -> Tensor:
    """The tensor itself."""
    if self._avals.dtype == BOOL:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return self


attach(__neg__=neg, __pos__=_positive, __div__=Tensor.__truediv__, __rdiv__=_reciprocal_times)
attach(__idiv__=Tensor.__itruediv__)  # type: ignore[attr-defined]
subtract, multiply, divide, true_divide, negative = sub, mul, div, div, neg
