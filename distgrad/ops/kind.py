"""An op's declaration as the machinery reads it: arguments, formulas, and what each formula needs saved."""

from __future__ import annotations

import inspect
import operator
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad import session
from distgrad.ops.helpers import normal_ints

RESERVED = ("g", "out", "like", "needs")
NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim", "x": "input", "x2": "other"}


class Formula(NamedTuple):
    """The gradient for one argument: a function and the names it takes."""

    argument: str
    place: int  # of the argument
    is_list: bool
    function: Callable[..., Any]
    takes: tuple[str, ...]


class Plan(NamedTuple):
    """What is saved when a given set of arguments needs gradients."""

    needs: tuple[bool, ...]  # which formulas run
    tensors: tuple[tuple[str, int], ...]  # names and places of the arguments to save
    others: tuple[tuple[str, int], ...]
    out: bool  # whether the results are saved
    holds: bool  # whether any tensor is


class Kind:
    """An op's declaration as the machinery reads it: `Op` beside it is for tests and readers."""

    def __init__(self, name: str, body: Callable[..., Any], formulas: dict[str, Callable[..., Any]]):
        signature = inspect.signature(body)
        self.name = name
        self.body = body
        self.names = tuple(signature.parameters)
        self.count = len(self.names)
        self.positional = sum(p.kind is not p.KEYWORD_ONLY for p in signature.parameters.values())
        self.run = _by_position(body, self.count)
        self.defaults = {n: p.default for n, p in signature.parameters.items() if p.default is not p.empty}
        notes = {n: str(p.annotation) for n, p in signature.parameters.items()}
        self.lists = tuple(n for n, note in notes.items() if "[Value" in note)
        self.tensors = tuple(
            n
            for n, note in notes.items()
            if n not in self.lists and ("Value" in note or "Operand" in note or n in formulas)
        )
        self.numbers = {n for n in self.tensors if "Operand" in notes[n] or "Value" not in notes[n]}
        self.scalars = tuple(
            i
            for i, n in enumerate(self.names)
            if notes[n] in ("float", "float | None") and n not in self.tensors
        )
        self.integers = tuple(i for i, n in enumerate(self.names) if notes[n] in ("int", "int | None"))
        self.runs = tuple(i for i, n in enumerate(self.names) if notes[n] == "Ints")
        self.tails = {} if self.runs else self._tails()
        self.slots = tuple((self.names.index(n), n in self.numbers) for n in self.tensors)
        self.list_slots = tuple(self.names.index(n) for n in self.lists)
        self.formulas: tuple[Formula, ...] = tuple(
            self._formula(n, formulas[n]) for n in self.names if n in formulas
        )
        if unknown := set(formulas) - set(self.names):
            raise TypeError(f"{name}: formulas for {sorted(unknown)}, which are no arguments")
        self.multi = False
        self.fresh = False  # whether the contents of the first argument do not matter
        self.number_edges = True
        self.guard: str | None = None
        self.returns: Callable[..., Any] | None = None
        self.view: Callable[..., Any] | None = None
        self.alike: Callable[..., Any] | None = None
        self.node_class: Callable[[Sequence[Any]], type]
        self.bound: Callable[[tuple[Any, ...]], Any]  # the op, called with a tuple of all its arguments
        self.plans: dict[tuple[bool, ...], Plan] = {}

    def _formula(self, argument: str, function: Callable[..., Any]) -> Formula:
        takes = tuple(inspect.signature(function).parameters)
        if unknown := [n for n in takes if n not in self.names and n not in RESERVED]:
            raise TypeError(
                f"{self.name}: the formula for {argument} takes {unknown}, which are no arguments"
            )
        return Formula(argument, self.names.index(argument), argument in self.lists, function, takes)

    def _tails(self) -> dict[int, tuple[Any, ...]]:
        """From how many arguments may be given by position to the defaults of the rest."""
        tails: dict[int, tuple[Any, ...]] = {}
        for given in range(self.positional + 1):
            rest = self.names[given:]
            if all(name in self.defaults for name in rest):
                tails[given] = tuple(self.defaults[name] for name in rest)
        return tails

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

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in order, defaults filled in; torch's errors."""
        tail = None if kwargs else self.tails.get(len(args))
        if tail is not None:
            return args + tail
        if self.runs:
            args = self._gather_run(args)
        if len(args) > self.positional:
            many = f"{self.positional} positional argument{'s' * (self.positional != 1)}"
            raise TypeError(f"{self.name}() takes {many} but {len(args)} were given")
        given = dict(zip(self.names, args, strict=False))
        for name, item in kwargs.items():
            name = (
                NUMPY_NAMES[name] if name not in self.names and NUMPY_NAMES.get(name) in self.names else name
            )
            if name in given:
                raise TypeError(f"{self.name}() got multiple values for argument '{name}'")
            if name not in self.names:
                raise TypeError(f"{self.name}() got an unexpected keyword argument '{name}'")
            given[name] = item
        missing = [n for n in self.names if n not in given and n not in self.defaults]
        if missing:
            names = ", ".join(f'"{n}"' for n in missing)
            raise TypeError(f"{self.name}() missing {len(missing)} required positional arguments: {names}")
        for i in self.runs:
            name = self.names[i]
            if name in given and given[name] is not None:
                given[name] = normal_ints(self.name, name, i, given[name])
        return tuple(given[n] if n in given else self.defaults[n] for n in self.names)

    def _gather_run(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        i = self.runs[0]
        if len(args) > i and not isinstance(args[i], (tuple, list)) and args[i] is not None:
            return (*args[:i], args[i:])
        return args

    def scalar(self, index: int, item: Any) -> Any:
        """An argument that must be a number, as a Python number: NumPy's and tensors of no dimensions count too."""
        if item is None and self.defaults.get(self.names[index], 0) is None:
            return None
        if isinstance(item, (bool, int, float)):
            return item
        if getattr(item, "shape", None) == () and hasattr(item, "item"):
            return item.item()
        name, kind = self.names[index], type(item).__name__
        raise TypeError(f"{self.name}(): argument '{name}' must be Number, not {kind}")

    def integer(self, index: int, item: Any) -> Any:
        """An argument that must be an integer, as Python's: what `operator.index` takes, but bools, counts too."""
        if item is None and self.defaults.get(self.names[index], 0) is None:
            return None
        try:
            if not isinstance(item, bool):
                return operator.index(item)
        except TypeError:
            pass
        name, kind = self.names[index], type(item).__name__
        raise TypeError(f"{self.name}(): argument '{name}' (position {index + 1}) must be int, not {kind}")

    def number_or_constant(self, index: int, item: Any, numbers: bool) -> Any:
        """An argument that is no Tensor, as the body takes it."""
        if isinstance(item, np.ndarray):
            return session.constant(np.array(item))
        if item is None and self.defaults.get(self.names[index], 0) is None:
            return None
        if numbers and isinstance(item, (bool, int, float)):
            return item
        if numbers and isinstance(item, np.generic) and item.dtype.kind in "biuf":
            return item.item()
        kind = type(item).__name__
        raise TypeError(
            f"{self.name}(): argument '{self.names[index]}' (position {index + 1}) must be Tensor, not {kind}"
        )


def _by_position(body: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The same function, all of whose `count` arguments are given by position, those by keyword too."""
    if not isinstance(body, types.FunctionType) or body.__code__.co_kwonlyargcount == 0:
        return body
    code = body.__code__.replace(co_argcount=count, co_kwonlyargcount=0)
    return types.FunctionType(code, body.__globals__, body.__name__, None, body.__closure__)
