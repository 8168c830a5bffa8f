"""Workers in the driver's own process, for debugging, for tests and for machines without Ray.

Each call runs at once, in the caller's thread, so a debugger stops where the user looks. What goes in and out is
copied as on a real transport: a worker that keeps or changes an array by mistake shows here too.
"""

from __future__ import annotations

import os
import pickle
import platform
from collections.abc import Callable
from typing import Any

from distgrad.errors import DistgradError, WorkerLostError
from distgrad.worker.machine import processor
from distgrad.worker.transport import DRIVER, Failed, Handle, check_returns, machine_memory, told

_CONSTANT = (bytes, str, int, float, bool, type(None), Failed)


class InProcess:
    """A `Transport` whose workers are the objects that `worker_factory(number)` makes."""

    def __init__(self, workers: int, worker_factory: Callable[[int], Any]):
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.workers = workers
        self.processors = [processor()] * workers
        self.origin = "began in this process"
        self._workers: list[Any] = [worker_factory(number) for number in range(workers)]
        self._closed = False

    def call(self, worker: int, method: str, args: tuple[Any, ...], returns: int) -> list[Handle]:
        """Run the method now. An exception waits in the handles until `get`."""
        self._check()
        target = self._workers[worker]
        sent = [a.ref if type(a) is Handle else _Sent(a) for a in args]
        try:
            if target is None:
                raise _lost(worker)
            values = getattr(target, method)(*[s.read() for s in sent])
            check_returns(method, values, returns)
            results = [_Sent(v) for v in values]
        except Exception as error:
            results = [_Sent(Failed(told(error)))] * returns
        return [Handle(worker, result) for result in results]

    def get(self, handles: list[Handle], timeout: float | None = None) -> list[Any]:
        """The values, or the first error among them."""
        self._check()
        return [handle.ref.read() for handle in handles]

    def put(self, value: Any) -> Handle:
        """Copy a value."""
        self._check()
        return Handle(DRIVER, _Sent(value))

    def wait(self, handles: list[Handle], timeout: float | None = None) -> list[bool]:
        """All are ready: a call is over when `call` returns."""
        self._check()
        return [True] * len(handles)

    def alive(self) -> list[bool]:
        """Whether each worker is there, which it is unless `lose` took it."""
        self._check()
        return [worker is not None for worker in self._workers]

    def lose(self, worker: int) -> None:
        """Act as if the worker's process had died, so that recovery can be tried without one."""
        self._workers[worker] = None

    def nodes(self) -> list[dict[str, Any]]:
        """This machine, once for each worker."""
        self._check()
        total, available = machine_memory()
        here = {
            "node": platform.node(),
            "ip": "127.0.0.1",
            "pid": os.getpid(),
            "total": total,
            "available": available,
        }
        return [dict(here) for _ in range(self.workers)]

    def close(self) -> None:
        """Drop the workers and what they hold."""
        self._closed = True
        self._workers = [None] * self.workers

    def _check(self) -> None:
        if self._closed:
            raise DistgradError("this session is closed")


class _Sent:
    """A value, pickled with its buffers apart, as Ray does it.

    So every reader has lists and maps of its own, and arrays that share memory and are read-only.
    """

    __slots__ = ("buffers", "data")

    def __init__(self, value: Any):
        self.data, self.buffers = value, None
        if type(value) not in _CONSTANT:
            buffers: list[pickle.PickleBuffer] = []
            self.data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
            self.buffers = [bytes(b.raw()) for b in buffers]

    def read(self) -> Any:
        """The value for one more reader, or the error raised."""
        if type(self.data) is Failed:
            raise self.data.fresh() from None
        return self.data if self.buffers is None else pickle.loads(self.data, buffers=self.buffers)


def _lost(worker: int) -> WorkerLostError:
    return WorkerLostError(f"worker {worker} is lost: it was ended by lose()")
