"""Workers in this process that can be looked into: what they hold, and all that they were called with."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import Handle
from distgrad.worker.worker import Worker


class Scene(NamedTuple):
    """One call of `run`, and the worker as it was before: the call can be made again, as it was or damaged."""

    number: int
    epoch: int
    store: dict[int, Any]
    slots: dict[int, Any]
    ranges: dict[int, range]
    stash: dict[int, list[Any]]
    header: bytes
    program: bytes
    boxes: tuple[Any, ...]

    def worker(self) -> Worker:
        """A worker in the state that this one was in."""
        worker = Worker(self.number, self.epoch)
        worker.store = dict(self.store)
        worker.slots = dict(self.slots)
        worker.ranges = dict(self.ranges)
        worker.stash = copy.deepcopy(self.stash)
        return worker


class Watched(Worker):
    """A worker that writes down its calls."""

    def __init__(self, number: int):
        super().__init__(number)
        self.scenes: list[Scene] = []

    def run(self, header: bytes, program: bytes, *boxes: Any) -> tuple[Any, ...]:
        """As before; values never change, so that a shallow copy of the store is a picture of it."""
        stash = copy.deepcopy(self.stash)
        held = dict(self.store), dict(self.slots), dict(self.ranges), stash
        self.scenes.append(Scene(self.number, self.epoch, *held, header, program, boxes))
        return super().run(header, program, *boxes)


class Recorder(InProcess):
    """A transport that counts: `calls` holds (worker, method, bytes of the arguments that travel in the call)."""

    def __init__(self, workers: int, make: Any = Worker):
        self.objects: list[Any] = []
        self.calls: list[tuple[int, str, int]] = []

        def kept(number: int) -> Any:
            self.objects.append(make(number))
            return self.objects[-1]

        super().__init__(workers, kept)

    def call(self, worker: int, method: str, args: tuple[Any, ...], returns: int) -> list[Handle]:
        """Make the call, and count it."""
        size = sum(len(a) if isinstance(a, bytes) else getattr(a, "nbytes", 0) for a in args)
        self.calls.append((worker, method, size))
        return super().call(worker, method, args, returns)

    def runs(self) -> list[int]:
        """The sizes of the calls of programs."""
        return [size for _, method, size in self.calls if method == "run"]


def picture(worker: Worker) -> Any:
    """All that a worker holds, as values that can be compared."""
    held = {
        number: [(p.shape, p.dtype, p.tobytes()) for p in pieces] if isinstance(pieces, list) else pieces
        for number, pieces in worker.store.items()
    }
    return held, {serial: flat(rows) for serial, rows in worker.stash.items()}


def flat(item: Any) -> Any:
    """Nested lists of arrays, as values that can be compared."""
    if isinstance(item, list | tuple):
        return [flat(i) for i in item]
    return (item.shape, item.dtype, item.tobytes()) if isinstance(item, np.ndarray) else item
