"""Inference mode, and views that were made while nothing was recorded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import ModuleType

import pytest


def test_what_is_made_there_is_marked(anywhere: ModuleType) -> None:
    torch = anywhere
    x, n = torch.ones(3, requires_grad=True), torch.ones(3)
    with torch.inference_mode():
        assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == (True, False)
        a, b, view, alias = torch.ones(3), x * 2, x[:2], x.detach()
        marked = [t.is_inference() for t in (a, b, a[:2], x.clone(), view, alias)]
        assert marked == [True, True, True, True, False, False]
        a.add_(1)
        n.add_(1)
        x.add_(1)
        assert n._version == 1
        with torch.inference_mode(False):
            assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == (False, True)
            assert not torch.ones(2).is_inference()
            assert (x * 2).requires_grad
    assert a.tolist() == [2.0] * 3
    assert not torch.ones(2).is_inference()


def test_nothing_is_recorded_there_whatever_the_grad_mode(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        with torch.enable_grad():
            assert not (x * 2).requires_grad
        with torch.set_grad_enabled(True):
            assert not (x * 2).requires_grad
        torch.set_grad_enabled(True)
        assert not (x * 2).requires_grad
        with torch.inference_mode(False):
            assert (x * 2).requires_grad
    assert torch.is_grad_enabled()


def test_what_may_not_be_done_with_it(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        b = torch.ones(3)
    for call, message in (
        (lambda: b.add_(1), "Inplace update to inference tensor outside InferenceMode is not allowed."),
        (lambda: b[:2].add_(1), "Inplace update to inference tensor outside InferenceMode is not allowed."),
        (lambda: x * b, "Inference tensors cannot be saved for backward."),
        (
            b.requires_grad_,
            "Setting requires_grad=True on inference tensor outside InferenceMode is not allowed.",
        ),
        (lambda: b._version, "Inference tensors do not track version counter."),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    assert b.tolist() == [1.0] * 3  # unchanged
    assert (x + b).requires_grad
    assert not b.clone().is_inference()
    (x * b.clone()).sum().backward()
    assert x.grad.tolist() == [1.0] * 3


def test_it_decorates_functions_and_generators(anywhere: ModuleType) -> None:
    torch = anywhere

    @torch.inference_mode
    def plain() -> bool:
        return bool(torch.ones(1).is_inference())

    @torch.inference_mode()
    def steps() -> Iterator[bool]:
        yield torch.ones(1).is_inference()

    assert plain()
    assert list(steps()) == [True]
    assert not torch.is_inference_mode_enabled()


def test_it_is_of_one_thread(anywhere: ModuleType) -> None:
    torch, found = anywhere, []
    with torch.inference_mode():
        thread = threading.Thread(target=lambda: found.append(torch.ones(1).is_inference()))
        thread.start()
        thread.join()
    assert found == [False]


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_views_made_there_cannot_be_told_once_their_base_is_changed(mode: str, anywhere: ModuleType) -> None:
    torch = anywhere
    y = torch.ones(3, requires_grad=True) * 1
    with getattr(torch, mode)():
        w = y[:2]
        assert (w.requires_grad, w.grad_fn, w.is_leaf) == (True, None, True)  # a leaf of its own, as in torch
    assert (w * 2).requires_grad
    y.mul_(2)
    assert repr(w) == "tensor([2., 2.], grad_fn=<Invalid>)"
    for call in (lambda: w.grad_fn, lambda: w * 2, lambda: w[:1]):
        with pytest.raises(
            RuntimeError, match="and its base or another view of its base has been modified inplace"
        ):
            call()
    with pytest.raises(
        RuntimeError, match=f"A view was created in {mode.split('_mode')[0]}.* and is being modified"
    ):
        w.mul_(2)
    assert y.tolist() == [2.0] * 3


def test_views_that_came_together_cannot_either(anywhere: ModuleType) -> None:
    torch = anywhere
    a, b, _ = (torch.ones(3, requires_grad=True) * 1).unbind(0)
    with torch.no_grad():
        b.mul_(2)
    with pytest.raises(
        RuntimeError, match="Output 0 of Unbind is a view and its base or another view of its base"
    ):
        _ = a.grad_fn
