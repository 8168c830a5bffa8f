"""Memory for shards, kept between steps: touching fresh pages is the dearest thing a step can do.

`Pool.take` hands out an array over a block; when the last array over the block is gone, the block returns to the pool.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from distgrad.worker.transport import machine_memory

_GRAIN = 4096
_HUGE = 2 << 20  # bytes of a huge page, for which NumPy asks where an array is large
_ARENA = 8 << 20  # bytes out of which scratch is taken
_SMALL = 32768  # below this, malloc does as well


class Block:
    """Memory on loan. NumPy arrays over it keep it alive; without any it goes back."""

    __slots__ = ("__array_interface__", "memory", "pool")

    def __init__(self, memory: np.ndarray, interface: dict[str, Any], pool: Pool):
        self.memory = memory
        self.pool = pool
        self.__array_interface__ = interface  # of the memory: to ask for it costs as much as all else here

    def __del__(self) -> None:
        self.pool.give(self.memory, self.__array_interface__)


class Pool:
    """Blocks by size. `held` counts the bytes on loan, `free` the bytes that wait for reuse."""

    def __init__(self, spare: int | None = None):
        # Bytes that may wait for reuse; a quarter of what is held may, too.
        self.spare = default_spare() if spare is None else spare
        self.held = 0
        self.free = 0
        self.watch: Callable[[list[np.ndarray]], None] | None = None  # is shown all that is handed out
        self._blocks: OrderedDict[int, list[tuple[np.ndarray, dict[str, Any]]]] = OrderedDict()
        self._scratch: list[np.ndarray] = []
        self._arena = _aligned(0)  # what is left of it
        self._lock = threading.RLock()  # arrays may die on any thread
        # And by the collector in the midst of what is done here: then what comes back waits for the end of it.
        self._inside = False
        self._back: deque[tuple[np.ndarray, dict[str, Any]]] = deque()

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
                waiting = self._blocks.get(size)
                if waiting:
                    self.free -= size
                    self._blocks.move_to_end(size)
                    memory, interface = waiting.pop()
                else:
                    memory = _aligned(size)
                    interface = memory.__array_interface__
            finally:
                self._inside = False
        if self._back:
            self._settle()
        flat: np.ndarray[Any, Any] = np.asarray(Block(memory, interface, self))
        return flat[:nbytes]

    def give(self, memory: np.ndarray, interface: dict[str, Any]) -> None:
        """Take a block back, or let it go if enough are waiting."""
        self._back.append((memory, interface))
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

    def _keep(self, memory: np.ndarray, interface: dict[str, Any]) -> None:
        size = memory.nbytes
        self.held -= size
        limit = max(self.spare, self.held // 4)
        if size > limit:
            return
        self._blocks.setdefault(size, []).append((memory, interface))
        self._blocks.move_to_end(size)
        self.free += size
        while self.free > limit:  # the size that was not asked for the longest goes first
            oldest = next(iter(self._blocks))
            blocks = self._blocks[oldest]
            if blocks:
                blocks.pop()
                self.free -= oldest
            if not blocks:
                del self._blocks[oldest]


@cache
def default_spare() -> int:
    """The bytes that a worker may keep for reuse: one core's share of an eighth of the memory, but 256 MB at least.

    A product of two matrices of 151 MB passes through 490 MB more than it holds; making 151 MB anew took 0.46 s.
    """
    total, _ = machine_memory()
    return max(256 << 20, total // (8 * (os.cpu_count() or 1)))


def _aligned(nbytes: int) -> np.ndarray:
    """Memory that begins with a huge page, if it is as large as one.

    Reading and writing it is a tenth quicker than where such pages begin somewhere inside.
    """
    if nbytes < _HUGE:
        return np.empty(nbytes, np.uint8)
    memory = np.empty(nbytes + _HUGE, np.uint8)
    first = -memory.ctypes.data % _HUGE
    return memory[first : first + nbytes]
