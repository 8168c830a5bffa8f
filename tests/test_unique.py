"""Distinct elements: how many there are is known only when they are."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest


def test_unique_elements_are_numpys(torch: ModuleType) -> None:
    array = np.array([[3, 1, 3, 7], [1, 1, 0, 7]])
    x = torch.tensor(array)
    found, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True)
    assert (found.tolist(), counts.tolist()) == ([0, 1, 3, 7], [1, 3, 2, 2])
    np.testing.assert_array_equal(found.numpy()[inverse.numpy()], array)
    assert x.unique().tolist() == [0, 1, 3, 7]
    assert torch.unique(torch.zeros(0)).tolist() == []
    runs, counts = torch.unique_consecutive(torch.tensor([2, 2, 1, 2]), return_counts=True)
    assert (runs.tolist(), counts.tolist()) == ([2, 1, 2], [2, 1, 1])


def test_unique_slices_are_numpys(anywhere: ModuleType) -> None:
    torch, random = anywhere, np.random.default_rng(0)
    for shape, dim in (((13, 3), 0), ((4, 11), 1), ((3, 7, 2), -2), ((9,), 0), ((5, 1), 0)):
        array = random.integers(0, 2, shape)
        found, inverse, counts = torch.unique(
            torch.tensor(array), dim=dim, return_inverse=True, return_counts=True
        )
        wanted, places, many = np.unique(array, axis=dim, return_inverse=True, return_counts=True)
        assert found.tolist() == wanted.tolist()
        assert (inverse.tolist(), counts.tolist()) == (places.reshape(-1).tolist(), many.tolist())


def test_runs_of_slices(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.tensor([[3, 1], [3, 1], [1, 2], [3, 1]] * 3)
    found, inverse, counts = torch.unique_consecutive(x, dim=0, return_inverse=True, return_counts=True)
    assert found.tolist() == [[3, 1], [1, 2], [3, 1], [1, 2], [3, 1], [1, 2], [3, 1]]
    assert inverse.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6]
    assert counts.tolist() == [2, 1, 3, 1, 3, 1, 1]
    assert torch.unique_consecutive(x.t(), dim=1).tolist() == found.t().tolist()


def test_slices_with_nan_and_zeros(anywhere: ModuleType) -> None:
    torch, nan = anywhere, float("nan")
    found, counts = torch.unique(
        torch.tensor([[1.0, nan], [1, nan], [0, 0], [-0.0, 0]]), dim=0, return_counts=True
    )
    assert counts.tolist() == [2, 1, 1]
    assert found[0].tolist() == [0, 0]
    assert tuple(torch.unique(torch.zeros(0, 3), dim=0).shape) == (0, 3)
    with pytest.raises(RuntimeError, match="There are 0 sized dimensions, and they aren't selected"):
        torch.unique(torch.zeros(2, 0), dim=0)
    with pytest.raises(IndexError, match="Dimension specified as 0 but tensor has no dimensions"):
        torch.unique(torch.tensor(3), dim=0)
    x = torch.tensor([[2.0], [1], [2]], requires_grad=True)
    (torch.unique(x, dim=0) * torch.tensor([[1.0], [5]])).sum().backward()
    assert x.grad.tolist() == [[5], [1], [0]]
