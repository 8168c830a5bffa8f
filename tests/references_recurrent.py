"""References of recurrent layers, step by step: kernels' results, and of layers what the table of ops has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from references import Array, reference
from scipy.special import expit


def steps(x: Array, reverse: bool) -> Iterator[int]:
    yield from reversed(range(x.shape[-2])) if reverse else range(x.shape[-2])


def rnn(x: Array, h: Array, w: Array, relu: bool = False, reverse: bool = False) -> Array:
    states = np.empty_like(x)
    for t in steps(x, reverse):
        a = x[..., t, :] + h @ w
        states[..., t, :] = h = np.maximum(a, 0) if relu else np.tanh(a)
    return states


def lstm(x: Array, h: Array, c: Array, w: Array, projection: Any = None, reverse: bool = False) -> Any:
    states, cells, gates = (
        np.empty((*x.shape[:-1], h.shape[-1])),
        np.empty((*x.shape[:-1], c.shape[-1])),
        np.empty(x.shape),
    )
    for t in steps(x, reverse):
        i, f, g, o = np.split(x[..., t, :] + h @ w, 4, -1)
        i, f, g, o = expit(i), expit(f), np.tanh(g), expit(o)
        c = f * c + i * g
        h = o * np.tanh(c) if projection is None else (o * np.tanh(c)) @ projection
        states[..., t, :], cells[..., t, :] = h, c
        gates[..., t, :] = np.concatenate([i, f, g, o], -1)
    return states, cells, gates


def gru(x: Array, h: Array, w: Array, bias: Any = 0.0, reverse: bool = False) -> Any:
    states, gates, inner = (
        np.empty((*x.shape[:-1], h.shape[-1])),
        np.empty(x.shape),
        np.empty((*x.shape[:-1], h.shape[-1])),
    )
    for t in steps(x, reverse):
        a = h @ w + np.asarray(bias)[..., None, :] if np.ndim(bias) else h @ w
        (xr, xz, xn), (ar, az, an) = np.split(x[..., t, :], 3, -1), np.split(a, 3, -1)
        r, z = expit(xr + ar), expit(xz + az)
        n = np.tanh(xn + r * an)
        h = (1 - z) * n + z * h
        states[..., t, :], inner[..., t, :] = h, an
        gates[..., t, :] = np.concatenate([r, z, n], -1)
    return states, gates, inner


reference("_rnn")(rnn)
reference("_gru")(
    lambda x, h, w, bias=None, reverse=False: gru(x, h, w, 0.0 if bias is None else bias, reverse)[0]
)


@reference("_lstm")
def _(x: Array, h: Array, c: Array, w: Array, projection: Any = None, reverse: bool = False) -> Any:
    states, cells, _ = lstm(x, h, c, w, projection, reverse)
    return states, cells[:, 0 if reverse else -1]
