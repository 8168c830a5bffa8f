"""Runs workloads: every peer in its own process, in turn (A B A B ...), so that a noisy machine hits all alike.

Prints medians, spread, the ratio to distgrad and, where traffic is the limit, how near a copy of the same bytes is.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from benchmarks.workloads import WORKLOADS, Workload

COPIED = 256 << 20  # bytes that are moved to measure the limit
PATIENCE = 300.0  # seconds for a peer to be ready, or to take one step


class Peer:
    """A process that runs steps on demand."""

    def __init__(self, workload: str, name: str):
        self.name = name
        command = [sys.executable, "-m", "benchmarks.peer", workload, name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: list[float] = []
        self.values: list[float] = []
        self._line("ready")

    def step(self) -> None:
        """One timed step."""
        answer = self._ask("step")
        self.seconds.append(answer["seconds"])
        self.values = answer["values"]

    def figures(self) -> dict[str, float]:
        """What the peer tells of its run."""
        return self._ask("figures")

    def _ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _line(self, expected: str | None = None) -> str:
        assert self.process.stdout is not None
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline().strip()
        finally:
            watchdog.cancel()
        if not line or (expected is not None and line != expected):
            raise RuntimeError(f"{self.name} ended or printed {line!r}")
        return line


def copy_seconds(nbytes: int) -> float:
    """Time to move `nbytes` through memory (half read, half written) with two threads, buffers warm."""
    measured = min(nbytes, COPIED)
    source = np.ones(measured // 4, np.uint8)
    targets = [np.ones(measured // 4, np.uint8) for _ in range(2)]
    best = math.inf
    for _ in range(5):
        threads = [threading.Thread(target=np.copyto, args=(t, source)) for t in targets]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, time.perf_counter() - start)
    return best * nbytes / measured


def run(workload: Workload) -> None:
    """Time one workload and print its table."""
    print(f"\n{workload.name}: {workload.what}")
    peers = [Peer(workload.name, name) for name in workload.peers]
    for _ in range(workload.rounds):
        for peer in peers:
            peer.step()
    figures = peers[0].figures()
    for peer in peers:
        peer.close()
    ours = peers[0]
    for peer in peers[1:]:
        if not np.allclose(ours.values, peer.values, rtol=workload.rtol):
            raise SystemExit(f"{peer.name} computed {peer.values}, {ours.name} {ours.values}")
    for peer in peers:
        median = statistics.median(peer.seconds)
        ratio = statistics.median(p / o for p, o in zip(peer.seconds, ours.seconds, strict=True))
        spread = f"{_time(min(peer.seconds))} to {_time(max(peer.seconds))}"
        print(f"  {peer.name:10} {_time(median):>10}   ({spread})   {ratio:6.2f} x {ours.name}")
    if workload.bytes_needed:
        limit = copy_seconds(workload.bytes_needed)
        share = limit / statistics.median(ours.seconds)
        print(
            f"  {'limit':10} {_time(limit):>10}   (the same bytes copied by all cores)   {share:6.2f} of it reached"
        )
    for name, figure in figures.items():
        print(f"  {name}: {figure:.3g}")


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def main() -> None:
    """Run the workloads named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("workloads", nargs="*", choices=[*WORKLOADS, []], help="which; all if none is named")
    names = parser.parse_args().workloads or list(WORKLOADS)
    print(f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}")
    for name in names:
        run(WORKLOADS[name])


if __name__ == "__main__":
    main()
