"""Per-sample gradients of a logistic model by `vmap(grad(loss))`, beside the gradient of the whole batch.

`python -m benchmarks.per_sample [--rows N]`. Both are timed in turn, in one run, on two workers: the whole gradient as
a user would write it, and what is done with those of each sample: all of them kept, their norms, their clipped mean.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import distgrad as torch
import distgrad.nn.functional as F

COLUMNS, ROUNDS, WARM = 64, 15, 3


def loss(w: Any, x: Any, y: Any) -> Any:
    """The logistic loss of one sample."""
    z = x @ w
    return F.softplus(z) - y * z


def programs(rows: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; the first is the gradient of the whole batch."""
    x, y = torch.randn(rows, COLUMNS), (torch.rand(rows) < 0.5).float()
    w = torch.zeros(COLUMNS, requires_grad=True)
    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def whole() -> Any:
        w.grad = None
        z = x @ w
        (F.softplus(z) - y * z).mean().backward()
        return w.grad

    def samples() -> Any:
        return each(w.detach(), x, y)

    def norms() -> Any:
        return samples().square().sum(1).sqrt()

    def clipped() -> Any:
        g = samples()
        return (g * (1 / g.square().sum(1, keepdim=True).sqrt()).clamp(max=1.0)).mean(0)

    return {
        "whole gradient": whole,
        "gradient of each sample": samples,
        "norm of each": norms,
        "clipped mean": clipped,
    }


def timed(rows: int, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each program, in turn."""
    made = programs(rows)
    found: dict[str, list[float]] = {name: [] for name in made}
    for i in range(rounds + WARM):
        for name, program in made.items():
            torch.synchronize()
            start = time.perf_counter()
            result = program()
            torch.synchronize()
            if i >= WARM:
                found[name].append(time.perf_counter() - start)
            del result
    return found


def main() -> None:
    """Print medians, and how many times the whole gradient each of them takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=512 << 10)
    rows = parser.parse_args().rows
    torch.init(workers=2)
    found = timed(rows)
    base = found["whole gradient"]
    for name, seconds in found.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        print(
            f"{name:24} {statistics.median(seconds) * 1e3:7.1f} ms  least {min(seconds) * 1e3:7.1f}  x {ratio:.2f}"
        )
    torch.shutdown()


if __name__ == "__main__":
    main()
