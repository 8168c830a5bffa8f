"""How an op is declared. To add one:

    @op(input=lambda g, other: g * other, other=lambda g, input: g * input, samples=lambda: [(randn(2, 3), randn(3))])
    def mul(input: Operand, other: Operand) -> Value:
        '''input * other, element by element.'''
        return elementwise("multiply", input, other)

1. The body gets `Value`s and emits primitives (`session.emit`, `elementwise`, `reduce`); it never sees a Tensor.
   Argument names, order and defaults are torch's. The types tell what an argument is: `Value` a tensor, `Operand` a
   tensor or number, `Sequence[Value]` some tensors, `Value | None` may be left out, `float` and `int` numbers, also
   NumPy's, `Ints` a run of integers or a tuple of them (`x.permute(1, 0)`, `x.permute((1, 0))`); all else comes as it
   was given. Several results: a tuple.
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
   `fills=lambda self, *args: (mask, value)`: what it writes is one number or 0-d tensor where `mask` is true (None:
   everywhere), so it may write into a tensor whose elements overlap (None instead: not with these). Functions of other
   ops alone are `@composite`: plain functions on Tensors, in the same table. `listed=False` keeps an op out of it.
   `operators(__mul__=mul)` and `attach(T=property(...))` add other members.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.graph import Value
from distgrad.ops.calling import calls, in_place
from distgrad.ops.declaration import Calls, Op, Samples
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
from distgrad.ops.node import Like, OpNode
from distgrad.ops.outs import COMPOSITES, with_out
from distgrad.ops.table import BY_FUNCTION, OPS, call, register
from distgrad.tensor import Tensor

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


def op(
    *,
    name: str | Callable[..., str] | None = None,
    multi: bool = False,
    returns: tuple[str, ...] | None = None,
    view: Callable[..., Any] | None = None,
    inplace: bool | str = False,
    fresh: bool = False,
    fills: Callable[..., Any] | None = None,
    number_edges: bool = True,
    guard: str | None = None,
    method: bool | str | tuple[str, ...] = True,
    samples: Samples | None = None,
    listed: bool = True,
    **formulas: Callable[..., Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare an op from its body; see the head of this file. Gives the function that users call."""

    def declare(body: Callable[..., Any]) -> Callable[..., Any]:
        made = Op(
            body,
            formulas,
            functools.partial(calls, node=name),
            multi=multi,
            returns=returns,
            view=view,
            inplace=bool(inplace),
            fresh=fresh,
            fills=fills,
            number_edges=number_edges,
            guard=guard,
            method=method,
            samples=samples,
        )
        register(made, listed)
        for attached in made.method:
            if inplace != "only":
                setattr(Tensor, attached, made.function)
            if inplace:
                setattr(Tensor, f"{attached}_", in_place(made, f"{attached}_"))
        return made.function

    return declare


def composite(
    *, method: bool | str | tuple[str, ...] = True, samples: Samples | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function of other ops in the table, and make it a method. It works on Tensors and is called as it is."""

    def declare(body: Callable[..., Any]) -> Callable[..., Any]:
        made = Op(body, {}, _itself, method=method, samples=samples, composite=True)
        register(made)
        for attached in made.method:
            setattr(Tensor, attached, body)
        return with_out(body) if made.name in COMPOSITES else body

    return declare


def _itself(composite: Op) -> Calls:
    """A function of other ops is called as it is; each of these makes its own node."""
    return Calls(composite.body, lambda args: composite.run(*args), lambda args: OpNode)


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
    op = BY_FUNCTION.get(function)
    if op is not None and not op.composite and 2 in op.tails:  # without the way through the op's arguments
        bound, tail = op.bound, op.tails[2]

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


OPERANDS = (Tensor, int, float, np.ndarray, np.generic)
