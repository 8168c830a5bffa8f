"""`profile`: what a program was predicted to cost, beside what it cost, by op and line, as a table and as a trace."""

from __future__ import annotations

import json
import os
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple

from distgrad.errors import DistgradError
from distgrad.plan.explain import nbytes_text, number_text
from distgrad.session import door, measure
from distgrad.session.measure import DRIVER, Event, Measure, Row

ROWS = 30  # of a table, if no other number is asked for


class Compared(NamedTuple):
    """A figure in bytes, as it was predicted and as it was measured."""

    predicted: int
    measured: int


class profile:
    """Measure what is done inside a `with` block; `print` it afterwards, or `save` it as a trace.

    Work that was pending before the block is done before it begins, and the block ends when its own work is done.
    Driver and workers are timed apart. Without a profile nothing is timed; with one, results have the same bits, and
    a step takes some percent longer. One profile may be on at a time.

        with distgrad.profile() as p:
            loss.backward()
        print(p)
        p.save("trace.json")
    """

    def __init__(self) -> None:
        self._measure = Measure()
        self._seconds = 0.0

    def __enter__(self) -> profile:
        if measure.active is not None:
            raise DistgradError("a profile is on already: profiles cannot be nested")
        door.synchronize()
        self._measure = measure.active = Measure()
        door.measured(self._measure.join)
        self._measure.begun = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                door.synchronize()
        finally:
            try:
                door.measured(self._measure.leave)
            finally:
                measure.active = None
                self._seconds = perf_counter() - self._measure.begun - self._measure.own

    # Figures

    @property
    def seconds(self) -> float:
        """How long the block took."""
        return self._seconds

    @property
    def driver_seconds(self) -> float:
        """What the driver spent on all but submitting and waiting: the program's own Python, recording, planning."""
        return self._seconds - self._measure.submit - self._measure.wait

    @property
    def plan_seconds(self) -> float:
        """The part of `driver_seconds` in which plans were made or found."""
        return self._measure.plan

    @property
    def submit_seconds(self) -> float:
        """Time inside the transport (Ray) to hand over calls; without what workers in this process did meanwhile."""
        return self._measure.submit - self._measure.inside

    @property
    def wait_seconds(self) -> float:
        """Time in which the driver waited for results."""
        return self._measure.wait

    @property
    def worker_seconds(self) -> list[float]:
        """For each worker the time in which it was busy with calls."""
        return list(self._measure.busy)

    @property
    def calls(self) -> int:
        """Programs sent to the workers: one for each stage, and one for each large value that was read."""
        return self._measure.calls

    @property
    def peak_bytes(self) -> list[Compared]:
        """For each worker the most bytes that it held at one time, tensors and temporaries."""
        return [Compared(*pair) for pair in zip(*self._measure.peak, strict=True)]

    @property
    def moved_bytes(self) -> Compared:
        """Bytes that workers sent to other workers."""
        return Compared(*self._measure.moved)

    @property
    def rows(self) -> list[Row]:
        """A row for each op and line, the slowest first."""
        return sorted(self._measure.rows.values(), key=lambda row: -row.seconds)

    @property
    def events(self) -> list[Event]:
        """What the trace shows."""
        return self._measure.events

    # Shown

    def table(self, row_limit: int = ROWS) -> str:
        """The rows, the slowest first, and the sums. Operations and bytes are predicted, times measured."""
        busy = sum(self.worker_seconds)
        cells = [("op", "line", "calls", "flop", "computes", "time", "share", "flop/s")]
        for row in self.rows[:row_limit]:
            cells.append(
                (
                    row.op,
                    f"{os.path.basename(row.file)}:{row.line}" if row.file else "",
                    str(row.calls),
                    number_text(row.flops),
                    nbytes_text(row.bytes),
                    _time(row.seconds),
                    _share(row.seconds, busy),
                    number_text(row.flops / row.seconds) if row.seconds and row.flops else "",
                )
            )
        if len(self.rows) > row_limit:
            rest = sum(row.seconds for row in self.rows[row_limit:])
            cells.append(
                (f"{len(self.rows) - row_limit} more", "", "", "", "", _time(rest), _share(rest, busy), "")
            )
        parts = self._measure.parts
        around = parts["compute"] - parts["steps"]
        for name, seconds in (
            ("around the ops", around),
            ("receive", parts["receive"]),
            ("send", parts["send"]),
        ):
            cells.append((name, "", "", "", "", _time(seconds), _share(seconds, busy), ""))
        widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
        return "\n".join(
            "  ".join(
                c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        )

    def __str__(self) -> str:
        moved = self.moved_bytes
        lines = [
            self.table() if self.calls else "no work was sent to workers",
            f"in all {_time(self.seconds)}: driver {_time(self.driver_seconds)} (of it planning "
            f"{_time(self.plan_seconds)}), submitting {self.calls} programs {_time(self.submit_seconds)}, "
            f"waiting {_time(self.wait_seconds)}",
        ]
        for number, (seconds, peak) in enumerate(zip(self.worker_seconds, self.peak_bytes, strict=True)):
            lines.append(
                f"worker {number}: busy {_time(seconds)} ({_share(seconds, self.seconds)}), at most "
                f"{nbytes_text(peak.measured)} held, {nbytes_text(peak.predicted)} predicted"
            )
        lines.append(f"moved {nbytes_text(moved.measured)}, {nbytes_text(moved.predicted)} predicted")
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a trace in Chrome's format, which ui.perfetto.dev and chrome://tracing show.

        One track for the driver (flush, plan, submit, wait) and one for each worker (calls, and in them what was
        received, each loop on each shard, and what was sent). A call of more than some hundred loops, and a trace of
        more than 100,000 events, are cut short; "omitted" in the file says by how many.
        """
        events: list[dict[str, Any]] = []
        for worker in range(DRIVER, len(self._measure.busy)):
            name = "driver" if worker == DRIVER else f"worker {worker}"
            place = {"pid": worker + 1, "tid": 0}
            events.append({"ph": "M", "name": "process_name", **place, "args": {"name": name}})
            events.append({"ph": "M", "name": "thread_name", **place, "args": {"name": "calls"}})
        for event in self._measure.events:
            begin = event.begin - self._measure.begun
            start, end = round(begin * 1e6, 3), round((begin + event.seconds) * 1e6, 3)
            events.append(
                {
                    "ph": "X",
                    "name": event.name,
                    "cat": "driver" if event.worker == DRIVER else "worker",
                    "pid": event.worker + 1,
                    "tid": 0,
                    "ts": start,
                    "dur": round(end - start, 3),
                    "args": event.args,
                }
            )
        with open(path, "w", encoding="utf-8") as file:
            trace = {"traceEvents": events, "displayTimeUnit": "ms", "omitted": self._measure.omitted}
            json.dump(trace, file, separators=(",", ":"))


def _share(seconds: float, whole: float) -> str:
    return f"{seconds / whole:.1%}" if whole else ""


def _time(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"
