"""The code of a nest: one function, which is given the numbers of rows and columns and where its arrays lie.

    for each block of rows:
        for each phase:
            for each row of the block:
                for each vector of columns: elements of that phase, and what they add to reductions
                fold the lanes of what was reduced along the row
            elements of rows that have become known, a vector of rows at a time

The last vector of a row ends where the row does, so it may begin before the one before has ended: elements are then
made twice, and reductions leave out those that they have. So no array that is written may overlap one that is read.

The arguments are an array of int64: rows, columns, columns of the last row, the address of scratch memory, then the
address and the bytes from row to row of each of `addresses`.
"""

from __future__ import annotations

from distgrad.compiler.builder import Lanes
from distgrad.compiler.columns import Columns
from distgrad.compiler.elements import Elements
from distgrad.compiler.nest import CHUNK, COLUMN, FULL, ONE, ROW, ROWS, Map, Nest, Reduction
from distgrad.compiler.totals import Totals
from distgrad.compiler.writer import FETCHED, LINE, NAME, Writer, checked, identity, nbytes, stored, wide

HEAD = 4  # arguments before the addresses
ADDED = CHUNK // ROWS  # blocks of rows whose sum over rows is made in one go
BLOCK = 128 // ROWS  # blocks of rows after which sums of columns go to the total
AHEAD = 1024  # columns: of longer rows, a block reads and writes more than should be in the cache twice


class Code:
    """Writes the function of one nest for vectors of `lanes`; rows are whole vectors unless they are `ragged`."""

    def __init__(self, nest: Nest, lanes: int, ragged: bool):
        self.nest, self.width = nest, lanes
        self.rows = ROWS if nest.by_rows else 1
        self.b = Writer(lanes, ragged)
        self.base: dict[int, str] = {}
        self.stride: dict[int, str] = {}
        self.buffers: dict[int, str] = {}  # of ROW values: a block's elements
        self.scratch = nest.kept
        self.columns = Columns(self)
        ones = [s for s in nest.steps if isinstance(s, Reduction) and self.space(s.out) == ONE]
        lanes_of = {s: self.rows if self._of_rows(s) else lanes for s in ones}
        self.totals = Totals(self.b, nest.values, lanes_of)

    # What is where.

    def type(self, value: int) -> str:
        """LLVM's type of a value's lanes."""
        return self.nest.values[value].type

    def space(self, value: int) -> str:
        """Where a value lies."""
        return self.nest.values[value].space

    def _of_rows(self, step: Reduction) -> bool:
        return all(self.space(i) == ROW for i in step.ins)

    # The function.

    def text(self) -> str:
        """All of it."""
        self.b.begin("entry")
        self._arguments()
        self._prepare()
        self._body()
        self.totals.finish(self.base)
        for step in self.columns.sums:
            self.columns.round(step.out)
        return self.b.function(NAME)

    def _body(self) -> None:
        """All rows."""
        if self.rows == 1:
            with self.b.loop("%rows", 1, []) as (row, _):
                last = self.b.name(f"icmp eq i64 {row}, %before_last")
                columns = self.b.name(f"select i1 {last}, i64 %last, i64 %columns")
                self._row(0, row, "0", columns)
        else:
            with self.b.loop("%rows", self.rows, []) as (first, _):
                left = self.b.name(f"sub i64 %rows, {first}")
                self._block(first, self.b.least(left, str(self.rows)))

    def _arguments(self) -> None:
        b = self.b
        for n, name in enumerate(("%rows", "%columns", "%last")):
            b.argument(n, "i64", name)
        b.argument(3, "ptr", "%scratch")
        b.line("%before_last = sub i64 %rows, 1")
        for n, value in enumerate(self.nest.addresses):
            self.base[value], self.stride[value] = f"%base{value}", f"%stride{value}"
            b.argument(HEAD + 2 * n, "ptr", self.base[value])
            b.argument(HEAD + 2 * n + 1, "i64", self.stride[value])
        if self.nest.phases > 1:
            b.line(f"%short = icmp slt i64 %columns, {AHEAD}")
            b.line(f"%ahead = select i1 %short, i64 {ROWS}, i64 0")

    def _prepare(self) -> None:
        """Memory for a block's rows, and for what is reduced."""
        for value, (space, _) in enumerate(self.nest.values):
            if space == ROW:
                kind = stored(self.type(value))
                self.buffers[value] = self.b.read(f"alloca [{self.rows} x {kind}], align 64")
        self.totals.begin()
        for step in self.nest.steps:
            if isinstance(step, Reduction) and self.space(step.out) == COLUMN:
                kind = self.type(step.out)
                self.columns.clear(step, self.columns.place(step.out, 0), kind)
                if step.how == "add":
                    self.columns.clear(step, self.columns.place(step.out, 1), wide(kind))

    # A block of rows.

    def _block(self, first: str, count: str) -> None:
        nest = self.nest
        for value in nest.inputs:
            if self.space(value) == ROW:
                self._copy_rows(value, first, count, inwards=True)
        if nest.taken:
            self._fetch(count)
        for phase in range(nest.phases + 1):
            self._row_maps(phase)
            if phase < nest.phases and self._down(phase):
                self._columns(phase, first, count)
            elif phase < nest.phases:
                with self.b.loop(count, 1, []) as (k, _):
                    self._row(phase, self.b.name(f"add i64 {first}, {k}"), k, "%columns")
        for value in nest.outputs:
            if self.space(value) == ROW:
                self._copy_rows(value, first, count, inwards=False)
        self._sum_rows(first, count)
        if self.columns.sums:
            with self.b.when(self._each(BLOCK, first, count)):
                self.columns.carry()

    def _copy_rows(self, value: int, first: str, count: str, inwards: bool) -> None:
        kind = stored(self.type(value))
        with self.b.loop(count, 1, []) as (k, _):
            row = self.b.name(f"add i64 {first}, {k}")
            outside = self.b.at(self.base[value], self.b.name(f"mul i64 {row}, {self.stride[value]}"))
            inside = self.b.element(self.buffers[value], k, kind)
            source, target = (outside, inside) if inwards else (inside, outside)
            element = self.b.read(f"load {kind}, ptr {source}")
            self.b.line(f"store {kind} {element}, ptr {target}")

    def _fetch(self, count: str) -> None:
        """Have the rows of tables fetched that a block reads: they lie anywhere."""
        with self.b.loop(count, 1, []) as (k, _):
            for value, row, _ in self.nest.taken:
                there = self.b.read(f"load i64, ptr {self.b.element(self.buffers[row], k, 'i64')}")
                begin = self.b.at(self.base[value], self.b.name(f"mul i64 {there}, {self.stride[value]}"))
                for line in range(0, min(FETCHED, self.width * nbytes(self.type(value))), LINE):
                    self.b.fetch(self.b.at(begin, str(line)))

    def _row_maps(self, phase: int) -> None:
        """The maps of rows that have become known before `phase`, a vector of rows at once."""
        nest = self.nest
        with self.b.vectors_of(self.rows):
            known: dict[int, Lanes] = {}

            def get(i: int) -> Lanes:
                if i not in known:
                    one = self.space(i) == ONE
                    known[i] = (
                        self.b.repeated(self.base[i], self.type(i))
                        if one
                        else self.b.load(self.buffers[i], self.type(i))
                    )
                return known[i]

            for step in nest.steps:
                if isinstance(step, Map) and self.space(step.out) == ROW and nest.phase[step.out] == phase:
                    made = step.lower(self.b, *[get(i) for i in step.ins])
                    known[step.out] = checked(made, self.type(step.out))
                    self.b.store(known[step.out], self.buffers[step.out])

    def _sum_rows(self, first: str, count: str) -> None:
        """Reductions of rows to one."""
        steps = [s for s in self.nest.steps if isinstance(s, Reduction) and self._of_rows(s)]
        if not steps:
            return
        with self.b.vectors_of(self.rows):
            there = self.b.compare("slt", self.b.numbers(), self.b.all_lanes(count))
            for step in steps:
                operands = [self.b.load(self.buffers[i], self.type(i)) for i in step.ins]
                self.totals.put(step, self.b.merged(step.how, self.totals.get(step), operands, there))
        with self.b.when(self._each(ADDED, first, count)):
            for step in steps:
                self.totals.carry(step)

    def _each(self, blocks: int, first: str, count: str) -> str:
        """Whether this block of rows is the last of so many, or of all."""
        done = self.b.name(f"add i64 {first}, {count}")
        block = self.b.name(f"sdiv i64 {first}, {self.rows}")
        turn = self.b.name(f"srem i64 {block}, {blocks}")
        full = self.b.name(f"icmp eq i64 {turn}, {blocks - 1}")
        end = self.b.name(f"icmp eq i64 {done}, %rows")
        return self.b.name(f"or i1 {full}, {end}")

    def _fetch_next(self, elements: Elements, phase: int) -> None:
        """Have what the next block reads and writes here fetched, while there is something else to do."""
        if phase != 1:
            return
        taken = {t.value for t in self.nest.taken}
        for value in self.nest.addresses:
            if self.space(value) == FULL and value not in taken:
                offset = self.b.name(f"mul i64 {self.stride[value]}, %ahead")
                there = self.b.at(elements.address(value), offset)
                for line in range(0, self.b.lanes * nbytes(self.type(value)), LINE):
                    self.b.fetch(self.b.at(there, str(line)), value in self.nest.outputs)

    def _reductions(self, phase: int) -> list[Reduction]:
        """Those that elements of a phase go into."""
        return [
            s
            for s in self.nest.steps
            if isinstance(s, Reduction)
            and any(self.space(i) == FULL for i in s.ins)
            and max(self.nest.phase[i] for i in s.ins) == phase
        ]

    def _down(self, phase: int) -> bool:
        """Whether a phase only adds to columns: then sums stay in registers while a vector goes down the rows."""
        reductions = self._reductions(phase)
        return bool(reductions) and all(self.space(s.out) == COLUMN for s in reductions)

    def _columns(self, phase: int, first: str, count: str) -> None:
        """One phase of a block: for each vector of columns all rows."""
        reductions, b = self._reductions(phase), self.b
        with self.b.along("%columns", []) as (start, new, _):
            kinds = [self.type(s.out) for s in reductions]
            places = [
                self.b.element(self.columns.place(s.out, 0), start, kind)
                for s, kind in zip(reductions, kinds, strict=True)
            ]
            begin = [self.b.load(at, kind) for at, kind in zip(places, kinds, strict=True)]
            mask = [] if new is None else [(b.vector("i1"), new.name)]
            carried = [(b.vector(x.type), x.name) for x in begin] + mask
            with self.b.loop(count, 1, carried) as (k, names):
                elements = Elements(self, phase, self.b.name(f"add i64 {first}, {k}"), k)
                elements.begin(start)
                for n, step in enumerate(reductions):
                    part = Lanes(names[n], kinds[n])
                    there = None if new is None else Lanes(names[-1], "i1")
                    names[n] = self.b.merged(step.how, part, [elements.get(i) for i in step.ins], there).name
                elements.store()
            for at, kind, name in zip(places, kinds, names, strict=False):
                self.b.store(Lanes(name, kind), at)

    # One row.

    def _row(self, phase: int, row: str, k: str, columns: str) -> None:
        """The elements of one row in one phase. `k`: its number in the block."""
        reductions = self._reductions(phase)
        held = [s for s in reductions if self.space(s.out) != COLUMN]
        b = self.b
        begin = [
            (b.vector(kind := self.type(s.out)), b.constant(kind, identity(s.how, kind)).name) for s in held
        ]
        elements = Elements(self, phase, row, k)
        with self.b.along(columns, begin) as (start, new, names):
            elements.begin(start)
            self._fetch_next(elements, phase)
            for n, step in enumerate(held):
                part = Lanes(names[n], self.type(step.out))
                names[n] = self.b.merged(step.how, part, [elements.get(i) for i in step.ins], new).name
            for step in reductions:
                if step not in held:
                    self.columns.add(step, start, [elements.get(i) for i in step.ins], new)
            elements.store()
        for step, name in zip(held, names, strict=True):
            part = Lanes(name, self.type(step.out))
            if self.space(step.out) == ROW:
                kind = stored(part.type)
                at = self.b.element(self.buffers[step.out], k, kind)
                folded = self.b.fold(part, step.how)
                with self.b.vectors_of(1):
                    self.b.store(folded, at)
            else:
                self.totals.put(step, part)
                self.totals.carry(step)
