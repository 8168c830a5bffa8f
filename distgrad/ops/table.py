"""The table of all ops: tests and documentation walk it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Op:
    """One op's declaration, as `op` or `composite` made it.

    Attributes:
        name: torch's name.
        function: what users call.
        body: for an op, the function on Values; for a composite, the function on Tensors.
        parameters: names of the arguments in order; `defaults` holds those that have one.
        positional: how many may be given by position.
        tensors: names of the arguments that are tensors; `lists` those that are lists of tensors.
        formulas: the gradient for each differentiable tensor argument.
        views: whether the result is a view of the first argument.
        method: names under which `Tensor` has it; `inplace`: whether there is a method with `_` behind the name.
        samples: gives example calls, each a tuple of positional arguments, perhaps with a dict of keywords last.
    """

    name: str
    function: Callable[..., Any]
    body: Callable[..., Any]
    parameters: tuple[str, ...]
    defaults: dict[str, Any]
    positional: int
    tensors: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    formulas: dict[str, Callable[..., Any]] = field(default_factory=dict)
    views: bool = False
    method: tuple[str, ...] = ()
    inplace: bool = False
    samples: Callable[[], Any] | None = None

    @property
    def composite(self) -> bool:
        """Whether it is made of other ops, so that its gradient is theirs."""
        return not self.tensors and not self.lists

    def examples(self) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The sample calls as (arguments, keywords), made anew; empty where none are declared."""
        calls = []
        for sample in self.samples() if self.samples else ():
            sample = sample if isinstance(sample, tuple) else (sample,)
            keywords = sample[-1] if sample and isinstance(sample[-1], dict) else {}
            calls.append((sample[:-1] if keywords else sample, dict(keywords)))
        return calls


OPS: dict[str, Op] = {}


def register(op: Op) -> None:
    """Enter an op; a name stands once."""
    if op.name in OPS:
        raise ValueError(f"op {op.name!r} is declared twice")
    OPS[op.name] = op


UNLISTED: dict[str, Callable[..., Any]] = {}  # functions of ops that are no part of the table


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call an op by name: for formulas that need ops of files that import theirs."""
    function = UNLISTED[name] if name in UNLISTED else OPS[name].function
    return function(*args, **kwargs)
