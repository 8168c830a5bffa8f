"""Ranks, condition numbers, long products and tensors as matrices: against NumPy."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from distgrad.ops.matrix_functions import _order

A = np.array([[4.0, 2, 1], [1, 3, 0.5], [0.2, 0.4, 5]])
LOW = np.array([[1.0, 2, 0], [2, 4, 0], [0, 0, 1]])


def test_ranks(anywhere: ModuleType) -> None:
    torch = anywhere
    both = torch.tensor(np.stack([A, LOW]))
    assert torch.linalg.matrix_rank(both).tolist() == [3, 2]
    assert torch.linalg.matrix_rank(both[1], hermitian=True).item() == 2
    assert torch.linalg.matrix_rank(both[0], atol=3.0).item() == np.linalg.matrix_rank(A, tol=3.0)
    assert torch.linalg.matrix_rank(both[0], rtol=0.9).item() == 1
    assert torch.linalg.matrix_rank(torch.ones(2, 5)).item() == 1
    with pytest.raises(RuntimeError, match="must have at least 2 dimensions"):
        torch.linalg.matrix_rank(torch.ones(2))


@pytest.mark.parametrize("p", [None, "fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf], ids=str)
def test_condition_numbers(anywhere: ModuleType, p: Any) -> None:
    torch = anywhere
    x = torch.tensor(np.stack([A, A.T + 1]), requires_grad=True)
    found = torch.linalg.cond(x, p)
    np.testing.assert_allclose(
        found.detach().numpy(), [np.linalg.cond(a, p) for a in (A, A.T + 1)], rtol=1e-9
    )
    found.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    if p not in (None, 2, -2):
        assert torch.linalg.cond(torch.tensor(np.diag([1.0, 0])), p).item() == np.inf


def test_long_products(anywhere: ModuleType) -> None:
    torch = anywhere
    shapes = [(9, 2), (2, 7), (7, 3), (3, 5)]
    arrays = [np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate(shapes)]
    parts = [torch.tensor(a, requires_grad=True) for a in arrays]
    found = torch.linalg.multi_dot(parts)
    np.testing.assert_allclose(found.detach().numpy(), np.linalg.multi_dot(arrays), rtol=1e-9)
    found.sum().backward()
    assert all(p.grad.shape == p.shape for p in parts)
    vector = torch.ones(9, dtype=torch.float64)
    assert torch.linalg.multi_dot([vector, *parts]).shape == (5,)
    assert torch.linalg.multi_dot([vector, parts[0], vector[:2]]).shape == ()
    assert torch.chain_matmul(*parts).tolist() == found.tolist()
    for wrong, text in (
        ([parts[0]], r"multi_dot\(\): expected at least 2 tensors but got 1"),
        ([parts[0], parts[2]], r"tensors 0 and 1 with shapes \[9, 2\] and \[7, 3\] cannot be multiplied"),
        ([parts[0], torch.ones(2, 2, 2), parts[1]], r"multi_dot\(\): tensor 1 must be 2D but got 3D"),
    ):
        with pytest.raises(RuntimeError, match=text):
            torch.linalg.multi_dot(wrong)


def test_the_order_is_the_cheapest() -> None:
    def cost(order: Any, n: tuple[int, ...]) -> tuple[int, int, int]:
        if isinstance(order, int):
            return order, order + 1, 0
        (i, k, a), (_, j, b) = (cost(part, n) for part in order)
        return i, j, a + b + n[i] * n[k] * n[j]

    def all_orders(i: int, j: int) -> Any:
        if j == i + 1:
            yield i
        for k in range(i + 1, j):
            yield from itertools.product(all_orders(i, k), all_orders(k, j))

    for lengths in ((3, 1, 4, 1, 5, 9), (10, 100, 5, 50), (2, 2, 2, 2, 2)):
        least = min(cost(order, lengths)[2] for order in all_orders(0, len(lengths) - 1))
        assert cost(_order(lengths), lengths)[2] == least


def test_tensors_as_matrices(anywhere: ModuleType) -> None:
    torch = anywhere
    x = np.random.default_rng(0).standard_normal((2, 3, 6)) + np.eye(6).reshape(2, 3, 6) * 4
    b = np.arange(6.0).reshape(2, 3)
    a = torch.tensor(x)
    np.testing.assert_allclose(torch.linalg.tensorinv(a, 2).numpy(), np.linalg.tensorinv(x, 2), rtol=1e-9)
    np.testing.assert_allclose(
        torch.linalg.tensorsolve(a, torch.tensor(b)).numpy(), np.linalg.tensorsolve(x, b), rtol=1e-9
    )
    turned = torch.tensor(np.moveaxis(x, 1, 2))
    np.testing.assert_allclose(
        torch.linalg.tensorsolve(turned, torch.tensor(b.reshape(2, 3)[:, :3].reshape(6)), dims=(0,))
        .numpy()
        .reshape(-1),
        np.linalg.solve(np.moveaxis(np.moveaxis(x, 1, 2), 0, -1).reshape(6, 6), b.reshape(-1)),
        rtol=1e-9,
    )
    v = np.array([[1.0, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(
        torch.linalg.vander(torch.tensor(v)).numpy(), [np.vander(r, increasing=True) for r in v]
    )
    np.testing.assert_array_equal(
        torch.linalg.vander(torch.tensor([1, 2, 3]), N=2).numpy(), [[1, 1], [1, 2], [1, 3]]
    )
    assert torch.linalg.vecdot(torch.tensor(v), torch.tensor(v[0])).tolist() == [14, 32]
    assert torch.matrix_power(torch.tensor(LOW), 2).tolist() == (LOW @ LOW).tolist()
    np.testing.assert_allclose(torch.tensor(A).inverse().numpy(), np.linalg.inv(A), rtol=1e-12)
    with pytest.raises(RuntimeError, match="Expected a strictly positive integer for 'ind', but got 0"):
        torch.linalg.tensorinv(a, 0)
