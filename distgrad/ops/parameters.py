"""The parameters of an op, as the annotations of its body tell them, and how what a caller gives becomes arguments."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any, get_args

import numpy as np

from distgrad import session
from distgrad.graph import Value
from distgrad.ops.helpers import Ints, Operand, normal_ints

NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim", "x": "input", "x2": "other"}
TENSORS, OPERANDS = (Value, Value | None), (Operand, Operand | None)
NUMBERS, INTEGERS = (float, float | None), (int, int | None)


class Parameters:
    """What an op takes. Tensors and lists of them stand under their names, all else under its place."""

    def __init__(self, name: str, body: Callable[..., Any], differentiable: Collection[str]):
        signature = inspect.signature(body, eval_str=True)
        types = {n: p.annotation for n, p in signature.parameters.items()}
        self.name = name  # torch's, for errors
        self.names = tuple(types)
        self.positional = sum(p.kind is not p.KEYWORD_ONLY for p in signature.parameters.values())
        self.defaults = {n: p.default for n, p in signature.parameters.items() if p.default is not p.empty}
        self.lists = tuple(n for n, kind in types.items() if kind == Sequence[Value])
        self.tensors = tuple(
            n
            for n, kind in types.items()
            if kind in TENSORS or kind in OPERANDS or (n in differentiable and n not in self.lists)
        )
        for n, kind in types.items():
            if _mentions_tensors(kind) and n not in self.tensors and n not in self.lists:
                raise TypeError(f"{name}: no parameter can be {kind}, as {n} is")
        places = list(enumerate(types.items()))
        self.slots = tuple((i, kind not in TENSORS) for i, (n, kind) in places if n in self.tensors)
        self.list_slots = tuple(i for i, (n, _) in places if n in self.lists)
        self.scalars = tuple(i for i, (n, kind) in places if kind in NUMBERS and n not in self.tensors)
        self.integers = tuple(i for i, (_, kind) in places if kind in INTEGERS)
        self.only_slots = not (self.list_slots or self.scalars or self.integers)
        self.runs = tuple(i for i, (_, kind) in places if kind is Ints)
        self.tails = {} if self.runs else self._tails()
        # From how an op was called (how many by position, which keywords) to the key of each of the rest, None
        # for one that was not given, and its default.
        self._forms: dict[tuple[Any, ...], tuple[tuple[str | None, Any], ...]] = {}

    def _tails(self) -> dict[int, tuple[Any, ...]]:
        """From how many arguments may be given by position to the defaults of the rest."""
        tails: dict[int, tuple[Any, ...]] = {}
        for given in range(self.positional + 1):
            rest = self.names[given:]
            if all(name in self.defaults for name in rest):
                tails[given] = tuple(self.defaults[name] for name in rest)
        return tails

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in order, defaults filled in; torch's errors."""
        form = (len(args), *kwargs)
        rest = self._forms.get(form)
        if rest is not None:
            return args + tuple([default if key is None else kwargs[key] for key, default in rest])
        if self.runs:
            args = self._gather_run(args)
        if len(args) > self.positional:
            many = f"{self.positional} positional argument{'s' * (self.positional != 1)}"
            raise TypeError(f"{self.name}() takes {many} but {len(args)} were given")
        given, keys = dict(zip(self.names, args, strict=False)), {}
        for key, item in kwargs.items():
            name = NUMPY_NAMES[key] if key not in self.names and NUMPY_NAMES.get(key) in self.names else key
            if name in given:
                raise TypeError(f"{self.name}() got multiple values for argument '{name}'")
            if name not in self.names:
                raise TypeError(f"{self.name}() got an unexpected keyword argument '{name}'")
            given[name], keys[name] = item, key
        missing = [n for n in self.names if n not in given and n not in self.defaults]
        if missing:
            names = ", ".join(f'"{n}"' for n in missing)
            raise TypeError(f"{self.name}() missing {len(missing)} required positional arguments: {names}")
        if not self.runs:
            rest = tuple([(keys.get(n), self.defaults.get(n)) for n in self.names[len(args) :]])
            self._forms[form] = rest
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
        """An argument that must be a number, as Python's: NumPy's and 0-d tensors without `requires_grad` too."""
        if item is None and self.defaults.get(self.names[index], 0) is None:
            return None
        if isinstance(item, (bool, int, float)):
            return item
        where = ""
        if getattr(item, "shape", None) == () and hasattr(item, "item"):
            if not getattr(item, "requires_grad", False):
                return item.item()
            where = (
                f" (position {index + 1})" if index < self.positional else ""
            )  # its gradient would be lost
        name, kind = self.names[index], type(item).__name__
        raise TypeError(f"{self.name.lstrip('_')}(): argument '{name}'{where} must be Number, not {kind}")

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


def _mentions_tensors(kind: Any) -> bool:
    return kind is Value or any(_mentions_tensors(part) for part in get_args(kind))
