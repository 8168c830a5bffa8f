"""Distinct elements: how many there are is known only when they are."""

from __future__ import annotations

from types import ModuleType

import numpy as np


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
