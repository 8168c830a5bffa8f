"""Programs on workers in this process, with compiled loops or without, and which nests they call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distgrad.session import door
from distgrad.worker.compiled import CompiledCall
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker


def results(
    program: Callable[[], list[Any]], workers: int, compile: bool, shard_bytes: int
) -> list[np.ndarray]:
    """What a program gives on workers, and nothing in the driver."""
    door.attach(InProcess(workers, Worker), inline_bytes=0, shard_bytes=shard_bytes, compile=compile)
    made = [t.detach().numpy() for t in program()]
    door.shutdown()
    return made


def watch(monkeypatch: pytest.MonkeyPatch, kind: type[CompiledCall]) -> list[Any]:
    """The nests for which calls of a kind are made from now on."""
    found: list[Any] = []
    begin = kind.__init__

    def watched(self: Any, unit: Any, *rest: Any) -> None:
        found.append(unit.nest)
        begin(self, unit, *rest)

    monkeypatch.setattr(kind, "__init__", watched)
    return found
