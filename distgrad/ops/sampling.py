"""Samples of distributions whose parameters are tensors: multinomial."""

from __future__ import annotations

from typing import Any

from distgrad.dtype import dtype_of
from distgrad.ops.base import Tensor
from distgrad.ops.ordering import cumsum, topk
from distgrad.ops.random import rand

__all__ = ["multinomial"]


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None
) -> Tensor:
    """For each row of weights `num_samples` positions, each as likely as its weight says.

    With replacement by inversion of the running sum; without by a race: those with the smallest E / weight, for E from
    the exponential distribution, come first (Efraimidis and Spirakis 2006).
    """
    if input.dim() not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if not input.is_floating_point():
        title = dtype_of(input.dtype).title
        raise RuntimeError(f"multinomial only supports floating-point dtypes for input, got: {title}")
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    n = input.shape[-1]
    if not replacement and num_samples > n:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    weights = input.detach().double()
    rows = tuple(input.shape[:-1])
    if not replacement:
        u = rand(*rows, n, dtype="float64", generator=generator)
        return topk((1 - u).log() / weights, num_samples)[1]
    ends = cumsum(weights, -1)
    u = rand(*rows, num_samples, dtype="float64", generator=generator) * ends[..., -1:]
    return (ends.unsqueeze(-2) <= u.unsqueeze(-1)).sum(-1)
