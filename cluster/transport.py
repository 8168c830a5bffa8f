"""`RayTransport`: the calls to workers that live in Ray actors."""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Callable
from typing import Any

import ray
import ray.exceptions as rx

from distgrad.errors import DistgradError, WorkerLostError
from distgrad.worker.transport import DRIVER, Failed, Handle, machine_memory

_DEAD = 4  # ActorTableData.ActorState.DEAD
_PATIENCE = 0.2  # seconds that `nodes` waits for a busy worker of another machine
_PLACE = ("node", "ip", "pid", "total", "available")


class RayTransport:
    """A `Transport` over Ray actors; `distgrad.cluster.start` makes one.

    A call costs the driver 0.1 ms (two cores, Ray 2.60), and there and back takes 0.7 to 0.9 ms. A value of more than
    100 KB goes through Ray's object store, which adds 2 to 3 ms, and is read there without a copy by all workers of
    the node.
    """

    def __init__(
        self, actors: list[Any], places: list[dict[str, Any]], leave: Callable[[], None], origin: str = ""
    ):
        self.workers = len(actors)
        self._actors = actors
        self._places = places
        self.processors = [place["processor"] for place in places]
        self.origin = origin
        self._leave = leave  # ends our use of Ray, and Ray too if nobody else has a use for it
        self._number = {actor._actor_id.hex(): number for number, actor in enumerate(actors)}
        self._remote: list[dict[int, Callable[..., Any]]] = [{} for _ in actors]
        self._dead: set[int] = set()
        self._asked: dict[str, Any] = {}  # by node: a question about its memory that is not answered yet
        self._open = True
        self._pid = os.getpid()
        self._here = ray.get_runtime_context().get_node_id()
        atexit.register(self.close)  # runs before Ray's own, which was registered earlier

    def call(self, worker: int, method: str, args: tuple[Any, ...], returns: int) -> list[Handle]:
        """Submit a call: 0.1 ms. Does not wait."""
        self._check()  # 0.2 µs; without it Ray would start anew by itself if the user had shut it down
        remote = self._remote[worker].get(returns)
        if remote is None:
            # `options` would cost as much as the call itself, so what it gives is kept.
            remote = self._actors[worker].call.options(num_returns=returns).remote
            self._remote[worker][returns] = remote
        refs = remote(method, returns, *[a.ref if type(a) is Handle else a for a in args])
        if returns == 1:
            return [Handle(worker, refs)]
        return [Handle(worker, ref) for ref in refs] if returns else []

    def get(self, handles: list[Handle], timeout: float | None = None) -> list[Any]:
        """Wait for values. The loss of a worker shows some 10 ms after it, also where calls are queued behind."""
        self._check()
        failure: DistgradError | TimeoutError | None = None
        try:
            values = ray.get([handle.ref for handle in handles], timeout=timeout)
        except rx.GetTimeoutError:
            ready = self.wait(handles, 0)
            slow = sorted({h.worker for h, there in zip(handles, ready, strict=True) if not there})
            failure = TimeoutError(f"no answer within {timeout} s from {_named(slow)}")
        except rx.RayError as error:
            failure = self._translated(error, handles)
        if failure is None:
            failure = next((value.fresh() for value in values if type(value) is Failed), None)
        if failure is not None:
            raise failure
        return values

    def put(self, value: Any) -> Handle:
        """Put a value into the object store of the driver's node: 1 ms, and worth it for a large one."""
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
            if number not in self._dead and actor._get_local_state() == _DEAD:
                self._dead.add(number)
        return [number not in self._dead for number in range(self.workers)]

    def nodes(self) -> list[dict[str, Any]]:
        """Each worker's place.

        On the driver's node the bytes available are those of now; on others those last heard. One worker of each
        node is asked, and one that is busy answers the next time. What Ray wants to stay free does not count: it ends
        workers where there is less.
        """
        alive = self.alive()
        for number, place in enumerate(self._places):
            if place["node"] != self._here and place["node"] not in self._asked and alive[number]:
                self._asked[place["node"]] = self._actors[number].memory.remote()
        asked = {ref: node for node, ref in self._asked.items()}
        for ref in ray.wait(list(asked), num_returns=len(asked), timeout=_PATIENCE)[0] if asked else []:
            del self._asked[asked[ref]]
            try:
                self._note(asked[ref], *ray.get(ref, timeout=_PATIENCE))
            except rx.RayError:  # it died, or its node did: the figures of before stay
                continue
        self._note(self._here, *machine_memory())
        places = [{key: place[key] for key in _PLACE} for place in self._places]
        for place in places:
            place["available"] = max(0, place["available"] - int(place["total"] * _kept_free()))
        return places

    def close(self) -> None:
        """End the actors, and Ray as well if it was started for them."""
        if not self._open or self._pid != os.getpid():  # a forked child has no part in its parent's Ray
            return
        self._open = False
        atexit.unregister(self.close)
        actors, self._actors, self._remote = self._actors, [], [{} for _ in self._actors]
        self._asked.clear()
        if ray.is_initialized():
            for actor in actors:
                ray.kill(actor)
        self._leave()

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise DistgradError(
                f"this session belongs to process {self._pid}. Process {os.getpid()} was forked from it and cannot use "
                'it: start such processes by multiprocessing\'s "spawn", or read what they need before they start'
            )
        if not self._open:
            raise DistgradError("this session is closed")
        if not ray.is_initialized():
            raise DistgradError("Ray was shut down under this session: start a new one")

    def _note(self, node: str, total: int, available: int) -> None:
        for place in self._places:
            if place["node"] == node:
                place["total"], place["available"] = total, available

    def _translated(self, error: BaseException, handles: list[Handle]) -> DistgradError:
        """What a user is told of an error of Ray's."""
        while isinstance(error, rx.RayTaskError) and isinstance(error.cause, Exception):
            error = error.cause  # a call whose argument is lost carries the error of the argument
        if isinstance(error, rx.RayActorError) and error.actor_id in self._number:
            number = self._number[error.actor_id]
            self._dead.add(number)
            if isinstance(
                error, rx.ActorUnavailableError
            ):  # what it did is not known: it is of no use any more
                ray.kill(self._actors[number])
            place = self._places[number]
            return WorkerLostError(
                f"worker {number} (process {place['pid']} on {place['ip']}) is lost: {_reason(str(error))}"
            )
        if isinstance(
            error, (rx.RayActorError, rx.ObjectLostError, rx.OutOfMemoryError, rx.ActorUnschedulableError)
        ):
            lost = [number for number, alive in enumerate(self.alive()) if not alive]
            return WorkerLostError(f"{_named(lost)} lost with the values asked for: {_reason(str(error))}")
        return DistgradError(f"{type(error).__name__} from Ray: {error}")


def _kept_free() -> float:
    """The share of a machine's memory below which Ray's memory monitor ends processes."""
    try:
        return 1 - float(os.environ.get("RAY_memory_usage_threshold", "0.95"))  # noqa: SIM112 - as Ray has it
    except ValueError:
        return 0.05


def _named(workers: list[int]) -> str:
    return f"worker{'s' * (len(workers) != 1)} {', '.join(map(str, workers)) or 'unknown'}"


def _reason(text: str) -> str:
    """The part of Ray's text that tells one death from another."""
    if "NODE_OUT_OF_MEMORY" in text or "running low on memory" in text:
        return "Ray ended it because its machine was running out of memory"
    found = re.search(r"because (it was killed by .ray\.kill.|its node has died)", text)
    if found:
        return found[1]
    if "temporarily unavailable" in text:
        return "it cannot be reached (its machine, its node's Ray or the network failed)"
    if "worker process has died" in text:
        return "its process ended (a crash, a signal, or the system's own killer when memory is short)"
    return (text.strip().splitlines() or ["for a reason unknown"])[-1].strip()
