"""`nn.functional`: what torch prints, and what concerns data on workers and random numbers."""

from __future__ import annotations

import math
import warnings
from types import ModuleType

import golden_cases
import numpy as np
import pytest


@pytest.mark.parametrize("case", golden_cases.cases("functional"), ids=lambda case: f"line{case.line}")
def test_as_torch_prints(torch: ModuleType, case: golden_cases.Case) -> None:
    assert golden_cases.run(case.program, torch) == case.printed


def test_class_out_of_range(torch: ModuleType) -> None:
    """Never a silent wrong number: the driver says it as torch does, a worker where its kernel has those words."""
    f = torch.nn.functional
    x = torch.zeros(2, 3)
    with pytest.raises(IndexError, match=r"Target 3 is out of bounds\."):
        f.cross_entropy(x, torch.tensor([0, 3])).item()
    with pytest.raises(IndexError, match=r"Target 4 is out of bounds\."):
        f.cross_entropy(x, torch.arange(2) * 4).item()  # which the driver may not know
    with pytest.raises((IndexError, RuntimeError), match="index out of range in self"):
        f.embedding(torch.tensor([0, 2]), torch.ones(2, 2)).tolist()
    with pytest.raises(RuntimeError, match=r"Class values must be smaller|index 2 is out of bounds"):
        f.one_hot(torch.tensor([0, 2]), 2).tolist()
    with pytest.raises(RuntimeError, match=r"Class values must be non-negative|index -1 is out of bounds"):
        f.one_hot(torch.tensor([0, -1])).tolist()


def test_losses_of_large_logits(torch: ModuleType) -> None:
    """Neither overflow nor a lost gradient: the loss is exact where a probability rounds to 0 or 1."""
    f = torch.nn.functional
    x = torch.tensor([500.0, -500.0, 30.0], requires_grad=True)
    y = torch.tensor([0.0, 1.0, 1.0])
    loss = f.binary_cross_entropy_with_logits(x, y, reduction="none")
    loss.sum().backward()
    np.testing.assert_allclose(loss.detach().numpy(), [500, 500, math.exp(-30)], rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), [1, -1, 0], atol=1e-7)
    z = torch.tensor([[0.0, 500.0]], requires_grad=True)
    loss = f.cross_entropy(z, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 500
    assert z.grad.tolist() == [[-1, 1]]


def test_dropout(torch: ModuleType) -> None:
    f = torch.nn.functional
    torch.manual_seed(2)
    x = torch.ones(2000, requires_grad=True)
    y = f.dropout(x, 0.25)
    y.sum().backward()
    kept = y.detach().numpy() != 0
    assert 0.7 < kept.mean() < 0.8
    np.testing.assert_allclose(y.detach().numpy()[kept], 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    torch.manual_seed(2)
    z = x.detach().clone()
    f.dropout(z, 0.25, inplace=True)
    np.testing.assert_array_equal(z.numpy(), y.detach().numpy())


@pytest.mark.filterwarnings("default")
def test_warnings(torch: ModuleType) -> None:
    """They name the user's line."""
    f = torch.nn.functional
    x = torch.ones(2, 2)
    for text, call in {
        "Using a target size": lambda: f.mse_loss(x, x[0]),
        "size_average and reduce args will be deprecated, please use reduction='sum'": lambda: f.mse_loss(
            x, x, size_average=False
        ),
        "Implicit dimension choice for softmax has been deprecated": lambda: f.softmax(x, _stacklevel=3),
    }.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert [str(w.message).startswith(text) for w in caught] == [True]
        assert caught[0].filename == __file__
