"""Writes LLVM's intermediate code: values are vectors of a fixed number of lanes, and a method is a step of each lane.

What a method computes is what IEEE 754 says, once rounded: nothing is reordered, nothing contracted, so the bits depend
neither on the width of a processor's vectors nor on which one it is. Integers wrap.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TYPES = {"float32": "float", "float64": "double", "int32": "i32", "int64": "i64", "bool": "i1"}
BITS = {"float": 32, "double": 64, "i1": 1, "i8": 8, "i32": 32, "i64": 64, "i128": 128}
INTEGER = {"float": "i32", "double": "i64"}  # of as many bits


class Lanes(NamedTuple):
    """A value: a name in the code, and the type of its lanes."""

    name: str
    type: str

    @property
    def floating(self) -> bool:
        """Whether it is float or double."""
        return self.type in INTEGER


class Builder:
    """The text of one function, as it grows. `lanes` is the number of lanes that all values have."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self.lines: list[str] = []
        self.declared: dict[str, None] = {}  # intrinsics that are called, and functions of `apart`, in order
        self.constants: dict[str, None] = {}  # tables, as global constants
        self.block = "entry"
        self._count = 0
        self._known: dict[str, str] = {}  # what was computed in this block: code, name

    # Text.

    def fresh(self, prefix: str = "v") -> str:
        """A name that is new."""
        self._count += 1
        return f"%{prefix}{self._count}"

    def vector(self, type: str) -> str:
        """The type of a value with lanes of `type`."""
        return f"<{self.lanes} x {type}>"

    def line(self, text: str) -> None:
        """Add a line."""
        self.lines.append("  " + text)

    def name(self, code: str) -> str:
        """The name of what `code` computes, which depends on nothing but its operands."""
        known = self._known.get(code)
        if known is None:
            known = self._known[code] = self.fresh()
            self.line(f"{known} = {code}")
        return known

    def begin(self, block: str) -> None:
        """Begin a block; the one before must have ended."""
        self.lines.append(f"{block}:")
        self.block = block
        self._known = {}

    def new_block(self) -> str:
        """A name for a block."""
        return self.fresh("b")[1:]

    def intrinsic(self, name: str, result: str, *args: str) -> str:
        """The name of what an intrinsic gives, on arguments each with its type."""
        types = ", ".join(
            a.rsplit(" ", 1)[0] if not a.startswith("<") else a[: a.index(">") + 1] for a in args
        )
        self.declared[f"declare {result} @{name}({types})"] = None
        return self.name(f"call {result} @{name}({', '.join(args)})")

    # Constants.

    def constant(self, type: str, number: float | int | bool) -> Lanes:
        """The same number in each lane, rounded to `type`."""
        return Lanes(f"splat ({type} {literal(type, number)})", type)

    def like(self, x: Lanes, number: float | int) -> Lanes:
        """A number of the type of `x`."""
        return self.constant(x.type, number)

    def table(self, values: np.ndarray) -> str:
        """A global constant array of float32, float64, int32 or int64; for `look_up`."""
        kind = TYPES[values.dtype.name]
        cells = ", ".join(f"{kind} {literal(kind, v)}" for v in values.tolist())
        text = f"[{values.size} x {kind}] [{cells}]"
        found = next((line for line in self.constants if line.endswith(text)), None)
        if found is None:
            found = f"@table{len(self.constants)} = private unnamed_addr constant {text}"
            self.constants[found] = None
        return found.split(" ", 1)[0]

    def look_up(self, table: str, type: str, index: Lanes) -> Lanes:
        """Element `index` of a table, for each lane; the caller keeps it within the table."""
        made = "poison"
        for n in range(self.lanes):
            i = self.name(f"extractelement {self._typed(index)}, i64 {n}")
            address = self.name(f"getelementptr {type}, ptr {table}, {index.type} {i}")
            element = self.name(f"load {type}, ptr {address}")
            made = self.name(f"insertelement {self.vector(type)} {made}, {type} {element}, i64 {n}")
        return Lanes(made, type)

    # Arithmetic. Floating or integer, by the operands' type.

    def _typed(self, x: Lanes) -> str:
        return f"{self.vector(x.type)} {x.name}"

    def _binary(self, code: str, x: Lanes, y: Lanes) -> Lanes:
        assert x.type == y.type, (code, x, y)
        return Lanes(self.name(f"{code} {self._typed(x)}, {y.name}"), x.type)

    def _call(self, name: str, *xs: Lanes) -> Lanes:
        kind = xs[0].type
        typed = [self._typed(x) for x in xs]
        return Lanes(self.intrinsic(f"llvm.{name}.{self._suffix(kind)}", self.vector(kind), *typed), kind)

    def _suffix(self, kind: str) -> str:
        """How an intrinsic's name ends that works with vectors of these lanes."""
        return f"v{self.lanes}{'f' if kind in INTEGER else 'i'}{BITS[kind]}"

    def add(self, x: Lanes, y: Lanes) -> Lanes:
        """x + y; of bools whether one is true."""
        if x.type == "i1":
            return self.logical_or(x, y)
        return self._binary("fadd" if x.floating else "add", x, y)

    def subtract(self, x: Lanes, y: Lanes) -> Lanes:
        """x - y."""
        return self._binary("fsub" if x.floating else "sub", x, y)

    def multiply(self, x: Lanes, y: Lanes) -> Lanes:
        """x · y; of bools whether both are true."""
        if x.type == "i1":
            return self.logical_and(x, y)
        return self._binary("fmul" if x.floating else "mul", x, y)

    def divide(self, x: Lanes, y: Lanes) -> Lanes:
        """x / y of floats."""
        return self._binary("fdiv", x, y)

    def reciprocal(self, x: Lanes) -> Lanes:
        """1 / x of floats."""
        return self.divide(self.like(x, 1), x)

    def fma(self, x: Lanes, y: Lanes, z: Lanes) -> Lanes:
        """x · y + z of floats, rounded once."""
        return self._call("fma", x, y, z)

    def negative(self, x: Lanes) -> Lanes:
        """-x; of floats the sign is turned, that of zero and NaN too."""
        if x.floating:
            return Lanes(self.name(f"fneg {self._typed(x)}"), x.type)
        return self.subtract(self.like(x, 0), x)

    def absolute(self, x: Lanes) -> Lanes:
        """|x|; the smallest integer stays what it is."""
        if x.floating:
            return self._call("fabs", x)
        return self.select(self.compare("slt", x, self.like(x, 0)), self.negative(x), x)

    def sign(self, x: Lanes) -> Lanes:
        """-1, 0 or 1; 0 for NaN."""
        zero, one = self.like(x, 0), self.like(x, 1)
        below = self.select(self.less(x, zero), self.negative(one), zero)
        return self.select(self.less(zero, x), one, below)

    def sqrt(self, x: Lanes) -> Lanes:
        """The square root."""
        return self._call("sqrt", x)

    def floor(self, x: Lanes) -> Lanes:
        """Rounded down."""
        return self._call("floor", x)

    def ceil(self, x: Lanes) -> Lanes:
        """Rounded up."""
        return self._call("ceil", x)

    def trunc(self, x: Lanes) -> Lanes:
        """Rounded towards 0."""
        return self._call("trunc", x)

    def rint(self, x: Lanes) -> Lanes:
        """Rounded, halves to even."""
        return self._call("roundeven", x)

    def maximum(self, x: Lanes, y: Lanes) -> Lanes:
        """The larger; NaN if one is NaN; of equal ones, like zeros of both signs, the first."""
        return self._other_if(self.less(x, y), x, y, self.logical_or)

    def minimum(self, x: Lanes, y: Lanes) -> Lanes:
        """The smaller; NaN if one is NaN."""
        return self._other_if(self.less(y, x), x, y, self.logical_and)

    def _other_if(self, mask: Lanes, x: Lanes, y: Lanes, of_truth: Callable[[Lanes, Lanes], Lanes]) -> Lanes:
        """y where `mask`, or where it is NaN, else x: three instructions on x86."""
        if x.type == "i1":
            return of_truth(x, y)
        made = self.select(mask, y, x)
        return self.select(self.isnan(y), y, made) if x.floating else made

    # Comparisons and choices: lanes of i1.

    def compare(self, how: str, x: Lanes, y: Lanes) -> Lanes:
        """By LLVM's name: of floats oeq, une, olt, ole, ogt, oge, uno; of integers eq, ne, slt, sle, sgt, sge, ult."""
        assert x.type == y.type, (how, x, y)
        return Lanes(self.name(f"{'fcmp' if x.floating else 'icmp'} {how} {self._typed(x)}, {y.name}"), "i1")

    def equal(self, x: Lanes, y: Lanes) -> Lanes:
        """x = y."""
        return self.compare("oeq" if x.floating else "eq", x, y)

    def not_equal(self, x: Lanes, y: Lanes) -> Lanes:
        """x ≠ y; true where one is NaN."""
        return self.compare("une" if x.floating else "ne", x, y)

    def less(self, x: Lanes, y: Lanes) -> Lanes:
        """x < y."""
        return self.compare("olt" if x.floating else "ult" if x.type == "i1" else "slt", x, y)

    def less_equal(self, x: Lanes, y: Lanes) -> Lanes:
        """x ≤ y."""
        return self.compare("ole" if x.floating else "ule" if x.type == "i1" else "sle", x, y)

    def greater(self, x: Lanes, y: Lanes) -> Lanes:
        """x > y."""
        return self.less(y, x)

    def greater_equal(self, x: Lanes, y: Lanes) -> Lanes:
        """x ≥ y."""
        return self.less_equal(y, x)

    def isnan(self, x: Lanes) -> Lanes:
        """Whether a lane is NaN."""
        return self.compare("uno", x, x)

    def isinf(self, x: Lanes) -> Lanes:
        """Whether a lane is infinite."""
        return self.equal(self.absolute(x), self.like(x, float("inf")))

    def isfinite(self, x: Lanes) -> Lanes:
        """Whether a lane is neither infinite nor NaN."""
        return self.compare("olt", self.absolute(x), self.like(x, float("inf")))

    def select(self, mask: Lanes, x: Lanes, y: Lanes) -> Lanes:
        """x where `mask`, else y."""
        assert x.type == y.type, (x, y)
        assert mask.type == "i1", mask
        return Lanes(self.name(f"select {self._typed(mask)}, {self._typed(x)}, {self._typed(y)}"), x.type)

    def truth(self, x: Lanes) -> Lanes:
        """x ≠ 0, as lanes of i1."""
        return x if x.type == "i1" else self.not_equal(x, self.like(x, 0))

    def logical_and(self, x: Lanes, y: Lanes) -> Lanes:
        """Bitwise and, of lanes of i1 or of integers."""
        return self._binary("and", x, y)

    def logical_or(self, x: Lanes, y: Lanes) -> Lanes:
        """Bitwise or."""
        return self._binary("or", x, y)

    def logical_xor(self, x: Lanes, y: Lanes) -> Lanes:
        """Bitwise exclusive or."""
        return self._binary("xor", x, y)

    def logical_not(self, x: Lanes) -> Lanes:
        """Bitwise not."""
        return self.logical_xor(x, self.like(x, 1 if x.type == "i1" else -1))

    # Bits.

    def shift_left(self, x: Lanes, by: Lanes | int) -> Lanes:
        """Integers, by fewer places than they have bits."""
        return self._binary("shl", x, by if isinstance(by, Lanes) else self.like(x, by))

    def shift_right(self, x: Lanes, by: Lanes | int, signed: bool = True) -> Lanes:
        """Integers, by fewer places than they have bits; zeros come in unless `signed`."""
        return self._binary(
            "ashr" if signed else "lshr", x, by if isinstance(by, Lanes) else self.like(x, by)
        )

    def bits(self, x: Lanes) -> Lanes:
        """The bits of floats, as integers."""
        kind = INTEGER[x.type]
        return Lanes(self.name(f"bitcast {self._typed(x)} to {self.vector(kind)}"), kind)

    def floats(self, x: Lanes) -> Lanes:
        """The floats that have these bits."""
        kind = {"i32": "float", "i64": "double"}[x.type]
        return Lanes(self.name(f"bitcast {self._typed(x)} to {self.vector(kind)}"), kind)

    # Conversions.

    def convert(self, x: Lanes, type: str) -> Lanes:
        """As NumPy casts on x86: floats are cut off, what no integer holds gives the smallest; integers wrap."""
        if x.type == type:
            return x
        if type == "i1":
            return self.truth(x)
        if x.type == "i1":
            return self._cast("uitofp" if type in INTEGER else "zext", x, type)
        if x.floating and type in INTEGER:
            return self._cast("fpext" if type == "double" else "fptrunc", x, type)
        if x.floating:
            return self._to_integer(x, type)
        if type in INTEGER:
            return self._cast("sitofp", x, type)
        return self._cast("sext" if BITS[type] > BITS[x.type] else "trunc", x, type)

    def cast(self, x: Lanes, dtype: str) -> Lanes:
        """To NumPy's dtype of this name."""
        return self.convert(x, TYPES[dtype])

    def to_integer(self, x: Lanes, type: str) -> Lanes:
        """Floats that are known to lie within the integers, cut off towards 0."""
        return self._cast("fptosi", x, type)

    def _to_integer(self, x: Lanes, type: str) -> Lanes:
        limit = float(2 ** (BITS[type] - 1))
        low = self.compare("oge", x, self.like(x, -limit))
        good = self.logical_and(low, self.compare("olt", x, self.like(x, limit)))
        made = self._cast("fptosi", self.select(good, x, self.like(x, 0.0)), type)
        return self.select(good, made, self.constant(type, -(2 ** (BITS[type] - 1))))

    def _cast(self, code: str, x: Lanes, type: str) -> Lanes:
        return Lanes(self.name(f"{code} {self._typed(x)} to {self.vector(type)}"), type)

    # Branches.

    def where_any(self, mask: Lanes, x: Lanes, rare: Callable[[], Lanes]) -> Lanes:
        """`x`, but where `mask` what `rare` computes; that is run only if some lane needs it."""
        kind = self.vector("i1")
        some = self.intrinsic(f"llvm.vector.reduce.or.v{self.lanes}i1", "i1", f"{kind} {mask.name}")
        before, inside, after = self.block, self.new_block(), self.new_block()
        known = self._known
        self.line(f"br i1 {some}, label %{inside}, label %{after}")
        self.begin(inside)
        self._known = dict(known)
        made = self.select(mask, rare(), x)
        end = self.block
        self.line(f"br label %{after}")
        self.begin(after)
        self._known = known  # what is before the branch is still there
        result = self.fresh()
        self.line(f"{result} = phi {self.vector(x.type)} [{x.name}, %{before}], [{made.name}, %{end}]")
        return Lanes(result, x.type)

    def apart(self, name: str, body: Callable[[Builder, Lanes], Lanes], x: Lanes) -> Lanes:
        """What `body` computes of x, in a function of its own that takes one lane after the other.

        For what is rarely needed: it compiles quickly, however many lanes there are. `name` stands for `body`.
        """
        kind = self.vector(x.type)
        function = f"@{name}.{self.lanes}.{x.type}"
        one = Builder(1)
        one.declared, one.constants = self.declared, self.constants
        one.begin("lane")
        lines = one.lines
        one.line("%i = phi i64 [0, %entry], [%next, %LAST]")
        one.line(f"%made = phi {kind} [poison, %entry], [%more, %LAST]")
        one.line(f"%x = extractelement {kind} %xs, i64 %i")
        one.line(f"%one = insertelement <1 x {x.type}> poison, {x.type} %x, i64 0")
        made = body(one, Lanes("%one", x.type))
        one.line(f"%y = extractelement {one._typed(made)}, i64 0")
        one.line(f"%more = insertelement {kind} %made, {x.type} %y, i64 %i")
        one.line("%next = add i64 %i, 1")
        one.line(f"%last = icmp eq i64 %next, {self.lanes}")
        one.line("br i1 %last, label %end, label %lane")
        lines = [line.replace("%LAST", f"%{one.block}") for line in lines]
        head = [f"define internal {kind} {function}({kind} %xs) {{", "entry:", "  br label %lane"]
        self.declared["\n".join([*head, *lines, "end:", f"  ret {kind} %more", "}"])] = None
        return Lanes(self.name(f"call {kind} {function}({self._typed(x)})"), x.type)


def literal(type: str, number: float | int | bool) -> str:
    """A number as LLVM reads it."""
    if type == "i1":
        return "true" if number else "false"
    if type not in INTEGER:
        return str(int(number))
    value = float(np.float32(number)) if type == "float" else float(number)
    return f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}"
