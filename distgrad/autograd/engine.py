"""The reverse pass: walks the graph from its roots, without recursion, and deposits gradients.

Nodes are numbered as they are made, and each leads only to nodes made before it. So going through them from the
highest number down meets every node after all that feed it, and needs no counting.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Sequence
from typing import Any

from distgrad import session
from distgrad.autograd.anomaly_mode import reported, watched
from distgrad.autograd.hooks import conclude, deposited, prepare, reach
from distgrad.callsites import call_site
from distgrad.ops.arithmetic import add
from distgrad.ops.convert import _own, _reshard
from distgrad.ops.inplace import OVERLAP, write
from distgrad.primitives.elementwise import broadcast_shape
from distgrad.record import AccumulateGrad, BackwardNode, Edge, Pass, anomaly, grad_mode, reachable
from distgrad.tensor import Tensor

_depositing = threading.RLock()


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
    before, around, outer = grad_mode.enabled, grad_mode.current, anomaly.running.node
    caller = session.current_op.caller
    try:  # which a Ctrl-C may end anywhere
        grad_mode.enabled = create_graph
        if session.is_initialized():  # else no op asks where it was called
            session.current_op.caller = begun = call_site("backward", 2)[1:]
            session.begin_pass(begun)
        captured: dict[Edge, Tensor | None] = {} if accumulate else dict.fromkeys(inputs or ())
        targets = {node for node, _ in inputs or ()}
        starts = [node for node, _ in roots]
        needed = None if inputs is None else _needed(starts, targets, accumulate)
        grad_mode.current = Pass(inputs is not None, starts, needed)
        _walk(roots, gradients, keep_graph, needed, captured)
        return [captured[edge] for edge in inputs or () if captured]
    finally:
        grad_mode.enabled, grad_mode.current, anomaly.running.node = before, around, outer
        session.current_op.caller = caller


def _walk(
    roots: Sequence[Edge],
    gradients: Sequence[Tensor],
    keep_graph: bool,
    needed: dict[BackwardNode, bool] | None,
    captured: dict[Edge, Tensor | None],
) -> None:
    """Go through the nodes; None for a gradient that is undefined, as a formula or a hook may give it."""
    waiting: list[tuple[int, BackwardNode]] = []  # a heap of (-number, node): nodes that have a gradient
    buffers: dict[BackwardNode, list[Any]] = {}  # for each of them the gradients of its outputs so far
    undefined = False  # whether one was fed that is None
    for edge, g in zip(roots, gradients, strict=True):
        _feed(waiting, buffers, edge, g)
    node: BackwardNode | None = None
    try:
        while waiting:
            _, node = heapq.heappop(waiting)
            grads = buffers.pop(node)
            if needed is not None:
                if node not in needed:
                    continue
                runs = needed[node]
                if captured and runs:  # as in torch, before the hooks of a tensor on the way to another one
                    _capture(captured, node, grads)
            if type(node) is AccumulateGrad:
                leaf = node.variable
                if needed is not None and not runs:
                    _capture(captured, node, grads if leaf._hooks is None else reach(leaf._hooks, grads, 1))
                elif leaf._hooks is None and node._hooks is None:
                    if grads[0] is not None:
                        deposit(leaf, grads[0], grad_mode.enabled)
                else:
                    arrive(node, grads)
                continue
            hooks = node._hooks
            grads = grads if hooks is None else reach(hooks, grads, node._outputs)
            if needed is None:
                wanted = None
            else:
                if not runs:
                    _capture(captured, node, grads)
                    continue
                wanted = [n in needed for n, _ in node.next_functions]
            grads = grads if hooks is None else prepare(hooks, grads)
            blank = (undefined or hooks is not None) and all(g is None for g in grads)
            apply = node._undefined if blank else node.apply
            found = apply(grads, wanted) if not anomaly.enabled else watched(node, apply, grads, wanted)
            found = conclude(hooks, found, grads) if hooks is not None and hooks.after else found
            if not keep_graph:
                node._release()
            for edge, g in zip(node.next_functions, found, strict=True):
                if g is not None:
                    _feed(waiting, buffers, edge, g)
                elif edge[0] is not None and (needed is None or edge[0] in needed):
                    undefined = True
                    _feed(waiting, buffers, edge, None)
    except Exception:
        if anomaly.enabled and node is not None:
            reported(node)
        raise


def _capture(captured: dict[Edge, Tensor | None], node: BackwardNode, grads: Sequence[Any]) -> None:
    for output, g in enumerate(grads):
        if g is not None and (node, output) in captured:
            captured[node, output] = g


def _feed(
    waiting: list[tuple[int, BackwardNode]], buffers: dict[BackwardNode, list[Any]], edge: Edge, g: Any
) -> None:
    """Add a gradient to those that wait for a node's output."""
    node, output = edge
    if node is None:
        return
    grads = buffers.get(node)
    if grads is None:
        buffers[node] = [g] if output == 0 else [None] * output + [g]
        heapq.heappush(waiting, (-node._number, node))
        return
    if len(grads) <= output:
        grads += [None] * (output + 1 - len(grads))
    if g is not None:
        grads[output] = g if grads[output] is None else add(grads[output], g)


def _needed(
    roots: list[BackwardNode | None], targets: set[BackwardNode | None], accumulate: bool
) -> dict[BackwardNode, bool]:
    """The nodes on a way to one of the targets; True for those that must run.

    Targets must run if they are to `accumulate`; else not, unless another target is behind them.
    """
    needed: dict[BackwardNode, bool] = {}
    for node in sorted(reachable(roots), key=lambda node: node._number):
        runs = any(n in needed for n, _ in node.next_functions)
        if runs or node in targets:
            needed[node] = runs or accumulate
    return needed


def arrive(node: AccumulateGrad, grads: list[Any]) -> None:
    """A gradient for a leaf that has hooks, or whose node has."""
    leaf, hooks = node.variable, node._hooks
    if leaf._hooks is not None:
        grads = reach(leaf._hooks, grads, 1)
    if hooks is not None:
        grads = prepare(hooks, grads)
    if grads[0] is not None:
        deposit(leaf, grads[0], grad_mode.enabled)
    if leaf._hooks is not None:
        deposited(leaf._hooks, leaf)
    if hooks is not None:
        conclude(hooks, (), grads)


def deposit(variable: Tensor, g: Tensor, create_graph: bool) -> None:
    """Accumulate a gradient in a leaf, with the leaf's sharding: in place, or as a new tensor with `create_graph`.

    Passes of several threads may meet at a leaf: none of their gradients is lost.
    """
    with _depositing:
        _deposit(variable, g, create_graph)


def _deposit(variable: Tensor, g: Tensor, create_graph: bool) -> None:
    spec = variable._avals.result.spec
    if g._avals.result.spec is not spec and g.sharding != spec.sharding:
        broadcast_shape(spec.shape, g._avals.shape)  # torch's error: the leaf was turned in place meanwhile
        g = _reshard(g, spec.sharding)
    old = variable._grad
    if old is None:
        variable._grad = _own(g) if create_graph else Tensor(g._value)
    elif create_graph:
        variable._grad = add(old, g)
    elif old._view is not None and old._view.layout.overlaps:
        raise RuntimeError(OVERLAP)
    else:
        write(old, add(old, g)._value, call_site("backward"))


def finish(create_graph: bool) -> None:
    """Send what backward has recorded to the workers, at once or with what follows.

    A graph is made for a further pass: that reads the same values again, and so they go together.
    """
    if not create_graph:
        session.end_pass()
