"""Hooks on the way back through a module: a node before its inputs and one behind its outputs call them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from distgrad.record import Edge, Node, grad_mode
from distgrad.tensor import Tensor

Grads = tuple[Any, ...]
NO_INPUTS = (
    "Full backward hook is firing when gradients are computed with respect to module outputs since no inputs require "
    "gradients. See https://docs.pytorch.org/docs/main/generated/torch.nn.Module.html"
    "#torch.nn.Module.register_full_backward_hook for more details."
)


class BackwardHookFunctionBackward(Node):
    """Passes the gradients of several tensors on, by way of `change`."""

    __slots__ = ("change",)

    def __init__(self, edges: tuple[Edge, ...], change: Callable[[Grads], Sequence[Any] | None]):
        super().__init__(edges)
        self.change = change

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """What `change` makes of the gradients, where there is somebody to get them."""
        edges = self.next_functions
        passed = tuple(
            None if edges[i][0] is None else g
            for i, g in enumerate(grads + [None] * (len(edges) - len(grads)))
        )
        found = self.change(passed)
        return passed if found is None else found


class BackwardHook:
    """The hooks of one call of a module."""

    def __init__(self, module: Any, hooks: list[Any], pre_hooks: list[Any]):
        self.module, self.hooks, self.pre_hooks = module, hooks, pre_hooks
        self.grad_outputs: Grads | None = None  # from the outputs' node to the inputs'
        self.input_places: list[int] | None = None  # of the tensors among the arguments, if one requires grad
        self.inputs_count = 0

    def inputs(self, args: Grads) -> Grads:
        """The arguments, behind a node that calls the hooks."""
        self.inputs_count = len(args)
        args, self.input_places = _through(args, self._reached_inputs)
        return args

    def outputs(self, result: Any) -> Any:
        """The module's result, before a node that calls the pre-hooks."""
        if not isinstance(result, (Tensor, tuple)):
            warnings.warn(
                "For backward hooks to be called, module output should be a Tensor or a tuple of Tensors but received "
                f"{type(result)}",
                stacklevel=5,
            )
        items = result if isinstance(result, tuple) else (result,)
        places: list[int] = []

        def reached(grads: Grads) -> Sequence[Any]:
            return self._reached_outputs(_spread(places, grads, len(items)), places)

        items, found = _through(items, reached)
        places += found or ()
        return items if isinstance(result, tuple) else items[0]

    def _reached_outputs(self, grads: Grads, places: list[int]) -> Sequence[Any]:
        for hook in self.pre_hooks:
            found = hook(self.module, grads)
            if found is None:
                continue
            found = found if isinstance(found, tuple) else (found,)
            if len(found) != len(grads):
                raise RuntimeError(
                    f"Backward pre hook returned an invalid number of grad_output, got {len(found)}, but expected "
                    f"{len(grads)}"
                )
            grads = found
        if self.input_places is None:
            self._without_inputs(grads)
        else:
            self.grad_outputs = grads
        return [grads[i] for i in places]

    def _without_inputs(self, grads: Grads) -> None:
        warnings.warn(NO_INPUTS, stacklevel=6)
        nothing = (None,) * self.inputs_count
        for hook in self.hooks:
            found = hook(self.module, nothing, grads)
            if found is not None and not (isinstance(found, tuple) and all(g is None for g in found)):
                raise RuntimeError(
                    "Backward hook for Modules where no input requires gradient should always return None or None for "
                    "all gradients."
                )

    def _reached_inputs(self, passed: Grads) -> Sequence[Any] | None:
        outputs, self.grad_outputs = self.grad_outputs, None
        if outputs is None:  # no gradient came through the outputs
            return None
        assert self.input_places is not None
        grads = _spread(self.input_places, passed, self.inputs_count)
        for hook in self.hooks:
            found = hook(self.module, grads, outputs)
            if found is None:
                continue
            found = found if isinstance(found, tuple) else (found,)
            if len(found) != len(grads):
                raise RuntimeError(
                    f"Backward hook returned an invalid number of grad_input, got {len(found)}, but expected "
                    f"{len(grads)}"
                )
            grads = found
        return [grads[i] for i in self.input_places]


def _spread(places: Sequence[int], items: Grads, count: int) -> Grads:
    found: list[Any] = [None] * count
    for place, item in zip(places, items, strict=True):
        found[place] = item
    return tuple(found)


def _through(items: Grads, change: Callable[[Grads], Sequence[Any] | None]) -> tuple[Grads, list[int] | None]:
    """The items, tensors among them led through one node; and which they are. As they were if none requires grad."""
    places = [i for i, item in enumerate(items) if isinstance(item, Tensor)]
    if not grad_mode.enabled or not any(items[i].requires_grad for i in places):
        return items, None
    node = BackwardHookFunctionBackward(tuple(items[i]._edge for i in places), change)
    led = list(items)
    for output, i in enumerate(places):
        led[i] = behind = items[i]._alias()
        behind._versions = items[i]._counter
        if items[i].requires_grad:
            behind._node, behind._output, behind._requires_grad = node, output, True
    return tuple(led) if type(items) is tuple else type(items)(*led), places


def hook_last_node(module: Any, hooks: list[Any], args: Any, result: Any) -> None:
    """The old kind of hook: on the node that made the (first) result."""
    tensor = result
    while not isinstance(tensor, Tensor):
        items = tensor.values() if isinstance(tensor, dict) else tensor
        tensor = next(item for item in items if isinstance(item, Tensor) or not isinstance(tensor, dict))
    node = tensor.grad_fn
    if node is None:
        return
    for hook in hooks:
        node.register_hook(lambda inputs, outputs, hook=hook: hook(module, inputs, outputs))
