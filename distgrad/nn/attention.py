"""Attention of several heads as a layer."""

from __future__ import annotations

from typing import Any

from distgrad.nn import init
from distgrad.nn.functional.attention import Attention, Projections, laid_out
from distgrad.nn.linear import Linear
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter
from distgrad.ops.making import empty
from distgrad.tensor import Tensor

__all__ = ["MultiheadAttention"]


class NonDynamicallyQuantizableLinear(Linear):
    """`Linear` under the name that torch prints here."""


class MultiheadAttention(Module):
    """Attention of `num_heads` heads (Vaswani et al. 2017): out_proj(concatenated heads), and the heads' weights.

    Query, key and value are (L, N, E), (S, N, kdim) and (S, N, vdim), with `batch_first` (N, L, E) and so on, or all
    without N. `add_bias_kv` adds a learnt key and value to each sequence, `add_zero_attn` one of zeros; `dropout` is
    that of the weights.
    """

    __constants__ = ("batch_first",)
    in_proj_weight: Any
    q_proj_weight: Any
    k_proj_weight: Any
    v_proj_weight: Any
    in_proj_bias: Any
    bias_k: Any
    bias_v: Any

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and num_heads={num_heads} "
                "instead"
            )
        super().__init__()
        self.embed_dim = embed_dim
        self.kdim, self.vdim = (embed_dim if n is None else n for n in (kdim, vdim))
        self._qkv_same_embed_dim = self.kdim == self.vdim == embed_dim
        self.num_heads, self.dropout, self.batch_first = num_heads, dropout, batch_first
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError("embed_dim must be divisible by num_heads")

        def parameter(name: str, present: bool, *shape: int) -> None:
            made = Parameter(empty(shape, device=device, dtype=dtype)) if present else None
            self.register_parameter(name, made)

        separate = not self._qkv_same_embed_dim
        for letter, width in (("q", embed_dim), ("k", self.kdim), ("v", self.vdim)):
            parameter(f"{letter}_proj_weight", separate, embed_dim, width)
        parameter("in_proj_weight", not separate, 3 * embed_dim, embed_dim)
        parameter("in_proj_bias", bias, 3 * embed_dim)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, device, dtype)
        for letter in "kv":
            parameter(f"bias_{letter}", add_bias_kv, 1, 1, embed_dim)
        self.add_zero_attn = add_zero_attn
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            if getattr(self, name) is not None:
                init.xavier_uniform_(getattr(self, name))
        if self.in_proj_bias is not None:
            init.constant_(self.in_proj_bias, 0.0)
            init.constant_(self.out_proj.bias, 0.0)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def _how(self) -> Attention:
        weights: tuple[Any, ...] = (self.in_proj_weight,)
        if not self._qkv_same_embed_dim:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        return Attention(
            self.num_heads,
            Projections(weights, self.in_proj_bias, self.bias_k, self.bias_v),
            self.out_proj.weight,
            self.out_proj.bias,
            self.add_zero_attn,
            self.dropout if self.training else 0.0,
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output, and the weights (N, L, S), or (N, heads, L, S) if not averaged, or None if not needed.

        `key_padding_mask` (N, S) and `attn_mask` (L, S) or (N * heads, L, S) are numbers that are added, or bools, True
        for what does not take part. `is_causal` says that `attn_mask` is the causal one.
        """
        return laid_out(
            self._how(),
            (query, key, value),
            key_padding_mask,
            attn_mask,
            self.embed_dim,
            need_weights,
            average_attn_weights,
            is_causal,
            batch_first=self.batch_first,
        )
