"""The reverse pass: walks the graph from its roots, without recursion, and deposits gradients.

Nodes are numbered as they are made, and each leads only to nodes made before it. So going through them from the
highest number down meets every node after all that feed it, and needs no counting.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from distgrad import session
from distgrad.graph import place
from distgrad.ops.arithmetic import add
from distgrad.ops.convert import _own, _reshard
from distgrad.ops.inplace import OVERLAP, write
from distgrad.record import AccumulateGrad, Edge, Node, grad_mode
from distgrad.tensor import Tensor


def run(
    roots: Sequence[Edge],
    gradients: Sequence[Tensor],
    *,
    keep_graph: bool,
    create_graph: bool,
    inputs: Sequence[Edge] | None = None,
    accumulate: bool = True,
) -> list[Tensor | None]:
    """Run backward from `roots`.

    Args:
        roots: (node, output) of each tensor to differentiate; `gradients` are theirs.
        keep_graph: keep what nodes have saved.
        create_graph: record what is done.
        inputs: the edges whose gradients are wanted; None: all leaves.
        accumulate: deposit in `.grad` of the leaves; else give the gradients of `inputs` back.

    Returns:
        The gradient of each of `inputs`, None where there is none; an empty list with `accumulate`.
    """
    before, grad_mode.enabled = grad_mode.enabled, create_graph
    caller = session.current_op.caller
    if session.is_initialized():  # else no op asks where it was called
        session.current_op.caller = place("backward", 2)[1:]
        session.pass_begins()
    try:
        captured: dict[Edge, Tensor | None] = dict.fromkeys(inputs or ())
        needed = None if inputs is None else _needed([node for node, _ in roots], {n for n, _ in inputs})
        waiting: list[tuple[int, Node]] = []  # a heap of (-number, node): nodes that have a gradient
        buffers: dict[Node, list[Any]] = {}  # for each of them the gradients of its outputs so far
        for edge, g in zip(roots, gradients, strict=True):
            _feed(waiting, buffers, edge, g)
        while waiting:
            _, node = heapq.heappop(waiting)
            grads = buffers.pop(node)
            if needed is not None and node not in needed:
                continue
            if captured:
                for output, g in enumerate(grads):
                    if g is not None and (node, output) in captured:
                        captured[node, output] = g
            if node.retained is not None:
                _fill_retained(node, grads)
            if type(node) is AccumulateGrad:
                if accumulate:
                    deposit(node.variable, grads[0], create_graph)
                continue
            if needed is not None and not needed[node]:
                continue
            edges = node.next_functions
            wanted = None if needed is None else [n in needed for n, _ in edges]
            for edge, g in zip(edges, node.apply(grads, wanted), strict=True):
                if g is not None:
                    _feed(waiting, buffers, edge, g)
            if not keep_graph:
                node.release()
        return [captured[edge] for edge in inputs or ()]
    finally:
        grad_mode.enabled = before
        session.current_op.caller = caller


def _feed(waiting: list[tuple[int, Node]], buffers: dict[Node, list[Any]], edge: Edge, g: Tensor) -> None:
    """Add a gradient to those that wait for a node's output."""
    node, output = edge
    if node is None:
        return
    grads = buffers.get(node)
    if grads is None:
        buffers[node] = [g] if output == 0 else [None] * output + [g]
        heapq.heappush(waiting, (-node.number, node))
        return
    if len(grads) <= output:
        grads += [None] * (output + 1 - len(grads))
    grads[output] = g if grads[output] is None else add(grads[output], g)


def _needed(roots: list[Node | None], targets: set[Node | None]) -> dict[Node, bool]:
    """The nodes on a way to one of the targets; True for those that must run, False for targets that need not."""
    seen = {node for node in roots if node is not None}
    stack = list(seen)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    needed: dict[Node, bool] = {}
    for node in sorted(seen, key=lambda node: node.number):
        runs = any(n in needed for n, _ in node.next_functions)
        if runs or node in targets:
            needed[node] = runs
    return needed


def _fill_retained(node: Node, grads: list[Any]) -> None:
    assert node.retained is not None
    for output, reference in node.retained.items():
        tensor = reference()
        if tensor is not None and output < len(grads) and grads[output] is not None:
            g = grads[output]
            if tensor._grad is None:
                tensor._grad = _own(g) if grad_mode.enabled else Tensor(g._value)
            else:
                tensor._grad = add(tensor._grad, g)


def deposit(variable: Tensor, g: Tensor, create_graph: bool) -> None:
    """Accumulate a gradient in a leaf, with the leaf's sharding: in place, or as a new tensor with `create_graph`."""
    spec = variable._avals.result.spec
    if g._avals.result.spec is not spec and g.sharding != spec.sharding:
        g = _reshard(g, spec.sharding)
    old = variable._grad
    if old is None:
        variable._grad = _own(g) if create_graph else Tensor(g._value)
    elif create_graph:
        variable._grad = add(old, g)
    elif old._view is not None and old._view.layout.overlaps:
        raise RuntimeError(OVERLAP)
    else:
        write(old, add(old, g)._value, place("backward"))


def finish(create_graph: bool) -> None:
    """Send what backward has recorded to the workers, at once or with what follows.

    A graph is made for a further pass: that reads the same values again, and so they go together.
    """
    if not create_graph:
        session.pass_ended()
