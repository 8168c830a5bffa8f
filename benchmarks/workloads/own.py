"""What only distgrad is asked: the driver's cost, data that the driver cannot hold."""

from __future__ import annotations

from typing import Any

from benchmarks.workloads.base import RATE, Step, Workload


class Shards(Workload):
    """The driver's own time for a step must not grow with the number of shards: processor time, not wall time."""

    name = "shards"
    what = "driver's processor time for a logistic-regression step, 16 shards; beside it 4,096 shards"
    peers = ("distgrad", "many shards")
    clock = "cpu"
    repeats = 10
    n, d = 1 << 20, 16
    init = {"workers": 2, "shard_bytes": n * d * 4 // 16}
    many = {"shard_bytes": n * d * 4 // 4096}
    small = {"repeats": 1}

    def eager(self, torch: Any) -> Step:
        torch.manual_seed(0)
        x = torch.randn(self.n, self.d)
        y = (torch.rand(self.n, sharding=self.n // x.sharding.count) < 0.5).float()
        w = torch.zeros(self.d, requires_grad=True)
        assert x.sharding.count == y.sharding.count

        def step() -> list[Any]:
            for _ in range(self.repeats):
                loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ w, y)
                loss.backward()
                with torch.no_grad():
                    w.sub_(RATE * w.grad)
                w.grad = None
            torch.synchronize()
            return [loss.item(), w]

        return step


class Large(Workload):
    """More data than the driver may hold: made on the workers and never seen by the driver."""

    name = "large"
    what = "logistic-regression step on 16 Mi x 64 float32 (4 GiB) made on the workers"
    peers = ("distgrad",)
    n, d = 16 << 20, 64
    small = {"n": 1 << 14}

    def bytes_needed(self) -> int:
        return self.n * self.d * 4

    def eager(self, torch: Any) -> Step:
        torch.manual_seed(0)
        x = torch.randn(self.n, self.d)
        y = (torch.rand(self.n) < 0.3).float()
        w = torch.zeros(self.d, requires_grad=True)

        def step() -> list[Any]:
            w.grad = None
            loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ w, y)
            loss.backward()
            with torch.no_grad():
                w.sub_(RATE * w.grad)
            return [loss.item(), w]

        return step
