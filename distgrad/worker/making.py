"""What a loop runs as one call, and how one that is compiled is put together from steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.nest import Map, Nest, Reduction, Space, Value
from distgrad.compiler.stencil import Shift, Stencil
from distgrad.program import Slot, Step

Dims = tuple[int | None, ...]
Source = tuple[int, Space]  # a register, and how it is read
M = TypeVar("M", bound=Map | Shift | Reduction)


class Spot(NamedTuple):
    """What has bounds in a stencil: operand `which` of step `step`, or its result (-1).

    `dims` tell for each dimension of the box which one of the operand that is; None: one element stands for all.
    """

    step: int
    which: int
    dims: Dims


class Unit(NamedTuple):
    """Steps that run as one call. `nest`, if they are compiled: its inputs are registers, its outputs slots."""

    steps: tuple[int, ...]
    nest: Nest | Stencil | None = None
    inputs: tuple[Source, ...] = ()
    outputs: tuple[int, ...] = ()
    rows: int = 0  # how many of the dimensions are rows
    # A step, and which of its operands (-1: its result) has all of the frame's shape.
    witness: tuple[int, int] = (0, -1)
    whole: bool = True  # False: the witness has but the rows, as no value has more
    spots: tuple[Spot, ...] = ()  # of a stencil: inputs, outputs, what has zeros around, what is added up


class Making(ABC, Generic[M]):
    """A unit that grows step by step, with its values and what is done to them."""

    def __init__(self, steps: Sequence[Step], slots: Sequence[Slot], operands: Sequence[tuple[int, ...]]):
        self.steps, self.slots, self.operands = steps, slots, operands
        self.members: list[int] = []
        self.values: list[Value] = []
        self.number: dict[int, int] = {}  # of each slot that is made here
        self.inputs: list[Source] = []
        self.arrays: list[int] = []  # the inputs, as values
        self.made: list[M | Map] = []

    @abstractmethod
    def add(self, n: int) -> None:
        """One step more."""

    @abstractmethod
    def done(self, needed: set[int]) -> Unit:
        """All of it. `needed` are the slots that somebody else reads."""

    def _new(self, space: Space, dtype: np.dtype) -> int:
        self.values.append(Value(space, dtype))
        return len(self.values) - 1

    def _read(self, register: int, how: Space, space: Space, dtype: np.dtype) -> int:
        """An array that is read: how a tile lies in it, and where the value lies."""
        self.inputs.append((register, how))
        self.arrays.append(self._new(space, dtype))
        return self.arrays[-1]

    def _with_dtype(self, ins: Sequence[int], dtype: np.dtype) -> tuple[int, ...]:
        """Operands of a reduction, which are added in the dtype of its result."""
        found = []
        for i in ins:
            if self.values[i].dtype != dtype:
                made = self._new(self.values[i].space, dtype)
                self.made.append(Map(made, (i,), partial(cast, dtype=dtype.name), True))
                i = made
            found.append(i)
        return tuple(found)


def cast(b: Builder, x: Lanes, dtype: str) -> Lanes:
    """Lowers a change of dtype."""
    return b.cast(x, dtype)
