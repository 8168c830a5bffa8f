"""Attention and transformers against their formulas in NumPy."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import special

import distgrad
from distgrad import nn
from distgrad.nn import functional as F

Array = np.ndarray
RNG = np.random.default_rng(0)
N, HEADS, L, S, E, V = 5, 4, 3, 6, 8, 2
Q, K, VALUES = (
    RNG.normal(size=(N, HEADS, L, E)),
    RNG.normal(size=(N, HEADS, S, E)),
    RNG.normal(size=(N, HEADS, S, V)),
)
SEEN = RNG.random((L, S)) < 0.6
SEEN[1] = False  # a row that sees nothing
ADDED = RNG.normal(size=(N, 1, L, S))
ADDED[0, 0, 2] = -np.inf


def attention(q: Array, k: Array, v: Array, mask: Any = None, scale: float | None = None) -> Array:
    scores = q @ np.swapaxes(k, -1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    shares = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e300))
    total = shares.sum(-1, keepdims=True)
    return shares / np.where(total == 0, 1, total) @ v


CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # arguments, and those of the formula
    "plain": ({}, {}),
    "scaled": ({"scale": 0.3}, {"scale": 0.3}),
    "a mask of bools": ({"attn_mask": SEEN}, {"mask": SEEN}),
    "a mask of numbers": ({"attn_mask": ADDED}, {"mask": ADDED}),
    "causal": ({"is_causal": True}, {"mask": np.tril(np.ones((L, S), bool))}),
}


@pytest.mark.parametrize("name", CALLS)
def test_scaled_dot_product_attention(anywhere: ModuleType, name: str) -> None:
    arguments, formula = CALLS[name]
    arguments = {k: anywhere.tensor(a) if isinstance(a, Array) else a for k, a in arguments.items()}
    inputs = [anywhere.tensor(a, requires_grad=True) for a in (Q, K, VALUES)]
    out = F.scaled_dot_product_attention(*inputs, **arguments)
    np.testing.assert_allclose(
        out.detach().numpy(), attention(Q, K, VALUES, **formula), rtol=1e-9, atol=1e-12
    )
    grads = anywhere.autograd.grad((out * out).sum(), inputs, create_graph=True)
    steps = [RNG.normal(size=a.shape) for a in (Q, K, VALUES)]
    ends = [
        (attention(*[a + h * s for a, s in zip((Q, K, VALUES), steps, strict=True)], **formula) ** 2).sum()
        for h in (1e-6, -1e-6)
    ]
    slope = sum((g.detach().numpy() * s).sum() for g, s in zip(grads, steps, strict=True))
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-5)
    (twice,) = anywhere.autograd.grad(sum((g * g).sum() for g in grads), inputs[:1])
    assert np.isfinite(twice.numpy()).all()  # also where a row sees nothing


def test_heads_of_the_query_share_keys(anywhere: ModuleType) -> None:
    q, k, v = (anywhere.tensor(a) for a in (Q, K[:, :2], VALUES[:, :2]))
    out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    want = attention(Q, K[:, :2].repeat(2, 1), VALUES[:, :2].repeat(2, 1))
    np.testing.assert_allclose(out.numpy(), want)
    with pytest.raises(
        RuntimeError, match="Number of heads in key and value must divide the number of heads"
    ):
        F.scaled_dot_product_attention(q, k.repeat(1, 2, 1, 1)[:, :3], v, enable_gqa=True)


def test_dropout_of_the_weights(anywhere: ModuleType) -> None:
    anywhere.manual_seed(0)
    ones = anywhere.ones(1, 1, 400, 1)
    out = F.scaled_dot_product_attention(ones, ones, ones, dropout_p=0.5).numpy()
    assert 0.9 < out.mean() < 1.1
    assert out.std() > 0.01


def heads_of(x: Array, heads: int) -> Array:
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def several(layer: nn.MultiheadAttention, q: Array, k: Array, v: Array, mask: Any = None) -> Array:
    """What a layer gives for (N, L, E)."""
    state = {name: x.numpy() for name, x in layer.state_dict().items()}
    weights = np.split(state["in_proj_weight"], 3) if "in_proj_weight" in state else None
    if weights is None:
        weights = [state[f"{letter}_proj_weight"] for letter in "qkv"]
    biases = np.split(state["in_proj_bias"], 3)
    q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), weights, biases, strict=True))
    if "bias_k" in state:
        k, v = (
            np.concatenate([x, np.repeat(state[f"bias_{n}"], len(x), 0)], 1) for x, n in ((k, "k"), (v, "v"))
        )
    if layer.add_zero_attn:
        k, v = (np.pad(x, ((0, 0), (0, 1), (0, 0))) for x in (k, v))
    if mask is not None:
        mask = np.pad(mask, ((0, 0),) * 3 + ((0, k.shape[1] - mask.shape[-1]),), constant_values=True)
    out = attention(*(heads_of(x, layer.num_heads) for x in (q, k, v)), mask)
    out = out.swapaxes(1, 2).reshape(q.shape)
    return out @ state["out_proj.weight"].T + state["out_proj.bias"]


LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "other widths": {"kdim": 3, "vdim": 5},
    "added keys": {"add_bias_kv": True, "add_zero_attn": True},
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention(anywhere: ModuleType, name: str, need_weights: bool) -> None:
    anywhere.manual_seed(0)
    settings = LAYERS[name]
    layer = nn.MultiheadAttention(E, HEADS, dtype=anywhere.float64, **settings)
    with anywhere.no_grad():
        layer.in_proj_bias.normal_()
    q, k, v = (
        RNG.normal(size=(N, n, settings.get(kind, E))) for n, kind in ((L, "E"), (S, "kdim"), (S, "vdim"))
    )
    padded, barred = RNG.random((N, S)) < 0.3, RNG.random((L, S)) < 0.3
    padded[:, 0], barred[:, 0] = False, False
    order = (0, 1, 2) if layer.batch_first else (1, 0, 2)
    inputs = [anywhere.tensor(x.transpose(order)) for x in (q, k, v)]
    out, weights = layer(
        *inputs,
        key_padding_mask=anywhere.tensor(padded),
        attn_mask=anywhere.tensor(barred),
        need_weights=need_weights,
    )
    open_ = ~(padded[:, None, None] | barred[None, None])
    want = several(layer, q, k, v, np.repeat(open_, HEADS, 1))
    np.testing.assert_allclose(out.detach().numpy().transpose(order), want, rtol=1e-9, atol=1e-10)
    if need_weights:
        assert weights.shape == (N, L, S + 2 * (name == "added keys"))
        np.testing.assert_allclose(weights.detach().numpy().sum(-1), 1)
        assert (weights.detach().numpy()[..., :S][~open_[:, 0]] == 0).all()
    else:
        assert weights is None
    out.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_attention_to_oneself_is_one_product(anywhere: ModuleType) -> None:
    layer = nn.MultiheadAttention(E, 2, batch_first=True, dtype=anywhere.float64)
    x = RNG.normal(size=(N, L, E))
    t = anywhere.tensor(x)
    out, weights = layer(t, t, t, average_attn_weights=False)
    np.testing.assert_allclose(out.detach().numpy(), several(layer, x, x, x), rtol=1e-9)
    assert weights.shape == (N, 2, L, L)
    single, shares = layer(t[0], t[0], t[0])
    np.testing.assert_allclose(single.detach().numpy(), out.detach().numpy()[0], rtol=1e-9)
    assert shares.shape == (L, L)
    y = RNG.normal(size=(N, S, E))
    memory = anywhere.tensor(y)
    np.testing.assert_allclose(
        layer(t, memory, memory)[0].detach().numpy(), several(layer, x, y, y), rtol=1e-9
    )


ENCODER_KEYS = [
    "self_attn.in_proj_weight",
    "self_attn.in_proj_bias",
    "self_attn.out_proj.weight",
    "self_attn.out_proj.bias",
    *(f"{part}.{kind}" for part in ("linear1", "linear2", "norm1", "norm2") for kind in ("weight", "bias")),
]


def normal(x: Array) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer(anywhere: ModuleType, norm_first: bool) -> None:
    anywhere.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        E, 2, 16, 0.0, "gelu", batch_first=True, norm_first=norm_first, dtype=anywhere.float64
    )
    assert list(layer.state_dict()) == ENCODER_KEYS
    state = {name: x.numpy() for name, x in layer.state_dict().items()}
    x = RNG.normal(size=(N, L, E))

    def feed(x: Array) -> Array:
        inner = x @ state["linear1.weight"].T + state["linear1.bias"]
        return (inner * special.ndtr(inner)) @ state["linear2.weight"].T + state["linear2.bias"]

    def attend(x: Array) -> Array:
        return several(layer.self_attn, x, x, x)

    if norm_first:
        want = x + attend(normal(x))
        want = want + feed(normal(want))
    else:
        want = normal(x + attend(x))
        want = normal(want + feed(want))
    np.testing.assert_allclose(layer(anywhere.tensor(x)).detach().numpy(), want, rtol=1e-8, atol=1e-9)


def test_transformer() -> None:
    distgrad.manual_seed(0)
    model = nn.Transformer(E, 2, 1, 2, 16, 0.0, batch_first=True, dtype=distgrad.float64)
    source, target = RNG.normal(size=(N, S, E)), RNG.normal(size=(N, L, E))
    mask = model.generate_square_subsequent_mask(L)
    assert mask.tolist() == [[0, -math.inf, -math.inf], [0, 0, -math.inf], [0, 0, 0]]
    hints = [
        model(distgrad.tensor(source), distgrad.tensor(target), tgt_mask=mask, tgt_is_causal=hint)
        for hint in (None, True)
    ]
    np.testing.assert_allclose(hints[0].detach().numpy(), hints[1].detach().numpy(), rtol=1e-9)
    changed = np.array(target)
    changed[:, -1] += 1  # what comes later is not seen
    later = model(distgrad.tensor(source), distgrad.tensor(changed), tgt_mask=mask)
    np.testing.assert_allclose(later.detach().numpy()[:, :-1], hints[0].detach().numpy()[:, :-1], rtol=1e-9)
    hints[1].sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    keys = list(model.state_dict())
    assert keys[0] == "encoder.layers.0.self_attn.in_proj_weight"
    assert "decoder.layers.1.multihead_attn.out_proj.bias" in keys
    assert keys[-1] == "decoder.norm.bias"
    assert "(out_proj): NonDynamicallyQuantizableLinear(in_features=8, out_features=8, bias=True)" in repr(
        model
    )


ONES = distgrad.ones(2, 3, 4)
HEAD = nn.MultiheadAttention(4, 2)
MESSAGES: dict[str, Any] = {
    "at least 2 dimensional, but got query.dim: 1": lambda: F.scaled_dot_product_attention(
        *[distgrad.ones(3)] * 3
    ),
    "query.dtype: float key.dtype: double": lambda: F.scaled_dot_product_attention(ONES, ONES.double(), ONES),
    "Explicit attn_mask should not be set when is_causal=True": lambda: F.scaled_dot_product_attention(
        ONES, ONES, ONES, distgrad.ones(3, 3), is_causal=True
    ),
    "got attn_mask.dtype: long int and  query.dtype: float": lambda: F.scaled_dot_product_attention(
        ONES, ONES, ONES, distgrad.ones(3, 3).long()
    ),
    "Need attn_mask if specifying the is_causal hint": lambda: HEAD(ONES, ONES, ONES, is_causal=True),
    "received 4-D query tensor": lambda: HEAD(ONES[None], ONES[None], ONES[None]),
    r"The shape of the 2D attn_mask is torch.Size\(\[3, 3\]\), but should be \(2, 2\)": lambda: HEAD(
        ONES, ONES, ONES, attn_mask=distgrad.zeros(3, 3)
    ),
    "embed_dim must be divisible by num_heads": lambda: nn.MultiheadAttention(4, 3),
    "was expecting embedding dimension of 4, but got 3": lambda: HEAD(*[distgrad.ones(2, 3, 3)] * 3),
    "activation should be relu/gelu, not x": lambda: nn.TransformerEncoderLayer(4, 2, activation="x"),
    "the batch number of src and tgt must be equal": lambda: nn.Transformer(4, 2, 1, 1, 4)(ONES, ONES[:, :2]),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_messages(message: str) -> None:
    with pytest.raises((RuntimeError, ValueError, AssertionError), match=message):
        MESSAGES[message]()
