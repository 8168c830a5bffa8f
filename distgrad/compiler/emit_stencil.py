"""The code of a stencil: one function, which is given the box that is gone through, and where its arrays lie and end.

    for each row of the box:
        for each chunk of a row:
            for each vector of columns:
                where all that is read lies inside: elements, without a question
                else: elements, each read and written only where its array has one
            what was added goes to its total

The arguments are an array of int64: the rows; of each dimension how long the box is, which begins at 0, and the bounds
between which nothing needs to be asked; of each array the address of the element with coordinates 0 (which it need not
have) and the bytes from one to the next along each dimension; then the bounds of each place, as in `Stencil.reach`.
"""

from __future__ import annotations

from distgrad.compiler.builder import Lanes
from distgrad.compiler.elements import made_in_turn
from distgrad.compiler.nest import CHUNK, Map
from distgrad.compiler.stencil import By, Shift, Stencil, added
from distgrad.compiler.totals import Totals
from distgrad.compiler.writer import NAME, Writer, checked, identity


class StencilCode:
    """Writes the function of one stencil for vectors of `lanes`; rows are whole vectors unless they are `ragged`."""

    def __init__(self, nest: Stencil, lanes: int, ragged: bool):
        self.nest, self.width = nest, lanes
        self.b = Writer(lanes, ragged)
        self.base = {v: f"%base{v}" for v in nest.addresses}
        self.repeated = dict(zip(nest.inputs, nest.repeated, strict=True))
        at = [("array", v) for v in self.base]
        at += [("zeros", step.out) for step in nest.zeros] + [("sum", step.out) for step in nest.reductions]
        self.number = {place: n for n, place in enumerate(at)}
        # Where the row begins in each array, and where rows so far from it do.
        self.rows_at: dict[tuple[int, By], str] = {}
        self.totals = Totals(self.b, nest.values, dict.fromkeys(nest.reductions, lanes))

    def type(self, value: int) -> str:
        """LLVM's type of a value's lanes."""
        return self.nest.values[value].type

    def text(self) -> str:
        """All of it."""
        self.b.begin("entry")
        self._arguments()
        self.totals.begin()
        self._body()
        self.totals.finish(self.base)
        return self.b.function(NAME)

    def _arguments(self) -> None:
        b, dims = self.b, range(self.nest.dims)
        b.argument(0, "i64", "%rows")
        at = 1
        for d in dims:
            for name in ("length", "from", "to"):
                b.argument(at, "i64", f"%{name}{d}")
                at += 1
        for v, base in self.base.items():
            b.argument(at, "ptr", base)
            for d in dims:
                b.argument(at + 1 + d, "i64", f"%stride{v}.{d}")
            at += 1 + self.nest.dims
        for n in self.number.values():
            for d in dims:
                b.argument(at, "i64", f"%least{n}.{d}")
                b.argument(at + 1, "i64", f"%end{n}.{d}")
                at += 2

    def _body(self) -> None:
        b, last = self.b, self.nest.dims - 1
        columns = f"%length{last}"
        with b.loop("%rows", 1, []) as (row, _):
            self._begin_row(row)
            with b.loop(columns, CHUNK if self.nest.reductions else columns, []) as (first, _):
                count = b.name(f"sub i64 {columns}, {first}")
                count = b.least(count, str(CHUNK)) if self.nest.reductions else count
                self._chunk(first, count)

    def _begin_row(self, row: str) -> None:
        """The coordinates of a row, where it begins in each array, and where in it nothing needs to be asked."""
        b, last = self.b, self.nest.dims - 1
        self.index = [""] * last
        for d in reversed(range(last)):
            self.index[d] = b.name(f"urem i64 {row}, %length{d}") if d else row
            row = b.name(f"udiv i64 {row}, %length{d}") if d else row
        plain = "true"
        for d in range(last):
            for test in (f"icmp sge i64 {self.index[d]}, %from{d}", f"icmp slt i64 {self.index[d]}, %to{d}"):
                plain = b.name(f"and i1 {plain}, {b.name(test)}")
        self.to = b.name(f"select i1 {plain}, i64 %to{last}, i64 {-(2**62)}")
        self.rows_at = {}
        for value, by in self.nest.instances:
            if value in self.base and (value, by[:-1]) not in self.rows_at:
                at = self.base[value]
                for d in range(last):
                    i = b.name(f"add i64 {self.index[d]}, {by[d]}")
                    at = b.at(at, b.name(f"mul i64 {i}, %stride{value}.{d}"))
                self.rows_at[value, by[:-1]] = at

    def _chunk(self, first: str, count: str) -> None:
        """Columns that are added up before their sum goes to the total."""
        b, last, sums = self.b, self.nest.dims - 1, self.nest.reductions
        begin = [
            (b.vector(kind := self.type(s.out)), b.constant(kind, identity(s.how, kind)).name) for s in sums
        ]
        with b.along(count, begin) as (start, new, names):
            at = b.name(f"add i64 {first}, {start}")
            end = b.name(f"add i64 {at}, {self.width}")
            inside = b.name(f"icmp sge i64 {at}, %from{last}")
            inside = b.name(f"and i1 {inside}, {b.name(f'icmp sle i64 {end}, {self.to}')}")
            parts = [Lanes(name, self.type(s.out)) for s, name in zip(sums, names, strict=True)]
            names[:] = b.either(
                inside,
                lambda: Neighbours(self, at, asking=False).all(parts, new),
                lambda: Neighbours(self, at, asking=True).all(parts, new),
            )
        for step, name in zip(sums, names, strict=True):
            self.totals.put(step, Lanes(name, self.type(step.out)))
            self.totals.carry(step)


class Neighbours:
    """The elements of values at one vector, which begins in column `at`, and as far from it as they are read.

    `asking`: not all of them need be there.
    """

    def __init__(self, code: StencilCode, at: str, asking: bool):
        self.code, self.nest, self.b, self.at, self.asking = code, code.nest, code.b, at, asking
        self.known: dict[tuple[int, By], Lanes] = {}

    def all(self, parts: list[Lanes], new: Lanes | None) -> list[Lanes]:
        """Store what is wanted; the sums with these elements in them. `new`: the lanes that were not added before."""
        for value in self.nest.boxes:
            home = self.nest.homes[value]
            address = self._address(value, home)
            made = self.get(value, home)
            if self.asking:
                self.b.store_where(self._there("array", value, home), made, address)
            else:
                self.b.store(made, address)
        added_up = []
        for step, part in zip(self.nest.reductions, parts, strict=True):
            there, home = new, self.nest.homes[step.out]
            if self.asking:
                mask = self._there("sum", step.out, home)
                there = mask if new is None else self.b.logical_and(mask, new)
            operands = [self.get(v, home) for v in step.ins]
            added_up.append(self.b.merged(step.how, part, operands, there))
        return added_up

    def get(self, value: int, by: By) -> Lanes:
        """The elements of a value that lie `by` from the vector; what is not there has any bits."""
        return made_in_turn(
            (value, by), self.known, lambda at: self._operands(*at), lambda at: self._make(*at)
        )

    def _operands(self, value: int, by: By) -> list[tuple[int, By]]:
        step = self.nest.maker.get(value)
        if step is None:
            return []
        far = added(by, step.by) if isinstance(step, Shift) else by
        return [(v, far) for v in step.ins]

    def _make(self, value: int, by: By) -> Lanes:
        step, kind = self.nest.maker.get(value), self.code.type(value)
        if step is None:
            return self._load(value, by)
        operands = [self.known[at] for at in self._operands(value, by)]
        if isinstance(step, Map):
            return checked(step.lower(self.b, *operands), kind)
        assert isinstance(step, Shift), step
        (made,) = operands
        if self.asking and step.zeros:
            made = self.b.select(
                self._there("zeros", value, added(by, step.by)), made, self.b.constant(kind, 0)
            )
        return made

    def _load(self, value: int, by: By) -> Lanes:
        b, kind, repeated = self.b, self.code.type(value), self.code.repeated[value]
        address = self._address(value, by)
        if not self.asking:
            return b.repeated(address, kind) if repeated[-1] else b.load(address, kind)
        if not repeated[-1]:
            return b.load_where(self._there("array", value, by), address, kind)
        with b.vectors_of(1):
            one = b.load_where(self._there("array", value, by, rows=True), address, kind)
            element = b.only(one)
        return b.spread(element, kind)

    def _address(self, value: int, by: By) -> str:
        row = self.code.rows_at[value, by[:-1]]
        if value in self.code.repeated and self.code.repeated[value][-1]:
            return row
        return self.b.element(row, self.b.name(f"add i64 {self.at}, {by[-1]}"), self.code.type(value))

    def _there(self, kind: str, value: int, by: By, rows: bool = False) -> Lanes:
        """Which lanes of a place have an element `by` from here. `rows`: whether its row is there."""
        b, n, last = self.b, self.code.number[kind, value], self.nest.dims - 1
        row = "true"
        for d in range(last):
            i = b.name(f"add i64 {self.code.index[d]}, {by[d]}")
            for test in (f"icmp sge i64 {i}, %least{n}.{d}", f"icmp slt i64 {i}, %end{n}.{d}"):
                row = b.name(f"and i1 {row}, {b.name(test)}")
        mask = b.spread(row, "i1")
        if rows:
            return mask
        column = b.name(f"add i64 {self.at}, {by[-1]}")
        for how, bound in (("sge", f"%least{n}.{last}"), ("slt", f"%end{n}.{last}")):
            far = b.all_lanes(b.name(f"sub i64 {bound}, {column}"))
            mask = b.logical_and(mask, b.compare(how, b.numbers(), far))
        return mask
