"""The Ray actor around one worker.

The class is sent by value and imports distgrad only when it begins, so that a node without distgrad is told apart
from one that failed otherwise. All else about a worker is in `distgrad.worker`, which knows nothing of Ray.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import numpy as np


class DistgradWorker:
    """Holds one worker and hands it the calls that arrive, in the order they were made."""

    def begin(self, number: int, worker: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Make the worker. `worker` is its class, or "module:name" of it. Returns what is to be known of this place."""
        self._common = importlib.import_module("distgrad.worker.transport")
        if isinstance(worker, str):
            module, name = worker.split(":")
            worker = getattr(importlib.import_module(module), name)
        self._worker = worker(number, **options)
        return self.place()

    def place(self) -> dict[str, Any]:
        """The process, its versions and the memory of its machine."""
        total, available = self._common.machine_memory()
        versions = {"python": ".".join(map(str, sys.version_info[:3])), "numpy": np.__version__}
        return {"pid": os.getpid(), "total": total, "available": available, "versions": versions}

    def call(self, method: str, returns: int, *args: Any) -> Any:
        """Run a method of the worker and hold it to its number of results. An exception goes without its traceback."""
        try:
            values = getattr(self._worker, method)(*args)
            self._common.check_returns(method, values, returns)
        except Exception as error:
            raise self._common.told(error) from None
        return values[0] if returns == 1 else values
