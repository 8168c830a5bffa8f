"""Batching rules of convolutions: the batch becomes part of a dimension that they know.

Where one operand has it, it joins the samples, or the channels that only this operand and the result have. Where both
have it, each sample is a group of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.primitives.base import Attrs, BatchRule, Primitive
from distgrad.primitives.batching import Batch, front


def _folded(batch: Batch, x: Any, dim: int, alone: bool = False) -> Any:
    """The batch, in front, made one with dimension `dim` of a sample; `alone`: put before it as one of its own."""
    n = len(x.shape)
    if dim:
        x = batch.emit("permute", x, dims=(*range(1, dim + 1), 0, *range(dim + 1, n)))
    if alone:
        return x
    shape = (*x.shape[:dim], x.shape[dim] * x.shape[dim + 1], *x.shape[dim + 2 :])
    return batch.emit("reshape", x, shape=shape)


def _opened(batch: Batch, x: Any, dim: int, alone: bool = False) -> Any:
    """The inverse of `_folded`."""
    if not alone:
        shape = (*x.shape[:dim], batch.size, x.shape[dim] // max(1, batch.size), *x.shape[dim + 1 :])
        x = batch.emit("reshape", x, shape=shape)
    return batch.emit("permute", x, dims=front(len(x.shape), dim)) if dim else x


def folding(first: str, second: str, result: str) -> BatchRule:
    """The rule for operands and a result that are named by the letters of their dimensions before the spatial ones.

    "ngc", for example, for x; g may be missing from all.
    """

    def rule(
        batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
    ) -> Sequence[Any]:
        spatial = len(attrs["size"])
        grouped = len(xs[0].shape) - flags[0] == spatial + 3
        words = [word if grouped else word.replace("g", "") for word in (first, second, result)]
        if all(flags):
            places = [word.index("g") for word in (first, second, result)]
            a, b = (_folded(batch, x, at, not grouped) for x, at in zip(xs, places, strict=False))
            return (_opened(batch, batch.emit(made.name, a, b, **attrs), places[2], not grouped),)
        mine = 0 if flags[0] else 1
        (own,) = (c for c in words[mine] if c not in words[1 - mine])
        operands = list(xs)
        operands[mine] = _folded(batch, xs[mine], words[mine].index(own))
        return (_opened(batch, batch.emit(made.name, *operands, **attrs), words[2].index(own)),)

    return rule
