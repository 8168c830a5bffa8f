"""The workloads. Each is a class with a method for every peer: it prepares the data and returns a step to be timed.

A step runs to the end and returns numbers that the peers must agree on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

Step = Callable[[], list[float]]


class Workload:
    """Base: a name, the peers in order (distgrad first), and the traffic that any implementation needs."""

    name: ClassVar[str]
    what: ClassVar[str]
    peers: ClassVar[tuple[str, ...]] = ("distgrad", "torch")
    rounds: ClassVar[int] = 9
    bytes_needed: ClassVar[int] = 0  # read and written at least; 0: no limit is shown
    rtol: ClassVar[float] = 1e-3

    def prepare(self, peer: str) -> Step:
        """The step of one peer."""
        return getattr(self, peer)()

    def figures(self) -> dict[str, float]:
        """What else is to be told of a run, from the peer's process; a name ends in its unit."""
        return {}


class Poly(Workload):
    """The gradient of the seed notebook's polynomial, on vectors that fill the memory bus."""

    name = "poly"
    what = "gradient of (3*a**3 - b**2).sum(), 16 Mi float32 each"
    n = 16 << 20
    bytes_needed = 4 * n * 4  # a and b are read, two gradients are written

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        return rng.random(self.n, np.float32), rng.random(self.n, np.float32)

    def _run(self, torch: Any, a: Any, b: Any, wait: Callable[[Any], None]) -> Step:
        def step() -> list[float]:
            a.grad = b.grad = None
            loss = (3 * a**3 - b**2).sum()
            loss.backward()
            wait(b.grad)
            return [float(loss)]

        return step

    def distgrad(self) -> Step:
        """Two workers, one BLAS thread each."""
        import distgrad as torch

        torch.init(workers=2)
        a, b = (torch.from_numpy(x).requires_grad_() for x in self._arrays())
        return self._run(torch, a, b, lambda g: torch.synchronize())

    def torch(self) -> Step:
        """Eager, two threads."""
        import torch

        torch.set_num_threads(2)
        a, b = (torch.from_numpy(x).requires_grad_() for x in self._arrays())
        return self._run(torch, a, b, lambda g: None)


class Tiny(Workload):
    """The notebook's own size: no Ray, no plan, only the cost of an op."""

    name = "tiny"
    what = "Q = 3*a**3 - b**2 on two elements, forward and backward"
    rounds = 15
    repeats = 1000

    def _run(self, torch: Any) -> Step:
        a = torch.tensor([2.0, 3.0], requires_grad=True)
        b = torch.tensor([6.0, 4.0], requires_grad=True)
        g = torch.tensor([1.0, 1.0])

        def step() -> list[float]:
            for _ in range(self.repeats):
                a.grad = b.grad = None
                q = 3 * a**3 - b**2
                q.backward(gradient=g)
            return [*a.grad.tolist(), *b.grad.tolist()]

        return step

    def distgrad(self) -> Step:
        """In the driver: Ray is not started."""
        import distgrad as torch

        return self._run(torch)

    def torch(self) -> Step:
        """Eager, one thread."""
        import torch

        torch.set_num_threads(1)
        return self._run(torch)


class Shards(Workload):
    """The driver's own time for a step, with few shards and with many (promise P4): processor time, not wall time."""

    name = "shards"
    what = "driver's processor time for a logistic-regression step, 16 shards and 4,096 shards"
    peers = ("few", "many")
    rounds = 15
    repeats = 10

    def _run(self, shards: int) -> Step:
        import distgrad as torch

        rows, columns = 1 << 20, 16
        torch.init(workers=2, shard_bytes=rows * columns * 4 // shards)
        torch.manual_seed(0)
        x = torch.randn(rows, columns)
        y = (torch.rand(rows, sharding=rows // shards) < 0.5).float()
        w = torch.zeros(columns, requires_grad=True)
        assert x.sharding.count == y.sharding.count == shards

        def step() -> list[float]:
            for _ in range(self.repeats):
                loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ w, y)
                loss.backward()
                with torch.no_grad():
                    w.sub_(0.1 * w.grad)
                w.grad = None
            torch.synchronize()
            return [float(loss)]

        return step

    def few(self) -> Step:
        """16 shards."""
        return self._run(16)

    def many(self) -> Step:
        """4,096 shards."""
        return self._run(4096)


class Large(Workload):
    """More data than the driver may hold: 4 GiB, made on the workers and never seen by the driver."""

    name = "large"
    what = "logistic-regression step on 16 Mi x 64 float32 (4 GiB)"
    peers = ("distgrad",)
    rounds = 3
    rows, columns = 16 << 20, 64
    bytes_needed = rows * columns * 4  # read once

    def distgrad(self) -> Step:
        """Two workers."""
        import distgrad as torch

        torch.init(workers=2)
        torch.manual_seed(0)
        x = torch.randn(self.rows, self.columns)
        y = (torch.rand(self.rows) < 0.3).float()
        w = torch.zeros(self.columns, requires_grad=True)

        def step() -> list[float]:
            w.grad = None
            loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ w, y)
            loss.backward()
            with torch.no_grad():
                w.sub_(0.1 * w.grad)
            return [float(loss)]

        return step

    def figures(self) -> dict[str, float]:
        """Memory of the processes beside the data's."""
        import resource

        import distgrad as torch

        workers = torch.memory()
        data = self.rows * self.columns * 4
        return {
            "all workers' memory / data": sum(w["rss"] for w in workers) / data,
            "all workers' tensors / data": sum(w["held"] for w in workers) / data,
            "driver's peak memory, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        }


WORKLOADS: dict[str, Workload] = {w.name: w for w in (Poly(), Tiny(), Shards(), Large())}
CPU_TIMED = {"shards"}
