"""Element by element: memory, and how well a chain of ops is fused, is all that counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads.base import Arrays, Step, Workload


class Poly(Workload):
    """The polynomial of torch's tutorial, on vectors that fill the memory bus."""

    name = "poly"
    what = "gradient of (3*a**3 - b**2).sum(), 16 Mi float32 each"
    goal, share_goal = 1.5, 0.7
    n = 16 << 20
    small = {"n": 1 << 16}

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(0)
        return rng.random(self.n, np.float32), rng.random(self.n, np.float32)

    def bytes_needed(self) -> int:
        return 4 * self.n * 4  # two vectors are read, two gradients written

    def eager(self, torch: Any) -> Step:
        a, b = (torch.from_numpy(x).requires_grad_() for x in self.arrays())
        loss_of = self.compiled(lambda a, b: (3 * a**3 - b**2).sum())

        def step() -> list[Any]:
            a.grad = b.grad = None
            loss = loss_of(a, b)
            loss.backward()
            return [loss.item(), a.grad, b.grad]

        return step

    def jax(self, lib: Any) -> Step:
        a, b = map(lib.rows, self.arrays())
        function = lib.jit(lib.value_and_grad(lambda a, b: (3 * a**3 - b**2).sum(), (0, 1)))

        def step() -> list[Any]:
            loss, grads = function(a, b)
            return [loss.item(), *grads]

        return step

    def dask(self, lib: Any) -> Step:
        a, b = (lib.rows(x, 2) for x in self.arrays())
        results = self.by_hand(a, b)
        return lambda: lib.persist(*results)

    def autograd(self, lib: Any) -> Step:
        a, b = self.arrays()
        function = lib.value_and_grad(lambda a, b: lib.np.sum(3 * a**3 - b**2), (0, 1))

        def step() -> list[Any]:
            loss, grads = function(a, b)
            return [loss, *grads]

        return step

    def numba(self, lib: Any) -> Step:
        a, b = self.arrays()
        return lib.in_one_pass(lib.loops.poly, [a, b], [a, b])

    @staticmethod
    def by_hand(a: Any, b: Any) -> list[Any]:
        return [(3 * (a * a * a) - b * b).sum(), 9 * (a * a), -2 * b]


class Tiny(Poly):
    """The tutorial's own size: no workers, no plan, only the cost of an op."""

    name = "tiny"
    what = "Q = 3*a**3 - b**2 on two elements, forward and backward"
    goal, share_goal = 1.0, 0
    against = ("torch",)
    peers = ("distgrad", "torch", "jax", "autograd")  # nothing to tune; Dask is not meant for this
    threads = 1
    repeats = 1000
    init = None
    small = {"repeats": 10}

    def arrays(self) -> Arrays:
        return np.float32([2, 3]), np.float32([6, 4]), np.ones(2, np.float32)

    def bytes_needed(self) -> int:
        return 0

    def eager(self, torch: Any) -> Step:
        a, b, g = map(torch.from_numpy, self.arrays())
        a.requires_grad_()
        b.requires_grad_()

        def step() -> list[Any]:
            for _ in range(self.repeats):
                a.grad = b.grad = None
                q = 3 * a**3 - b**2
                q.backward(gradient=g)
            return [q, a.grad, b.grad]

        return step

    def jax(self, lib: Any) -> Step:
        a, b, g = map(lib.one_device, self.arrays())

        @lib.jit
        def function(a: Any, b: Any, g: Any) -> list[Any]:
            q, backward = lib.vjp(lambda a, b: 3 * a**3 - b**2, a, b)
            return [q, *backward(g)]

        def step() -> list[Any]:
            for _ in range(self.repeats):
                results = lib.wait(function(a, b, g))
            return results

        return step

    def autograd(self, lib: Any) -> Step:
        a, b, g = self.arrays()
        function = lib.make_vjp(lambda a, b: 3 * a**3 - b**2, (0, 1))

        def step() -> list[Any]:
            for _ in range(self.repeats):
                backward, q = function(a, b)
                grads = backward(g)
            return [q, *grads]

        return step


class Chain(Workload):
    """Ten layers of tanh: what is kept for backward, or computed again."""

    name = "chain"
    what = "ten times y = tanh(1.01*y + 0.1), sum, backward, 16 Mi float32"
    goal, scaling_goal = 2.0, 1.8
    n = 16 << 20
    small = {"n": 1 << 16}

    def arrays(self) -> Arrays:
        return (np.random.default_rng(0).random(self.n, np.float32),)

    def bytes_needed(self) -> int:
        return 2 * self.n * 4  # read once, one gradient written

    @staticmethod
    def loss(tanh: Any, y: Any) -> Any:
        """The chain, in any library."""
        for _ in range(10):
            y = tanh(1.01 * y + 0.1)
        return y.sum()

    def eager(self, torch: Any) -> Step:
        (x,) = self.arrays()
        x = torch.from_numpy(x).requires_grad_()
        loss_of = self.compiled(lambda x: self.loss(torch.tanh, x))

        def step() -> list[Any]:
            x.grad = None
            loss = loss_of(x)
            loss.backward()
            return [loss.item(), x.grad]

        return step

    def jax(self, lib: Any) -> Step:
        x = lib.rows(*self.arrays())
        function = lib.jit(lib.value_and_grad(lambda x: self.loss(lib.np.tanh, x)))

        def step() -> list[Any]:
            loss, grad = function(x)
            return [loss.item(), grad]

        return step

    def dask(self, lib: Any) -> Step:
        results = self.by_hand(lib.rows(*self.arrays(), 16))
        return lambda: lib.persist(*results)

    def autograd(self, lib: Any) -> Step:
        (x,) = self.arrays()
        function = lib.value_and_grad(lambda x: self.loss(lib.np.tanh, x))
        return lambda: list(function(x))

    def numba(self, lib: Any) -> Step:
        (x,) = self.arrays()
        return lib.in_one_pass(lib.loops.chain, [x], [x])

    @staticmethod
    def by_hand(x: Any) -> list[Any]:
        ys = [x]
        for _ in range(10):
            ys.append(np.tanh(1.01 * ys[-1] + 0.1))
        g = 1.01 * (1 - ys[-1] * ys[-1])
        for y in ys[-2:0:-1]:
            g = g * (1.01 * (1 - y * y))
        return [ys[-1].sum(), g]


class Rosenbrock(Workload):
    """Overlapping slices: neighbours' elements cross the cuts, and the gradient of a slice is added to the whole."""

    name = "rosenbrock"
    what = "gradient of the Rosenbrock function of 16 Mi float32"
    goal, share_goal = 1.5, 0.7
    n = 16 << 20
    small = {"n": 1 << 16}

    def arrays(self) -> Arrays:
        return (np.random.default_rng(0).random(self.n, np.float32),)

    def bytes_needed(self) -> int:
        return 2 * self.n * 4

    @staticmethod
    def loss(x: Any) -> Any:
        """The function, in any library."""
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    def eager(self, torch: Any) -> Step:
        (x,) = self.arrays()
        x = torch.from_numpy(x).requires_grad_()
        loss_of = self.compiled(self.loss)

        def step() -> list[Any]:
            x.grad = None
            loss = loss_of(x)
            loss.backward()
            return [loss.item(), x.grad]

        return step

    def jax(self, lib: Any) -> Step:
        x = lib.rows(*self.arrays())
        function = lib.jit(lib.value_and_grad(self.loss))

        def step() -> list[Any]:
            loss, grad = function(x)
            return [loss.item(), grad]

        return step

    def dask(self, lib: Any) -> Step:
        x = lib.rows(*self.arrays(), 2)
        r = x[1:] - x[:-1] * x[:-1]
        s = 1 - x[:-1]
        loss = (100 * (r * r) + s * s).sum()
        zero = lib.np.zeros(1, dtype=np.float32)
        grad = lib.np.concatenate([-400 * x[:-1] * r - 2 * s, zero]) + lib.np.concatenate([zero, 200 * r])
        grad = grad.rechunk(x.chunks)
        return lambda: lib.persist(loss, grad)

    def autograd(self, lib: Any) -> Step:
        (x,) = self.arrays()
        function = lib.value_and_grad(self.loss)
        return lambda: list(function(x))

    def numba(self, lib: Any) -> Step:
        (x,) = self.arrays()
        return lib.in_one_pass(lib.loops.rosenbrock, [x], [x])

    @staticmethod
    def by_hand(x: np.ndarray) -> list[Any]:
        r = x[1:] - x[:-1] * x[:-1]
        s = 1 - x[:-1]
        grad = np.zeros_like(x)
        grad[:-1] = -400 * x[:-1] * r - 2 * s
        grad[1:] += 200 * r
        return [(100 * (r * r) + s * s).sum(), grad]
