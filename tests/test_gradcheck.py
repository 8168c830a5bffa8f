"""`gradcheck` and `gradgradcheck`: what is right passes, planted faults of 0.1 % are caught, in both modes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import distgrad
from distgrad.autograd import GradcheckError, gradcheck, gradgradcheck
from distgrad.ops import base
from distgrad.ops.base import Tensor
from distgrad.ops.table import OPS

MODES = pytest.mark.parametrize("fast", [False, True])


def leaf(torch: ModuleType, *values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def wrong() -> Iterator[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """Makes an op x³ with this formula for its gradient."""

    def made(formula: Callable[..., Any]) -> Callable[..., Any]:
        @base.op(input=formula, method=False)
        def wrongly(input: base.Value) -> base.Value:
            return base.elementwise("multiply", base.elementwise("multiply", input, input), input)

        return wrongly

    yield made
    OPS.pop("wrongly", None)


@MODES
def test_right_gradients_pass(torch: ModuleType, fast: bool) -> None:
    x, y = leaf(torch, 0.5, -1.5, 2.0), leaf(torch, 1.0, 3.0, -0.5)
    before = x.tolist()

    def f(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, ...]:
        return (x.sin() * y).cumsum(0), x.exp().sum() * k, (x > 0)

    assert gradcheck(f, (x, y, 2), fast_mode=fast, check_forward_ad=True)
    assert gradgradcheck(lambda x, y: f(x, y, 2)[:2], (x, y), fast_mode=fast, check_fwd_over_rev=True)
    assert x.tolist() == before
    assert x.grad is None


@MODES
def test_a_fault_of_a_thousandth_is_caught(torch: ModuleType, fast: bool, wrong: Any) -> None:
    x = leaf(torch, 0.5, -1.5, 2.0)
    cube = wrong(lambda g, input: g * 3 * input**2)
    assert gradcheck(cube, (x,), rtol=1e-5, fast_mode=fast)
    OPS.pop("wrongly")
    bad = wrong(lambda g, input: g * 3 * input**2 * 1.001)
    with pytest.raises(
        GradcheckError, match="Jacobian mismatch for output 0 with respect to input 0,\nnumerical:"
    ):
        gradcheck(bad, (x,), rtol=1e-5, fast_mode=fast)
    assert gradcheck(bad, (x,), rtol=1e-5, fast_mode=fast, raise_exception=False) is False
    with pytest.raises(GradcheckError, match="Jacobian computed with forward mode mismatch"):
        gradcheck(bad, (x,), rtol=1e-5, fast_mode=fast, check_forward_ad=True, check_backward_ad=False)


@MODES
def test_a_fault_of_the_second_derivative_is_caught(torch: ModuleType, fast: bool, wrong: Any) -> None:
    x = leaf(torch, 0.5, -1.5, 2.0)
    bad = wrong(lambda g, input: g * (3 * input**2 + 0.001 * (input - input.detach())))
    assert gradcheck(bad, (x,), fast_mode=fast)
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradgradcheck(bad, (x,), rtol=1e-6, atol=1e-7, fast_mode=fast)


def test_other_faults(torch: ModuleType, wrong: Any) -> None:
    x = leaf(torch, 0.5, -1.5)
    with pytest.raises(GradcheckError, match="backward not multiplied by grad_output"):
        gradcheck(wrong(lambda g, input: g * 0 + 3 * input**2), leaf(torch, 0.5))
    OPS.pop("wrongly")
    with pytest.raises(GradcheckError, match="Backward is not reentrant"):
        gradcheck(wrong(lambda g, input: g * 3 * input**2 + g * 1e-9 * torch.rand(2).double()), (x,))
    with pytest.raises(GradcheckError, match="Numerical gradient for function expected to be zero"):
        gradcheck(lambda x: x.detach() * 2, (x,))
    assert gradcheck(lambda x: x.detach().floor(), (x,))
    assert gradcheck(lambda x: x.sum(0), (torch.ones(0, 2, dtype=torch.float64, requires_grad=True),))


def test_closures_see_the_changed_input(torch: ModuleType) -> None:
    x = leaf(torch, 0.5, -1.5)
    assert gradcheck(lambda *_: x.sin(), (x,))


def test_arguments() -> None:
    x = leaf(distgrad, 1.0, 2.0)
    with pytest.raises(ValueError, match="expects at least one input tensor to require gradient"):
        gradcheck(distgrad.sin, (x.detach(),))
    with pytest.raises(
        AssertionError, match="Expected at least one of check_forward_ad or check_backward_ad"
    ):
        gradcheck(distgrad.sin, (x,), check_backward_ad=False)
    with pytest.raises(AssertionError, match="check_batched_grad=True requires check_backward_ad"):
        gradcheck(distgrad.sin, (x,), check_backward_ad=False, check_forward_ad=True, check_batched_grad=True)
    with pytest.raises(AssertionError, match="Setting check_undefined_grad=True requires check_rev_over_rev"):
        gradgradcheck(distgrad.sin, (x,), check_rev_over_rev=False, check_fwd_over_rev=True)
    with pytest.warns(UserWarning, match="Input #0 requires gradient and is not a double"):
        gradcheck(distgrad.sin, (x.detach().float().requires_grad_(),), raise_exception=False)
    with pytest.raises(RuntimeError, match="The 0th input has a dimension with stride 0"):
        gradcheck(distgrad.sin, (distgrad.ones(1, dtype=distgrad.float64).expand(3).requires_grad_(),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gradcheck(distgrad.sin, x, masked=True)
        assert gradgradcheck(distgrad.sin, x, gen_non_contig_grad_outputs=True)
        assert gradgradcheck(distgrad.sin, x, leaf(distgrad, 1.0, -1.0))
