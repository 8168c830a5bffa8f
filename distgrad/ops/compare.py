"""Comparisons, logic and choice: eq, lt, logical_and, bitwise_or, isnan, isclose, equal, where."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL, get_default_dtype
from distgrad.ops.base import (
    Operand,
    Tensor,
    Value,
    attach,
    call,
    cast,
    common_dtype,
    composite,
    constant,
    elementwise,
    op,
    operators,
    reduce,
)
from distgrad.ops.helpers import title
from distgrad.ops.pointwise import abs, refuse
from distgrad.ops.samples import flags, real, whole


def _numbers() -> list[Any]:
    return [(real(2, 3), real(3, seed=1)), (real(4), 0.5), (whole(2, 3), whole(2, 3, seed=1)), (whole(4), 2)]


def is_tensor(x: Any) -> bool:
    """Whether an argument is no number: torch numbers its nodes by that."""
    return isinstance(x, (Tensor, np.ndarray))


def _flat(title: str, by_kind: bool = True) -> dict[str, Any]:
    """For an op that gives bools: in place on floats its result is flat, and so has the gradient 0."""

    def name(input: Any, other: Any = None) -> str:
        return f"{title}Backward{int(by_kind and is_tensor(other))}"

    return {"name": name, "input": lambda g, like: like.zeros(), "inplace": True}


# Comparisons.
@op(**_flat("Eq"), samples=_numbers)
def eq(input: Value, other: Operand) -> Value:
    """input == other, element by element."""
    return elementwise("equal", input, other)


@op(**_flat("Ne"), method=("ne", "not_equal"), samples=_numbers)
def ne(input: Value, other: Operand) -> Value:
    """input != other, element by element."""
    return elementwise("not_equal", input, other)


@op(**_flat("Lt"), method=("lt", "less"), samples=_numbers)
def lt(input: Value, other: Operand) -> Value:
    """input < other, element by element."""
    return elementwise("less", input, other)


@op(**_flat("Le"), method=("le", "less_equal"), samples=_numbers)
def le(input: Value, other: Operand) -> Value:
    """input <= other, element by element."""
    return elementwise("less_equal", input, other)


@op(**_flat("Gt"), method=("gt", "greater"), samples=_numbers)
def gt(input: Value, other: Operand) -> Value:
    """input > other, element by element."""
    return elementwise("greater", input, other)


@op(**_flat("Ge"), method=("ge", "greater_equal"), samples=_numbers)
def ge(input: Value, other: Operand) -> Value:
    """input >= other, element by element."""
    return elementwise("greater_equal", input, other)


@op(samples=lambda: [real(2, 3), whole(3)])
def isnan(input: Value) -> Value:
    """Whether an element is nan."""
    return session.emit("isnan", input)


@op(samples=lambda: [real(2, 3), whole(3)])
def isinf(input: Value) -> Value:
    """Whether an element is inf or -inf."""
    return session.emit("isinf", input)


@op(samples=lambda: [real(2, 3), whole(3)])
def isfinite(input: Value) -> Value:
    """Whether an element is neither nan nor inf nor -inf."""
    return session.emit("isfinite", input)


# Logic. Numbers count as true where they are not 0.
def _logical(primitive: str, input: Value, other: Value) -> Value:
    if input.dtype != other.dtype:
        input, other = cast(input, BOOL), cast(other, BOOL)
    return session.emit(primitive, input, other)


def _truths() -> list[Any]:
    return [(flags(2, 3), flags(3, seed=1)), (whole(2, 3, high=2), flags(2, 3))]


@op(**_flat("LogicalAnd", False), samples=_truths)
def logical_and(input: Value, other: Value) -> Value:
    """Whether both elements are true."""
    return _logical("logical_and", input, other)


@op(**_flat("LogicalOr", False), samples=_truths)
def logical_or(input: Value, other: Value) -> Value:
    """Whether one element or both are true."""
    return _logical("logical_or", input, other)


@op(**_flat("LogicalXor", False), samples=_truths)
def logical_xor(input: Value, other: Value) -> Value:
    """Whether exactly one of the two elements is true."""
    return _logical("logical_xor", input, other)


@op(**_flat("LogicalNot", False), samples=lambda: [flags(2, 3), whole(3, high=2)])
def logical_not(input: Value) -> Value:
    """Whether an element is false."""
    return session.emit("logical_not", input)


# Bits: of integers; bools have one.
def _bitwise(name: str, input: Operand, other: Operand) -> Value:
    common = common_dtype(input, other)
    if common.kind == "f":
        raise NotImplementedError(f"\"{name}_cpu\" not implemented for '{title(common)}'")
    return elementwise(name, input, other)


def _bits() -> list[Any]:
    return [(whole(2, 3), whole(3, seed=1)), (whole(4), 3), (flags(2, 3), flags(3, seed=1)), (flags(3), True)]


@op(inplace=True, samples=_bits)
def bitwise_and(input: Operand, other: Operand) -> Value:
    """The bits that are set in both."""
    return _bitwise("bitwise_and", input, other)


@op(inplace=True, samples=_bits)
def bitwise_or(input: Operand, other: Operand) -> Value:
    """The bits that are set in one or both."""
    return _bitwise("bitwise_or", input, other)


@op(inplace=True, samples=_bits)
def bitwise_xor(input: Operand, other: Operand) -> Value:
    """The bits that are set in exactly one."""
    return _bitwise("bitwise_xor", input, other)


@op(inplace=True, samples=lambda: [whole(2, 3), flags(2, 3)])
def bitwise_not(input: Value) -> Value:
    """All bits reversed: -1 - input; for bools `logical_not`."""
    refuse(input, "f", "bitwise_not_cpu")
    if input.dtype == BOOL:
        return session.emit("logical_not", input)
    return session.emit("subtract", constant(-1, input.dtype), input)


# NumPy gives what torch does for shifts by as many bits as there are, or by less than none: 0, or the sign.
def _shifted(primitive: str, kernel: str, input: Operand, other: Operand) -> Value:
    common = common_dtype(input, other)
    if common.kind != "i":
        raise NotImplementedError(f"\"{kernel}\" not implemented for '{title(common)}'")
    return elementwise(primitive, input, other)


def _shifts() -> list[Any]:
    return [(whole(2, 3), whole(3, seed=1)), (whole(2, 3), whole(2, 3, low=60, high=66)), (whole(4), 3)]


@op(inplace=True, samples=_shifts)
def bitwise_left_shift(input: Operand, other: Operand) -> Value:
    """The bits moved up by `other` places: input * 2**other."""
    return _shifted("left_shift", "lshift_cpu", input, other)


@op(inplace=True, samples=_shifts)
def bitwise_right_shift(input: Operand, other: Operand) -> Value:
    """The bits moved down by `other` places: input // 2**other."""
    return _shifted("right_shift", "rshift_cpu", input, other)


def _invert(self: Tensor) -> Tensor:
    """All bits reversed."""
    if self.is_floating_point():
        raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
    return bitwise_not(self)


# Choice.
@op(
    name="WhereBackward0",
    input=lambda g, condition: _where(condition, g, 0.0),
    other=lambda g, condition: _where(condition, 0.0, g),
    method=False,
    samples=lambda: [
        (flags(2, 3), real(2, 3), real(3)),
        (flags(3, 1), 0.5, real(2)),
        (flags(3), real(2, 1), 0.5),
    ],
)
def _where(condition: Value, input: Operand, other: Operand) -> Value:
    if condition.dtype != BOOL:
        raise RuntimeError(
            f"where expected condition to be a boolean tensor, but got a tensor with dtype {title(condition.dtype)}"
        )
    common = common_dtype(input, other)
    return session.emit("where", condition, cast(input, common), cast(other, common))


@composite(method=False, samples=lambda: [(flags(2, 3), real(2, 3), real(3)), (flags(3), real(3), 0.5)])
def where(condition: Any, input: Any = None, other: Any = None, *, self: Any = None) -> Any:
    """`input` where `condition`, else `other`. With the condition alone: the indices of its true elements.

    A number may be given as `self` instead of `input`.
    """
    if isinstance(self, (builtins.bool, int, float)) and input is None:
        input = self
    if input is None and other is None:
        return call("nonzero", condition, as_tuple=True)
    if not isinstance(condition, Tensor) or input is None or other is None:
        kinds = ", ".join(type(x).__name__ for x in (condition, input, other) if x is not None)
        raise TypeError(f"where() received an invalid combination of arguments - got ({kinds})")
    return _where(condition, input, other)


def _where_method(self: Tensor, condition: Tensor, other: Any = None) -> Tensor:
    """The tensor's own elements where `condition`, else those of `other`."""
    found: Tensor = where(condition, self, other)
    return found


# Sameness.
def _tensors(name: str, input: Any, other: Any) -> None:
    for position, (argument, x) in enumerate((("input", input), ("other", other)), 1):
        if not isinstance(x, Tensor):
            kind = type(x).__name__
            raise TypeError(
                f"{name}(): argument '{argument}' (position {position}) must be Tensor, not {kind}"
            )


@composite(samples=lambda: [(real(2, 3), real(2, 3)), (real(2, 3), real(2, 3, seed=1)), (whole(3), whole(3))])
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Tensor:
    """Whether |input - other| <= atol + rtol * |other|; infinities are close to themselves, nan if `equal_nan`."""
    _tensors("isclose", input, other)
    if input.dtype is not other.dtype:
        raise RuntimeError(f"{input.dtype.title} did not match {other.dtype.title}")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if tolerance < 0:
            raise RuntimeError(f"{name} must be greater than or equal to zero, but got {tolerance:g}")
    input, other = input.detach(), other.detach()
    close = eq(input, other)
    if equal_nan and input.is_floating_point():
        close = logical_or(close, logical_and(isnan(input), isnan(other)))
    if rtol == 0 and atol == 0:
        return close
    if not input.is_floating_point():
        input, other = (call("to", x, get_default_dtype()) for x in (input, other))
    apart = abs(input - other)
    near = le(apart, abs(other * rtol) + atol)
    return logical_or(close, logical_and(isfinite(apart), near))


def _all(flags: Tensor) -> builtins.bool:
    return builtins.bool(session.fetch(reduce("all", flags._value, None)))


@composite(samples=lambda: [(real(2, 3), real(2, 3)), (real(2, 3), real(2, 3, seed=1))])
def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> builtins.bool:
    """Whether all elements are close, see `isclose`. Waits for the result."""
    _tensors("allclose", input, other)
    return _all(isclose(input, other, rtol, atol, equal_nan))


@composite(samples=lambda: [(real(2, 3), real(2, 3)), (real(2, 3), real(6))])
def equal(input: Tensor, other: Tensor) -> builtins.bool:
    """Whether shapes and all elements are the same. Waits for the result."""
    _tensors("equal", input, other)
    return input.shape == other.shape and _all(eq(input, other))


attach(where=_where_method, __invert__=_invert)
operators(
    __eq__=eq, __ne__=ne, __lt__=lt, __le__=le, __gt__=gt, __ge__=ge,
    __and__=bitwise_and, __rand__=bitwise_and, __iand__="bitwise_and_",
    __or__=bitwise_or, __ror__=bitwise_or, __ior__="bitwise_or_",
    __xor__=bitwise_xor, __rxor__=bitwise_xor, __ixor__="bitwise_xor_",
    __lshift__=bitwise_left_shift, __rlshift__=lambda self, other: bitwise_left_shift(other, self),
    __rshift__=bitwise_right_shift, __rrshift__=lambda self, other: bitwise_right_shift(other, self),
    __ilshift__="bitwise_left_shift_", __irshift__="bitwise_right_shift_",
)  # fmt: skip
not_equal, less, less_equal, greater, greater_equal = ne, lt, le, gt, ge

__all__ = [
    "allclose",
    "bitwise_and",
    "bitwise_left_shift",
    "bitwise_not",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "eq",
    "equal",
    "ge",
    "greater",
    "greater_equal",
    "gt",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "le",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "lt",
    "ne",
    "not_equal",
    "where",
]
