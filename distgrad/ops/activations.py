"""Activations of neural networks: relu, softplus, gelu and their like, softmax and log_softmax."""

from __future__ import annotations

import math
from typing import Any

from distgrad import session
from distgrad.dtype import BOOL, dtype
from distgrad.ops.base import Tensor, Value, call, cast, constant, normal_dim, op
from distgrad.ops.compare import where
from distgrad.ops.piecewise import threshold_backward
from distgrad.ops.pointwise import exp, refuse, tanh
from distgrad.ops.samples import real
from distgrad.ops.special import erf, sigmoid
from distgrad.record import grad_mode


def _reals() -> list[Any]:
    return [real(2, 3), real()]


def _times(x: Value, number: float) -> Value:
    return session.emit("multiply", x, constant(number, x.dtype))


def _plus(x: Value, number: float) -> Value:
    return session.emit("add", x, constant(number, x.dtype))


@op(input=lambda g, out: threshold_backward(g, out, 0.0), inplace=True, samples=_reals)
def relu(input: Value) -> Value:
    """max(input, 0); its gradient at 0 is 0."""
    if input.dtype == BOOL:
        raise RuntimeError("Boolean inputs not supported for relu")
    return session.emit("relu", input)


# elu bends to a curve below 0; selu and celu are elu with numbers of their own.
SELU = (
    1.6732632423543772848170429916717,
    1.0507009873554804934193349852946,
)  # alpha and scale (Klambauer et al. 2017)


def _elu_input(g: Tensor, input: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    # exp sees no number above 0, where it might be infinite and spoil the second derivative; nan it sees.
    below = -relu(-input)
    slope = exp(below if input_scale == 1 else below * input_scale)
    return where(input > 0, g * scale, g * (alpha * scale * input_scale * slope))


def _elu(input: Value, alpha: float, scale: float, input_scale: float) -> Value:
    refuse(input, "bi", "elu_cpu")
    below = session.emit("minimum", input, constant(0, input.dtype))
    below = session.emit("expm1", below if input_scale == 1 else _times(below, input_scale))
    out = session.emit("add", session.emit("relu", input), below if alpha == 1 else _times(below, alpha))
    return out if scale == 1 else _times(out, scale)


@op(
    input=_elu_input,
    method="_elu",
    inplace="only",
    samples=lambda: [real(2, 3), (real(2, 3), 1.5), (real(2, 3), 1.6, 1.05), (real(2, 3), 1.6, 1.05, 0.7)],
)
def elu(input: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    """scale * (input if input > 0 else alpha * (exp(input_scale * input) - 1))."""
    return _elu(input, alpha, scale, input_scale)


@op(
    name="EluBackward0",
    input=lambda g, input: _elu_input(g, input, *SELU, 1.0),
    method="_selu",
    inplace="only",
    samples=_reals,
)
def selu(input: Value) -> Value:
    """elu with such numbers that a mean of 0 and a variance of 1 stay (Klambauer et al. 2017)."""
    return _elu(input, *SELU, 1.0)


@op(
    input=lambda g, input, alpha: _elu_input(g, input, alpha, 1.0, 1 / alpha),
    method="_celu",
    inplace="only",
    samples=lambda: [real(2, 3), (real(2, 3), 1.5)],
)
def celu(input: Value, alpha: float = 1.0) -> Value:
    """`input` where it is above 0, else alpha * (exp(input / alpha) - 1)."""
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return _elu(input, alpha, 1.0, 1 / alpha)


def _silu_input(g: Tensor, input: Tensor) -> Tensor:
    s = sigmoid(input)
    return g * (s * (1 + input * (1 - s)))


@op(input=_silu_input, method="_silu", inplace="only", samples=_reals)
def silu(input: Value) -> Value:
    """input * sigmoid(input)."""
    refuse(input, "bi", "silu_cpu")
    return session.emit("multiply", input, session.emit("sigmoid", input))


def _mish_input(g: Tensor, input: Tensor) -> Tensor:
    t = tanh(softplus(input))
    return g * (t + input * sigmoid(input) * (1 - t * t))


@op(input=_mish_input, method="_mish", inplace="only", samples=_reals)
def mish(input: Value) -> Value:
    """input * tanh(log(1 + exp(input)))."""
    refuse(input, "bi", "mish_cpu")
    inner = session.emit("softplus", input, beta=1.0, threshold=20.0)
    return session.emit("multiply", input, session.emit("tanh", inner))


def _glu_input(g: Tensor, input: Tensor, dim: int) -> Tensor:
    half = input.shape[dim] // 2
    first = call("narrow", input, dim, 0, half)
    gate = sigmoid(call("narrow", input, dim, half, half))
    return call("cat", (g * gate, g * first * gate * (1 - gate)), dim)


@op(
    input=_glu_input,
    method=False,
    samples=lambda: [real(2, 4), (real(4, 3), 0), (real(2, 6, 2), -2)],
)
def glu(input: Value, dim: int = -1) -> Value:
    """The first half of `input` along `dim` times sigmoid of the second."""
    refuse(input, "bi", "glu_cpu")
    if not input.shape:
        raise RuntimeError("glu does not support scalars because halving size must be even")
    dim = normal_dim(dim, len(input.shape))
    if (n := input.shape[dim]) % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {dim} is size {n}")
    whole = [(0, length, 1) for length in input.shape]
    first, second = (
        session.part(input, (*whole[:dim], (start, n // 2, 1), *whole[dim + 1 :])) for start in (0, n // 2)
    )
    return session.emit("multiply", first, session.emit("sigmoid", second))


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


@op(method=False, listed=False)
def _softmax_backward(out: Value, grad: Value, dim: int) -> Value:
    """grad * out - out * sum(grad * out), as one kernel."""
    return _normalized("softmax_backward", (out, grad), dim, None)


def _softmax_input(g: Tensor, dim: int, out: Tensor) -> Tensor:
    if not grad_mode.enabled and g.dtype == out.dtype:
        made: Tensor = _softmax_backward(out, g, dim)
        return made
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


__all__ = ["celu", "log_softmax", "relu", "selu", "softmax"]  # those of the main namespace
