"""Losses that ask for a margin between right and wrong, as functions."""

from __future__ import annotations

from collections.abc import Callable

from distgrad.nn.functional.activation import logsigmoid
from distgrad.nn.functional.distance import pairwise_distance
from distgrad.nn.functional.reduction import no_gradient, reduced, reduction_name
from distgrad.ops import regression
from distgrad.ops.base import Tensor, call
from distgrad.ops.binary import clamp_min, minimum
from distgrad.ops.compare import where
from distgrad.ops.gathering import gather
from distgrad.ops.making import arange, zeros_like
from distgrad.ops.pointwise import refuse

__all__ = [
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """log(1 + exp(-target * input)), for targets 1 and -1."""
    no_gradient("soft_margin_loss", target=target)
    return regression.soft_margin_loss(input, target, reduction_name(reduction, size_average, reduce))


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The distances `input` where the target is 1, and max(0, margin - input) where it is -1."""
    reduction = reduction_name(reduction, size_average, reduce)
    short = where(target == 1, 0.0, clamp_min(margin - input, 0))
    return reduced(short + where(target == -1, 0.0, input), reduction)


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, margin - target * (input1 - input2)): a target of 1 asks for a larger `input1`, -1 for a smaller one."""
    reduction = reduction_name(reduction, size_average, reduce)
    if not input1.dim() == input2.dim() == target.dim():
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.size()}, input2: {input2.size()}, target: {target.size()} "
        )
    return reduced(clamp_min(-target * (input1 - input2) + margin, 0), reduction)


def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """1 - c for the cosine c between the inputs (N, D) or (D,) where the target is 1, max(0, c - margin) where -1."""
    reduction = reduction_name(reduction, size_average, reduce)
    if target.dim() > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if not input1.dim() == input2.dim() == target.dim() + 1:
        raise RuntimeError(
            f"{target.dim()}D target tensor expects {target.dim() + 1}D input tensors, but found inputs with sizes "
            f"{list(input1.shape)} and {list(input2.shape)}."
        )
    tiny = 1e-12  # torch's
    squares = [(x * x).sum(-1) + tiny for x in (input1, input2)]
    cosine = (input1 * input2).sum(-1) / (squares[0] * squares[1]).sqrt()
    like = where(target == 1, 1 - cosine, 0.0)
    return reduced(like + where(target == -1, clamp_min(cosine - margin, 0), 0.0), reduction)


# Of several classes.
def _rows(input: Tensor, kernel: str) -> Tensor:
    if input.dim() > 2 or (input.numel() == 0 and 0 in input.shape[1:]):
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(input.shape)}"
        )
    refuse(input._value, "bi", kernel)
    return input if input.dim() == 2 else input.reshape(1, -1)


def _long(target: Tensor) -> None:
    if target.dtype.name != "int64":
        raise RuntimeError(f"expected scalar type Long but found {target.dtype.title}")


def _within(target: Tensor, least: int, classes: int, message: str) -> None:
    known = target._value.array
    if known is not None and known.size and not (known.min() >= least and known.max() < classes):
        raise RuntimeError(message)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The mean over the classes j of max(0, margin - input[target] + input[j])**p, without the target itself.

    `input` is (N, C) or (C,), `target` int64 (N,) or (); `weight` (C,) is that of the target's class.
    """
    reduction = reduction_name(reduction, size_average, reduce)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    rows = _rows(input, "multi_margin_loss_cpu_kernel")
    count, classes = rows.shape
    if target.dim() > 1 or target.numel() != count:
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input samples "
            f"(batch size). Expected target size [{count}], but got {list(target.shape)}. Input has shape "
            f"{list(input.shape)}."
        )
    if weight is not None and weight.numel() != classes:
        raise RuntimeError(f"inconsistent weight size, expected {classes} but got {list(weight.shape)}")
    _long(target)
    _within(target, 0, classes, "target out of range")
    places = target.reshape(-1, 1)
    short = clamp_min(margin - gather(rows, 1, places) + rows, 0)
    short = short * short if p == 2 else short
    if weight is not None:
        short = short * call("index_select", weight, 0, target.reshape(-1)).unsqueeze(1)
    loss = where(arange(classes) == places, 0.0, short).sum(1) / classes
    return reduced(loss if target.dim() else loss.reshape(()), reduction)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Σ max(0, 1 - input[k] + input[j]) / C over the targets k and all classes j that are no targets.

    `input` is (N, C) or (C,), and so is `target` (int64), where each row lists its targets up to the first -1.
    """
    reduction = reduction_name(reduction, size_average, reduce)
    rows = _rows(input, "multilabel_margin_loss_forward_out_frame")
    if target.shape != input.shape:
        raise RuntimeError(
            f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}"
        )
    _long(target)
    classes = rows.shape[1]
    _within(target, -1, classes, "argument #2 'target' is out of range")
    listed = target.reshape(rows.shape)
    counts = call("cumprod", (listed >= 0).to(rows.dtype), 1)  # 1 up to the first -1
    places = where(counts > 0, listed, 0)
    others = (call("scatter_add", zeros_like(rows.detach()), 1, places, counts) == 0).to(rows.dtype)
    short = clamp_min(1 - gather(rows, 1, places).unsqueeze(2) + rows.unsqueeze(1), 0)
    loss = (short * counts.unsqueeze(2) * others.unsqueeze(1)).sum((1, 2)) / classes
    return reduced(loss if input.dim() == 2 else loss.reshape(()), reduction)


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The mean over the classes of the cross entropy of sigmoid(input) (N, C) with `target`, times `weight`."""
    if size_average is not None or reduce is not None:
        reduction = reduction_name(reduction, size_average, reduce)
    loss = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    loss = loss if weight is None else loss * weight
    loss = loss.sum(input.dim() - 1) / input.shape[-1]
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    return reduced(loss, reduction)


# Of three.
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, margin + |anchor - positive| - |anchor - negative|) by the p-norm.

    With `swap` the nearer of anchor and positive is compared with the negative (Balntas et al. 2016).
    """
    return triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=lambda a, b: pairwise_distance(a, b, p, eps),
        margin=margin,
        swap=swap,
        reduction=reduction_name(reduction, size_average, reduce),
    )


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """`triplet_margin_loss` with another distance."""
    reduction = reduction_name(reduction)
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not anchor.dim() == positive.dim() == negative.dim():
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, but got: "
            f"anchor {anchor.dim()}D, positive {positive.dim()}D, and negative {negative.dim()}D inputs"
        )
    distance = pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = minimum(far, distance(positive, negative))
    return reduced(clamp_min(margin + near - far, 0), reduction)
