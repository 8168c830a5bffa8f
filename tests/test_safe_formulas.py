"""Gradients at zeros, infinities, nan, and beyond the dtype's range: no nan where none belongs, torch's where one does.

What is right is worked out by hand, or as torch 2.13 gives it.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad

INF, NAN = math.inf, math.nan


def leaf(torch: ModuleType, x: Any, dtype: str = "float32") -> Any:
    return torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=True)


def gradient(torch: ModuleType, y: Any, *xs: Any, g: Any = None) -> list[Any]:
    g = torch.ones_like(y) if g is None else torch.tensor(g, dtype=y.dtype)
    return [d.tolist() for d in torch.autograd.grad(y, xs, g, create_graph=True)]


# Products with the factor 0.
ODD = [[NAN, 1.0], [2.0, INF]]


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_a_product_times_zero_is_not_looked_at(torch: ModuleType, beta: float) -> None:
    a, b, v = leaf(torch, ODD), leaf(torch, ODD), leaf(torch, [INF, NAN])
    x, y = leaf(torch, [[1.0, 2.0], [3.0, 4.0]]), leaf(torch, [1.0, 2.0])
    made = [
        torch.addmm(x, a, b, alpha=0, beta=beta),
        torch.addbmm(x, a.unsqueeze(0), b.unsqueeze(0), alpha=0, beta=beta),
        torch.baddbmm(x.unsqueeze(0), a.unsqueeze(0), b.unsqueeze(0), alpha=0, beta=beta).squeeze(0),
    ]
    for out in made:
        assert out.tolist() == [[beta, beta * 2], [beta * 3, beta * 4]]
        assert gradient(torch, out, x, a, b) == [[[beta] * 2] * 2, [[0, 0]] * 2, [[0, 0]] * 2]
    out = torch.addmv(y, a, v, alpha=0, beta=beta)
    assert out.tolist() == [beta, beta * 2]
    assert gradient(torch, out, y, a, v) == [[beta] * 2, [[0, 0]] * 2, [0, 0]]
    assert torch.zeros(2, 2).addmm_(a.detach(), b.detach(), alpha=0).tolist() == [[0, 0], [0, 0]]
    assert torch.addmm(y, a, b, alpha=0).tolist() == [[1, 2], [1, 2]]
    with pytest.raises(RuntimeError):
        torch.addmm(torch.zeros(3), a, b, alpha=0)


def test_what_torch_multiplies_by_zero_is_nan(torch: ModuleType) -> None:
    v = torch.tensor([NAN, INF])
    assert np.isnan(torch.addr(torch.ones(2, 2), v, v, alpha=0).numpy()).all()
    assert np.isnan(torch.addcmul(torch.ones(2), v, v, value=0).numpy()).all()


# Products along a dimension.
def test_rows_that_a_loss_does_not_use_have_no_gradient(torch: ModuleType) -> None:
    m = leaf(torch, [[1e13] * 3, [1.0, 0.0, 2.0]])
    assert gradient(torch, m.prod(1)[1], m) == [[[0, 0, 0], [0, 2, 0]]]
    assert gradient(torch, m.cumprod(1)[1], m) == [[[0, 0, 0], [1, 3, 0]]]
    wide = leaf(torch, [[1e110] * 3, [1.0, 0.0, 2.0]], "float64")
    assert gradient(torch, wide.prod(1)[1], wide) == [[[0, 0, 0], [0, 2, 0]]]
    assert gradient(torch, wide.cumprod(1)[1], wide) == [[[0, 0, 0], [1, 3, 0]]]


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ([INF, 1.0, 2.0], [2.0, INF, INF]),
        ([NAN, 1.0, 2.0], [2.0, NAN, NAN]),
        ([1e20, 1e20, 0.0], [0.0, 0.0, INF]),
        ([1e-25, 1e-25, 1e20], [1e-5, 1e-5, 0.0]),
        ([1e30, 1e-30, 1e30], [1.0, INF, 1.0]),
        ([0.0, INF, 2.0], [INF, 0.0, NAN]),
    ],
)
def test_gradient_of_a_product(torch: ModuleType, row: list[float], want: list[float]) -> None:
    for shape, dim in (((3,), 0), ((3,), None), ((1, 3), 1), ((3, 1), (0, 1))):
        x = leaf(torch, np.reshape(row, shape))
        y = x.prod() if dim is None else x.prod(dim) if isinstance(dim, int) else x.prod()
        found = np.reshape(gradient(torch, y, x)[0], 3)
        np.testing.assert_allclose(found, want, rtol=1e-5)


def test_derivatives_of_products_of_small_numbers(torch: ModuleType) -> None:
    x = leaf(torch, [2e-25, 3e-25, 4e-25])
    (first,) = torch.autograd.grad(x.cumprod(0).sum(), x, create_graph=True)
    np.testing.assert_allclose(first.tolist(), [1.0, 2e-25, 0.0], rtol=1e-6)
    (second,) = torch.autograd.grad(first.sum(), x)  # of 1 + x1 + x1 x2 + x0 + x0 x2 + x0 x1
    np.testing.assert_allclose(second.tolist(), [1.0, 1.0, 5e-25], rtol=1e-6)


@pytest.mark.parametrize("cuts", [None, {0: 2}, {1: 3}, {0: 1, 1: 2}], ids=str)
def test_products_of_cut_tensors(torch: ModuleType, cuts: Any) -> None:
    a = np.array([[2.0, 0, 3, 0], [1, 2, 3, 4], [5, 0, 1, 2], [-1, 1, 2, 2]])
    others = lambda x, i: np.delete(x, i).prod()  # noqa: E731
    for dim in (0, 1):
        x = torch.tensor(a, sharding=cuts, requires_grad=True)
        rows = a if dim else a.T
        want = np.array([[others(r, i) for i in range(4)] for r in rows])
        assert np.array_equal(np.array(gradient(torch, x.prod(dim), x)[0]), want if dim else want.T)
        running = np.array(
            [[sum(np.delete(r[: k + 1], i).prod() for k in range(i, 4)) for i in range(4)] for r in rows]
        )
        assert np.array_equal(np.array(gradient(torch, x.cumprod(dim), x)[0]), running if dim else running.T)


# Extremes.
@pytest.mark.parametrize("name", ["amax", "amin"])
def test_the_gradient_of_an_extreme_that_is_nan_is_nan(torch: ModuleType, name: str) -> None:
    x = leaf(torch, [[1.0, NAN, 3.0], [2.0, 2.0, 2.0]])
    (g,) = gradient(torch, getattr(x, name)(1), x)
    assert np.isnan(g[0]).all()
    assert g[1] == pytest.approx([1 / 3] * 3)
    (g,) = gradient(torch, torch.aminmax(x, dim=1)[name == "amax"], x)
    assert np.isnan(g[0]).all()
    assert np.isnan(gradient(torch, getattr(x, name)(), x)[0]).all()


@pytest.mark.parametrize("name", ["max", "min", "median"])
def test_other_extremes_give_it_to_the_nan(torch: ModuleType, name: str) -> None:
    x = leaf(torch, [[1.0, NAN, 3.0], [NAN, 2.0, 2.0]])
    assert gradient(torch, getattr(x, name)(), x) == [[[0, 0.5, 0], [0.5, 0, 0]]]
    assert gradient(torch, getattr(x, name)(1)[0], x) == [[[0, 1, 0], [1, 0, 0]]]


# Element by element.
def test_elu_of_nan(torch: ModuleType) -> None:
    for alpha in (1.0, 2.5, 0.0):
        x = leaf(torch, [NAN, 1.0, INF, -INF])
        y = distgrad.nn.functional.elu(x, alpha)
        assert np.isnan(y.tolist()[0])
        (g,) = gradient(torch, y, x)
        assert np.isnan(g[0])
        assert g[1:] == [1, 1, 0]


def test_the_exponents_gradient_has_the_precision_of_the_result(torch: ModuleType) -> None:
    x, y = torch.tensor([3.0, 0.1]), leaf(torch, [1.7, -2.3], "float64")
    (g,) = gradient(torch, x**y, y)
    base = np.array([3.0, np.float32(0.1)], np.float64)
    want = base ** np.array([1.7, -2.3]) * np.log(base)
    np.testing.assert_allclose(g, want, rtol=1e-14)


def test_mixed_dtypes_keep_the_precision_of_the_result(torch: ModuleType) -> None:
    x, y = leaf(torch, [3.0, 0.1]), leaf(torch, [1.7, -2.3], "float64")
    a, b = np.array([3.0, np.float32(0.1)], np.float64), np.array([1.7, -2.3])
    (g,) = gradient(torch, torch.atan2(x, y), y)
    np.testing.assert_allclose(g, -a / (a * a + b * b), rtol=1e-14)
    (g,) = gradient(torch, x / y, y)
    np.testing.assert_allclose(g, -a / (b * b), rtol=1e-14)


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_angles_of_points_far_out_or_near_the_origin(torch: ModuleType, scale: float) -> None:
    x, y = leaf(torch, [3 * scale, 0.0]), leaf(torch, [4 * scale, 0.0])
    along, across = gradient(torch, torch.atan2(x, y), x, y)
    assert along == [pytest.approx(0.16 / scale, rel=1e-5), 0]
    assert across == [pytest.approx(-0.12 / scale, rel=1e-5), 0]
    x, y = leaf(torch, [1.0, INF, INF]), leaf(torch, [INF, 1.0, INF])
    np.testing.assert_array_equal(gradient(torch, torch.atan2(x, y), x)[0], [NAN, 0, NAN])
