"""Norms and deviations of numbers whose squares are beyond the dtype's range, with first and second derivatives."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distgrad.primitives import TABLE, squares

INF, NAN = math.inf, math.nan
SCALES = [("float32", 1e20), ("float32", 1e-25), ("float32", 1.0), ("float64", 1e200), ("float64", 1e-200)]


def leaf(torch: ModuleType, x: Any, dtype: str) -> Any:
    return torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=True)


@pytest.mark.parametrize(("dtype", "scale"), SCALES)
@pytest.mark.parametrize("p", [2, 3, 1.5, 0.5, 10, -2])
def test_norms(torch: ModuleType, dtype: str, scale: float, p: float) -> None:
    """In units of `scale`: the norm N, its gradient (x / N)**(p - 1), and the gradient of the sum of that."""
    a = np.array([3.0, 4.0, 1.0])
    x = leaf(torch, a * scale, dtype)
    y = x.norm(p, 0)
    want = (a**p).sum() ** (1 / p)
    assert y.item() / scale == pytest.approx(want, rel=1e-5)
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    np.testing.assert_allclose(first.tolist(), (a / want) ** (p - 1), rtol=1e-5)
    (second,) = torch.autograd.grad(first.sum(), x)
    one = (a / want) ** (p - 1)
    curved = (p - 1) / want * ((a / want) ** (p - 2) - one * one.sum())
    np.testing.assert_allclose(np.array(second.tolist()) * scale, curved, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("dtype", "scale"), SCALES)
def test_deviations(torch: ModuleType, dtype: str, scale: float) -> None:
    a = np.array([[1.0, 3.0], [5.0, 9.0]])
    for dim, correction in ((1, 1), (0, 0), (None, 1)):
        x = leaf(torch, a * scale, dtype)
        y = x.std(dim, correction=correction)
        want = a.std(dim, ddof=correction)
        np.testing.assert_allclose(np.array(y.tolist()) / scale, want, rtol=1e-5)
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        n = 4 if dim is None else 2
        wide = want if dim is None else np.expand_dims(want, dim)
        slope = (a - a.mean(dim, keepdims=True)) / (n - correction) / wide
        np.testing.assert_allclose(g.tolist(), slope, rtol=1e-4)
        assert np.isfinite(torch.autograd.grad((g * g).sum(), x)[0].tolist()).all()


def test_examples_of_the_field(torch: ModuleType) -> None:
    assert torch.tensor([1e20, 3e20]).std().item() == pytest.approx(math.sqrt(2) * 1e20)
    x = torch.tensor([1e-25, 3e-25], requires_grad=True)
    x.std().backward()
    assert x.grad.tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])
    x = torch.tensor([3e20, 4e20], requires_grad=True)
    y = x.norm()
    y.backward()
    assert y.item() == pytest.approx(5e20)
    assert x.grad.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("n", [7, 10, 1000])
@pytest.mark.parametrize("number", [0.1, 2.7, 1e20])
def test_equal_numbers_deviate_by_nothing(torch: ModuleType, n: int, number: float) -> None:
    """Their mean is that number, to the last bit."""
    x = torch.full((2, n), number, requires_grad=True)
    for y in (x.std(), x.std(1), x.var(), x.var(1)):
        assert not y.any()
        assert not torch.autograd.grad(y.sum(), x)[0].any()


def test_the_mean_of_large_numbers_is_no_infinity(torch: ModuleType) -> None:
    x = torch.tensor([2e38, 3e38], requires_grad=True)
    assert x.std().item() == pytest.approx(math.sqrt(0.5) * 1e38)
    assert torch.autograd.grad(x.std(), x)[0].tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])


def test_zeros_infinities_and_nan(torch: ModuleType) -> None:
    rows = torch.tensor([[0.0, 0.0], [INF, 1.0], [NAN, INF], [NAN, 1e30], [-0.0, 1e-45]], requires_grad=True)
    y = rows.norm(dim=1)
    np.testing.assert_array_equal(y.tolist(), np.float32([0, INF, NAN, NAN, 1e-45]))
    (g,) = torch.autograd.grad(y.sum(), rows, create_graph=True)
    np.testing.assert_array_equal(g.tolist(), [[0, 0], [NAN, 0], [NAN, NAN], [NAN, NAN], [0, 1]])
    constant = torch.tensor([[2.0, 2.0], [1.0, 3.0]], requires_grad=True)
    (g,) = torch.autograd.grad(constant.std(1).sum(), constant, create_graph=True)
    assert g.tolist()[0] == [0, 0]
    (second,) = torch.autograd.grad(g.sum(), constant)
    assert np.isfinite(second.tolist()).all()
    assert np.isnan(torch.tensor([1.0, INF]).std().item())


@pytest.mark.parametrize("cuts", [None, {0: 2}, {1: 3}, {0: 1, 1: 2}], ids=str)
def test_cut_tensors_of_mixed_sizes(torch: ModuleType, cuts: Any) -> None:
    a = np.array(
        [[3e20, 1, 1e-30, 0, 0], [1e-25, 3e-25, 0, 0, 2e-25], [1, 2, 3, 4, 5], [1e-30, 1, 0, 0, 2]],
        np.float32,
    )
    x = torch.tensor(a, sharding=cuts)
    wide = a.astype(np.float64)
    for dim in (0, 1, None):
        np.testing.assert_allclose(x.norm(2, dim).numpy(), np.sqrt((wide**2).sum(dim)), rtol=1e-6)
        np.testing.assert_allclose(x.std(dim).numpy(), wide.std(dim, ddof=1), rtol=1e-6)


numbers = st.floats(0.5, 2.0).flatmap(lambda x: st.integers(-120, 120).map(lambda e: math.ldexp(x, e)))


@settings(max_examples=80)
@given(st.lists(st.one_of(st.just(0.0), numbers), min_size=1, max_size=30), st.integers(1, 5))
def test_any_mixture_in_any_pieces(values: list[float], pieces: int) -> None:
    x = np.array(values, np.float32)
    with np.errstate(all="ignore"):
        sums = [TABLE["square_sums"].kernel(part, (0,), False) for part in np.array_split(x, pieces)]
        root = TABLE["root_of_squares"].kernel(np.add.reduce(sums), divisor=2.0)
    want = math.sqrt(math.fsum(float(v) ** 2 for v in x) / 2)
    np.testing.assert_allclose(root, want, rtol=1e-6)


def test_a_plain_sum_of_squares_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    always = squares.Range(0.0, INF, -INF, INF, 1.0, 1.0)
    monkeypatch.setitem(squares.RANGES, np.dtype("float32"), always)
    with pytest.raises(AssertionError):
        test_any_mixture_in_any_pieces.hypothesis.inner_test([1e30, 1.0], 1)  # type: ignore[attr-defined]
