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
import ray


class DistgradWorker:
    """Holds one worker and hands it the calls that arrive, in the order they were made."""

    def begin(self, number: int, worker: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Make the worker, and return what is to be known of this place.

        `worker` is the class, or "module:name" of it. An exception is returned as text under "error".
        """
        try:
            self._common = importlib.import_module("distgrad.worker.transport")
            machine = importlib.import_module("distgrad.worker.machine")
            machine.own_process()
            if isinstance(worker, str):
                module, name = worker.split(":")
                worker = getattr(importlib.import_module(module), name)
            self._worker = worker(number, **options)
            total, available = self._common.machine_memory()
        except Exception as error:
            missing = (
                isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "distgrad"
            )
            found = getattr(sys.modules.get("distgrad"), "__path__", ())
            hidden = f"; it finds the folder {next(iter(found))} instead" if missing and found else ""
            return {"error": f"{type(error).__name__}: {error}{hidden}", "missing": missing}
        node = ray.get_runtime_context().get_node_id()
        return {
            "node": node,
            "pid": os.getpid(),
            "total": total,
            "available": available,
            "numpy": np.__version__,
            "processor": machine.processor(),
        }

    def memory(self) -> tuple[int, int]:
        """Bytes of this machine's memory: in all, and available."""
        return self._common.machine_memory()

    def call(self, method: str, returns: int, *args: Any) -> Any:
        """Run a method of the worker. An exception is returned as a `Failed` in place of each value.

        It is not raised: Ray would build a traceback for it, which takes 5 ms, and report it on the driver's console
        if nobody asks for the value.
        """
        for arg in args:
            if type(arg) is self._common.Failed:
                return arg if returns == 1 else (arg,) * returns
        try:
            values = getattr(self._worker, method)(*args)
            self._common.check_returns(method, values, returns)
        except Exception as error:
            values = (self._common.Failed(self._common.told(error)),) * returns
        return values[0] if returns == 1 else values
