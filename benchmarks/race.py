"""Runs a workload: every peer in its own process, in turn (A B C A B C ...), so that a noisy machine hits all alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from benchmarks.libraries import LIBRARIES, peers_of
from benchmarks.workloads import Workload

PATIENCE = 300.0  # seconds for any answer
TOO_SLOW = 20.0  # seconds of a warm step: such a peer is left out
SLOW = 5.0  # seconds of a warm step: such a peer takes part in the first three rounds only
ROUNDS, FEWEST, SLOW_ROUNDS = 15, 5, 3
WARM = 2  # steps before the race, beside the first one, which is checked
BUDGET = 30.0  # seconds of a race after which no round begins, if there were enough
PAUSE = 0.05  # seconds between steps, in which the threads of the last peer stop to spin


def _plain_environment() -> dict[str, str]:
    """The environment without what holds OpenBLAS at other kernels than it would choose for this processor."""
    held = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    return {name: value for name, value in os.environ.items() if name not in held}


class Peer:
    """A process that runs steps on demand."""

    def __init__(self, workload: Workload, name: str, small: bool):
        self.name = name
        command = [
            sys.executable,
            "-m",
            "benchmarks.peer",
            workload.name,
            name,
            *(["--small"] if small else []),
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**_plain_environment(), **LIBRARIES[name].environment},
        )
        self.steps: list[dict[str, float]] = []
        self.warm = 0.0  # seconds of a step before the race

    def ask(self, what: str) -> Any:
        """The answer to one line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        try:
            self.process.stdin.write(f"{what}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise RuntimeError(f"{self.name} ended, or took over {PATIENCE:.0f} s")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def race(workload: Workload, names: tuple[str, ...], small: bool, rounds: int) -> dict[str, Any]:
    """Times of all peers: for each a list of steps, one for each round; and what was measured once."""
    racers: list[Peer] = []
    try:
        return _race(workload, names, small, rounds, racers)
    finally:
        for peer in racers:
            peer.close()


def _race(
    workload: Workload, names: tuple[str, ...], small: bool, rounds: int, racers: list[Peer]
) -> dict[str, Any]:
    left_out: dict[str, str] = {}
    for name in peers_of(workload):
        if not names or name in (*names, "distgrad", "limit"):
            racers.append(Peer(workload, name, small))  # all prepare at the same time
    digests = {}
    for peer in racers[:]:
        digests[peer.name] = peer.ask("check")
        if isinstance(digests[peer.name], dict):  # what it needs is not here
            left_out |= {peer.name: digests.pop(peer.name)["left out"]}
            racers.remove(peer)
            peer.close()
    for name, got in digests.items():
        if name != "limit":
            _agree(workload, name, got, digests["distgrad"])
    for peer in racers[:]:
        for _ in range(WARM):
            peer.warm = peer.ask("step")["seconds"] * workload.repeats
            if peer.warm > SLOW:
                break
        if peer.warm > TOO_SLOW and peer.name != "distgrad":
            left_out[peer.name] = f"a step takes {peer.warm:.0f} s"
            racers.remove(peer)
            peer.close()
    start = time.perf_counter()
    for turn in range(rounds or ROUNDS):
        if not rounds and turn >= FEWEST and time.perf_counter() - start > BUDGET:
            break
        for peer in racers:
            if turn < SLOW_ROUNDS or peer.warm < SLOW:
                time.sleep(PAUSE)
                peer.steps.append(peer.ask("step"))
    return {
        "workload": workload.name,
        "steps": {p.name: p.steps for p in racers},
        "figures": {p.name: p.ask("figures") for p in racers if p.name != "limit"},
        "left out": left_out,
    }


def _agree(workload: Workload, name: str, digests: list[list[float]], expected: list[list[float]]) -> None:
    for k, (got, want) in enumerate(zip(digests, expected, strict=True)):
        scale = np.abs(want[1:]).max()
        if not np.allclose(got, want, rtol=workload.rtol, atol=workload.rtol * scale):
            raise SystemExit(f"{workload.name}: result {k} of {name} is {got}, of distgrad {want}")
