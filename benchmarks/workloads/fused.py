"""Many steps for each element or row that is read: what one compiled pass can do, and passes of a library cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from benchmarks.workloads.base import Arrays, Step, Workload, normal


class Kepler(Workload):
    """An iteration that is differentiated through."""

    name = "kepler"
    what = (
        "five Newton steps of Kepler's equation E - e*sin(E) = M, sum of squares, gradient to e, 8 Mi float32"
    )
    goal, scaling_goal = 2.0, 1.8
    n = 8 << 20
    small = {"n": 1 << 16}

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(0)
        return rng.random(self.n, np.float32) * 3, rng.random(self.n, np.float32) * np.float32(0.3)

    def bytes_needed(self) -> int:
        return 3 * self.n * 4  # two vectors are read, one gradient written

    @staticmethod
    def loss(np: Any, mean: Any, e: Any) -> Any:
        """The sum, in any library."""
        angle = mean
        for _ in range(5):
            angle = angle - (angle - e * np.sin(angle) - mean) / (1 - e * np.cos(angle))
        return (angle * angle).sum()

    def eager(self, torch: Any) -> Step:
        mean, e = map(torch.from_numpy, self.arrays())
        e.requires_grad_()
        loss_of = self.compiled(lambda e, mean: self.loss(torch, mean, e))

        def step() -> list[Any]:
            e.grad = None
            loss = loss_of(e, mean)
            loss.backward()
            return [loss.item(), e.grad]

        return step

    def jax(self, lib: Any) -> Step:
        mean, e = map(lib.rows, self.arrays())
        function = lib.jit(lib.value_and_grad(lambda e, mean: self.loss(lib.np, mean, e)))

        def step() -> list[Any]:
            loss, grad = function(e, mean)
            return [loss.item(), grad]

        return step

    def numba(self, lib: Any) -> Step:
        mean, e = self.arrays()
        return lib.in_one_pass(lib.loops.kepler, [mean, e], [e])

    @staticmethod
    def by_hand(mean: np.ndarray, e: np.ndarray) -> list[Any]:
        """By the equation's own derivative: after five steps the iteration has come to its end."""
        angle = mean.astype(np.float64)
        for _ in range(5):
            angle = angle - (angle - e * np.sin(angle) - mean) / (1 - e * np.cos(angle))
        return [(angle * angle).sum(), 2 * angle * np.sin(angle) / (1 - e * np.cos(angle))]


class LogSumExp(Workload):
    """Rows that are read three times, while they are in the cache."""

    name = "logsumexp"
    what = "logsumexp of rows of 128, 256 Ki rows of float32: sum and gradient"
    goal = 2.0
    n, d = 256 << 10, 128
    small = {"n": 1 << 10}

    def arrays(self) -> Arrays:
        return (normal(np.random.default_rng(0), self.n, self.d),)

    def bytes_needed(self) -> int:
        return 2 * self.n * self.d * 4

    def eager(self, torch: Any) -> Step:
        (x,) = self.arrays()
        x = torch.from_numpy(x).requires_grad_()
        loss_of = self.compiled(lambda x: torch.logsumexp(x, 1).sum())

        def step() -> list[Any]:
            x.grad = None
            loss = loss_of(x)
            loss.backward()
            return [loss.item(), x.grad]

        return step

    def jax(self, lib: Any) -> Step:
        x = lib.rows(*self.arrays())
        function = lib.jit(lib.value_and_grad(lambda x: lib.nn.logsumexp(x, 1).sum()))

        def step() -> list[Any]:
            loss, grad = function(x)
            return [loss.item(), grad]

        return step

    def numba(self, lib: Any) -> Step:
        (x,) = self.arrays()
        return lib.in_one_pass(lib.loops.logsumexp, [x], [x])

    @staticmethod
    def by_hand(x: np.ndarray) -> list[Any]:
        total = special.logsumexp(x, 1, keepdims=True)
        return [total.sum(), np.exp(x - total)]


class NormGelu(Workload):
    """The part of a transformer's block between two products."""

    name = "norm-gelu"
    what = (
        "y = x + gelu(layer_norm(x)), sum of squares, gradients to x, weight and bias, 256 Ki x 512 float32"
    )
    goal, scaling_goal = 1.5, 1.8
    # Each holds several arrays of half a GiB: all of them at once would not fit into 24 GiB.
    # Each holds several arrays of half a GiB: all of them at once would not fit into 24 GiB.
    peers = ("distgrad", "torch tuned", "jax tuned", "numba")
    n, d = 256 << 10, 512
    small = {"n": 1 << 9}

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(0)
        return normal(rng, self.n, self.d), 1 + normal(rng, self.d, scale=0.1), normal(rng, self.d, scale=0.1)

    def bytes_needed(self) -> int:
        return 2 * self.n * self.d * 4

    def eager(self, torch: Any) -> Step:
        x, w, b = (torch.from_numpy(a).requires_grad_() for a in self.arrays())
        functional = torch.nn.functional

        def loss_of(x: Any, w: Any, b: Any) -> Any:
            y = x + functional.gelu(functional.layer_norm(x, (self.d,), w, b))
            return (y * y).sum()

        loss_of = self.compiled(loss_of)

        def step() -> list[Any]:
            x.grad = w.grad = b.grad = None
            loss = loss_of(x, w, b)
            loss.backward()
            return [loss.item(), x.grad, w.grad, b.grad]

        return step

    def jax(self, lib: Any) -> Step:
        x, w, b = self.arrays()
        x, w, b = lib.rows(x), lib.whole(w), lib.whole(b)

        def loss_of(x: Any, w: Any, b: Any) -> Any:
            centred = x - x.mean(1, keepdims=True)
            scaled = centred / lib.np.sqrt((centred * centred).mean(1, keepdims=True) + 1e-5)
            y = x + lib.nn.gelu(scaled * w + b, approximate=False)
            return (y * y).sum()

        function = lib.jit(lib.value_and_grad(loss_of, (0, 1, 2)))

        def step() -> list[Any]:
            loss, grads = function(x, w, b)
            return [loss.item(), *grads]

        return step

    def numba(self, lib: Any) -> Step:
        x, w, b = self.arrays()
        gx, gw, gb = np.empty_like(x), *np.empty((2, lib.loops.THREADS, self.d), np.float32)
        return lambda: [lib.loops.norm_gelu(x, w, b, gx, gw, gb), gx, gw.sum(0), gb.sum(0)]

    @staticmethod
    def by_hand(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> list[Any]:
        x = x.astype(np.float64)
        centred = x - x.mean(1, keepdims=True)
        scale = 1 / np.sqrt((centred * centred).mean(1, keepdims=True) + 1e-5)
        scaled = centred * scale
        z = scaled * w + b
        below = special.ndtr(z)
        y = x + z * below
        g = 2 * y
        gz = g * (below + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi))
        gs = gz * w
        gx = g + scale * (gs - gs.mean(1, keepdims=True) - scaled * (gs * scaled).mean(1, keepdims=True))
        return [(y * y).sum(), gx, (gz * scaled).sum(0), gz.sum(0)]
