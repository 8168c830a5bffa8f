"""Losses of classification: nll and binary cross entropy.

The public functions in `distgrad.nn.functional` check what torch checks in Python and call these.
"""

from __future__ import annotations

import math
import re
from typing import Any

from distgrad import session
from distgrad.dtype import INT64, NAMES, OF_NUMPY
from distgrad.ops.activations import logsigmoid
from distgrad.ops.base import (
    Like,
    Tensor,
    Value,
    broadcast_to,
    call,
    cast,
    constant,
    elementwise,
    op,
    reduce,
)
from distgrad.ops.binary import clamp
from distgrad.ops.compare import where
from distgrad.ops.gathering import gather, positions
from distgrad.ops.helpers import title
from distgrad.ops.pointwise import log, log1p, refuse
from distgrad.ops.samples import real, whole
from distgrad.ops.special import sigmoid

NONE, MEAN, SUM = "none", "mean", "sum"


def reduced(loss: Value, reduction: str) -> Value:
    """The elements of a loss, their sum or their mean."""
    if reduction == NONE:
        return loss
    total = reduce("sum", loss, None, dtype=NAMES[loss.dtype])
    return (
        total
        if reduction == SUM
        else session.emit("divide", total, constant(math.prod(loss.shape), loss.dtype))
    )


def share(g: Tensor, reduction: str, shape: tuple[int, ...]) -> Tensor:
    """The gradient of each element of the loss, not yet spread over them where they were summed."""
    return g / math.prod(shape) if reduction == MEAN else g


# Negative log likelihood.
def _class_dim(ndim: int) -> int:
    return 0 if ndim == 1 else 1


def _nll_checks(input: Value, target: Value, weight: Value | None) -> None:
    shape, ndim = input.shape, len(input.shape)
    if ndim == 0:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    if ndim > 1 and (not target.shape or shape[0] != target.shape[0]):
        there = target.shape[0] if target.shape else 0
        raise ValueError(f"Expected input batch_size ({shape[0]}) to match target batch_size ({there}).")
    if ndim < 3 and len(target.shape) > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    wanted = (shape[0], *shape[2:])
    if ndim > 2 and target.shape != wanted:
        if ndim == 4 and len(target.shape) == 3:
            raise RuntimeError(f"size mismatch (got input: {list(shape)} , target: {list(target.shape)}")
        raise RuntimeError(f"Expected target size {list(wanted)}, got {list(target.shape)}")
    if target.dtype != INT64:
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {title(target.dtype)}")
    refuse(input, "bi", "nll_loss_out_frame")
    classes = shape[_class_dim(ndim)]
    if weight is not None:
        if weight.shape != (classes,):
            raise RuntimeError(
                f"weight tensor should be defined either for all {classes} classes or no classes but got weight tensor "
                f"of shape: {list(weight.shape)}"
            )
        if weight.dtype != input.dtype:
            kinds = [OF_NUMPY[x.dtype].title for x in (input, weight)]
            raise RuntimeError(f"expected scalar type {kinds[0]} but found {kinds[1]}")


def _all_count(target: Value, classes: int, ignore_index: int) -> bool:
    """Whether it is known that no target is ignored. Raises IndexError for one that is known to be no class."""
    array = target.array
    if array is None:  # the kernel finds out
        return False
    if not array.size:
        return True
    low, high = array.min(), array.max()
    if low < 0 or high >= classes:
        wrong = array[((array < 0) | (array >= classes)) & (array != ignore_index)]
        if wrong.size:
            raise IndexError(f"Target {wrong[0]} is out of bounds.")
    return not low <= ignore_index <= high or bool((array != ignore_index).all())


def _no_class(kind: str, message: str) -> tuple[str, str]:
    """What `gather` says of a target that is no class, in torch's words."""
    found = re.fullmatch(r"index (-?\d+) is out of bounds for dimension \d+ with size \d+", message)
    return ("IndexError", f"Target {found[1]} is out of bounds.") if found else (kind, message)


session.WORDED["nll_loss_forward"] = _no_class


@op(
    src=lambda g, index, dim: gather(g, dim, index),
    method=False,
    samples=lambda: [
        (real(3, 1), positions([1], [0], [1]), 1, (3, 2)),
        (real(1, 2), positions([2, 0]), 0, (3, 2)),
    ],
)
def _chosen(src: Value, index: Value, dim: int, shape: tuple[int, ...], cuts: Any = None) -> Value:
    """Zeros of `shape`, but `src` at one place along `dim`, which `index` tells."""
    zeros = broadcast_to(constant(0, src.dtype), shape, cuts)
    return session.emit("scatter_zeros", zeros, index, src, dim=dim, size=shape[dim])


def _nll_input(
    g: Tensor, target: Tensor, weight: Tensor | None, reduction: str, ignore_index: int, out: Any, like: Like
) -> Tensor:
    """-weight at each target's class, 0 elsewhere and where the target is ignored."""
    dim = _class_dim(like.ndim)
    if like.ndim == 1:
        target = call("reshape", target, ())
    counting = _all_count(target._value, like.shape[dim], ignore_index)
    ignored = None if counting else target == ignore_index
    safe = target if ignored is None else where(ignored, 0, target)
    g = -(g / out[1]) if reduction == MEAN else -g
    if weight is not None:
        g = g * call("reshape", call("index_select", weight, 0, call("reshape", safe, (-1,))), safe.shape)
    g = call("expand", g, tuple(safe.shape)) if ignored is None else where(ignored, 0.0, g)
    return _chosen(call("unsqueeze", g, dim), call("unsqueeze", safe, dim), dim, like.shape, like.sharding)


def _losses() -> list[Any]:
    x, t, w = real(4, 3), whole(4, high=3), real(3, low=0.2, high=1.5)
    return [
        *((x, t, weight, kind, -100) for weight in (None, w) for kind in (NONE, MEAN, SUM)),
        (x, t, w, MEAN, 1),
        (real(2, 3, 2), whole(2, 2, high=3), w, MEAN, 0),
        (real(3), whole(high=3), None, MEAN, -100),
    ]


@op(
    name=lambda input, *rest: "NllLoss2DBackward0" if input.dim() > 2 else "NllLossBackward0",
    input=_nll_input,
    method=False,
    samples=_losses,
)
def nll_loss_forward(
    input: Value,
    target: Value,
    weight: Value | None = None,
    reduction: str = MEAN,
    ignore_index: int = -100,
) -> tuple[Value, Value]:
    """-input at each target's class, times its weight; of that the sum or mean. And the sum of the weights."""
    _nll_checks(input, target, weight)
    dim = _class_dim(len(input.shape))
    classes = input.shape[dim]
    counting = _all_count(target, classes, ignore_index)
    if len(input.shape) == 1 and target.shape:
        target = session.emit("reshape", target, shape=())
    ignored = None if counting else session.emit("equal", target, constant(ignore_index, INT64))
    safe = target if ignored is None else session.emit("where", ignored, constant(0, INT64), target)
    zero = constant(0, input.dtype)
    places = session.emit("expand_dims", safe, dims=(dim,))
    picked = session.emit("gather", input, places, dim=dim, size=classes)
    loss = session.emit("negative", session.emit("squeeze_dims", picked, dims=(dim,)))
    if weight is None:
        counts = None if ignored is None else cast(session.emit("logical_not", ignored), input.dtype)
    else:
        flat = session.emit("reshape", safe, shape=(math.prod(safe.shape),))
        found = session.emit("take", weight, flat, dim=0, size=classes, wrap=False)
        weights = session.emit("reshape", found, shape=safe.shape)
        counts = weights if ignored is None else session.emit("where", ignored, zero, weights)
        loss = session.emit("multiply", loss, weights)
    loss = loss if ignored is None else session.emit("where", ignored, zero, loss)
    if reduction == NONE:
        return loss, zero
    total = reduce("sum", loss, None, dtype=NAMES[loss.dtype])
    if reduction == SUM:
        return total, zero
    if counts is None:
        counted = constant(math.prod(target.shape), input.dtype)
    else:
        counted = reduce("sum", counts, None, dtype=NAMES[loss.dtype])
    return session.emit("divide", total, counted), counted


@op(name="DivBackward1", input=lambda g, other: g / other, method=False, samples=lambda: [(real(2, 3), 3)])
def divided(input: Value, other: float) -> Value:
    """input / other, under the name that torch gives it inside of a loss."""
    return elementwise("divide", input, other, floating=True)


# Binary cross entropy. With logits x: loss = (1 - y) x - (1 + (p - 1) y) log sigmoid(x), p the weight of positives.
def _logits_input(
    g: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, reduction: str
) -> Tensor:
    if pos_weight is None:
        slope = sigmoid(input) - target
    else:
        positive = pos_weight * target
        slope = (positive + 1 - target) * sigmoid(input) - positive
    slope = slope if weight is None else slope * weight
    return slope * share(g, reduction, tuple(slope.shape))


def _logits_target(
    g: Tensor, input: Tensor, weight: Tensor | None, pos_weight: Tensor | None, reduction: str
) -> Tensor:
    slope = -input if pos_weight is None else logsigmoid(-input) - pos_weight * logsigmoid(input)
    slope = slope if weight is None else slope * weight
    return slope * share(g, reduction, tuple(slope.shape))


def _probabilities(*shape: int, seed: int = 0) -> Tensor:
    return real(*shape, low=0.05, high=0.95, seed=seed)


def _logits() -> list[Any]:
    x, y, w, p = (
        real(2, 3),
        _probabilities(2, 3),
        real(3, low=0.3, high=2.0),
        real(3, low=0.2, high=1.4, seed=1),
    )
    return [
        *((x, y, None, None, kind) for kind in (NONE, MEAN, SUM)),
        *((x, y, w, p, kind) for kind in (NONE, MEAN, SUM)),
        (x, y, None, p, MEAN),
    ]


@op(input=_logits_input, target=_logits_target, method=False, samples=_logits)
def binary_cross_entropy_with_logits(
    input: Value,
    target: Value,
    weight: Value | None = None,
    pos_weight: Value | None = None,
    reduction: str = MEAN,
) -> Value:
    """Cross entropy of sigmoid(input) with the probabilities `target`, without overflow."""
    refuse(input, "bi", "log_sigmoid_cpu")
    if target.dtype.kind == "b":
        raise RuntimeError(
            "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or `logical_xor()` "
            "operator instead."
        )
    if target.dtype.kind != "f":
        raise RuntimeError(
            f"result type {title(input.dtype)} can't be cast to the desired output type {title(target.dtype)}"
        )
    loss = elementwise("multiply", elementwise("subtract", 1, target), input)
    rest = session.emit("log_sigmoid", input)
    if pos_weight is not None:
        scale = elementwise("add", elementwise("multiply", elementwise("subtract", pos_weight, 1), target), 1)
        rest = elementwise("multiply", scale, rest)
    loss = elementwise("subtract", loss, rest)
    return reduced(loss if weight is None else elementwise("multiply", loss, weight), reduction)


# With probabilities x: loss = -y log x - (1 - y) log(1 - x), both logarithms at least -100.
SMALL = 1e-12


def _bce_input(g: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    slope = (input - target) / clamp((1 - input) * input, min=SMALL)
    slope = slope if weight is None else slope * weight
    return slope * share(g, reduction, tuple(slope.shape))


def _bce_target(g: Tensor, input: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    slope = log1p(-input) - log(input)  # not bounded: as torch has it
    slope = slope if weight is None else slope * weight
    return slope * share(g, reduction, tuple(slope.shape))


def _chances() -> list[Any]:
    x, y, w = _probabilities(2, 3), _probabilities(2, 3, seed=1), real(3, low=0.3, high=2.0)
    return [(x, y, weight, kind) for weight in (None, w) for kind in (NONE, MEAN, SUM)]


@op(input=_bce_input, target=_bce_target, method=False, samples=_chances)
def binary_cross_entropy(
    input: Value, target: Value, weight: Value | None = None, reduction: str = MEAN
) -> Value:
    """Cross entropy of the probabilities `input` with the probabilities `target`."""
    refuse(input, "bi", "binary_cross_entropy")
    if target.dtype != input.dtype:
        raise RuntimeError(f"Found dtype {title(target.dtype)} but expected {title(input.dtype)}")
    for name, x in (("input", input), ("target", target)):
        if x.array is not None and not ((x.array >= 0) & (x.array <= 1)).all():
            raise RuntimeError(f"all elements of {name} should be between 0 and 1")
    one, least = constant(1, input.dtype), constant(-100, input.dtype)
    yes = session.emit("maximum", session.emit("log", input), least)
    no = session.emit("maximum", session.emit("log1p", session.emit("negative", input)), least)
    # (y - 1) log(1 - x) - y log x, as torch rounds it.
    loss = session.emit(
        "subtract",
        session.emit("multiply", session.emit("subtract", target, one), no),
        session.emit("multiply", target, yes),
    )
    return reduced(loss if weight is None else elementwise("multiply", loss, weight), reduction)
