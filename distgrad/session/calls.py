"""Calls to the workers: what is sent, what is on its way, what came back and what went wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgpack
import numpy as np

from distgrad.caching import Cache
from distgrad.callsites import CallSite, origin
from distgrad.errors import DistgradError, WorkerError
from distgrad.exchange import Failure, routing
from distgrad.exchange.boxes import unpack_large, unpack_small
from distgrad.fields import pack_array
from distgrad.plan.explain import Held
from distgrad.program import Send
from distgrad.session import measure
from distgrad.session.failures import fresh, worker_error
from distgrad.worker.transport import Handle, Transport

ERRORS = 4 << 20  # bytes of errors that are kept for those who may still read what failed
UNTOLD = 100  # errors that wait to be told to somebody: the first are
IN_FLIGHT = 12  # stages that may be on their way before the driver waits for the oldest


class Box(NamedTuple):
    """What the workers sent at the end of a stage, as handles: of each worker, and for "each" to each worker."""

    serial: int
    replies: list[Handle]
    large: list[Handle]
    each: list[dict[int, Handle]]  # [receiver][sender]
    bundle: list[Handle]  # of all replies, once that was asked for

    def only(self, channel: str) -> Box:
        """The box with nothing in it but what one channel needs, so that no more is kept alive."""
        small = channel == "small"
        return Box(
            self.serial,
            self.replies if small else [],
            self.large if channel == "large" else [],
            self.each if channel == "each" else [],
            self.bundle if small else [],
        )


class _Call(NamedTuple):
    """A stage on its way: where to read its failures, and whose they are."""

    serial: int
    replies: list[Handle]
    sites: Sequence[CallSite | None]  # of each step
    freed: list[int]  # what it was to free
    keep: Sequence[int]  # what it is to store
    most: int  # the bytes that this takes of a worker, at the most


class _Untold(NamedTuple):
    """What went wrong and nobody was told, and whether it did so in a backward pass."""

    error: WorkerError
    in_pass: bool


class Calls:
    """The calls of one session, in order."""

    def __init__(self, transport: Transport, epoch: int, timeout: float | None):
        self.transport = transport
        self.workers = transport.workers
        self.epoch = epoch
        self.timeout = timeout
        # Ids to be freed by the next call; filled by __del__, so at any moment.
        self.freed: deque[int] = deque()
        # For each id the bytes that it takes of each worker; none: it lies in the memory of another id.
        self.stored: dict[int, tuple[int, ...]] = {}
        self._ahead: dict[int, tuple[int, ...]] = {}  # those of calls that were not heard of yet
        self._serial = 0
        self._last_id = 0
        self._in_flight: deque[_Call] = deque()
        # What went wrong, by call and step; those of it that nobody was told; and a call that was refused as a whole.
        self._errors: Cache[tuple[int, int], WorkerError] = Cache(
            ERRORS, lambda _, error: 500 + len(str(error))
        )
        self._untold: dict[tuple[int, int], _Untold] = {}
        self.passes: set[tuple[Any, int]] = set()  # places at which users have begun backward passes
        self._forward_failed = False  # since the last check
        self._refused: DistgradError | None = None
        self.waits = True  # whether `run` waits, if too many stages are on their way

    def new_ids(self, taken: Sequence[tuple[int, ...]]) -> range:
        """Ids to store values under that take so many bytes of each worker."""
        first = self._last_id + 1
        self._last_id += len(taken)
        made = range(first, first + len(taken))
        self.stored.update(zip(made, taken, strict=True))
        return made

    def held(self) -> list[Held]:
        """For each worker the bytes that it stores, and those of them that the next call frees."""
        stored = self._bytes(self.stored.values())
        return [Held(*both) for both in zip(stored, self.freed_bytes(), strict=True)]

    def freed_bytes(self) -> list[int]:
        """For each worker the bytes that the next call frees."""
        return self._bytes([self.stored.get(i, ()) for i in list(self.freed)])

    def ahead_at_most(self) -> int:
        """Bytes that no worker stores, or will, more of in calls that were not heard of yet; known without counting."""
        return sum([call.most for call in self._in_flight])

    def ahead_bytes(self) -> list[int]:
        """For each worker the bytes that it stores, or will, in calls that were not heard of yet."""
        return self._bytes(self._ahead.values())

    def _bytes(self, taken: Iterable[tuple[int, ...]]) -> list[int]:
        return [sum(each) for each in zip(*filter(None, taken), strict=True)] or [0] * self.workers

    def take_freed(self) -> list[int]:
        """The ids that the next call is to free."""
        freed = []
        while self.freed:
            number = self.freed.popleft()
            self.stored.pop(number, None)
            self._ahead.pop(number, None)
            freed.append(number)
        return freed

    def run(
        self,
        program: bytes,
        *,
        inputs: Sequence[int] = (),
        keep: Sequence[int] = (),
        most: int = 0,
        donate: Sequence[int] = (),
        feeds: Sequence[np.ndarray] = (),
        boxes: Sequence[tuple[tuple[str, ...], Box]] = (),
        returns: tuple[str, ...] = (),
        sends: tuple[Send, ...] = (),
        sites: Sequence[CallSite | None] = (),
    ) -> Box:
        """Send one program to every worker. Waits only if it may, and too many stages are on their way.

        What it is to `keep` takes at `most` so many bytes of a worker. `boxes` are (channels, box) of what the program
        receives, `returns` the channels of what it sends, which are the program's `sends`. What is to `donate`, of the
        inputs, may be written over.
        """
        self._serial += 1
        freed = self.take_freed()
        header = msgpack.packb(
            {
                "serial": self._serial,
                "epoch": self.epoch,
                "workers": self.workers,
                "inputs": inputs,
                "keep": keep,
                "feeds": [pack_array(a) for a in feeds],
                "free": freed,
                "donate": donate,
                "stash": [box.serial for _, box in boxes],
                "profile": measure.active is not None,
            }
        )
        own = 1 + ("large" in returns)
        receivers = routing.addressed(sends, self.workers) if "each" in returns else ()
        sent = Box(self._serial, [], [], [{} for _ in receivers], [])
        try:
            for worker in range(self.workers):
                args = (header, program, *self._received(boxes, worker))
                to = receivers[worker] if receivers else ()
                handles = self.transport.call(worker, "run", args, own + len(to))
                sent.replies.append(handles[0])
                if "large" in returns:
                    sent.large.append(handles[1])
                for receiver, handle in zip(to, handles[own:], strict=True):
                    sent.each[receiver][worker] = handle
        except BaseException:  # some workers may not have heard of it
            self.freed.extend(freed)
            raise
        for number in donate:
            self.stored.pop(number, None)
            self._ahead.pop(number, None)
        self._ahead.update({number: self.stored[number] for number in keep if number in self.stored})
        self._in_flight.append(_Call(self._serial, sent.replies, sites, [*freed, *donate], keep, most))
        if self.waits:
            self.make_room()
        return sent

    def make_room(self) -> None:
        """Wait until no more calls are on their way than may be."""
        while len(self._in_flight) > IN_FLIGHT:
            self._collect()

    def _received(self, boxes: Sequence[tuple[tuple[str, ...], Box]], worker: int) -> list[Any]:
        args: list[Any] = []
        for channels, box in boxes:
            for channel in channels:
                if channel == "each":
                    args += [list(box.each[worker]), *box.each[worker].values()]
                elif channel == "small" and self.workers > routing.FAN:
                    args += self._bundled(box)
                else:
                    args += box.replies if channel == "small" else box.large
        return args

    def _bundled(self, box: Box) -> list[Handle]:
        """One handle that stands for the replies of all workers."""
        if not box.bundle:
            fan, parts = routing.FAN, box.replies
            while len(parts) > 1:
                groups = [(n % self.workers, parts[n : n + fan]) for n in range(0, len(parts), fan)]
                parts = [self.transport.call(at, "bundle", tuple(group), 1)[0] for at, group in groups]
            box.bundle.extend(parts)
        return box.bundle

    def get(self, handles: list[Handle]) -> list[Any]:
        """Wait for results."""
        return self.transport.get(handles, self.timeout)

    def answer(self, handle: Handle) -> list[Any]:
        """The arrays that a worker gives. Waits. If they failed, that is raised."""
        try:
            (items,) = unpack_large(self.get([handle]))
        except DistgradError:
            self.drain()
            self._raise_refused()
            raise
        if isinstance(items, Failure):
            raise self.told(items)
        return items

    def read(self, box: Box, channel: str, position: int) -> list[Any]:
        """What each worker sent to all, at one position of a channel. Waits. A failure there is raised."""
        try:
            if channel == "small":
                items = [unpack_small(reply)[position] for reply in self.get(box.replies)]
            else:
                items = [unpack_large(sent)[position] for sent in self.get(box.large)]
        except DistgradError:  # perhaps because an earlier call was refused, which says more
            self.drain()
            self._raise_refused()
            raise
        failure = next((item for item in items if isinstance(item, Failure)), None)
        if failure is not None:
            raise self.told(failure)
        return items

    def told(self, failure: Failure) -> WorkerError:
        """The error of a failure, to be raised to whoever asked for what failed. Waits for all calls."""
        self.drain()
        key = failure.serial, failure.step
        self._untold.pop(key, None)
        return fresh(self._known(key) or worker_error(failure, None))

    def _known(self, key: tuple[int, int]) -> WorkerError | None:
        return self._errors.get(key) or self._errors.again(key)

    def check(self) -> None:
        """Wait for all calls, and raise the first failure if it was not told yet; the others count as told with it."""
        self.drain()
        self._raise_refused()
        errors = self._errors_untold()
        self._untold.clear()
        self._forward_failed = False
        for error in errors:
            raise fresh(error)

    def untold(self) -> list[DistgradError]:
        """What went wrong and was not told yet, as far as the workers have answered."""
        while self._in_flight and all(self.transport.wait(self._in_flight[0].replies, 0)):
            self._collect()
        return [*self._errors_untold()]

    def _errors_untold(self) -> list[WorkerError]:
        """A bad index fails in forward and again in backward: of these it is the failure of forward that is told."""
        return [u.error for u in self._untold.values() if not (u.in_pass and self._forward_failed)]

    def _raise_refused(self) -> None:
        refused, self._refused = self._refused, None
        if refused is not None:
            raise fresh(refused)

    def drain(self) -> None:
        """Wait for all calls."""
        while self._in_flight:
            self._collect()

    def _member(self, worker: int) -> str:
        """Which worker that is, and where."""
        try:
            place = self.transport.nodes()[worker]
        except DistgradError:  # it has ended since
            return f"worker {worker}"
        return f"worker {worker} (process {place['pid']} on {place['ip']})"

    def _heard_of(self, call: _Call) -> None:
        """The oldest call is over."""
        self._in_flight.popleft()
        for number in call.keep:
            self._ahead.pop(number, None)

    def _collect(self) -> None:
        """Take the answers to the oldest call. Failures that were only passed on are its maker's."""
        call = self._in_flight[0]
        try:
            replies = self.get(call.replies)
        except DistgradError as refused:  # after anything else, such as Ctrl-C, the call is asked for again
            self._heard_of(call)
            self.freed.extend(call.freed)  # a worker that was handed an error did not run, and freed nothing
            self._refused = self._refused or refused
            return
        self._heard_of(call)
        told = [msgpack.unpackb(reply, raw=False) for reply in replies]
        if measure.active is not None and all("profile" in reply for reply in told):
            figures = [reply["profile"] for reply in told]
            measure.active.returned(self.epoch, call.serial, call.sites, figures)
        for worker, reply in enumerate(told):
            for raw in reply["failures"]:
                failure = Failure(*raw)
                key = (failure.serial, failure.step)
                if failure.serial == call.serial and self._known(key) is None:
                    where = call.sites[failure.step] if 0 <= failure.step < len(call.sites) else None
                    at = origin(where) if where is not None else None
                    error = worker_error(failure, at, partial(self._member, worker))
                    self._errors.keep(key, error)
                    in_pass = where is not None and where[1:] in self.passes
                    self._forward_failed = self._forward_failed or not in_pass
                    if len(self._untold) < UNTOLD:
                        self._untold[key] = _Untold(error, in_pass)
