"""Hooks on tensors, leaves and nodes: their order, what they may give back, and what happens if they may not."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def test_hooks_are_called_in_torchs_order(anywhere: ModuleType) -> None:
    torch, log = anywhere, []
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    z = (y * y).sum()
    y.register_hook(lambda g: log.append("first"))
    y.retain_grad()
    y.register_hook(lambda g: log.append("second"))
    y.grad_fn.register_prehook(lambda gs: log.append(("before", len(gs))))
    y.grad_fn.register_hook(lambda gi, go: log.append(("after", len(gi), len(go), y.grad is not None)))
    x.register_hook(lambda g: log.append("leaf"))
    x.register_post_accumulate_grad_hook(lambda p: log.append(("deposited", p is x, p.grad.tolist())))
    end = y.grad_fn.next_functions[0][0]
    end.register_prehook(lambda gs: log.append(("end before", x.grad)))
    end.register_hook(lambda gi, go: log.append(("end after", gi, go[0].tolist())))
    z.backward()
    assert log == [
        "first",
        "second",
        ("before", 1),
        ("after", 2, 1, True),
        "leaf",
        ("end before", None),
        ("deposited", True, [8.0, 8.0, 8.0]),
        ("end after", (), [8.0, 8.0, 8.0]),
    ]


def test_hooks_change_gradients(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 10)  # before the gradient is retained, though registered later
    y.grad_fn.register_prehook(lambda gs: (gs[0] * 100,))
    y.grad_fn.register_hook(lambda gi, go: (gi[0] + go[0], None))
    (y * y).sum().backward()
    assert y.grad.tolist() == [40.0] * 3
    assert x.grad.tolist() == [8000.0 + 4000.0] * 3


def test_what_grad_gives_of_an_intermediate_tensor(anywhere: ModuleType) -> None:
    """As in torch: without its hooks if the pass goes on behind it, with them if it ends there."""
    torch = anywhere
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    z = (y * y).sum()
    y.register_hook(lambda g: g * 10)
    gx, gy = torch.autograd.grad(z, [x, y], retain_graph=True)
    assert (gx.tolist(), gy.tolist()) == ([80.0] * 3, [4.0] * 3)
    assert torch.autograd.grad(z, y)[0].tolist() == [40.0] * 3


def test_hooks_of_leaves_are_heeded_by_grad(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(3, requires_grad=True)
    handle = x.register_hook(lambda g: g * 7)
    assert torch.autograd.grad((x * x).sum(), x)[0].tolist() == [14.0] * 3
    handle.remove()
    handle.remove()
    assert torch.autograd.grad((x * x).sum(), x)[0].tolist() == [2.0] * 3
    with x.register_hook(lambda g: g * 7):
        assert torch.autograd.grad((x * x).sum(), x)[0].tolist() == [14.0] * 3
    assert torch.autograd.grad((x * x).sum(), x)[0].tolist() == [2.0] * 3


def test_a_hook_registered_before_a_change_in_place_gets_the_gradient_before_it(anywhere: ModuleType) -> None:
    torch, seen = anywhere, {}
    x = torch.ones(3, requires_grad=True)
    y = x * 1
    y.register_hook(lambda g: seen.update(before=g.tolist()))
    y.retain_grad()
    y.mul_(5)
    y.register_hook(lambda g: seen.update(after=g.tolist()))
    y.sum().backward()
    assert seen == {"before": [5.0] * 3, "after": [1.0] * 3}
    assert y.grad.tolist() == [1.0] * 3


def test_gradients_that_nobody_gave_are_none_for_hooks(anywhere: ModuleType) -> None:
    torch, log = anywhere, []
    x = torch.ones(3, requires_grad=True)
    a, b, _ = x.unbind(0)
    a.register_hook(lambda g: log.append(("a", g)))
    b.register_hook(lambda g: log.append(("b", g.item())))
    a.grad_fn.register_prehook(lambda gs: log.append([None if g is None else g.item() for g in gs]))
    a.retain_grad()
    (b * 2).backward()
    assert log == [("a", None), ("b", 2.0), [None, 2.0, None]]
    assert a.grad is None


def test_the_mode_in_hooks_is_that_of_the_pass(anywhere: ModuleType) -> None:
    torch = anywhere
    for create_graph in (False, True):
        modes: list[Any] = []
        x = torch.ones(3, requires_grad=True)
        x.register_hook(lambda g, m=modes: m.append((torch.is_grad_enabled(), g.requires_grad)))
        torch.autograd.grad((x * x).sum(), x, create_graph=create_graph)
        assert modes == [(create_graph, create_graph)]


def _run(torch: ModuleType, where: str, hook: Callable[..., Any]) -> Any:
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    node = y.grad_fn
    {"tensor": y.register_hook, "before": node.register_prehook, "after": node.register_hook}[where](hook)
    (y * y).sum().backward()
    return x.grad


NAME = "hook '<lambda>' has "
SIZE = NAME + "changed the size of value"


@pytest.mark.parametrize(
    ("where", "hook", "error", "message"),
    [
        ("tensor", lambda g: g[:2], RuntimeError, SIZE),
        ("tensor", lambda g: 3, TypeError, "expected Variable, but hook returned 'int'"),
        (
            "tensor",
            lambda g: g.double(),
            RuntimeError,
            NAME + "changed the type of value (was torch.FloatTensor got torch.DoubleTensor)",
        ),
        ("before", lambda gs: gs[0], TypeError, "expected tuple, but hook returned 'Tensor'"),
        ("before", lambda gs: [gs[0]], TypeError, "expected tuple, but hook returned 'list'"),
        (
            "before",
            lambda gs: gs * 2,
            RuntimeError,
            NAME + "returned an incorrect number of values (got 2, but expected 1)",
        ),
        ("before", lambda gs: (gs[0][:2],), RuntimeError, SIZE),
        (
            "after",
            lambda gi, go: gi[:1],
            RuntimeError,
            NAME + "returned an incorrect number of values (got 1, but expected 2)",
        ),
        (
            "after",
            lambda gi, go: (gi[0],) * 2,
            RuntimeError,
            "can't replace a None gradient with a non-None value",
        ),
    ],
)
def test_what_hooks_may_not_give(
    where: str, hook: Callable[..., Any], error: type[Exception], message: str, anywhere: ModuleType
) -> None:
    with pytest.raises(error) as caught:
        _run(anywhere, where, hook)
    assert str(caught.value) == message
    assert _run(anywhere, where, lambda *gs: None).tolist() == [8.0] * 3  # the session is usable


def test_a_hook_may_take_a_gradient_away(anywhere: ModuleType) -> None:
    assert _run(anywhere, "before", lambda gs: (None,)) is None
    assert _run(anywhere, "after", lambda gi, go: (None, None)) is None


def test_who_may_have_hooks(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(3)
    with pytest.raises(
        RuntimeError, match="cannot register a hook on a tensor that doesn't require gradient"
    ):
        x.register_hook(print)
    with pytest.raises(
        RuntimeError, match="cannot register a hook on a tensor that doesn't require gradient"
    ):
        x.register_post_accumulate_grad_hook(print)
    y = x.requires_grad_() * 2
    message = "post accumulate grad hooks cannot be registered on non-leaf tensors"
    with pytest.raises(RuntimeError, match=message):
        y.register_post_accumulate_grad_hook(print)


def test_inputs_of_backward_retain_their_gradient(anywhere: ModuleType) -> None:
    torch, log = anywhere, []
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    y.grad_fn.register_hook(lambda gi, go: log.append(gi))
    (y * y).sum().backward(inputs=[y])
    assert (y.grad.tolist(), x.grad, y.retains_grad, log) == ([4.0] * 3, None, True, [(None, None)])


def test_a_leaf_and_its_hooks_go_together(anywhere: ModuleType) -> None:
    torch, log = anywhere, []
    x = torch.ones(3, requires_grad=True)
    x.register_hook(lambda g: log.append(g.sum().item()))
    for _ in range(2):  # its node is made anew for each graph
        (x * x).sum().backward()
    assert log == [6.0, 6.0]
    assert x.grad.tolist() == [4.0] * 3


def test_a_hook_that_raises_leaves_all_usable(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    z = (y * y).sum()

    def refuse(g: Any) -> None:
        raise ValueError("not this one")

    with y.register_hook(refuse), pytest.raises(ValueError, match="not this one"):
        z.backward(retain_graph=True)
    assert x.grad is None
    assert torch.is_grad_enabled()
    z.backward()
    assert x.grad.tolist() == [8.0] * 3


def test_metadata_is_a_dict_of_the_node(anywhere: ModuleType) -> None:
    y = anywhere.ones(2, requires_grad=True) * 2
    y.grad_fn.metadata["note"] = 1
    assert y.grad_fn.metadata == {"note": 1}
