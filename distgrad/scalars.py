"""Numbers that stand for elements: which of them a dtype can hold. The errors are torch's.

Where a number is to become an element (`full`, `fill_`, `x[i] = n`, `clamp`, `where`, `alpha`), one that the dtype
cannot hold is an error: `element`. Where it is an operand (`x + n`, `x < n`), torch wraps integers around and has
large floats infinite: `wrapped`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.dtype import FLOAT32, INT32, INT64

LIMITS = {d: (int(np.iinfo(d).min), int(np.iinfo(d).max)) for d in (INT32, INT64)}
LARGEST = float(np.finfo(FLOAT32).max)
LOWEST_INT, HIGHEST_INT = -(2**63), 2**64 - 1  # of what torch takes as a number, signed or not
C_NAMES = {"bool": "bool", "int32": "int", "int64": "int64_t", "float32": "float", "float64": "double"}


def checked(number: Any) -> Any:
    """The number itself; an int must have 64 bits at most."""
    if type(number) is int and not LOWEST_INT <= number <= HIGHEST_INT:
        raise OverflowError(
            "int too big to convert" if number > 0 else "can't convert negative int to unsigned"
        )
    return number


def holds(number: Any, numpy_dtype: np.dtype) -> bool:
    """Whether an element of this dtype can have the value, but for rounding. All are true or false as bools."""
    if numpy_dtype.kind == "i":
        low, high = LIMITS[numpy_dtype]
        return bool(low <= number <= high)  # nan is not
    return numpy_dtype != FLOAT32 or not LARGEST < abs(number) < math.inf


def check_held(number: Any, numpy_dtype: np.dtype, title: str | None = None) -> None:
    """Raise unless the dtype holds the number; `title` is the dtype's name in the error."""
    if not holds(number, numpy_dtype):
        name = title or C_NAMES[numpy_dtype.name]
        raise RuntimeError(f"value cannot be converted to type {name} without overflow")


def element(number: Any, numpy_dtype: np.dtype) -> np.ndarray:
    """The number as an array of no dimensions."""
    if number:
        check_held(checked(number), numpy_dtype)
    return np.array(number, numpy_dtype)


def wrapped(number: Any, numpy_dtype: np.dtype) -> np.ndarray:
    """The number as an array of no dimensions; what is too large wraps around, or is infinite."""
    checked(number)
    if not number or holds(number, numpy_dtype):
        return np.array(number, numpy_dtype)
    if numpy_dtype.kind == "f":  # large, and entering this is dear
        with np.errstate(over="ignore"):
            return np.array(number, numpy_dtype)
    if type(number) is int and not LIMITS[INT64][0] <= number <= LIMITS[INT64][1]:
        number -= 2**64
    return np.array(number).astype(numpy_dtype)
