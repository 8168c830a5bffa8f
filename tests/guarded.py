"""Memory that tells who reads or writes where nobody should.

Every array that a worker is given or takes lies between two guards, and all of it is one byte, the poison, before it
is filled. A guard that changed was written to. A call is made twice, with two poisons: what differs in its answers
was read from outside of an array, or was never filled.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from distgrad.worker.pool import Pool

POISONS = (0x6B, 0x00)  # 0x6b6b6b6b is 2.8e26 as a float32, and 6.5e209 twice as long
GUARD = 64  # bytes before and after
ROOM = 64 << 20  # bytes of one array; a larger one is a MemoryError
PERTURB = -6  # of `mallopt`: what the C library hands out is filled with the complement of a byte


class Guards:
    """The arrays of one call."""

    def __init__(self) -> None:
        self.poison = POISONS[0]
        self.blocks: list[np.ndarray] = []
        self.scratch: dict[int, np.ndarray] = {}
        self.libc = ctypes.CDLL(None)

    def begin(self, poison: int) -> None:
        """A call begins."""
        self.poison, self.guard = poison, bytes([poison]) * GUARD
        self.blocks.clear()
        for block in self.scratch.values():
            block[...] = poison
        if hasattr(self.libc, "mallopt"):
            self.libc.mallopt(PERTURB, poison ^ 0xFF)

    def end(self) -> None:
        """No guard was written to."""
        if hasattr(self.libc, "mallopt"):
            self.libc.mallopt(PERTURB, 0)
        for block in (*self.blocks, *self.scratch.values()):
            clean = block[:GUARD].tobytes() == block[-GUARD:].tobytes() == self.guard
            assert clean, f"a write outside of {block.nbytes - 2 * GUARD} bytes"

    def _block(self, nbytes: int) -> np.ndarray:
        if nbytes > ROOM:
            raise MemoryError(f"{nbytes} bytes")
        return np.frombuffer(bytearray(bytes([self.poison]) * (nbytes + 2 * GUARD)), np.uint8)

    def empty(self, shape: Any, dtype: Any = float, order: Any = "C", **rest: Any) -> np.ndarray:
        """In place of `np.empty`."""
        shape, dtype = tuple(shape) if np.iterable(shape) else (int(shape),), np.dtype(dtype)
        if dtype.hasobject:
            return np.ndarray(shape, dtype, order=order)
        nbytes = math.prod(shape) * dtype.itemsize
        self.blocks.append(self._block(nbytes))
        return self.blocks[-1][GUARD : GUARD + nbytes].view(dtype).reshape(shape, order=order)

    def empty_like(self, like: Any, dtype: Any = None, order: Any = "K", **rest: Any) -> np.ndarray:
        """In place of `np.empty_like`."""
        like = np.asarray(like)
        order = "F" if like.flags.f_contiguous and not like.flags.c_contiguous else "C"
        return self.empty(like.shape, like.dtype if dtype is None else dtype, order)

    def copy(self, array: np.ndarray) -> np.ndarray:
        """The same elements between guards, which nobody may write to."""
        made = self.empty(array.shape, array.dtype)
        self.blocks[-1][GUARD : GUARD + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        made.flags.writeable = False
        return made

    def take(self, pool: Pool, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """In place of `Pool.take`: nothing is kept."""
        return self.empty(shape, dtype)

    def take_scratch(
        self, pool: Pool, number: int, nbytes: int, shape: tuple[int, ...], dtype: np.dtype
    ) -> np.ndarray:
        """In place of `Pool.scratch`: one array for each number and size."""
        used = math.prod(shape) * dtype.itemsize
        assert used <= nbytes, f"{used} bytes of a buffer of {nbytes}"
        if number not in self.scratch or self.scratch[number].nbytes < nbytes + 2 * GUARD:
            self.scratch[number] = self._block(nbytes)
        return self.scratch[number][GUARD : GUARD + used].view(dtype).reshape(shape)


@contextlib.contextmanager
def guarded() -> Iterator[Guards]:
    """All memory that kernels and workers ask for lies between guards."""
    guards = Guards()
    before = np.empty, np.empty_like, Pool.take, Pool.scratch
    np.empty, np.empty_like = guards.empty, guards.empty_like  # type: ignore[assignment]
    Pool.take = lambda pool, shape, dtype: guards.take(pool, shape, dtype)  # type: ignore[method-assign]
    Pool.scratch = lambda pool, *args: guards.take_scratch(pool, *args)  # type: ignore[method-assign]
    try:
        yield guards
    finally:
        np.empty, np.empty_like, Pool.take, Pool.scratch = before  # type: ignore[method-assign]
