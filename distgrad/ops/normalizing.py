"""Normalisation to mean 0 and variance 1 along some dimensions: what batch, layer, group and instance norm share."""

from __future__ import annotations

import math
from typing import Any

from distgrad import session
from distgrad.dtype import FLOAT64, NAMES
from distgrad.graph import Value
from distgrad.ops.base import Ints, Tensor, call, cast, constant, op, reduce
from distgrad.ops.norms import _less_mean
from distgrad.ops.pointwise import refuse
from distgrad.ops.samples import positive, real
from distgrad.record import grad_mode

NOT_IMPLEMENTED = {  # torch's kernels, from the nodes' names
    "NativeBatchNormBackward0": "batch_norm",
    "NativeGroupNormBackward0": "GroupNormKernelImpl",
    "NativeLayerNormBackward0": "LayerNormKernelImpl",
}


def _count(shape: Any, dims: Ints) -> int:
    return math.prod(shape[d] for d in dims)


def _pieces(input: Tensor, dims: Ints, eps: float, out: Any) -> tuple[Tensor, Tensor]:
    """(x - mean, 1 / sqrt(variance + eps)): from what forward found, or recorded anew where that has to be derived."""
    _, mean, variance = out
    if grad_mode.enabled:
        centred = _less_mean(input, dims)
        total = call("sum", centred * centred, dims, True)
        variance = total / max(_count(input.shape, dims), 1)
    else:
        centred = input - mean
    return centred, call("rsqrt", variance + eps)


def _standardize_input(g: Tensor, input: Tensor, weight: Any, dims: Ints, eps: float, out: Any) -> Tensor:
    """r (h - mean(h) - x̂ mean(h x̂)), with h = g weight, x̂ the normalised elements and r = 1 / sqrt(variance + eps)."""
    centred, scale = _pieces(input, dims, eps, out)
    normal = centred * scale
    h = g if weight is None else g * weight
    n = max(_count(input.shape, dims), 1)
    common = call("sum", h, dims, True) / n
    along = call("sum", h * normal, dims, True) / n
    return scale * (h - common - normal * along)


def _standardize_weight(g: Tensor, input: Tensor, dims: Ints, eps: float, out: Any) -> Tensor:
    centred, scale = _pieces(input, dims, eps, out)
    return g * (centred * scale)


def _scaled(x: Value, weight: Value | None, bias: Value | None) -> Value:
    if weight is not None:
        x = session.emit("multiply", x, weight)
    return x if bias is None else session.emit("add", x, bias)


def _samples() -> list[Any]:
    title = "NativeBatchNormBackward0"
    return [
        (real(4, 3), real(1, 3, seed=1), real(1, 3, seed=2), (0,), 1e-5, title),
        (real(2, 3, 2), real(3, 2, seed=1), None, (1, 2), 0.1, title),
        (real(2, 3, 4), None, None, (2,), 1e-5, title),
    ]


@op(
    name=lambda input, weight, bias, dims, eps, title: title,
    input=_standardize_input,
    weight=_standardize_weight,
    bias=lambda g: g,
    method=False,
    samples=_samples,
)
def _standardize(
    input: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    dims: Any = (),
    eps: float = 1e-5,
    title: str = "NativeBatchNormBackward0",
) -> Any:
    """(input - mean) / sqrt(variance + eps) * weight + bias, the mean and the variance along `dims`.

    `weight` and `bias` broadcast against `input`. The variance is the mean of squared deviations. The mean is worked
    out in float64, as `var` does. Only the first result has a gradient.
    """
    refuse(input, "bi", NOT_IMPLEMENTED[title])
    n = constant(max(_count(input.shape, dims), 1), FLOAT64)
    total = reduce("sum", input, dims, True, dtype="float64")
    mean = cast(session.emit("divide", total, n), input.dtype)
    centred = session.emit("subtract", input, mean)
    squares = reduce("sum", session.emit("square", centred), dims, True, dtype=NAMES[input.dtype])
    variance = session.emit("divide", squares, cast(n, input.dtype))
    scale = session.emit("rsqrt", session.emit("add", variance, constant(eps, input.dtype)))
    return _scaled(session.emit("multiply", centred, scale), weight, bias), mean, variance


@op(
    name="NativeBatchNormBackward0",
    input=lambda g, weight, variance, eps: (
        g * (call("rsqrt", variance + eps) if weight is None else weight * call("rsqrt", variance + eps))
    ),
    weight=lambda g, input, mean, variance, eps: g * ((input - mean) * call("rsqrt", variance + eps)),
    bias=lambda g: g,
    method=False,
    samples=lambda: [
        (real(4, 3), real(1, 3, seed=1), positive(1, 3), real(1, 3, seed=2), real(1, 3, seed=3), 0.1),
        (real(4, 3), real(1, 3, seed=1), positive(1, 3)),
    ],
)
def _normalize_by(
    input: Value,
    mean: Value,
    variance: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
) -> Value:
    """(input - mean) / sqrt(variance + eps) * weight + bias, where mean and variance are given and have no gradient."""
    refuse(input, "bi", "batch_norm")
    scale = session.emit("rsqrt", session.emit("add", variance, constant(eps, variance.dtype)))
    if weight is not None:
        scale = session.emit("multiply", scale, weight)
    centred = session.emit("subtract", input, mean)
    return _scaled(session.emit("multiply", centred, scale), None, bias)
