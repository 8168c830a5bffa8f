"""Norms of matrices: values, gradients and second derivatives, for batches, other dimensions and cut tensors."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

INF = math.inf
ORDERS = ["fro", "nuc", 1, -1, 2, -2, INF, -INF]
A = np.array([[2.0, -1.0, 0.5], [1.0, 3.0, -2.0]])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cuts", [None, {0: 1}, {1: 2}], ids=str)
def test_values_and_derivatives(torch: ModuleType, order: Any, cuts: Any) -> None:
    """The derivatives against differences of NumPy's norm."""
    x = torch.tensor(A, sharding=cuts, requires_grad=True)
    y = torch.linalg.matrix_norm(x, order)
    assert y.item() == pytest.approx(np.linalg.norm(A, order), rel=1e-12)
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    weights = np.array([[0.3, -1.0, 2.0], [1.0, 0.7, -0.4]])
    np.testing.assert_allclose(first.tolist(), differences(lambda a: np.linalg.norm(a, order), A), atol=1e-8)
    (second,) = torch.autograd.grad((first * torch.tensor(weights)).sum(), x)
    slope = lambda a: (weights * differences(lambda b: np.linalg.norm(b, order), a)).sum()  # noqa: E731
    np.testing.assert_allclose(second.tolist(), differences(slope, A, 1e-3), atol=1e-4)


def differences(f: Any, a: np.ndarray, h: float = 1e-4) -> np.ndarray:
    out = np.zeros_like(a)
    for at in np.ndindex(a.shape):
        step = np.zeros_like(a)
        step[at] = h
        out[at] = (8 * (f(a + step) - f(a - step)) - (f(a + 2 * step) - f(a - 2 * step))) / (12 * h)
    return out


@pytest.mark.parametrize("order", ORDERS)
def test_batches_in_any_dimensions(torch: ModuleType, order: Any) -> None:
    a = np.random.default_rng(0).standard_normal((3, 4, 2))
    for dim in ((-2, -1), (0, 2), (2, 0), (1, 0)):
        for keepdim in (False, True):
            want = np.linalg.norm(a, order, dim, keepdim)
            for cuts in (None, {0: 1}, {1: 3}):
                x = torch.tensor(a, sharding=cuts)
                np.testing.assert_allclose(torch.linalg.matrix_norm(x, order, dim, keepdim).numpy(), want)
                np.testing.assert_allclose(torch.linalg.norm(x, order, dim, keepdim).numpy(), want)


def test_norm_takes_matrices_for_nuc_alone(torch: ModuleType) -> None:
    x = torch.tensor(A, requires_grad=True)
    assert torch.norm(x, "nuc").item() == pytest.approx(np.linalg.norm(A, "nuc"))
    assert x.norm("nuc", (1, 0)).item() == pytest.approx(np.linalg.norm(A, "nuc"))
    assert torch.norm(x, 1, (0, 1)).item() == pytest.approx(np.abs(A).sum())
    assert torch.norm(x, 2).item() == pytest.approx(np.linalg.norm(A))
    assert torch.linalg.norm(x).item() == pytest.approx(np.linalg.norm(A))
    assert torch.linalg.norm(x, 1, dim=0).tolist() == np.abs(A).sum(0).tolist()
    assert torch.linalg.norm(x, 2).grad_fn.name() == "AmaxBackward0"
    assert torch.linalg.norm(x, dtype=torch.float32).dtype is torch.float32


def test_equal_singular_values_and_empty_matrices(torch: ModuleType) -> None:
    x = torch.eye(3, requires_grad=True)
    (g,) = torch.autograd.grad(torch.norm(x, "nuc"), x, create_graph=True)
    np.testing.assert_allclose(g.tolist(), np.eye(3), atol=1e-6)
    (second,) = torch.autograd.grad(g.sum(), x)
    assert np.isfinite(second.tolist()).all()
    for order in ("nuc", 2, -2, 1, INF):
        assert torch.linalg.matrix_norm(torch.zeros(0, 3), order).item() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda t: t.linalg.norm(t.ones(2, 2, 2), 2),
            "but ord is, the input must be 1D or 2D",
        ),
        (lambda t: t.linalg.norm(t.ones(2, 2), 3), "Order 3 not supported"),
        (
            lambda t: t.linalg.norm(t.ones(2, 2, 2), 2, (0, 1, 2)),
            "it must be of length 1 or 2. Got \\[0, 1, 2\\]",
        ),
        (lambda t: t.linalg.matrix_norm(t.ones(2, 2), 1, (1, 1)), "dims must be different. Got \\(1, 1\\)"),
        (lambda t: t.linalg.matrix_norm(t.ones(2)), "must have at least 2 dimensions"),
        (lambda t: t.linalg.matrix_norm(t.ones(2, 2, dtype=t.int64)), "Got Long"),
        (lambda t: t.norm(t.ones(2, 2), "nuc", 0), "dim must be a 2-tuple. Got 0"),
        (lambda t: t.norm(t.tensor([[math.nan, 1.0]]), "nuc").item(), "contained non-finite values"),
    ],
)
def test_refusals(torch: ModuleType, call: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call(torch)
