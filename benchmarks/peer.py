"""One peer of one workload, in a process of its own: answers each line on stdin with a line of JSON.

`check` runs the first step and gives its results' digests, `step` times one, `figures` gives what is measured once.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np

from benchmarks.libraries import LIBRARIES, LeftOutError
from benchmarks.workloads import WORKLOADS

PICKED = 16  # elements of each result that are compared


def digest(result: Any) -> list[float]:
    """Norm and some elements; and whether float32 was kept."""
    if hasattr(result, "detach"):
        result = result.detach()
    if hasattr(result, "compute"):
        result = result.compute()
    array = np.asarray(result).ravel()
    if array.size > 1 and not isinstance(result, list):
        assert array.dtype == np.float32, array.dtype
    picked = np.linspace(0, array.size - 1, min(PICKED, array.size)).astype(np.int64)
    return [float(np.linalg.norm(array.astype(np.float64))), *array[picked].astype(np.float64).tolist()]


def main() -> None:
    """`python -m benchmarks.peer WORKLOAD PEER [--small]`."""
    out = os.fdopen(os.dup(1), "w")  # nothing that a library prints may be taken for an answer
    os.dup2(2, 1)
    workload = WORKLOADS[sys.argv[1]]
    if "--small" in sys.argv:
        workload.shrink()
    library = LIBRARIES[sys.argv[2]](workload)
    results: Any = None
    try:
        step = library.prepare()
    except LeftOutError as error:
        reason = str(error)

        def step() -> list[Any]:
            raise LeftOutError(reason)

    def timed() -> dict[str, float]:
        nonlocal results
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        cpu, start = time.process_time(), time.perf_counter()
        results = None  # what a user's loop gives up before, or in, the next step
        results = library.wait(step())
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        scale = library.scale / workload.repeats
        return {
            "seconds": seconds * scale,
            "cpu": cpu * scale,
            "faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults,
        }

    for line in sys.stdin:
        match line.strip():
            case "check":
                try:
                    timed()
                    answer: Any = [digest(result) for result in results]
                except LeftOutError as error:
                    answer = {"left out": str(error)}
            case "step":
                answer = timed()
            case "figures":
                answer = library.figures(timed)
                unit = 1 if sys.platform == "darwin" else 1024
                answer["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
