"""The forward rule of every op, from its one declaration.

An op's formulas give Jᵀg for a gradient g of its results, and are linear in g. So J t, the tangent of the results for
tangents t of the arguments, is the gradient of <t, Jᵀg> with respect to g: the formulas are run on a g of zeros, and
the engine differentiates them (the trick of the double backward pass, Townsend 2017). What g stands for is dead once
that is done: of large tensors nothing is computed for it. A view's tangent is the view of the tangent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad import dual, vmaps
from distgrad.autograd.engine import run
from distgrad.dtype import OF_NUMPY
from distgrad.dual import below, give, has, tangents_of
from distgrad.graph import Value
from distgrad.ops.calling import unwrap
from distgrad.ops.chains import Chain
from distgrad.ops.convert import _to_copy, clone
from distgrad.ops.declaration import Op
from distgrad.ops.inplace import CopySlices
from distgrad.ops.making import zeros_like
from distgrad.ops.node import OpNode, SavedList, _like, fitted
from distgrad.record import AsStridedBackward0, SavedResult, enable_grad, grad_mode
from distgrad.saving import Contents, Packed
from distgrad.session import batching
from distgrad.storage import View
from distgrad.tensor import Tensor

Args = tuple[Any, ...]


def tangent_at(tensor: Any, level: int) -> Tensor | None:
    """A tensor's tangent; that of a view whose base was given one later is the same view of it."""
    if not isinstance(tensor, Tensor) or not has(tensor, level):
        return None
    own = tangents_of(tensor)
    if own is None or level not in own:
        assert tensor._view is not None
        whole = tangent_at(tensor._view.base, level)
        assert whole is not None
        with below(level):
            give(tensor, level, _same_view(tensor, whole))
        own = tangents_of(tensor)
    assert own is not None
    return own[level]


def _same_view(view: Tensor, whole: Tensor) -> Tensor:
    """The view of `whole` that `view` is of its base."""
    assert view._view is not None
    chain, before = view._view.chain, whole._view
    steps: Args = chain.steps[chain.depth :]
    base, depth = whole, 0
    if before is not None:
        base, depth = (
            (whole, len(before.chain.steps)) if before.base is None else (before.base, before.chain.depth)
        )
        steps = (*before.chain.steps, *steps)
    made = Tensor(view._view.route.get(whole._value))
    value, storage = made._value, whole._storage
    made._storage, made._versions = storage, whole._counter
    made._view = View(Chain(storage.value.shape, steps, depth), value, storage.generation, base, -1)
    return made


# Out of place.
def push(op: Op, args: Args, level: int) -> Any:
    """An op that has a tangent at `level` among its arguments: its results, with their tangents."""
    with below(level):
        result = op.bound(args)
        outs = [result] if isinstance(result, Tensor) else list(result)
        if op.formulas:
            for out, tangent in zip(outs, _tangents(op, args, result, outs, level), strict=True):
                if tangent is not None:
                    give(out, level, tangent)
    _remember(args, args, outs)
    return result


def _tangents(op: Op, args: Args, result: Any, outs: list[Tensor], level: int) -> Sequence[Tensor | None]:
    """The tangents of the results."""
    if op.view is not None:
        whole = tangent_at(args[0], level)
        assert whole is not None
        made = op.bound((whole, *args[1:]))
        return [made] if isinstance(made, Tensor) else list(made)
    differentiable = [out._avals.dtype.kind == "f" and (i == 0 or op.multi) for i, out in enumerate(outs)]
    seen = result
    if len(outs) != 1 or not isinstance(result, Tensor):
        seen = [None if mine else out for out, mine in zip(outs, differentiable, strict=True)]
    return _differential(op, args, seen, outs, differentiable, level)


def _differential(
    op: Op, args: Args, seen: Any, outs: list[Tensor], differentiable: list[bool], level: int
) -> list[Tensor | None]:
    """J t by the gradient of <t, Jᵀg>. `seen` is what the formulas see as `out`."""
    create_graph = grad_mode.enabled
    given = [_given(args[formula.place], level) for formula in op.formulas]
    if not any(differentiable) or not any(t is not None for ts in given for t in ts):
        return [None] * len(outs)
    with enable_grad():
        gs = [
            _zeros(out).requires_grad_() if mine else None
            for out, mine in zip(outs, differentiable, strict=True)
        ]
        pairs = _products(op, args, seen, gs if op.multi else gs[0], given)
    roots = [(v._edge, t) for v, t in pairs if v._edge[0] is not None]
    wanted = [g._edge for g in gs if g is not None]
    found = iter(
        run(
            [edge for edge, _ in roots],
            [t for _, t in roots],
            keep_graph=create_graph,
            create_graph=create_graph,
            inputs=wanted,
            accumulate=False,
        )
    )
    shared = {id(t._storage) for ts in given for t in ts if t is not None}
    results: list[Tensor | None] = []
    for out, g in zip(outs, gs, strict=True):
        tangent = None if g is None else next(found)
        if tangent is not None and id(tangent._storage) in shared:
            tangent = clone(tangent)  # what changes in place must not change an operand's tangent
        results.append(zeros_like(out) if tangent is None and g is not None else tangent)
    return results


def _zeros(out: Tensor) -> Tensor:
    """Like a result, for each sample of `vmap` that it belongs to: else gradients would be summed over them."""
    zeros = zeros_like(out)
    if batching.used and batching.is_batched(out._avals):
        return Tensor(vmaps.mark_all(zeros._value, batching.levels(out._avals)))
    return zeros


def _given(item: Any, level: int) -> list[Tensor | None]:
    items = item if isinstance(item, (list, tuple)) else (item,)
    return [tangent_at(one, level) for one in items]


def _products(op: Op, args: Args, seen: Any, g: Any, given: list[Any]) -> list[tuple[Tensor, Tensor]]:
    """For each argument with a tangent t: (Jᵀg, t)."""
    operands, _ = unwrap(op, args)
    at_hand = {name: _as_seen(args[i], operands[i]) for i, name in enumerate(op.names)}
    at_hand |= {"g": g, "out": seen}
    at_hand["needs"] = {
        f.argument: any(t is not None for t in ts) for f, ts in zip(op.formulas, given, strict=True)
    }
    pairs = []
    for formula, tangents in zip(op.formulas, given, strict=True):
        if not at_hand["needs"][formula.argument]:
            continue
        operand = operands[formula.place]
        specs = [v.result.spec for v in (operand if formula.is_list else [operand])]
        likes = [_like(spec) for spec in specs]
        at_hand["like"] = likes if formula.is_list else likes[0]
        gradient = formula.function(*(at_hand[name] for name in formula.takes))
        gradients = gradient if formula.is_list and gradient is not None else [gradient] * len(specs)
        for one, spec, t in zip(gradients, specs, tangents, strict=True):
            if one is not None and t is not None:
                pairs.append((fitted(one, spec), _with_dtype(t, spec.dtype)))
    return pairs


def _as_seen(item: Any, operand: Any) -> Any:
    """An argument as formulas see it."""
    if isinstance(item, Tensor):
        return item
    if type(operand) is list:
        return [_as_seen(a, b) for a, b in zip(item, operand, strict=True)]
    return Tensor(operand) if type(operand) is Value else operand


def _with_dtype(tangent: Tensor, dtype: Any) -> Tensor:
    return tangent if tangent._avals.dtype == dtype else _to_copy(tangent, OF_NUMPY[dtype])


def _remember(args: Args, before: Args, outs: list[Tensor]) -> None:
    """Have what the node saved keep its tangents, so that backward is differentiated in forward mode too."""
    node = outs[0]._edge[0] if outs else None
    if isinstance(node, AsStridedBackward0):  # a view was changed
        node = node.next_functions[0][0]
    if isinstance(node, CopySlices):
        node = node.inner
    if not isinstance(node, OpNode) or node.saved is None:
        return
    for name, i in node.plan.tensors:
        _mark(node.saved[name], before[i])
    if node.plan.out:
        _mark(node.saved["out"], outs if isinstance(node.saved["out"], SavedList) else outs[0])


def _mark(saved: Any, item: Any) -> None:
    if type(saved) is SavedResult:  # of others the tensor itself was saved
        saved.tangents = tangents_of(item)
    elif type(saved) is Packed and type(saved.item) is Contents:
        keep_tangents(saved.item.tensor, item)
    elif type(saved) is SavedList:
        for one, its in zip(saved, item, strict=True):
            _mark(one, its)


def keep_tangents(kept: Tensor, item: Tensor) -> None:
    """Give `kept` the tangents of `item` as they are now, whatever is written to them later."""
    for level in range(len(dual.forward.levels)):
        tangent = tangent_at(item, level)
        if tangent is not None:
            give(kept, level, _as_it_was(tangent, tangent, level))


# In place.
def change(op: Op, write: Callable[[Tensor, Args], Tensor], args: Args, level: int) -> Tensor:
    """The same in place: the tangent is changed in place too, so that views of it and its base see that."""
    tensor = args[0]
    before = tuple(_as_it_was(item, tensor, level) for item in args)
    with below(level):
        write(tensor, args)
        (tangent,) = _differential(op, before, tensor, [tensor], [tensor._avals.dtype.kind == "f"], level)
        if tangent is not None:
            _store(tensor, tangent, level)
    _remember(args, before, [tensor])
    return tensor


def _as_it_was(item: Any, changed: Tensor, level: int) -> Any:
    """An operand that will not change when `changed` is: contents, history and tangents."""
    if not isinstance(item, Tensor) or item._storage is not changed._storage:
        return item
    kept = Tensor(item._value)
    node, output = item._edge
    kept._requires_grad = node is not None
    kept._node, kept._output = node, output
    for n in range(level + 1):
        tangent = tangent_at(item, n)
        if tangent is not None:
            give(kept, n, _as_it_was(tangent, tangent, n))
    return kept


def _store(tensor: Tensor, tangent: Tensor, level: int) -> None:
    existing = tangent_at(tensor, level)
    view = tensor._view
    if existing is None and view is not None and view.base is not None:
        give(view.base, level, zeros_like(view.base))
        existing = tangent_at(tensor, level)
    if existing is None:
        give(tensor, level, tangent)
    else:
        existing.copy_(tangent)


dual.forward.run, dual.forward.change, dual.forward.at = push, change, tangent_at
