"""What nodes show of what they saved, gradient edges, and hooks on several tensors at once."""

from __future__ import annotations

from types import ModuleType

import pytest


def test_nodes_show_what_they_saved(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * x
    assert y.grad_fn._saved_self is x
    assert {"_saved_self", "_saved_other"} <= set(dir(y.grad_fn))
    assert (x**2).grad_fn._saved_exponent == 2
    assert x.sum().grad_fn._saved_self_sym_sizes == (3,)
    e = x.exp()
    assert e.grad_fn._saved_result.grad_fn is e.grad_fn
    assert e.grad_fn._saved_result.tolist() == e.tolist()
    y.sum().backward()
    with pytest.raises(
        RuntimeError, match="directly access saved tensors after they have already been freed"
    ):
        _ = y.grad_fn._saved_self
    with pytest.raises(AttributeError, match="'MulBackward0' object has no attribute '_saved_result'"):
        _ = y.grad_fn._saved_result
    node = e.grad_fn
    e.mul_(2)
    with pytest.raises(RuntimeError, match="which is output 0 of Exp, is at version 1; expected version 0"):
        _ = node._saved_result


def test_gradient_edges_stand_for_tensors(anywhere: ModuleType) -> None:
    torch = anywhere
    a = torch.ones(2, 3, requires_grad=True)
    c = a * 2
    edge, leaf = torch.autograd.graph.get_gradient_edge(c), torch.autograd.graph.get_gradient_edge(a)
    assert (edge.node is c.grad_fn, edge.output_nr, type(leaf.node).__name__) == (True, 0, "AccumulateGrad")
    ga, gc = torch.autograd.grad((c * c).sum(), [leaf, edge], retain_graph=True)
    assert (ga.sum().item(), gc.sum().item()) == (48.0, 24.0)
    (g,) = torch.autograd.grad(edge, a, torch.ones(2, 3) * 5, retain_graph=True)
    assert g.sum().item() == 60.0
    torch.autograd.backward(edge, torch.ones(2, 3), inputs=[leaf])
    assert a.grad.sum().item() == 12.0
    with pytest.raises(
        RuntimeError, match="not possible to get the gradient edge for a Tensor that does not req"
    ):
        torch.autograd.graph.get_gradient_edge(torch.ones(1))


def test_inputs_by_name(anywhere: ModuleType) -> None:
    torch = anywhere
    a, b = (torch.full((3,), n, requires_grad=True) for n in (2.0, 5.0))
    found = torch.autograd.grad((a * b).sum(), {"a": a, "b": b})
    assert {name: g.tolist() for name, g in found.items()} == {"a": [5.0] * 3, "b": [2.0] * 3}


def test_hooks_on_several_tensors(anywhere: ModuleType) -> None:
    torch, log = anywhere, []
    a, b = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    c, d = a * b, a * b
    hook = torch.autograd.graph.register_multi_grad_hook
    handle = hook((a, b, c, d), lambda gs: log.append([g is not None for g in gs]))
    c.sum().backward(retain_graph=True)
    c.sum().backward(inputs=(a,), retain_graph=True)
    (c.sum() + d.sum()).backward(retain_graph=True)
    assert log == [[True, True, True, False], [True, False, True, False], [True] * 4]
    handle.remove()
    c.sum().backward(retain_graph=True)
    assert len(log) == 3
    with hook((a, b, c), lambda g: log.append(g.shape), mode="any"):
        c.sum().backward(retain_graph=True)
    assert log[3:] == [(2, 3)]
    with pytest.raises(ValueError, match=r"Expects mode to be one of \('all', 'any'\) but got each"):
        hook((a,), print, mode="each")


def test_versions_can_be_counted_by_hand(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(3)
    torch.autograd.graph.increment_version([x, x])
    assert x._version == 2
