"""Views by windows, strides and parts; retained gradients of views whose base changes."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest


@pytest.mark.parametrize(("size", "step"), [(2, 2), (2, 3), (3, 1), (1, 2), (2, 1)])
def test_unfold(size: int, step: int, anywhere: ModuleType) -> None:
    torch = anywhere
    a = np.arange(21.0).reshape(7, 3)
    expected = np.lib.stride_tricks.sliding_window_view(a, size, 0)[::step]
    x = torch.tensor(a, requires_grad=True)
    found = x.unfold(0, size, step)
    assert np.array_equal(found.detach().numpy(), expected)
    (found * found).sum().backward()
    counts = np.zeros(7)
    for first in range(0, 7 - size + 1, step):
        counts[first : first + size] += 1
    assert np.array_equal(x.grad.numpy(), 2 * a * counts[:, None])
    with pytest.raises(RuntimeError, match="maximum size for tensor at dimension 0 is 7 but size is 8"):
        x.unfold(0, 8, 1)


def test_they_write_through(anywhere: ModuleType) -> None:
    torch = anywhere
    y = torch.zeros(6, 4)
    y.unfold(0, 2, 2)[1].fill_(1)
    torch.as_strided(y, (2, 4), (4, 1), 16).add_(2)
    assert y.sum(1).tolist() == [0.0, 0.0, 4.0, 4.0, 8.0, 8.0]
    with torch.no_grad():
        y.hsplit(2)[0].zero_()
        y.vsplit(3)[2].mul_(5)
    assert y.sum(1).tolist() == [0.0, 0.0, 2.0, 2.0, 20.0, 20.0]
    assert y.adjoint()._base is y
    with pytest.raises(NotImplementedError, match="not those of C order"):
        y.as_strided((4, 6), (1, 4))
    with pytest.raises(RuntimeError, match="is not divisible by the split_size 4"):
        y.vsplit(4)


def test_a_view_keeps_its_gradient_when_its_base_changes(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    v = y[:2]
    v.retain_grad()
    y.mul_(2)
    assert v.retains_grad
    (y.sum() + v.sum()).backward()
    assert (v.grad.tolist(), x.grad.tolist()) == ([1.0, 1.0], [8.0, 8.0, 4.0])
