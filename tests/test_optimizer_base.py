"""What all optimizers have in common: groups, hooks, state dicts, printed form, messages."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
from optimizer_formulas import FORMULAS

import distgrad as torch
from distgrad.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
    required,
)


def leaf(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, requires_grad=True)


def pulled(*numbers: float) -> torch.Tensor:
    """A parameter with the gradient 1."""
    p = leaf(*numbers)
    p.grad = torch.ones_like(p)
    return p


SGD, Adam = torch.optim.SGD, torch.optim.Adam
WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("SGD", {"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
    ("SGD", {"momentum": -1.0}, ValueError, "Invalid momentum value: -1.0"),
    ("SGD", {"weight_decay": -1.0}, ValueError, "Invalid weight_decay value: -1.0"),
    ("SGD", {"nesterov": True}, ValueError, "Nesterov momentum requires a momentum and zero dampening"),
    ("SGD", {"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element"),
    (
        "SGD",
        {"fused": True, "differentiable": True},
        RuntimeError,
        "`fused` does not support `differentiable`",
    ),
    (
        "Adam",
        {"fused": True, "foreach": True},
        RuntimeError,
        "`fused` and `foreach` cannot be `True` together.",
    ),
    ("Adam", {"eps": -1.0}, ValueError, "Invalid epsilon value: -1.0"),
    ("Adam", {"betas": (1.0, 0.9)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
    ("AdamW", {"betas": (0.9, 1.5)}, ValueError, "Invalid beta parameter at index 1: 1.5"),
    ("Adam", {"betas": (0, 0.9)}, ValueError, "betas must be either both floats or both Tensors"),
    (
        "Adam",
        {"lr": torch.tensor(0.1), "foreach": True},
        ValueError,
        "lr as a Tensor is not supported for capturable=False and foreach=True",
    ),
    ("NAdam", {"momentum_decay": -1.0}, ValueError, "Invalid momentum_decay value: -1.0"),
    ("RMSprop", {"alpha": -1.0}, ValueError, "Invalid alpha value: -1.0"),
    ("Rprop", {"etas": (1.5, 1.2)}, ValueError, "Invalid eta values: 1.5, 1.2"),
    ("Adagrad", {"lr_decay": -1.0}, ValueError, "Invalid lr_decay value: -1.0"),
    (
        "Adagrad",
        {"initial_accumulator_value": -1.0},
        ValueError,
        "Invalid initial_accumulator_value value: -1.0",
    ),
    ("Adadelta", {"rho": 1.5}, ValueError, "Invalid rho value: 1.5"),
]


@pytest.mark.parametrize(("name", "options", "error", "message"), WRONG)
def test_wrong_options_are_refused(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        getattr(torch.optim, name)([leaf(1.0)], **options)


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^optimizer got an empty parameter list$"):
        SGD([])
    with pytest.raises(TypeError, match=r"iterable of Tensors or dicts, but got torch\.FloatTensor$"):
        SGD(leaf(1.0))
    with pytest.raises(TypeError, match=r"can only optimize Tensors, but one of the params is int$"):
        SGD([3])
    with pytest.raises(ValueError, match=r"^can't optimize a non-leaf Tensor$"):
        SGD([leaf(1.0) * 2])
    with pytest.raises(TypeError, match="organized in ordered collections"):
        SGD([{"params": {leaf(1.0)}}])
    with pytest.raises(TypeError, match="param_group must be a dict, but got <class 'list'>"):
        SGD([leaf(1.0)]).add_param_group([])
    p = leaf(1.0)
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        SGD([{"params": p}, {"params": [p]}])
    with pytest.warns(UserWarning, match="duplicate parameters"):
        SGD([p, p])
    with pytest.raises(ValueError, match="Some param names are missing"):
        SGD([("a", p), leaf(1.0)])
    with pytest.raises(ValueError, match="cannot add param group without names to the optimizer"):
        SGD([("a", p)]).add_param_group({"params": [leaf(1.0)]})

    class Own(torch.optim.Optimizer):
        pass

    with pytest.raises(ValueError, match="didn't specify a value of required optimization parameter rate"):
        Own([p], {"rate": required})
    with pytest.raises(NotImplementedError):
        Own([p], {}).step()


def test_capturable_is_refused_at_the_step() -> None:
    p = pulled(1.0)
    words = r"params and state_steps must be on supported devices: \['cuda', 'xpu', 'hpu', 'privateuseone', 'xla'\]"
    with pytest.raises(AssertionError, match=f"If capturable=True, {words}."):
        Adam([p], capturable=True).step()
    assert p.item() == 1


def test_the_printed_form_is_torchs() -> None:
    optimizer = SGD([{"params": [leaf(1.0)]}, {"params": [leaf(2.0)], "lr": 0.5}], momentum=0.9)
    group = (
        "    dampening: 0\n    differentiable: False\n    foreach: None\n    fused: None\n    lr: {}\n"
        "    maximize: False\n    momentum: 0.9\n    nesterov: False\n    weight_decay: 0\n"
    )
    first, second = group.format(0.001), group.format(0.5)
    assert repr(optimizer) == f"SGD (\nParameter Group 0\n{first}\nParameter Group 1\n{second})"


def test_state_dicts_have_torchs_layout() -> None:
    a, b, c = pulled(1.0, 2.0), pulled(3.0), leaf(4.0)
    optimizer = Adam([{"params": [("a", a), ("b", b)]}, {"params": [("c", c)], "lr": 0.5}], amsgrad=True)
    assert optimizer.state_dict()["state"] == {}
    optimizer.step()
    told = optimizer.state_dict()
    assert list(told) == ["state", "param_groups"]
    assert list(told["state"]) == [0, 1]
    assert list(told["state"][0]) == ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    assert told["state"][0]["step"].shape == ()
    assert told["state"][0]["step"].dtype is torch.float32
    assert told["state"][0]["exp_avg"].shape == (2,)
    assert told["param_groups"][1] == {
        "lr": 0.5,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": True,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "decoupled_weight_decay": False,
        "param_names": ["c"],
        "params": [2],
    }


def test_wrong_state_dicts_are_refused() -> None:
    told = SGD([leaf(1.0)]).state_dict()
    with pytest.raises(ValueError, match=r"^loaded state dict has a different number of parameter groups$"):
        SGD([{"params": [leaf(1.0)]}, {"params": [leaf(1.0)]}]).load_state_dict(told)
    with pytest.raises(
        ValueError, match=r"a parameter group that doesn't match the size of optimizer's group$"
    ):
        SGD([leaf(1.0), leaf(2.0)]).load_state_dict(told)


def test_old_state_dicts_get_what_they_lack() -> None:
    p = pulled(1.0)
    old = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "params": [0]}
    moments = {"step": 5, "exp_avg": torch.tensor([2.0]), "exp_avg_sq": torch.tensor([4.0])}
    optimizer = Adam([p])
    optimizer.load_state_dict({"state": {0: moments}, "param_groups": [old]})
    optimizer.step()
    assert optimizer.state[p]["step"].item() == 6
    m, v = (0.9 * 2 + 0.1) / (1 - 0.9**6), (0.999 * 4 + 0.001) / (1 - 0.999**6)
    assert p.item() == pytest.approx(1 - 0.1 * m / v**0.5, rel=1e-6)


def test_groups_have_options_of_their_own() -> None:
    a, b = pulled(1.0), pulled(1.0)
    optimizer = SGD([{"params": [a]}, {"params": [b], "lr": 0.5, "maximize": True}], lr=0.25)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.125
    optimizer.step()
    assert (a.item(), b.item()) == (1 - 0.25 - 0.125, 2.0)


def test_what_has_no_gradient_stays() -> None:
    a, b = pulled(1.0), leaf(1.0)
    optimizer = Adam([a, b])
    optimizer.step()
    assert b.item() == 1
    assert b not in optimizer.state


def test_gradients_are_forgotten_or_set_to_zeros() -> None:
    p = pulled(1.0)
    optimizer = SGD([p])
    before = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is before
    assert before.tolist() == [0.0]
    optimizer.zero_grad()
    assert p.grad is None


def test_a_closure_is_run_with_gradients_on() -> None:
    p = leaf(3.0)
    optimizer = SGD([p], lr=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 9
    assert p.item() == 0
    assert optimizer.step() is None


def test_hooks_run_around_a_step() -> None:
    p = pulled(1.0)
    optimizer, seen = SGD([p], lr=1.0), []

    def hook(name: str) -> Any:
        return lambda *args: seen.append((name, p.item()))

    with register_optimizer_step_pre_hook(hook("all before")):
        handles = [
            optimizer.register_step_pre_hook(hook("before")),
            optimizer.register_step_post_hook(hook("after")),
            register_optimizer_step_post_hook(hook("all after")),
        ]
        optimizer.step()
    assert seen == [("all before", 1.0), ("before", 1.0), ("after", 0.0), ("all after", 0.0)]
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert len(seen) == 4
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: ((optimizer,), {"closure": lambda: 7}))
    assert optimizer.step() == 7
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: 3)
    with pytest.raises(
        RuntimeError, match=r"must return None or a tuple of \(new_args, new_kwargs\), but got 3"
    ):
        optimizer.step()


def test_hooks_run_around_state_dicts() -> None:
    optimizer, seen = SGD([leaf(1.0)]), []
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("before"))
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("first"), prepend=True)
    optimizer.register_state_dict_post_hook(lambda o, told: {**told, "more": 1})
    assert optimizer.state_dict()["more"] == 1
    assert seen == ["first", "before"]
    optimizer.register_load_state_dict_pre_hook(lambda o, told: {**told, "state": {"own": 5}})
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.state["own"]))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen[-1] == 5


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_by_themselves(copied: Any) -> None:
    params = [pulled(1.0, 2.0), pulled(3.0)]
    optimizer = Adam(params)
    optimizer.step()
    other = copied(optimizer)
    optimizer.step()
    theirs = other.param_groups[0]["params"]
    assert [p.tolist() for p in theirs] != [p.tolist() for p in params]
    for p in theirs:
        p.grad = torch.ones_like(p)
    other.step()
    assert [p.tolist() for p in theirs] == [p.tolist() for p in params]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_step_can_be_differentiated(name: str) -> None:
    """The slope of what two steps lead to, with respect to where they start and to the learning rate."""

    def end(start: float, lr: float) -> tuple[torch.Tensor, ...]:
        p0 = torch.tensor([start, -1.0], dtype=torch.float64, requires_grad=True)
        rate = torch.tensor(lr, dtype=torch.float64, requires_grad=True)
        p = p0.clone()
        optimizer = getattr(torch.optim, name)([p], lr=rate, differentiable=True)
        for _ in range(3):
            p.grad = 2 * p.clone() ** 3 + p
            optimizer.step()
        return (p**2).sum(), p0, rate

    loss, start, rate = end(0.7, 0.1)
    loss.backward()
    h = 1e-6
    slope = (end(0.7 + h, 0.1)[0] - end(0.7 - h, 0.1)[0]) / (2 * h)
    assert start.grad[0].item() == pytest.approx(slope.item(), rel=1e-5)
    if name not in ("Rprop", "ASGD"):  # whose state starts with the rate as a number
        slope = (end(0.7, 0.1 + h)[0] - end(0.7, 0.1 - h)[0]) / (2 * h)
        assert rate.grad.item() == pytest.approx(slope.item(), rel=1e-5)


def test_a_rate_may_be_a_tensor() -> None:
    p = pulled(1.0)
    rate = torch.tensor(0.5)
    optimizer = SGD([p], lr=rate)
    optimizer.step()
    rate.fill_(0.25)
    optimizer.step()
    assert p.item() == 0.25
    np.testing.assert_array_equal(p.grad.numpy(), [1.0])
