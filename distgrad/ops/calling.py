"""How an op is called: its arguments become values, its results tensors with a history."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from distgrad.callsites import call_site
from distgrad.dual import forward, highest
from distgrad.graph import Value
from distgrad.ops import inplace as writing
from distgrad.ops.declaration import Calls, Op
from distgrad.ops.node import SavedList, make_view, node_classes
from distgrad.ops.outs import WITHOUT, into
from distgrad.record import NO_EDGE, Edge, Saved, SavedResult, grad_mode
from distgrad.restoring import restored
from distgrad.saving import active as saving
from distgrad.saving import packed
from distgrad.scalars import HIGHEST_INT, LOWEST_INT, checked
from distgrad.session import batching, current_op
from distgrad.tensor import Tensor


def unwrap(op: Op, args: tuple[Any, ...]) -> tuple[list[Any], bool]:
    """The arguments as the body takes them, and whether one requires grad."""
    operands, tracked = list(args), False
    for i, numbers in op.slots:
        item = args[i]
        if isinstance(item, Tensor):
            if item._view is None:
                operands[i] = item._storage.value
            elif op.fresh and i == 0:
                _ = item.grad_fn
                operands[i] = item._avals
            else:
                operands[i] = item._value
            if item._requires_grad:
                tracked = True
        elif type(item) is int and numbers:
            if not LOWEST_INT <= item <= HIGHEST_INT:
                checked(item)
        elif type(item) is not float or not numbers:
            operands[i] = op.number_or_constant(i, item, numbers)
    if op.only_slots:
        return operands, tracked
    for i in op.scalars:
        if type(args[i]) is not float and type(args[i]) is not int:
            operands[i] = op.scalar(i, args[i])
    for i in op.integers:
        if type(args[i]) is not int:
            operands[i] = op.integer(i, args[i])
    for i in op.list_slots:
        if not isinstance(args[i], (tuple, list)):
            kinds = f"must be tuple of Tensors, not {type(args[i]).__name__}"
            raise TypeError(f"{op.name}(): argument '{op.names[i]}' (position {i + 1}) {kinds}")
        operands[i] = [
            t._value if isinstance(t, Tensor) else op.number_or_constant(i, t, False) for t in args[i]
        ]
        tracked = tracked or any(isinstance(t, Tensor) and t._requires_grad for t in args[i])
    return operands, tracked


def record(op: Op, args: tuple[Any, ...], operands: list[Any], changed: Any = None) -> Any:
    """The backward node for a call, with its edges and saved arguments; None if no differentiable argument needs one.

    `changed` is the tensor that the op is about to change in place: its value is saved as it was, for good.
    """
    edges: list[Edge] = []
    needs: list[bool] = []
    likes: list[Any] = []
    for formula in op.formulas:
        i = formula.place
        item = args[i]
        if formula.is_list:
            mine = [t._edge if isinstance(t, Tensor) else NO_EDGE for t in item]
            edges += mine
            needs.append(any(node is not None for node, _ in mine))
            likes.append([v.result.spec for v in operands[i]])
        elif isinstance(item, Tensor):
            edge = item._edge
            edges.append(edge)
            needs.append(edge[0] is not None)
            likes.append(operands[i].result.spec)
        else:
            if op.number_edges:
                edges.append(NO_EDGE)
            needs.append(False)
            likes.append(None)
    key = tuple(needs)
    if True not in key:
        return None
    node = op.node_class(args)(tuple(edges))
    plan = op.plans.get(key) or op.plan(key)
    node.plan, node.likes = plan, likes
    node.saved = saved = {name: operands[i] for name, i in plan.others} if plan.others else {}
    node.where = call_site(op.name, 4 if changed is None else 3) if plan.holds else None
    for name, i in plan.tensors:
        item, operand = args[i], operands[i]
        if type(operand) is list:
            saved[name] = SavedList(map(_keep, item, operand))
        elif changed is not None and item is changed:
            saved[name] = _before(operand, item._edge)
        else:
            saved[name] = _keep(item, operand)
    return node


def _keep(item: Any, operand: Any) -> Any:
    if isinstance(item, Tensor):
        return (packed(item, item._edge) if saving.count else None) or Saved(item)
    return SavedResult(operand, None) if type(operand) is Value else operand


def _before(value: Value, edge: Edge) -> Any:
    """The contents of a tensor that is about to change."""
    kept = SavedResult(value, None, edge)
    return (packed(restored(kept, None, None), edge) if saving.count else None) or kept


def _result(value: Value, tensor: Tensor, storage: Any = None) -> Any:
    """A result of the node that made `tensor` and saves it."""
    made = packed(tensor, NO_EDGE, True) if saving.count else None
    return made or SavedResult(value, tensor._counter, NO_EDGE, True, storage)


def calls(op: Op, node: str | Callable[..., str] | None) -> Calls:
    """How users call an op, and the classes of its nodes, whose name is `node` if it is not that of the op."""
    tails, bind, run, formulas = op.tails, op.bind, op.run, op.formulas
    name = op.name.lstrip("_")
    takes_out = op.view is None and name not in WITHOUT and "out" not in op.names

    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs and "out" in kwargs and takes_out:
            out = kwargs.pop("out")
            if out is not None:
                return into(name, call, args, kwargs, out)
        tail = None if kwargs else tails.get(len(args))
        return bound(bind(args, kwargs) if tail is None else args + tail)

    def bound(args: tuple[Any, ...]) -> Any:
        if forward.on and (level := highest(args)) >= 0:
            return forward.run(op, args, level)
        operands, tracked = unwrap(op, args)
        before, current_op.name = current_op.name, name
        try:
            out = run(*operands)
            node = None
            if tracked and formulas and grad_mode.enabled:
                first = out if type(out) is Value else out[0] if out else None
                if first is not None and first.result.spec.dtype.kind == "f":
                    node = record(op, args, operands)
                    if batching.used and node is not None:
                        node.note_levels([out] if type(out) is Value else out)
            if type(out) is not Value:
                return _several(op, args, out, node)
            tensor = Tensor(out)
            if op.view is not None:
                make_view(op, args, tensor, out, None)
            if node is not None:
                tensor._node = node
                tensor._requires_grad = True
                if node.plan.out:
                    node.saved["out"] = _result(out, tensor, tensor._storage)
                if type(kept := node.saved.get(op.guard)) is Saved:
                    item = kept.tensor
                    node.saved[op.guard] = SavedResult(item._value, tensor._counter, item._edge, True)
            return tensor
        finally:
            current_op.name = before

    functools.update_wrapper(call, op.body)
    return Calls(call, bound, node_classes(op, node))


def _several(op: Op, args: tuple[Any, ...], outs: Sequence[Value], node: Any) -> Any:
    """The tensors of an op with several results."""
    tensors, saved = [], SavedList()
    for i, out in enumerate(outs):
        tensor = output(op, args, out, i, node)
        tensors.append(tensor)
        saved.append(None if tensor._node is not None else SavedResult(out, tensor._counter, (None, i)))
    if node is not None:
        node.made = len(outs)
        if node.plan.out:
            node.saved["out"] = saved
    return tuple(tensors) if op.returns is None else op.returns(tensors)


def output(op: Op, args: tuple[Any, ...], out: Value, i: int, node: Any) -> Tensor:
    """The tensor of result number `i` of several."""
    tensor = Tensor(out)
    if op.view is not None:
        make_view(op, args, tensor, out, i)
    if node is not None and (i == 0 or op.multi) and out.dtype.kind == "f":
        tensor._node, tensor._output, tensor._requires_grad = node, i, True
    return tensor


def in_place(op: Op, name: str) -> Callable[..., Any]:
    """The method that writes an op's result into its first argument."""

    tails, bind = op.tails, op.bind

    def call(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        tail = None if kwargs else tails.get(1 + len(args))
        return changed(self, bind((self, *args), kwargs) if tail is None else (self, *args, *tail))

    def changed(self: Tensor, bound: tuple[Any, ...]) -> Tensor:
        if self._view is not None and self._view.layout.overlaps:
            return writing.overlapping(self, op, bound)
        if forward.on and (level := highest(bound)) >= 0:
            return forward.change(op, changed, bound, level)
        writing.check(self)
        writing.check_operands(self, op, bound)
        operands, tracked = unwrap(op, bound)
        before, current_op.name = current_op.name, name
        try:
            value = writing.suits(self, op.run(*operands))
            node = None
            if tracked and op.formulas and grad_mode.enabled and value.dtype.kind == "f":
                node = record(op, bound, operands, self)
                if node is not None:
                    writing.check_view(self)
                    if batching.used:
                        node.note_levels([value])
            value = writing.write(self, value, call_site(name))
            if node is not None:
                if node.plan.out:
                    node.saved["out"] = _result(value, self)
                writing.rebase(self, node, 0, 0 if op.formulas[0].place == 0 else None)
            return self
        finally:
            current_op.name = before

    functools.update_wrapper(call, op.body)
    call.__name__ = name
    return call
