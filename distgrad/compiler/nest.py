"""What is compiled: steps over rows and columns, as data.

A value lies in one of four spaces: all rows and columns (`FULL`), one element a row (`ROW`), one a column (`COLUMN`),
one in all (`ONE`). A reduction leads from one space to a smaller one. Rows that are reduced and then read again by
their elements make phases: what needs the first row of sums waits until all columns of the row were gone through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from distgrad.compiler.builder import TYPES

Space = Literal["full", "row", "column", "one", "table"]
FULL: Space = "full"
ROW: Space = "row"
COLUMN: Space = "column"
ONE: Space = "one"
TABLE: Space = "table"  # how a FULL value is read whose rows are rows of a table
MOST_LANES = 32  # of a vector, in every loop: so sums have one order, whatever else a loop does
CHUNK = 1024  # elements that are added in the precision of their dtype; sums of chunks are added in float64
LONGEST = 4096  # columns of a row that is reduced
SHORT = 10  # columns of rows that are so short that a vector has elements of `SIDE_BY_SIDE` rows
SIDE_BY_SIDE = 8
ROWS = 32  # rows that go through the phases together

Lower = Callable[..., Any]  # (builder, *operands) -> result


class Value(NamedTuple):
    """One value of a nest."""

    space: Space
    dtype: np.dtype

    @property
    def type(self) -> str:
        """LLVM's type of a lane."""
        return TYPES[self.dtype.name]


class Map(NamedTuple):
    """Element by element; operands of smaller spaces are repeated."""

    out: int
    ins: tuple[int, ...]
    lower: Lower
    light: bool = False  # one cheap instruction


class Reduction(NamedTuple):
    """Over the dimensions that `out` lacks: of one operand, or a sum of the products of two."""

    out: int
    ins: tuple[int, ...]
    how: str  # add, multiply, maximum, minimum, or, and


class Taken(NamedTuple):
    """A FULL input whose rows lie in a table of so many rows: in which of these, the ROW input `row` tells."""

    value: int
    row: int
    rows: int


@dataclass(frozen=True)
class Nest:
    """Steps in an order in which they can run; values are numbered by their place in `values`."""

    values: tuple[Value, ...]
    inputs: tuple[int, ...]
    steps: tuple[Map | Reduction, ...]
    outputs: tuple[int, ...]
    taken: tuple[Taken, ...] = ()
    counter: int | None = None  # a COLUMN value that is not in memory: the number of each column

    @cached_property
    def phase(self) -> dict[int, int]:
        """When each value is there: for FULL ones the phase that makes it, for ROW ones the first that can read it."""
        found = dict.fromkeys(self.inputs, 0)
        if self.counter is not None:
            found[self.counter] = 0
        for step in self.steps:
            later = isinstance(step, Reduction) and self.values[step.out].space == ROW
            found[step.out] = max((found[i] for i in step.ins), default=0) + later
        return found

    @property
    def phases(self) -> int:
        """How often the columns of a row are gone through."""
        full = [self.phase[s.out] for s in self.steps if self.values[s.out].space == FULL]
        reduced = [
            max(self.phase[i] for i in s.ins)
            for s in self.steps
            if isinstance(s, Reduction) and any(self.values[i].space == FULL for i in s.ins)
        ]
        return max([*full, *reduced], default=-1) + 1

    @cached_property
    def maker(self) -> dict[int, Map | Reduction]:
        """The step that makes each value."""
        return {step.out: step for step in self.steps}

    @cached_property
    def kept(self) -> dict[int, int]:
        """The FULL values that a later phase reads from scratch memory, each with its number there."""
        found: dict[int, int] = {}
        for step in self.steps:
            here = max([self.phase[j] for j in step.ins], default=0)
            for i in step.ins:
                made = self.maker.get(i)
                later = self.values[i].space == FULL and made is not None and self.phase[i] < here
                if later and i not in self.outputs and not self._light(i):
                    found.setdefault(i, len(found))
        return found

    def _light(self, value: int) -> bool:
        """Whether it is quicker to make an element again than to load it: one step of what is loaded anyway."""
        made = self.maker[value]
        few = all(self.values[i].space != FULL or i in self.inputs for i in made.ins)
        return isinstance(made, Map) and few and made.light

    @cached_property
    def codes(self) -> dict[Way, Any]:
        """The machine code that there is for it: see `machine.machine_code`."""
        return {}

    @property
    def addresses(self) -> Sequence[int]:
        """The values whose memory the code is told, in the order of its arguments."""
        return (*self.inputs, *self.outputs)

    @property
    def by_rows(self) -> bool:
        """Whether there is something for each row; else all is one long row, in chunks."""
        return any(v.space in (ROW, COLUMN) for v in self.values)


class Way(NamedTuple):
    """How a nest goes through so many rows and columns, of which the last row may have fewer: with which vectors."""

    lanes: int
    ragged: bool  # the last vector is not whole
    short: int = 0  # the number of columns, if a vector has elements of several rows: see `emit_short`


def way(nest: Nest, rows: int, columns: int, last: int) -> Way:
    """The one that this nest goes."""
    if nest.by_rows and columns <= SHORT and not nest.taken:
        width = min(SIDE_BY_SIDE, lanes(rows))
        return Way(width, True, columns)  # one code for all tiles: to ask costs next to nothing here
    width = lanes(columns)
    return Way(width, columns % width > 0 or last != columns)


def lanes(columns: int) -> int:
    """How many lanes a loop over so many columns has: as many as there are elements, up to `MOST_LANES`."""
    return min(MOST_LANES, 1 << (max(1, columns).bit_length() - 1))


def scratch_bytes(nest: Nest, columns: int) -> int:
    """The memory that a nest needs for elements between phases, and for sums of columns and their totals."""
    summed = sum(nest.values[s.out].space == COLUMN for s in nest.steps)
    return 8 * columns * (len(nest.kept) * ROWS + 2 * summed) if nest.by_rows else 0
