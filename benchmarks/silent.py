"""Workers that do nothing: what is left of a step's time is the driver's own."""

from __future__ import annotations

from typing import Any

import msgpack

from distgrad.worker.transport import Handle

ROOM = 1 << 40  # bytes that each worker claims to have
REPLY = msgpack.packb({"failures": [], "small": []})


class Silent:
    """A `Transport` that acknowledges every call at once. Nothing can be read from its workers."""

    def __init__(self, workers: int):
        self.workers = workers
        self.calls = 0
        self.handles = 0  # arguments that stand for values of earlier calls
        self.runs = 0  # calls of programs
        self.bytes = 0  # of their headers

    def call(self, worker: int, method: str, args: tuple[Any, ...], returns: int) -> list[Handle]:
        """Count the call."""
        self.calls += 1
        if method == "run":
            self.handles += len(args) - 2
            self.runs += 1
            self.bytes += len(args[0])
        elif method == "bundle":
            self.handles += len(args)
        return [Handle(worker, REPLY) for _ in range(returns)]

    def get(self, handles: list[Handle], timeout: float | None = None) -> list[Any]:
        """Success, for each."""
        return [handle.ref for handle in handles]

    def put(self, value: Any) -> Handle:
        """Drop the value."""
        return Handle(-1, REPLY)

    def wait(self, handles: list[Handle], timeout: float | None = None) -> list[bool]:
        """All are ready."""
        return [True] * len(handles)

    def alive(self) -> list[bool]:
        """All are there."""
        return [True] * self.workers

    def nodes(self) -> list[dict[str, Any]]:
        """A machine with much memory for each."""
        return [
            {"node": str(w), "ip": "", "pid": 0, "total": ROOM, "available": ROOM}
            for w in range(self.workers)
        ]

    def close(self) -> None:
        """Nothing to end."""
