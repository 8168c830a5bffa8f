"""What is reduced over the rows of a nest, to columns."""

from __future__ import annotations

from distgrad.compiler.builder import Lanes
from distgrad.compiler.elements import Code
from distgrad.compiler.nest import COLUMN, Reduction
from distgrad.compiler.writer import identity, wide


class Columns:
    """Sums have two places: one for some blocks of rows, and one for the total of these."""

    def __init__(self, code: Code):
        self.code, self.b = code, code.b

    def place(self, value: int, part: int) -> str:
        """Memory for what is reduced to columns: 0 for some blocks of rows, 1 for the total of such sums.

        It is scratch memory behind the elements that are kept, but for what is no sum, which has no total.
        """
        steps = [
            s for s in self.code.nest.steps if isinstance(s, Reduction) and self.code.space(s.out) == COLUMN
        ]
        if next(s for s in steps if s.out == value).how != "add":
            return self.code.base[value]
        row = len(self.code.scratch) * self.code.rows + 2 * [s.out for s in steps].index(value) + part
        return self.b.at("%scratch", self.b.name(f"mul i64 %columns, {8 * row}"))

    def clear(self, step: Reduction, base: str, kind: str) -> None:
        """Begin anew."""
        with self.b.along("%columns", []) as (start, _, _):
            address = self.b.element(base, start, kind)
            self.b.store(self.b.constant(kind, identity(step.how, kind)), address)

    @property
    def sums(self) -> list[Reduction]:
        """The sums among them."""
        steps = [s for s in self.code.nest.steps if isinstance(s, Reduction) and s.how == "add"]
        return [s for s in steps if self.code.space(s.out) == COLUMN]

    def carry(self) -> None:
        """Sums go to the total, and begin anew: so they are nearly as exact as pairwise ones."""
        b = self.b
        for step in self.sums:
            kind, part = self.code.type(step.out), self.place(step.out, 0)
            with b.along("%columns", []) as (start, new, _):
                to = b.element(self.place(step.out, 1), start, wide(kind))
                total = b.load(to, wide(kind))
                made = b.add(total, b.convert(b.load(b.element(part, start, kind), kind), wide(kind)))
                b.store(made if new is None else b.select(new, made, total), to)
            self.clear(step, part, kind)

    def add(self, step: Reduction, start: str, operands: list[Lanes], new: Lanes | None) -> None:
        """Put a vector of a row to what begins at column `start`."""
        kind = self.code.type(step.out)
        at = self.b.element(self.place(step.out, 0), start, kind)
        self.b.store(self.b.merged(step.how, self.b.load(at, kind), operands, new), at)

    def round(self, value: int) -> None:
        """The total of a sum becomes the result."""
        b, kind = self.b, self.code.type(value)
        with b.along("%columns", []) as (start, _, _):
            total = b.load(b.element(self.place(value, 1), start, wide(kind)), wide(kind))
            b.store(b.convert(total, kind), b.element(self.code.base[value], start, kind))
