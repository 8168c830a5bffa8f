"""torch's names for a profile: `profile` over distgrad's own, and `record_function` for regions of a program."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Callable
from time import perf_counter
from typing import Any

from distgrad.profiling import profile as _profile
from distgrad.session import measure
from distgrad.session.measure import DRIVER

__all__ = ["profile", "record_function"]

UNSERVED = (
    "use_cuda",
    "use_device",
    "record_shapes",
    "profile_memory",
    "with_stack",
    "with_modules",
    "use_cpu_only",
)
SORTS = ("cpu_time_total", "self_cpu_time_total", "cpu_time", "count", "flops", "key")


class record_function:
    """A named region, as a context manager or decorator: it stands in the profile that is on, and in its trace.

    The time is the driver's: what was asked for inside may be computed by the workers later.
    """

    def __init__(self, name: str, args: str | None = None):
        if not isinstance(name, str):
            raise TypeError(f"record_function(): argument 'name' must be str, not {type(name).__name__}")
        self.name = name
        self.args = args

    def __enter__(self) -> record_function:
        self.begin = perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        found = measure.active
        if found is not None and self.begin >= found.begun:
            more = {} if self.args is None else {"args": self.args}
            found.event(self.name, DRIVER, self.begin, perf_counter() - self.begin, region=True, **more)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Each call of the function as a region."""

        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            with record_function(self.name, self.args):
                return function(*args, **kwargs)

        return inner


class Average:
    """What calls of one name took together: of an op on the workers, or of a region in the driver. Microseconds."""

    def __init__(self, key: str):
        self.key = key
        self.count = 0
        self.cpu_time_total = 0.0
        self.flops = 0.0

    @property
    def self_cpu_time_total(self) -> float:
        """The same: regions and ops are counted apart."""
        return self.cpu_time_total

    @property
    def cpu_time(self) -> float:
        """Of one call."""
        return self.cpu_time_total / self.count if self.count else 0.0

    def __repr__(self) -> str:
        return f"<{self.key}: {self.count} calls, {self.cpu_time_total:.1f} us>"


class Averages(list[Average]):
    """A row for each name."""

    def table(self, sort_by: str | None = None, row_limit: int = 100) -> str:
        """As text; `sort_by` is one of cpu_time_total, cpu_time, count, flops and key."""
        if sort_by is not None and sort_by not in SORTS:
            raise NotImplementedError(f"sort_by must be one of {SORTS}, not {sort_by!r}")
        rows = (
            self
            if sort_by is None
            else sorted(self, key=lambda a: getattr(a, sort_by), reverse=sort_by != "key")
        )
        cells = [("Name", "CPU total", "CPU time avg", "# of Calls", "flop")]
        for row in rows[:row_limit]:
            cells.append(
                (
                    row.key,
                    f"{row.cpu_time_total:.3f}us",
                    f"{row.cpu_time:.3f}us",
                    str(row.count),
                    f"{row.flops:.0f}",
                )
            )
        widths = [max(len(cell[k]) for cell in cells) for k in range(5)]
        return "\n".join("  ".join(c.rjust(w) for c, w in zip(cell, widths, strict=True)) for cell in cells)


class profile:
    """Measure what is done in a `with` block: `key_averages()`, `table()`, `export_chrome_trace(path)`.

    It is `distgrad.profile`, which tells more, under torch's names. What the driver computes itself is not timed op
    by op; put it in a `record_function`. `enabled=False` does nothing. `with_flops` is always on, as predicted; other
    options of torch's are refused.
    """

    def __init__(self, enabled: bool = True, *, with_flops: bool = True, **options: Any):
        for name, value in options.items():
            if name not in UNSERVED:
                raise TypeError(f"profile.__init__() got an unexpected keyword argument '{name}'")
            if value and name != "use_cpu_only":
                raise NotImplementedError(f"profile(): {name}={value!r} is not supported")
        self.enabled = enabled
        self._inner: _profile | None = None

    def __enter__(self) -> profile:
        if self._inner is not None:
            raise RuntimeError("Profiler context manager is not reentrant")
        if self.enabled:
            self._inner = _profile()
            self._inner.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._inner is not None:
            self._inner.__exit__(*exc)

    def _measured(self) -> _profile:
        if self._inner is None:
            raise RuntimeError("Profiler didn't finish running")
        return self._inner

    def key_averages(self) -> Averages:
        """What each op took on all workers, and each region in the driver."""
        found: defaultdict[str, Average] = defaultdict(lambda: Average(""))
        inner = self._measured()
        for row in inner.rows:
            found[row.op].count += row.calls
            found[row.op].cpu_time_total += row.seconds * 1e6
            found[row.op].flops += row.flops
        for event in inner.events:
            if event.args.get("region"):
                found[event.name].count += 1
                found[event.name].cpu_time_total += event.seconds * 1e6
        for key, average in found.items():
            average.key = key
        return Averages(found.values())

    def table(self, sort_by: str | None = None, row_limit: int = 100) -> str:
        """The averages as text."""
        return self.key_averages().table(sort_by, row_limit)

    @property
    def self_cpu_time_total(self) -> float:
        """What all ops took, in microseconds."""
        return sum(row.seconds for row in self._measured().rows) * 1e6

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write a trace that chrome://tracing and ui.perfetto.dev show."""
        self._measured().save(path)

    def __str__(self) -> str:
        return "<unfinished torch.autograd.profile>" if self._inner is None else self.table()

    __repr__ = __str__
