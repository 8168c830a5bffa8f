"""`backward` and `grad`: what users call to differentiate, with torch's checks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from distgrad import vmaps
from distgrad.autograd.engine import finish, run
from distgrad.autograd.graph import GradientEdge
from distgrad.ops.base import attach
from distgrad.ops.batching import enter_level, left
from distgrad.ops.helpers import constant
from distgrad.ops.making import ones_like, zeros_like
from distgrad.record import Edge
from distgrad.session import fresh
from distgrad.tensor import Tensor
from distgrad.warned import warn_once

Tensors = Tensor | GradientEdge | Sequence[Any] | dict[str, Tensor]


def _tuple(tensors: Any) -> tuple[Any, ...]:
    if isinstance(tensors, (Tensor, GradientEdge)):
        return (tensors,)
    return tuple(tensors.values() if isinstance(tensors, dict) else tensors)


def _edge_of(item: Any) -> Edge:
    return (item.node, item.output_nr) if isinstance(item, GradientEdge) else item._edge


def _roots(outputs: tuple[Any, ...], gradients: Sequence[Any]) -> tuple[list[Edge], list[Tensor]]:
    """The edges to start from and their gradients, checked; ones for scalars without a gradient."""
    edges, found = [], []
    for i, (out, g) in enumerate(zip(outputs, gradients, strict=False)):
        if isinstance(out, GradientEdge):
            if not isinstance(g, Tensor):
                raise NotImplementedError("the gradient of a GradientEdge must be given")
        elif isinstance(g, Tensor):
            given, aval = g._avals.result.spec.aval, out._avals.result.spec.aval
            if given.shape != aval.shape:
                raise RuntimeError(
                    f"Mismatch in shape: grad_output[{i}] has a shape of {g.shape} and "
                    f"output[{i}] has a shape of {out.shape}."
                )
            g = g if given.dtype is aval.dtype else g.to(out.dtype)
        elif g is None:
            if out.requires_grad:
                aval = out._avals.result.spec.aval
                if aval.size != 1:
                    raise RuntimeError("grad can be implicitly created only for scalar outputs")
                g = ones_like(out) if aval.shape else Tensor(constant(1, aval.dtype))
        else:
            raise TypeError(f"gradients can be either Tensors or None, but got {type(g).__name__}")
        found.append(g)
    if len(outputs) != len(gradients):
        raise RuntimeError(f"got {len(outputs)} tensors and {len(gradients)} gradients")
    for i, out in enumerate(outputs):
        edge = _edge_of(out)
        if edge[0] is None:
            raise RuntimeError(f"element {i} of tensors does not require grad and does not have a grad_fn")
        if not isinstance(out, GradientEdge) and (error := out._avals.result.error) is not None:
            raise fresh(error)  # it was told already when the value was read
        edges.append(edge)
    return edges, found


def _gradients(given: Any, count: int) -> tuple[Any, ...]:
    return (None,) * count if given is None else _tuple(given)


def backward(
    tensors: Tensors,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Tensors | None = None,
    *,
    retain_variables: bool | None = None,
) -> None:
    """Accumulate the gradients of `tensors` with respect to the leaves of their graph in the leaves' `.grad`.

    Args:
        tensors: what to differentiate; each needs a gradient in `grad_tensors` unless it has one element.
        grad_tensors: the vectors of the vector-Jacobian product, one for each tensor, or None.
        retain_graph: keep the saved values, so that the graph can be walked again (default: `create_graph`).
        create_graph: record backward itself, for derivatives of higher order.
        grad_variables, retain_variables: old names of `grad_tensors` and `retain_graph`.
        inputs: accumulate in these tensors only.
    """
    if grad_variables is not None:
        if grad_tensors is not None:
            raise RuntimeError(
                "`grad_tensors` and `grad_variables` (deprecated) arguments both passed to "
                "`backward()`. Please only use "
                "`grad_tensors`."
            )
        grad_tensors = grad_variables
    targets = None if inputs is None else _tuple(inputs)
    if targets is not None and not targets:
        raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
    outputs = _tuple(tensors)
    roots, gradients = _roots(outputs, _gradients(grad_tensors, len(outputs)))
    if create_graph:
        warn_once(CYCLE)
    keep = retain_variables if retain_graph is None else retain_graph
    keep_graph = create_graph if keep is None else bool(keep)
    edges = None if targets is None else [_accumulating(tensor) for tensor in targets]
    run(roots, gradients, keep_graph=keep_graph, create_graph=create_graph, inputs=edges)
    finish(create_graph)


CYCLE = (
    "Using backward() with create_graph=True will create a reference cycle between the parameter and its gradient "
    "which can cause a memory leak. We recommend using autograd.grad when creating the graph to avoid this. If you "
    "have to use this function, make sure to reset the .grad fields of your parameters to None after use to break the "
    "cycle and avoid the leak."
)


def _accumulating(tensor: Any) -> Edge:
    """Where `backward(inputs=...)` leads: tensors that are no leaves retain their gradient from now on, as in torch."""
    if isinstance(tensor, Tensor):
        tensor.retain_grad()
    return _edge_of(tensor)


ONLY_INPUTS = (
    "only_inputs argument is deprecated and is ignored now (defaults to True). To accumulate gradient for other parts "
    "of the graph, please use torch.autograd.backward."
)


def grad(
    outputs: Tensors,
    inputs: Tensors,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> Any:
    """The gradients of `outputs` with respect to `inputs`, without touching `.grad`.

    Args:
        outputs, grad_outputs, retain_graph, create_graph: as `tensors` and so on of `backward`.
        inputs: tensors that require grad, leaves or not; for a dict of them the result is one.
        only_inputs: has no other value than True any more, as in torch.
        allow_unused: give None for inputs that the outputs do not depend on, rather than raise.
        is_grads_batched: `grad_outputs` hold many vectors each, along dimension 0; all products are made at once.
        materialize_grads: give zeros for those.
    """
    if materialize_grads and allow_unused is False:
        raise ValueError(
            "Expected allow_unused to be True or not passed when materialize_grads=True, but "
            "got: allow_unused=False."
        )
    if not only_inputs:
        warnings.warn(ONLY_INPUTS, FutureWarning, stacklevel=2)
    if is_grads_batched:
        return _of_each(
            outputs, inputs, grad_outputs, retain_graph, create_graph, allow_unused, materialize_grads
        )
    if allow_unused is None:
        allow_unused = materialize_grads
    wanted, targets = _tuple(outputs), _tuple(inputs)
    if not targets:
        raise RuntimeError("`inputs` argument to `grad()` cannot be empty.")
    roots, gradients = _roots(wanted, _gradients(grad_outputs, len(wanted)))
    if any(isinstance(tensor, Tensor) and not tensor.requires_grad for tensor in targets):
        raise RuntimeError("One of the differentiated Tensors does not require grad")
    edges = [_edge_of(tensor) for tensor in targets]
    keep_graph = create_graph if retain_graph is None else bool(retain_graph)
    found = run(
        roots, gradients, keep_graph=keep_graph, create_graph=create_graph, inputs=edges, accumulate=False
    )
    if materialize_grads and any(isinstance(tensor, GradientEdge) for tensor in targets):
        raise RuntimeError("materialize_grads cannot be used when the given input is a GradientEdge")
    results: list[Any] = []
    for i, (tensor, g) in enumerate(zip(targets, found, strict=True)):
        if g is None and not allow_unused:
            raise RuntimeError(
                f"The differentiated Tensor at index {i} appears to not have been used in the graph. Set "
                "allow_unused=True if this is the desired behavior."
            )
        results.append(zeros_like(tensor) if g is None and materialize_grads else g)
    finish(create_graph)
    return dict(zip(inputs, results, strict=True)) if isinstance(inputs, dict) else tuple(results)


def _of_each(outputs: Tensors, inputs: Tensors, grad_outputs: Any, *rest: Any) -> tuple[Tensor, ...]:
    """`grad` for each vector that `grad_outputs` hold."""
    wanted = _tuple(outputs)
    given = _gradients(grad_outputs, len(wanted))
    for i, (out, g) in enumerate(zip(wanted, given, strict=False)):
        if isinstance(g, Tensor) and g.shape[1:] != out.shape:
            raise RuntimeError(
                "If `is_grads_batched=True`, we interpret the first dimension of each grad_output as the batch "
                "dimension. The sizes of the remaining dimensions are expected to match the shape of corresponding "
                f"output, but a mismatch was detected: grad_output[{i}] has a shape of {g.shape} and output[{i}] has "
                f"a shape of {out.shape}. If you only want some tensors in `grad_output` to be considered batched, "
                "consider using vmap."
            )
    sizes = [g.shape[0] for g in given if isinstance(g, Tensor)]
    if not sizes:
        raise ValueError("vmap: Expected at least one Tensor to vmap over")
    if any(size != sizes[0] for size in sizes):
        raise ValueError(
            "vmap: Expected all tensors to have the same size in the mapped dimension, got sizes "
            f"{sizes} for the mapped dimension"
        )
    retain_graph, create_graph, allow_unused, materialize_grads = rest
    with vmaps.running(sizes[0]) as level:
        each = [enter_level(g, 0, level.number, level.size) if isinstance(g, Tensor) else g for g in given]
        found: tuple[Any, ...] = grad(
            wanted,
            inputs,
            each,
            retain_graph,
            create_graph,
            allow_unused=allow_unused,
            materialize_grads=materialize_grads,
        )
        made: list[Any] = [g if g is None else left(g, 0, level) for g in found]
        return tuple(made)


def _backward(
    self: Tensor,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
    *,
    retain_variables: bool | None = None,
) -> None:
    """Accumulate the gradient of this tensor in the leaves' `.grad`; see `autograd.backward`."""
    backward(self, gradient, retain_graph, create_graph, inputs=inputs, retain_variables=retain_variables)


attach(backward=_backward)
