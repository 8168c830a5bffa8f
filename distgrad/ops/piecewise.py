"""Activations put together from straight pieces: hardtanh, threshold, shrinking, leaky and parametric relu.

At a corner each has the slope that torch gives it. The slopes are ops of their own, whose derivative with respect to
`input` is 0 and not nothing: a program may differentiate twice, as in torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL
from distgrad.ops.base import Like, Tensor, Value, call, composite, constant, op
from distgrad.ops.compare import where
from distgrad.ops.helpers import title
from distgrad.ops.pointwise import refuse
from distgrad.ops.samples import positive, real


def _times(x: Value, number: float) -> Value:
    return session.emit("multiply", x, constant(number, x.dtype))


def _clip(x: Value, low: float, high: float) -> Value:
    """nan stays nan."""
    return session.emit(
        "minimum", session.emit("maximum", x, constant(low, x.dtype)), constant(high, x.dtype)
    )


def _compared(comparison: str, x: Value, number: float) -> Value:
    return session.emit(comparison, x, constant(number, x.dtype))


def _zeros(like: Like) -> Tensor:
    return like.zeros()


# Slopes.
@op(
    name="ThresholdBackwardBackward0",
    grad=lambda g, input, threshold: threshold_backward(g, input, threshold),
    input=_zeros,
    method=False,
    samples=lambda: [(real(2, 3), real(2, 3, seed=1), 0.5)],
)
def threshold_backward(grad: Value, input: Value, threshold: float) -> Value:
    """`grad` where `input` is above the threshold or nan, else 0."""
    return session.emit("where", _compared("less_equal", input, threshold), constant(0, grad.dtype), grad)


@op(
    name="LeakyReluBackwardBackward0",
    grad=lambda g, input, negative_slope: leaky_relu_backward(g, input, negative_slope),
    input=_zeros,
    method=False,
    samples=lambda: [(real(2, 3), real(2, 3, seed=1), 0.2)],
)
def leaky_relu_backward(grad: Value, input: Value, negative_slope: float) -> Value:
    """`grad`, times `negative_slope` where `input` is not above 0."""
    refuse(grad, "bi", "leaky_relu_backward_cpu")
    return session.emit("where", _compared("greater", input, 0), grad, _times(grad, negative_slope))


@op(
    name="HardtanhBackwardBackward0",
    grad=lambda g, input, min_val, max_val: hardtanh_backward(g, input, min_val, max_val),
    input=_zeros,
    method=False,
    samples=lambda: [(real(2, 3), real(2, 3, seed=1), -0.5, 1.5)],
)
def hardtanh_backward(grad: Value, input: Value, min_val: float, max_val: float) -> Value:
    """`grad` where `input` is between `min_val` and `max_val` or nan, else 0."""
    refuse(grad, "bi", "hardtanh_backward_cpu")
    outside = session.emit(
        "logical_or", _compared("less_equal", input, min_val), _compared("greater_equal", input, max_val)
    )
    return session.emit("where", outside, constant(0, grad.dtype), grad)


def _inside(input: Value, lambd: float) -> Value:
    return session.emit(
        "logical_and", _compared("greater_equal", input, -lambd), _compared("less_equal", input, lambd)
    )


@op(
    name="HardshrinkBackwardBackward0",
    grad=lambda g, input, lambd: hardshrink_backward(g, input, lambd),
    input=_zeros,
    method=False,
    samples=lambda: [(real(2, 3), real(2, 3, seed=1), 0.5)],
)
def hardshrink_backward(grad: Value, input: Value, lambd: float) -> Value:
    """`grad` where `input` is further than `lambd` from 0 or nan, else 0."""
    return session.emit("where", _inside(input, lambd), constant(0, grad.dtype), grad)


# Activations.
@op(
    input=lambda g, input, negative_slope: leaky_relu_backward(g, input, negative_slope),
    method="_leaky_relu",
    inplace="only",
    samples=lambda: [real(2, 3), (real(2, 3), 0.2)],
)
def leaky_relu(input: Value, negative_slope: float = 0.01) -> Value:
    """`input`, times `negative_slope` where it is below 0."""
    refuse(input, "bi", "leaky_relu_cpu")
    above = _compared("greater", input, 0)
    return session.emit("where", above, input, _times(input, negative_slope))


@op(
    input=lambda g, input, min_val, max_val: hardtanh_backward(g, input, min_val, max_val),
    method="_hardtanh",
    inplace="only",
    samples=lambda: [real(2, 3), (real(2, 3), -0.5, 1.5), real()],
)
def hardtanh(input: Value, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    """`input`, kept between `min_val` and `max_val`."""
    if input.dtype == BOOL:
        raise RuntimeError("Bool inputs not supported for hardtanh")
    return _clip(input, min_val, max_val)


@op(
    input=lambda g, input: where(input.isnan(), 0.0, hardtanh_backward(g / 6, input, -3.0, 3.0)),
    method="_hardsigmoid",
    inplace="only",
    samples=lambda: [real(2, 4, low=-5, high=5), real()],
)
def hardsigmoid(input: Value) -> Value:
    """input / 6 + 1/2, kept between 0 and 1 (Howard et al. 2019)."""
    refuse(input, "bi", "hardsigmoid_cpu")
    return _times(_clip(session.emit("add", input, constant(3, input.dtype)), 0, 6), 1 / 6)


@op(
    input=lambda g, input: where(input <= -3, 0.0, where(input < 3, g * (input / 3 + 0.5), g)),
    method="_hardswish",
    inplace="only",
    samples=lambda: [real(2, 4, low=-5, high=5), real()],
)
def hardswish(input: Value) -> Value:
    """input * hardsigmoid(input)."""
    refuse(input, "bi", "hardswish_cpu")
    part = _clip(session.emit("add", input, constant(3, input.dtype)), 0, 6)
    return _times(session.emit("multiply", input, part), 1 / 6)


def _shrinking() -> list[Any]:
    return [real(2, 3), (real(2, 3), 1.1), real()]


@op(input=lambda g, input, lambd: hardshrink_backward(g, input, lambd), samples=_shrinking)
def hardshrink(input: Value, lambd: float = 0.5) -> Value:
    """`input` where it is further than `lambd` from 0, else 0."""
    refuse(input, "bi", "hardshrink_cpu")
    return session.emit("where", _inside(input, lambd), constant(0, input.dtype), input)


@op(input=lambda g, input, lambd: hardshrink_backward(g, input, lambd), method=False, samples=_shrinking)
def softshrink(input: Value, lambd: float = 0.5) -> Value:
    """`input` moved towards 0 by `lambd`, and 0 where it is nearer: input - clip(input, -lambd, lambd)."""
    refuse(input, "bi", "softshrink_check")
    highest = float(np.finfo(input.dtype).max)
    if not 0 <= lambd <= highest:
        raise RuntimeError(
            f"lambda must be in range [0, {highest:g}] for input dtype {title(input.dtype)}, but found {lambd:g}"
        )
    return session.emit("subtract", input, _clip(input, -lambd, lambd))


@op(
    input=lambda g, input, threshold: threshold_backward(g, input, threshold),
    method="_threshold",
    inplace="only",
    samples=lambda: [(real(2, 3), 0.5, -3.0), (real(), -0.2, 0.1)],
)
def threshold(input: Value, threshold: float, value: float) -> Value:
    """`input` where it is above the threshold, else `value`."""
    refuse(input, "b", "threshold_cpu")
    below = _compared("less_equal", input, threshold)
    return session.emit("where", below, constant(value, input.dtype), input)


# Slopes that are learnt, or drawn.
@op(
    input=lambda g, input, weight: where(input > 0, g, weight * g),
    weight=lambda g, input: where(input > 0, 0.0, input * g),
    method=False,
    samples=lambda: [(real(2, 3), positive(3)), (real(2, 3), positive(1, 1))],
)
def _prelu_kernel(input: Value, weight: Value) -> Value:
    """`input`, times `weight` where it is below 0; `weight` broadcasts to it."""
    return session.emit(
        "where", _compared("greater", input, 0), input, session.emit("multiply", weight, input)
    )


def _check_prelu(input: Tensor, weight: Tensor) -> None:
    if input.dtype != weight.dtype:
        kinds = " and ".join(x.dtype.title for x in (input, weight))
        raise RuntimeError(f"prelu: Type promoting not supported. Got {kinds}")
    refuse(input._value, "bi", "prelu_cpu")
    if (count := weight.numel()) != 1:
        if not input.dim():
            raise RuntimeError("Not allow zero-dim input tensor.")
        channels = input.shape[1] if input.dim() > 1 else 1
        if channels != count:
            raise RuntimeError(
                "Mismatch of parameter numbers and input channel size. Found parameter numbers = "
                f"{count} and channel size = {channels}."
            )
    if weight.dim() > 1:
        raise RuntimeError(
            f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight.dim()}"
        )


@composite(samples=lambda: [(real(2, 3), positive(3)), (real(2, 3, 2), positive(3)), (real(3), positive(1))])
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """`input`, times `weight` where it is below 0: one weight, or one for each of the channels (dimension 1)."""
    _check_prelu(input, weight)
    ndim = input.dim()
    if weight.numel() == 1:
        shape = (1,) * ndim
    else:
        shape = (1, -1, *(1,) * (ndim - 2)) if ndim > 1 else (-1,)
    weight = weight if weight.dim() == ndim == 1 else call("reshape", weight, shape)
    return call("_prelu_kernel", input, weight)


@op(
    name="RreluWithNoiseBackward0",
    input=lambda g, noise: g * noise,
    noise=lambda g, input: g * input,
    method="_rrelu",
    inplace="only",
    samples=lambda: [(real(2, 3), positive(2, 3))],
)
def rrelu_with_noise(input: Value, noise: Value) -> Value:
    """input * noise, where `noise` is 1 wherever `input` is above 0."""
    return session.emit("multiply", input, noise)


__all__ = ["hardshrink", "prelu", "threshold"]  # those of the main namespace
