"""`saved_tensors_hooks`, `save_on_cpu` and their refusal: what is packed when, and what comes back."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

import distgrad
from distgrad.autograd.graph import disable_saved_tensors_hooks, save_on_cpu, saved_tensors_hooks
from distgrad.tensor import Tensor


def noted(log: list[str], name: str) -> saved_tensors_hooks:
    def pack(x: Tensor) -> Any:
        log.append(f"pack {name} {x.tolist()} {distgrad.is_grad_enabled()}")
        return x.detach()

    def unpack(x: Any) -> Tensor:
        log.append(f"unpack {name} {x.tolist()}")
        return x

    return saved_tensors_hooks(pack, unpack)


def test_the_innermost_hooks_hold(torch: ModuleType) -> None:
    log: list[str] = []
    a, b = torch.ones(2, requires_grad=True), torch.tensor([2.0, 3.0], requires_grad=True)
    with noted(log, "outer"):
        y = a * b
        with noted(log, "inner"):
            z = y.exp()
    w = z * z
    assert sorted(log[:2]) == ["pack outer [1.0, 1.0] False", "pack outer [2.0, 3.0] False"]
    assert [text[:10] for text in log[2:]] == ["pack inner"]
    w.sum().backward()
    assert [text[:12] for text in log[3:]] == ["unpack inner", "unpack outer", "unpack outer"]
    assert b.grad.tolist() == pytest.approx([2 * 54.598, 2 * 403.43], rel=1e-3)


def test_what_is_unpacked_is_used(torch: ModuleType) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    with saved_tensors_hooks(lambda t: t.detach(), lambda t: t * 10):
        y = x * x
    y.sum().backward()
    assert x.grad.tolist() == [20, 40]


def test_the_graph_goes_on_behind_what_is_unpacked(torch: ModuleType) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    with saved_tensors_hooks(lambda t: t.detach().numpy(), lambda a: torch.from_numpy(a)):
        y = (x**3).exp()
    (g,) = torch.autograd.grad(y.log().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), x)
    assert h.tolist() == pytest.approx([6, 12], rel=1e-4)


def test_in_place_and_custom_functions(torch: ModuleType) -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 2 * g * ctx.saved_tensors[0]

    log: list[str] = []
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    with noted(log, "it"):
        y = Square.apply(x).clone()
        y.sin_()
        y.exp_()
    assert [text.split(" [")[0] for text in log] == ["pack it"] * 3
    y.log().sum().backward()
    assert x.grad.tolist() == pytest.approx([2 * 0.5403, 4 * -0.6536], rel=1e-3)


def test_changes_are_not_noticed_behind_hooks(torch: ModuleType) -> None:
    a = torch.ones(2, requires_grad=True) * 2
    with saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        y = a * a
    a.add_(1)
    y.sum().backward()


def test_save_on_cpu(torch: ModuleType) -> None:
    x = torch.arange(12.0).view(4, 3).requires_grad_()
    with save_on_cpu(pin_memory=True):
        y = (x.exp() * x).sum()
    y.backward()
    want = [(v + 1) * 2.718281828**v for v in range(12)]
    assert x.grad.view(-1).tolist() == pytest.approx(want, rel=1e-5)


def test_faults_of_hooks(torch: ModuleType) -> None:
    x = torch.ones(2, requires_grad=True) * 2
    with (
        saved_tensors_hooks(lambda t: t.add_(1), lambda t: t),
        pytest.raises(RuntimeError, match="pack hook is modif"),
    ):
        x * x
    with saved_tensors_hooks(lambda t: 1 / 0, lambda t: t), pytest.raises(ZeroDivisionError):
        x * x
    with saved_tensors_hooks(lambda t: 3, lambda t: t):
        y = x.exp() * 1
    with pytest.raises(TypeError, match="unpack_hook expected to be a Tensor but got result of type int"):
        y.sum().backward()
    assert distgrad.saving.active.count == 0


def test_refusal() -> None:
    hooks = saved_tensors_hooks(lambda t: t, lambda t: t)
    with disable_saved_tensors_hooks("not here"):
        with pytest.raises(RuntimeError, match="not here"), hooks:
            pass
        with (
            disable_saved_tensors_hooks("nor there"),
            pytest.raises(RuntimeError, match="nor there"),
            save_on_cpu(),
        ):
            pass
    with hooks, pytest.raises(RuntimeError, match="none inside"), disable_saved_tensors_hooks("none inside"):
        pass
    with hooks:
        pass
