"""`autograd.functional`: products and matrices against derivatives by hand, structures, and strict mode's messages."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad.autograd import functional as F
from distgrad.tensor import Tensor


def arrays(tree: Any) -> Any:
    return tuple(map(arrays, tree)) if isinstance(tree, tuple) else tree.detach().numpy()


def cubes(x: Tensor) -> Tensor:
    return (x**3).sum()


def test_products(torch: ModuleType) -> None:
    x, v = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, -1.0, 0.5])
    for product in (F.vjp, F.jvp):
        out, found = product(lambda x: x**2, x, v)
        assert out.tolist() == [1, 4, 9]
        assert found.tolist() == [2, -4, 3]
    for product in (F.vhp, F.hvp):
        out, found = product(cubes, x, v)
        assert float(out) == 36
        assert found.tolist() == [6, -12, 9]
        assert not found.requires_grad
        assert not out.requires_grad


def test_products_of_tuples(torch: ModuleType) -> None:
    x, y = torch.tensor([1.0, 2.0]), torch.tensor(3.0)
    outs, found = F.vjp(
        lambda x, y: (x * y, x.sum()), (x, y), (torch.tensor([1.0, 10.0]), torch.tensor(100.0))
    )
    assert arrays(outs)[0].tolist() == [3, 6]
    assert float(outs[1]) == 3
    assert [g.tolist() for g in found] == [[103, 130], 21]
    outs, found = F.jvp(
        lambda x, y: (x * y, x.sum()), (x, y), (torch.tensor([1.0, 10.0]), torch.tensor(100.0))
    )
    assert [g.tolist() for g in found] == [[103, 230], 11]
    _, found = F.hvp(lambda x, y: (x * x).sum() * y, (x, y), (torch.tensor([1.0, 0.0]), torch.tensor(1.0)))
    assert [g.tolist() for g in found] == [[8, 4], 2]


@pytest.mark.parametrize("how", [{}, {"vectorize": True}, {"vectorize": True, "strategy": "forward-mode"}])
def test_jacobian(torch: ModuleType, how: dict[str, Any]) -> None:
    x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0, 6.0, 7.0])
    single = F.jacobian(lambda x: x**2, y, **how)
    assert single.tolist() == np.diag([10, 12, 14]).tolist()
    (by_x, by_y), (total, none) = F.jacobian(lambda x, y: (x.sum() * y, x.sum(0)), (x, y), **how)
    assert by_x.shape == (3, 2, 2)
    assert by_x[1].tolist() == [[6, 6], [6, 6]]
    assert by_y.tolist() == np.diag([10, 10, 10]).tolist()
    assert total.tolist() == [[[1, 0], [1, 0]], [[0, 1], [0, 1]]]
    assert none.tolist() == np.zeros((2, 3)).tolist()
    (one,) = F.jacobian(lambda x: x * 2, (y,), **how)
    assert one.tolist() == np.diag([2, 2, 2]).tolist()
    (one,) = F.jacobian(lambda x: (x * 2,), y, **how)
    assert one.tolist() == np.diag([2, 2, 2]).tolist()


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_hessian(torch: ModuleType, strategy: str) -> None:
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    how: dict[str, Any] = {"outer_jacobian_strategy": strategy, "vectorize": strategy == "forward-mode"}
    assert F.hessian(cubes, x, **how).tolist() == [[6, 0], [0, 12]]
    (xx, xy), (yx, yy) = F.hessian(lambda x, y: (x**2).sum() * y**2, (x, y), **how)
    assert xx.tolist() == [[18, 0], [0, 18]]
    assert yy.tolist() == [[10]]
    assert xy.tolist() == [[12], [24]]
    assert yx.tolist() == [[12, 24]]


def test_create_graph(torch: ModuleType) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    for build in (
        lambda: F.jacobian(lambda x: x**2, x, create_graph=True).sum(),
        lambda: F.vjp(lambda x: x**2, x, torch.ones(2), create_graph=True)[1].sum(),
        lambda: F.jvp(lambda x: x**2, x, torch.ones(2), create_graph=True)[1].sum(),
        lambda: F.hvp(cubes, x, torch.ones(2), create_graph=True)[1].sum() / 3,
        lambda: F.vhp(cubes, x, torch.ones(2), create_graph=True)[1].sum() / 3,
        lambda: F.hessian(cubes, x, create_graph=True).sum() / 3,
    ):
        (g,) = torch.autograd.grad(build(), x)
        assert g.tolist() == [2, 2]
    assert not F.jacobian(lambda x: x**2, x).requires_grad
    with torch.no_grad():
        assert F.jacobian(lambda x: x**2, x).tolist() == [[2, 0], [0, 4]]


def test_strict(torch: ModuleType) -> None:
    x, y = torch.ones(2), torch.ones(2)
    linear, apart = (lambda x: (2 * x).sum()), (lambda x, y: x.sum())
    for call, words in [
        (
            lambda: F.vjp(lambda x: torch.ones(1), x, strict=True),
            "Output 0 of the user-provided function does not",
        ),
        (
            lambda: F.vjp(apart, (x, y), strict=True),
            "is independent of input 1. This is not allowed in strict mode.",
        ),
        (lambda: F.jvp(apart, (x, y), (x, y), strict=True), "is independent of input 1"),
        (lambda: F.jacobian(apart, (x, y), strict=True), "Output 0 of .* is independent of input 1"),
        (
            lambda: F.jacobian(linear, x, strict=True, create_graph=True),
            "jacobian of .* is independent of input 0",
        ),
        (lambda: F.hessian(linear, x, strict=True), "While computing the hessian, found that the jacobian"),
        (lambda: F.vhp(linear, x, x, strict=True), "While computing the hessian, found that the jacobian"),
        (lambda: F.jacobian(linear, x, strict=True, vectorize=True), "`strict=True` and `vectorized=True`"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            call()
    assert F.vjp(apart, (x, y))[1][1].tolist() == [0, 0]
    assert F.jacobian(apart, (x, y))[1].tolist() == [0, 0]


def test_messages() -> None:
    x = distgrad.ones(2)
    refused: list[tuple[Any, type[BaseException], str]] = [
        (
            lambda: F.vjp(cubes, [x]),
            TypeError,
            "The inputs given to vjp must be .* the given inputs has type",
        ),
        (lambda: F.jvp(cubes, (x, 3)), TypeError, "but the value at index 1 has type <class 'int'>"),
        (
            lambda: F.vjp(lambda x: 3, x),
            TypeError,
            "The outputs of the user-provided function given to vjp must be",
        ),
        (
            lambda: F.vjp(lambda x: x, x),
            RuntimeError,
            "can only be None if the user-provided function returns a sing",
        ),
        (
            lambda: F.jvp(lambda x: x, x),
            RuntimeError,
            "can only be None if the input to the user-provided function",
        ),
        (
            lambda: F.vjp(lambda x: x, x, distgrad.ones(3)),
            RuntimeError,
            r"should be torch.Size\(\[2\]\) but got tor",
        ),
        (lambda: F.jvp(lambda x: x, (x,), distgrad.ones(3)), RuntimeError, "^Entry 0 in v has invalid size"),
        (lambda: F.jvp(lambda x: x, (x,), (x, x)), RuntimeError, "invalid length: should be 1 but got 2."),
        (lambda: F.jvp(lambda x: x, x, (x, x)), RuntimeError, "The given v should contain a single Tensor."),
        (lambda: F.hessian(lambda x: x, x), RuntimeError, "given to hessian should contain a single element"),
        (
            lambda: F.hvp(lambda x: (x.sum(), x), x, x),
            RuntimeError,
            "given to hvp should return a single Tensor",
        ),
        (lambda: F.jacobian(cubes, x, strategy="sideways"), AssertionError, "Expected strategy to be either"),
        (
            lambda: F.jacobian(cubes, x, strategy="forward-mode"),
            NotImplementedError,
            "isonly implemented for `vec",
        ),
        (
            lambda: F.jacobian(cubes, x, create_graph=True, vectorize=True, strategy="forward-mode"),
            NotImplementedError,
            '`create_graph=True` and `strategy="forward-mode"` are not supported',
        ),
    ]
    for call, error, words in refused:
        with pytest.raises(error, match=words):
            call()
