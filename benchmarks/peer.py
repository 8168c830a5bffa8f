"""One peer of one workload, in a process of its own: runs a step for each line on stdin and prints what it took."""

from __future__ import annotations

import json
import sys
import time

from benchmarks.workloads import CPU_TIMED, WORKLOADS


def main() -> None:
    """`python -m benchmarks.peer WORKLOAD PEER`."""
    name, peer = sys.argv[1:]
    workload = WORKLOADS[name]
    step = workload.prepare(peer)
    clock = time.process_time if name in CPU_TIMED else time.perf_counter
    for _ in range(2):
        step()  # warm: pages, plans, caches
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "figures":
            print(json.dumps(workload.figures()), flush=True)
            continue
        start = clock()
        values = step()
        seconds = clock() - start
        print(
            json.dumps({"seconds": seconds / getattr(workload, "repeats", 1), "values": values}), flush=True
        )


if __name__ == "__main__":
    main()
