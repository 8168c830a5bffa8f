"""Corners in which programs meet torch's habits: layers without inputs, copies that share, numbers of tensors."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from distgrad import warned


@pytest.mark.parametrize(
    ("inputs", "weights", "bias", "node"),
    [
        ((0,), (4, 0), (4,), "ViewBackward0"),
        ((2, 3, 0), (4, 0), (4,), "ViewBackward0"),
        ((2, 3, 0), (4, 0), (3, 4), "AddBackward0"),
        ((2, 3, 0), (0, 0), (), "AddBackward0"),
        ((2, 3, 0), (4, 0), None, "UnsafeViewBackward0"),
        ((5, 3, 2), (4, 2), (3, 4), "AddBackward0"),
        ((5, 3, 2), (4, 2), (5, 1, 4), "AddBackward0"),
        ((5, 3, 2), (4, 2), (1, 4), "ViewBackward0"),
        ((2,), (4, 2), (), "AddBackward0"),
        ((3, 2), (4, 2), (3, 1), "AddmmBackward0"),
    ],
)
def test_linear(anywhere: ModuleType, inputs: Any, weights: Any, bias: Any, node: str) -> None:
    arrays = [
        None if s is None else np.arange(math.prod(s), dtype=float).reshape(s)
        for s in (inputs, weights, bias)
    ]
    x, w, b = (None if a is None else anywhere.tensor(a, requires_grad=True) for a in arrays)
    out = anywhere.nn.functional.linear(x, w, b)
    added = 0.0 if bias is None else arrays[2]
    np.testing.assert_allclose(out.detach().numpy(), arrays[0] @ arrays[1].T + added)
    assert type(out.grad_fn).__name__ == node
    out.sum().backward()
    ones = np.ones(out.shape)
    np.testing.assert_allclose(x.grad.numpy(), ones @ arrays[1])
    rows = (math.prod(inputs[:-1]), inputs[-1])
    np.testing.assert_allclose(w.grad.numpy(), ones.reshape(rows[0], weights[0]).T @ arrays[0].reshape(rows))
    if b is not None:
        assert b.grad.sum().item() == out.numel()
        assert b.grad.shape == b.shape


@pytest.mark.parametrize(
    ("inputs", "weights", "bias", "text"),
    [
        ((2,), (4, 2), (3, 4), "output with shape [4] doesn't match the broadcast shape [3, 4]"),
        (
            (2, 3, 2),
            (4, 2),
            (3,),
            "The expanded size of the tensor (4) must match the existing size (3) at non-singl",
        ),
        ((2, 3, 0), (4, 3), (4,), "mat1 and mat2 shapes cannot be multiplied (6x0 and 3x4)"),
        (
            (3, 2),
            (1, 2),
            (15, 4),
            "The expanded size of the tensor (1) must match the existing size (4) at non-singl",
        ),
        ((2,), (2,), (1, 4), "mat2 must be a matrix, got 1-D tensor"),
    ],
)
def test_linear_refuses(anywhere: ModuleType, inputs: Any, weights: Any, bias: Any, text: str) -> None:
    x, w, b = map(anywhere.ones, (inputs, weights, bias))
    with pytest.raises(RuntimeError) as caught:
        anywhere.nn.functional.linear(x, w, b)
    assert str(caught.value).startswith(text)


def test_tensors_that_are_copied_together_share_as_before(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.arange(40.0)
    part, turned, same = x[2:4], x.view(8, 5).t(), x.detach()
    rest, alone = copy.deepcopy([turned, {"part": part, "same": same, "x": x}]), copy.deepcopy(part)
    twins = rest[1]
    twins["x"].fill_(7)
    twins["part"][0] = 3
    assert twins["part"].tolist() == [3, 7]
    assert twins["same"].tolist() == [7, 7, 3, *[7] * 37]
    assert (rest[0][2, 0].item(), rest[0].stride(), twins["part"].storage_offset()) == (3, (1, 5), 2)
    assert not twins["part"]._is_view()
    assert x.tolist() == list(range(40))
    assert alone.tolist() == [2, 3]


def test_what_is_copied_together_keeps_what_requires_grad(anywhere: ModuleType) -> None:
    torch = anywhere
    w = torch.arange(40.0, requires_grad=True)
    (w * 2).sum().backward()
    leaf, gradient, part, plain = copy.deepcopy([w, w.grad, w.grad[1:], w.detach()])
    part.add_(1)
    plain.zero_()
    assert leaf.grad is gradient
    assert gradient.tolist() == [2, *[3] * 39]
    assert leaf.tolist() == [0] * 40
    assert (leaf.requires_grad, plain.requires_grad) == (True, False)
    assert w.tolist() == list(range(40))


SCALARS: dict[str, Callable[[Any, Any], Any]] = {
    "float": lambda torch, x: float(x),
    "complex": lambda torch, x: complex(x),
    "sqrt": lambda torch, x: math.sqrt(x),
    "percent": lambda torch, x: "%.1f" % x,  # noqa: UP031
    "list": lambda torch, x: torch.tensor([x, 2.0]),
    "old": lambda torch, x: torch.Tensor([x]),
}
SILENT: dict[str, Callable[[Any, Any], Any]] = {
    "int": lambda torch, x: int(x),
    "item": lambda torch, x: x.item(),
    "tolist": lambda torch, x: x.tolist(),
    "format": lambda torch, x: f"{x:.1f}",
    "bool": lambda torch, x: bool(x),
    "detached": lambda torch, x: float(x.detach()),
    "tensor": lambda torch, x: torch.tensor(x),
}


@pytest.mark.parametrize("name", SCALARS)
def test_numbers_that_lose_the_gradient_are_warned_of(
    anywhere: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warned, "_given", set())
    x = anywhere.ones((), requires_grad=True)
    with pytest.warns(UserWarning, match="Converting a tensor with requires_grad=True to a scalar") as caught:
        SCALARS[name](anywhere, x * 2)
    assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SCALARS[name](anywhere, x)  # once in a process
    anywhere.set_warn_always(True)
    try:
        assert anywhere.is_warn_always_enabled()
        with pytest.warns(UserWarning, match="Consider using tensor.detach"):
            SCALARS[name](anywhere, x)
    finally:
        anywhere.set_warn_always(False)


@pytest.mark.parametrize("name", SILENT)
def test_numbers_that_are_not_warned_of(
    anywhere: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warned, "_given", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SILENT[name](anywhere, anywhere.ones((), requires_grad=True) * 1)


LEARNT: dict[str, Callable[[Any, Any, Any], Any]] = {
    "alpha": lambda torch, x, t: torch.add(x, x, alpha=t),
    "negative_slope": lambda torch, x, t: torch.nn.functional.leaky_relu(x, t),
    "beta": lambda torch, x, t: torch.nn.functional.softplus(x, t),
    "lambd": lambda torch, x, t: torch.nn.functional.hardshrink(x, t),
}


@pytest.mark.parametrize("name", LEARNT)
def test_a_number_cannot_be_learnt(anywhere: ModuleType, name: str) -> None:
    """As in torch: a tensor may stand for a number, but not one whose gradient would be lost."""
    x = anywhere.linspace(-1, 1, 40)
    with pytest.raises(TypeError, match=rf"argument '{name}'.* must be Number, not Tensor"):
        LEARNT[name](anywhere, x, anywhere.tensor(0.5, requires_grad=True))
    assert LEARNT[name](anywhere, x, anywhere.tensor(0.5)).tolist() == LEARNT[name](anywhere, x, 0.5).tolist()
