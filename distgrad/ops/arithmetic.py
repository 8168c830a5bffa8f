"""Arithmetic of elements: add, sub, mul, div, neg, pow, and the in-place copy_, fill_ and zero_."""

from __future__ import annotations

from typing import Any

from distgrad import session
from distgrad.dtype import BOOL
from distgrad.ops.base import Like, Operand, Tensor, Value, cast, common_dtype, composite, constant, elementwise, op, operators
from distgrad.ops.samples import positive, real

NO_BOOL_SUB = (
    "Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to invert a mask, use the "
    "`~` or `logical_not()` operator instead."
)
NO_BOOL_SUBS = (
    "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or `logical_xor()` operator instead."
)
NO_BOOL_NEG = (
    "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to invert a mask, use the `~` or "
    "`logical_not()` operator instead."
)


def _pairs() -> list[Any]:
    return [(real(2, 3), real(2, 3, seed=1)), (real(2, 3), real(3, seed=1)), (real(4), 1.5), (real(2, 1), real(1, 3))]


def _divisions() -> list[Any]:
    return [(real(2, 3), positive(2, 3)), (real(3), positive(2, 3)), (real(4), 1.5)]


def _scaled(other: Operand, alpha: float, common: Any) -> Operand:
    """alpha * other, checked as torch checks alpha."""
    if isinstance(alpha, bool) and common != BOOL:
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    if isinstance(alpha, float) and common.kind != "f":
        raise RuntimeError("For integral input tensors, argument alpha must not be a floating point number.")
    if type(other) is not Value:
        return other * alpha
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
    bools = [x.dtype == BOOL if type(x) is Value else isinstance(x, bool) for x in (input, other)]
    if any(bools):
        raise RuntimeError(NO_BOOL_SUBS if all(bools) else NO_BOOL_SUB)


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
    if isinstance(other, Tensor):
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


@op(
    name="DivBackward0",
    input=lambda g, other: g / other,
    other=lambda g, input, other: -g * (input / other / other),
    samples=_divisions,
    method=False,
)
def _true_div(input: Operand, other: Operand) -> Value:
    return elementwise("divide", input, other, floating=True)


@op(
    name="DivBackward2",
    input=lambda g, like: like.zeros(),
    other=lambda g, like: like.zeros(),
    samples=lambda: [(real(2, 3), positive(2, 3), "trunc"), (real(2, 3), 0.7, "floor")],
    method=False,
)
def _rounded_div(input: Operand, other: Operand, rounding_mode: str) -> Value:
    common = common_dtype(input, other)
    if rounding_mode == "floor":
        return elementwise("floor_divide", input, other)
    if common.kind == "f":
        return session.emit("trunc", elementwise("divide", input, other))
    floor = elementwise("floor_divide", input, other)
    a, b = cast(input, common), cast(other, common)
    # The floor is one below the truncation where there is a remainder and the signs differ.
    exact = session.emit("equal", session.emit("multiply", floor, b), a)
    zero = constant(0, common)
    differ = session.emit("not_equal", session.emit("less", a, zero), session.emit("less", b, zero))
    step = session.emit("logical_and", session.emit("logical_not", exact), differ)
    return session.emit("add", floor, cast(step, common))


def _check_rounding(rounding_mode: str | None) -> None:
    if rounding_mode not in (None, "trunc", "floor"):
        raise RuntimeError(
            f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '{rounding_mode}'"
        )


@op(
    name=lambda input, other, rounding_mode: "DivBackward2" if rounding_mode else "DivBackward0",
    input=lambda g, other, rounding_mode, like: like.zeros() if rounding_mode else g / other,
    other=lambda g, input, other, rounding_mode, like: like.zeros() if rounding_mode else -g * (input / other / other),
    inplace=True,
    method=("div", "divide"),
    samples=lambda: [*_divisions(), (real(2, 3), positive(2, 3), {"rounding_mode": "floor"}), (real(3), 0.7, {"rounding_mode": "trunc"})],
)
def div(input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Value:
    """input / other; with `rounding_mode` "floor" or "trunc" rounded to whole numbers, integers staying integers."""
    if rounding_mode is None:
        return elementwise("divide", input, other, floating=True)
    _check_rounding(rounding_mode)
    return elementwise("floor_divide", input, other)
