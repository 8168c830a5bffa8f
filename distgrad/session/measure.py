"""What is collected while a profile is on: the driver's times here, the workers' figures from their replies."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import Any, NamedTuple, Protocol

from distgrad.callsites import CallSite, Origin, origin
from distgrad.plan.capture import Capture
from distgrad.plan.explain import Predicted, counted, peaks, predicted
from distgrad.plan.plans import Plan, Stage
from distgrad.worker.transport import Handle, Transport

EVENTS = 100_000  # events of a trace; what happens later is counted, and not drawn
DRIVER = -1  # in place of a worker's number

active: Measure | None = None  # what a profile that is on writes to


class Session(Protocol):
    """What is measured."""

    transport: Any
    calls: Any


class Event(NamedTuple):
    """Something that took time, on a worker or in the driver; `begin` in seconds of the driver's `perf_counter`."""

    name: str
    worker: int
    begin: float
    seconds: float
    args: dict[str, Any]


@dataclass
class Row:
    """What one op, called at one line, was predicted to take and took, on all workers together."""

    op: str
    file: str
    line: int
    calls: int = 0
    flops: float = 0.0
    bytes: int = 0  # of its results
    seconds: float = 0.0


class _Sent(NamedTuple):
    stage: Stage
    costs: Predicted


@dataclass
class Measure:
    """The sums and events of one profile."""

    begun: float = field(default_factory=perf_counter)
    clock: float = field(default_factory=lambda: time() - perf_counter())
    own: float = 0.0  # seconds spent on predicting, which no run without a profile spends
    plan: float = 0.0
    submit: float = 0.0
    wait: float = 0.0
    inside: float = 0.0  # seconds of workers in this process, which are part of `submit`
    calls: int = 0
    busy: list[float] = field(default_factory=list)
    peak: list[list[int]] = field(default_factory=lambda: [[], []])  # predicted and measured, for each worker
    moved: list[int] = field(default_factory=lambda: [0, 0])  # predicted and measured
    parts: defaultdict[str, float] = field(
        default_factory=lambda: defaultdict(float)
    )  # seconds by what was done
    rows: dict[Origin, Row] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    omitted: int = 0
    _plans: dict[int, tuple[Plan, list[Predicted]]] = field(default_factory=dict)
    _sent: dict[tuple[int, int], _Sent] = field(default_factory=dict)
    _origins: dict[CallSite, Origin] = field(default_factory=dict)
    _offsets: dict[int, float] = field(default_factory=dict)

    # The session that is measured

    def join(self, session: Session) -> None:
        """Measure this session from now on."""
        more = session.transport.workers - len(self.busy)
        self.busy += [0.0] * more
        for peak in self.peak:
            peak += [0] * more
        self._offsets.clear()
        session.transport = session.calls.transport = _Timed(session.transport, self)

    def leave(self, session: Session) -> None:
        """Measure it no more. Waits for what is on its way; an error of that is told when a value is read."""
        calls = session.calls
        if isinstance(calls.transport, _Timed):
            try:
                calls.drain()
            finally:
                session.transport = calls.transport = calls.transport.inner

    # The driver

    def event(self, name: str, worker: int, begin: float, seconds: float, **args: Any) -> None:
        """Note something for the trace."""
        if len(self.events) < EVENTS:
            self.events.append(Event(name, worker, begin, seconds, args))
        else:
            self.omitted += 1

    def planned(self, begin: float, captured: Capture, plan: Plan, session: Session) -> None:
        """A plan was made or found, since `begin`, and is about to be sent."""
        now = perf_counter()
        self.plan += now - begin
        self.event("plan", DRIVER, begin, now - begin, nodes=len(captured.nodes), stages=len(plan.stages))
        if id(plan) not in self._plans:
            workers = session.transport.workers
            self._plans[id(plan)] = plan, [predicted(stage, workers) for stage in plan.stages]
        for worker, most in enumerate(peaks(plan, session.calls.held())):
            self.peak[0][worker] = max(self.peak[0][worker], most)
        self.own += perf_counter() - now

    def sent(self, epoch: int, serial: int, plan: Plan, stage: int) -> None:
        """A stage was sent in the call `serial`."""
        costs = self._plans[id(plan)][1][stage]
        self._sent[epoch, serial] = _Sent(plan.stages[stage], costs)
        self.moved[0] += costs.moved

    def flushed(self, begin: float) -> None:
        """A flush is over that began at `begin`."""
        self.event("flush", DRIVER, begin, perf_counter() - begin)

    # The workers

    def returned(
        self, epoch: int, serial: int, sites: Sequence[CallSite | None], figures: Sequence[dict[str, Any]]
    ) -> None:
        """A call has come back, with what each worker has measured."""
        self.calls += 1
        sent = self._sent.pop((epoch, serial), None)
        steps = [0.0] * len(sites)
        for worker, told in enumerate(figures):
            self.busy[worker] += told["seconds"]
            self.inside += told["seconds"] if told["pid"] == os.getpid() else 0.0
            self.peak[1][worker] = max(self.peak[1][worker], told["peak"])
            self.moved[1] += told["sent"] if sent is not None else 0  # what is read goes to the driver
            for part, seconds in told["parts"].items():
                self.parts[part] += seconds
            self.omitted += told["omitted"]
            steps = [a + b for a, b in zip(steps, told["steps"], strict=True)]
            self._draw(worker, serial, sent, told)
        self.parts["steps"] += sum(steps)
        if sent is not None:
            for site, (flops, nbytes), seconds in zip(sites, sent.costs.steps, steps, strict=True):
                row = self._row(site)
                row.calls += 1
                row.flops += flops
                row.bytes += nbytes
                row.seconds += seconds

    def _row(self, site: CallSite | None) -> Row:
        if site is None:
            key = Origin("reshard", "", 0)  # a step of the planner's own
        else:
            found = self._origins.get(site)
            if found is None:
                found = self._origins[site] = origin(site)
            key = found
        if key not in self.rows:
            self.rows[key] = Row(*key)
        return self.rows[key]

    def _draw(self, worker: int, serial: int, sent: _Sent | None, told: dict[str, Any]) -> None:
        """The events of one call on one worker, by the driver's clock."""
        here = told["pid"] == os.getpid()
        offset = self._offsets.setdefault(worker, 0.0 if here else told["clock"] - self.clock)
        begin = told["begun"] + offset
        more = {key: told[key] for key in ("peak", "sent", "received")}
        self.event(f"call {serial}" if sent else "read", worker, begin, told["seconds"], **more)
        for part, seconds in told["parts"].items():
            self.event(part, worker, begin, seconds)
            begin += seconds
        for fragment, loop, shard, start, seconds in told["spans"]:
            assert sent is not None
            steps = sent.stage.program.fragments[fragment].loops[loop].steps
            name = counted(step.primitive.name for step in steps)
            self.event(name, worker, start + offset, seconds, shard=shard)


class _Timed:
    """A transport whose calls and waits are timed."""

    def __init__(self, inner: Transport, measure: Measure):
        self.inner = inner
        self.measure = measure

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def call(self, worker: int, method: str, args: tuple[Any, ...], returns: int) -> list[Handle]:
        """As the transport does it."""
        begin = perf_counter()
        try:
            return self.inner.call(worker, method, args, returns)
        finally:
            seconds = perf_counter() - begin
            self.measure.submit += seconds
            self.measure.event("submit", DRIVER, begin, seconds, to=worker, method=method)

    def get(self, handles: list[Handle], timeout: float | None) -> list[Any]:
        """As the transport does it."""
        begin = perf_counter()
        try:
            return self.inner.get(handles, timeout)
        finally:
            seconds = perf_counter() - begin
            self.measure.wait += seconds
            self.measure.event("wait", DRIVER, begin, seconds)
