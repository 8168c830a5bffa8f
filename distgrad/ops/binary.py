"""Functions of two or three tensors, element by element: maximum, clamp, remainder, atan2, hypot, addcmul."""

from __future__ import annotations

import math
from typing import Any

from distgrad import session
from distgrad.dtype import NAMES
from distgrad.ops.arithmetic import div
from distgrad.ops.base import (
    Operand,
    Tensor,
    Value,
    call,
    cast,
    common_dtype,
    constant,
    elementwise,
    op,
    operators,
)
from distgrad.ops.compare import is_tensor, where
from distgrad.ops.helpers import title
from distgrad.ops.pointwise import refuse
from distgrad.ops.samples import positive, real, whole
from distgrad.tensor import C_NAMES

NO_INTEGER_ADDCDIV = (
    "Integer division with addcdiv is no longer supported, and in a future  release addcdiv will perform a true "
    "division of tensor1 and tensor2. The historic addcdiv behavior can be implemented as (input + value * "
    "torch.trunc(tensor1 / tensor2)).to(input.dtype) for integer inputs and as (input + value * tensor1 / tensor2) for "
    "float inputs. The future addcdiv behavior is just the latter implementation: (input + value * tensor1 / tensor2), "
    "for all dtypes."
)


def _given(*operands: Any) -> Any:
    return [x for x in operands if x is not None]


def _pairs() -> list[Any]:
    """Without ties."""
    return [(real(2, 3), real(2, 3, low=-1.9, seed=1)), (real(2, 3), real(3, low=-1.8))]


# The larger and the smaller. Where both are equal, each gets half of the gradient.
def _share(g: Tensor, one: Tensor, other: Tensor, lost: Tensor) -> Tensor:
    return where(one == other, g / 2, where(lost, 0.0, g))


@op(
    input=lambda g, input, other: _share(g, input, other, input < other),
    other=lambda g, input, other: _share(g, other, input, other < input),
    samples=_pairs,
)
def maximum(input: Value, other: Value) -> Value:
    """The larger of the two elements; nan if one is nan."""
    return elementwise("maximum", input, other)


@op(
    input=lambda g, input, other: _share(g, input, other, input > other),
    other=lambda g, input, other: _share(g, other, input, other > input),
    samples=_pairs,
)
def minimum(input: Value, other: Value) -> Value:
    """The smaller of the two elements; nan if one is nan."""
    return elementwise("minimum", input, other)


# Clamping. At a bound the gradient is that of the input.
def _clamped(kernel: str, input: Value, *bounds: tuple[str, Any]) -> Value:
    bounds = tuple(b for b in bounds if b[1] is not None)
    common = common_dtype(input, *(b for _, b in bounds))
    if common.kind == "b" and (len(bounds) == 2 or not isinstance(bounds[0][1], Value)):
        raise NotImplementedError(f"\"{kernel}\" not implemented for 'Bool'")
    out = cast(input, common)
    for primitive, bound in bounds:
        out = session.emit(primitive, out, cast(bound, common))
    return out


def _clamp_input(g: Tensor, input: Tensor, min: Any, max: Any) -> Tensor:
    inside = _given(None if min is None else input >= min, None if max is None else input <= max)
    return where(inside[0] & inside[-1] if len(inside) == 2 else inside[0], g, 0.0)


def _clamp_min(g: Tensor, input: Tensor, min: Tensor, max: Any) -> Tensor:
    return where(input < min if max is None else (min < max) & (input < min), g, 0.0)


def _clamp_max(g: Tensor, input: Tensor, min: Any, max: Tensor) -> Tensor:
    return where(input > max if min is None else (max < min) | (input > max), g, 0.0)


@op(
    name=lambda input, min, max: "ClampBackward0" if is_tensor(min) or is_tensor(max) else "ClampBackward1",
    input=_clamp_input,
    min=_clamp_min,
    max=_clamp_max,
    number_edges=False,
    inplace=True,
    method=("clamp", "clip"),
    samples=lambda: [
        (real(2, 3), -0.5, 0.8),
        (real(2, 3), {"min": 0.1}),
        (real(2, 3), {"max": 0.1}),
        (real(2, 3), real(3, low=-1.5, high=0), real(2, 3, low=-0.5, high=1.5, seed=1)),
        (real(2, 3), None, real(3, low=-1.0, high=1.0)),
    ],
)
def clamp(input: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    """`input`, but `min` where it is below that and `max` where it is above; numbers or tensors."""
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    if min is not None and max is not None and isinstance(min, Value) != isinstance(max, Value):
        kinds = ("Tensor" if isinstance(x, Value) else type(x).__name__ for x in (input, min, max))
        raise TypeError(f"clamp() received an invalid combination of arguments - got ({', '.join(kinds)})")
    kernel = f"clamp_{'max_' if min is None else 'min_' if max is None else ''}scalar_cpu"
    kernel = "clamp_cpu" if isinstance(min, Value) and isinstance(max, Value) else kernel
    return _clamped(kernel, input, ("maximum", min), ("minimum", max))


@op(
    name=lambda input, min: f"ClampMinBackward{int(is_tensor(min))}",
    input=lambda g, input, min: _clamp_input(g, input, min, None),
    min=lambda g, input, min: _clamp_min(g, input, min, None),
    number_edges=False,
    inplace=True,
    samples=lambda: [(real(2, 3), 0.1), (real(2, 3), real(3, low=-1.0, high=1.0))],
)
def clamp_min(input: Value, min: Operand) -> Value:
    """`input`, but `min` where it is below that."""
    return _clamped("clamp_min_scalar_cpu", input, ("maximum", min))


@op(
    name=lambda input, max: f"ClampMaxBackward{int(is_tensor(max))}",
    input=lambda g, input, max: _clamp_input(g, input, None, max),
    max=lambda g, input, max: _clamp_max(g, input, None, max),
    number_edges=False,
    inplace=True,
    samples=lambda: [(real(2, 3), 0.1), (real(2, 3), real(3, low=-1.0, high=1.0))],
)
def clamp_max(input: Value, max: Operand) -> Value:
    """`input`, but `max` where it is above that."""
    return _clamped("clamp_max_scalar_cpu", input, ("minimum", max))


# Division with remainder.
def _divided(primitive: str, kernel: str, input: Operand, other: Operand) -> Value:
    if common_dtype(input, other).kind == "b":
        raise NotImplementedError(f"\"{kernel}\" not implemented for 'Bool'")
    return elementwise(primitive, input, other)


def _divisions() -> list[Any]:
    return [(real(2, 3), positive(2, 3)), (real(2, 3), 0.7), (real(2, 3), positive(3, seed=1))]


def _refused(name: str) -> Any:
    raise RuntimeError(f"derivative for aten::{name} is not implemented")


@op(
    name=lambda input, other: f"RemainderBackward{int(is_tensor(other))}",
    input=lambda g: g,
    other=lambda g, input, other: -g * div(input, other, rounding_mode="floor"),
    number_edges=False,
    inplace=True,
    samples=_divisions,
)
def remainder(input: Operand, other: Operand) -> Value:
    """What division rounded down leaves, as Python's %: it has the sign of `other`."""
    return _divided("remainder", "remainder_cpu", input, other)


@op(
    name=lambda input, other: f"FmodBackward{int(is_tensor(other))}",
    input=lambda g: g,
    other=lambda g, input, other: -g * div(input, other, rounding_mode="trunc"),
    number_edges=False,
    inplace=True,
    samples=_divisions,
)
def fmod(input: Value, other: Operand) -> Value:
    """What division rounded towards 0 leaves, as C's fmod: it has the sign of `input`."""
    return _divided("fmod", "fmod_cpu", input, other)


@op(
    name="NotImplemented",
    input=lambda g: _refused("floor_divide"),
    other=lambda g: _refused("floor_divide"),
    number_edges=False,
    inplace=True,
    samples=lambda: [(whole(2, 3), whole(3, low=1)), (whole(4), 2)],
)
def floor_divide(input: Operand, other: Operand) -> Value:
    """The quotient rounded down. As in torch it has no derivative; see `div` with `rounding_mode="floor"`."""
    return _divided("floor_divide", "div_floor_cpu", input, other)


def _over_square(a: Tensor, b: Tensor) -> Tensor:
    """a / (a² + b²), and 0 at the origin; no square overflows, for both are taken in units of the larger."""
    unit = maximum(call("abs", a), call("abs", b)).detach()
    unit = where(call("isfinite", 1 / unit) & call("isfinite", unit), unit, 1.0)
    a, b = a / unit, b / unit
    total = a * a + b * b
    return a / where(total == 0, math.inf, total) / unit


@op(
    input=lambda g, input, other: g * _over_square(other, input),
    other=lambda g, input, other: g * -_over_square(input, other),
    inplace=True,
    method=("atan2", "arctan2"),
    samples=_pairs,
)
def atan2(input: Value, other: Value) -> Value:
    """The angle from -π to π of the point with height `input` and width `other`."""
    return elementwise("arctan2", input, other, floating=True)


@op(
    input=lambda g, input, out: g * (input / where(out == 0, math.inf, out)),
    other=lambda g, other, out: g * (other / where(out == 0, math.inf, out)),
    inplace=True,
    samples=_pairs,
)
def hypot(input: Value, other: Value) -> Value:
    """√(input² + other²), without overflow on the way. At the origin, where it has no derivative, the gradient is 0."""
    refuse(common_dtype(input, other), "bi", "hypot_cpu")
    return elementwise("hypot", input, other)


# Sums of products.
def _lerp_operand(name: str, x: Value, input: Value) -> None:
    if x.dtype != input.dtype:
        kinds = [C_NAMES[NAMES[v.dtype]] for v in (input, x)]
        raise RuntimeError(f"expected dtype {kinds[0]} for `{name}` but got dtype {kinds[1]}")


@op(
    name=lambda input, end, weight: f"LerpBackward{int(is_tensor(weight))}",
    input=lambda g, weight: g * (1 - weight),
    end=lambda g, weight: g * weight,
    weight=lambda g, input, end: g * (end - input),
    number_edges=False,
    inplace=True,
    samples=lambda: [
        (real(2, 3), real(3, seed=1), 0.3),
        (real(2, 3), real(2, 3, seed=1), real(3, low=-0.3, high=1.3)),
    ],
)
def lerp(input: Value, end: Value, weight: Operand) -> Value:
    """input + weight * (end - input), exactly `end` for the weight 1."""
    _lerp_operand("end", end, input)
    if input.dtype.kind != "f":
        kernel = "lerp_kernel_tensor" if isinstance(weight, Value) else "lerp_kernel_scalar"
        raise NotImplementedError(f"\"{kernel}\" not implemented for '{title(input.dtype)}'")
    if isinstance(weight, Value):
        weight = weight if weight.shape else cast(weight, input.dtype)
        _lerp_operand("weight", weight, input)
        low = session.emit("less", weight, constant(0.5, input.dtype))
        return session.emit("where", low, _from_input(input, end, weight), _from_end(input, end, weight))
    return (_from_input if weight < 0.5 else _from_end)(input, end, constant(weight, input.dtype))


def _from_input(input: Value, end: Value, weight: Value) -> Value:
    return session.emit("add", input, session.emit("multiply", weight, session.emit("subtract", end, input)))


def _from_end(input: Value, end: Value, weight: Value) -> Value:
    rest = session.emit("subtract", constant(1, input.dtype), weight)
    return session.emit("subtract", end, session.emit("multiply", session.emit("subtract", end, input), rest))


def _three() -> list[Any]:
    return [
        (real(2, 3), real(3, seed=1), positive(2, 1)),
        (real(2, 3), real(2, 3, seed=1), positive(2, 3), {"value": -0.5}),
    ]


@op(
    input=lambda g: g,
    tensor1=lambda g, tensor2, value: g * (tensor2 * value),
    tensor2=lambda g, tensor1, value: g * (tensor1 * value),
    inplace=True,
    samples=_three,
)
def addcmul(input: Value, tensor1: Value, tensor2: Value, *, value: float = 1) -> Value:
    """input + value * tensor1 * tensor2."""
    common = common_dtype(input, tensor1, tensor2)
    if common.kind == "b":
        raise NotImplementedError("\"addcmul_cpu_out\" not implemented for 'Bool'")
    scaled = session.emit("multiply", constant(value, common), cast(tensor1, common))
    return elementwise("add", cast(input, common), session.emit("multiply", scaled, cast(tensor2, common)))


@op(
    input=lambda g: g,
    tensor1=lambda g, tensor2, value: g * (value / tensor2),
    tensor2=lambda g, tensor1, tensor2, value: -g * (value * tensor1 / (tensor2 * tensor2)),
    inplace=True,
    samples=_three,
)
def addcdiv(input: Value, tensor1: Value, tensor2: Value, *, value: float = 1) -> Value:
    """input + value * tensor1 / tensor2."""
    if tensor1.dtype.kind != "f" and tensor2.dtype.kind != "f":
        raise RuntimeError(NO_INTEGER_ADDCDIV)
    common = common_dtype(input, tensor1, tensor2)
    quotient = session.emit("divide", cast(tensor1, common), cast(tensor2, common))
    return elementwise(
        "add", cast(input, common), session.emit("multiply", constant(value, common), quotient)
    )


operators(
    __mod__=remainder, __rmod__=lambda self, other: remainder(other, self), __imod__="remainder_",
    __floordiv__=floor_divide, __rfloordiv__=lambda self, other: floor_divide(other, self),
    __ifloordiv__="floor_divide_",
)  # fmt: skip
clip, arctan2 = clamp, atan2

__all__ = [
    "addcdiv",
    "addcmul",
    "arctan2",
    "atan2",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clip",
    "floor_divide",
    "fmod",
    "hypot",
    "lerp",
    "maximum",
    "minimum",
    "remainder",
]
