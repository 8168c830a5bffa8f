"""Losses of regression, and the soft margin: each element has an error, and of these the sum or mean is taken."""

from __future__ import annotations

from typing import Any

from distgrad import session
from distgrad.ops.base import Tensor, Value, common_dtype, constant, elementwise, op
from distgrad.ops.binary import clamp
from distgrad.ops.losses import MEAN, NONE, SUM, reduced, share
from distgrad.ops.pointwise import refuse
from distgrad.ops.samples import real
from distgrad.ops.special import sigmoid
from distgrad.primitives.elementwise import broadcast_shape


def _mse_slope(g: Tensor, input: Tensor, target: Tensor, reduction: str) -> Tensor:
    shape = broadcast_shape(input.shape, target.shape)
    return (input - target) * (2 * share(g, reduction, shape))


def _pairs() -> list[Any]:
    return [(real(2, 3), real(2, 3, seed=1), kind) for kind in (NONE, MEAN, SUM)]


@op(
    input=_mse_slope,
    target=lambda g, input, target, reduction: _mse_slope(g, target, input, reduction),
    method=False,
    samples=lambda: [*_pairs(), (real(2, 3), real(3), MEAN)],
)
def mse_loss(input: Value, target: Value, reduction: str = MEAN) -> Value:
    """(input - target)**2, and of that the sum or mean."""
    if common_dtype(input, target).kind != "f":
        refuse(input, "bi", "mse_cpu")
    return reduced(session.emit("square", elementwise("subtract", input, target)), reduction)


# Huber's error of d is c (d - c / 2) with c = d clipped to ±delta: d²/2 near 0, straight further away. The smooth l1
# loss is the same, divided by delta, which is called beta there.
def _clipped(d: Value, delta: float) -> Value:
    low, high = constant(-delta, d.dtype), constant(delta, d.dtype)
    return session.emit("minimum", session.emit("maximum", d, low), high)


def _huber(kernel: str, input: Value, target: Value, reduction: str, delta: float) -> Value:
    if common_dtype(input, target).kind != "f":
        refuse(input, "bi", kernel)
    d = elementwise("subtract", input, target)
    c = _clipped(d, delta)
    half = session.emit("multiply", c, constant(0.5, d.dtype))
    return session.emit("multiply", c, session.emit("subtract", d, half))


def _huber_slope(g: Tensor, input: Tensor, target: Tensor, reduction: str, delta: float) -> Tensor:
    shape = broadcast_shape(input.shape, target.shape)
    return clamp(input - target, -delta, delta) * share(g, reduction, shape)


@op(
    input=_huber_slope,
    target=lambda g, input, target, reduction, delta: _huber_slope(g, target, input, reduction, delta),
    method=False,
    samples=lambda: [*_pairs(), (real(2, 3), real(3), MEAN, 0.7)],
)
def huber_loss(input: Value, target: Value, reduction: str = MEAN, delta: float = 1.0) -> Value:
    """d²/2 for d = |input - target| up to `delta`, delta * (d - delta / 2) above, and of that the sum or mean."""
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    return reduced(_huber("huber_cpu", input, target, reduction, delta), reduction)


@op(
    name="SmoothL1LossBackward0",
    input=lambda g, input, target, reduction, beta: _huber_slope(g / beta, input, target, reduction, beta),
    target=lambda g, input, target, reduction, beta: _huber_slope(g / beta, target, input, reduction, beta),
    method=False,
    samples=lambda: [*_pairs(), (real(2, 3), real(3), MEAN, 0.7)],
)
def smooth_l1_loss(input: Value, target: Value, reduction: str = MEAN, beta: float = 1.0) -> Value:
    """d²/(2 beta) for d = |input - target| up to `beta`, d - beta / 2 above, and of that the sum or mean."""
    if beta <= 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    errors = _huber("smooth_l1_cpu", input, target, reduction, beta)
    return reduced(
        errors if beta == 1 else session.emit("divide", errors, constant(beta, errors.dtype)), reduction
    )


def _margin_slope(g: Tensor, input: Tensor, target: Tensor, reduction: str) -> Tensor:
    shape = broadcast_shape(input.shape, target.shape)
    return -target * sigmoid(-target * input) * share(g, reduction, shape)


@op(
    input=_margin_slope,
    target=lambda g, input, target, reduction: _margin_slope(g, target, input, reduction),
    method=False,
    samples=lambda: [*_pairs(), (real(2, 3), real(3), MEAN)],
)
def soft_margin_loss(input: Value, target: Value, reduction: str = MEAN) -> Value:
    """log(1 + exp(-input * target)), exact however large, and of that the sum or mean."""
    product = elementwise("multiply", input, target)
    refuse(product, "bi", "log_sigmoid_cpu")
    return reduced(session.emit("negative", session.emit("log_sigmoid", product)), reduction)
