"""Activations of neural networks: relu, softplus, gelu and their like, softmax and log_softmax."""

from __future__ import annotations

import math
from typing import Any

from distgrad import session
from distgrad.dtype import BOOL, dtype
from distgrad.ops.base import Tensor, Value, call, cast, constant, normal_dim, op
from distgrad.ops.compare import where
from distgrad.ops.pointwise import exp, refuse, tanh
from distgrad.ops.samples import real
from distgrad.ops.special import erf, sigmoid


def _reals() -> list[Any]:
    return [real(2, 3), real()]


def _times(x: Value, number: float) -> Value:
    return session.emit("multiply", x, constant(number, x.dtype))


def _plus(x: Value, number: float) -> Value:
    return session.emit("add", x, constant(number, x.dtype))


@op(input=lambda g, out: where(out <= 0, 0.0, g), inplace=True, samples=_reals)
def relu(input: Value) -> Value:
    """max(input, 0); its gradient at 0 is 0."""
    if input.dtype == BOOL:
        raise RuntimeError("Boolean inputs not supported for relu")
    return session.emit("relu", input)


@op(
    input=lambda g, input, negative_slope: where(input > 0, g, g * negative_slope),
    method="_leaky_relu",
    inplace="only",
    samples=lambda: [real(2, 3), (real(2, 3), 0.2)],
)
def leaky_relu(input: Value, negative_slope: float = 0.01) -> Value:
    """`input`, times `negative_slope` where it is below 0."""
    refuse(input, "bi", "leaky_relu_cpu")
    above = session.emit("greater", input, constant(0, input.dtype))
    return session.emit("where", above, input, _times(input, negative_slope))


def _elu_input(g: Tensor, input: Tensor, alpha: float, scale: float) -> Tensor:
    # exp sees no number above 0, where it might be infinite and spoil the second derivative; nan it sees.
    return where(input > 0, g * scale, g * (alpha * scale * exp(-relu(-input))))


@op(
    input=_elu_input,
    method="_elu",
    inplace="only",
    samples=lambda: [real(2, 3), (real(2, 3), 1.5), (real(2, 3), 1.6, 1.05)],
)
def elu(input: Value, alpha: float = 1.0, scale: float = 1.0) -> Value:
    """scale * (input if input > 0 else alpha * (exp(input) - 1))."""
    refuse(input, "bi", "elu_cpu")
    below = session.emit("expm1", session.emit("minimum", input, constant(0, input.dtype)))
    out = session.emit("add", session.emit("relu", input), below if alpha == 1 else _times(below, alpha))
    return out if scale == 1 else _times(out, scale)


def _silu_input(g: Tensor, input: Tensor) -> Tensor:
    s = sigmoid(input)
    return g * (s * (1 + input * (1 - s)))


@op(input=_silu_input, method="_silu", inplace="only", samples=_reals)
def silu(input: Value) -> Value:
    """input * sigmoid(input)."""
    refuse(input, "bi", "silu_cpu")
    return session.emit("multiply", input, session.emit("sigmoid", input))


# gelu(x) = x Φ(x), where Φ is the normal distribution; "tanh" stands for an approximation of Φ.
CUBIC = 0.044715
ROOT = math.sqrt(2 / math.pi)


def _gelu_input(g: Tensor, input: Tensor, approximate: str) -> Tensor:
    if approximate == "none":
        part = 0.5 * (1 + erf(input * math.sqrt(0.5)))
        return g * (part + input * (math.sqrt(0.5 / math.pi) * exp(-0.5 * (input * input))))
    inner = tanh(ROOT * (input + CUBIC * (input * input * input)))
    slope = (1 - inner * inner) * (ROOT * (1 + 3 * CUBIC * (input * input)))
    return g * (0.5 * (1 + inner) + 0.5 * input * slope)


@op(input=_gelu_input, method=False, samples=lambda: [real(2, 3), (real(2, 3), {"approximate": "tanh"})])
def gelu(input: Value, *, approximate: str = "none") -> Value:
    """input * Φ(input), Φ the normal distribution function, or an approximation of it by "tanh"."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError("approximate argument must be either none or tanh.")
    refuse(input, "bi", "GeluKernelImpl")
    if approximate == "none":
        inner = session.emit("erf", _times(input, math.sqrt(0.5)))
    else:
        cube = _times(session.emit("integer_power", input, n=3), CUBIC)
        inner = session.emit("tanh", _times(session.emit("add", input, cube), ROOT))
    return session.emit("multiply", _times(input, 0.5), _plus(inner, 1))


PLAIN = 15  # from this threshold on, log(1 + exp(x)) and x are the same to 2e-8, and the kernel may join them


def _softplus_input(g: Tensor, input: Tensor, beta: float, threshold: float) -> Tensor:
    scaled = input * beta
    return where(scaled > threshold, g, g * sigmoid(scaled))


@op(
    input=_softplus_input,
    method=False,
    samples=lambda: [real(2, 3), (real(2, 3), 2.0, 1.5), (real(2, 3), -0.5)],
)
def softplus(input: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """log(1 + exp(beta * input)) / beta, and `input` itself where beta * input is above the threshold."""
    refuse(input, "bi", "softplus_cpu")
    out = session.emit("softplus", input, beta=float(beta), threshold=float(threshold))
    if threshold >= PLAIN:
        return out
    above = session.emit("greater", _times(input, beta), constant(threshold, input.dtype))
    return session.emit("where", above, input, out)


@op(name="LogSigmoidBackward0", input=lambda g, input: g * sigmoid(-input), method=False, samples=_reals)
def logsigmoid(input: Value) -> Value:
    """log(sigmoid(input)), exact where that is near 0."""
    refuse(input, "bi", "log_sigmoid_cpu")
    return session.emit("log_sigmoid", input)


# Along a dimension.
def _normalized(primitive: str, inputs: tuple[Value, ...], dim: int, wanted: dtype | None) -> Value:
    if wanted is not None:
        inputs = tuple(cast(input, wanted.numpy) for input in inputs)
    input, shape = inputs[0], inputs[0].shape
    dim = normal_dim(dim, len(shape))
    refuse(
        input,
        "bi",
        f"{primitive}_lastdim_kernel_impl" if dim == max(len(shape), 1) - 1 else f"{primitive}_kernel_impl",
    )
    if shape:
        return session.emit(primitive, *inputs, dim=dim)
    ones = [session.emit("expand_dims", x, dims=(0,)) for x in inputs]
    return session.emit("squeeze_dims", session.emit(primitive, *ones, dim=0), dims=(0,))


def _total(x: Tensor, dim: int) -> Tensor:
    return call("sum", x, dim, True)


def _softmax_input(g: Tensor, dim: int, out: Tensor) -> Tensor:
    weighed = g * out
    return weighed - out * _total(weighed, dim)


def _rows() -> list[Any]:
    return [(real(2, 3), 1), (real(2, 3), 0), (real(2, 3, 2), -2), (real(), 0)]


@op(input=_softmax_input, samples=_rows)
def softmax(input: Value, dim: int, dtype: dtype | None = None) -> Value:
    """exp(input), scaled so that it sums to 1 along `dim`. With `dtype` the input is converted first."""
    return _normalized("softmax", (input,), dim, dtype)


@op(
    name="LogSoftmaxBackwardDataBackward0",
    input=lambda g, input, grad, dim: -_total(grad, dim) * _softmax_input(g, dim, softmax(input, dim)),
    grad=lambda g, input, dim: g - _total(g * softmax(input, dim), dim),
    method=False,
    samples=lambda: [
        (real(2, 3), real(2, 3, seed=1), 1),
        (real(2, 3), real(2, 3, seed=1), 0),
        (real(), real(), 0),
    ],
)
def _log_softmax_backward(input: Value, grad: Value, dim: int) -> Value:
    """grad - softmax(input) * sum(grad)."""
    return _normalized("log_softmax_backward", (input, grad), dim, None)


def _log_softmax_input(g: Tensor, input: Tensor, dim: int) -> Tensor:
    """From `input`, not from the result, so that forward and backward share what both compute."""
    return _log_softmax_backward(
        input if input.dtype == g.dtype else call("_to_copy", input, g.dtype), g, dim
    )


@op(input=_log_softmax_input, guard="input", samples=_rows)
def log_softmax(input: Value, dim: int, dtype: dtype | None = None) -> Value:
    """log(softmax(input, dim)), exact where that is near 0. With `dtype` the input is converted first."""
    return _normalized("log_softmax", (input,), dim, dtype)


__all__ = ["log_softmax", "relu", "softmax"]  # those of the main namespace
