"""`utils.checkpoint`: the same gradients, how often the function runs, random numbers, and its messages."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import distgrad
from distgrad.tensor import Tensor
from distgrad.utils.checkpoint import (
    CheckpointError,
    checkpoint,
    checkpoint_sequential,
    set_checkpoint_early_stop,
)

KINDS = pytest.mark.parametrize("reentrant", [True, False])


class Counted:
    """A function with random numbers that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, x: Tensor, k: int = 1) -> Tensor:
        self.runs += 1
        y: Tensor = (distgrad.nn.functional.dropout(x.sin(), 0.5).exp() * x * k).tanh()
        return y


@KINDS
def test_the_same_bits(torch: ModuleType, reentrant: bool) -> None:
    x = torch.randn(5, requires_grad=True)
    torch.manual_seed(3)
    y = Counted()(x)
    (want,) = torch.autograd.grad(y.sum(), x)
    torch.manual_seed(3)
    f = Counted()
    z = checkpoint(f, x, use_reentrant=reentrant)
    after = torch.get_rng_state()
    assert f.runs == 1
    z.sum().backward()
    assert f.runs == 2
    assert torch.equal(z, y)
    assert torch.equal(x.grad, want)
    assert torch.equal(torch.get_rng_state(), after)


def test_other_random_numbers_if_asked_for() -> None:
    x = distgrad.randn(64, requires_grad=True)
    f = lambda x: distgrad.nn.functional.dropout(x, 0.5) * x  # noqa: E731
    checkpoint(f, x, use_reentrant=False, preserve_rng_state=False).sum().backward()
    zeros = x.grad == 0
    assert 0 < float(zeros.sum()) < 64


def test_nested_and_twice_differentiated(torch: ModuleType) -> None:
    x = torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64, requires_grad=True)
    inner, outer = Counted(), Counted()

    def cube(x: Tensor) -> Tensor:
        inner.runs += 1
        return x**3

    def whole(x: Tensor) -> Tensor:
        outer.runs += 1
        return checkpoint(cube, x.exp(), use_reentrant=False).sin()

    y = checkpoint(whole, x, use_reentrant=False).sum()
    want = (torch.exp(x) ** 3).sin().sum()
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), x)
    (g0,) = torch.autograd.grad(want, x, create_graph=True)
    (h0,) = torch.autograd.grad(g0.sum(), x)
    assert torch.allclose(g, g0)
    assert torch.allclose(h, h0)
    assert (outer.runs, inner.runs) == (3, 5)


def test_keywords_several_results_and_no_grad(torch: ModuleType) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    f = lambda x, scale=1.0: (x * x * scale, "text", x.exp())  # noqa: E731
    a, text, _ = checkpoint(f, x, scale=3.0, use_reentrant=False)
    assert text == "text"
    a.sum().backward()
    assert x.grad.tolist() == [6, 12]
    with torch.no_grad():
        assert not checkpoint(f, x, use_reentrant=False)[0].requires_grad
    counted = Counted()
    y = checkpoint(counted, x, use_reentrant=False)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    assert counted.runs == 3


@pytest.mark.parametrize("early", [True, False])
def test_early_stop(torch: ModuleType, early: bool) -> None:
    ends: list[int] = []

    def f(x: Tensor) -> Tensor:
        y = x.sin()
        ends.append(0)
        return y

    x = torch.ones(2, requires_grad=True)
    checkpoint(f, x, use_reentrant=False, early_stop=early).sum().backward()
    assert len(ends) == (1 if early else 2)
    with set_checkpoint_early_stop(not early):
        y = checkpoint(f, x, use_reentrant=False, early_stop=early)
    y.sum().backward()
    assert len(ends) == 3


def test_contexts() -> None:
    log: list[str] = []

    @contextlib.contextmanager
    def noted(name: str) -> Any:
        log.append(name)
        yield

    x = distgrad.ones(2, requires_grad=True)
    y = checkpoint(distgrad.exp, x, use_reentrant=False, context_fn=lambda: (noted("first"), noted("again")))
    y = y.sin()
    y.sum().backward()
    assert log == ["first", "again"]


@KINDS
def test_sequential(torch: ModuleType, reentrant: bool) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh()) for _ in range(5))
    )
    x = torch.randn(4, 3, requires_grad=True)
    model(x).sum().backward()
    wants = [p.grad for p in model.parameters()]
    model.zero_grad()
    checkpoint_sequential(model, 2, x, use_reentrant=reentrant).sum().backward()
    assert all(torch.equal(p.grad, want) for p, want in zip(model.parameters(), wants, strict=True))


def _changing(functions: list[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Another of these functions at each call."""
    left = iter(functions)
    return lambda x: next(left)(x)


def test_a_function_that_saves_other_tensors_is_found(torch: ModuleType) -> None:
    x = torch.ones(2, requires_grad=True)
    few, many = (lambda x: x.exp()), (lambda x: x.exp().exp())
    for functions, words in [
        (
            [many, few],
            "A different number of tensors was saved during the original forward and recomputation.",
        ),
        (
            [lambda x: x[:1].exp(), few],
            "different metadata than during the forward pass.\ntensor at position 0:",
        ),
    ]:
        y = checkpoint(_changing(functions), x, use_reentrant=False)
        with pytest.raises(CheckpointError, match=words):
            y.sum().backward()
    y = checkpoint(_changing([few, many]), x, use_reentrant=False, early_stop=False)
    with pytest.raises(CheckpointError, match="trying to save more tensors during recomputation"):
        y.sum().backward()
    y = checkpoint(
        _changing([lambda x: x.exp()[:1] * 1, few]), x, use_reentrant=False, determinism_check="none"
    )
    y.sum().backward()


def test_messages() -> None:
    x = distgrad.ones(2, requires_grad=True)
    with pytest.warns(
        UserWarning, match="torch.utils.checkpoint: the use_reentrant parameter should be passed"
    ):
        checkpoint(distgrad.exp, x)
    with pytest.warns(UserWarning, match="torch.utils.checkpoint.checkpoint_sequential: the use_reentrant"):
        checkpoint_sequential([distgrad.exp], 1, x)
    with pytest.warns(
        UserWarning, match="None of the inputs have requires_grad=True. Gradients will be None"
    ):
        checkpoint(distgrad.exp, x.detach(), use_reentrant=True)
    with pytest.raises(ValueError, match="Unexpected keyword arguments: k"):
        checkpoint(distgrad.exp, x, use_reentrant=True, k=1)
    with pytest.raises(
        ValueError, match="`context_fn` or `debug` is only supported when use_reentrant=False"
    ):
        checkpoint(distgrad.exp, x, use_reentrant=True, debug=True)
    with pytest.raises(ValueError, match="determinism_check should be one of"):
        checkpoint(distgrad.exp, x, use_reentrant=False, determinism_check="some")
    y = checkpoint(distgrad.exp, x, use_reentrant=True)
    with pytest.raises(RuntimeError, match=r"is incompatible with .grad\(\) or passing an `inputs`"):
        distgrad.autograd.grad(y.sum(), x)
    z = checkpoint(lambda x: x.detach() * 2, x, use_reentrant=True)
    with pytest.raises(RuntimeError, match="none of output has requires_grad=True"):
        z.sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint(distgrad.exp, x, use_reentrant=False)
