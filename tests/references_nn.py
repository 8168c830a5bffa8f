"""References of activations and losses: see `references.py`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from references import Array, reference, same
from scipy import special

# Activations.
same(
    leaky_relu=lambda x, slope=0.01: np.where(x > 0, x, slope * x),
    elu=lambda x, alpha=1.0, scale=1.0, inner=1.0: (
        scale * np.where(x > 0, x, alpha * (np.exp(inner * x) - 1))
    ),
    selu=lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1)),
    celu=lambda x, alpha=1.0: np.maximum(0, x) + np.minimum(0, alpha * (np.exp(x / alpha) - 1)),
    silu=lambda x: x / (1 + np.exp(-x)),
    mish=lambda x: x * np.tanh(np.log(1 + np.exp(x))),
    logsigmoid=special.log_expit,
    hardtanh=lambda x, low=-1, high=1: np.clip(x, *(np.asarray(n).astype(x.dtype) for n in (low, high))),
    hardsigmoid=lambda x: np.clip(x / 6 + 1 / 2, 0, 1),
    hardswish=lambda x: x * np.clip(x / 6 + 1 / 2, 0, 1),
    hardshrink=lambda x, size=0.5: np.where(np.abs(x) > size, x, 0),
    softshrink=lambda x, size=0.5: np.sign(x) * np.maximum(np.abs(x) - size, 0),
    threshold=lambda x, least, value: (
        np.where(x > least, x, value).astype(x.dtype)
        if x.dtype.kind == "f"
        else np.where(x > int(least), x, int(value))
    ),
    threshold_backward=lambda g, x, least: np.where(x > least, g, 0),
    leaky_relu_backward=lambda g, x, slope: np.where(x > 0, g, slope * g),
    hardtanh_backward=lambda g, x, low, high: np.where((x > low) & (x < high), g, 0),
    hardshrink_backward=lambda g, x, size: np.where(np.abs(x) > size, g, 0),
    _prelu_kernel=lambda x, weight: np.maximum(x, 0) + weight * np.minimum(x, 0),
    rrelu_with_noise=np.multiply,
)


@reference("prelu")
def _(x: Array, weight: Array) -> Array:
    weight = weight if x.ndim < 2 else weight.reshape(1, -1, *[1] * (x.ndim - 2))
    return np.maximum(x, 0) + weight * np.minimum(x, 0)


@reference("glu")
def _(x: Array, dim: int = -1) -> Array:
    a, b = np.split(x, 2, dim)
    return a / (1 + np.exp(-b))


@reference("gelu")
def _(x: Array, approximate: str = "none") -> Array:
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * special.ndtr(x)


@reference("softplus")
def _(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    return np.where(x * beta > threshold, x, np.log1p(np.exp(x * beta)) / beta)


# Losses.
def reduced(loss: Array, how: str) -> Any:
    return loss if how == "none" else getattr(np, how)(loss)


same(
    mse_loss=lambda x, y, how="mean": reduced((x - y) ** 2, how),
    embedding=lambda weight, i, padding=-1: weight[i],
    one_hot=lambda x, n=-1: np.eye(n if n > 0 else int(x.max()) + 1, dtype=int)[x],
)


@reference("nll_loss_forward")
def _(x: Array, target: Array, weight: Any = None, how: str = "mean", ignored: int = -100) -> Any:
    rows = np.moveaxis(x, 1, -1) if x.ndim > 1 else x
    counted = target != ignored
    safe = np.where(counted, target, 0)
    weights = (np.ones(rows.shape[-1], x.dtype) if weight is None else weight)[safe] * counted
    loss = -np.take_along_axis(rows, safe[..., None], -1)[..., 0] * weights
    total = weights.sum() if how == "mean" else np.zeros((), x.dtype)
    return loss.sum() / total if how == "mean" else reduced(loss, how), total


@reference("binary_cross_entropy")
def bce(x: Array, y: Array, weight: Any = None, how: str = "mean") -> Any:
    return reduced(-(y * np.log(x) + (1 - y) * np.log(1 - x)) * (1 if weight is None else weight), how)


@reference("binary_cross_entropy_with_logits")
def _(x: Array, y: Array, weight: Any = None, positive: Any = None, how: str = "mean") -> Any:
    p = 1 / (1 + np.exp(-x))
    loss = -((1 if positive is None else positive) * y * np.log(p) + (1 - y) * np.log(1 - p))
    return reduced(loss * (1 if weight is None else weight), how)


@reference("_chosen")
def chosen(src: np.ndarray, index: np.ndarray, dim: int, shape: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(shape)
    np.put_along_axis(out, index, src, dim)
    return out


@reference("_embedding_dense_backward")
def _(g: Array, index: Array, rows: int, padding: int) -> Array:
    out = np.zeros((rows, g.shape[-1]), g.dtype)
    for at in np.ndindex(index.shape):
        if index[at] != padding:
            out[index[at]] += g[at]
    return out


# Normalisation.
def standardized(x: Array, w: Any = 1.0, b: Any = 0.0, *, dims: Any, eps: float, centre: bool) -> Any:
    mean = x.mean(dims, keepdims=True) * centre
    var = ((x - mean) ** 2).mean(dims, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * w + b, mean, var


@reference("_standardize")
def _(x: Array, w: Any, b: Any, dims: tuple[int, ...], eps: float, title: str, centre: bool = True) -> Any:
    return standardized(x, *(p for p in (w, b) if p is not None), dims=dims, eps=eps, centre=centre)


@reference("_normalize_by")
def _(x: Array, mean: Array, var: Array, w: Any = 1.0, b: Any = 0.0, eps: float = 1e-5) -> Any:
    return (x - mean) / np.sqrt(var + eps) * w + b


# Losses of regression.
def huber(x: Array, y: Array, how: str = "mean", delta: float = 1.0) -> Any:
    d = np.abs(x - y)
    return reduced(np.where(d < delta, d**2 / 2, delta * (d - delta / 2)), how)


same(
    huber_loss=huber,
    smooth_l1_loss=lambda x, y, how="mean", beta=1.0: huber(x, y, how, beta) / beta,
    soft_margin_loss=lambda x, y, how="mean": reduced(np.log(1 + np.exp(-x * y)), how),
)
