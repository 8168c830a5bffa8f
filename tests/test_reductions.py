"""Reductions, sorting and running totals: what torch prints, and how little travels between the workers."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import golden_cases
import numpy as np
import pytest
from recorder import Recorder
from values import numbers

import distgrad
from distgrad.primitives import TABLE

NAN = float("nan")


@pytest.mark.parametrize("case", golden_cases.cases("reductions"), ids=lambda case: f"line{case.line}")
def test_as_torch_prints(torch: ModuleType, case: golden_cases.Case) -> None:
    assert golden_cases.run(case.program, torch) == case.printed


@pytest.mark.parametrize("name", ["argmax", "argmin", "max", "min", "amax", "median", "sort"])
@pytest.mark.parametrize("cuts", [{0: 3}, {1: 4}, {0: 2, 1: 5}, {0: [0, 1, 1, 6, 7]}], ids=str)
def test_along_each_dimension_of_a_cut_tensor(torch: ModuleType, name: str, cuts: dict[int, Any]) -> None:
    x = numbers(7, 10)
    x[3, 4] = x[5, 4] = x[3, 8] = 99.0
    for dim in (0, 1, -1):
        whole, cut = (getattr(torch.tensor(x, sharding=c), name)(dim=dim) for c in (None, cuts))
        pairs = zip(*((r if isinstance(r, tuple) else (r,)) for r in (whole, cut)), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("cuts", [{0: 3}, {1: 4}, {0: 2, 1: 5}], ids=str)
@pytest.mark.parametrize("special", [[], [(5, 1)], [(2, 8), (6, 0)]], ids=["no nan", "a nan", "two nans"])
def test_position_in_all_of_a_cut_tensor(torch: ModuleType, cuts: Any, special: list[Any]) -> None:
    x = numbers(7, 10)
    x[1, 9] = x[6, 2] = x.max()
    x[4, 4] = x[0, 7] = x.min()
    for at in special:
        x[at] = NAN
    t = torch.tensor(x, sharding=cuts)
    assert (t.argmax().item(), t.argmin().item()) == (x.argmax(), x.argmin())
    assert t.argmax(keepdim=True).shape == (1, 1)


def test_argmax_of_a_large_tensor_moves_only_extremes(recorder: Recorder) -> None:
    x = numbers(64, 64)
    t = distgrad.tensor(x, sharding=2)
    before = len(recorder.calls)
    assert t.argmax().item() == x.argmax()
    assert sum(size for _, _, size in recorder.calls[before:]) < x.nbytes / 4


def test_gradient_of_max_stays_where_the_tensor_is(recorder: Recorder) -> None:
    x = distgrad.tensor(numbers(64, 64), sharding=2, requires_grad=True)
    before = len(recorder.calls)
    for dim in (0, 1):
        x.max(dim).values.sum().backward()
    assert x.grad is not None
    assert x.grad.sharding == x.sharding
    assert (x.grad.sum(0) >= 1).all()
    assert sum(size for _, _, size in recorder.calls[before:]) < x.nbytes / 4


@pytest.mark.parametrize("n", [8_191, 8_192, 8_193, 100_003, 1 << 20])
def test_a_long_sum_is_nearly_as_exact_as_its_dtype(n: int) -> None:
    x = np.random.default_rng(n).random(n, np.float32)
    total = TABLE["sum"].kernel
    assert abs(total(x, (0,), False) / math.fsum(x.tolist()) - 1) < 2e-7
    assert total(np.arange(n), (0,), False) == n * (n - 1) // 2


@pytest.mark.parametrize("name", ["amax", "amin", "max", "min"])
def test_ties_share_the_gradient(torch: ModuleType, name: str) -> None:
    x = torch.tensor([[2.0, 2, 2, 2], [2, 2, 2, 2]], requires_grad=True)
    getattr(x, name)().backward()
    assert x.grad.tolist() == [[0.125] * 4] * 2


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ([2.0, 3.0, 4.0], [12.0, 8.0, 6.0]),
        ([2.0, 0.0, 4.0], [0.0, 8.0, 0.0]),
        ([0.0, 0.0, 4.0], [0.0, 0.0, 0.0]),
    ],
)
def test_product_with_zeros(torch: ModuleType, row: list[float], want: list[float]) -> None:
    x = torch.tensor(row, requires_grad=True)
    x.prod().backward()
    assert x.grad.tolist() == want


def test_second_derivative_of_a_product_with_two_zeros(torch: ModuleType) -> None:
    """d²(abcd)/da db = cd: of two zeros it is what is left, though all first derivatives are 0 (torch gives 0 here)."""
    x = torch.tensor([0.0, 0.0, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(x.prod(), x, create_graph=True)
    (second,) = torch.autograd.grad(first[0], x)
    assert first.tolist() == [0, 0, 0, 0]
    assert second.tolist() == [0, 12, 0, 0]


def test_variance_without_freedom_warns(torch: ModuleType) -> None:
    with pytest.warns(UserWarning, match="degrees of freedom is <= 0"):
        assert np.isnan(torch.tensor([1.0]).var().item())


def test_logsumexp_does_not_overflow(torch: ModuleType) -> None:
    x = torch.tensor([1e4, 1e4, -1e4], dtype=torch.float64, requires_grad=True)
    y = x.logsumexp(0)
    y.backward()
    assert y.item() == pytest.approx(1e4 + np.log(2), rel=1e-15)
    assert x.grad.tolist() == pytest.approx([0.5, 0.5, 0.0], rel=1e-11)


def test_logsumexp_beside_infinities(torch: ModuleType) -> None:
    inf = float("inf")
    x = torch.tensor([[inf, 100.0, 1.0], [-inf, -inf, -inf], [-inf, 2.0, 2.0]], requires_grad=True)
    y = x.logsumexp(1)
    y.sum().backward()
    assert y.tolist() == [inf, -inf, pytest.approx(2 + np.log(2))]
    assert np.array_equal(
        x.grad.numpy(), [[np.nan, 0, 0], [np.nan, np.nan, np.nan], [0, 0.5, 0.5]], equal_nan=True
    )
