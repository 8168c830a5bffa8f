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
    with pytest.raises(RuntimeError, match="is not divisible by the split_size 4"):
        y.vsplit(4)


def test_strides_of_any_kind(anywhere: ModuleType) -> None:
    """Elements and gradients, by positions in a flat memory."""
    torch, random = anywhere, np.random.default_rng(1)
    for _ in range(25):
        shape = tuple(random.integers(1, 6, random.integers(1, 4)))
        n, ndim = int(np.prod(shape)), random.integers(0, 4)
        size, steps = random.integers(1, 4, ndim), random.integers(0, 7, ndim)
        span = int(((size - 1) * steps).sum()) + 1
        if span > n:
            continue
        offset = int(random.integers(0, n - span + 1))
        grid = np.indices(size).reshape(ndim, -1) if ndim else np.zeros((0, 1), int)
        places = (steps @ grid + offset).reshape(size).astype(int) if ndim else np.array(offset)
        x = torch.arange(float(n)).reshape(*map(int, shape)).requires_grad_()
        found = torch.as_strided(x, tuple(map(int, size)), tuple(map(int, steps)), offset)
        assert found.tolist() == places.tolist(), (shape, size, steps, offset)
        assert found.storage_offset() == offset
        assert [s for s, k in zip(found.stride(), size, strict=True) if k > 1] == [
            s for s, k in zip(steps, size, strict=True) if k > 1
        ]
        weights = random.integers(1, 9, places.shape)
        (found * torch.tensor(weights)).sum().backward()
        expected = np.bincount(places.reshape(-1), weights.reshape(-1), n)
        assert x.grad.reshape(-1).tolist() == expected.tolist(), (shape, size, steps, offset)
        if not found.numel() or len(set(places.reshape(-1).tolist())) < places.size:
            continue
        y = torch.zeros(*map(int, shape))
        view = y.as_strided(tuple(map(int, size)), tuple(map(int, steps)), offset)
        if not view._layout.overlaps:  # torch, too, does not look closer
            view.copy_(torch.tensor(weights))
            assert y.reshape(-1).tolist() == np.bincount(places.reshape(-1), weights.reshape(-1), n).tolist()


def test_strides_of_views_are_those_of_the_storage(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.arange(12.0).requires_grad_()
    y = (x * 2).view(3, 4)
    for view in (y.t(), y[1:], y[:, 2]):
        found = view.as_strided((2, 2), (5, 1), 1)
        assert found.tolist() == [[2, 4], [12, 14]]
        assert found._base is y._base
    found.sum().backward()
    assert x.grad.tolist() == [0, 2, 2, 0, 0, 0, 2, 2, 0, 0, 0, 0]
    d = torch.arange(12.0)[2:].detach()
    assert d.as_strided((2, 2), (1, 3)).tolist() == [[2, 5], [3, 6]]
    with pytest.raises(NotImplementedError, match="only what lies in that part"):
        d.as_strided((2,), (1,), 0)


WRONG = {
    "(2, 2), (4, 2)": (
        "setStorage: sizes [2, 2], strides [4, 2], storage offset 0, and itemsize 4 requiring a storage size of 28 are "
        "out of bounds for storage of size 24"
    ),
    "(2, 2), (4, -1)": "as_strided: Negative strides are not supported at the moment, got strides: [4, -1]",
    "(2, 2), (4,)": "mismatch in length of strides and shape",
    "(2, -2), (4, 1)": "Storage size calculation overflowed with sizes=[2, -2] and strides=[4, 1]",
    "(2,), (1,), -1": "Tensor: invalid storage offset -1",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_strides(anywhere: ModuleType, arguments: str) -> None:
    with pytest.raises(RuntimeError) as error:
        eval(f"torch.arange(6.0).as_strided({arguments})", {"torch": anywhere})
    assert str(error.value) == WRONG[arguments]


def test_writes_through_windows_that_overlap(anywhere: ModuleType) -> None:
    """Where they come down to slices, or write one number, as in torch. Else its message for elements seen twice."""
    torch = anywhere
    x = torch.arange(21.0).view(7, 3).requires_grad_()
    y = x * 1
    windows = y.unfold(0, 3, 2)
    windows[1].mul_(3)
    windows[0, 2, 1] = 50.0
    assert windows[:, :, 0].tolist() == [[0, 1, 2], [18, 21, 24], [36, 39, 42]]
    windows[:, :, 1].add_(100)
    expected = np.arange(21.0).reshape(7, 3)
    expected[2:5] *= 3
    expected[1, 2] = 50
    expected[1::2] += 100
    assert y.tolist() == expected.tolist()
    assert windows.tolist() == np.lib.stride_tricks.sliding_window_view(expected, 3, 0)[::2].tolist()
    windows.sum().backward()
    factors = np.ones((7, 3))
    factors[2:5] = 3
    factors[2] *= 2
    factors[4] *= 2
    factors[1, 2] = 0
    assert x.grad.tolist() == factors.tolist()
    for write in ("add_(1)", "copy_(torch.ones(3, 3, 3))", "masked_fill_(windows > 2, 0.0)"):
        with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
            eval(f"windows.detach().{write}", {"windows": windows, "torch": torch})
    assert y.tolist() == expected.tolist()
    y.unfold(1, 2, 1)[1:4].zero_()
    assert y.sum(1).tolist() == [3, 0, 0, 0, *expected[4:].sum(1)]
    w = torch.arange(6.0)
    w.unfold(0, 3, 1).fill_(7)
    assert w.tolist() == [7.0] * 6


def test_windows_of_windows_and_of_what_is_repeated(anywhere: ModuleType) -> None:
    torch = anywhere
    a = np.arange(30.0).reshape(5, 6)
    x = torch.tensor(a, requires_grad=True)
    found = x.unfold(0, 3, 1).unfold(1, 2, 2)
    slide = np.lib.stride_tricks.sliding_window_view
    assert found.tolist() == slide(slide(a, 3, 0), 2, 1)[:, ::2].tolist()
    found.sum().backward()
    assert x.grad[:, 0].tolist() == [1, 2, 3, 2, 1]
    row = torch.arange(4.0)
    wide = row.expand(5, 4).unfold(0, 2, 3).unfold(1, 3, 1)
    assert tuple(wide.shape) == (2, 2, 2, 3)
    assert wide.stride() == (0, 1, 0, 1)
    assert wide[1, 1].tolist() == [[1, 2, 3], [1, 2, 3]]
    assert tuple(x.unfold(0, 0, 2).shape) == (3, 6, 0)
    assert torch.tensor(3.0).unfold(0, 1, 1).tolist() == [3.0]


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


def test_strides_of_what_lies_in_another_order(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.arange(12.0).view(3, 4).requires_grad_()
    y = x * 2
    y.t_()
    found = y.as_strided((2, 3), (5, 1), 1)
    assert found.tolist() == [[2, 4, 6], [12, 14, 16]]
    found.sum().backward()
    assert x.grad.tolist() == [[0, 2, 2, 2], [0, 0, 2, 2], [2, 0, 0, 0]]
    turned = torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1).detach()
    assert turned.as_strided((2, 2), (12, 4)).tolist() == [[0, 4], [12, 16]]
