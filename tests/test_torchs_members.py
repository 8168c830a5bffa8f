"""Members of torch.autograd, func, utils.checkpoint and optim that few programs name, with torch's words."""

from __future__ import annotations

import copy
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from distgrad import warned


def test_nodes_that_are_no_ops_have_the_names_of_their_classes(anywhere: ModuleType) -> None:
    torch = anywhere
    w = torch.ones(40, requires_grad=True)
    leaf = (w * 2).grad_fn.next_functions[0][0]
    assert (leaf.name(), type(leaf).__name__) == ("torch::autograd::AccumulateGrad", "AccumulateGrad")
    z = torch.zeros(40)
    z[1:3] = w[:2]
    assert z.grad_fn.name() == "torch::autograd::CopySlices"
    assert repr(z).endswith("grad_fn=<CopySlices>)")
    assert (w * 2).grad_fn.name() == "MulBackward0"


def test_hooks_on_one_saved_tensor(anywhere: ModuleType) -> None:
    torch = anywhere
    w = torch.linspace(0, 1, 40, requires_grad=True)
    y = w.exp()
    saved = y.grad_fn._raw_saved_result
    np.testing.assert_array_equal(saved.data.detach().numpy(), y.detach().numpy())
    packs: list[Any] = []
    saved.register_hooks(lambda t: packs.append(t.requires_grad) or t * 1, lambda t: t * 3)
    assert packs == [False]
    with pytest.raises(RuntimeError, match="whose hooks have already been set"):
        saved.register_hooks(lambda t: t, lambda t: t)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        saved.register_hooks(1, 2)
    y.sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), 3 * np.exp(np.linspace(0, 1, 40)), rtol=1e-6)
    with pytest.raises(
        RuntimeError, match="Calling register_hooks on a saved tensor after it has been freed"
    ):
        saved.register_hooks(lambda t: t, lambda t: t)
    index = w[torch.tensor([3, 1])].grad_fn
    assert [item.data.tolist() for item in index._raw_saved_indices] == [[3, 1]]
    assert "_raw_saved_indices" in dir(index)
    assert not hasattr(index, "_raw_saved_self")


def test_hooks_on_what_a_function_saves(anywhere: ModuleType) -> None:
    torch = anywhere

    class Square(torch.autograd.Function):  # type: ignore[name-defined, misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * g * ctx.saved_tensors[0]

    w = torch.ones(40, requires_grad=True)
    y = Square.apply(w)
    y.grad_fn._raw_saved_tensors[0].register_hooks(lambda t: t.numpy(), lambda a: torch.from_numpy(a * 5))
    assert torch.autograd.grad(y.sum(), w)[0].tolist() == [10.0] * 40


def test_a_cycle_is_warned_of_once(anywhere: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = anywhere
    monkeypatch.setattr(warned, "_given", set())
    w = torch.ones(3, requires_grad=True)
    with pytest.warns(
        UserWarning, match=r"Using backward\(\) with create_graph=True will create a reference cycle"
    ):
        torch.autograd.backward((w**2).sum(), create_graph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (w**2).sum().backward(create_graph=True)
        torch.autograd.grad((w**2).sum(), w, create_graph=True)
    w.grad = None


def test_vjp_refuses_what_has_no_gradient(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(40)
    for function in (lambda x: x.argmax(), lambda x: (x, x.argmax())):
        with pytest.raises(
            RuntimeError, match="must be floating-point or complex Tensors, got Tensor with dtype"
        ):
            torch.func.vjp(function, x)
    with pytest.raises(RuntimeError, match=r"got Tensor with dtype torch\.int64"):
        torch.func.jacrev(lambda x: x.argmax())(x)


def test_grad_mode_inside_of_inference_mode(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        assert not torch.is_grad_enabled()
        with torch.enable_grad():
            assert torch.is_grad_enabled()
            assert not (x * 2).requires_grad
            with torch.no_grad():
                assert not torch.is_grad_enabled()
        assert not torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        assert torch.is_grad_enabled()
        with torch.inference_mode(False):
            assert (x * 2).requires_grad
    assert torch.is_grad_enabled()
    assert (x * 2).requires_grad


def test_a_checkpoint_tells_what_it_saved(anywhere: ModuleType) -> None:
    torch = anywhere
    checkpoint = torch.utils.checkpoint
    runs: list[int] = []

    def uneven(x: Any) -> Any:
        runs.append(1)
        y = x.sin()
        return y.exp() if len(runs) == 1 else torch.cat([y, y]).exp()

    def failing(**options: Any) -> str:
        runs.clear()
        x = torch.ones(40, requires_grad=True)
        out = checkpoint.checkpoint(uneven, x, use_reentrant=False, **options)
        with pytest.raises(checkpoint.CheckpointError) as caught:
            out.sum().backward()
        return str(caught.value)

    text = failing(debug=True)
    first, again = text.split("Saved during recomputation:")
    assert "torch.float32[40] for exp, called at File" in first
    assert "torch.float32[80] for exp, called at File" in again
    assert "test_torchs_members.py" in first
    assert "different metadata" in failing()
    with checkpoint.set_checkpoint_debug_enabled(True):
        assert "Saved during recomputation:" in failing()
    with checkpoint.set_checkpoint_debug_enabled(False):
        assert "Saved during recomputation:" not in failing(debug=True)
    with pytest.raises(ValueError, match="debug=True is incompatible with non-default context_fn"):
        checkpoint.checkpoint(uneven, torch.ones(2), use_reentrant=False, debug=True, context_fn=lambda: None)


def test_gradcheck_of_batches(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, dtype=torch.float64, requires_grad=True)
    both = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(lambda a, b: ((a @ b).exp(), (a * b).sum(0)), (x, y), **both)
    assert torch.autograd.gradgradcheck(
        lambda a: a.sin(), (x,), check_batched_grad=True, check_fwd_over_rev=True
    )

    class Looks(torch.autograd.Function):  # type: ignore[name-defined, misc]
        @staticmethod
        def forward(ctx: Any, a: Any) -> Any:
            return a * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2

        @staticmethod
        def jvp(ctx: Any, by: Any) -> Any:
            return by * 2 if by.sum().item() else by

    with pytest.raises(torch.autograd.GradcheckError, match="gradient computation with forward-mode AD"):
        torch.autograd.gradcheck(Looks.apply, (x,), check_forward_ad=True, check_batched_forward_grad=True)


def test_functionalize_gives_the_same_function(anywhere: ModuleType) -> None:
    torch = anywhere

    def changes(x: Any) -> Any:
        y = x.clone()
        y[1:3] *= 2
        return y.add_(1)

    x = torch.arange(40.0)
    made = torch.func.functionalize(changes, remove="mutations_and_views")
    assert torch.equal(made(x), changes(x))
    assert torch.equal(torch.func.vmap(made)(x.view(10, 4)), torch.func.vmap(changes)(x.view(10, 4)))
    with pytest.raises(RuntimeError, match="received invalid argument for remove=x"):
        torch.func.functionalize(changes, remove="x")


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_an_optimizer_on_other_parameters_for_a_while(name: str, anywhere: ModuleType) -> None:
    """Beside a second optimizer that has these parameters from the first."""
    torch = anywhere
    options = {"lr": 0.1} if name == "Adam" else {"lr": 0.1, "momentum": 0.5}
    swap = torch.optim.swap_in_optimizer_params_and_state

    def parameters() -> list[Any]:
        return [torch.arange(40.0).requires_grad_(), torch.ones(2, requires_grad=True)]

    def step(optimizer: Any, params: list[Any]) -> None:
        for p in params:
            p.grad = p.detach() + 1
        optimizer.step()

    mine, reference = parameters(), parameters()
    optimizer = getattr(torch.optim, name)(mine, **options)
    with pytest.raises(RuntimeError, match="requires initialized optimizer state"), swap(optimizer, {}, {}):
        pass
    beside = getattr(torch.optim, name)(reference, **options)
    for _ in range(2):
        step(optimizer, mine)
        step(beside, reference)
    state = copy.deepcopy(optimizer.state_dict())
    others, wants = parameters(), parameters()
    alone = getattr(torch.optim, name)(wants, **options)
    alone.load_state_dict(copy.deepcopy(state))
    with swap(optimizer, dict(enumerate(others)), state):
        step(optimizer, others)
    step(alone, wants)
    step(optimizer, mine)
    step(beside, reference)
    for found, want in zip([*mine, *others], [*reference, *wants], strict=True):
        assert torch.equal(found, want)
    key = "exp_avg" if name == "Adam" else "momentum_buffer"
    assert torch.equal(state["state"][0][key], alone.state_dict()["state"][0][key])
    state["state"][7] = {}
    with (
        pytest.raises(RuntimeError, match=r"got extra keys \[7\]"),
        swap(optimizer, dict(enumerate(others)), state),
    ):
        pass
    with (
        pytest.raises(RuntimeError, match="to match optimizer"),
        swap(optimizer, {}, state),
    ):
        pass
