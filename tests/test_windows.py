"""Views by windows, strides and parts; retained gradients of views whose base changes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from distgrad.strided import Strided


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
    for write in ("add_(1)", "copy_(torch.ones(3, 3, 3))", "exp_()"):
        with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
            eval(f"windows.detach().{write}", {"windows": windows, "torch": torch})
    assert y.tolist() == expected.tolist()
    y.unfold(1, 2, 1)[1:4].zero_()
    assert y.sum(1).tolist() == [3, 0, 0, 0, *expected[4:].sum(1)]
    w = torch.arange(6.0)
    w.unfold(0, 3, 1).fill_(7)
    assert w.tolist() == [7.0] * 6


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        ((2, 3), (4, 3)),
        ((3, 2), (2, 3)),
        ((2, 3, 2), (5, 2, 4)),
        ((3, 1, 2), (2, 1, 3)),
        ((2, 2, 2), (1, 3, 2)),
    ],
)
def test_one_number_through_strides_that_cross(size: Any, strides: Any, anywhere: ModuleType) -> None:
    """An element that several windows have, of which only some are written to, is written by those."""
    torch, memory = anywhere, np.zeros(24)
    np.lib.stride_tricks.as_strided(memory, size, tuple(8 * s for s in strides))[...] = 7
    writes = (
        lambda view, seven: view.fill_(7.0),
        lambda view, seven: view.fill_(seven),
        lambda view, seven: view.__setitem__(slice(None), 7.0),
    )
    for write in writes:
        x, seven = torch.ones(24, requires_grad=True), torch.tensor(7.0, requires_grad=True)
        y = x * 0
        view = y.as_strided(size, strides)
        assert write(view, seven) in (view, None)
        assert y.tolist() == memory.tolist()
        assert view.tolist() == np.full(size, 7.0).tolist()
        (y * torch.arange(24.0) + x * 2).sum().backward()
        assert x.grad.tolist() == [2.0] * 24
        if seven.grad is not None:  # each element counts once, however often it is seen
            assert seven.grad.item() == np.arange(24.0)[memory == 7].sum()


def test_one_number_through_a_part_of_windows(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.zeros(5)
    x.unfold(0, 3, 1)[:, :2].fill_(7)
    assert x.tolist() == [7, 7, 7, 7, 0]
    x.unfold(0, 3, 1)[1:, 1:].zero_()
    assert x.tolist() == [7, 7, 0, 0, 0]
    x.unfold(0, 2, 1).unfold(0, 2, 1)[::2, :, :1] = torch.tensor(3.0)
    assert x.tolist() == [3, 3, 3, 3, 0]
    image = torch.zeros(4, 5)
    image.unfold(0, 3, 1).unfold(1, 2, 1)[:, 1:3, ::2, 1].fill_(1)
    assert image.tolist() == [[0, 0, 1, 1, 0]] * 4


def test_strides_that_cross_but_never_meet_are_written_to(anywhere: ModuleType) -> None:
    """Elements 0, 3, 6 and 4, 7, 10: what is written belongs to one of them, with its sign and its gradient."""
    torch = anywhere
    w = torch.arange(12.0).requires_grad_()
    y = w * 1
    view = y.as_strided((2, 3), (4, 3))
    view.mul_(torch.tensor([[-1.0, 2, 3], [4, 5, 6]]))
    factors = [-1.0, 1, 1, 2, 4, 1, 3, 5, 1, 1, 6, 1]
    assert y.tolist() == [i * f for i, f in enumerate(factors)]
    assert str(y[0].item()) == "-0.0"
    y.sum().backward()
    assert w.grad.tolist() == factors
    torch.add(torch.zeros(2, 3), 99, out=y.detach().as_strided((2, 3), (4, 3)))
    assert [i for i, n in enumerate(y.tolist()) if n == 99] == [0, 3, 4, 6, 7, 10]
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        y.detach().as_strided((3, 2), (2, 4)).copy_(torch.ones(3, 2))
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        y.detach().as_strided((2, 3, 2), (4, 3, 0)).fill_(torch.tensor(1.0))


def test_whether_elements_are_seen_twice() -> None:
    random = np.random.default_rng(2)
    for _ in range(300):
        n = random.integers(1, 5)
        shape, strides = random.integers(0, 4, n), random.integers(0, 9, n)
        places = (strides @ np.indices(shape).reshape(n, -1)).tolist()
        layout = Strided(tuple(shape.tolist()), tuple(strides.tolist()))
        assert layout.overlaps == (len(set(places)) < len(places)), layout
    n = 1 << 20
    assert not Strided((n, n), (n - 1, n)).overlaps  # n of the one would be n - 1 of the other
    assert Strided((n + 1, n), (n - 1, n)).overlaps
    assert Strided((n, n, 3), (n - 1, n, n + 1)).overlaps


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
