"""How an op is declared. To add one:

    @op(input=lambda g, other: g * other, other=lambda g, input: g * input, samples=lambda: [(randn(2, 3), randn(3))])
    def mul(input: Operand, other: Operand) -> Value:
        '''input * other, element by element.'''
        return elementwise("multiply", input, other)

1. The body gets `Value`s and emits primitives (`session.emit`, `elementwise`, `reduce`); it never sees a Tensor.
   Argument names, order and defaults are torch's. Annotations tell what an argument is: `Value` a tensor, `Operand` a
   tensor or number, `Sequence[Value]` a list of tensors, `Value | None` may be left out, `Ints` a run of integers or a
   tuple of them (`x.permute(1, 0)`, `x.permute((1, 0))`); all else comes as it was given. Several results: a tuple.
2. One formula for each differentiable argument, in ops on Tensors. It takes `g` (gradient of the result) and what it
   names: arguments (tensors are saved, with version check), `out` (the result), `like` (shape, dtype, sharding of the
   argument it is for; no data), `needs` (which arguments need a gradient, by name). None: no gradient. Broadcasting
   and promotion are undone for you. For a list argument `like` and the result are lists. Non-tensors are not saved.
3. `multi=True`: `g` is a list of gradients, one for each output, None where unused; else only output 0 is
   differentiable. `returns=("values", "indices")` makes the result a named tuple; formulas see it as `out`, None for
   what has a gradient: positions are saved, but not the elements that stood there.
4. `name=` torch's name of the node (`"MaxBackward1"`), or a function of the op's arguments that gives it; without it
   `mul` gives `MulBackward0`. No formula at all: the result never requires grad.
   `guard="input"`: where torch saves the result and this op saves `input`, as it was, the version of the result is
   checked, not that of `input`.
   An argument given as a number has an edge to nothing, as in torch, unless `number_edges=False`.
5. `view=lambda shape, *args: (Slice(...), Squeeze(...))`: the result is a view, to which these moves (`moves.py`) lead
   from the first argument, of this shape; `args` are the others. With several results `index` comes before `args`.
6. `inplace=True` adds the method `mul_` (`"only"`: and nothing else; `fresh=True`: the first argument's contents do not
   matter, so they are not looked at); `method=` names, or False; the first argument must be a tensor.
   `alike=lambda self, *args: args`: it may write into a tensor whose elements overlap, with these arguments, which
   write the same wherever an element is seen (None: not with these). Functions of other ops alone are `@composite`:
   plain functions on Tensors, in the same table. `listed=False` keeps an op out of it.
   `operators(__mul__=mul)` and `attach(T=property(...))` add other members.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.dual import forward, highest
from distgrad.graph import Value, call_site
from distgrad.ops import inplace as writing
from distgrad.ops.helpers import (
    Dims,
    Ints,
    Operand,
    broadcast_to,
    cast,
    common_dtype,
    constant,
    elementwise,
    normal_dim,
    normal_dims,
    reduce,
)
from distgrad.ops.kind import Kind
from distgrad.ops.node import Like, OpNode, SavedList, make_view
from distgrad.ops.outs import COMPOSITES, WITHOUT, into, with_out
from distgrad.ops.table import OPS, UNLISTED, Op, call, register
from distgrad.record import NO_EDGE, Edge, Saved, SavedResult, grad_mode
from distgrad.saving import active as saving
from distgrad.saving import packed
from distgrad.scalars import HIGHEST_INT, LOWEST_INT, checked
from distgrad.session import batching, current_op
from distgrad.tensor import Tensor, restored

__all__ = [
    "OPS",
    "Dims",
    "Ints",
    "Like",
    "Operand",
    "Tensor",
    "Value",
    "attach",
    "broadcast_to",
    "call",
    "cast",
    "common_dtype",
    "composite",
    "constant",
    "elementwise",
    "normal_dim",
    "normal_dims",
    "op",
    "operators",
    "reduce",
]

Samples = Callable[[], Sequence[Any]]


def op(
    *,
    name: str | Callable[..., str] | None = None,
    multi: bool = False,
    returns: tuple[str, ...] | None = None,
    view: Callable[..., Any] | None = None,
    inplace: bool | str = False,
    fresh: bool = False,
    alike: Callable[..., Any] | None = None,
    number_edges: bool = True,
    guard: str | None = None,
    method: bool | str | tuple[str, ...] = True,
    samples: Samples | None = None,
    listed: bool = True,
    **formulas: Callable[..., Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare an op from its body; see the head of this file. Gives the function that users call."""

    def declare(body: Callable[..., Any]) -> Callable[..., Any]:
        title = body.__name__
        kind = Kind(title, body, formulas)
        kind.multi, kind.view, kind.number_edges = multi, view, number_edges
        kind.guard, kind.fresh, kind.alike = guard, fresh, alike
        kind.node_class = _node_classes(kind, name)
        if returns is not None:
            kind.returns = _named_tuple(title, returns)
        function = _function(kind)
        KINDS[function] = kind
        names = _methods(title, method, bool(kind.names) and kind.names[0] in kind.tensors)
        if listed:
            register(
                Op(
                    title,
                    function,
                    body,
                    kind.names,
                    kind.defaults,
                    kind.positional,
                    kind.tensors,
                    kind.lists,
                    formulas,
                    view is not None,
                    names,
                    bool(inplace),
                    samples,
                )
            )
        else:
            UNLISTED[title] = function
        for attached in names:
            if inplace != "only":
                setattr(Tensor, attached, function)
            if inplace:
                setattr(Tensor, f"{attached}_", _inplace(kind, f"{attached}_"))
        return function

    return declare


def composite(
    *, method: bool | str | tuple[str, ...] = True, samples: Samples | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function of other ops in the table, and make it a method. It works on Tensors and is called as it is."""

    def declare(body: Callable[..., Any]) -> Callable[..., Any]:
        kind = Kind(body.__name__, body, {})
        names = _methods(body.__name__, method, True)
        register(
            Op(
                kind.name,
                body,
                body,
                kind.names,
                kind.defaults,
                kind.positional,
                method=names,
                samples=samples,
            )
        )
        for attached in names:
            setattr(Tensor, attached, body)
        return with_out(body) if kind.name in COMPOSITES else body

    return declare


def attach(**members: Any) -> None:
    """Make these members of `Tensor`: `attach(T=property(...), view=function)`."""
    for title, member in members.items():
        setattr(Tensor, title, member)


def operators(**functions: Callable[..., Any] | str) -> None:
    """Attach Python operators of two operands: `operators(__add__=add, __iadd__="add_")`; a string names a method.

    Other operands than tensors, numbers and arrays are left to Python, which asks the operand or raises TypeError.
    """
    for special, function in functions.items():
        setattr(
            Tensor,
            special,
            _operator(special, getattr(Tensor, function) if isinstance(function, str) else function),
        )


def _operator(special: str, function: Callable[..., Any]) -> Callable[..., Any]:
    kind = KINDS.get(function)
    if kind is not None and 2 in kind.tails:  # the same without the way through the op's arguments
        bound, tail = kind.bound, kind.tails[2]

        def binary(self: Tensor, other: Any) -> Any:
            if not isinstance(other, OPERANDS):
                return NotImplemented
            return bound((self, other, *tail))

    else:

        def binary(self: Tensor, other: Any) -> Any:
            if not isinstance(other, OPERANDS):
                return NotImplemented
            return function(self, other)

    binary.__name__ = special
    binary.__doc__ = function.__doc__
    return binary


KINDS: dict[Any, Kind] = {}  # from the functions that users call
OPERANDS = (Tensor, int, float, np.ndarray, np.generic)


def _methods(title: str, method: bool | str | tuple[str, ...], possible: bool) -> tuple[str, ...]:
    if isinstance(method, bool):
        return (title,) if method and possible else ()
    return (method,) if isinstance(method, str) else method


def _node_classes(kind: Kind, name: str | Callable[..., str] | None) -> Callable[[Sequence[Any]], type]:
    """From an op's arguments to the class of its node: one for each name, made once."""

    @functools.cache
    def made(title: str) -> type:
        return type(
            title,
            (OpNode,),
            {"kind": kind, "__slots__": (), "__module__": "distgrad", "__doc__": kind.body.__doc__},
        )

    if callable(name):
        choose = name
        return lambda args: made(choose(*args))
    words = kind.name.rstrip("_").split("_")
    only = made(name or "".join(w[:1].upper() + w[1:] for w in words) + "Backward0")
    return lambda args: only


def _named_tuple(title: str, fields: tuple[str, ...]) -> Callable[..., Any]:
    """A maker of named tuples that print as torch's do."""

    def shown(self: Any) -> str:
        items = ",\n".join(f"{field}={item!r}" for field, item in zip(fields, self, strict=True))
        return f"torch.return_types.{title}(\n{items})"

    made = collections.namedtuple(title, fields)  # type: ignore[misc]
    members = {"__slots__": (), "__module__": "torch.return_types", "__repr__": shown}
    shaped: Any = type(title, (made,), members)
    return shaped._make


def unwrap(kind: Kind, args: tuple[Any, ...]) -> tuple[list[Any], bool]:
    """The arguments as the body takes them, and whether one requires grad."""
    operands, tracked = list(args), False
    for i, numbers in kind.slots:
        item = args[i]
        if isinstance(item, Tensor):
            if item._view is None:
                operands[i] = item._storage.value
            elif kind.fresh and i == 0:
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
            operands[i] = kind.number_or_constant(i, item, numbers)
    for i in kind.scalars:
        if type(args[i]) is not float and type(args[i]) is not int:
            operands[i] = kind.scalar(i, args[i])
    for i in kind.integers:
        if type(args[i]) is not int:
            operands[i] = kind.integer(i, args[i])
    for i in kind.list_slots:
        if not isinstance(args[i], (tuple, list)):
            kinds = f"must be tuple of Tensors, not {type(args[i]).__name__}"
            raise TypeError(f"{kind.name}(): argument '{kind.names[i]}' (position {i + 1}) {kinds}")
        operands[i] = [
            t._value if isinstance(t, Tensor) else kind.number_or_constant(i, t, False) for t in args[i]
        ]
        tracked = tracked or any(isinstance(t, Tensor) and t._requires_grad for t in args[i])
    return operands, tracked


def record(kind: Kind, args: tuple[Any, ...], operands: list[Any], changed: Any = None) -> Any:
    """The backward node for a call, with its edges and saved arguments; None if no differentiable argument needs one.

    `changed` is the tensor that the op is about to change in place: its value is saved as it was, for good.
    """
    edges: list[Edge] = []
    needs: list[bool] = []
    likes: list[Any] = []
    for _, i, is_list, _, _ in kind.formulas:
        item = args[i]
        if is_list:
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
            edges += [NO_EDGE] * kind.number_edges
            needs.append(False)
            likes.append(None)
    key = tuple(needs)
    if True not in key:
        return None
    node = kind.node_class(args)(tuple(edges))
    plan = kind.plans.get(key) or kind.plan(key)
    node.plan, node.likes = plan, likes
    node.saved = saved = {name: operands[i] for name, i in plan.others}
    node.where = call_site(kind.name, 4 if changed is None else 3) if plan.holds else None
    for name, i in plan.tensors:
        item, operand = args[i], operands[i]
        if type(operand) is list:
            saved[name] = SavedList(map(_keep, item, operand))
        else:
            before = changed is not None and item is changed
            saved[name] = _before(operand, item._edge) if before else _keep(item, operand)
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


def _function(kind: Kind) -> Callable[..., Any]:
    """The function that users call."""
    tails, bind, run, formulas = kind.tails, kind.bind, kind.run, kind.formulas
    name = kind.name.lstrip("_")
    takes_out = kind.view is None and name not in WITHOUT and "out" not in kind.names

    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs and "out" in kwargs and takes_out:
            out = kwargs.pop("out")
            if out is not None:
                return into(name, call, args, kwargs, out)
        tail = None if kwargs else tails.get(len(args))
        return bound(bind(args, kwargs) if tail is None else args + tail)

    def bound(args: tuple[Any, ...]) -> Any:
        if forward.on and (level := highest(args)) >= 0:
            return forward.run(kind, args, level)
        operands, tracked = unwrap(kind, args)
        before, current_op.name = current_op.name, name
        try:
            out = run(*operands)
            node = None
            if tracked and formulas and grad_mode.enabled:
                first = out if type(out) is Value else out[0] if out else None
                if first is not None and first.result.spec.aval.dtype.kind == "f":
                    node = record(kind, args, operands)
                    if batching.used and node is not None:
                        node.note_levels([out] if type(out) is Value else out)
            if type(out) is not Value:
                return _several(kind, args, out, node)
            tensor = Tensor(out)
            if kind.view is not None:
                make_view(kind, args, tensor, out, None)
            if node is not None:
                tensor._node = node
                tensor._requires_grad = True
                if node.plan.out:
                    node.saved["out"] = _result(out, tensor, tensor._storage)
                if type(kept := node.saved.get(kind.guard)) is Saved:
                    item = kept.tensor
                    node.saved[kind.guard] = SavedResult(item._value, tensor._counter, item._edge, True)
            return tensor
        finally:
            current_op.name = before

    functools.update_wrapper(call, kind.body)
    kind.bound = bound
    return call


def _several(kind: Kind, args: tuple[Any, ...], outs: Sequence[Value], node: Any) -> Any:
    """The tensors of an op with several results."""
    tensors, saved = [], SavedList()
    for i, out in enumerate(outs):
        tensor = output(kind, args, out, i, node)
        tensors.append(tensor)
        saved.append(None if tensor._node is not None else SavedResult(out, tensor._counter, (None, i)))
    if node is not None:
        node.made = len(outs)
        if node.plan.out:
            node.saved["out"] = saved
    return tuple(tensors) if kind.returns is None else kind.returns(tensors)


def output(kind: Kind, args: tuple[Any, ...], out: Value, i: int, node: Any) -> Tensor:
    """The tensor of result number `i` of several."""
    tensor = Tensor(out)
    if kind.view is not None:
        make_view(kind, args, tensor, out, i)
    if node is not None and (i == 0 or kind.multi) and out.dtype.kind == "f":
        tensor._node, tensor._output, tensor._requires_grad = node, i, True
    return tensor


def _inplace(kind: Kind, name: str) -> Callable[..., Any]:
    """The method that writes an op's result into its first argument."""

    def call(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return changed(self, kind.bind((self, *args), kwargs))

    def changed(self: Tensor, bound: tuple[Any, ...]) -> Tensor:
        if forward.on and (level := highest(bound)) >= 0:
            return forward.change(kind, changed, bound, level)
        writing.check(self)
        if self._view is not None and self._view.layout.overlaps:
            bound = writing.alike(self, kind, bound)
        writing.check_operands(self, kind, bound)
        operands, tracked = unwrap(kind, bound)
        before, current_op.name = current_op.name, name
        try:
            value = writing.suits(self, kind.run(*operands))
            node = None
            if tracked and kind.formulas and grad_mode.enabled and value.dtype.kind == "f":
                node = record(kind, bound, operands, self)
                if node is not None:
                    writing.check_view(self)
                    if batching.used:
                        node.note_levels([value])
            value = writing.write(self, value, call_site(name))
            if node is not None:
                if node.plan.out:
                    node.saved["out"] = _result(value, self)
                writing.rebase(self, node, 0, 0 if kind.formulas[0].place == 0 else None)
            return self
        finally:
            current_op.name = before

    functools.update_wrapper(call, kind.body)
    call.__name__ = name
    return call
