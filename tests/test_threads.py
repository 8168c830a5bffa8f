"""Backward passes of several threads at once, and graphs of very many nodes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest

import distgrad as torch
from distgrad.autograd import engine
from distgrad.record import AccumulateGrad, BackwardNode


@pytest.fixture(autouse=True)
def _restless() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*calls: Callable[[], None]) -> None:
    """Run each in a thread of its own; raise what one of them raises."""
    errors: list[BaseException] = []

    def run(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_graphs_of_their_own(anywhere: ModuleType) -> None:
    torch = anywhere
    weights = torch.arange(40.0).view(8, 5) / 50

    def gradient(k: int) -> Any:
        x = (weights + k / 7).requires_grad_()
        ((x @ x.t()).tanh() * x.sum(1)).sum().backward()
        return x.grad.tolist()

    expected = [gradient(k) for k in range(3)]

    def worker(k: int) -> None:
        for _ in range(4):
            assert gradient(k) == expected[k]

    at_once(*(lambda k=k: worker(k) for k in range(3)))  # type: ignore[misc]


def test_one_graph(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.linspace(0, 1, 40).requires_grad_()
    y = (x.exp() * x).sum()
    expected = torch.autograd.grad(y, x, retain_graph=True)[0].tolist()

    def worker() -> None:
        for _ in range(5):
            assert torch.autograd.grad(y, x, retain_graph=True)[0].tolist() == expected

    at_once(worker, worker, worker)


def test_no_gradient_of_a_shared_leaf_is_lost(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(40, requires_grad=True)

    def worker() -> None:
        for _ in range(10):
            (x * 2).sum().backward()

    at_once(worker, worker, worker)
    assert x.grad.tolist() == [60.0] * 40


def test_a_race_at_a_leaf_would_be_seen(anywhere: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above, with a fault planted: nobody waits, and each lets the other go first."""
    torch, barrier = anywhere, threading.Barrier(2)
    x = torch.ones(3, requires_grad=True)
    add = engine.add

    def slow(a: Any, b: Any) -> Any:
        found = add(a, b)
        if a is x.grad:
            barrier.wait(10)  # both have read what was there
        return found

    x.grad = torch.zeros(3)
    monkeypatch.setattr(engine, "add", slow)
    monkeypatch.setattr(engine, "_depositing", threading.Semaphore(2))
    at_once(*[lambda: (x * 2).sum().backward()] * 2)
    assert x.grad.tolist() == [2.0] * 3


def test_each_thread_has_its_own_mode(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(3, requires_grad=True)

    def without() -> None:
        with torch.no_grad():
            for _ in range(20):
                assert not (x * 2).requires_grad

    def within() -> None:
        for _ in range(10):
            assert (x * 2).requires_grad
            torch.autograd.grad((x * x).sum(), x, create_graph=True)
            assert torch.is_grad_enabled()

    at_once(without, within, without)


def test_hooks_on_several_tensors_keep_passes_apart(anywhere: ModuleType) -> None:
    torch, counts = anywhere, []
    a, b = (torch.ones(8, requires_grad=True) for _ in range(2))
    c = (a * b).sum()
    hook = torch.autograd.graph.register_multi_grad_hook
    with hook((a, b), lambda gs: counts.append(sum(g is not None for g in gs))):
        at_once(*[lambda: torch.autograd.grad(c, [a, b], retain_graph=True)] * 6)
    assert counts == [2] * 6


class Link(BackwardNode):
    """Passes a gradient on."""

    __slots__ = ()

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        return grads


@pytest.mark.sweep
def test_a_graph_of_very_many_nodes() -> None:
    """It is walked, and goes when it is no longer held, without recursion."""
    x = torch.ones(3, requires_grad=True)
    node: BackwardNode = AccumulateGrad(x)
    for _ in range(100_000):
        node = Link(((node, 0),))
    engine.run([(node, 0)], [torch.ones(3)], keep_graph=False, create_graph=False)
    assert x.grad.tolist() == [1.0] * 3
    del node
    y = x * 1
    for _ in range(5_000):
        y = y * x  # saves both
    del y  # never walked
    (x * 2).sum().backward()
    assert x.grad.tolist() == [3.0] * 3
