"""`func.jvp`, `jacfwd`, `linearize`: by hand, in each other and in the reverse transforms, with their messages."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad.autograd import forward_ad
from distgrad.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vmap
from distgrad.tensor import Tensor


def cubes(x: Tensor) -> Tensor:
    return (x**3).sum()


def doubles(torch: ModuleType, *values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_structures(torch: ModuleType) -> None:
    x, y = doubles(torch, 1, 2), doubles(torch, 3)
    out, tangent = jvp(
        lambda d, y: {"a": d["x"] * y, "b": (d["x"].sum(),)},
        ({"x": x}, y),
        ({"x": doubles(torch, 1, 10)}, doubles(torch, 100)),
    )
    assert out["a"].tolist() == [3, 6]
    assert tangent["a"].tolist() == [103, 230]
    assert tangent["b"][0].tolist() == 11
    out, tangent, aux = jvp(lambda x: (x * 2, {"n": x}), (x,), (x,), has_aux=True)
    assert tangent.tolist() == [2, 4]
    assert aux["n"].tolist() == [1, 2]
    assert jvp(lambda x: y, (x,), (x,))[1].tolist() == [0]


def test_levels_nest(torch: ModuleType) -> None:
    """The second derivative of x³, and third ones, by forward mode alone."""
    x, one = doubles(torch, 2, 3), doubles(torch, 1, 1)
    d = lambda f: lambda x: jvp(f, (x,), (one,))[1]  # noqa: E731
    assert d(d(lambda x: x**3))(x).tolist() == [12, 18]
    assert d(d(d(lambda x: x**4)))(x).tolist() == [48, 72]
    out, (inner, outer) = jvp(lambda x: jvp(lambda y: y * y * x, (x,), (one,)), (x,), (one,))
    assert [t.tolist() for t in out] == [[8, 27], [8, 18]]
    assert inner.tolist() == [12, 27]
    assert outer.tolist() == [8, 12]


def test_perturbations_are_not_confused(torch: ModuleType) -> None:
    """d/dx (x d/dy (x + y)) = 1: a tangent of the inner derivative must not count for the outer one."""
    x, one = doubles(torch, 5), doubles(torch, 1)
    _, found = jvp(lambda x: x * jvp(lambda y: x + y, (one,), (one,))[1], (x,), (one,))
    assert found.tolist() == [1]
    assert grad(lambda x: (x * jvp(lambda y: x + y, (one,), (one,))[1]).sum())(x).tolist() == [1]
    _, found = jvp(lambda x: x * grad(lambda y: (x + y).sum())(one), (x,), (one,))
    assert found.tolist() == [1]


def test_in_and_over_reverse_mode(torch: ModuleType) -> None:
    x, t = doubles(torch, 1, 2, 3), doubles(torch, 1, -1, 0.5)
    assert jvp(grad(cubes), (x,), (t,))[1].tolist() == [6, -12, 9]
    assert grad(lambda x: jvp(cubes, (x,), (t,))[1])(x).tolist() == [6, -12, 9]
    leaf = x.clone().requires_grad_()
    _, tangent = jvp(cubes, (leaf,), (t,))
    assert torch.autograd.grad(tangent, leaf)[0].tolist() == [6, -12, 9]


def test_jacobians(torch: ModuleType) -> None:
    x, w = doubles(torch, 1, 2, 3), torch.arange(6, dtype=torch.float64).view(2, 3)
    f = lambda x: w @ (x * x)  # noqa: E731
    want = (w * 2 * x).tolist()
    assert jacfwd(f)(x).tolist() == want == jacrev(f)(x).tolist()
    by_w, by_x = jacfwd(lambda w, x: (w @ x).sin(), argnums=(0, 1))(w, x)
    other_w, other_x = jacrev(lambda w, x: (w @ x).sin(), argnums=(0, 1))(w, x)
    np.testing.assert_allclose(by_w.numpy(), other_w.numpy())
    np.testing.assert_allclose(by_x.numpy(), other_x.numpy())
    made, aux = jacfwd(lambda x: ({"y": x * x}, x.sum()), has_aux=True)(x)
    assert made["y"].tolist() == np.diag([2, 4, 6]).tolist()
    assert aux.tolist() == 6


def test_hessians(torch: ModuleType) -> None:
    x = doubles(torch, 1, 2, 3)
    f = lambda x: x.prod() + (x**3).sum()  # noqa: E731
    want = [[6, 3, 2], [3, 12, 1], [2, 1, 18]]
    for build in (jacfwd(jacrev(f)), jacrev(jacfwd(f)), jacfwd(jacfwd(f)), hessian(f)):
        np.testing.assert_allclose(build(x).numpy(), want)


def test_in_and_over_vmap(torch: ModuleType) -> None:
    xs, t = doubles(torch, 1, 2, 3, 4, 5, 6).view(3, 2), doubles(torch, 1, -1)
    each = vmap(lambda x: jvp(lambda x: x.prod() * x, (x,), (t,))[1])(xs)
    _, whole = jvp(vmap(lambda x: x.prod() * x), (xs,), (t.expand(3, 2),))
    alone = [jvp(lambda x: x.prod() * x, (x,), (t,))[1].tolist() for x in xs]
    assert each.tolist() == whole.tolist() == alone
    assert vmap(jacfwd(lambda x: x.prod() * x))(xs).shape == (3, 2, 2)


def test_linearize(torch: ModuleType) -> None:
    calls = []

    def f(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(0)
        return x.sin() * y, y.sum()

    x, y = doubles(torch, 1, 2), doubles(torch, 3, 4)
    out, push = linearize(f, x, y)
    for tx, ty in ((x, y), (y, x), (x * 0, x)):
        want = jvp(f, (x, y), (tx, ty))[1]
        for a, b in zip(push(tx, ty), want, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy())
    assert len(calls) == 4
    assert not out[0].requires_grad
    with pytest.raises(
        RuntimeError, match=r"Expected the tangents .* to have the same argspec as the primals"
    ):
        push(x)
    with pytest.raises(
        RuntimeError, match=r"tangent:1 with shape torch.Size\(\[3\]\) in flattened pytree doesn't"
    ):
        push(x, torch.ones(3, dtype=torch.float64))


def test_custom_functions(torch: ModuleType) -> None:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor, y: Tensor, k: float) -> tuple[Tensor, Tensor]:
            return x * y * k, x.sum()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            x, y, ctx.k = inputs
            ctx.save_for_forward(x, y)
            ctx.save_for_backward(x, y)

        @staticmethod
        def backward(ctx: Any, g: Tensor, h: Tensor) -> Any:
            x, y = ctx.saved_tensors
            return g * y * ctx.k + h, g * x * ctx.k, None

        @staticmethod
        def jvp(ctx: Any, tx: Tensor, ty: Tensor, none: None) -> Any:
            assert none is None
            x, y = ctx.saved_tensors
            return (tx * y + x * ty) * ctx.k, tx.sum()

    x, y, t = doubles(torch, 1, 2), doubles(torch, 3, 4), doubles(torch, 1, 10)
    out, tangent = jvp(lambda x: Scaled.apply(x, y, 2.0), (x,), (t,))
    assert out[0].tolist() == [6, 16]
    assert tangent[0].tolist() == [6, 80]
    assert tangent[1].tolist() == 11
    _, (first, _) = jvp(lambda x: Scaled.apply(x, x, 2.0), (x,), (t,))
    assert first.tolist() == [4, 80]

    class Plain(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

    with pytest.raises(
        NotImplementedError, match=r"You must implement the jvp function for custom autograd.Function"
    ):
        jvp(Plain.apply, (x,), (t,))


def test_messages() -> None:
    x = distgrad.ones(2)
    for call, words in [
        (lambda: jvp(lambda x: x, x, x), "Expected primals to be a tuple"),
        (
            lambda: jvp(lambda x: x, (x,), x),
            "have the same python structure.*TreeSpec\\(tuple, None, \\[\\*\\]\\)",
        ),
        (lambda: jvp(lambda: x, (), ()), "Expected primals to contain at least one Tensor."),
        (lambda: jvp(lambda x: x, (3,), (x,)), "Expected primals to only contain Tensors, got <class 'int'>"),
        (lambda: jvp(lambda x: 3, (x,), (x,)), "to return only tensors, got unsupported type <class 'int'>"),
        (lambda: jvp(lambda x: (), (x,), (x,)), "non-empty output"),
        (lambda: jvp(lambda y: x, (x,), (x,), strict=True), "The output of f is independent of the inputs"),
        (
            lambda: jvp(lambda x: x, (x,), (x,), has_aux=True),
            "should be a tuple: \\(output, aux\\) if has_aux",
        ),
        (
            lambda: jvp(lambda x: (x, 3), (x,), (x,), has_aux=True),
            "Expected tensors, got unsupported type <class",
        ),
        (lambda: jvp(lambda x: x, (x,), (distgrad.ones(3),)), "forward gradient that has a different size"),
        (
            lambda: jvp(lambda x: forward_ad.enter_dual_level(), (x,), (x,)),
            "Nested forward mode AD is not supported",
        ),
    ]:
        with pytest.raises(RuntimeError, match=words):
            call()
    assert not distgrad.dual.forward.on


def test_sharded_jacobians_are_one_plan(plans: list[Any]) -> None:
    with distgrad.init("inproc", workers=3, inline_bytes=0, shard_bytes=1 << 14):
        x = distgrad.randn(1 << 12, dtype=distgrad.float64)
        w = distgrad.tensor([0.5, 2.0], dtype=distgrad.float64)
        distgrad.synchronize()
        plans.clear()
        made = jacfwd(lambda w: (x * w[0] + w[1]).tanh().sum())(w)
        found = made.numpy()
        assert len(plans) == 1
        slope = 1 - np.tanh(x.numpy() * 0.5 + 2) ** 2
        np.testing.assert_allclose(found, [(slope * x.numpy()).sum(), slope.sum()])
