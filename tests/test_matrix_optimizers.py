"""Adafactor and Muon against their formulas in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from values import Start

import distgrad as torch

RNG = np.random.default_rng(4)
P = RNG.standard_normal((5, 3))
GS = [RNG.standard_normal((5, 3)) for _ in range(4)]
WHERE = pytest.mark.parametrize("places", ["driver", "workers"])


def moved(name: str, p: np.ndarray, gs: list[np.ndarray], **options: Any) -> list[np.ndarray]:
    x = torch.tensor(p, dtype=torch.float64)
    if torch.is_initialized() and x.ndim > 1:
        x = x.reshard([0, 2, 2, len(p)])
    x.requires_grad_()
    optimizer = getattr(torch.optim, name)([x], **options)
    seen = []
    for g in gs:
        x.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        seen.append(x.detach().clone())
    return [y.numpy() for y in seen]


def adafactor(p: np.ndarray, gs: list[np.ndarray], lr: float = 1e-2, d: float = 1.0, decay: float = 0) -> Any:
    rms = lambda x: np.sqrt(np.mean(x**2))  # noqa: E731
    r, c, v = 0.0, 0.0, np.zeros_like(p)
    for t, g in enumerate(gs, 1):
        b = 1 - t**-0.8
        size = max(1e-3, rms(p)) * min(lr, 1 / np.sqrt(t))
        p = p * (1 - lr * decay)
        if p.ndim > 1:
            r = b * r + (1 - b) * (g**2).mean(1)
            c = b * c + (1 - b) * (g**2).mean(0)
            v = np.outer(r, c) / r.mean()
        else:
            v = b * v + (1 - b) * g**2
        u = g / np.sqrt(v)
        p = p - size * u / max(1, rms(u) / d)
        yield p


def muon(p: np.ndarray, gs: list[np.ndarray], lr: float = 1e-3, decay: float = 0.1) -> Any:
    """By the singular values: each is sent through 3.4445 s − 4.775 s³ + 2.0315 s⁵, five times."""
    m = np.zeros_like(p)
    for g in gs:
        m = 0.95 * m + 0.05 * g
        left, s, right = np.linalg.svd(0.05 * g + 0.95 * m, full_matrices=False)
        s = s / np.sqrt((s**2).sum())
        for _ in range(5):
            s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
        p = p * (1 - lr * decay) - lr * np.sqrt(max(1, p.shape[0] / p.shape[1])) * (left * s) @ right
        yield p


@WHERE
def test_adafactor(start: Start, places: str) -> None:
    if places == "workers":
        start(3, 64)
    for p, gs in ((P, GS), (P[0], [g[0] for g in GS])):
        got = moved("Adafactor", p, gs, lr=0.1, weight_decay=0.2)
        for x, want in zip(got, adafactor(p, gs, lr=0.1, decay=0.2), strict=True):
            np.testing.assert_allclose(x, want, rtol=1e-12, atol=1e-12)


@WHERE
def test_muon(start: Start, places: str) -> None:
    if places == "workers":
        start(3, 64)
    for p, gs in ((P, GS), (P.T, [g.T for g in GS])):
        for x, want in zip(moved("Muon", p, gs, lr=0.1), muon(p, gs, lr=0.1), strict=True):
            np.testing.assert_allclose(x, want, rtol=1e-12, atol=1e-12)


def test_wrong_arguments_are_refused() -> None:
    p = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"Muon only supports 2D parameters .* size: torch.Size\(\[2\]\)"):
        torch.optim.Muon([p])
    with pytest.raises(ValueError, match=r"Clipping threshold d should be >= 1 but is: 0.5"):
        torch.optim.Adafactor([p], d=0.5)
    with pytest.raises(NotImplementedError, match="distgrad has no sparse gradients: use Adam"):
        torch.optim.SparseAdam([p])
