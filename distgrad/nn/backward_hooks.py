"""Hooks on the way back through a module: a node before its inputs and one behind its outputs call them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from distgrad.autograd.function import Function
from distgrad.ops.node import Like
from distgrad.record import BackwardNode, grad_mode
from distgrad.tensor import Tensor

Grads = tuple[Any, ...]
NO_INPUTS = (
    "Full backward hook is firing when gradients are computed with respect to module outputs since no inputs require "
    "gradients. See https://docs.pytorch.org/docs/main/generated/torch.nn.Module.html"
    "#torch.nn.Module.register_full_backward_hook for more details."
)


class BackwardHookFunction(Function):
    """Hands several tensors on, so that there is one node for all of them, which hooks can be put on."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        """The tensors, those that require no grad among them."""
        ctx.mark_non_differentiable(*(arg for arg in args if not arg.requires_grad))
        return args

    @staticmethod
    def backward(ctx: Any, *args: Any) -> Any:
        """The gradients."""
        return args


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
        given = args
        args, self.input_places, node = _through(args)
        if node is not None:
            values = [given[i]._avals for i in self.input_places]
            self.likes = [Like(value.shape, value.dtype, value.sharding) for value in values]
            node.register_hook(lambda grads, _: self._reached_inputs(grads))
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
        count = len(items)
        items, places, node = _through(items)
        if node is not None:
            node.register_hook(lambda _, grads: self._reached_outputs(_spread(places, grads, count), places))
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
        return tuple(grads[i] for i in places)

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
        # What requires no grad gets none; torch shows zeros.
        shown = tuple(like.zeros() if g is None else g for g, like in zip(passed, self.likes, strict=True))
        grads = _spread(self.input_places, shown, self.inputs_count)
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
        return tuple(None if g is None else grads[i] for i, g in zip(self.input_places, passed, strict=True))


def _spread(places: Sequence[int], items: Grads, count: int) -> Grads:
    found: list[Any] = [None] * count
    for place, item in zip(places, items, strict=True):
        found[place] = item
    return tuple(found)


def _through(items: Grads) -> tuple[Grads, Any, BackwardNode | None]:
    """The items, tensors among them led through one node; which they are, and the node.

    As they were, and None, if no tensor requires grad.
    """
    places = [i for i, item in enumerate(items) if isinstance(item, Tensor)]
    if not grad_mode.enabled or not any(items[i].requires_grad for i in places):
        return items, None, None
    behind = BackwardHookFunction.apply(*(items[i] for i in places))
    led = list(items)
    for i, tensor in zip(places, behind, strict=True):
        led[i] = tensor
    node = next(tensor.grad_fn for tensor in behind if tensor.requires_grad)
    return tuple(led) if type(items) is tuple else type(items)(*led), places, node


OLD = (
    "Using {}. This hook will be missing some {}. Please use register_full_backward_hook to get the documented "
    "behavior."
)
NOT_TENSORS = (
    "non-full backward hooks on a Module that does not {} a single Tensor or a tuple of Tensors is deprecated and will "
    "be removed in future versions"
)
SEVERAL = "a non-full backward hook when {} is deprecated and will be removed in future versions"


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
    missing = _missing(args, result, node)
    if missing:
        warnings.warn(missing, FutureWarning, stacklevel=5)


def _tensors(items: Any) -> Grads | None:
    items = items if isinstance(items, tuple) else (items,)
    return items if all(isinstance(item, Tensor) for item in items) else None


def _missing(args: Any, result: Any, node: BackwardNode) -> str | None:
    """torch's warning of gradients that an old hook does not see; None if it sees all."""
    outputs, inputs = _tensors(result), _tensors(args)
    if outputs is None:
        return OLD.format(NOT_TENSORS.format("return"), "grad_output")
    if inputs is None:
        return OLD.format(NOT_TENSORS.format("take as input"), "grad_input")
    makers = {t.grad_fn for t in outputs if t.grad_fn is not None}
    if len(makers) > 1:
        said = SEVERAL.format("outputs are generated by different autograd Nodes")
        return OLD.format(said, "grad_output")
    if {t.grad_fn for t in inputs if t.grad_fn is not None} != {edge[0] for edge in node.next_functions}:
        return OLD.format(SEVERAL.format("the forward contains multiple autograd Nodes"), "grad_input")
    return None
