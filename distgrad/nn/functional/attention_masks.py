"""Masks of attention, put into one form and merged."""

from __future__ import annotations

import math
import warnings
from typing import Any

from distgrad.dtype import bool_
from distgrad.ops.base import Tensor
from distgrad.ops.compare import where
from distgrad.ops.making import zeros

__all__: list[str] = []


def canonical_mask(
    mask: Tensor | None, name: str, dtype: Any, other: Tensor | None = None, stacklevel: int = 3
) -> Tensor | None:
    """A mask as numbers that are added: a bool True, which does not take part, becomes -inf."""
    if mask is None:
        return None
    if mask.dtype != bool_ and not mask.is_floating_point():
        raise AssertionError(f"only bool and floating types of {name} are supported")
    if other is not None and other.dtype != mask.dtype:
        warnings.warn(
            f"Support for mismatched {name} and attn_mask is deprecated. Use same type for both instead.",
            stacklevel=stacklevel,
        )
    if mask.dtype != bool_:
        return mask
    return where(mask, -math.inf, zeros((), dtype=dtype))


def merged_mask(
    attn_mask: Tensor | None, padding: Tensor | None, query: Tensor, source: int, heads: int
) -> Tensor | None:
    """One mask for (N, heads, L, S) of canonical ones (L, S) or (N * heads, L, S), and (N, S); `query` is (N, L, E)."""
    count, length, _ = query.shape
    mask = None
    if attn_mask is not None:
        ndim = attn_mask.dim()
        wanted = (length, source) if ndim == 2 else (count * heads, length, source)
        if tuple(attn_mask.shape) != wanted:
            raise RuntimeError(
                f"The shape of the {ndim}D attn_mask is {attn_mask.shape}, but should be {wanted}."
            )
        mask = attn_mask if ndim == 2 else attn_mask.reshape(count, heads, length, source)
    if padding is not None:
        if tuple(padding.shape) != (count, source):
            raise AssertionError(
                f"Expected key_padded_mask.shape[0] to be {count}, but got {padding.shape[0]}"
                if padding.shape[0] != count
                else f"Expected key_padded_mask.shape[1] to be {source}, but got {padding.shape[1]}"
            )
        padding = padding.reshape(count, 1, 1, source)
        mask = padding if mask is None else mask + padding
    return mask
