"""Forward mode as users see it: levels, duals, views, writes in place, and its mixtures with backward."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad.autograd import forward_ad as fw
from distgrad.tensor import Tensor


def pair(x: Tensor) -> tuple[Any, Any]:
    primal, tangent = fw.unpack_dual(x)
    return primal.tolist(), None if tangent is None else tangent.tolist()


def test_a_chain_has_the_tangent_of_the_chain_rule(torch: ModuleType) -> None:
    x, t = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5])
    with fw.dual_level():
        y = fw.make_dual(x, t).pow(2).mul(3).sum()
        assert pair(y) == (165.0, pytest.approx(6 * (1 - 3 + 8 + 2.5)))
        assert pair(torch.tensor(1.0)) == (1.0, None)
    assert fw.unpack_dual(y) == (y, None)


def test_matrices_lists_and_several_results(torch: ModuleType) -> None:
    a = np.arange(6.0).reshape(2, 3) / 7
    ta = np.cos(np.arange(6.0)).reshape(2, 3)
    with fw.dual_level():
        x = fw.make_dual(torch.tensor(a), torch.tensor(ta))
        product = fw.unpack_dual(x @ x.T).tangent
        np.testing.assert_allclose(product.numpy(), ta @ a.T + a @ ta.T)
        joined = fw.unpack_dual(torch.cat([x, torch.ones(1, 3, dtype=torch.float64)])).tangent
        np.testing.assert_array_equal(joined.numpy(), np.vstack([ta, np.zeros((1, 3))]))
        values, indices = x.max(1)
        np.testing.assert_allclose(fw.unpack_dual(values).tangent.numpy(), ta[:, 2])
        assert fw.unpack_dual(indices).tangent is None
        assert fw.unpack_dual(x > 0).tangent is None
        parts = x.split(2, 1)
        np.testing.assert_array_equal(fw.unpack_dual(parts[1]).tangent.numpy(), ta[:, 2:])


def test_numbers_arrays_and_ops_that_are_flat(torch: ModuleType) -> None:
    with fw.dual_level():
        x = fw.make_dual(torch.tensor([1.5, -2.5]), torch.tensor([1.0, 3.0]))
        assert pair(2 - x / 4 + np.float32(1)) == ([2.625, 3.625], [-0.25, -0.75])
        assert pair(x.floor()) == ([1.0, -3.0], [0.0, 0.0])
        assert pair(x.detach()) == ([1.5, -2.5], None)
        assert pair(x.data) == ([1.5, -2.5], None)
        assert pair(x.int()) == ([1, -2], None)
        assert fw.unpack_dual(x.double()).tangent.dtype is torch.float64


def test_the_tangent_is_the_users_own(torch: ModuleType) -> None:
    t = torch.tensor([1.0, 2.0])
    with fw.dual_level():
        x = fw.make_dual(torch.ones(2), t)
        assert fw.unpack_dual(x).tangent is t
        x.clone().mul_(5)
        assert t.tolist() == [1, 2]
        x.mul_(3)
    assert t.tolist() == [3, 6]


def test_views_share_their_tangents(torch: ModuleType) -> None:
    with fw.dual_level():
        x = fw.make_dual(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]))
        row = x[1:]
        row.mul_(10)
        assert pair(x) == ([1, 10, 10], [1, 20, 30])
        base = torch.zeros(2, 2)
        early, late = base.view(4), base[1]
        late.copy_(x[:2])
        assert pair(base) == ([[0, 0], [1, 10]], [[0, 0], [1, 20]])
        assert pair(early) == ([0, 0, 1, 10], [0, 0, 1, 20])
        base[0] = x[2]
        assert pair(early) == ([10, 10, 1, 10], [30, 30, 1, 20])
        base.zero_()
        assert pair(early) == ([0, 0, 0, 0], [0, 0, 0, 0])


def test_an_operand_changes_with_what_is_written(torch: ModuleType) -> None:
    with fw.dual_level():
        x = fw.make_dual(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]))
        x.mul_(x)
        assert pair(x) == ([9, 16], [6, 16])
        x.add_(torch.ones(2), alpha=2)
        assert pair(x) == ([11, 18], [6, 16])


def test_forward_over_reverse_and_reverse_over_forward(torch: ModuleType) -> None:
    """f = Σ x³: the gradient's tangent is 6 x t, and so is the tangent's gradient."""
    x, t = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True), torch.tensor([1.0, 2.0, -1.0, 0.0])
    with fw.dual_level():
        y = (fw.make_dual(x, t) ** 3).sum()
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        assert pair(g) == ([3, 12, 27, 48], [6, 24, -18, 0])
        (h,) = torch.autograd.grad(fw.unpack_dual(y).tangent, x)
        assert h.tolist() == [6, 24, -18, 0]
        (twice,) = torch.autograd.grad(fw.unpack_dual(g).tangent.sum(), x)
        assert twice.tolist() == [6, 12, -6, 0]


@pytest.mark.parametrize(
    ("name", "want"),
    [("cube", [12, 180]), ("overwritten", [12, 180]), ("view", [12, 0]), ("result", [np.e**2, 10 * np.e**3])],
)
def test_what_may_change_is_saved_with_its_tangents(torch: ModuleType, name: str, want: list[float]) -> None:
    """The gradient of x³ is 3x², whose tangent is 6xt; that of exp is exp, with the tangent exp(x)t."""
    x, t = torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor([1.0, 10.0])
    with torch.autograd.graph.allow_mutation_on_saved_tensors(), fw.dual_level():
        d = fw.make_dual(x, t)
        b = d.exp() if name == "result" else d * 1
        y = (
            b * 1
            if name == "result"
            else d * d * d
            if name == "cube"
            else (b[:1] if name == "view" else b) ** 3
        )
        b.mul_(5)
        (g,) = torch.autograd.grad(y.sum(), x)
        np.testing.assert_allclose(pair(g)[1], want, rtol=1e-6)


def test_gradients_of_the_tangent(torch: ModuleType) -> None:
    t = torch.tensor([1.0, 2.0], requires_grad=True)
    with fw.dual_level():
        y = fw.unpack_dual(fw.make_dual(torch.tensor([3.0, 4.0]), t).exp().log().mul(5)).tangent
    np.testing.assert_allclose(torch.autograd.grad(y.sum(), t)[0].numpy(), [5, 5], rtol=1e-6)


def test_nothing_is_recorded_without_need(torch: ModuleType) -> None:
    x = torch.ones(2, requires_grad=True)
    with fw.dual_level(), torch.no_grad():
        y = fw.make_dual(x, torch.ones(2)).exp()
        primal, tangent = fw.unpack_dual(y)
    assert not primal.requires_grad
    assert not tangent.requires_grad


def test_large_tensors_stay_on_the_workers() -> None:
    """The tangent of a million elements is one plan, and nothing is computed for the rule's own g."""
    with distgrad.init("inproc", workers=3):
        x = distgrad.randn(1 << 20)
        with fw.dual_level():
            y = fw.unpack_dual((fw.make_dual(x, distgrad.ones(1 << 20)).sin() * 2).sum()).tangent
            text = str(distgrad.explain(y))
            assert "sin" not in text.replace("cos", "") or text.count("sin") == 0, text
            np.testing.assert_allclose(float(y), 2 * np.cos(x.numpy().astype(float)).sum(), rtol=1e-5)


def test_messages() -> None:
    x = distgrad.ones(2)
    for call, error, words in [
        (lambda: fw.make_dual(x, x), RuntimeError, "but no level exists, make sure to enter_dual_level"),
        (fw.exit_dual_level, RuntimeError, "Dual level must be a positive number."),
    ]:
        with pytest.raises(error, match=words):
            call()
    with fw.dual_level() as level:
        assert level == 0
        y = fw.make_dual(x, 2 * x)
        assert y._base is x
        assert repr(y) == "tensor([1., 1.], tangent=tensor([2., 2.]))"
        refused: list[tuple[Any, type[Exception], str]] = [
            (fw.enter_dual_level, RuntimeError, "Nested forward mode AD is not supported at the moment"),
            (
                lambda: fw.make_dual(x, distgrad.ones(3)),
                RuntimeError,
                r"is of size \[2\] while .* of size \[3\]",
            ),
            (
                lambda: fw.make_dual(x.long(), x),
                ValueError,
                "Expected primal to be floating point or complex",
            ),
            (lambda: fw.make_dual(x, x.long()), ValueError, "but got: torch.int64"),
            (
                lambda: fw.make_dual(y, x),
                RuntimeError,
                "that already has a forward gradient at the same level 0",
            ),
            (
                lambda: fw.make_dual(x, y),
                RuntimeError,
                "that itself has a forward gradient at the same level0",
            ),
            (lambda: fw.make_dual(x, x, level=1), RuntimeError, "Invalid level given to _make_dual"),
            (lambda: fw.unpack_dual(x, level=1), RuntimeError, "Invalid level given to _fw_primal"),
            (lambda: fw.exit_dual_level(level=3), RuntimeError, "that was not the last one"),
            (lambda: fw.unpack_dual(3), TypeError, r"argument 'dual' \(position 1\) must be Tensor, not int"),
        ]
        for call, error, words in refused:
            with pytest.raises(error, match=words):
                call()
    assert not distgrad.dual.forward.on


def test_a_level_ends_with_an_error() -> None:
    @fw.dual_level()
    def bad() -> None:
        raise KeyError(3)

    for _ in range(2):
        with pytest.raises(KeyError):
            bad()
    assert not distgrad.dual.forward.on
