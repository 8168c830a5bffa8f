"""The elements of a nest at one vector of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from distgrad.compiler.builder import Lanes
from distgrad.compiler.nest import COLUMN, FULL, ONE, ROW, Map, Nest
from distgrad.compiler.writer import Writer, checked

K = TypeVar("K")


def made_in_turn(
    wanted: K, known: dict[K, Lanes], operands: Callable[[K], Sequence[K]], make: Callable[[K], Lanes]
) -> Lanes:
    """What is wanted, once its operands are known, and theirs: without recursion, as chains may be long."""
    left = [wanted]
    while left:
        at = left[-1]
        missing = [] if at in known else [i for i in operands(at) if i not in known]
        if missing:
            left += reversed(missing)
            continue
        left.pop()
        if at not in known:
            known[at] = make(at)
    return known[wanted]


class Code(Protocol):
    """The function that is written, as far as its elements need it."""

    nest: Nest
    b: Writer
    rows: int
    base: dict[int, str]
    stride: dict[int, str]
    buffers: dict[int, str]
    scratch: dict[int, int]

    def type(self, value: int) -> str:
        """LLVM's type of a value's lanes."""

    def space(self, value: int) -> str:
        """Where a value lies."""


class Elements:
    """The FULL values at one vector of a row, made as they are asked for."""

    def __init__(self, code: Code, phase: int, row: str, k: str):
        self.code, self.nest, self.phase, self.k = code, code.nest, phase, k
        self.known: dict[int, Lanes] = {}
        self.rows: dict[int, str] = {}  # where the row of an array begins
        taken = {t.value: t.row for t in self.nest.taken}
        for value in self.nest.addresses:
            if code.space(value) == FULL:
                there = row
                if value in taken:
                    there = code.b.read(
                        f"load i64, ptr {code.b.element(code.buffers[taken[value]], k, 'i64')}"
                    )
                offset = code.b.name(f"mul i64 {there}, {code.stride[value]}")
                self.rows[value] = code.b.at(code.base[value], offset)
        for value, number in code.scratch.items():
            place = code.b.name(f"add i64 {k}, {number * code.rows}")
            offset = code.b.name(f"mul i64 {place}, %columns")
            self.rows[value] = code.b.at("%scratch", code.b.name(f"mul i64 {offset}, 8"))
        self.outer: dict[int, Lanes] = {}
        wanted = {i for s in self.nest.steps for i in s.ins}
        for value in sorted(wanted):
            space, kind = code.space(value), code.type(value)
            if space == ONE:
                self.outer[value] = code.b.repeated(code.base[value], kind)
            elif space == ROW and self.nest.phase[value] <= phase:
                at = code.b.element(code.buffers[value], k, kind)
                self.outer[value] = code.b.repeated(at, kind)

    def begin(self, start: str) -> None:
        """The vector that begins at column `start`."""
        self.start, self.known = start, dict(self.outer)

    def address(self, value: int) -> str:
        """Where this vector of an array lies."""
        code = self.code
        base = code.base[value] if code.space(value) == COLUMN else self.rows[value]
        return code.b.element(base, self.start, code.type(value))

    def get(self, value: int) -> Lanes:
        """The elements of a value."""
        return made_in_turn(value, self.known, self._operands, self._make)

    def _maker(self, value: int) -> Map | None:
        """The step that makes a value here; None of what is read, or counted."""
        before = self.nest.phase[value] < self.phase and value in self.rows
        made = None if before or value == self.nest.counter else self.nest.maker.get(value)
        assert made is None or isinstance(made, Map), made
        return made

    def _operands(self, value: int) -> Sequence[int]:
        made = self._maker(value)
        return () if made is None else made.ins

    def _load(self, value: int) -> Lanes:
        b = self.code.b
        if value == self.nest.counter:
            return b.add(b.numbers(), b.all_lanes(self.start))
        return b.load(self.address(value), self.code.type(value))

    def _make(self, value: int) -> Lanes:
        made = self._maker(value)
        if made is None:
            return self._load(value)
        operands = [self.known[i] for i in made.ins]
        return checked(made.lower(self.code.b, *operands), self.code.type(value))

    def store(self) -> None:
        """Store what is made in this phase and needed after it."""
        code = self.code
        for value in (*self.nest.outputs, *code.scratch):
            if code.space(value) == FULL and self.nest.phase[value] == self.phase:
                code.b.store(self.get(value), self.address(value))
