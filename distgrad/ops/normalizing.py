"""Normalisation to mean 0 and variance 1 along some dimensions: what batch, layer, group and instance norm share."""

from __future__ import annotations

import math
from typing import Any

from distgrad import session
from distgrad.dtype import FLOAT64, NAMES
from distgrad.graph import Value
from distgrad.ops.base import Ints, Like, Tensor, broadcast_to, call, cast, constant, op, reduce
from distgrad.ops.norms import _less_mean
from distgrad.ops.pointwise import refuse
from distgrad.ops.samples import positive, real
from distgrad.record import grad_mode

NOT_IMPLEMENTED = {  # torch's kernels, from the nodes' names
    "NativeBatchNormBackward0": "batch_norm",
    "NativeGroupNormBackward0": "GroupNormKernelImpl",
    "NativeLayerNormBackward0": "LayerNormKernelImpl",
    "MulBackward0": "rms_norm",
}


def _count(shape: Any, dims: Ints) -> int:
    return math.prod(shape[d] for d in dims)


def _pieces(input: Tensor, dims: Ints, eps: float, centre: bool, out: Any) -> tuple[Tensor, Tensor]:
    """(x - mean, 1 / sqrt(variance + eps)): from what forward found, or recorded anew where that has to be derived."""
    _, mean, variance = out
    if grad_mode.enabled:
        centred = _less_mean(input, dims) if centre else input
        total = call("sum", centred * centred, dims, True)
        variance = total / max(_count(input.shape, dims), 1)
    else:
        centred = input - mean if centre else input
    return centred, call("rsqrt", variance + eps)


def _standardize_input(
    g: Tensor, input: Tensor, weight: Any, dims: Ints, eps: float, centre: bool, out: Any
) -> Tensor:
    """r (h - mean(h) - x̂ mean(h x̂)), with h = g weight, x̂ the normalised elements and r = 1 / sqrt(variance + eps)."""
    if not grad_mode.enabled and _at_once(input._avals, dims):
        made: Tensor = _back(g, input, out[1], out[2], weight, dims, eps, centre)
        return made
    centred, scale = _pieces(input, dims, eps, centre, out)
    normal = centred * scale
    h = g if weight is None else g * weight
    n = max(_count(input.shape, dims), 1)
    along = call("sum", h * normal, dims, True) / n
    if not centre:
        return scale * (h - normal * along)
    return scale * (h - call("sum", h, dims, True) / n - normal * along)


def _standardize_weight(
    g: Tensor, input: Tensor, dims: Ints, eps: float, centre: bool, out: Any, like: Like
) -> Tensor:
    if not grad_mode.enabled and _at_once(input._avals, dims):
        made: Tensor = _sums(g, input, out[1], out[2], like.shape, eps, centre)
        return made
    centred, scale = _pieces(input, dims, eps, centre, out)
    return g * (centred * scale)


def _at_once(x: Value, dims: Ints) -> bool:
    """Whether one kernel does it, for which the calls of a dozen others are most of the time.

    Of what is larger each of those runs on a tile in the cache, and can be run again under a memory budget. Where mean
    and variance are of several shards, sums have to meet.
    """
    small = x.result.spec.nbytes <= session.inline_bytes()
    return small and not set(dims).intersection(x.sharding.cut_dims)


def _opened(p: Value, x: Value) -> Value:
    """A weight or bias with as many dimensions as x."""
    missing = len(x.shape) - len(p.shape)
    return session.emit("expand_dims", p, dims=tuple(range(missing))) if missing else p


@op(method=False, listed=False)
def _back(
    g: Value,
    x: Value,
    mean: Value,
    variance: Value,
    weight: Value | None = None,
    dims: Any = (),
    eps: float = 1e-5,
    centre: bool = True,
) -> Value:
    """The gradient of x, as one kernel."""
    affine = [] if weight is None else [_opened(weight, x)]
    return session.emit("standardize_input", g, x, mean, variance, *affine, dims=dims, eps=eps, centre=centre)


@op(method=False, listed=False)
def _sums(g: Value, x: Value, mean: Value, variance: Value, shape: Any, eps: float, centre: bool) -> Value:
    """The gradient of a weight of this shape."""
    missing = len(x.shape) - len(shape)
    summed = (*range(missing), *(d + missing for d, n in enumerate(shape) if n != x.shape[d + missing]))
    made = session.emit("standardize_weight", g, x, mean, variance, summed=summed, eps=eps, centre=centre)
    return session.emit("squeeze_dims", made, dims=tuple(range(missing))) if missing else made


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
        (real(3, 4), real(4, seed=1), None, (1,), 1e-5, title, False),
    ]


@op(
    name=lambda input, weight, bias, dims, eps, title, centre: title,
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
    centre: bool = True,
) -> Any:
    """(input - mean) / sqrt(variance + eps) * weight + bias, the mean and the variance along `dims`.

    `weight` and `bias` broadcast against `input`. The variance is the mean of squared deviations. The mean is worked
    out in float64, as `var` does; without `centre` it is 0. Only the first result has a gradient.
    """
    refuse(input, "bi", NOT_IMPLEMENTED[title])
    if _at_once(input, dims):
        affine = [] if weight is None else [weight] if bias is None else [weight, bias]
        affine = [_opened(p, input) for p in affine]
        made, mean, variance = session.emit_all(
            "standardize", input, *affine, dims=dims, eps=eps, centre=centre
        )
        return (made if affine else _scaled(made, None, bias)), mean, variance
    n = constant(max(_count(input.shape, dims), 1), FLOAT64)
    if centre:
        total = reduce("sum", input, dims, True, dtype="float64")
        mean = cast(session.emit("divide", total, n), input.dtype)
    centred = session.emit("subtract", input, mean) if centre else input
    squares = reduce("sum", session.emit("square", centred), dims, True, dtype=NAMES[input.dtype])
    variance = session.emit("divide", squares, cast(n, input.dtype))
    scale = session.emit("rsqrt", session.emit("add", variance, constant(eps, input.dtype)))
    mean = mean if centre else broadcast_to(constant(0, input.dtype), variance.shape)
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
