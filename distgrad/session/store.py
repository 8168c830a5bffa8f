"""What a session and its workers hold for each other: arrays that are sent, what is stored, and who they are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np

from distgrad.cutting import default_sharding
from distgrad.graph import RemoteRef, Result, Value, spec
from distgrad.primitives import Aval
from distgrad.session.calls import Calls
from distgrad.session.room import check_room
from distgrad.session.transfer import along_one, send
from distgrad.sharding import Sharding
from distgrad.worker.machine import kinds, processor
from distgrad.worker.transport import DRIVER, Transport

LOST = "this tensor's contents were lost when its session was shut down"


class Store:
    """The lowest layer of a session: its workers, and what they store."""

    def __init__(
        self,
        transport: Transport,
        *,
        inline_bytes: int,
        shard_bytes: int,
        timeout: float | None = None,
        epoch: int = 0,
        leave: Callable[[], None] | None = None,
    ):
        self.transport = transport
        self.calls = Calls(transport, epoch, timeout)
        self.inline_bytes = inline_bytes
        self.shard_bytes = shard_bytes
        self.lock = threading.RLock()
        self.closed = False
        self._leave = leave or self.close
        self._pid = os.getpid()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.transport.workers} workers, {self.machines}"
        return f"<distgrad.Session: {state}>"

    @property
    def kinds(self) -> dict[str, list[int]]:
        """The workers of each kind of processor, the driver as `DRIVER` among them: each kind has other last bits."""
        found = kinds(self.transport.processors)
        found.setdefault(processor(), []).append(DRIVER)
        return found

    @property
    def machines(self) -> str:
        """The same as text."""
        if len(self.kinds) == 1:
            return next(iter(self.kinds))
        return "; ".join(f"{kind} ({_members(who)})" for kind, who in self.kinds.items())

    def release(self, number: int) -> None:
        """The value stored under `number` is needed no more. Called from __del__: only notes it."""
        self.calls.freed.append(number)

    def upload(self, array: np.ndarray, sharding: Sharding | None = None) -> Value:
        """Send an array to the workers now; the caller may change it afterwards."""
        sharding = along_one(sharding or default_sharding(array.shape, array.itemsize, self.shard_bytes))
        value = Value(Result(spec(Aval(array.shape, array.dtype), sharding)))
        with self.lock:
            self._upload(value.result, array, sharding)
        return value

    def _upload(self, result: Result, array: np.ndarray, sharding: Sharding) -> None:
        sharding = along_one(sharding)
        check_room(self.calls, *((0, array.nbytes) if sharding.count == 1 else (array.nbytes, 0)))
        number = send(self.calls, array, sharding)
        result.becomes_stored(number, RemoteRef(self, [number]), spec(result.aval, sharding))

    def close(self) -> None:
        """End the workers."""
        raise NotImplementedError


def _members(who: list[int]) -> str:
    """Such as "workers 0, 1, driver"."""
    workers = [str(n) for n in who if n != DRIVER]
    named = [f"worker{'s' * (len(workers) > 1)} {', '.join(workers)}"] if workers else []
    return ", ".join(named + ["driver"] * (DRIVER in who))
