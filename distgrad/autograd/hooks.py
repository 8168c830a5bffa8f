"""Calling the hooks of tensors and nodes in torch's order, and checking what they give back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.ops.arithmetic import add
from distgrad.ops.convert import _own
from distgrad.record import Hooks, grad_mode
from distgrad.tensor import Tensor


def reach(hooks: Hooks, grads: list[Any], outputs: int) -> list[Any]:
    """Gradients have reached a node's outputs: what their tensors' hooks make of them, which retained tensors get."""
    grads = grads + [None] * (outputs - len(grads))
    for output, functions in list(hooks.on_tensor.items()):
        for hook in list(functions.values()):
            grads[output] = replaced(hook, grads[output], hook(grads[output]))
    for output, reference in hooks.retained.items():
        tensor = reference()
        if tensor is not None and grads[output] is not None:
            _retain(tensor, grads[output])
    return grads


def _retain(tensor: Tensor, g: Tensor) -> None:
    if tensor._grad is None:
        tensor._grad = _own(g) if grad_mode.enabled else Tensor(g._value)
    else:
        tensor._grad = add(tensor._grad, g)


def prepare(hooks: Hooks, grads: list[Any]) -> list[Any]:
    """What a node's own hooks make of the gradients of its outputs, before it runs."""
    for hook in list(hooks.before.values()):
        grads = list(_tuple_of(hook, tuple(grads), hook(tuple(grads))))
    return grads


def conclude(hooks: Hooks, found: Sequence[Any], grads: list[Any]) -> Sequence[Any]:
    """What a node's own hooks make of the gradients that it has worked out from `grads`."""
    found = tuple(found)
    for hook in list(hooks.after.values()):
        found = _tuple_of(hook, found, hook(found, tuple(grads)))
    return found


def deposited(hooks: Hooks, leaf: Tensor) -> None:
    """A leaf's `grad` was added to."""
    for hook in list(hooks.accumulated.values()):
        result = hook(leaf)
        if result is not None:  # torch's message is the one of a hook that gives a gradient
            raise TypeError(f"expected Variable, but hook returned '{type(result).__name__}'")


def replaced(hook: Callable[..., Any], g: Any, result: Any) -> Any:
    """The gradient after a hook: `g` itself if the hook gave nothing back; torch's errors where it may not be that."""
    if result is None:
        return g
    if g is None:
        raise RuntimeError("can't replace a None gradient with a non-None value")
    if not isinstance(result, Tensor):
        raise TypeError(f"expected Variable, but hook returned '{type(result).__name__}'")
    name = getattr(hook, "__name__", "<unknown>")
    if result.dtype is not g.dtype:
        raise RuntimeError(
            f"hook '{name}' has changed the type of value (was {g.dtype.tensor_type} got {result.dtype.tensor_type})"
        )
    if result.shape != g.shape:
        raise RuntimeError(f"hook '{name}' has changed the size of value")
    return result


def _tuple_of(hook: Callable[..., Any], grads: tuple[Any, ...], result: Any) -> tuple[Any, ...]:
    """The same for the hook of a node, which gives several gradients back or nothing; None takes one away."""
    if result is None:
        return grads
    if not isinstance(result, tuple):
        raise TypeError(f"expected tuple, but hook returned '{type(result).__name__}'")
    if len(result) != len(grads):
        name = getattr(hook, "__name__", "<unknown>")
        raise RuntimeError(
            f"hook '{name}' has returned an incorrect number of values (got {len(result)}, but expected {len(grads)})"
        )
    return tuple(None if r is None else replaced(hook, g, r) for g, r in zip(grads, result, strict=True))
