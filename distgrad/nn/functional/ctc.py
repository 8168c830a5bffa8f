"""Connectionist temporal classification: the likelihood of a sequence of labels, however it lies along the input.

Of labels l the alignments pass through b l1 b l2 ... b, b the blank; alpha[s] is the logarithm of the probability of
all ways to be at place s of that after the input so far (Graves et al. 2006):

    alpha'[s] = log(e^alpha[s] + e^alpha[s - 1] + (e^alpha[s - 2] if s is a label other than s - 2)) + log p(label s)

A step is a dozen ops over (N, 2 * length + 1), so every order of derivative is there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.nn.functional.reduction import reduced, reduction_name
from distgrad.ops.base import Tensor, call
from distgrad.ops.compare import where
from distgrad.ops.gathering import gather
from distgrad.ops.joining import cat
from distgrad.ops.making import full, tensor
from distgrad.ops.pointwise import refuse
from distgrad.ops.probability import logaddexp

__all__ = ["ctc_loss"]

NEVER = -1e30  # a logarithm of 0 with finite derivatives; what stays below half of it cannot be
CHECKED = "(while checking arguments for ctc_loss_allocate_outputs)"


def _as_normalized(logs: Tensor) -> Tensor:
    """`logs`, with the gradient of log_softmax: they are taken for its results, as in torch."""
    total = call("logsumexp", logs, -1, True)  # 0 up to rounding
    return logs - total + total.detach()


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log p(targets) of each sequence; the mean divides each by its target's length first.

    `log_probs` is (T, N, C) or (T, C), from log_softmax over the last dimension; `targets` (N, S), padded, or all one
    after the other. The lengths are read by the driver. A target that does not fit in its input has an infinite loss;
    0, and no gradient, with `zero_infinity`.
    """
    reduction = reduction_name(reduction)
    refuse(log_probs._value, "bi", "ctc_loss_cpu")
    batched = log_probs.dim() == 3
    rows = log_probs if batched else log_probs.unsqueeze(1)
    steps, count, classes = rows.shape
    inputs, lengths = _lengths(input_lengths, "input", count), _lengths(target_lengths, "target", count)
    if not 0 <= blank < classes:
        raise RuntimeError("blank must be in label range")
    if inputs.size and inputs.max() > steps:
        raise RuntimeError(
            f"Expected input_lengths to have value at most {steps}, but got value {inputs.max()} {CHECKED}"
        )
    if lengths.size and lengths.min() < 0:
        raise RuntimeError(
            f"Expected target_lengths to have value at least 0, but got value {lengths.min()} {CHECKED}"
        )
    labels = _labels(targets.long(), lengths, batched)
    loss = _negative_log_likelihood(_as_normalized(rows), labels, inputs, lengths, blank)
    loss = where(loss > -NEVER / 2, 0.0 if zero_infinity else math.inf, loss)
    if reduction == "mean":
        loss = loss / tensor(np.maximum(lengths, 1)).to(loss.dtype)
    loss = loss if batched else loss.squeeze(0)
    return reduced(loss, reduction)


def _lengths(given: Any, name: str, count: int) -> np.ndarray:
    numbers = np.asarray(given.detach().numpy() if isinstance(given, Tensor) else given)
    if numbers.dtype.kind == "f":
        raise RuntimeError(f"{name}_lengths must be integral")
    numbers = numbers.reshape(-1)
    if numbers.size != count:
        raise RuntimeError(f"{name}_lengths must be of size batch_size")
    return numbers.astype(np.int64)


def _labels(targets: Tensor, lengths: np.ndarray, batched: bool) -> Tensor:
    """The targets as (N, longest), whatever stands behind each one's end."""
    longest = int(lengths.max(initial=0))
    if targets.dim() == 1 and not batched:
        targets = targets.unsqueeze(0)
    if targets.dim() == 2:
        if targets.shape[1] < longest:
            raise RuntimeError(
                f"Expected tensor to have size at least {longest} at dimension 1, but got size {targets.shape[1]} for "
                f"argument #2 'targets' {CHECKED}"
            )
        return targets[:, :longest]
    if targets.shape[0] != lengths.sum():
        raise RuntimeError(
            f"Expected tensor to have size {lengths.sum()} at dimension 0, but got size {targets.shape[0]} for "
            f"argument #2 'targets' {CHECKED}"
        )
    first = np.cumsum(lengths) - lengths
    places = np.minimum(first[:, None] + np.arange(longest), max(targets.shape[0] - 1, 0))
    return call("index_select", targets, 0, tensor(places.reshape(-1))).reshape(len(lengths), longest)


def _negative_log_likelihood(
    rows: Tensor, labels: Tensor, inputs: np.ndarray, lengths: np.ndarray, blank: int
) -> Tensor:
    """The loss of each sequence; `-NEVER` or so where there is no alignment."""
    steps, count, _ = rows.shape
    longest = labels.shape[1]
    states = 2 * longest + 1
    # What is beyond a target's end is no class number, perhaps, and is never arrived from.
    there = np.arange(longest) < lengths[:, None]
    labels = labels if there.all() else where(tensor(there), labels, blank)
    blanks = full((count, longest, 1), blank, dtype=labels.dtype)
    path = cat([blanks, labels.unsqueeze(2)], 2).reshape(count, 2 * longest)
    path = cat([path, full((count, 1), blank, dtype=labels.dtype)], 1)
    emitted = gather(rows, 2, path.unsqueeze(0).expand(steps, count, states))
    never = full((count, 2), NEVER, dtype=rows.dtype)
    skips = never[
        :, : min(2, states)
    ]  # how dear it is to come from two before: only to a label from another one
    if states > 2:
        other = (path[:, 2:] != path[:, :-2]) & (path[:, 2:] != blank)
        skips = cat([skips, where(other, full((), 0.0, dtype=rows.dtype), NEVER)], 1)
    begin = np.full((1, states), NEVER)
    begin[0, 0] = 0
    alpha = tensor(begin, dtype=rows.dtype).expand(count, states)
    always = (inputs == steps).all()
    for t, emission in enumerate(call("unbind", emitted, 0)):
        before = cat([never, alpha], 1)
        further = logaddexp(logaddexp(alpha, before[:, 1:-1]), before[:, :-2] + skips) + emission
        alpha = further if always else where(tensor(t < inputs).unsqueeze(1), further, alpha)
    ends = 2 * lengths[:, None] - np.array([0, 1])
    last = gather(alpha, 1, tensor(np.maximum(ends, 0)))
    if (lengths == 0).any():
        last = where(tensor(ends >= 0), last, NEVER)
    return -logaddexp(last[:, 0], last[:, 1])
