"""vmap and the transforms of `func`: beside loops, formulas worked out by hand, and torch's messages."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

RNG = np.random.default_rng(3)
X = RNG.normal(size=(11, 4))
W = RNG.normal(size=4)
Y = (RNG.normal(size=11) > 0) * 1.0


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found.detach()), expected, rtol=1e-9, atol=1e-12)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


SLOPES = (sigmoid(X @ W) - Y)[:, None] * X  # of each sample's logistic loss
CURVES = (sigmoid(X @ W) * (1 - sigmoid(X @ W)))[:, None, None] * X[:, :, None] * X[:, None, :]


@pytest.fixture
def data(anywhere: ModuleType) -> tuple[Any, Any, Any, Any]:
    def loss(w: Any, x: Any, y: Any) -> Any:
        z = x @ w
        return anywhere.nn.functional.softplus(z) - y * z

    return loss, anywhere.tensor(W), anywhere.tensor(X), anywhere.tensor(Y)


def test_samples_go_through_at_once(anywhere: ModuleType) -> None:
    x, w = anywhere.tensor(X), anywhere.tensor(W)
    close(anywhere.vmap(anywhere.sin)(x), np.sin(X))
    close(anywhere.vmap(lambda row: (row * w).sum())(x), X @ W)
    close(anywhere.vmap(lambda row: row @ w)(x), X @ W)
    close(anywhere.vmap(lambda column: column.cumsum(0), in_dims=1, out_dims=-1)(x), np.cumsum(X, 0))
    nested = anywhere.vmap(anywhere.vmap(lambda a, b: a * b, in_dims=(None, 0)), in_dims=(0, None))
    close(nested(w, x[:, 0]), np.outer(W, X[:, 0]))


def test_gradients_of_each_sample(anywhere: ModuleType, data: tuple[Any, ...]) -> None:
    loss, w, x, y = data
    func = anywhere.func
    close(func.vmap(func.grad(loss), in_dims=(None, 0, 0))(w, x, y), SLOPES)
    close(func.vmap(func.hessian(loss), in_dims=(None, 0, 0))(w, x, y), CURVES)
    each, values = func.vmap(func.grad_and_value(loss), in_dims=(None, 0, 0))(w, x, y)
    close(each, SLOPES)
    close(values, np.log1p(np.exp(X @ W)) - Y * (X @ W))


def test_what_all_samples_share_gets_the_sum(anywhere: ModuleType, data: tuple[Any, ...]) -> None:
    loss, w, x, y = data
    func = anywhere.func
    total = func.grad(lambda w: func.vmap(loss, in_dims=(None, 0, 0))(w, x, y).sum())
    close(total(w), SLOPES.sum(0))
    close(func.jacrev(total)(w), CURVES.sum(0))
    w.requires_grad_()
    func.vmap(loss, in_dims=(None, 0, 0))(w, x, y).sum().backward()
    close(w.grad, SLOPES.sum(0))


def test_no_derivative_is_taken_for_another(anywhere: ModuleType) -> None:
    grad, three = anywhere.func.grad, anywhere.tensor(3.0)
    assert grad(lambda x: x * grad(lambda y: x + y)(x))(three).item() == 1
    assert grad(lambda x: x * grad(lambda y: x * y * y)(x))(three).item() == 6 * 9
    assert grad(grad(lambda x: x**3))(three).item() == 18
    assert not grad(lambda x: x**3)(three).requires_grad
