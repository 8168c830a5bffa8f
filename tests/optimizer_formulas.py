"""Optimizers as they are published, for one parameter, in NumPy: as they stand in the papers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray
Steps = Iterator[Array]
Formula = Callable[..., Steps]


def _decayed(p: Array, g: Array, o: dict[str, Any]) -> Array:
    g = -g if o.get("maximize") else g
    return g + o.get("weight_decay", 0) * p


def sgd(
    p: Array, gs: list[Array], lr: float = 1e-3, momentum: float = 0, dampening: float = 0, **o: Any
) -> Steps:
    b = None
    for g in gs:
        g = _decayed(p, g, o)
        if momentum:
            b = g if b is None else momentum * b + (1 - dampening) * g
            g = g + momentum * b if o.get("nesterov") else b
        p = p - lr * g
        yield p


def adam(
    p: Array, gs: list[Array], lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, **o: Any
) -> Steps:
    """Kingma and Ba, algorithm 1; Loshchilov and Hutter, algorithm 2; Reddi et al., with bias correction."""
    b1, b2 = betas
    m = v = largest = np.zeros_like(p)
    decoupled = o.get("decoupled_weight_decay", False)
    for t, g in enumerate(gs, 1):
        if decoupled:
            g = -g if o.get("maximize") else g
            p = p - lr * o["weight_decay"] * p
        else:
            g = _decayed(p, g, o)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        largest = np.maximum(largest, v)
        v_hat = (largest if o.get("amsgrad") else v) / (1 - b2**t)
        p = p - lr * (m / (1 - b1**t)) / (np.sqrt(v_hat) + eps)
        yield p


def adamw(p: Array, gs: list[Array], weight_decay: float = 1e-2, **o: Any) -> Steps:
    return adam(p, gs, weight_decay=weight_decay, decoupled_weight_decay=True, **o)


def nadam(
    p: Array,
    gs: list[Array],
    lr: float = 2e-3,
    betas: Any = (0.9, 0.999),
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    **o: Any,
) -> Steps:
    """Dozat, algorithm 2, with the schedule μ_t = β₁ (1 − ½ 0.96^(t ψ))."""
    b1, b2 = betas
    m = v = np.zeros_like(p)
    product = 1.0
    mu = [b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in range(len(gs) + 2)]
    for t, g in enumerate(gs, 1):
        if o.get("decoupled_weight_decay"):
            g = -g if o.get("maximize") else g
            p = p * (1 - lr * o["weight_decay"])
        else:
            g = _decayed(p, g, o)
        product *= mu[t]
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = mu[t + 1] * m / (1 - product * mu[t + 1]) + (1 - mu[t]) * g / (1 - product)
        p = p - lr * m_hat / (np.sqrt(v / (1 - b2**t)) + eps)
        yield p


def radam(
    p: Array, gs: list[Array], lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, **o: Any
) -> Steps:
    """Liu et al., algorithm 2."""
    b1, b2 = betas
    m = v = np.zeros_like(p)
    longest = 2 / (1 - b2) - 1
    for t, g in enumerate(gs, 1):
        if o.get("decoupled_weight_decay"):
            g = -g if o.get("maximize") else g
            p = p * (1 - lr * o["weight_decay"])
        else:
            g = _decayed(p, g, o)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        rho = longest - 2 * t * b2**t / (1 - b2**t)
        if rho > 5:
            r = np.sqrt((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho))
            p = p - lr * m_hat * r * np.sqrt(1 - b2**t) / (np.sqrt(v) + eps)
        else:
            p = p - lr * m_hat
        yield p


def adamax(
    p: Array, gs: list[Array], lr: float = 2e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, **o: Any
) -> Steps:
    b1, b2 = betas
    m = u = np.zeros_like(p)
    for t, g in enumerate(gs, 1):
        g = _decayed(p, g, o)
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, np.abs(g) + eps)
        p = p - lr / (1 - b1**t) * m / u
        yield p


def rmsprop(
    p: Array,
    gs: list[Array],
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0,
    **o: Any,
) -> Steps:
    v = mean = b = np.zeros_like(p)
    for g in gs:
        g = _decayed(p, g, o)
        v = alpha * v + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        spread = v - mean**2 if o.get("centered") else v
        b = momentum * b + g / (np.sqrt(spread) + eps)
        p = p - lr * b
        yield p


def rprop(
    p: Array,
    gs: list[Array],
    lr: float = 1e-2,
    etas: Any = (0.5, 1.2),
    step_sizes: Any = (1e-6, 50),
    **o: Any,
) -> Steps:
    """Riedmiller and Braun, without going back; element by element."""
    p = p.copy()
    size, before = np.full_like(p, lr), np.zeros_like(p)
    for g in gs:
        g = np.array(_decayed(p, g, o))
        for i in np.ndindex(*p.shape):
            if g[i] * before[i] > 0:
                size[i] = min(size[i] * etas[1], step_sizes[1])
            elif g[i] * before[i] < 0:
                size[i] = max(size[i] * etas[0], step_sizes[0])
                g[i] = 0
            p[i] -= np.sign(g[i]) * size[i]
        before = g
        yield p.copy()


def adagrad(
    p: Array,
    gs: list[Array],
    lr: float = 1e-2,
    lr_decay: float = 0,
    initial_accumulator_value: float = 0,
    eps: float = 1e-10,
    **o: Any,
) -> Steps:
    s = np.full_like(p, initial_accumulator_value)
    for t, g in enumerate(gs, 1):
        g = _decayed(p, g, o)
        s = s + g**2
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s) + eps)
        yield p


def adadelta(
    p: Array, gs: list[Array], lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, **o: Any
) -> Steps:
    """Zeiler, algorithm 1."""
    v = u = np.zeros_like(p)
    for g in gs:
        g = _decayed(p, g, o)
        v = rho * v + (1 - rho) * g**2
        d = np.sqrt(u + eps) / np.sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d**2
        p = p - lr * d
        yield p


def asgd(
    p: Array,
    gs: list[Array],
    lr: float = 1e-2,
    lambd: float = 1e-4,
    alpha: float = 0.75,
    t0: float = 1e6,
    **o: Any,
) -> Steps:
    """Polyak and Juditsky; this gives the parameters, and `asgd_means` their averages."""
    for moved, _ in _averaged(p, gs, lr, lambd, alpha, t0, o):
        yield moved


def asgd_means(p: Array, gs: list[Array], lr: float, lambd: float, alpha: float, t0: float) -> Steps:
    for _, mean in _averaged(p, gs, lr, lambd, alpha, t0, {}):
        yield mean


def _averaged(
    p: Array, gs: list[Array], lr: float, lambd: float, alpha: float, t0: float, o: dict[str, Any]
) -> Iterator[tuple[Array, Array]]:
    mean = np.zeros_like(p)
    eta, mu = lr, 1.0
    for t, g in enumerate(gs, 1):
        p = (1 - lambd * eta) * p - eta * _decayed(p, g, o)
        mean = mean + mu * (p - mean)
        eta, mu = lr / (1 + lambd * lr * t) ** alpha, 1 / max(1, t - t0)
        yield p, mean


FORMULAS: dict[str, Formula] = {
    "SGD": sgd,
    "Adam": adam,
    "AdamW": adamw,
    "NAdam": nadam,
    "RAdam": radam,
    "Adamax": adamax,
    "RMSprop": rmsprop,
    "Rprop": rprop,
    "Adagrad": adagrad,
    "Adadelta": adadelta,
    "ASGD": asgd,
}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True},
    ],
    "Adam": [
        {},
        {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.1, "amsgrad": True, "betas": (0.8, 0.7)},
        {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True, "fused": True},
    ],
    "AdamW": [{}, {"lr": 0.1, "weight_decay": 0.5, "amsgrad": True, "foreach": True}],
    "NAdam": [
        {},
        {"lr": 0.1, "weight_decay": 0.1, "momentum_decay": 0.1},
        {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    "RAdam": [
        {},
        {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1},
        {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    "Adamax": [{}, {"lr": 0.1, "weight_decay": 0.1, "maximize": True}],
    "RMSprop": [
        {},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
        {"lr": 0.1, "centered": True, "alpha": 0.9, "maximize": True},
        {"lr": 0.1, "centered": True, "momentum": 0.5},
    ],
    "Rprop": [{}, {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (0.05, 0.2), "maximize": True}],
    "Adagrad": [{}, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}],
    "Adadelta": [{}, {"lr": 0.5, "rho": 0.8, "weight_decay": 0.1, "maximize": True}],
    "ASGD": [{}, {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 3, "weight_decay": 0.1, "maximize": True}],
}
