"""Views in place: beside what torch prints (`golden/inplace_views.txt`) what it does not, or says nothing of."""

from __future__ import annotations

from types import ModuleType

import numpy as np


def test_kept_gradients_come_along(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(5, 3, requires_grad=True)
    y = x.clone()
    y.retain_grad()
    y.t_()
    (y * torch.arange(15.0).view(3, 5)).sum().backward()
    assert y.grad.tolist() == np.arange(15.0).reshape(3, 5).tolist()
    assert x.grad.tolist() == np.arange(15.0).reshape(3, 5).T.tolist()


def test_what_was_done_to_the_base_is_undone_on_the_way_to_its_views(anywhere: ModuleType) -> None:
    torch = anywhere
    numbers = np.arange(30.0).reshape(5, 1, 6)
    x = torch.tensor(numbers, requires_grad=True)
    y = x * 1
    part, row = y[1:4, 0, ::2], y[2]
    y.transpose_(0, 2).squeeze_(1).unsqueeze_(0)
    assert tuple(y.shape) == (1, 6, 5)
    part.mul_(torch.tensor([2.0, 3.0, 4.0]))
    expected = numbers.copy()
    expected[1:4, 0, ::2] *= [2, 3, 4]
    assert y.tolist() == expected.transpose(1, 2, 0).tolist()
    assert row.tolist() == expected[2].tolist()
    (y * y + 3 * row.sum()).sum().backward()
    factors = np.ones_like(numbers)
    factors[1:4, 0, ::2] = [2, 3, 4]
    more = np.zeros_like(numbers)
    more[2] = 3 * 30
    np.testing.assert_allclose(x.grad.numpy(), factors * (2 * expected + more))


def test_a_view_of_a_view_is_turned_in_place(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.arange(12.0).view(3, 4)
    v = x[1:]
    v.t_()[0] = 9.0
    v.swapaxes_(0, 1)[1, 3] = 7.0
    assert v._base._base is None
    assert x.tolist() == [[0, 1, 2, 3], [9, 5, 6, 7], [9, 9, 10, 7]]


def test_derivatives_forward_and_in_batches(anywhere: ModuleType) -> None:
    torch = anywhere

    def turned(x: object) -> object:
        y = x * x  # type: ignore[operator]
        y.t_()
        y.unsqueeze_(0)
        y[:, 0].mul_(2)
        return y.squeeze_(0)

    x = torch.arange(6.0).view(2, 3)
    value, tangent = torch.func.jvp(turned, (x,), (torch.ones(2, 3),))
    assert value.tolist() == [[0, 18], [1, 16], [4, 25]]
    assert tangent.tolist() == [[0, 12], [2, 8], [4, 10]]
    many = torch.stack([x, x + 1])
    assert torch.vmap(turned)(many)[1].tolist() == turned(x + 1).tolist()  # type: ignore[attr-defined]
