"""The driver's own time for an op: steps of logistic regression and of a network, on workers that do nothing.

`python -m benchmarks.driver [--profile]`. An op is one that the program, or a formula of backward, calls. What a call
for each worker and stage costs the driver (its header, its arguments) is told apart: it does not grow with the ops.
Of optimizers it tells the time for a parameter and op that torch's own loop over the parameters would call.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import distgrad as torch
import distgrad.nn.functional as F
from benchmarks.silent import Silent
from distgrad.ops import calling
from distgrad.session import door

Step = Callable[[], None]
ROUNDS, STEPS = 15, 20
PARAMETERS, ELEMENTS = 62, 1 << 21  # of the optimizers: more than the driver computes itself
OPTIMIZERS: dict[
    str, tuple[int, Callable[[list[Any]], Any]]
] = {  # the ops of torch's own loop, for a parameter
    "SGD with momentum": (3, lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9)),
    "Adam": (7, torch.optim.Adam),
}


def regression(rows: int = 1 << 20) -> Step:
    """Logistic regression on rows of 16."""
    x, y = torch.randn(rows, 16), (torch.rand(rows) < 0.5).float()
    w = torch.zeros(16, requires_grad=True)

    def step() -> None:
        loss = F.binary_cross_entropy_with_logits(x @ w, y)
        loss.backward()
        with torch.no_grad():
            w.sub_(0.1 * w.grad)
        w.grad = None

    return step


def network(rows: int = 1 << 16) -> Step:
    """Two hidden layers of 1024 on rows of 256, ten classes, gradient descent with momentum."""
    x, y = torch.randn(rows, 256), torch.randint(0, 10, (rows,))
    widths = ((256, 1024), (1024, 1024), (1024, 10))
    layers = [(torch.randn(i, o).requires_grad_(), torch.zeros(o, requires_grad=True)) for i, o in widths]
    pairs = [(p, torch.zeros_like(p)) for layer in layers for p in layer]

    def step() -> None:
        hidden = x
        for w, b in layers[:-1]:
            hidden = F.relu(hidden @ w + b)
        w, b = layers[-1]
        loss = F.cross_entropy(hidden @ w + b, y)
        for p, _ in pairs:
            p.grad = None
        loss.backward()
        with torch.no_grad():
            for p, speed in pairs:
                speed.mul_(0.9).add_(p.grad)
                p.sub_(speed, alpha=0.1)

    return step


def optimizer(make: Callable[[list[Any]], Any], cut: bool) -> Step:
    """Steps of an optimizer alone, on parameters that are cut in two or lie whole on each worker; sent one by one."""
    cuts: Any = ELEMENTS // 2 if cut else {}
    params = [torch.randn(ELEMENTS).reshard(cuts).requires_grad_() for _ in range(PARAMETERS)]
    for p in params:
        p.grad = torch.randn(ELEMENTS).reshard(cuts)
    made = make(params)

    def step() -> None:
        made.step()
        door.flush()

    return step


def ops(step: Step) -> int:
    """How many ops a step calls."""
    count = 0

    def watch(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code is calling.unwrap.__code__

    sys.setprofile(watch)
    try:
        step()
    finally:
        sys.setprofile(None)
    return count


class Calling:
    """Stands before a session's `Calls.run` and adds up the time spent there, in seconds."""

    def __init__(self, run: Callable[..., Any]):
        self.run = run
        self.time = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        sent = self.run(*args, **kwargs)
        self.time += time.process_time() - start
        return sent


def measured(step: Step) -> tuple[list[float], float]:
    """The driver's times for a step, in microseconds, and how much of that calls take, each at the median."""
    calls = door.current().calls
    spent = Calling(calls.run)
    calls.run = spent  # type: ignore[method-assign]
    times, sending = [], []
    for _ in range(ROUNDS):
        spent.time, start = 0.0, time.process_time()
        for _ in range(STEPS):
            step()
        times.append((time.process_time() - start) / STEPS * 1e6)
        sending.append(spent.time / STEPS * 1e6)
    calls.run = spent.run  # type: ignore[method-assign]
    return times, statistics.median(sending)


def profiled(step: Step) -> None:
    """Print where the time of a step goes."""
    with cProfile.Profile() as profile:
        for _ in range(STEPS):
            step()
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Print the time of a step and of an op."""
    parser = argparse.ArgumentParser(prog="benchmarks.driver", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    args = parser.parse_args()
    transport = Silent(args.workers)
    door.attach(transport)
    for prepare in (regression, network):
        step = prepare()
        for _ in range(STEPS):
            step()
        count, calls = ops(step), transport.calls
        step()
        calls = transport.calls - calls
        times, beside = measured(step)
        each = statistics.median(times)
        print(
            f"{prepare.__name__}: {each:.0f} us a step ({min(times):.0f} to {max(times):.0f}) with {count} ops, "
            f"{beside:.0f} of it in {calls} calls: {(each - beside) / count:.1f} us an op beyond them"
        )
        if args.profile:
            profiled(step)
    for name, (count, make) in OPTIMIZERS.items():
        for cut in (False, True):
            step = optimizer(make, cut)
            for _ in range(STEPS):
                step()
            times, beside = measured(step)
            each, least = ((t - beside) / PARAMETERS / count for t in (statistics.median(times), min(times)))
            form = "cut" if cut else "whole"
            print(
                f"optimizer: {name}, {PARAMETERS} {form} parameters: {each:.2f} us (at least {least:.2f}) for a "
                f"parameter and op of {count}, beyond the calls"
            )
            if args.profile:
                profiled(step)


if __name__ == "__main__":
    main()
