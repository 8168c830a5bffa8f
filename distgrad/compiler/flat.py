"""The code of a function of elements, over flat arrays in one pass; results may lie where operands do.

    for each vector k of elements:
        out[0][k], out[1][k], ... = body(operands[0][k], operands[1][k], ..., numbers)

All operands of a vector are read before its results are written. The last vector ends where the arrays do: of that,
only the lanes that are new are written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from distgrad.compiler.builder import TYPES, Lanes
from distgrad.compiler.machine import function
from distgrad.compiler.nest import lanes
from distgrad.compiler.writer import NAME, Writer, checked

Body = Callable[[Writer, Sequence[Lanes], Sequence[Lanes]], Sequence[Lanes]]  # of elements and numbers


def apply(body: Body, operands: Sequence[np.ndarray], numbers: np.ndarray, out: Sequence[np.ndarray]) -> None:
    """As above. All arrays are flat, in C order, of one dtype, float32 or float64, and as long; `numbers` are float64.

    What a body writes depends on nothing else: it is written down once.
    """
    size = out[0].size
    if not size:
        return
    if any(a.shape != (size,) or a.dtype != out[0].dtype for a in (*operands, *out)):
        raise ValueError("arrays that differ in length or dtype")
    width = lanes(size)
    *arrays, told = (np.ascontiguousarray(a) for a in (*operands, numbers))  # held until they were read
    addresses = [a.__array_interface__["data"][0] for a in (*arrays, *out, told)]
    arguments = (ctypes.c_int64 * (len(addresses) + 1))(*addresses, size)
    form = (len(arrays), len(out), len(numbers), out[0].dtype.name, width, size % width > 0)
    _function(body, *form)(ctypes.addressof(arguments))


@cache
def _function(
    body: Body, operands: int, results: int, numbers: int, dtype: str, width: int, ragged: bool
) -> Any:
    kind = TYPES[dtype]
    b = Writer(width, ragged)
    b.begin("entry")
    arrays = [f"%array{k}" for k in range(operands + results)]
    for k, name in enumerate((*arrays, "%numbers")):
        b.argument(k, "ptr", name)
    b.argument(len(arrays) + 1, "i64", "%size")
    constants = []
    for k in range(numbers):
        number = b.repeated(b.element("%numbers", str(k), "double"), "double")
        constants.append(b.convert(number, kind))
    with b.along("%size", []) as (start, new, _):
        places = [b.element(base, start, kind) for base in arrays]
        elements = [b.load(place, kind) for place in places[:operands]]
        made = [checked(x, kind) for x in body(b, elements, constants)]
        if new is not None:
            before = [b.load(place, kind) for place in places[operands:]]
            made = [b.select(new, x, old) for x, old in zip(made, before, strict=True)]
        for x, place in zip(made, places[operands:], strict=True):
            b.store(x, place)
    return function(b.function(NAME))
