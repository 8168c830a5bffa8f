"""vmap and the transforms of `func`: beside loops, formulas worked out by hand, and torch's messages."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad

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


def test_random_numbers_follow_the_flag(anywhere: ModuleType) -> None:
    x = anywhere.tensor(X)
    with pytest.raises(RuntimeError, match="called random operation while in randomness error mode"):
        anywhere.vmap(lambda row: row + anywhere.rand(4))(x)
    same = anywhere.vmap(lambda row: row * 0 + anywhere.rand(4), randomness="same")(x)
    assert (same == same[:1]).all()
    other = anywhere.vmap(lambda row: row * 0 + anywhere.rand(4), randomness="different")(x)
    assert len(set(other.flatten().tolist())) == 44
    nested = anywhere.vmap(
        anywhere.vmap(lambda a: a * 0 + anywhere.rand(()), randomness="different"), randomness="different"
    )(x)
    assert len(set(nested.flatten().tolist())) == 44


def test_writes_in_place(anywhere: ModuleType) -> None:
    def swapped(row: Any) -> Any:
        made = row.new_zeros(4)
        made[:2] = row[2:]
        made[2:].copy_(row[:2]).mul_(2)
        return made

    close(anywhere.vmap(swapped)(anywhere.tensor(X)), np.hstack([X[:, 2:], 2 * X[:, :2]]))
    shared = anywhere.zeros(4, dtype=anywhere.float64)
    with pytest.raises(RuntimeError, match="has more elements than `self`"):
        anywhere.vmap(lambda row: shared.add_(row))(anywhere.tensor(X))
    assert not shared.any()
    close(anywhere.vmap(lambda row: row.clone().zero_() + 1)(anywhere.tensor(X)), np.ones_like(X))


def test_gradients_through_a_batch_of_vectors(anywhere: ModuleType) -> None:
    x = anywhere.tensor(W, requires_grad=True)
    y = anywhere.sin(x)
    units = anywhere.eye(4, dtype=anywhere.float64)
    (rows,) = anywhere.autograd.grad(y, x, units, is_grads_batched=True, retain_graph=True)
    close(rows, np.diag(np.cos(W)))
    with pytest.raises(RuntimeError, match="we interpret the first dimension"):
        anywhere.autograd.grad(y, x, units[0], is_grads_batched=True)
    functional, both = anywhere.autograd.functional, (anywhere.tensor(W), anywhere.tensor(X[:2]))

    def function(a: Any, b: Any) -> Any:
        return anywhere.sin(a) * b, (a * b).sum(0)

    by_rows = functional.jacobian(function, both)
    for strategy in ("reverse-mode", "forward-mode"):
        at_once = functional.jacobian(function, both, vectorize=True, strategy=strategy)
        for mine, theirs in zip(at_once, by_rows, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                close(a, np.asarray(b))


def test_structures_chunks_and_aux(anywhere: ModuleType) -> None:
    x = anywhere.tensor(X)
    both = anywhere.vmap(
        lambda d, k: {"a": d["a"] * k, "b": [d["b"].sum()]}, in_dims=({"a": 0, "b": 1}, None)
    )
    made = both({"a": x, "b": x.T}, 2)
    close(made["a"], 2 * X)
    close(made["b"][0], X.sum(1))
    close(anywhere.vmap(anywhere.cos, chunk_size=4)(x), np.cos(X))
    grads, aux = anywhere.func.grad(lambda d: ((d["p"] ** 2).sum(), d["p"] + 1), has_aux=True)({"p": x})
    close(grads["p"], 2 * X)
    close(aux, X + 1)
    assert not aux.requires_grad
    out, pull = anywhere.func.vjp(lambda a, b: (a @ b, a.sum()), x, anywhere.tensor(W))
    close(out[0], X @ W)
    first, second = pull(
        (anywhere.ones(11, dtype=anywhere.float64), anywhere.tensor(2.0, dtype=anywhere.float64))
    )
    close(first, W + 2 + 0 * X)
    close(second, X.sum(0))
    (only,) = anywhere.func.vjp(anywhere.sin, x)[1](x)
    close(only, X * np.cos(X))


def test_under_no_grad_and_attached_to_what_is_outside(anywhere: ModuleType) -> None:
    w = anywhere.tensor(W, requires_grad=True)
    with anywhere.no_grad():
        close(anywhere.func.grad(lambda x: (x**3).sum())(w), 3 * W**2)
    slope = anywhere.func.grad(lambda x: (x**3).sum())(w)
    slope.sum().backward()
    close(w.grad, 6 * W)


def test_what_cannot_be_told_of_all_samples_is_refused(anywhere: ModuleType) -> None:
    x, vmap = anywhere.tensor(X), anywhere.vmap
    refused = [
        (lambda row: row.sum().item(), r"We don't support vmap over calling .item\(\) on a Tensor"),
        (lambda row: row if row.sum() > 0 else -row, "data-dependent control flow"),
        (lambda row: row.numpy(), "Cannot access data pointer of Tensor that doesn't have storage"),
        (lambda row: row[row > 0], "dynamic shape"),
    ]
    for function, words in refused:
        with pytest.raises(RuntimeError, match=words):
            vmap(function)(x)
    close(vmap(anywhere.sin)(x), np.sin(X))  # nothing is left of them


WRONG: list[tuple[Any, str]] = [
    (
        lambda f, x: f(lambda a: a, in_dims=2)(x),
        "dimensionality 2 so expected in_dim to satisfy -2 <= in_dim < 2",
    ),
    (lambda f, x: f(lambda a: a, in_dims=None)(x), "expected `in_dims` to be int or a"),
    (lambda f, x: f(lambda a: a)(), "got no inputs"),
    (lambda f, x: f(lambda a, b: a)(x, x[:2]), r"got sizes \[11, 2\] for the mapped dimension"),
    (lambda f, x: f(lambda a, b: a)(x, 3), "We cannot vmap over non-Tensor arguments"),
    (lambda f, x: f(lambda a: 1.0)(x), "must only return Tensors, got type <class 'float'>"),
    (lambda f, x: f(lambda a: a, out_dims=None)(x), "can not return a BatchedTensor when out_dim is None"),
    (
        lambda f, x: f(lambda a: a, out_dims=(0, 1))(x),
        "out_dims is not compatible with the structure of `outputs`",
    ),
    (lambda f, x: f(lambda a: a, chunk_size=0)(x), "chunk_size should be None or greater than 0"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_arguments(anywhere: ModuleType, number: int) -> None:
    call, words = WRONG[number]
    with pytest.raises(ValueError, match=words):
        call(anywhere.vmap, anywhere.tensor(X))


def test_functions_of_the_users_own(anywhere: ModuleType) -> None:
    class Cube(anywhere.autograd.Function):  # type: ignore[misc,name-defined]
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Any, w: Any) -> Any:
            return x**3 * w

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, w = ctx.saved_tensors
            return g * 3 * x**2 * w, g * x**3

    class Ruled(Cube):
        generate_vmap_rule = False
        seen: Any = None

        @staticmethod
        def vmap(info: Any, in_dims: Any, x: Any, w: Any) -> Any:
            Ruled.seen = (info.batch_size, info.randomness, in_dims, tuple(x.shape))
            return Ruled.apply(x, w), 0

    x, w = anywhere.tensor(X), anywhere.tensor(W)
    func = anywhere.func
    for kind in (Cube, Ruled):
        close(anywhere.vmap(kind.apply, in_dims=(0, None))(x, w), X**3 * W)
        shared = func.grad(lambda w: anywhere.vmap(kind.apply, in_dims=(0, None))(x, w).sum())  # noqa: B023
        close(shared(w), (X**3).sum(0))
        each = anywhere.vmap(func.grad(lambda w, x: kind.apply(x, w).sum()), in_dims=(None, 0))  # noqa: B023
        close(each(w, x), X**3)
    assert Ruled.seen[:2] == (11, "error")
    Ruled.vmap = anywhere.autograd.Function.vmap
    with pytest.raises(RuntimeError, match="it does not have vmap support"):
        anywhere.vmap(Ruled.apply, in_dims=(0, None))(x, w)


def test_convolution_of_each_sample(anywhere: ModuleType) -> None:
    rng = np.random.default_rng(0)
    images = anywhere.tensor(rng.normal(size=(3, 2, 5, 5)))
    weights = anywhere.tensor(rng.normal(size=(4, 2, 3, 3)))
    conv = anywhere.nn.functional.conv2d

    def loss(w: Any, image: Any) -> Any:
        return conv(image, w).square().sum()

    each = anywhere.vmap(anywhere.func.grad(loss), in_dims=(None, 0))(weights, images)
    for i in range(3):
        close(each[i], np.asarray(anywhere.func.grad(loss)(weights, images[i])))


def test_one_plan_for_all_samples(start: Any, plans: list[Any]) -> None:
    """Per-sample gradients and Hessian-vector products of sharded samples: one plan, one stage, nothing moves."""
    start(2, shard_bytes=128)
    func = distgrad.func

    def loss(w: Any, x: Any, y: Any) -> Any:
        z = x @ w
        return distgrad.nn.functional.softplus(z) - y * z

    x, y = distgrad.tensor(X, sharding=4), distgrad.tensor(Y, sharding=4)
    w, v = distgrad.tensor(W), distgrad.tensor(W[::-1].copy())
    distgrad.synchronize()
    plans.clear()

    def product(w: Any, x: Any, y: Any) -> Any:
        return func.jvp(lambda w: func.grad(loss)(w, x, y), (w,), (v,))[1]

    programs: list[tuple[Any, Any]] = [
        (func.grad(loss), SLOPES),
        (product, CURVES @ W[::-1]),
        (lambda w, x, y: func.vjp(lambda w: func.grad(loss)(w, x, y), w)[1](v)[0], CURVES @ W[::-1]),
    ]
    for program, expected in programs:
        plans.clear()
        found = func.vmap(program, in_dims=(None, 0, 0))(w, x, y)
        assert found.sharding.count > 1
        distgrad.synchronize()
        assert [len(plan.stages) for plan in plans] == [1]
        close(found, expected)


def test_gradients_in_inference_mode(anywhere: ModuleType) -> None:
    func = anywhere.func
    with anywhere.inference_mode():
        x = anywhere.tensor(X)
        close(func.grad(lambda x: (x**3).sum())(x), 3 * X**2)
        close(func.vjp(lambda x: x**3, x)[1](anywhere.ones_like(x))[0], 3 * X**2)
