"""The code of a nest whose rows have few columns: a vector has an element of each of so many rows.

    for each chunk of rows:
        for each vector of rows:
            each step, column by column
        what was added goes to its total

So a reduction along a row is a few vectors that are merged, in order, and no lane is empty. Arrays have no gaps: a
vector of each column is taken out of the rows, and put back among the others. The last vector ends where the rows do,
as in `emit`; so are the arguments, of which neither columns nor strides are read.
"""

from __future__ import annotations

from distgrad.compiler.builder import Lanes
from distgrad.compiler.emit import HEAD
from distgrad.compiler.nest import CHUNK, COLUMN, FULL, ONE, ROW, Map, Nest, Reduction, Value, Way
from distgrad.compiler.totals import Totals
from distgrad.compiler.writer import NAME, Writer, checked, identity, nbytes, stored


class ShortCode:
    """Writes the function of one nest."""

    def __init__(self, nest: Nest, way: Way):
        lanes, columns = way.lanes, way.short
        self.nest, self.columns = nest, columns
        self.b = Writer(lanes, way.ragged)
        self.base = {value: f"%base{value}" for value in nest.addresses}
        self.outer: dict[int, list[Lanes]] = {}  # what is the same for all rows, by column
        # What is added up over the rows; of each column for itself, as a value of its own.
        values = list(nest.values)
        self.sums: dict[Reduction, list[Reduction]] = {}
        for step in nest.steps:
            if isinstance(step, Reduction) and self.space(step.out) == ONE:
                self.sums[step] = [step]
            elif isinstance(step, Reduction) and self.space(step.out) == COLUMN:
                own = range(len(values), len(values) + columns)
                values += [Value(ONE, nest.values[step.out].dtype)] * columns
                self.sums[step] = [Reduction(n, step.ins, step.how) for n in own]
        self.parts = [part for own in self.sums.values() for part in own]
        self.totals = Totals(self.b, tuple(values), dict.fromkeys(self.parts, lanes))

    def space(self, value: int) -> str:
        """Where a value lies."""
        return self.nest.values[value].space

    def type(self, value: int) -> str:
        """LLVM's type of a value's lanes."""
        return self.nest.values[value].type

    def text(self) -> str:
        """All of it."""
        b = self.b
        b.begin("entry")
        b.argument(0, "i64", "%rows")
        for n, value in enumerate(self.nest.addresses):
            b.argument(HEAD + 2 * n, "ptr", self.base[value])
        self._outer()
        self.totals.begin()
        with b.loop("%rows", CHUNK if self.parts else "%rows", []) as (first, _):
            count = b.name(f"sub i64 %rows, {first}")
            self._chunk(first, b.least(count, str(CHUNK)) if self.parts else count)
        for step, own in self.sums.items():
            kind = stored(self.type(step.out))
            for c, part in enumerate(own):
                self.base[part.out] = b.element(self.base[step.out], str(c), kind)
        self.totals.finish(self.base)
        return b.function(NAME)

    def _outer(self) -> None:
        for value in self.nest.inputs:
            if self.space(value) in (ONE, COLUMN):
                count = self.columns if self.space(value) == COLUMN else 1
                kind = self.type(value)
                places = [self.b.element(self.base[value], str(c), kind) for c in range(count)]
                self.outer[value] = [self.b.repeated(at, kind) for at in places]
        if self.nest.counter is not None:
            numbers = [self.b.constant("i32", c) for c in range(self.columns)]
            self.outer[self.nest.counter] = numbers

    def _chunk(self, first: str, count: str) -> None:
        """Rows that are added up before their sum goes to the total."""
        b = self.b
        kinds = [self.totals.values[part.out].type for part in self.parts]
        begin = [
            (b.vector(kind), b.constant(kind, identity(part.how, kind)).name)
            for part, kind in zip(self.parts, kinds, strict=True)
        ]
        with b.along(count, begin) as (start, new, names):
            added = {p: Lanes(n, kind) for p, n, kind in zip(self.parts, names, kinds, strict=True)}
            self._rows(b.name(f"add i64 {first}, {start}"), added, new)
            names[:] = [added[part].name for part in self.parts]
        for part, name, kind in zip(self.parts, names, kinds, strict=True):
            self.totals.put(part, Lanes(name, kind))
            self.totals.carry(part)

    def _rows(self, row: str, added: dict[Reduction, Lanes], new: Lanes | None) -> None:
        """The vector of rows that begins at `row`."""
        known = dict(self.outer)
        for value in self.nest.inputs:
            if value not in known:
                known[value] = self._load(value, row)

        def get(value: int, column: int) -> Lanes:
            found = known[value]
            return found[column] if len(found) > 1 else found[0]

        for step in self.nest.steps:
            full = FULL in [self.space(i) for i in (step.out, *step.ins)]
            operands = [[get(i, c) for i in step.ins] for c in range(self.columns if full else 1)]
            kind = self.type(step.out)
            if isinstance(step, Map):
                known[step.out] = [checked(step.lower(self.b, *column), kind) for column in operands]
            elif step in self.sums:
                own = self.sums[step]
                for c, column in enumerate(operands):
                    part = own[c if len(own) > 1 else 0]
                    added[part] = self.b.merged(step.how, added[part], column, new)
            else:
                folded = self.b.constant(kind, identity(step.how, kind))
                for column in operands:
                    folded = self.b.merged(step.how, folded, column, None)
                known[step.out] = [folded]
        for value in self.nest.outputs:
            if self.space(value) in (FULL, ROW):
                self._store(value, row, known[value])

    def _address(self, value: int, row: str) -> str:
        each = self.columns if self.space(value) == FULL else 1
        return self.b.element(self.base[value], self.b.name(f"mul i64 {row}, {each}"), self.type(value))

    def _load(self, value: int, row: str) -> list[Lanes]:
        """The columns of an input, each as a vector."""
        b, lanes, kind = self.b, self.b.lanes, stored(self.type(value))
        count = self.columns if self.space(value) == FULL else 1
        whole = f"<{count * lanes} x {kind}>"
        row_major = b.read(f"load {whole}, ptr {self._address(value, row)}, align {nbytes(kind)}")
        found = []
        for c in range(count):
            places = ", ".join(f"i32 {c + count * n}" for n in range(lanes))
            name = b.name(f"shufflevector {whole} {row_major}, {whole} poison, <{lanes} x i32> <{places}>")
            found.append(Lanes(name, kind))
        return [b.truth(x) for x in found] if self.type(value) == "i1" else found

    def _store(self, value: int, row: str, columns: list[Lanes]) -> None:
        """A vector of each column of an output, among the others."""
        b, lanes, kind = self.b, self.b.lanes, stored(self.type(value))
        parts, count = [b.in_memory(x) for x in columns], len(columns)
        made = parts[0]
        for n, part in enumerate(parts[1:], 1):  # all of them one after the other
            wide = f"<{n * lanes} x {kind}>"
            places = ", ".join([f"i32 {i}" if i < lanes else "i32 poison" for i in range(n * lanes)])
            longer = b.name(
                f"shufflevector {b.vector(kind)} {part}, {b.vector(kind)} poison, <{n * lanes} x i32> <{places}>"
            )
            places = ", ".join(f"i32 {i}" for i in range((n + 1) * lanes))
            made = b.name(
                f"shufflevector {wide} {made}, {wide} {longer}, <{(n + 1) * lanes} x i32> <{places}>"
            )
        whole = f"<{count * lanes} x {kind}>"
        if count > 1:
            places = ", ".join(f"i32 {c * lanes + r}" for r in range(lanes) for c in range(count))
            made = b.name(f"shufflevector {whole} {made}, {whole} poison, <{count * lanes} x i32> <{places}>")
        b.line(f"store {whole} {made}, ptr {self._address(value, row)}, align {nbytes(kind)}")
