"""What a worker measures while a profile is on: where the time of a call goes, and the most bytes held at once.

Without a profile there is no `Meter`, and nothing is timed or counted.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from time import perf_counter, time
from typing import Any

import numpy as np

from distgrad.program import Step
from distgrad.worker.pool import Block, Pool

SPANS = 400  # loops of a call that are told one by one; further ones count in the sums alone


class Meter:
    """Measures one worker, from the first call of a profile to its last.

    The bytes held are those on loan from the pool and those of all other arrays that were shown to `watch` and live.
    """

    def __init__(self, pool: Pool):
        self.pool = pool
        self.outside = 0  # bytes of watched arrays that are not of the pool
        self._owners: dict[int, weakref.ref[np.ndarray]] = {}
        self.start(0)

    def start(self, scratch: int) -> None:
        """A call begins, whose tiles use `scratch` bytes of buffers."""
        self.begun = self._last = perf_counter()
        self.scratch = scratch
        self.peak = 0
        self.received = self.sent = 0
        self.parts: dict[str, float] = {}  # seconds by what was done
        self.seconds: dict[int, float] = {}  # by the id of a step
        self.spans: list[tuple[int, int, int, float, float]] = []  # fragment, loop, shard, begin, seconds
        self.omitted = 0
        self.note()

    def lap(self, part: str) -> None:
        """What was done since the last lap, or the start, was `part`."""
        now = perf_counter()
        self.parts[part] = now - self._last
        self._last = now

    def note(self) -> None:
        """More bytes may be held now than ever before."""
        self.peak = max(self.peak, self.pool.held + self.outside)

    def watch(self, arrays: Iterable[np.ndarray]) -> None:
        """Count the memory of these arrays until it is gone; views count as what they are views of."""
        for array in arrays:
            base: Any = array.base
            while isinstance(base, np.ndarray):
                array, base = base, base.base
            if isinstance(base, Block) or id(array) in self._owners:
                continue
            forget = partial(self._forget, id(array), array.nbytes)
            self._owners[id(array)] = weakref.ref(array, forget)
            self.outside += array.nbytes
        self.note()

    def _forget(self, number: int, nbytes: int, _: Any) -> None:
        del self._owners[number]
        self.outside -= nbytes

    def timing(self, steps: Iterable[tuple[Step, Any]]) -> Iterator[tuple[Step, Any]]:
        """The same pairs; what is done between one and the next is the time of the step.

        What is compiled together shares it, by the operations that each step is made of.
        """
        for pair in steps:
            begin = perf_counter()
            yield pair
            seconds = perf_counter() - begin
            for step, share in getattr(pair[1], "shares", None) or ((pair[0], 1.0),):
                self.seconds[id(step)] = self.seconds.get(id(step), 0.0) + share * seconds

    def arrived(self, boxes: Iterable[dict[str, list[Any]]], worker: int) -> None:
        """Note what came in boxes to `worker`: for each channel, of each worker that sent, for each value, arrays.

        Whether it is that is for those to check who read it; nothing else is counted.
        """
        for box in boxes:
            for channel in box.values():
                for sender, values in enumerate(channel):
                    items = [item for value in values or () if isinstance(value, list) for item in value]
                    arrays = [item for item in items if isinstance(item, np.ndarray)]
                    self.watch(arrays)
                    if sender != worker:
                        self.received += sum(array.nbytes for array in arrays)

    def left(self, values: Iterable[Any], receivers: int) -> None:
        """Note what goes, for each value as arrays, to a number of other workers."""
        arrays = [array for value in values if isinstance(value, list) for array in value]
        self.watch(arrays)
        self.sent += receivers * sum(array.nbytes for array in arrays)

    def loop(self, fragment: int, loop: int, shard: int, begin: float) -> None:
        """A loop has run on a shard, since `begin`."""
        if len(self.spans) < SPANS:
            self.spans.append((fragment, loop, shard, begin, perf_counter() - begin))
        else:
            self.omitted += 1

    def told(self, numbers: dict[int, int]) -> dict[str, Any]:
        """The figures of this call, as msgpack carries them. `numbers` are those of the steps, by their ids.

        Times are seconds of `perf_counter`, and `clock` is what must be added to make them those of `time`.
        """
        steps = [0.0] * len(numbers)
        for step, seconds in self.seconds.items():
            steps[numbers[step]] = seconds
        now = perf_counter()
        return {
            "pid": os.getpid(),
            "clock": time() - now,
            "begun": self.begun,
            "seconds": now - self.begun,
            "parts": self.parts,
            "steps": steps,
            "spans": self.spans,
            "omitted": self.omitted,
            "peak": self.peak + self.scratch,
            "received": self.received,
            "sent": self.sent,
        }
