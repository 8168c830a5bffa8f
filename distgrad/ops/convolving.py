"""The three ops of convolutions.

Each is linear in two arguments, and its gradients are the two others (`primitives/convolution.py` has the form that all
belong to). Groups become a dimension of the primitives.
"""

from __future__ import annotations

from typing import Any

from distgrad import session
from distgrad.graph import Value
from distgrad.ops.base import Ints, Tensor, call, op
from distgrad.ops.regrouping import reshaped
from distgrad.ops.samples import real

__all__: list[str] = []

BACKWARD = "ConvolutionBackwardBackward0"


# The three ops. x is (N, C, *spatial), w (O, C / groups, *kernel), y (N, O, *spatial).
def _samples() -> list[Any]:
    return [
        (real(2, 2, 5), real(3, 2, 2), (2,), (1,), (1,), 1, (3,), real(3)),
        (real(3, 4, 3, 4), real(2, 2, 2, 2), (1, 2), (1, 0), (2, 1), 2, (3, 2)),
        (real(2, 3, 2, 3), real(2, 3, 1, 1), (1, 1), (0, 0), (1, 1), 1, (2, 3)),
    ]


def _turned() -> list[Any]:
    """The same with y in place of x, and the size of x."""
    found = []
    for x, w, *rest, groups, size in (sample[:7] for sample in _samples()):
        y = real(x.shape[0], w.shape[0], *size, seed=2)
        found.append((y, w, *rest, groups, tuple(x.shape[2:]), real(w.shape[1] * groups, seed=3)))
    return found


def _weights() -> list[Any]:
    return [
        (x, real(x.shape[0], w.shape[0], *size, seed=2), *rest, tuple(w.shape[2:]))
        for x, w, *rest, size in (sample[:7] for sample in _samples())
    ]


@op(
    name=lambda input, weight, stride, padding, dilation, groups, size, bias, node: node,
    input=lambda g, weight, stride, padding, dilation, groups, like: _convolve_input(
        g, weight, stride, padding, dilation, groups, tuple(like.shape[2:]), None, BACKWARD
    ),
    weight=lambda g, input, stride, padding, dilation, groups, like: _convolve_weight(
        input, g, stride, padding, dilation, groups, tuple(like.shape[2:])
    ),
    bias=lambda g: _channel_sums(g),
    method=False,
    samples=_samples,
)
def _convolve(
    input: Value,
    weight: Value,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    size: Ints,
    bias: Value | None = None,
    node: str = "ConvolutionBackward0",
) -> Value:
    """y of x and w, plus a bias for each channel. `padding` is that in front, the rest follows from `size`."""
    x, w = _split(input, 1, groups), _split(weight, 0, groups)
    y = session.emit("convolve", x, w, stride=stride, padding=padding, dilation=dilation, size=size)
    return _plus(_joined(y, 1, groups), bias)


@op(
    name=lambda input, weight, stride, padding, dilation, groups, size, bias, node: node,
    input=lambda g, weight, stride, padding, dilation, groups, like: _convolve(
        g, weight, stride, padding, dilation, groups, tuple(like.shape[2:]), None, BACKWARD
    ),
    weight=lambda g, input, stride, padding, dilation, groups, like: _convolve_weight(
        g, input, stride, padding, dilation, groups, tuple(like.shape[2:])
    ),
    bias=lambda g: _channel_sums(g),
    method=False,
    samples=_turned,
)
def _convolve_input(
    input: Value,
    weight: Value,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    size: Ints,
    bias: Value | None = None,
    node: str = "ConvolutionBackward0",
) -> Value:
    """x of y and w (the gradient, or a transposed convolution), plus a bias for each channel."""
    y, w = _split(input, 1, groups), _split(weight, 0, groups)
    x = session.emit("convolve_input", y, w, stride=stride, padding=padding, dilation=dilation, size=size)
    return _plus(_joined(x, 1, groups), bias)


@op(
    name=BACKWARD,
    input=lambda g, other, stride, padding, dilation, groups, like: _convolve_input(
        other, g, stride, padding, dilation, groups, tuple(like.shape[2:]), None, BACKWARD
    ),
    other=lambda g, input, stride, padding, dilation, groups, like: _convolve(
        input, g, stride, padding, dilation, groups, tuple(like.shape[2:]), None, BACKWARD
    ),
    method=False,
    samples=_weights,
)
def _convolve_weight(
    input: Value, other: Value, stride: Ints, padding: Ints, dilation: Ints, groups: int, size: Ints
) -> Value:
    """w of x and y."""
    x, y = _split(input, 1, groups), _split(other, 1, groups)
    w = session.emit("convolve_weight", x, y, stride=stride, padding=padding, dilation=dilation, size=size)
    return _joined(w, 0, groups)


def _split(x: Value, at: int, groups: int) -> Value:
    """Dimension `at` as (group, rest)."""
    if groups == 1:
        return x
    return reshaped(x, (*x.shape[:at], groups, x.shape[at] // groups, *x.shape[at + 1 :]))


def _joined(x: Value, at: int, groups: int) -> Value:
    """The inverse of `_split`."""
    if groups == 1:
        return x
    return reshaped(x, (*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :]))


def _plus(y: Value, bias: Value | None) -> Value:
    if bias is None:
        return y
    return session.emit("add", y, session.emit("expand_dims", bias, dims=tuple(range(1, len(y.shape) - 1))))


def _channel_sums(g: Tensor) -> Tensor:
    return call("sum", g, (0, *range(2, g.dim())))
