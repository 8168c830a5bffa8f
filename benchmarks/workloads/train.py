"""A short loop on little data: the cost of a step, not of its arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads.base import RATE, Arrays, Step, Workload, normal


class Train(Workload):
    """Gradient descent as a user writes it: parameters change in place, the loss is read now and then."""

    name = "train"
    what = "100 steps of linear regression, 64 Ki x 16, loss read every 10"
    goal = 1.0
    against = ("torch", "torch tuned")
    n, d = 64 << 10, 16
    steps, every = 100, 10
    small = {"n": 1 << 12, "steps": 20}

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(0)
        x, w = normal(rng, self.n, self.d), normal(rng, self.d)
        return x, x @ w + normal(rng, self.n, scale=0.1)

    def bytes_needed(self) -> int:
        return self.steps * self.n * (self.d + 1) * 4

    def eager(self, torch: Any) -> Step:
        x, y = map(torch.from_numpy, self.arrays())
        w = torch.zeros(self.d, requires_grad=True)
        loss_of = self.compiled(lambda w: ((x @ w - y) ** 2).mean())

        def step() -> list[Any]:
            losses = []
            with torch.no_grad():
                w.zero_()
            for k in range(self.steps):
                loss = loss_of(w)
                w.grad = None
                loss.backward()
                with torch.no_grad():
                    w.sub_(RATE * w.grad)
                if k % self.every == 0:
                    losses.append(loss.item())
            return [losses, w]

        return step

    def jax(self, lib: Any) -> Step:
        x, y = map(lib.rows, self.arrays())

        def update(w: Any, x: Any, y: Any) -> Any:
            loss, grad = lib.value_and_grad(lambda w: ((x @ w - y) ** 2).mean())(w)
            return loss, w - RATE * grad

        update = lib.jit(update, donate_argnums=0)

        def step() -> list[Any]:
            losses = []
            w = lib.whole(np.zeros(self.d, np.float32))
            for k in range(self.steps):
                loss, w = update(w, x, y)
                if k % self.every == 0:
                    losses.append(loss.item())
            return [losses, w]

        return step

    def dask(self, lib: Any) -> Step:
        blocks = [lib.rows(x, 2) for x in self.arrays()]

        def step() -> list[Any]:
            losses = []
            w = np.zeros(self.d, np.float32)
            for k in range(self.steps):
                loss, grad = lib.sum_of_blocks(self.by_hand, blocks, w).compute()
                w -= RATE / self.n * grad
                if k % self.every == 0:
                    losses.append(loss / self.n)
            return [losses, w]

        return step

    def autograd(self, lib: Any) -> Step:
        x, y = self.arrays()
        function = lib.value_and_grad(lambda w: lib.np.sum((lib.np.dot(x, w) - y) ** 2) / self.n)

        def step() -> list[Any]:
            losses = []
            w = np.zeros(self.d, np.float32)
            for k in range(self.steps):
                loss, grad = function(w)
                w -= RATE * grad
                if k % self.every == 0:
                    losses.append(loss)
            return [losses, w]

        return step

    def reference(self) -> list[Any]:
        x, y = self.arrays()
        losses = []
        w = np.zeros(self.d, np.float32)
        for k in range(self.steps):
            loss, grad = self.by_hand(x, y, w)
            w -= RATE / self.n * grad
            if k % self.every == 0:
                losses.append(loss / self.n)
        return [losses, w]

    @staticmethod
    def by_hand(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[Any]:
        e = x @ w
        e -= y
        return [e @ e, 2 * (e @ x)]
