"""The vmaps that are running, and how values enter their levels and leave them.

Dimensions are meant as values of lower levels see them.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from distgrad import session
from distgrad.graph import Value
from distgrad.session import batching
from distgrad.session.batching import Batched, Levels, levels, wrapped
from distgrad.sharding import Sharding


class Level(NamedTuple):
    """A `vmap` that is running."""

    number: int
    size: int
    randomness: str


class _Active(threading.local):
    def __init__(self) -> None:
        self.levels: list[Level] = []


active = _Active()
_numbers = itertools.count(1)


def enter(size: int, randomness: str) -> Level:
    """Begin a `vmap` over so many samples."""
    batching.used = True
    level = Level(next(_numbers), size, randomness)
    active.levels.append(level)
    return level


def leave(level: Level) -> None:
    """End it."""
    active.levels.remove(level)


@contextlib.contextmanager
def running(size: int, randomness: str = "error") -> Iterator[Level]:
    """Inside there is a level for so many samples."""
    level = enter(size, randomness)
    try:
        yield level
    finally:
        leave(level)


def mark(value: Value, level: int, size: int) -> Value:
    """The same for each sample of a level."""
    result = value.result
    if type(result) is Batched:
        if result.level == level:
            return value
        if result.level > level:
            return wrapped(mark(result.physical, level, size), result.level, result.size, result.spread)
    return wrapped(value, level, size, False)


def mark_all(value: Value, wanted: Levels) -> Value:
    """A value that belongs to the samples of all these levels."""
    if wanted and levels(value) != wanted:
        for number, size in wanted:
            value = mark(value, number, size)
    return value


def split(value: Value, dim: int, level: int, size: int) -> Value:
    """Dimension `dim` becomes the batch of a level."""
    result = value.result
    if type(result) is Batched and result.level > level:
        inner = split(result.physical, dim + result.spread, level, size)
        return wrapped(inner, result.level, result.size, result.spread)
    if dim:
        order = (dim, *(d for d in range(len(value.shape)) if d != dim))
        value = session.emit("permute", value, dims=order)
    return wrapped(value, level, size, True)


def join(value: Value, dim: int, level: int, size: int) -> Value:
    """The batch of a level becomes dimension `dim`."""
    result = value.result
    if type(result) is Batched and result.level > level:
        inner = join(result.physical, dim + result.spread, level, size)
        return wrapped(inner, result.level, result.size, result.spread)
    if type(result) is not Batched or result.level != level:
        physical, spread = value, False
    else:
        physical, spread = result.physical, result.spread
    if not spread:
        physical = batching.repeated(physical, size, session.below())
    if dim:
        rest = range(dim + 1, len(physical.shape))
        physical = session.emit("permute", physical, dims=(*range(1, dim + 1), 0, *rest))
    return physical


def summed(value: Value, level: int, size: int) -> Value:
    """The sum over the samples of a level."""
    result = value.result
    if type(result) is Batched and result.level >= level:
        if result.level > level:
            inner = summed(result.physical, level, size)
            return wrapped(inner, result.level, result.size, result.spread)
        value = result.physical
        if result.spread:
            return session.emit("sum", value, dims=(0,), keepdim=False, dtype=str(value.dtype))
    return session.emit("multiply", value, Value.known(np.array(size, value.dtype)))


def drawn(shape: tuple[int, ...], cuts: Sharding | None, draw: Callable[..., Value]) -> Value:
    """Random numbers inside of `vmap`, as its `randomness` asks for: other ones for each sample, or the same."""
    if any(level.randomness == "error" for level in active.levels):
        raise RuntimeError(NO_RANDOMNESS)
    different = [level for level in active.levels if level.randomness == "different"]
    if not different:
        return draw(shape, cuts)
    value = draw((*(level.size for level in different), *shape), None)
    for level in different:  # the batch of the lowest level is the first dimension, and is wrapped first
        value = split(value, 0, level.number, level.size)
    return value


NO_RANDOMNESS = (
    "vmap: called random operation while in randomness error mode. Please either use the 'same' or 'different' "
    "randomness flags on vmap or perform the randomness operation out of vmap"
)
