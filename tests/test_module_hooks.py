"""Hooks of modules: before and after `forward`, on the way back, and around the state dict. All as torch does it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from distgrad import nn
from distgrad.nn import calls


class Times(nn.Module):
    def forward(self, x: Any, y: Any = None, k: int = 1) -> Any:
        if k < 0:
            raise ValueError("below 0")
        return x * k if y is None else (x * k, y * x)


def lists(grads: Any) -> Any:
    return [None if g is None else g.tolist() for g in grads]


def test_hooks_before_and_after_forward(torch: ModuleType) -> None:
    seen: list[Any] = []
    m, x = Times(), torch.tensor([1.0, 2.0])
    handles = [
        m.register_forward_hook(lambda m, args, out: seen.append("first")),
        m.register_forward_hook(
            lambda m, args, kwargs, out: seen.append(kwargs) or out * 10, with_kwargs=True
        ),
        m.register_forward_hook(lambda m, args, out: seen.append("prepended"), prepend=True),
        m.register_forward_pre_hook(lambda m, args: args[0] + 1),
        m.register_forward_pre_hook(lambda m, args, kwargs: (args, {"k": kwargs["k"] * 2}), with_kwargs=True),
    ]
    assert m(x, k=3).tolist() == [120, 180]
    assert seen == ["prepended", "first", {"k": 6}]
    for handle in handles:
        handle.remove()
    with (
        m.register_forward_pre_hook(lambda m, args, kwargs: 3, with_kwargs=True),
        pytest.raises(RuntimeError, match="must return None or a tuple of"),
    ):
        m(x)
    assert m(x).tolist() == [1, 2]
    assert not m._forward_hooks_with_kwargs


def test_hooks_that_are_always_called(torch: ModuleType) -> None:
    seen: list[Any] = []
    m, x = Times(), torch.ones(1)
    m.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
    with pytest.raises(ValueError, match="below 0"):
        m(x, k=-1)
    assert seen == [None]
    m.register_forward_hook(lambda m, args, out: 1 / 0, always_call=True)
    with (
        pytest.warns(UserWarning, match="silenced as another error was raised in forward: division by zero"),
        pytest.raises(ValueError, match="below 0"),
    ):
        m(x, k=-1)
    with pytest.raises(ZeroDivisionError):
        m(x)


def test_backward_hooks_see_and_change_gradients(torch: ModuleType) -> None:
    seen: list[Any] = []
    m, x = Times(), torch.tensor([1.0, 2.0], requires_grad=True)
    m.register_full_backward_hook(lambda m, ins, outs: seen.append(("a", lists(ins), lists(outs))))
    m.register_full_backward_hook(lambda m, ins, outs: seen.append("b"), prepend=True)
    m.register_full_backward_hook(lambda m, ins, outs: (ins[0] * 2,))
    m.register_full_backward_pre_hook(lambda m, outs: (outs[0] * 3,))
    m(x, k=5).sum().backward()
    assert seen == ["b", ("a", [[15, 15]], [[3, 3]])]
    assert x.grad.tolist() == [30, 30]


def test_gradients_that_are_not_there(torch: ModuleType) -> None:
    seen: list[Any] = []
    m, x, y = Times(), torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0])
    m.register_full_backward_hook(lambda m, ins, outs: seen.append((lists(ins), lists(outs))))
    a, _ = m(x, y)
    a.sum().backward()
    assert seen == [([[1, 1], [0, 0]], [[1, 1], None])]
    seen.clear()
    layer = nn.Linear(2, 1, bias=False)
    layer.register_full_backward_hook(lambda m, ins, outs: seen.append((lists(ins), lists(outs))))
    with pytest.warns(UserWarning, match="no inputs require gradients"):
        layer(y).sum().backward()
    assert seen == [([None], [[1]])]
    assert layer.weight.grad.tolist() == [[3, 4]]
    with torch.no_grad():
        assert not m(x).requires_grad


def test_backward_hooks_from_the_outside_in(torch: ModuleType) -> None:
    seen: list[str] = []
    net = nn.Sequential(Times(), nn.Sequential(Times(), Times()))
    for name, m in net.named_modules():
        m.register_full_backward_hook(lambda m, ins, outs, name=name: seen.append(name))
    x = torch.ones(2, requires_grad=True)
    (g,) = torch.autograd.grad((net(x) ** 3).sum(), x, create_graph=True)
    assert seen == ["1.1", "1.0", "1", "0", ""]
    g.sum().backward()
    assert x.grad.tolist() == [6, 6]
    with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        Times.__call__(net, x).add_(1)


def test_refusals_of_backward_hooks(torch: ModuleType) -> None:
    x = torch.ones(2, requires_grad=True)
    m = Times()
    with (
        m.register_full_backward_hook(lambda m, ins, outs: (None, None)),
        pytest.raises(RuntimeError, match="invalid number of grad_input, got 2, but expected 1"),
    ):
        m(x).sum().backward()
    with (
        m.register_full_backward_pre_hook(lambda m, outs: (None, None)),
        pytest.raises(RuntimeError, match="invalid number of grad_output, got 2, but expected 1"),
    ):
        m(x).sum().backward()
    with pytest.raises(RuntimeError, match="Cannot use both regular backward hooks and full"):
        m.register_backward_hook(lambda m, ins, outs: None)


def test_the_old_kind_of_backward_hook(torch: ModuleType) -> None:
    seen: list[Any] = []

    class Two(nn.Module):
        def forward(self, x: Any) -> Any:
            return (x * 2).exp()

    m, x = Two(), torch.zeros(1, requires_grad=True)
    m.register_backward_hook(lambda m, ins, outs: seen.append((lists(ins), lists(outs))))
    with pytest.warns(FutureWarning, match="contains multiple autograd Nodes"):
        m(x).sum().backward()
    assert seen == [([[1]], [[1]])]


def test_hooks_of_all_modules(torch: ModuleType) -> None:
    seen: list[str] = []
    net, x = nn.Sequential(Times()), torch.ones(1, requires_grad=True)
    note = lambda m, *rest: seen.append(f"{type(m).__name__} {len(rest)}")  # noqa: E731
    handles = [
        calls.register_module_forward_pre_hook(note),
        calls.register_module_forward_hook(note, with_kwargs=True),
        calls.register_module_full_backward_hook(note),
    ]
    try:
        net(x).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    forth = ["Sequential 1", "Times 1", "Times 3", "Sequential 3"]
    assert seen == [*forth, "Times 2", "Sequential 2"]
    net(x)
    assert len(seen) == 6


# The state dict.
def test_hooks_around_the_state_dict() -> None:
    seen: list[Any] = []
    net = nn.Sequential(nn.Linear(1, 1))
    net.register_state_dict_pre_hook(lambda m, prefix, keep: seen.append((prefix, keep)))
    net[0].register_state_dict_post_hook(lambda m, state, prefix, meta: state.update({f"{prefix}more": 1}))
    state = net.state_dict()
    assert list(state) == ["0.weight", "0.bias", "0.more"]
    assert seen == [("", False)]
    net[0].register_load_state_dict_pre_hook(lambda m, state, prefix, *rest: state.pop(f"{prefix}more"))
    net.register_load_state_dict_post_hook(lambda m, keys: seen.append(keys) or keys.missing_keys.clear())
    assert str(net.load_state_dict(state)) == "<All keys matched successfully>"
    net.register_load_state_dict_post_hook(lambda m, keys: keys)
    with pytest.raises(AssertionError, match="not expected to return new values"):
        net.load_state_dict(state)
    net[0].register_state_dict_post_hook(lambda m, state, prefix, meta: state)
    with pytest.raises(RuntimeError, match="state_dict post-hook must return None"):
        net.state_dict()


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def get_extra_state(self) -> Any:
        return {"count": self.count}

    def set_extra_state(self, state: Any) -> None:
        self.count = state["count"]


def test_extra_state() -> None:
    one, two = Counted(), Counted()
    one.count = 5
    two.load_state_dict(one.state_dict())
    assert two.count == 5
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "_extra_state"'):
        two.load_state_dict({})


def test_a_state_dict_shares_the_storages(torch: ModuleType) -> None:
    layer = nn.Linear(2, 1)
    state = layer.state_dict()
    assert type(state["weight"]) is torch.Tensor
    assert not state["weight"].requires_grad
    assert state._metadata == {"": {"version": 1}}
    state["weight"].fill_(3.0)
    assert layer.weight.tolist() == [[3, 3]]
    kept = layer.state_dict(keep_vars=True, prefix="a.")
    assert kept["a.weight"] is layer.weight
    given = {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}
    layer.load_state_dict(given, assign=True)
    assert isinstance(layer.weight, nn.Parameter)
    given["weight"].fill_(7.0)
    assert layer.weight.tolist() == [[7, 7]]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t, s: s.pop("bias"), 'Missing key(s) in state_dict: "bias". '),
        (lambda t, s: s.update(a=1, b=2), 'Unexpected key(s) in state_dict: "a", "b". '),
        (
            lambda t, s: s.update(weight=t.ones(3)),
            "size mismatch for weight: copying a param with shape torch.Size([3]) from checkpoint, the shape in "
            "current model is torch.Size([1, 2]).",
        ),
        (
            lambda t, s: s.update(weight=3),
            'While copying the parameter named "weight", expected torch.Tensor or Tensor-like object from checkpoint '
            "but received <class 'int'>",
        ),
    ],
)
def test_what_does_not_fit(torch: ModuleType, change: Any, text: str) -> None:
    layer = nn.Linear(2, 1)
    state = dict(layer.state_dict())
    change(torch, state)
    with pytest.raises(RuntimeError) as caught:
        layer.load_state_dict(state)
    assert str(caught.value) == f"Error(s) in loading state_dict for Linear:\n\t{text}"
