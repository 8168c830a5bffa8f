"""What all kinds of exchange have in common: whose a shard is, and what stands where a value would."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from distgrad.caching import remembered
from distgrad.program import Exchange, Slot
from distgrad.sharding import Region, Sharding, extent, owned


class Failure:
    """Stands where a value would: which step failed, and how. Whatever reads it fails alike."""

    __slots__ = ("kind", "message", "serial", "step")

    def __init__(self, kind: str, message: str, step: int, serial: int):
        self.kind = kind
        self.message = message
        self.step = step  # number of the step in its program; -1: not a step's fault
        self.serial = serial  # number of the call

    def wire(self) -> list[Any]:
        """As msgpack carries it."""
        return [self.kind, self.message, self.step, self.serial]


@dataclass(frozen=True)
class Reading:
    """What is known where an exchange is read from the wire."""

    slot: Slot
    number: int  # of the slot
    recv: bool  # whether at the receiving end
    partial: Exchange | None  # how the slot's partial results are merged
    most: int  # shards of what may be told

    @property
    def what(self) -> str:
        """For errors."""
        return "recv" if self.recv else "send"


def senders(sharding: Sharding, workers: int, worker: int) -> range:
    """The shards that `worker` speaks for: a whole value lies on every worker, but one alone sends it."""
    return owned(sharding.count, workers, worker)


def held(count: int, workers: int, worker: int) -> range:
    """The shards of a value that `worker` has: its own range, or the one shard of a whole value."""
    return range(1) if count == 1 else owned(count, workers, worker)


def inside(region: Region, cell: Region) -> tuple[slice, ...]:
    """Where `region` lies in the piece that covers `cell`."""
    return tuple(slice(lo - a, hi - a) for (lo, hi), (a, _) in zip(region, cell, strict=True))


@remembered(16 << 20, lambda _, sizes: 500 + sizes.nbytes)
def sizes(sharding: Sharding) -> np.ndarray:
    """Elements of each shard."""
    lengths = [np.array(cut.lengths) for cut in sharding.cuts]
    return reduce(np.multiply.outer, lengths, np.ones((), np.int64)).ravel()


@remembered(4 << 20, lambda *_: 500)
def stored_bytes(slot: Slot, workers: int, worker: int) -> int:
    """Bytes of the shards of a value that `worker` holds."""
    mine = held(slot.sharding.count, workers, worker)
    return slot.dtype.itemsize * int(sizes(slot.sharding)[mine.start : mine.stop].sum())


@remembered(4 << 20, lambda _, each: 500 + 40 * len(each))
def taken(slot: Slot, workers: int) -> tuple[int, ...]:
    """The same, for each worker."""
    ends = np.concatenate([[0], np.cumsum(sizes(slot.sharding))]) * slot.dtype.itemsize
    mine = [held(slot.sharding.count, workers, worker) for worker in range(workers)]
    return tuple((ends[[m.stop for m in mine]] - ends[[m.start for m in mine]]).tolist())


def contiguous(region: Region, cell: Region) -> bool:
    """Whether a region of an array that fills the cell lies in one piece."""
    parts, wholes = extent(region), extent(cell)
    first = next((d for d, n in enumerate(parts) if n != 1), len(parts))
    return parts[first + 1 :] == wholes[first + 1 :]
