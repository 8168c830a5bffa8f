"""What comes over the wire, field by field: numbers, lists, cuts and arrays.

Each reader gives what was sent, or raises a `WireError` that names what is wrong with it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.cutting import most_shards
from distgrad.dtype import NAMES
from distgrad.errors import WireError
from distgrad.primitives.base import DTYPES
from distgrad.sharding import Sharding, sharding_from_wire

DIMS = 64  # of an array, as in NumPy and torch
ELEMENTS = 1 << 59  # of a value
WORKERS = 1 << 16


def check(good: bool, text: str) -> None:
    """Raise WireError unless something holds."""
    if not good:
        raise WireError(text)


def show(x: Any) -> str:
    """A wrong value for an error's text; what is nested may be too deep for `repr`."""
    return repr(x)[:80] if isinstance(x, str | bytes | int | float) else type(x).__name__


def read_list(x: Any, what: str, length: int | None = None) -> list[Any]:
    """A list, of this length. Raises WireError."""
    if type(x) is not list:
        raise WireError(f"{what}: expected a list, got {type(x).__name__}")
    if length is not None and len(x) != length:
        raise WireError(f"{what}: expected {length} items, got {len(x)}")
    return x


def read_int(x: Any, what: str, low: int = 0, high: int = 1 << 62) -> int:
    """An integer between `low` and `high`. Raises WireError."""
    if type(x) is not int:
        raise WireError(f"{what}: expected an integer, got {type(x).__name__}")
    if not low <= x <= high:
        raise WireError(f"{what}: {x} is not in {low}..{high}")
    return x


def bounded(made: Sharding, what: str, most: int) -> Sharding:
    """No more than `most` shards: a program of few bytes is not a minute's work."""
    elements = math.prod([max(n, 1) for n in made.shape])
    if len(made.cuts) > DIMS or elements > ELEMENTS:
        text = f"{len(made.cuts)} dimensions and {elements} elements, more than {DIMS} or {ELEMENTS}"
        raise WireError(f"{what}: {text}")
    if made.count > most:
        raise WireError(f"{what}: {made.count} shards of {elements} elements, more than {most} shards")
    return made


def read_sharding(raw: Any, what: str, most: int | None = None) -> Sharding:
    """The cuts that `Sharding.wire` wrote, into `most` shards, or as many as the shape can need. Raises WireError."""
    for cut in read_list(raw, what):
        read_list(cut, what)
    try:
        made = sharding_from_wire(raw)
    except ValueError as error:
        raise WireError(f"{what}: {error}") from None
    return bounded(made, what, most_shards(math.prod(made.shape)) if most is None else most)


def pack_array(array: np.ndarray) -> list[Any]:
    """`[dtype, shape, bytes]`, in C order."""
    return [NAMES.get(array.dtype) or array.dtype.name, array.shape, array.tobytes()]


def unpack_array(raw: Any) -> np.ndarray:
    """The array that `pack_array` wrote, read-only. Raises WireError."""
    name, shape, data = read_list(raw, "array", 3)
    check(type(name) is str and name in DTYPES, f"array: unknown dtype {show(name)}")
    shape = [read_int(n, "array") for n in read_list(shape, "array")]
    check(len(shape) <= DIMS, f"array: more than {DIMS} dimensions")
    check(math.prod(max(n, 1) for n in shape) <= ELEMENTS, "array: too many elements")
    check(
        type(data) is bytes and len(data) == math.prod(shape) * DTYPES[name].itemsize,
        "array: wrong number of bytes",
    )
    return truths(np.frombuffer(data, DTYPES[name]).reshape(shape))


def truths(array: np.ndarray) -> np.ndarray:
    """Bools that came from elsewhere, as NumPy counts on them: any byte but 0 is made 1. Others as they are."""
    if array.dtype.kind != "b" or array.size == 0 or array.view(np.uint8).max() <= 1:
        return array
    return array.view(np.uint8) != 0


def check_array(array: Any, shape: tuple[int, ...], dtype: np.dtype, what: str) -> np.ndarray:
    """An array that came as an object, if it is one of this shape and dtype. Raises WireError."""
    if type(array) is not np.ndarray:
        raise WireError(f"{what}: expected an array, got {type(array).__name__}")
    if array.shape != shape or array.dtype != dtype:
        raise WireError(f"{what}: {array.dtype} of shape {array.shape}, not {dtype} of shape {shape}")
    return truths(array)
