"""Functions element by element: what torch prints at special points, for mixed dtypes and when it refuses."""

from __future__ import annotations

from types import ModuleType

import golden_cases
import numpy as np
import pytest


@pytest.mark.parametrize("case", golden_cases.cases("pointwise"), ids=lambda case: f"line{case.line}")
def test_as_torch_prints(torch: ModuleType, case: golden_cases.Case) -> None:
    assert golden_cases.run(case.program, torch) == case.printed


@pytest.mark.parametrize("name", ["remainder", "fmod", "floor_divide"])
def test_integer_division_by_zero(torch: ModuleType, name: str) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        getattr(torch, name)(torch.tensor([1, 2]), torch.tensor([1, 0])).tolist()


def test_trigamma(torch: ModuleType) -> None:
    """The derivative of digamma: π²/2 at 1/2, 4 more at -1/2, π²/6 at 1, and 1/x + 1/2x² + 1/6x³ for large x."""
    x = torch.tensor([0.5, 1.0, -0.5, 1e6], dtype=torch.float64, requires_grad=True)
    torch.digamma(x).sum().backward()
    want = [np.pi**2 / 2, np.pi**2 / 6, np.pi**2 / 2 + 4, 1e-6 + 0.5e-12 + 1e-18 / 6]
    np.testing.assert_allclose(x.grad.numpy(), want, rtol=2e-15)


def test_in_place_comparison_has_no_gradient_to_pass_on(torch: ModuleType) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = x * 3
    y.logical_not_()  # torch lets the gradient of x * 3 through here
    y.sum().backward()
    assert x.grad.tolist() == [0, 0]


def test_a_number_weighs_in_any_dtype(torch: ModuleType) -> None:
    x, y = torch.zeros(2, requires_grad=True), torch.ones(2)
    weight = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    z = torch.lerp(x, y, weight)
    assert (z.dtype, z.tolist()) == (torch.float32, [0.25, 0.25])
    z.sum().backward()
    assert (x.grad.tolist(), weight.grad.item(), weight.grad.dtype) == ([0.75, 0.75], 2.0, torch.float64)
    with pytest.raises(RuntimeError, match="expected dtype float for `weight` but got dtype double"):
        torch.lerp(x, y, weight.reshape(1))
