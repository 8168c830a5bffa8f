"""backward, grad, grad mode and graphs: what torch prints, in the driver and on workers."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import ModuleType

import golden_cases
import pytest

import distgrad
from distgrad import session


@pytest.mark.parametrize("case", golden_cases.cases("autograd"), ids=lambda case: f"line{case.line}")
def test_as_torch_prints(torch: ModuleType, case: golden_cases.Case) -> None:
    assert golden_cases.run(case.program, torch) == case.printed


DEEP = """
import distgrad as torch
x = torch.ones(2, requires_grad=True)
y = x
for i in range(100_000):
    y = y * 1.00001 if i % 2 else y + 0.5
y.sum().backward()
print(round(x.grad[0].item(), 3))
del y
y = x
for i in range(30_000):
    y = y * y
del y
y = x * 1
for i in range(10_000):
    y.mul_(1.0)
y.sum().backward()
y = x
for i in range(5_000):
    y = y * 1.0001
(g,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
(h,) = torch.autograd.grad(g.sum(), x)
print(round(h[0].item(), 3))
"""


@pytest.mark.sweep
def test_depth_is_limited_by_memory_alone() -> None:
    """A small stack, so that recursion anywhere, also while a graph is freed, would end the process."""
    code = f"import resource\nresource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))\n{DEEP}"
    root = Path(distgrad.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.65", "5.437"]


def test_a_graph_is_freed_without_the_collector(torch: ModuleType) -> None:
    gc.collect()
    gc.disable()
    try:
        x = torch.ones(3, requires_grad=True)
        y = x * 2
        z = y * y
        node, value = weakref.ref(z.grad_fn), weakref.ref(y._value)
        z.sum().backward()
        del y, z
        assert node() is None
        assert value() is None
        assert x.grad.tolist() == [8.0] * 3
    finally:
        gc.enable()


def test_saved_values_go_after_backward(torch: ModuleType) -> None:
    gc.collect()
    gc.disable()
    try:
        x = torch.ones(3, requires_grad=True)
        y = x * 2
        value = weakref.ref(y._value)
        z = (y * y).sum()
        del y
        assert value() is not None
        z.backward()
        assert value() is None
    finally:
        gc.enable()


def test_only_what_is_needed_is_saved(torch: ModuleType) -> None:
    gc.collect()
    x = torch.ones(3, requires_grad=True)
    w = torch.ones(3)
    value = weakref.ref((x + 1)._value)
    assert value() is None
    y = x * 2
    held = weakref.ref(y._value)
    z = y * w  # needs w alone: y is needed for the gradient of w, which needs none
    del y
    gc.collect()
    assert held() is None
    z.sum().backward()
    assert x.grad.tolist() == [2.0] * 3


def test_grad_mode_is_per_thread(torch: ModuleType) -> None:
    seen = []
    with torch.no_grad():
        thread = threading.Thread(target=lambda: seen.append(torch.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_grad_mode_of_a_coroutine(torch: ModuleType) -> None:
    @torch.no_grad()
    async def inside() -> list[bool]:
        seen = [torch.is_grad_enabled()]
        await asyncio.sleep(0)
        return [*seen, torch.is_grad_enabled()]

    async def beside() -> bool:
        return torch.is_grad_enabled()

    async def both() -> list[object]:
        return list(await asyncio.gather(inside(), beside()))

    assert asyncio.run(both()) == [[False, False], True]


def test_grad_mode_of_a_generator_that_is_thrown_into(torch: ModuleType) -> None:
    @torch.no_grad()
    def numbers() -> object:
        try:
            yield 1
        except ValueError:
            yield torch.is_grad_enabled()

    generator = numbers()
    next(generator)
    assert generator.throw(ValueError) is False
    assert torch.is_grad_enabled()
    generator.close()


def test_grad_mode_comes_back_after_an_error_in_backward(torch: ModuleType) -> None:
    x = torch.ones(2, requires_grad=True)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()
    assert torch.is_grad_enabled()


def test_grad_mode_comes_back_after_a_ctrl_c_as_backward_begins(
    torch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(where: object) -> None:
        raise KeyboardInterrupt

    loss = (torch.ones(2, requires_grad=True) * 2).sum()
    with monkeypatch.context() as patch:
        patch.setattr(session, "is_initialized", lambda: True)
        patch.setattr(session, "begin_pass", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loss.backward()
    assert torch.is_grad_enabled()
    assert session.current_op.caller is None


def test_reading_grad_of_a_non_leaf_warns(torch: ModuleType) -> None:
    y = torch.ones(2, requires_grad=True) * 2
    with pytest.warns(UserWarning, match="not a leaf Tensor is being accessed"):
        assert y.grad is None
    y.retain_grad()
    y.sum().backward()
    assert y.grad.tolist() == [1.0, 1.0]


def test_a_gradient_is_nobody_elses(torch: ModuleType) -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    g = torch.ones(2)
    (x + y).backward(g)
    x.grad.mul_(5)
    assert y.grad.tolist() == [1.0, 1.0]
    assert g.tolist() == [1.0, 1.0]


def test_the_old_name_of_retain_graph(torch: ModuleType) -> None:
    x = torch.ones(2, requires_grad=True)
    y = (x * x).sum()
    y.backward(retain_variables=True)
    torch.autograd.backward(y, retain_variables=True)
    assert x.grad.tolist() == [4.0, 4.0]


def test_an_unused_branch_is_not_walked(torch: ModuleType) -> None:
    x, w = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    y = x * w
    (g,) = torch.autograd.grad(y.sum(), w, retain_graph=True)
    assert g.tolist() == [1.0, 1.0]
    assert x.grad is None
    y.sum().backward(inputs=[x])
    assert x.grad.tolist() == [1.0, 1.0]
    assert w.grad is None


def test_a_deep_second_order(torch: ModuleType) -> None:
    x = torch.tensor([2.0], requires_grad=True)
    derivative = x**5
    for expected in (80.0, 160.0, 240.0, 240.0, 120.0):
        (derivative,) = torch.autograd.grad(derivative.sum(), x, create_graph=True)
        assert derivative.item() == pytest.approx(expected)
