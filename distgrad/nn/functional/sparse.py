"""Rows of a table by number, as functions: `embedding`, `embedding_bag` and `one_hot`."""

from __future__ import annotations

import warnings
from typing import Any

from distgrad.dtype import int64
from distgrad.ops import embedding as tables
from distgrad.ops.base import Tensor
from distgrad.ops.compare import where
from distgrad.ops.embedding import one_hot
from distgrad.ops.gathering import gather
from distgrad.ops.indexed_slices import index_add
from distgrad.ops.making import zeros
from distgrad.ops.ordering import argsort
from distgrad.record import no_grad

__all__ = [
    "embedding",
    "embedding_bag",
    "one_hot",
]


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of `weight` (rows, width) that `input` numbers: (..., width). Row `padding_idx` gets no gradient.

    Rows that are asked for and whose `norm_type` norm is above `max_norm` are scaled down to that first, in
    place. With `scale_grad_by_freq` a row's gradient is divided by how often the row is asked for. `sparse` gradients
    are not supported.
    """
    rows = weight.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx %= rows
    if max_norm is not None:
        _renormalise(weight, input, max_norm, norm_type)
    padding = -1 if padding_idx is None else padding_idx
    return tables.embedding(weight, input, padding, scale_grad_by_freq, sparse)


def _renormalise(weight: Tensor, input: Tensor, max_norm: float, norm_type: float) -> None:
    with no_grad():
        norms = weight.norm(norm_type, dim=1)
        used = weight.new_zeros(weight.shape[0]).index_fill(0, input.reshape(-1).long(), 1.0) > 0
        scale = where(used & (norms > max_norm), max_norm / (norms + 1e-7), 1.0)
        weight.mul_(scale.unsqueeze(1))


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """The sum, mean or largest elements of the rows of `weight` (rows, width) in each bag: (bags, width).

    `input` (bags, length) holds the rows' numbers; or it is a vector, and bag i begins at `offsets[i]`, where with
    `include_last_offset` the last one is the end. Row `padding_idx` does not count. An empty bag gives 0.
    """
    if weight.dtype is int64 and input.is_floating_point():
        warnings.warn(
            "Argument order of nn.functional.embedding_bag was changed. Usage `embedding_bag(weight, input, ...)` is "
            "deprecated, and should now be `embedding_bag(input, weight, ...)`.",
            stacklevel=2,
        )
        weight, input = input, weight
    _check_bags(input, weight, offsets, per_sample_weights)
    _check_mode(mode, scale_grad_by_freq, sparse)
    if max_norm is not None:
        _renormalise(weight, input, max_norm, norm_type)
    if per_sample_weights is not None and mode != "sum":
        raise NotImplementedError(
            "embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for mode='sum' (got "
            f"mode='{mode}'). Please open a feature request on GitHub."
        )
    rows = tables.embedding(weight, input, -1, scale_grad_by_freq, sparse)
    counted = _not_padding(input, padding_idx, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    if mode == "max" and counted is not None:
        rows = where(counted.unsqueeze(-1), rows, -float("inf"))
    elif counted is not None:
        rows = where(counted.unsqueeze(-1), rows, 0.0)
    if offsets is None:
        return _of_rows(rows, counted, mode)
    return _of_offsets(rows, counted, offsets, include_last_offset, mode)


def _check_bags(input: Tensor, weight: Tensor, offsets: Tensor | None, sample_weights: Tensor | None) -> None:
    if sample_weights is not None and input.size() != sample_weights.size():
        raise ValueError(
            f"embedding_bag: If per_sample_weights ({sample_weights.shape}) is not None, then it must have the same "
            f"shape as the input ({input.shape})"
        )
    if weight.dim() != 2:
        raise ValueError(f"weight has to be a 2D Tensor, but got Tensor of dimension {weight.dim()}")
    if input.dim() == 2:
        if offsets is not None:
            raise ValueError(
                "if input is 2D, then offsets has to be None, as input is treated is a mini-batch of fixed length "
                f"sequences. However, found offsets of type {type(offsets)}"
            )
    elif input.dim() != 1:
        raise ValueError(f"input has to be 1D or 2D Tensor, but got Tensor of dimension {input.dim()}")
    elif offsets is None:
        raise ValueError("offsets has to be a 1D Tensor but got None")
    elif offsets.dim() != 1:
        raise ValueError("offsets has to be a 1D Tensor")


def _check_mode(mode: str, scale_grad_by_freq: bool, sparse: bool) -> None:
    if mode not in ("sum", "mean", "max"):
        raise ValueError("mode has to be one of sum, mean or max")
    if mode == "max" and scale_grad_by_freq:
        raise ValueError("max mode does not support scaling the gradient by the frequency")
    if mode == "max" and sparse:
        raise ValueError("max mode does not support sparse weights")


def _not_padding(input: Tensor, padding_idx: int | None, weight: Tensor) -> Any:
    if padding_idx is None:
        return None
    rows = weight.shape[0]
    if not -rows <= padding_idx < rows:
        raise RuntimeError("padding_idx must be within the number of embeddings")
    return input != padding_idx % rows


def _of_rows(rows: Tensor, counted: Any, mode: str) -> Tensor:
    """Of bags of one length: (bags, length, width) to (bags, width)."""
    if not rows.shape[1]:
        return rows.sum(1)
    if mode == "max":
        top = rows.max(1)[0]
        return top if counted is None else where(counted.any(1).unsqueeze(1), top, 0.0)
    total = rows.sum(1)
    if mode == "sum":
        return total
    count: Any = rows.shape[1] if counted is None else counted.sum(1).clamp(min=1).unsqueeze(1)
    return total / count


def _of_offsets(rows: Tensor, counted: Any, offsets: Tensor, last: bool, mode: str) -> Tensor:
    """Of bags that begin at `offsets`: (elements, width) to (bags, width)."""
    n, starts = rows.shape[0], offsets.long()
    if last:
        starts = starts[:-1]
    bags = starts.shape[0]
    # Element i is in the bag of which the number is how many bags begin at or before i, less 1.
    begun = index_add(zeros(n + 1, dtype=int64), 0, starts, starts.new_ones(bags))
    number = begun[:n].cumsum(0) - 1
    if mode == "max":
        return _largest(rows, counted, number, starts, bags)
    total = index_add(rows.new_zeros((bags, rows.shape[1])), 0, number, rows)
    if mode == "sum":
        return total
    members = number.new_ones(n) if counted is None else counted.long()
    count = index_add(starts.new_zeros(bags), 0, number, members)
    return total / count.clamp(min=1).unsqueeze(1)


def _largest(rows: Tensor, counted: Any, number: Tensor, starts: Tensor, bags: int) -> Tensor:
    """In each column the first of each bag, once all are ordered by bag and, inside, from the largest down."""
    n, width = rows.shape
    if not n:
        return rows.new_zeros((bags, width))
    members = number.new_ones(n) if counted is None else counted.long()
    some = index_add(starts.new_zeros(bags), 0, number, members) > 0
    with no_grad():
        order = argsort(rows, 0, descending=True, stable=True)
        by_bag = argsort(gather(number.unsqueeze(1).expand(n, width), 0, order), 0, stable=True)
        order = gather(order, 0, by_bag)
        first = gather(order, 0, starts.clamp(max=n - 1).unsqueeze(1).expand(bags, width))
    return where(some.unsqueeze(1), gather(rows, 0, first), 0.0)
