"""Writes that wait: parts of a value that were replaced one after the other, put together once somebody reads it all.

Values never change, so `y[i] = row` gives a new value; to make it at once would copy y for every row. It is lazy
instead: what y was, and the parts written since, in one list that all versions share. Whoever reads part of it reads
what was written there, or what was there before; whoever reads all of it has all parts put there in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.callsites import CallSite
from distgrad.graph import Result, Value, nobody, whole
from distgrad.primitives import TABLE, Primitive
from distgrad.primitives.slices import Slices, common
from distgrad.session.signature import signature

WRITES = 4096  # parts that wait for one value
WAITING = 16 << 20  # bytes that may wait beside a value; a quarter of its own may, too
DEPTH = 8  # values that wait for one another
PUT = TABLE["slice_put"]


class Log:
    """What was written into `base`, in order. The value after the first k writes is told by the log and k."""

    __slots__ = (
        "__weakref__",
        "_ends",
        "_firsts",
        "base",
        "depth",
        "latest",
        "parts",
        "sources",
        "waiting",
        "where",
    )

    def __init__(self, base: Value, where: CallSite):
        self.base = base
        self.where = where  # of the first write
        self.parts: list[Slices] = []
        self.sources: list[Value] = []  # each fills its part, or is one number for all of it
        self.waiting = 0  # bytes of the sources
        # Gives the value after all writes, if somebody holds it.
        self.latest: Callable[[], Value | None] = nobody
        self.depth = depth(base)
        self._firsts = np.empty((4, len(base.shape)), np.int64)
        self._ends = np.empty((4, len(base.shape)), np.int64)

    def add(self, source: Value, slices: Slices) -> Value:
        """The value after one more write."""
        n = len(self.parts)
        if n == len(self._ends):
            self._firsts, self._ends = (
                np.concatenate([a, np.empty_like(a)]) for a in (self._firsts, self._ends)
            )
        self._firsts[n], self._ends[n] = _bounds(slices)
        self.parts.append(slices)
        self.sources.append(source)
        self.waiting += source.result.spec.nbytes
        result = Result(self.base.result.spec)
        result.colocation = self.base.result.colocation
        result.becomes_lazy(LazyWrites(self, n + 1))
        value = Value(result).watched()
        self.latest = result.handle
        return value

    def newest(self, slices: Slices, count: int) -> Iterator[int]:
        """Which of the first `count` writes may have met these slices, the last one first."""
        first, end = _bounds(slices)
        met = ((self._firsts[:count] < end) & (self._ends[:count] > first)).all(1)
        return iter(np.flatnonzero(met)[::-1].tolist())


def _bounds(slices: Slices) -> tuple[list[int], list[int]]:
    """Where slices begin, and where they end."""
    firsts = [first for first, _, _ in slices]
    return firsts, [first + (length - 1) * step + 1 for first, length, step in slices]


class LazyWrites:
    """A lazy value into which parts were written: `base` after the first `count` writes of a log."""

    __slots__ = ("base", "count", "depth", "log", "where")
    primitive = PUT

    def __init__(self, log: Log, count: int):
        self.log = log
        self.count = count
        self.base, self.depth, self.where = log.base, log.depth, log.where

    @property
    def near(self) -> bool:
        """Whether all of it is in the driver, uncut."""
        read = (self.base, *self.log.sources[: self.count])
        return self.base.sharding.count == 1 and not any(value.result.lost for value in read)

    def takes(self, source: Value) -> bool:
        """Whether one more write may wait with the others."""
        room = max(WAITING, self.base.result.spec.nbytes // 4)
        return self.count < WRITES and self.log.waiting + source.result.spec.nbytes <= room

    def call(self) -> tuple[tuple[Value, ...], dict[str, Any]]:
        """Operands and attributes of the primitive: of several writes to one part the last, neighbours joined."""
        last = {slices: k for k, slices in enumerate(self.log.parts[: self.count])}
        writes = [(self.log.parts[k], self.log.sources[k]) for k in sorted(last.values())]
        for dim in reversed(range(len(self.base.shape))):
            writes = list(_joined(writes, dim))
        return (self.base, *(source for _, source in writes)), {
            "parts": tuple(slices for slices, _ in writes)
        }


class LazyView:
    """A lazy view of what waits for writes: the elements of `base` in another arrangement."""

    __slots__ = ("attrs", "base", "depth", "primitive", "where")

    def __init__(self, primitive: Primitive, base: Value, attrs: dict[str, Any], where: CallSite):
        self.primitive = primitive
        self.base = base
        self.attrs = attrs
        self.where = where
        self.depth = depth(base)

    @property
    def near(self) -> bool:
        """Whether all of it is in the driver, uncut."""
        return self.base.sharding.count == 1 and not self.base.result.lost

    def call(self) -> tuple[tuple[Value, ...], dict[str, Any]]:
        """Operands and attributes."""
        return (self.base,), self.attrs


def lazy_view(
    primitive: Primitive, base: Value, attrs: dict[str, Any], where: CallSite, shard_bytes: int
) -> Value:
    """A view of what waits for writes."""
    before = base.result
    if before.lost:
        (spec,) = signature(primitive, [before.spec], attrs, shard_bytes).outs
    else:
        (aval,) = primitive.shape([before.aval], attrs)
        spec = whole(aval.shape, aval.dtype)
    result = Result(spec)
    result.colocation = before.colocation
    result.becomes_lazy(LazyView(primitive, base, attrs, where))
    return Value(result).watched()


def waits(value: Value) -> bool:
    """Whether writes are still to be done for a value."""
    lazy = value.result.lazy
    return lazy is not None and lazy.base is not None


def depth(value: Value) -> int:
    """How many lazy values a value hangs on that wait for writes, with itself."""
    lazy = value.result.lazy
    return lazy.depth + 1 if isinstance(lazy, (LazyWrites, LazyView)) else 0


def number(source: Value) -> Value:
    """The one number of which all elements of `source` are known to be copies; else `source`."""
    result = source.result
    array, lazy = result.array, result.lazy
    if (
        array is not None
        and array.size
        and all(s == 0 or n == 1 for s, n in zip(array.strides, array.shape, strict=True))
    ):
        return Value.known(np.asarray(array[(0,) * array.ndim])) if array.ndim else source
    if array is None and lazy is not None and lazy.primitive.name == "expand":
        (one,), _ = lazy.call()
        return source if one.shape else one
    return source


def lazy_write(base: Value, source: Value, slices: Slices, where: CallSite) -> Value:
    """`base` with a part replaced. If that waits for other writes already, there is room for one more."""
    before = base.result.lazy
    if isinstance(before, LazyWrites) and before.count == len(before.log.parts):
        return before.log.add(source, slices)
    return Log(base, where).add(source, slices)


# Joining writes: rows that were known when they were written, one after the other, are one block.
def _joined(writes: Sequence[tuple[Slices, Value]], dim: int) -> Iterator[tuple[Slices, Value]]:
    """The writes, those that lie side by side along `dim` made one."""
    run: list[tuple[Slices, Value]] = []
    for write in writes:
        if run and not _follows(run[-1], write, dim):
            yield _block(run, dim)
            run = []
        run.append(write)
    if run:
        yield _block(run, dim)


def _follows(one: tuple[Slices, Value], other: tuple[Slices, Value], dim: int) -> bool:
    (a, source), (b, then) = one, other
    start, length, step = a[dim]
    return (
        source.array is not None
        and then.array is not None
        and step == b[dim][2] == 1
        and start + length == b[dim][0]
        and a[:dim] == b[:dim]
        and a[dim + 1 :] == b[dim + 1 :]
    )


def _block(run: Sequence[tuple[Slices, Value]], dim: int) -> tuple[Slices, Value]:
    if len(run) == 1:
        return run[0]
    slices = run[0][0]
    arrays = [source.array for _, source in run]
    full = any(
        a.ndim and any(n != 1 for d, n in enumerate(a.shape) if d != dim) for a in arrays if a is not None
    )
    pieces = []
    for (part, _), array in zip(run, arrays, strict=True):
        shape = [n if full or d == dim else 1 for d, (_, n, _) in enumerate(part)]
        pieces.append(np.broadcast_to(array, shape))  # type: ignore[arg-type]
    total = sum(part[dim][1] for part, _ in run)
    joined = (*slices[:dim], (slices[dim][0], total, 1), *slices[dim + 1 :])
    return joined, Value.known(np.concatenate(pieces, dim))


# Reading part of what was written.
class Piece(NamedTuple):
    """A source that was written to part of what is read: where it lies there, and which elements of the source."""

    source: Value
    there: Slices
    mine: Slices


def pieces(value: Value, slices: Slices) -> tuple[Value | None, list[Piece]] | None:
    """What the slices of a value that waits for writes are made of: of which value what is not written, and the pieces.

    The newest piece comes first. No value: the last piece covers all. None: this cannot be told.
    """
    found: list[Piece] = []
    shape = tuple(n for _, n, _ in slices)
    while isinstance(lazy := value.result.lazy, LazyWrites):
        log = lazy.log
        for k in log.newest(slices, lazy.count) if math.prod(shape) else ():
            meeting = [common(part, read) for part, read in zip(log.parts[k], slices, strict=True)]
            if any(m is False for m in meeting):
                continue
            if any(m is None for m in meeting):
                return None
            there, mine = (tuple(m[i] for m in meeting) for i in (0, 1))  # type: ignore[index]
            found.append(Piece(log.sources[k], there, mine))
            if tuple(n for _, n, _ in there) == shape:
                return None if len(found) > 64 else (None, found)
        value = log.base
    return value, found
