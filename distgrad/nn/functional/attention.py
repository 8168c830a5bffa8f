"""Attention: softmax(query @ key.T * scale) @ value, alone and with several heads.

Inside, a batch of sequences is (N, L, E) and its heads are (N, heads, L, E / heads), so that what is cut along the
batch stays cut so: no dimension that may be cut is ever joined with another.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from distgrad.dtype import bool_, float32
from distgrad.nn.functional.attention_masks import canonical_mask, merged_mask
from distgrad.nn.functional.dropping import dropout
from distgrad.nn.functional.products import linear
from distgrad.ops.activations import softmax
from distgrad.ops.base import Tensor, call
from distgrad.ops.compare import where
from distgrad.ops.joining import cat
from distgrad.ops.making import arange

__all__ = ["multi_head_attention_forward", "scaled_dot_product_attention"]

C_NAMES = {"float32": "float", "float64": "double", "int64": "long int", "int32": "int"}


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ key.T * scale + attn_mask) @ value: (..., L, E), (..., S, E) and (..., S, V) to (..., L, V).

    `attn_mask` broadcasts to (..., L, S): numbers that are added, or bools, True for what takes part; `is_causal` lets
    row i see the rows up to i. A row that sees nothing gives 0. `scale` is 1 / sqrt(E) unless given; `dropout_p` always
    applies. With `enable_gqa` each head of key and value serves as many heads of the query (Ainslie et al. 2023).
    """
    _check(query, key, value, attn_mask, is_causal)
    if enable_gqa:
        heads = query.shape[-3]
        if heads % key.shape[-3] or heads % value.shape[-3]:
            raise RuntimeError("Number of heads in key and value must divide the number of heads in query")
        key, value = (
            call("repeat_interleave", x, heads // x.shape[-3], dim=-3) if x.shape[-3] != heads else x
            for x in (key, value)
        )
    if is_causal:
        rows, columns = query.shape[-2], key.shape[-2]
        attn_mask = arange(rows).unsqueeze(1) >= arange(columns)
    alive = None
    if attn_mask is not None:
        attn_mask, alive = _opened(attn_mask, certain=is_causal)
    weights = dropout(_weights(query, key, attn_mask, scale), dropout_p)
    out = call("matmul", weights, value)
    return out if alive is None else where(alive, out, 0.0)


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool) -> None:
    three = (query, key, value)
    if min(x.dim() for x in three) < 2:
        dims = [x.dim() for x in three]
        raise RuntimeError(
            "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: "
            f"{dims[0]} key.dim: {dims[1]} and value.dim: {dims[2]} instead."
        )
    if len({x.dtype for x in three}) > 1:
        kinds = [C_NAMES.get(x.dtype.name, x.dtype.name) for x in three]
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got query.dtype: "
            f"{kinds[0]} key.dtype: {kinds[1]} and value.dtype: {kinds[2]} instead."
        )
    if not query.is_floating_point():
        raise RuntimeError(f"expected scalar type Float but found {query.dtype.title}")
    if mask is None:
        return
    if is_causal:
        raise RuntimeError(
            "_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True"
        )
    if mask.dtype not in (bool_, float32, query.dtype):
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
            f"{C_NAMES.get(mask.dtype.name, mask.dtype.name)} and  query.dtype: "
            f"{C_NAMES[query.dtype.name]} instead."
        )


def _opened(mask: Tensor, certain: bool = False) -> tuple[Tensor, Tensor | None]:
    """The mask with rows that see nothing opened, and which rows see something; None if it is certain that all do.

    So no softmax is of -inf alone, whose gradient would be nan.
    """
    if certain:
        return mask, None
    seen = mask if mask.dtype == bool_ else mask != -math.inf
    alive = call("any", seen, -1, True)
    if alive._value.array is not None and alive._value.array.all():
        return mask, None
    return (mask | ~alive if mask.dtype == bool_ else where(alive, mask, 0.0)), alive


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
    """softmax(query @ key.T * scale + mask) along the last dimension."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = call("matmul", query * scale, key.transpose(-2, -1))
    if mask is not None:
        scores = where(mask, scores, -math.inf) if mask.dtype == bool_ else scores + mask
    return softmax(scores, -1)


# Several heads.
class Projections(NamedTuple):
    """Weights and biases of the products that make query, key and value."""

    weights: tuple[Tensor, ...]  # one for all three, or three
    bias: Tensor | None  # of all three
    bias_k: Tensor | None = None
    bias_v: Tensor | None = None

    def apply(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value in the heads' dimensions; inputs that are one tensor go through one product."""
        width = query.shape[-1]
        if len(self.weights) == 1 and key is value:
            (weight,) = self.weights
            if query is key:
                q, k, v = call("chunk", linear(query, weight, self.bias), 3, -1)
                return q, k, v
            bias = self.bias
            k, v = call("chunk", linear(key, weight[width:], None if bias is None else bias[width:]), 2, -1)
            return linear(query, weight[:width], None if bias is None else bias[:width]), k, v
        weights = call("chunk", self.weights[0], 3) if len(self.weights) == 1 else self.weights
        biases = (None, None, None) if self.bias is None else call("chunk", self.bias, 3)
        q, k, v = (linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        return q, k, v


class Attention(NamedTuple):
    """How several heads attend; what does not change from call to call."""

    heads: int
    projections: Projections
    out_weight: Tensor
    out_bias: Tensor | None
    add_zero: bool = False
    dropout_p: float = 0.0


def attended(
    how: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool = False,
    need_weights: bool = True,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Output (N, L, E) and weights (N, heads, L, S) of inputs (N, L, E); the mask is added to all scores."""
    count, length, width = query.shape
    q, k, v = how.projections.apply(query, key, value)
    extra = 0
    if how.projections.bias_k is not None:
        bias_k, bias_v = how.projections.bias_k, how.projections.bias_v
        k, v = (cat([x, b.expand(count, 1, width)], 1) for x, b in ((k, bias_k), (v, bias_v)))  # type: ignore[union-attr]
        extra += 1
    q, k, v = (x.reshape(count, x.shape[1], how.heads, -1).transpose(1, 2) for x in (q, k, v))
    k, v = (
        x if s is None else s.reshape(count, how.heads, *s.shape[1:])
        for x, s in ((k, static_k), (v, static_v))
    )
    if how.add_zero:
        k, v = (cat([x, x.new_zeros(count, how.heads, 1, x.shape[-1])], 2) for x in (k, v))
        extra += 1
    if mask is not None and extra:
        mask = cat([mask, mask.new_zeros(*mask.shape[:-1], extra)], -1)
    weights = None
    if need_weights:
        weights = _weights(q, k, mask)
        weights = dropout(weights, how.dropout_p)
        out = call("matmul", weights, v)
    else:
        out = scaled_dot_product_attention(q, k, v, mask, how.dropout_p, is_causal)
    out = out.transpose(1, 2).reshape(count, length, width)
    return linear(out, how.out_weight, how.out_bias), weights


def check_shapes(
    query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, mask: Tensor | None, heads: int
) -> bool:
    """Whether the inputs are a batch; torch's errors for dimensions that do not fit."""
    ndim = query.dim()
    if ndim not in (2, 3):
        raise AssertionError(
            f"query should be unbatched 2D or batched 3D tensor but received {ndim}-D query tensor"
        )
    title = f"For {'batched' if ndim == 3 else 'unbatched'} ({ndim}-D) `query`, expected"
    if key.dim() != ndim or value.dim() != ndim:
        raise AssertionError(
            f"{title} `key` and `value` to be {ndim}-D but found {key.dim()}-D and {value.dim()}-D tensors respectively"
        )
    if padding is not None and padding.dim() != ndim - 1:
        raise AssertionError(
            f"{title} `key_padding_mask` to be `None` or {ndim - 1}-D but found {padding.dim()}-D tensor instead"
        )
    if mask is not None:
        if mask.dim() not in (2, 3):
            raise AssertionError(
                f"{title} `attn_mask` to be `None`, 2-D or 3-D but found {mask.dim()}-D tensor instead"
            )
        wanted = (heads, query.shape[0], key.shape[0])
        if ndim == 2 and mask.dim() == 3 and tuple(mask.shape) != wanted:
            raise AssertionError(f"Expected `attn_mask` shape to be {wanted} but got {mask.shape}")
    return ndim == 3


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention of several heads (Vaswani et al. 2017): (L, N, E), (S, N, E) and (S, N, E) to (L, N, E), or without N.

    See `nn.MultiheadAttention` for the arguments; the weights come as (N, L, S), or (N, heads, L, S) if not averaged.
    """
    weights: tuple[Any, ...] = (in_proj_weight,)
    if use_separate_proj_weight:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    for name, weight in zip("qkv" if use_separate_proj_weight else ("in",), weights, strict=True):
        if weight is None:
            raise AssertionError(
                f"use_separate_proj_weight is {use_separate_proj_weight} but {name}_proj_weight is None"
            )
    how = Attention(
        num_heads,
        Projections(weights, in_proj_bias, bias_k, bias_v),
        out_proj_weight,
        out_proj_bias,
        add_zero_attn,
        dropout_p if training else 0.0,
    )
    return laid_out(
        how,
        (query, key, value),
        key_padding_mask,
        attn_mask,
        embed_dim_to_check,
        need_weights,
        average_attn_weights,
        is_causal,
        static_k,
        static_v,
    )


def laid_out(
    how: Attention,
    inputs: tuple[Tensor, Tensor, Tensor],
    padding: Tensor | None,
    attn_mask: Tensor | None,
    width: int,
    need_weights: bool,
    average: bool,
    is_causal: bool,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`batch_attended` of query, key and value (L, N, E), or (N, L, E) with `batch_first`, or (L, E)."""
    batched = check_shapes(*inputs, padding, attn_mask, how.heads)
    made: dict[int, Tensor] = {}
    for x in inputs:  # what is one tensor stays one, and goes through one product
        if id(x) not in made:
            made[id(x)] = x.unsqueeze(0) if not batched else x if batch_first else x.transpose(0, 1)
    query, key, value = (made[id(x)] for x in inputs)
    if not batched and padding is not None:
        padding = padding.unsqueeze(0)
    out, weights = batch_attended(
        how, query, key, value, padding, attn_mask, width, need_weights, is_causal, static_k, static_v
    )
    if weights is not None and average:
        weights = weights.mean(1)
    if not batched:
        return out.squeeze(0), None if weights is None else weights.squeeze(0)
    return out if batch_first else out.transpose(0, 1), weights


def batch_attended(
    how: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    attn_mask: Tensor | None,
    width: int,
    need_weights: bool,
    is_causal: bool,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`attended`, with torch's masks and checks."""
    bias_k, bias_v = how.projections.bias_k, how.projections.bias_v
    if is_causal and attn_mask is None:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint. You may use the Transformer module method "
            "`generate_square_subsequent_mask` to create this mask."
        )
    if query.shape[-1] != width:
        raise AssertionError(f"was expecting embedding dimension of {width}, but got {query.shape[-1]}")
    if width % how.heads:
        raise AssertionError(f"embed_dim {width} not divisible by num_heads {how.heads}")
    if len(how.projections.weights) == 1 and key.shape != value.shape:
        raise AssertionError(f"key shape {key.shape} does not match value shape {value.shape}")
    if key.shape[:2] != value.shape[:2]:
        raise AssertionError(
            f"key's sequence and batch dims {key.shape[:2]} do not match value's {value.shape[:2]}"
        )
    if (bias_k is None) != (bias_v is None):
        given, missing = ("bias_k", "bias_v") if bias_v is None else ("bias_v", "bias_k")
        raise AssertionError(f"{given} is set but {missing} is None")
    if bias_k is not None and (static_k is not None or static_v is not None):
        raise AssertionError(f"bias cannot be added to static {'key' if static_k is not None else 'value'}.")
    padding = canonical_mask(padding, "key_padding_mask", query.dtype, attn_mask, stacklevel=4)
    if is_causal and padding is None and not need_weights:
        attn_mask = None  # the mask is what the hint says
    else:
        is_causal = False
    attn_mask = canonical_mask(attn_mask, "attn_mask", query.dtype)
    source = key.shape[1] if static_k is None else static_k.shape[1]
    mask = merged_mask(attn_mask, padding, query, source, how.heads)
    return attended(how, query, key, value, mask, is_causal, need_weights, static_k, static_v)
