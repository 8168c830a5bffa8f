"""`autograd.Function`: derivatives that users write."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import distgrad
from distgrad.autograd.function import BackwardCFunction, FunctionCtx


def made(torch: ModuleType, forward: Any, backward: Any = None, **more: Any) -> Any:
    members = {"forward": forward, **({} if backward is None else {"backward": backward}), **more}
    return type("Sq", (torch.autograd.Function,), {n: staticmethod(f) for n, f in members.items()})


def square(ctx: Any, x: Any) -> Any:
    ctx.save_for_backward(x)
    return x * x


def squares_gradient(ctx: Any, g: Any) -> Any:
    (x,) = ctx.saved_tensors
    return 2 * g * x


def same(ctx: Any, x: Any) -> Any:
    return x * 1


def leaf(torch: ModuleType) -> Any:
    return torch.tensor([1.0, 2.0, 3.0], requires_grad=True)


def raises(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).split("\nSaved by")[0] == message


def test_a_function_has_the_node_of_its_name(anywhere: ModuleType) -> None:
    torch = anywhere
    x = leaf(torch)
    y = made(torch, square, squares_gradient).apply(x)
    assert y.grad_fn.name() == "SqBackward"
    assert repr(y).endswith("grad_fn=<SqBackward>)")
    assert re.match(r"<torch\.autograd\.function\.SqBackward object at 0x", repr(y.grad_fn))
    assert y.grad_fn.saved_tensors[0] is x
    assert y.grad_fn.needs_input_grad == (True,)
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 4.0, 6.0]
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        y.sum().backward()
    with pytest.raises(
        RuntimeError, match="directly access saved tensors after they have already been freed"
    ):
        _ = y.grad_fn.saved_tensors


def test_a_function_can_be_differentiated_again(anywhere: ModuleType) -> None:
    torch = anywhere
    x = leaf(torch)
    (g,) = torch.autograd.grad(made(torch, square, squares_gradient).apply(x).sum(), x, create_graph=True)
    assert torch.autograd.grad(g.sum(), x)[0].tolist() == [2.0] * 3


def test_an_output_may_be_saved(anywhere: ModuleType) -> None:
    torch = anywhere

    def forward(ctx: Any, x: Any) -> Any:
        y = x.exp()
        ctx.save_for_backward(None, y)
        return y

    def backward(ctx: Any, g: Any) -> Any:
        nothing, y = ctx.saved_tensors
        assert nothing is None
        return g * y

    x = torch.zeros(5, requires_grad=True)
    (g,) = torch.autograd.grad(made(torch, forward, backward).apply(x).sum(), x, create_graph=True)
    assert g.tolist() == [1.0] * 5
    assert torch.autograd.grad((g * 3).sum(), x)[0].tolist() == [3.0] * 5


def test_setup_context_apart_from_forward(anywhere: ModuleType) -> None:
    torch = anywhere

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        assert not torch.is_grad_enabled()
        ctx.save_for_backward(inputs[0], output)
        ctx.n = inputs[1]

    def backward(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved_tensors
        assert (x.requires_grad, y.grad_fn.name(), ctx.needs_input_grad) == (
            True,
            "SqBackward",
            (True, False),
        )
        return g * ctx.n, None

    times = made(torch, lambda x, n=3: x * n, backward, setup_context=setup_context)
    for kwargs, expected in (({}, 3.0), ({"n": 5}, 5.0)):
        x = leaf(torch)
        times.apply(x, **kwargs).sum().backward()
        assert x.grad.tolist() == [expected] * 3


@pytest.mark.parametrize(
    ("backward", "error", "message"),
    [
        (
            lambda ctx, g: (g, g),
            RuntimeError,
            "function SqBackward returned an incorrect number of gradients (expected 1, got 2)",
        ),
        (lambda ctx, g: g[:2], RuntimeError, "Function SqBackward returned an invalid gradient at index 0 - got [2] "
         "but expected shape compatible with [3]"),
        (lambda ctx, g: [g], RuntimeError, "expected Variable or None (got list)"),
        (None, NotImplementedError, "You must implement either the backward or vjp method for your custom "
         "autograd.Function to use it with backward mode AD."),
    ],
)  # fmt: skip
def test_what_backward_may_not_give(
    backward: Any, error: type[Exception], message: str, anywhere: ModuleType
) -> None:
    x = leaf(anywhere)
    raises(error, message, made(anywhere, same, backward).apply(x).sum().backward)
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2.0] * 3


def test_backward_and_vjp_are_one_or_the_other(anywhere: ModuleType) -> None:
    torch, passed = anywhere, lambda ctx, g: g
    x = leaf(torch)
    made(torch, same, vjp=passed).apply(x).sum().backward()
    assert x.grad.tolist() == [1.0] * 3
    with pytest.raises(RuntimeError, match="Implementing both 'backward' and 'vjp' for a custom Function"):
        made(torch, same, passed, vjp=passed).apply(x).sum().backward()


def test_gradients_are_brought_to_shape_and_dtype(anywhere: ModuleType) -> None:
    torch = anywhere
    x = leaf(torch)
    made(torch, same, lambda ctx, g: (torch.ones(2, 3).double(), None, None)).apply(x).sum().backward()
    assert (x.grad.tolist(), x.grad.dtype) == ([2.0] * 3, torch.float32)


def test_arguments_that_are_no_tensors(anywhere: ModuleType) -> None:
    torch = anywhere
    x = leaf(torch)
    scaled = made(torch, lambda ctx, n, x, m, word: x * n * m, lambda ctx, g: (None, g * 7, None, None))
    y = scaled.apply(2, x, torch.ones(3), "word")
    assert [node is None for node, _ in y.grad_fn.next_functions] == [False, True]
    assert y.grad_fn.needs_input_grad == (False, True, False, False)
    y.sum().backward()
    assert x.grad.tolist() == [7.0] * 3
    wrong = made(torch, lambda ctx, x, n: x * n, lambda ctx, g: (g, g)).apply(x, 3).sum()
    raises(RuntimeError, "function SqBackward returned a gradient different than None at position 2, but the "
           "corresponding forward input was not a Variable", wrong.backward)  # fmt: skip


def test_outputs_that_are_no_tensors(anywhere: ModuleType) -> None:
    torch, got = anywhere, []
    function = made(
        torch, lambda ctx, x: (x * 1, 3, x.argmax()), lambda ctx, *gs: got.append(gs[1:]) or gs[0]
    )
    out, three, index = function.apply(leaf(torch))
    assert (three, index.requires_grad, index.item()) == (3, False, 2)
    out.sum().backward()
    assert got[0][0] is None
    assert got[0][1].item() == 0


def test_outputs_without_a_gradient_get_zeros_or_none(anywhere: ModuleType) -> None:
    torch, got = anywhere, []
    for materialize in (True, False):

        def forward(ctx: Any, x: Any, flag: bool = materialize) -> Any:
            ctx.set_materialize_grads(flag)
            return x * 1, x * 2

        def backward(ctx: Any, g: Any, h: Any) -> Any:
            got.append(None if h is None else h.tolist())
            return g, None

        made(torch, forward, backward).apply(leaf(torch))[0].sum().backward()
    assert got == [[0.0] * 3, None]


def test_undefined_gradients_reach_functions_and_hooks(anywhere: ModuleType) -> None:
    """A function that gives None is asked about by those before it all the same, as in torch."""
    torch, got = anywhere, []
    nothing = made(torch, same, lambda ctx, g: None)
    doubled = made(torch, lambda ctx, x: x * 2, lambda ctx, g: got.append(g.tolist()) or g * 2)
    x = leaf(torch)
    y = doubled.apply(x)
    y.register_hook(lambda g: got.append(g))
    nothing.apply(y).sum().backward()
    assert got == [None, [0.0] * 3]
    assert x.grad.tolist() == [0.0] * 3
    z = leaf(torch)
    z.register_hook(lambda g: got.append(g))
    nothing.apply(z * 1).sum().backward()  # no formula runs for what is undefined
    assert (z.grad, got[-1]) == (None, None)
    assert torch.autograd.grad(nothing.apply(z * 1).sum(), z, allow_unused=True) == (None,)


def test_outputs_marked_as_not_differentiable(anywhere: ModuleType) -> None:
    torch = anywhere

    def forward(ctx: Any, x: Any) -> Any:
        a, b = x * 1, x * 2
        ctx.mark_non_differentiable(b)
        return a, b

    a, b = made(torch, forward, lambda ctx, g, h: g + h).apply(leaf(torch))
    assert (a.requires_grad, b.requires_grad) == (True, False)


def test_an_input_returned_as_it_is_becomes_a_view(anywhere: ModuleType) -> None:
    torch = anywhere
    x = leaf(torch)
    y = made(torch, lambda ctx, x: x, lambda ctx, g: g * 3).apply(x)
    assert (y is x, y._base is x, y.grad_fn.name()) == (False, True, "SqBackward")
    y.sum().backward()
    assert x.grad.tolist() == [3.0] * 3
    z = made(torch, lambda ctx, x: x, lambda ctx, g: g * 3).apply(x * 1)
    with pytest.raises(RuntimeError, match=r"Output 0 of Sq is a view.*created inside a custom Function"):
        z.mul_(2)


def _double_in_place(ctx: Any, x: Any) -> Any:
    x.mul_(2)
    ctx.mark_dirty(x)
    return x


def test_an_input_changed_in_place(anywhere: ModuleType) -> None:
    torch = anywhere
    doubled = made(torch, _double_in_place, lambda ctx, g: g * 2)
    x = leaf(torch)
    y = x * 1
    assert doubled.apply(y) is y
    assert (y.grad_fn.name(), y._version) == ("SqBackward", 2)
    y.sum().backward()
    assert x.grad.tolist() == [2.0] * 3
    raises(RuntimeError, "a leaf Variable that requires grad has been used in an in-place operation.",
           lambda: doubled.apply(leaf(torch)))  # fmt: skip
    raises(RuntimeError, "a view of a leaf Variable that requires grad is being used in an in-place operation.",
           lambda: doubled.apply(leaf(torch)[:2]))  # fmt: skip


def test_a_view_changed_in_place(anywhere: ModuleType) -> None:
    torch = anywhere
    for name, forward, args in (
        ("first", _double_in_place, lambda v: (v,)),
        ("second", lambda ctx, n, x: _double_in_place(ctx, x), lambda v: (torch.ones(2), v)),
    ):
        grads = (lambda ctx, g: g * 2) if name == "first" else (lambda ctx, g: (None, g * 2))
        x = leaf(torch)
        base = x * 1
        view = base[:2]
        made(torch, forward, grads).apply(*args(view))
        assert base.grad_fn.name() == "torch::autograd::CopySlices"
        assert base.tolist() == [2.0, 4.0, 3.0]
        base.sum().backward()
        assert x.grad.tolist() == [2.0, 2.0, 1.0], name


def test_what_is_marked_dirty_must_be_returned(anywhere: ModuleType) -> None:
    def forward(ctx: Any, x: Any) -> Any:
        return _double_in_place(ctx, x) * 1

    raises(RuntimeError, "Some elements marked as dirty during the forward method were not returned as output. The "
           "inputs that are modified inplace must all be outputs of the Function.",
           lambda: made(anywhere, forward, lambda ctx, g: g).apply(leaf(anywhere) * 1))  # fmt: skip


def test_saved_tensors_are_checked(anywhere: ModuleType) -> None:
    torch = anywhere
    y = leaf(torch) * 1
    z = made(torch, square, squares_gradient).apply(y)
    y.mul_(2)
    with pytest.raises(
        RuntimeError, match=r"\[torch.FloatTensor \[3\]\], which is output 0 of Mul, is at version 1"
    ):
        z.sum().backward()
    raises(TypeError, "save_for_backward can only save variables, but argument 0 is of type int",
           lambda: made(torch, lambda ctx, x: ctx.save_for_backward(3) or x * 1).apply(y))  # fmt: skip


def test_once_differentiable(anywhere: ModuleType) -> None:
    torch = anywhere
    once = torch.autograd.function.once_differentiable(squares_gradient)
    x = leaf(torch)
    y = made(torch, square, once).apply(x)
    (g,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
    assert g.tolist() == [4.0, 32.0, 108.0]
    raises(RuntimeError, "trying to differentiate twice a function that was marked with @once_differentiable",
           lambda: g.sum().backward())  # fmt: skip


def test_nothing_is_recorded_without_grad(anywhere: ModuleType) -> None:
    torch = anywhere
    function = made(torch, square, squares_gradient)
    with torch.no_grad():
        assert function.apply(leaf(torch)).grad_fn is None
    assert function.apply(torch.ones(3)).grad_fn is None


def test_functions_are_not_called_or_made(anywhere: ModuleType) -> None:
    torch = anywhere
    function = made(torch, square, squares_gradient)
    with pytest.warns(DeprecationWarning, match="should not be instantiated"):
        instance = function()
    with pytest.raises(
        RuntimeError, match="Legacy autograd function with non-static forward method is deprecated"
    ):
        instance(leaf(torch))
    raises(NotImplementedError, "You must implement the forward function for custom autograd.Function.",
           lambda: made(torch, torch.autograd.Function.forward).apply(leaf(torch)))  # fmt: skip


def test_what_users_keep_on_ctx_is_theirs(anywhere: ModuleType) -> None:
    torch = anywhere
    names = ("number", "hooks", "outputs", "release", "saved", "kind", "likes", "plan", "x")

    def forward(ctx: Any, x: Any) -> Any:
        for i, name in enumerate(names):
            setattr(ctx, name, i)
        return x * 1

    def backward(ctx: Any, g: Any) -> Any:
        assert [getattr(ctx, name) for name in names] == list(range(len(names)))
        return g

    x = leaf(torch)
    made(torch, forward, backward).apply(x * 1).sum().backward()
    assert x.grad.tolist() == [1.0] * 3


def test_a_function_that_raises_leaves_all_usable(anywhere: ModuleType) -> None:
    torch = anywhere
    x = leaf(torch)
    with pytest.raises(ZeroDivisionError):
        made(torch, lambda ctx, x: 1 / 0, squares_gradient).apply(x)
    assert torch.is_grad_enabled()
    y = made(torch, same, lambda ctx, g: 1 / 0).apply(x)
    with pytest.raises(ZeroDivisionError):
        (y + x * 2).sum().backward()
    assert torch.is_grad_enabled()
    x.grad = None
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2.0] * 3


def test_torchs_names_of_the_module() -> None:
    seen: list[Any] = []
    made(distgrad, lambda ctx, x: seen.append(ctx) or x * 1, squares_gradient).apply(leaf(distgrad))
    assert isinstance(seen[0], BackwardCFunction)
    assert issubclass(BackwardCFunction, FunctionCtx)
    assert {"BackwardCFunction", "FunctionCtx"} <= set(distgrad.autograd.function.__all__)
