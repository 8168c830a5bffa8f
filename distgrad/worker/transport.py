"""How the driver speaks to its workers: `Transport`, and what every transport does alike.

There are two: `InProcess` runs the workers in the driver's own process, `distgrad.cluster` runs each in a Ray actor.
A program cannot tell them apart by its results: calls of one worker run in the order they were made, a value that
goes in or out is a copy (an array that comes out is read-only), an error is raised where a value is asked for.
"""

from __future__ import annotations

import copy
import os
import resource
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, Protocol

from distgrad.errors import DistgradError, WorkerError

DRIVER = -1  # in place of a worker's number: a value that the driver put


@dataclass(slots=True, eq=False)
class Handle:
    """One value that a call gives, there or still to come. The value is freed when its last handle is gone.

    A handle is an argument of its own; it cannot be sent inside a list, since a value inside a list would not be
    resolved before the method runs.
    """

    worker: int  # the worker whose call gives the value, or DRIVER
    ref: Any  # the transport's own

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Handle must be an argument of its own, not a part of one")


class Transport(Protocol):
    """A fixed number of workers and the ways to call them. Not for several threads at once."""

    workers: int
    processors: list[str]  # the kind of each worker's processor: `machine.processor()` there
    origin: str  # what was done to have them, such as "started a local Ray"

    def call(self, worker: int, method: str, args: tuple[Any, ...], returns: int) -> list[Handle]:
        """Have `worker` run `method(*args)`, and return at once with a handle for each of its `returns` values.

        The calls of one worker run in the order they were made. A `Handle` in `args` stands for its value, which
        goes to the worker without passing through the driver; make the call that gives it first, because a worker
        waits for its arguments in order. The method returns a tuple of `returns` values. Errors are raised by `get`:
        those of the method, those of a call that an argument came from (the method does not run then), and the loss
        of the worker. With `returns=0` there is nothing to ask for, and nothing is heard of an error.
        """
        ...

    def get(self, handles: list[Handle], timeout: float | None) -> list[Any]:
        """Wait for values and return them, in order. Arrays are read-only.

        Raises `WorkerError` for an exception in a method, with its type and text (a `DistgradError` keeps its type);
        `WorkerLostError` that names the worker if its process ended before the value was made; `TimeoutError` after
        `timeout` seconds. The handles stay good, so that it can be asked again.
        """
        ...

    def put(self, value: Any) -> Handle:
        """Hand over a value once that several calls take as an argument."""
        ...

    def wait(self, handles: list[Handle], timeout: float | None) -> list[bool]:
        """Which values are there, or have failed, once all are or `timeout` seconds have passed. Raises nothing."""
        ...

    def alive(self) -> list[bool]:
        """For each worker, whether its process is known to run. Costs no call; a death shows after some 10 ms."""
        ...

    def nodes(self) -> list[dict[str, Any]]:
        """For each worker the machine it is on: `node` (an id), `ip`, `pid`, and in bytes `total` and `available`.

        The figures in bytes are those of the whole machine, or of the container: workers with the same `node` share
        them.
        """
        ...

    def close(self) -> None:
        """End the workers. May be called twice; any other method fails afterwards."""
        ...


@dataclass(slots=True, eq=False)
class Failed:
    """What a call that failed gives in place of each value, and so what a call that takes such a value gives."""

    error: DistgradError

    def fresh(self) -> DistgradError:
        """The error, to be raised: a copy, because raising one again would add to its traceback."""
        return copy.copy(self.error)


def told(error: Exception) -> DistgradError:
    """What the driver is told of an exception in a worker's method: its type and text, no traceback, no frames."""
    if isinstance(error, DistgradError):
        return copy.copy(error)
    return WorkerError(f"{type(error).__name__}: {error}")


def check_returns(method: str, values: Any, returns: int) -> None:
    """Hold a method to its word: a tuple of as many values as the caller expects."""
    if type(values) is not tuple or len(values) != returns:
        found = f"a tuple of {len(values)}" if type(values) is tuple else type(values).__name__
        raise TypeError(f"{method} must return a tuple of {returns}, got {found}")


def machine_memory() -> tuple[int, int]:
    """Bytes of memory of this machine, or of this container if it has less: in all, and available now."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = total
    if sys.platform == "linux":
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
        for limit, used in _container_memory():
            if limit < total:
                total = limit
            available = min(available, max(0, limit - used))
    return total, available


def resident() -> int:
    """Bytes of memory that this process has."""
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _container_memory() -> list[tuple[int, int]]:
    """Limit and use of the control groups around this process; nothing where there are none."""
    found = []
    for root, limit, used in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),  # version 2, then 1
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        own = root / _own_group(root.name)
        for folder in (own, *own.parents[: len(own.parts) - len(root.parts)]):
            try:
                most = (folder / limit).read_text().strip()
                if most == "max":
                    continue
                now = int((folder / used).read_text())
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                cache = int(
                    stat.get("total_inactive_file", stat.get("inactive_file", "0"))
                )  # given back under pressure
                found.append((int(most), now - cache))
            except (OSError, ValueError):
                continue
    return found


@cache
def _own_group(controller: str) -> str:
    """The path of this process's control group below the root that it sees."""
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if (names == "") == (controller == "cgroup") and (names == "" or controller in names.split(",")):
                return path.lstrip("/")
    except (OSError, ValueError):
        pass
    return ""
