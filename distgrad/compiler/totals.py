"""What is reduced to one element: vectors that are added up, and the totals that they go to from time to time."""

from __future__ import annotations

from distgrad.compiler.builder import Lanes
from distgrad.compiler.nest import Reduction, Value
from distgrad.compiler.writer import Writer, identity, merge, wide


class Totals:
    """Writes the code for these reductions, each with the number of its lanes.

    A sum has a vector that is being added to, one with the total in float64 and, if it is of float64, one with the
    errors of that from rounding.
    """

    def __init__(self, b: Writer, values: tuple[Value, ...], lanes: dict[Reduction, int]):
        self.b, self.values, self.lanes = b, values, lanes
        self.at: dict[Reduction, list[str]] = {}

    def _types(self, step: Reduction) -> tuple[str, str]:
        """Of what is added, and of the total."""
        kind = self.values[step.out].type
        return kind, wide(kind) if step.how == "add" else kind

    def begin(self) -> None:
        """Memory for all of them, in which nothing is added yet."""
        b = self.b
        for step, lanes in self.lanes.items():
            kind, most = self._types(step)
            count = 3 if kind == "double" and step.how == "add" else 2
            self.at[step] = [b.read(f"alloca <{lanes} x {most}>, align 64") for _ in range(count)]
            with b.vectors_of(lanes):
                self._clear(step)
                for place in self.at[step][1:]:
                    b.line(
                        f"store {b.vector(most)} {b.constant(most, identity(step.how, most)).name}, ptr {place}"
                    )

    def _clear(self, step: Reduction) -> None:
        kind, _ = self._types(step)
        self.put(step, self.b.constant(kind, identity(step.how, kind)))

    def get(self, step: Reduction) -> Lanes:
        """What is being added to."""
        return self._load(self.at[step][0], self._types(step)[0])

    def put(self, step: Reduction, part: Lanes) -> None:
        """What it is now."""
        self._store(part, self.at[step][0])

    def _load(self, place: str, kind: str) -> Lanes:
        return Lanes(self.b.read(f"load {self.b.vector(kind)}, ptr {place}, align 64"), kind)

    def _store(self, x: Lanes, place: str) -> None:
        self.b.line(f"store {self.b.vector(x.type)} {x.name}, ptr {place}, align 64")

    def carry(self, step: Reduction) -> None:
        """What was added goes to its total, and begins anew."""
        b, places = self.b, self.at[step]
        kind, most = self._types(step)
        with b.vectors_of(self.lanes[step]):
            part = self.get(step)
            self._clear(step)
            if len(places) == 2:
                total = self._load(places[1], most)
                self._store(merge(b, step.how, total, b.convert(part, most)), places[1])
                return
            total, error = (self._load(p, kind) for p in places[1:])
            made = b.add(total, part)  # Knuth's two-sum: made + lost is total + part
            back = b.subtract(made, total)
            lost = b.add(b.subtract(total, b.subtract(made, back)), b.subtract(part, back))
            self._store(made, places[1])
            self._store(b.add(error, lost), places[2])

    def finish(self, base: dict[int, str]) -> None:
        """The lanes of each total become one element, which is stored."""
        b = self.b
        for step, lanes in self.lanes.items():
            places, (kind, most) = self.at[step], self._types(step)
            with b.vectors_of(lanes):
                if len(places) == 2:
                    folded = b.fold(self._load(places[1], most), step.how)
                else:
                    total, error = (self._load(p, "double") for p in places[1:])
                    whole = b.add(total, error)  # the error of what is infinite is NaN
                    folded = b.fold(b.select(b.isnan(error), total, whole), "add")
            with b.vectors_of(1):
                b.store(b.convert(folded, kind), base[step.out])
