"""A worker for tests of the transports, and its end."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import numpy as np
import pytest
import ray

from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import Transport

needs_proc = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks at processes through /proc"
)

T = 60  # seconds; no test comes near

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors cannot import the tests


class Dummy:
    """A worker that shows what reaches it."""

    def __init__(self, number: int, start: int = 0):
        self.number = number
        self.log: list[Any] = [start]
        self.kept = np.zeros(0)

    def note(self, item: Any) -> tuple[Any, ...]:
        self.log.append(item)
        return (item,)

    def tell(self) -> tuple[Any, ...]:
        return (self.number, list(self.log), os.getpid())

    def nothing(self) -> tuple[Any, ...]:
        self.log.append("nothing")
        return ()

    def add(self, a: Any, b: Any) -> tuple[Any, ...]:
        return (a + b,)

    def keep(self, array: np.ndarray) -> tuple[Any, ...]:
        self.kept = array
        return (array.flags.writeable,)

    def kept_sum(self) -> tuple[Any, ...]:
        return (float(self.kept.sum()),)

    def make(self, size: int) -> tuple[Any, ...]:
        self.kept = np.ones(size, np.float32)
        return ({"array": self.kept}, self.kept)

    def spoil(self) -> tuple[Any, ...]:
        self.kept += 1
        return ()

    def fail(self, error: Exception) -> tuple[Any, ...]:
        self.log.append("failed")
        raise error

    def wrong(self) -> Any:
        return [1, 2]

    def sleep(self, seconds: float) -> tuple[Any, ...]:
        time.sleep(seconds)
        return (seconds,)

    def variables(self) -> tuple[Any, ...]:
        return ({name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")},)


def end(transport: Transport, worker: int) -> None:
    """End a worker as a crash would."""
    if isinstance(transport, InProcess):
        transport.lose(worker)
    else:
        os.kill(transport.nodes()[worker]["pid"], signal.SIGKILL)
