"""Text of loops: a builder that also reads and writes memory, goes round, and folds lanes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distgrad.checks import CheckError
from distgrad.compiler.builder import BITS, Builder, Lanes

NAME = "loop"  # of every function
LINE = 64  # bytes that are fetched at once
FETCHED = 512  # bytes of a row of a table that are fetched before: the processor finds out about the others


def merge(b: Builder, how: str, x: Lanes, y: Lanes) -> Lanes:
    """Two parts of a reduction."""
    made: Callable[[Lanes, Lanes], Lanes] = {
        "add": b.add,
        "multiply": b.multiply,
        "maximum": b.maximum,
        "minimum": b.minimum,
        "or": b.logical_or,
        "and": b.logical_and,
    }[how]
    return made(x, y)


def identity(how: str, type: str) -> float | int:
    """What a reduction begins with."""
    if how in ("add", "or"):
        return 0
    if how in ("multiply", "and"):
        return 1
    low = how == "maximum"
    if type == "i1":
        return not low
    if type in ("float", "double"):
        return float("-inf") if low else float("inf")
    return -(2 ** (BITS[type] - 1)) if low else 2 ** (BITS[type] - 1) - 1


def stored(type: str) -> str:
    """The type in memory: a bool is a byte."""
    return "i8" if type == "i1" else type


def nbytes(type: str) -> int:
    """Of a lane, in memory."""
    return BITS[stored(type)] // 8


def checked(made: Lanes, type: str) -> Lanes:
    """What a primitive is lowered to, which must have the type that its shape rule says."""
    if made.type != type:
        raise CheckError(f"lowered to {made.type}, declared {type}")
    return made


def wide(kind: str) -> str:
    """The type in which parts of sums are added."""
    return "double" if kind == "float" else kind


class Writer(Builder):
    """Writes the blocks of a function. Names of integers are of i64, addresses of ptr.

    Rows are whole vectors unless they are `ragged`.
    """

    def __init__(self, lanes: int, ragged: bool):
        super().__init__(lanes)
        self.ragged = ragged

    def function(self, name: str) -> str:
        """All of what was written, as a function of the address of its arguments."""
        head = f"define void @{name}(ptr noalias readonly %args) {{"
        return "\n".join([*self.constants, head, *self.lines, "  ret void", "}", *self.declared]) + "\n"

    @contextmanager
    def loop(
        self, end: str, step: str | int, carried: list[tuple[str, str]]
    ) -> Iterator[tuple[str, list[str]]]:
        """A loop from 0 below `end`, which runs at least once. Yields the counter and the `carried` (type, name).

        The body puts into the list what is carried on; after the loop the list holds the last ones.
        """
        before, inside, after = self.block, self.new_block(), self.new_block()
        self.line(f"br label %{inside}")
        self.begin(inside)
        counter, following = self.fresh("i"), self.fresh("i")
        names = [self.fresh("c") for _ in carried]
        place = len(self.lines)
        for _ in range(1 + len(carried)):
            self.line("")
        here = list(names)
        yield counter, here
        self.line(f"{following} = add i64 {counter}, {step}")
        more = self.fresh("m")
        self.line(f"{more} = icmp slt i64 {following}, {end}")
        self.line(f"br i1 {more}, label %{inside}, label %{after}")
        self.lines[place] = f"  {counter} = phi i64 [0, %{before}], [{following}, %{self.block}]"
        for n, ((type, first), name) in enumerate(zip(carried, names, strict=True), 1):
            self.lines[place + n] = (
                f"  {name} = phi {type} [{first}, %{before}], [{here[n - 1]}, %{self.block}]"
            )
        self.begin(after)

    def argument(self, number: int, type: str, name: str) -> None:
        """Give an argument of the function a name."""
        self.line(f"{name}.at = getelementptr i64, ptr %args, i64 {number}")
        self.line(f"{name} = load {type}, ptr {name}.at")

    def read(self, code: str) -> str:
        """What `code` gives now: of memory, which may change."""
        name = self.fresh("n")
        self.line(f"{name} = {code}")
        return name

    def least(self, x: str, y: str) -> str:
        """The smaller of two integers."""
        less = self.name(f"icmp slt i64 {x}, {y}")
        return self.name(f"select i1 {less}, i64 {x}, i64 {y}")

    def element(self, base: str, index: str, type: str) -> str:
        """Where an element of an array lies."""
        return self.name(f"getelementptr {stored(type)}, ptr {base}, i64 {index}")

    def at(self, base: str, offset: str) -> str:
        """So many bytes behind an address."""
        return self.name(f"getelementptr i8, ptr {base}, i64 {offset}")

    def load(self, address: str, type: str) -> Lanes:
        """A vector from memory."""
        kind = stored(type)
        name = self.fresh()
        self.line(f"{name} = load {self.vector(kind)}, ptr {address}, align {nbytes(type)}")
        return Lanes(name, type) if kind == type else self.truth(Lanes(name, kind))

    def store(self, x: Lanes, address: str) -> None:
        """A vector to memory."""
        kind = stored(x.type)
        self.line(f"store {self.vector(kind)} {self.in_memory(x)}, ptr {address}, align {nbytes(x.type)}")

    def in_memory(self, x: Lanes) -> str:
        """A vector of the type that is stored."""
        kind = stored(x.type)
        return x.name if kind == x.type else self.name(f"zext {self._typed(x)} to {self.vector(kind)}")

    def fetch(self, address: str, written: bool = False) -> None:
        """Have the cache line at an address fetched, which will be wanted; there need be no memory."""
        self.declared["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"] = None
        self.line(f"call void @llvm.prefetch.p0(ptr {address}, i32 {int(written)}, i32 3, i32 1)")

    def load_where(self, mask: Lanes, address: str, type: str) -> Lanes:
        """A vector from memory, of which only some lanes are read; the others are 0."""
        kind = stored(type)
        whole = self.vector(kind)
        made = self.intrinsic(
            f"llvm.masked.load.{self._suffix(kind)}.p0",
            whole,
            f"ptr {address}",
            f"i32 {nbytes(type)}",
            f"{self.vector('i1')} {mask.name}",
            f"{whole} zeroinitializer",
        )
        return Lanes(made, type) if kind == type else self.truth(Lanes(made, kind))

    def store_where(self, mask: Lanes, x: Lanes, address: str) -> None:
        """Some lanes of a vector to memory."""
        kind, made = stored(x.type), self.in_memory(x)
        whole, mask_type = self.vector(kind), self.vector("i1")
        name = f"llvm.masked.store.{self._suffix(kind)}.p0"
        self.declared[f"declare void @{name}({whole}, ptr, i32, {mask_type})"] = None
        self.line(
            f"call void @{name}({whole} {made}, ptr {address}, i32 {nbytes(x.type)}, {mask_type} {mask.name})"
        )

    def repeated(self, address: str, type: str) -> Lanes:
        """One element from memory, in every lane."""
        kind = stored(type)
        made = self.spread(self.read(f"load {kind}, ptr {address}, align {nbytes(type)}"), kind)
        return made if kind == type else self.truth(made)

    def fold(self, x: Lanes, how: str) -> Lanes:
        """All lanes in one: halves are merged until one is left."""
        lanes = self.lanes
        while self.lanes > 1:
            wide, half = self.vector(x.type), self.lanes // 2
            parts = []
            for first in (0, half):
                index = ", ".join(f"i32 {n}" for n in range(first, first + half))
                name = self.fresh()
                self.line(f"{name} = shufflevector {wide} {x.name}, {wide} poison, <{half} x i32> <{index}>")
                parts.append(Lanes(name, x.type))
            self.lanes = half
            x = merge(self, how, *parts)
        self.lanes = lanes
        return x

    @contextmanager
    def vectors_of(self, lanes: int) -> Iterator[None]:
        """Vectors of so many lanes."""
        before, self.lanes = self.lanes, lanes
        yield
        self.lanes = before

    def lanes_from(self, first: str) -> Lanes:
        """The lanes from number `first` on."""
        return self.compare("sge", self.numbers(), self.all_lanes(first))

    def numbers(self) -> Lanes:
        """The number of each lane."""
        return Lanes(f"<{', '.join(f'i32 {n}' for n in range(self.lanes))}>", "i32")

    def all_lanes(self, number: str) -> Lanes:
        """An i64 in every lane."""
        return self.spread(self.name(f"trunc i64 {number} to i32"), "i32")

    def spread(self, one: str, type: str) -> Lanes:
        """One element in every lane."""
        whole = self.vector(type)
        first = self.name(f"insertelement {whole} poison, {type} {one}, i64 0")
        zeros = f"<{self.lanes} x i32> zeroinitializer"
        return Lanes(self.name(f"shufflevector {whole} {first}, {whole} poison, {zeros}"), type)

    def only(self, x: Lanes) -> str:
        """The element of a vector of one lane."""
        return self.name(f"extractelement {self._typed(x)}, i64 0")

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """What is done only if an i1 is true."""
        inside, after = self.new_block(), self.new_block()
        self.line(f"br i1 {condition}, label %{inside}, label %{after}")
        self.begin(inside)
        yield
        self.line(f"br label %{after}")
        self.begin(after)

    def either(
        self, condition: str, one: Callable[[], list[Lanes]], other: Callable[[], list[Lanes]]
    ) -> list[str]:
        """What the first of two ways makes if an i1 is true, else the second."""
        inside, outside, after = self.new_block(), self.new_block(), self.new_block()
        self.line(f"br i1 {condition}, label %{inside}, label %{outside}")
        made, ends = [], []
        for block, way in ((inside, one), (outside, other)):
            self.begin(block)
            made.append(way())
            ends.append(self.block)
            self.line(f"br label %{after}")
        self.begin(after)
        return [
            self.read(f"phi {self.vector(x.type)} [{x.name}, %{ends[0]}], [{y.name}, %{ends[1]}]")
            for x, y in zip(*made, strict=True)
        ]

    @contextmanager
    def along(
        self, columns: str, carried: list[tuple[str, str]]
    ) -> Iterator[tuple[str, Lanes | None, list[str]]]:
        """A loop over the vectors of a row: where each begins, which lanes are new (None: all), and what is carried."""
        if not self.ragged:
            with self.loop(columns, self.lanes, carried) as (start, names):
                yield start, None, names
            return
        highest = self.name(f"sub i64 {columns}, {self.lanes}")
        with self.loop(columns, self.lanes, carried) as (counter, names):
            start = self.least(counter, highest)
            yield start, self.lanes_from(self.name(f"sub i64 {counter}, {start}")), names

    def merged(self, how: str, part: Lanes, operands: list[Lanes], new: Lanes | None) -> Lanes:
        """`part` with one element more in each lane that is `new`."""
        if len(operands) == 2:
            x, y = operands
            made = self.fma(x, y, part) if x.floating else self.add(self.multiply(x, y), part)
        else:
            made = merge(self, how, part, operands[0])
        return made if new is None else self.select(new, made, part)
