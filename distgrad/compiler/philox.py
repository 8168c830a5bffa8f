"""Random numbers by position: word p of the stream of a key, as NumPy's generator Philox4x64 gives it.

Ten rounds of two products of 64 bits turn a counter into four words (Salmon et al., Parallel random numbers: as easy as
1, 2, 3, SC 2011). So a vector of words at consecutive positions is made of a quarter as many counters and one more.
Uniform and whole numbers have the bits of `primitives/sources.py`; normal ones are within some units in the last place
of NumPy's, but the same on every processor.
"""

from __future__ import annotations

import math

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.maths import cos, log

FACTORS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # what a round adds to the key
ROUNDS = 10


def _rounds(one: Builder) -> list[str]:
    """The four words of counter %counter, by the key %low, %high."""

    def product(x: str, factor: int) -> tuple[str, str]:
        wide = one.name(f"mul i128 {one.name(f'zext i64 {x} to i128')}, {factor}")
        high = one.name(f"trunc i128 {one.name(f'lshr i128 {wide}, 64')} to i64")
        return high, one.name(f"trunc i128 {wide} to i64")

    def mixed(x: str, y: str, key: str) -> str:
        return one.name(f"xor i64 {one.name(f'xor i64 {x}, {y}')}, {key}")

    words, keys = ["%counter", "0", "0", "0"], ["%low", "%high"]
    for _ in range(ROUNDS):
        (high, low), (other_high, other_low) = product(words[0], FACTORS[0]), product(words[2], FACTORS[1])
        words = [mixed(other_high, words[1], keys[0]), other_low, mixed(high, words[3], keys[1]), low]
        keys = [one.name(f"add i64 {key}, {step}") for key, step in zip(keys, WEYL, strict=True)]
    return words


def words(b: Builder, key: tuple[str, str], first: str) -> Lanes:
    """The words at positions from `first` on, one a lane. Key and position are names of i64."""
    kind, blocks = b.vector("i64"), (b.lanes + 6) // 4
    function = f"@philox.{b.lanes}"
    one = Builder(1)
    one.begin("block")
    one.line("%i = phi i64 [0, %entry], [%next, %block]")
    one.line("%before = add i64 %start, %i")
    one.line("%counter = add i64 %before, 1")  # NumPy counts before it makes words
    for n, word in enumerate(_rounds(one)):
        place = one.name(f"add i64 {one.name('shl i64 %i, 2')}, {n}")
        address = one.name(f"getelementptr i64, ptr %made, i64 {place}")
        one.line(f"store i64 {word}, ptr {address}")
    head = [
        f"define internal {kind} {function}(i64 %low, i64 %high, i64 %first) {{",
        "entry:",
        f"  %made = alloca [{4 * blocks} x i64], align 64",
        "  %start = lshr i64 %first, 2",
        "  br label %block",
    ]
    tail = [
        "  %next = add i64 %i, 1",
        f"  %last = icmp eq i64 %next, {blocks}",
        "  br i1 %last, label %end, label %block",
        "end:",
        "  %skipped = and i64 %first, 3",
        "  %from = getelementptr i64, ptr %made, i64 %skipped",
        f"  %words = load {kind}, ptr %from, align 8",
        f"  ret {kind} %words",
        "}",
    ]
    b.declared["\n".join([*head, *one.lines, *tail])] = None
    return Lanes(b.name(f"call {kind} {function}(i64 {key[0]}, i64 {key[1]}, i64 {first})"), "i64")


def uniform(b: Builder, word: Lanes, type: str) -> Lanes:
    """In [0, 1): the top 24 bits for float, the top 53 for double."""
    bits = 24 if type == "float" else 53
    top = b.shift_right(word, 64 - bits, signed=False)
    whole = b.convert(top, "i32") if type == "float" else top
    return b.multiply(b.convert(whole, type), b.constant(type, 2.0**-bits))


def normal(b: Builder, word: Lanes, type: str) -> Lanes:
    """Box and Muller: √(-2 log u) cos(2πv), u in (0, 1] from the upper half of the word, v from the lower."""
    upper = b.convert(b.shift_right(word, 32, signed=False), type)
    u = b.multiply(b.add(upper, b.like(upper, 1)), b.like(upper, 2.0**-32))
    radius = b.sqrt(b.multiply(log(b, u), b.like(u, -2)))
    angle = b.multiply(b.convert(b.convert(word, "i32"), type), b.like(u, math.pi * 2.0**-31))
    return b.multiply(radius, cos(b, angle))
