"""An op as it was declared, once: calls read it, and tests and documentation walk it."""

from __future__ import annotations

import collections
import copy
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distgrad.ops.parameters import Parameters

RESERVED = ("g", "out", "like", "needs")
Samples = Callable[[], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Formula:
    """The gradient for one argument: a function and the names it takes."""

    argument: str
    place: int  # of the argument
    is_list: bool
    function: Callable[..., Any]
    takes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is saved when a given set of arguments needs gradients."""

    needs: tuple[bool, ...]  # which formulas run
    tensors: tuple[tuple[str, int], ...]  # names and places of the arguments to save
    others: tuple[tuple[str, int], ...]
    out: bool  # whether the results are saved
    holds: bool  # whether any tensor is


class Calls(NamedTuple):
    """What is made of a declaration."""

    function: Callable[..., Any]  # what users call
    bound: Callable[[tuple[Any, ...]], Any]  # the same, with a tuple of all its arguments
    node_class: Callable[
        [Sequence[Any]], type
    ]  # from the arguments of a call to the class of its backward node


class Op(Parameters):
    """One op, as `op` or `composite` declares it; what its options mean stands at the head of `base.py`.

    Attributes beside those options and the parameters:
        body: for an op, the function on Values; for a composite, the function on Tensors. `run` is the same, but takes
            all its arguments by position.
        formulas: the gradients, in the order of the arguments.
        function, bound, node_class: see `Calls`, which `calls` makes last of all.
        method: names under which `Tensor` has it; `inplace`: whether there is a method with `_` behind the name.
        composite: whether it is made of other ops, so that its gradient is theirs.
    """

    def __init__(
        self,
        body: Callable[..., Any],
        formulas: Mapping[str, Callable[..., Any]],
        calls: Callable[[Op], Calls],
        *,
        multi: bool = False,
        returns: tuple[str, ...] | None = None,
        view: Callable[..., Any] | None = None,
        inplace: bool = False,
        fresh: bool = False,
        fills: Callable[..., Any] | None = None,
        number_edges: bool = True,
        guard: str | None = None,
        method: bool | str | tuple[str, ...] = True,
        samples: Samples | None = None,
        composite: bool = False,
    ):
        super().__init__(body.__name__, body, formulas)
        if unknown := set(formulas) - set(self.names):
            raise TypeError(f"{self.name}: formulas for {sorted(unknown)}, which are no arguments")
        self.body = body
        self.run = _by_position(body, len(self.names))
        self.formulas = tuple(self.formula(n, formulas[n]) for n in self.names if n in formulas)
        self.plans: dict[tuple[bool, ...], Plan] = {}
        self.multi = multi
        self.returns = None if returns is None else named_tuple(self.name, returns)
        self.view = view
        self.inplace = inplace
        self.fresh = fresh
        self.fills = fills
        self.number_edges = number_edges
        self.guard = guard
        self.samples = samples
        self.composite = composite
        self.method = _methods(self, method)
        self.function, self.bound, self.node_class = calls(self)

    def renamed(self, name: str, node_classes: Callable[[Op], Callable[[Sequence[Any]], type]]) -> Op:
        """The same op, that errors and backward nodes call otherwise."""
        made = copy.copy(self)
        made.name = name
        made.node_class = node_classes(made)
        return made

    def formula(self, argument: str, function: Callable[..., Any]) -> Formula:
        """The gradient for an argument. Raises TypeError if the function takes what there is not."""
        takes = tuple(inspect.signature(function).parameters)
        if unknown := [n for n in takes if n not in self.names and n not in RESERVED]:
            raise TypeError(
                f"{self.name}: the formula for {argument} takes {unknown}, which are no arguments"
            )
        return Formula(argument, self.names.index(argument), argument in self.lists, function, takes)

    def plan(self, needs: tuple[bool, ...]) -> Plan:
        """What to save when the formulas marked in `needs` will run."""
        found = self.plans.get(needs)
        if found is None:
            taken = {n for f, need in zip(self.formulas, needs, strict=True) if need for n in f.takes}
            kept = [(n, i) for i, n in enumerate(self.names) if n in taken]
            is_tensor = (*self.tensors, *self.lists)
            tensors = tuple(item for item in kept if item[0] in is_tensor)
            others = tuple(item for item in kept if item[0] not in is_tensor)
            found = Plan(needs, tensors, others, "out" in taken, "out" in taken or bool(tensors))
            self.plans[needs] = found
        return found

    def examples(self) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The sample calls as (arguments, keywords), made anew; empty where none are declared."""
        calls = []
        for sample in self.samples() if self.samples else ():
            sample = sample if isinstance(sample, tuple) else (sample,)
            keywords = sample[-1] if sample and isinstance(sample[-1], dict) else {}
            calls.append((sample[:-1] if keywords else sample, dict(keywords)))
        return calls


def _methods(op: Op, method: bool | str | tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(method, bool):
        possible = op.composite or (bool(op.names) and op.names[0] in op.tensors)
        return (op.name,) if method and possible else ()
    return (method,) if isinstance(method, str) else method


def _by_position(body: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The same function, all of whose `count` arguments are given by position, those by keyword too."""
    if not isinstance(body, types.FunctionType) or body.__code__.co_kwonlyargcount == 0:
        return body
    code = body.__code__.replace(co_argcount=count, co_kwonlyargcount=0)
    return types.FunctionType(code, body.__globals__, body.__name__, None, body.__closure__)


def named_tuple(title: str, fields: tuple[str, ...]) -> Callable[..., Any]:
    """A maker of named tuples that print as torch's do."""

    def shown(self: Any) -> str:
        items = ",\n".join(f"{field}={item!r}" for field, item in zip(fields, self, strict=True))
        return f"torch.return_types.{title}(\n{items})"

    made = collections.namedtuple(title, fields)  # type: ignore[misc]
    members = {"__slots__": (), "__module__": "torch.return_types", "__repr__": shown}
    shaped: Any = type(title, (made,), members)
    return shaped._make
