"""Troubles that users of other libraries met, each as what must not happen here."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad.errors import DistgradError

CUTS: list[Any] = [1, 3, {1: 2}, {0: 2, 1: 3}]  # of a matrix, uneven along both dimensions


def matrix(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, (rows, columns)).astype(np.float64)


@pytest.mark.parametrize("left", CUTS)
@pytest.mark.parametrize("right", CUTS)
def test_no_reduction_is_missing_or_one_too_many(left: Any, right: Any, anywhere: ModuleType) -> None:
    """Partial products plus a bias that all workers have: elsewhere the bias counted once for each of them."""
    torch = anywhere
    a, b, bias = matrix(7, 5, 1), matrix(5, 6, 2), matrix(1, 6, 3)[0]
    x = torch.tensor(a, sharding=left, requires_grad=True)
    w = torch.tensor(b, sharding=right, requires_grad=True)
    c = torch.tensor(bias, requires_grad=True)
    y = x @ w + c
    assert np.array_equal(y.detach().numpy(), a @ b + bias)
    (y * y).sum().backward()
    g = 2 * (a @ b + bias)
    assert np.array_equal(x.grad.numpy(), g @ b.T)
    assert np.array_equal(w.grad.numpy(), a.T @ g)
    assert np.array_equal(c.grad.numpy(), g.sum(0))


@pytest.mark.parametrize("cuts", CUTS)
def test_uneven_pieces_arrive_in_their_places(cuts: Any, anywhere: ModuleType) -> None:
    torch = anywhere
    a = np.arange(77.0).reshape(7, 11)
    x = torch.tensor(a, sharding=cuts)
    assert np.array_equal(x.numpy(), a)
    for other in CUTS:
        assert np.array_equal(x.reshard(other).numpy(), a)
    assert np.array_equal((x @ x.t()).numpy(), a @ a.T)
    assert np.array_equal(torch.cat([x[:3], x[3:]]).numpy(), a)


@pytest.mark.parametrize("cuts", CUTS)
def test_the_gradient_of_stack_is_right_for_every_cut(cuts: Any, anywhere: ModuleType) -> None:
    torch = anywhere
    parts = [matrix(4, 5, n) for n in range(3)]
    for dim in range(3):
        xs = [torch.tensor(a, sharding=cuts, requires_grad=True) for a in parts]
        weights = np.random.default_rng(9).integers(-3, 4, np.stack(parts, dim).shape).astype(np.float64)
        (torch.stack(xs, dim) * torch.tensor(weights)).sum().backward()
        for i, x in enumerate(xs):
            assert np.array_equal(x.grad.numpy(), weights.take(i, dim))


def test_no_op_is_refused_because_of_its_sharding(anywhere: ModuleType) -> None:
    """Differently cut tensors, plain ones, arrays and numbers mix; what is wrong is told in torch's words."""
    torch = anywhere
    a = matrix(6, 6, 4)
    for left in CUTS:
        for right in (*CUTS, None):
            x = torch.tensor(a, sharding=left)
            y = torch.tensor(a) if right is None else torch.tensor(a, sharding=right)
            assert np.array_equal((x * y - a + 1).numpy(), a * a - a + 1)
            with pytest.raises(
                RuntimeError, match=r"The size of tensor a \(6\) must match the size of tensor b \(5\)"
            ):
                x + y[:, :5]
            with pytest.raises(
                RuntimeError, match=r"mat1 and mat2 shapes cannot be multiplied \(6x6 and 5x6\)"
            ):
                x @ y[:5]


def test_random_numbers_do_not_depend_on_the_number_of_workers() -> None:
    drawn = []
    for workers in (1, 2, 3, 5):
        with distgrad.init("inproc", workers=workers, inline_bytes=0, shard_bytes=64):
            distgrad.manual_seed(7)
            x = distgrad.rand(5, 7, requires_grad=True)
            (distgrad.randn(5, 7) * x).sum().backward()
            drawn.append((x.tolist(), x.grad.tolist(), distgrad.randperm(9).tolist()))
    assert drawn == [drawn[0]] * 4


def test_an_output_that_nobody_uses_is_not_waited_for(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.tensor(matrix(6, 4, 5), requires_grad=True)
    used, *_ = x.split(2)
    _unused = (x * 3).exp()
    values, _indices = (x * 2).max(1)
    (used.sum() + values.sum() * 0).backward()
    assert x.grad.sum().item() == 8.0


LEAF = "a leaf Variable that requires grad is being used in an in-place operation."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda torch, x: x.add_(1), LEAF),
        (lambda torch, x: x.__setitem__(0, 1.0), "a view of a leaf Variable that requires grad"),
        (lambda torch, x: x[1:].mul_(2), "a view of a leaf Variable that requires grad"),
        (lambda torch, x: x.detach().add_(torch.ones(5)), "The size of tensor a"),
        (lambda torch, x: x.detach().add_(torch.ones(2, 6, 4)), "doesn't match the broadcast shape"),
        (
            lambda torch, x: x.detach().unbind(0)[0].mul_(x[0]),
            "This view is the output of a function that returns",
        ),
        (lambda torch, x: x.detach().t()[:2].copy_(torch.ones(3)), "The (expanded )?size of"),
        (lambda torch, x: x.detach()[:5].add_(x.detach()[1:]), "refer to a single memory location"),
        (lambda torch, x: torch.add(x, 1, out=x), "functions with out=... arguments don't support automatic"),
        (lambda torch, x: x.detach().long().add_(0.5), "can't be cast to the desired output type"),
    ],
)
def test_nothing_has_changed_when_the_error_is_raised(
    change: Callable[[Any, Any], Any], message: str, anywhere: ModuleType
) -> None:
    torch = anywhere
    a = matrix(6, 4, 6)
    x = torch.tensor(a, requires_grad=True)
    y = (x * x).sum()
    with pytest.raises(RuntimeError, match=message):
        change(torch, x)
    assert np.array_equal(x.detach().numpy(), a)
    assert (x._version, x.is_leaf) == (0, True)
    y.backward()  # and what was saved is still good
    assert np.array_equal(x.grad.numpy(), 2 * a)


def test_the_graph_is_not_cut_between_workers(anywhere: ModuleType) -> None:
    """Elsewhere a model's parameters got no gradient once its data lay on several workers, and it never learnt."""
    torch = anywhere
    features, truth = matrix(40, 3, 7), np.array([1.0, -2.0, 0.5])
    x = torch.tensor(features, sharding={0: 3})
    target = torch.tensor(features @ truth, sharding=2)
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(60):
        loss = ((x.reshard({1: 2}) @ w - target) ** 2).mean()
        (g,) = torch.autograd.grad(loss, w)
        assert g is not None
        with torch.no_grad():
            w -= 0.04 * g
    assert np.allclose(w.detach().numpy(), truth, atol=1e-3)


def test_what_fails_does_not_spoil_the_gradients_of_others(anywhere: ModuleType) -> None:
    """Elsewhere the gradients of all workers were zero after one of them had failed."""
    torch = anywhere
    a = matrix(6, 4, 8)
    x, y = (torch.tensor(a, requires_grad=True) for _ in range(2))
    (x * x).sum().backward()

    def fail() -> None:  # found out on the workers, or here
        rows = torch.gather(y, 0, torch.full((6, 4), 99))
        rows.sum().backward()
        rows.tolist()

    with pytest.raises((RuntimeError, DistgradError)):
        fail()
    assert np.array_equal(x.grad.numpy(), 2 * a)
    (x * y).sum().backward()
    assert np.array_equal(x.grad.numpy(), 3 * a)
