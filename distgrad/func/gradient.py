"""Gradients as functions of functions: grad, grad_and_value, vjp, as `torch.func`.

Each makes its own copies of the arguments, and asks for the gradients of these alone. The copy of a tensor with a
history leads back to it, so what comes out can be differentiated in its turn, and no derivative is taken for another's.
A graph for that is made only if something outside is reached. Inside of `vmap` every sample gets a copy of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from distgrad import vmaps
from distgrad.autograd.engine import finish
from distgrad.autograd.engine import run as walk
from distgrad.func.arguments import Argnums, checked, chosen, replaced
from distgrad.func.tree import Tree, flatten, mapped, unflatten
from distgrad.ops.batching import mark_level
from distgrad.ops.convert import clone
from distgrad.ops.making import ones_like, zeros_like
from distgrad.record import (
    AccumulateGrad,
    BackwardNode,
    Edge,
    grad_mode,
    inference_mode,
    no_grad,
    set_grad_enabled,
)
from distgrad.session import batching
from distgrad.tensor import Tensor

Function = Callable[..., Any]


class Copies:
    """Copies of tensors that are to be differentiated, and the edges where their gradients arrive."""

    def __init__(self, item: Any):
        self.recorded = grad_mode.enabled  # outside: whether what is done here belongs to a graph there
        leaves, self.tree = flatten(item)
        self.tensors = [self._copy(leaf) for leaf in leaves]
        self.edges: list[Edge] = [tensor._edge for tensor in self.tensors]

    def _copy(self, tensor: Any) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise ValueError(f"Thing passed to transform API must be Tensor, got {type(tensor)}")
        history = self.recorded and tensor.requires_grad
        with inference_mode(False), set_grad_enabled(history):
            made = clone(tensor)
            for level in vmaps.active.levels:
                if (level.number, level.size) not in batching.levels(made._avals):
                    made = mark_level(made, level.number, level.size)
        return made if history else made.requires_grad_()

    def item(self) -> Any:
        """The copies in the structure that was given."""
        return unflatten(self.tensors, self.tree)

    def reaches_out(self, tensors: Iterable[Tensor]) -> bool:
        """Whether these have a history beyond the copies that belongs to a graph outside."""
        if not self.recorded:
            return False
        mine = {node for node, _ in self.edges}
        stack: list[BackwardNode | None] = [tensor._edge[0] for tensor in tensors]
        seen = set(stack)
        while stack:
            node = stack.pop()
            if node is None:
                continue
            if isinstance(node, AccumulateGrad):
                if node not in mine:
                    return True
                continue
            for following, _ in node.next_functions:
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
        return False

    def freed(self, item: Any) -> Any:
        """Tensors as they are seen outside: without the history that only leads here."""

        def free(tensor: Any) -> Any:
            if not isinstance(tensor, Tensor):
                raise RuntimeError(f"Expected tensors, got unsupported type {type(tensor)}")
            if not tensor.requires_grad or self.reaches_out((tensor,)):
                return tensor
            with no_grad():
                return clone(tensor)

        return mapped(free, item)

    def pulled(
        self, outputs: Sequence[Tensor], gradients: Sequence[Tensor], keep_graph: bool, create_graph: bool
    ) -> list[Tensor]:
        """The gradients of the copies; zeros for those that the outputs do not depend on."""
        pairs = [(out._edge, g) for out, g in zip(outputs, gradients, strict=True) if out.requires_grad]
        found = walk(
            [edge for edge, _ in pairs],
            [g for _, g in pairs],
            keep_graph=keep_graph or create_graph,
            create_graph=create_graph,
            inputs=self.edges,
            accumulate=False,
        )
        finish(create_graph)
        return [zeros_like(t) if g is None else g for t, g in zip(self.tensors, found, strict=True)]


def _aux(name: str, output: Any) -> tuple[Any, Any]:
    if not (isinstance(output, tuple) and len(output) == 2):
        raise RuntimeError(
            f"{name}: output of function f should be a tuple: (output, aux) if has_aux is True"
        )
    return output


def grad_and_value(func: Function, argnums: Argnums = 0, has_aux: bool = False) -> Function:
    """A function that gives the gradient of `func` and its value, as `torch.func.grad_and_value`.

    Args:
        func: gives a tensor of no dimensions; with `has_aux` a pair of that and of whatever tensors else.
        argnums: the position of the argument to differentiate, a tensor or a structure of them; or a tuple of those.

    Returns:
        A function that gives (gradients, value), or (gradients, (value, aux)).
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        wanted = checked(argnums, len(args))
        copies = Copies(chosen(args, wanted))
        with inference_mode(False):  # records, whatever is set outside
            output = func(*replaced(args, wanted, copies.item()), **kwargs)
            aux = None
            if has_aux:
                output, aux = _aux("grad_and_value(f)(*args)", output)
            if not isinstance(output, Tensor):
                raise RuntimeError(
                    f"grad_and_value(f)(*args): Expected f(*args) to return a Tensor, got {type(output)}"
                )
            if output.dim():
                raise RuntimeError(
                    "grad_and_value(f)(*args): Expected f(*args) to return a scalar Tensor, got tensor with "
                    f"{output.dim()} dims. Maybe you wanted to use the vjp or jacrev APIs instead?"
                )
            further = copies.reaches_out((output,))
            found = copies.pulled((output,), (ones_like(output),), False, further)
            grads = unflatten(found, copies.tree)
            value = copies.freed(output)
            return (grads, (value, copies.freed(aux))) if has_aux else (grads, value)

    return wrapped


def grad(func: Function, argnums: Argnums = 0, has_aux: bool = False) -> Function:
    """A function that gives the gradient of `func`, as `torch.func.grad`; see `grad_and_value`.

    With `has_aux` it gives (gradients, aux).
    """
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        grads, value = both(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return wrapped


def vjp(func: Function, *primals: Any, has_aux: bool = False) -> Any:
    """The outputs of `func` and a function from gradients of them to those of `primals`, as `torch.func.vjp`.

    Returns:
        (outputs, function), or (outputs, function, aux) with `has_aux`, where `func` gives (outputs, aux). The
        function takes gradients in the structure of the outputs, gives a tuple with one for each of `primals`, and may
        be called again and again.
    """
    return vjp_of(func, primals, None, has_aux)


def vjp_of(func: Function, args: tuple[Any, ...], argnums: Argnums | None, has_aux: bool) -> Any:
    """`vjp` with respect to the arguments that `argnums` names; None: to all."""
    wanted = tuple(range(len(args))) if argnums is None else checked(argnums, len(args))
    copies = Copies(chosen(args, wanted))
    with inference_mode(False):  # records, whatever is set outside
        output = func(*replaced(args, wanted, copies.item()))
        aux = None
        if has_aux:
            output, aux = _aux("vjp(f, *primals)", output)
        outputs, tree = flatten(output)
        _check_outputs(outputs)
        results = copies.freed(output)
        aux = copies.freed(aux) if has_aux else None
        further = copies.reaches_out(outputs)

    def pull(cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        gs, found = flatten(cotangents)
        _check_cotangents(gs, found, outputs, tree)
        record = grad_mode.enabled if create_graph is None else create_graph
        record = record and (further or any(g.requires_grad for g in gs) or bool(create_graph))
        grads = copies.pulled(outputs, gs, retain_graph, record)
        return unflatten(grads, copies.tree)

    return (results, pull, aux) if has_aux else (results, pull)


def _check_outputs(outputs: list[Any]) -> None:
    if not outputs or (len(outputs) == 1 and outputs[0] is None):
        raise RuntimeError(
            "vjp(f, *primals): Expected f to be a function that has non-empty output (got output = "
            f"{outputs})"
        )
    for out in outputs:
        if not isinstance(out, Tensor):
            raise RuntimeError(
                f"vjp(f, *primals): expected f(*primals) to return only tensors, got unsupported type {type(out)}"
            )
        if not (out.is_floating_point() or out.is_complex()):
            raise RuntimeError(
                "vjp(f, ...): All outputs of f must be floating-point or complex Tensors, got Tensor with dtype "
                f"{out.dtype}"
            )


def _check_cotangents(gs: list[Any], found: Tree, outputs: list[Any], tree: Tree) -> None:
    if found != tree:
        raise RuntimeError(
            "Expected pytree structure of cotangents to be the same as pytree structure of outputs to the function. "
            f"cotangents: {found}, primal output: {tree}"
        )
    for i, (g, out) in enumerate(zip(gs, outputs, strict=True)):
        if g.shape != out.shape:
            raise RuntimeError(
                f"Mismatch in shape: grad_output[{i}] has a shape of {g.shape} and output[{i}] has a shape of "
                f"{out.shape}."
            )
