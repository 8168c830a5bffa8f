"""The driver's time by the number of workers and of shards, on workers that only acknowledge.

`python -m benchmarks simulate`. Planning must not grow with either, and sending a step must grow in proportion to the
number of workers. What real workers need to resolve an argument is not in these figures; their number is.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.driver import Step, network, regression
from benchmarks.silent import Silent
from distgrad.exchange import Reduce
from distgrad.program import Slot
from distgrad.session import door
from distgrad.session.core import Session
from distgrad.sharding import Sharding

WORKERS = [1 << n for n in range(11)]
SHARDS = [1 << n for n in range(2, 17, 2)]  # one is computed in the driver
ROUNDS = 5
SHARD = 4 << 20  # bytes of a shard of the data


class Figures(NamedTuple):
    """What one step takes. Times in microseconds."""

    plan: float  # all flushes of a step planned anew
    find: float  # their plans found again: the work is gathered and its key made
    submit: float
    calls: int  # of programs, to each worker
    handles: float  # earlier results that are named, for each of those calls
    header: float  # bytes of a call's header


class Clock:
    """Sums up the time that some methods of a session take."""

    def __init__(self, session: Session):
        self.seconds = dict.fromkeys(("flush", "_planned", "_run"), 0.0)
        for name in self.seconds:
            setattr(session, name, self._timed(name, getattr(session, name)))

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return method(*args, **options)
            finally:
                self.seconds[name] += time.process_time() - start

        return timed

    def step(self, step: Step) -> dict[str, float]:
        """Microseconds by method, for one step."""
        self.seconds.update(dict.fromkeys(self.seconds, 0.0))
        gc.collect()
        step()
        door.flush()
        return {name: seconds * 1e6 for name, seconds in self.seconds.items()}


def measure(prepare: Callable[[int], Step], rows: int, workers: int) -> Figures:
    """Medians over some steps, once all that later steps reuse is there."""
    transport = Silent(workers)
    session = door.attach(transport, shard_bytes=SHARD)
    try:
        step, clock = prepare(rows), Clock(session)
        for _ in range(3):
            clock.step(step)
        before = transport.runs, transport.handles, transport.bytes
        found = [clock.step(step) for _ in range(ROUNDS)]
        counted = transport.runs, transport.handles, transport.bytes
        calls, handles, nbytes = ((now - then) / ROUNDS for now, then in zip(counted, before, strict=True))
        planned = []
        for _ in range(ROUNDS):
            session._plans.clear()
            planned.append(clock.step(step)["_planned"])
    finally:
        door.detach()
    return Figures(
        statistics.median(planned),
        statistics.median(times["flush"] - times["_run"] for times in found),
        statistics.median(times["_run"] for times in found),
        round(calls / workers),
        handles / calls,
        nbytes / calls,
    )


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """The least-squares line: its value at 0, its slope, and the largest distance of a point from it."""
    slope, base = np.polyfit(x, y, 1)
    return base, slope, float(np.abs(np.polyval((slope, base), x) - y).max())


def reading(workers: int) -> float:
    """Microseconds to merge a sum of 16 numbers that each worker sent a part of, the answers there already."""
    what = Reduce((4096,), (True,), "add")
    parts = [what.sent(workers, w, range(1)) for w in range(workers)]
    array = np.ones(16, np.float32)
    slot = Slot(array.dtype, Sharding.whole(array.shape))
    items = [[array] * sum(n for _, n in sent) for sent in parts]
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        what.receive(items, workers, range(1), slot)
        times.append((time.process_time() - start) * 1e6)
    return statistics.median(times)


def table(title: str, head: str, rows: Sequence[tuple[int, Figures]]) -> None:
    """Print the figures of one workload."""
    print(f"\n{title}\n{head:>8} {'plan ms':>9} {'find ms':>9} {'submit ms':>10} {'calls':>6}", end="")
    print(f" {'us/worker,call':>15} {'handles':>8} {'header B':>9}")
    for n, f in rows:
        each = f.submit / max(1, f.calls) / (n if head == "workers" else 8)
        print(f"{n:8} {f.plan / 1e3:9.2f} {f.find / 1e3:9.2f} {f.submit / 1e3:10.2f} {f.calls:6}", end="")
        print(f" {each:15.2f} {f.handles:8.0f} {f.header:9.0f}", flush=True)


def main() -> None:
    """Print all tables."""
    for prepare in (regression, network):
        rows = SHARD // 4 // (16 if prepare is regression else 256) * 4096
        found = [(w, measure(prepare, rows, w)) for w in WORKERS]
        table(f"{prepare.__name__}, 4096 shards", "workers", found)
        calls = found[-1][1].calls
        base, slope, off = line(WORKERS, [f.submit / calls for _, f in found])
        print(f"submit: {base:.0f} us a call and {slope:.2f} us for each worker and call,", end=" ")
        print(f"all within {off:.0f} us of that line")
    for prepare in (regression, network):
        rows = SHARD // 4 // (16 if prepare is regression else 256)
        table(
            f"{prepare.__name__}, 8 workers", "shards", [(s, measure(prepare, rows * s, 8)) for s in SHARDS]
        )
    times = [reading(w) for w in WORKERS]
    base, slope, off = line(WORKERS, times)
    print(f"\nreading a sum: {times[-1] / 1e3:.2f} ms from {WORKERS[-1]} workers,", end=" ")
    print(f"{base:.0f} us and {slope:.2f} us for each worker, all within {off:.0f} us of that line")


if __name__ == "__main__":
    main()
