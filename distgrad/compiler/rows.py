"""The code of adding rows of a table to rows of another one, in an order that the caller gives.

    for each row r of the longer table:
        for n from starts[r] to starts[r + 1]:
            made[places[n]] += weights[n] * table[r], or made[r] += weights[n] * table[places[n]]

Product and sum are rounded one after the other. Rows that will be wanted are fetched before, as they lie anywhere.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from distgrad.compiler.builder import TYPES, Lanes
from distgrad.compiler.machine import function
from distgrad.compiler.nest import lanes
from distgrad.compiler.writer import FETCHED, LINE, NAME, Writer, nbytes

AHEAD = 8  # rows between the one that is fetched and the one that is added


def add_rows(
    made: np.ndarray,
    table: np.ndarray,
    starts: np.ndarray,
    places: np.ndarray,
    weights: np.ndarray,
    by_source: bool,
) -> None:
    """As above, the first of both if `by_source`; see the caller for what is checked: nothing is here.

    `made` and `table` are matrices of one dtype, float32 or float64, in C order, `weights` of the same; `starts` and
    `places` are int32.
    """
    columns = made.shape[1]
    width = lanes(columns)
    arrays = (made, table, starts, places, weights)
    addresses = [a.__array_interface__["data"][0] for a in arrays]
    numbers = (*addresses, len(starts) - 1, len(places) - 1, columns)
    arguments = (ctypes.c_int64 * len(numbers))(*numbers)
    _function(made.dtype.name, width, columns % width > 0, by_source)(ctypes.addressof(arguments))


@cache
def _function(dtype: str, width: int, ragged: bool, by_source: bool) -> Any:
    return function(_text(TYPES[dtype], width, ragged, by_source))


def _text(kind: str, width: int, ragged: bool, by_source: bool) -> str:
    b = Writer(width, ragged)
    b.begin("entry")
    for k, name in enumerate(("%made", "%table", "%starts", "%places", "%weights")):
        b.argument(k, "ptr", name)
    for k, name in enumerate(("%rows", "%last", "%columns"), 5):
        b.argument(k, "i64", name)
    whole = b.name(f"and i64 %columns, {-width}")  # columns of whole vectors
    row_bytes = b.name(f"mul i64 %columns, {nbytes(kind)}")
    near, far = ("%table", "%made") if by_source else ("%made", "%table")

    def number(base: str, index: str) -> str:
        short = b.read(f"load i32, ptr {b.element(base, index, 'i32')}")
        return b.name(f"sext i32 {short} to i64")

    with b.loop("%rows", 1, []) as (r, _):
        begin, end = number("%starts", r), number("%starts", b.name(f"add i64 {r}, 1"))
        here = b.at(near, b.name(f"mul i64 {r}, {row_bytes}"))
        count = b.name(f"sub i64 {end}, {begin}")
        with b.when(b.name(f"icmp sgt i64 {count}, 0")), b.loop(count, 1, []) as (i, _):
            n = b.name(f"add i64 {begin}, {i}")
            later = number("%places", b.least(b.name(f"add i64 {n}, {AHEAD}"), "%last"))
            for line in range(0, min(FETCHED, width * nbytes(kind)), LINE):
                b.fetch(b.at(b.at(far, b.name(f"mul i64 {later}, {row_bytes}")), str(line)))
            there = b.at(far, b.name(f"mul i64 {number('%places', n)}, {row_bytes}"))
            weight = b.repeated(b.element("%weights", n, kind), kind)
            source, target = (here, there) if by_source else (there, here)

            def add(start: str, new: Lanes | None) -> None:
                at = b.element(target, start, kind)
                before = b.load(at, kind)
                after = b.add(before, b.multiply(weight, b.load(b.element(source, start, kind), kind)))
                b.store(after if new is None else b.select(new, after, before), at)

            with b.loop(whole, width, []) as (start, _):
                add(start, None)
            if ragged:  # the last vector ends where the row does
                start = b.name(f"sub i64 %columns, {width}")
                add(start, b.lanes_from(b.name(f"sub i64 {whole}, {start}")))
    return b.function(NAME)
