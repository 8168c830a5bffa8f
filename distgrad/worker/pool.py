"""Memory for shards, kept between steps: touching fresh pages is the dearest thing a step can do.

`Pool.take` hands out an array over a block; when the last array over the block is gone, its memory returns to the pool.
What nothing has used for a while is given back to the machine, and so is what waits where memory is short.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from distgrad.worker.transport import machine_memory

_GRAIN = 4096
_HUGE = 2 << 20  # bytes of a huge page, for which NumPy asks where an array is large
_ARENA = 8 << 20  # bytes out of which scratch is taken
_SMALL = 32768  # below this, malloc does as well
_MAPPED = 1 << 20  # from here on memory is the kernel's own: malloc may keep what it is given back
_WINDOW = (
    64  # calls: what was not used for so long is given back; new pages for it then cost little for each call
)
_SLACK = 32 << 20  # bytes that may wait, however little is needed
_LOOK = 64 << 20  # new bytes after which it is seen whether the machine is short of memory


class _Chunk:
    """Memory that is lent again and again, to arrays of about its size."""

    __slots__ = ("array", "interface", "since", "touched")

    def __init__(self, array: np.ndarray):
        self.array = array
        self.interface = array.__array_interface__  # to ask for it costs as much as all else here
        self.touched = 0  # bytes that were ever lent: beyond these there are no pages
        self.since = 0  # the call in which it came back


class Block:
    """Memory on loan. NumPy arrays over it keep it alive; without any it goes back."""

    __slots__ = ("__array_interface__", "chunk", "lent", "pool")

    def __init__(self, chunk: _Chunk, lent: int, pool: Pool):
        self.chunk = chunk
        self.lent = lent
        self.pool = pool
        self.__array_interface__ = chunk.interface

    def __del__(self) -> None:
        self.pool.give(self.chunk, self.lent)


class Pool:
    """Chunks by size. `held` counts the bytes on loan, `free` the bytes that wait for reuse.

    Sizes are rounded up to one of eight for each doubling, so that an array whose length changes from step to step
    finds what the step before has left; what is rounded up is never touched, and takes no memory.
    """

    def __init__(self, spare: int | None = None):
        # Bytes that may wait for reuse; a quarter of what is held may, too.
        self.spare = default_spare() if spare is None else spare
        self.held = 0
        self.free = 0
        self.watch: Callable[[list[np.ndarray]], None] | None = None  # is shown all that is handed out
        self._chunks: OrderedDict[int, list[_Chunk]] = OrderedDict()
        self._now = 0  # calls so far
        self._most = [0, 0]  # the most bytes held in this window, and in the one before
        self._new = 0  # bytes taken from the machine since it was looked at
        self._scratch: list[np.ndarray] = []
        self._arena = _aligned(0)  # what is left of it
        self._lock = threading.RLock()  # arrays may die on any thread
        # And by the collector in the midst of what is done here: then what comes back waits for the end of it.
        self._inside = False
        self._back: deque[tuple[_Chunk, int]] = deque()

    def scratch(self, number: int, nbytes: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array at the beginning of buffer `number`, which has `nbytes` at least, and which all tile loops share.

        Only one loop runs at a time, and its temporaries do not outlive it, so the cache knows this memory.
        """
        while len(self._scratch) <= number:
            self._scratch.append(_aligned(0))
        if self._scratch[number].nbytes < nbytes:
            self._scratch[number] = self._carve(nbytes)
        used = math.prod(shape) * dtype.itemsize
        return self._scratch[number][:used].view(dtype).reshape(shape)

    def _carve(self, nbytes: int) -> np.ndarray:
        size = -(-nbytes // _GRAIN) * _GRAIN
        if self._arena.nbytes < size:
            self._arena = _aligned(max(size, _ARENA))
        piece, self._arena = self._arena[:size], self._arena[size:]
        return piece

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array with undefined contents, in C order."""
        nbytes = math.prod(shape) * dtype.itemsize
        array = np.empty(shape, dtype) if nbytes < _SMALL else self._lend(nbytes).view(dtype).reshape(shape)
        if self.watch is not None:
            self.watch([array])
        return array

    def _lend(self, nbytes: int) -> np.ndarray:
        size = -(-nbytes // _GRAIN) * _GRAIN
        with self._lock:
            self._inside = True
            try:
                self.held += size
                if self.held > self._most[0]:
                    self._most[0] = self.held
                chunk = self._waiting(size) or self._made(size)
                chunk.touched = max(chunk.touched, size)
            finally:
                self._inside = False
        if self._back:
            self._settle()
        flat: np.ndarray[Any, Any] = np.asarray(Block(chunk, size, self))
        return flat[:nbytes]

    def _waiting(self, size: int) -> _Chunk | None:
        """A chunk that waits, of the size that is asked for or up to a quarter more."""
        capacity = _capacity(size)
        for _ in range(3):
            waiting = self._chunks.get(capacity)
            if waiting:
                self._chunks.move_to_end(capacity)
                chunk = waiting.pop()
                self.free -= chunk.touched
                return chunk
            capacity = _capacity(capacity + 1)
        if (
            self.free and self.held + self.free > self._bound()
        ):  # rather one of up to twice the size than a further one
            for capacity in sorted(self._chunks):
                if self._chunks[capacity] and size <= capacity <= 2 * size:
                    chunk = self._chunks[capacity].pop()
                    self.free -= chunk.touched
                    return chunk
        return None

    def _made(self, size: int) -> _Chunk:
        """New memory. Where that is short, what waits is given back first."""
        capacity = _capacity(size)
        self._new += capacity
        if self._new >= _LOOK and self.free:
            self._new = 0
            total, available = machine_memory()
            self._trim(self.free - max(0, size + _LOOK + total // 20 - available))
        return _Chunk(_aligned(capacity))

    def _bound(self) -> int:
        """Bytes that may be held and wait together: twice what was needed of late."""
        return 2 * max(self._most) + _SLACK

    def give(self, chunk: _Chunk, lent: int) -> None:
        """Take a chunk back, or let it go if enough are waiting."""
        self._back.append((chunk, lent))
        self._settle()

    def _settle(self) -> None:
        with self._lock:
            if self._inside:
                return
            self._inside = True
            try:
                while self._back:
                    self._keep(*self._back.popleft())
            finally:
                self._inside = False

    def _keep(self, chunk: _Chunk, lent: int) -> None:
        self.held -= lent
        limit = min(max(self.spare, self.held // 4), self._bound() - self.held)
        if chunk.touched > limit:
            return
        chunk.since = self._now
        capacity = chunk.array.nbytes
        self._chunks.setdefault(capacity, []).append(chunk)
        self._chunks.move_to_end(capacity)
        self.free += chunk.touched
        self._trim(limit)

    def _trim(self, limit: int) -> None:
        """Let go what waits beyond some bytes: the size that was not asked for the longest goes first."""
        while self.free > max(0, limit):
            oldest = next(iter(self._chunks))
            if self._chunks[oldest]:
                self.free -= self._chunks[oldest].pop(0).touched
            if not self._chunks[oldest]:
                del self._chunks[oldest]

    def call(self) -> None:
        """Another call begins. Lets go what was not used for a window of calls."""
        self._now += 1
        if self._now % (_WINDOW // 4) == 0:
            with self._lock:
                self._inside = True
                try:
                    for chunks in self._chunks.values():  # the last is used first, so the first waits longest
                        while chunks and chunks[0].since <= self._now - _WINDOW:
                            self.free -= chunks.pop(0).touched
                finally:
                    self._inside = False
            self._settle()
        if self._now % _WINDOW == 0:
            self._most = [self.held, self._most[0]]


def refers(holders: Sequence[list[Any]], at: Sequence[int]) -> tuple[int, int] | None:
    """How often an array of the pool is referred to, and how often its memory is; None for any other array.

    The array stands in each of some lists, and is not held by the caller in another way.
    """
    base = holders[0][at[0]].base
    if type(getattr(base, "base", None)) is not Block:
        return None
    return sys.getrefcount(holders[0][at[0]]), sys.getrefcount(base)


@cache
def alone() -> tuple[int, int]:
    """What `refers` tells of an array that two lists have, and nobody else."""
    lists: list[list[Any]] = [[Pool(0).take((_SMALL,), np.dtype(np.uint8))], [None]]
    lists[1][0] = lists[0][0]
    found = refers(lists, (0, 0))
    assert found is not None
    return found


@cache
def default_spare() -> int:
    """The bytes that a worker may keep for reuse: one core's share of an eighth of the memory, but 256 MB at least.

    A product of two matrices of 151 MB passes through 490 MB more than it holds; making 151 MB anew took 0.46 s.
    """
    total, _ = machine_memory()
    return max(256 << 20, total // (8 * (os.cpu_count() or 1)))


def _capacity(size: int) -> int:
    """The size of the chunks from which so many bytes are lent: an eighth larger at the most."""
    grains = -(-size // _GRAIN)
    unit = 1 << max(0, (grains - 1).bit_length() - 4)
    return -(-grains // unit) * unit * _GRAIN


def _aligned(nbytes: int) -> np.ndarray:
    """Memory that begins with a huge page, if it is as large as one.

    Reading and writing it is a tenth quicker than where such pages begin somewhere inside.
    """
    if nbytes < _HUGE:
        return _memory(nbytes)
    memory = _memory(nbytes + _HUGE)
    first = -memory.ctypes.data % _HUGE
    return memory[first : first + nbytes]


def _memory(nbytes: int) -> np.ndarray:
    if nbytes < _MAPPED or not hasattr(mmap, "MAP_PRIVATE"):
        return np.empty(nbytes, np.uint8)
    try:
        mapped = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for {nbytes:,} bytes: {error.strerror}") from None
    if nbytes >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapped, np.uint8)
