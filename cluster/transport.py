"""`RayTransport`: the calls to workers that live in Ray actors."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any, NoReturn

import ray
import ray.exceptions as rx

from distgrad.errors import DistgradError, WorkerError, WorkerLostError
from distgrad.worker.transport import DRIVER, Handle, machine_memory

DEAD = 4  # ActorTableData.ActorState.DEAD
PATIENCE = 0.2  # seconds that `nodes` waits for a busy worker of another machine


class RayTransport:
    """A `Transport` over Ray actors. `distgrad.cluster.start` makes one.

    A call costs the driver 0.1 to 0.3 ms and each value that it returns some 10 µs more; a value over 100 KB goes
    through Ray's object store, which costs 2 to 3 ms, and is read there without a copy by the workers of the node.
    """

    def __init__(self, actors: list[Any], places: list[dict[str, Any]], leave: Callable[[], None]):
        self.workers = len(actors)
        self._actors = actors
        self._places = places
        self._leave = leave  # ends our use of Ray, and Ray too if nobody else has a use for it
        self._number = {actor._actor_id.hex(): number for number, actor in enumerate(actors)}
        self._remote: list[dict[int, Callable[..., Any]]] = [{} for _ in actors]  # `.options()` is slow: kept by returns
        self._dead: set[int] = set()
        self._asked: dict[str, Any] = {}  # by node: a question about its memory that is not answered yet
        self._open = True
        self._pid = os.getpid()
        self._here = ray.get_runtime_context().get_node_id()
        atexit.register(self.close)  # runs before Ray's own, which was registered earlier

    def call(self, worker: int, method: str, args: tuple[Any, ...], returns: int) -> list[Handle]:
        """Submit a call; does not wait."""
        remote = self._remote[worker].get(returns)
        if remote is None:
            self._check()
            actor = self._actors[worker]
            remote = self._remote[worker][returns] = actor.call.options(num_returns=returns).remote
        refs = remote(method, returns, *[a.ref if type(a) is Handle else a for a in args])
        if returns == 1:
            return [Handle(worker, refs)]
        return [Handle(worker, ref) for ref in refs] if returns else []

    def get(self, handles: list[Handle], timeout: float | None = None) -> list[Any]:
        """Wait for values. A lost worker shows after some 10 ms, also behind calls that are queued."""
        self._check()
        try:
            return ray.get([handle.ref for handle in handles], timeout=timeout)
        except rx.RayError as error:
            failure: BaseException = error
        if isinstance(failure, rx.GetTimeoutError):
            ready = self.wait(handles, 0)
            slow = sorted({h.worker for h, there in zip(handles, ready, strict=True) if not there})
            raise TimeoutError(f"no answer within {timeout} s from workers {slow}")
        self._fail(failure, handles)

    def put(self, value: Any) -> Handle:
        """Put a value into the driver's node's store. It costs 1 ms, and is worth it for large values."""
        self._check()
        return Handle(DRIVER, ray.put(value))

    def wait(self, handles: list[Handle], timeout: float | None = None) -> list[bool]:
        """Which values are there, or have failed."""
        self._check()
        refs = list({handle.ref: None for handle in handles})
        if not refs:
            return []
        ready = set(ray.wait(refs, num_returns=len(refs), timeout=timeout, fetch_local=False)[0])
        return [handle.ref in ready for handle in handles]

    def alive(self) -> list[bool]:
        """What Ray has told this process of the workers."""
        self._check()
        for number, actor in enumerate(self._actors):
            if number not in self._dead and actor._get_local_state() == DEAD:
                self._dead.add(number)
        return [number not in self._dead for number in range(self.workers)]

    def nodes(self) -> list[dict[str, Any]]:
        """Each worker's place. The bytes available are those of now on the driver's node; on others those last heard:
        one worker of each is asked, and one that is busy answers the next time.
        """
        alive = self.alive()
        for number, place in enumerate(self._places):
            if place["node"] != self._here and place["node"] not in self._asked and alive[number]:
                self._asked[place["node"]] = self._actors[number].place.remote()
        if self._asked:
            asked = {ref: node for node, ref in self._asked.items()}
            for ref in ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE)[0]:
                del self._asked[asked[ref]]
                try:
                    heard = ray.get(ref, timeout=PATIENCE)
                except rx.RayError:
                    continue
                self._note(asked[ref], heard["total"], heard["available"])
        self._note(self._here, *machine_memory())
        return [{k: place[k] for k in ("node", "ip", "pid", "total", "available")} for place in self._places]

    def close(self) -> None:
        """End the actors, and Ray if `start` started it."""
        atexit.unregister(self.close)
        if not self._open or self._pid != os.getpid():  # a forked child has no part in its parent's Ray
            return
        self._open = False
        actors, self._actors, self._remote = self._actors, [], [{} for _ in self._actors]
        self._asked.clear()
        if ray.is_initialized():
            for actor in actors:
                ray.kill(actor)
        self._leave()

    def _check(self) -> None:
        if not self._open:
            raise DistgradError("this session is closed")
        if not ray.is_initialized():
            raise DistgradError("Ray was shut down under this session: call distgrad.shutdown() and init() again")

    def _note(self, node: str, total: int, available: int) -> None:
        for place in self._places:
            if place["node"] == node:
                place["total"], place["available"] = total, available

    def _fail(self, error: BaseException, handles: list[Handle]) -> NoReturn:
        """Raise what stands behind an error of Ray's."""
        while isinstance(error, rx.RayTaskError) and isinstance(error.cause, Exception):
            error = error.cause  # a call whose argument has failed carries the error of that call
        if isinstance(error, DistgradError):
            raise error from None
        if isinstance(error, rx.RayActorError):
            number = self._number.get(error.actor_id)
            raise self._lost(number, str(error)) from None
        if isinstance(error, (rx.ObjectLostError, rx.ActorUnschedulableError, rx.WorkerCrashedError)):
            raise self._lost(None, str(error)) from None
        if isinstance(error, rx.RayError):
            raise DistgradError(f"Ray failed: {type(error).__name__}: {error}") from None
        raise WorkerError(f"{type(error).__name__}: {error}") from None

    def _lost(self, number: int | None, why: str) -> WorkerLostError:
        return WorkerLostError(why)
