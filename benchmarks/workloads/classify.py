"""Linear classifiers: one pass over the data gives loss and gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads.base import Arrays, Step, Workload, normal


def logistic_loss(np: Any, z: Any, y: Any) -> Any:
    """Mean cross-entropy of logits z and labels y, in JAX and in HIPS autograd."""
    # Neither mean() nor maximum(): in autograd their gradients of float32 are float64, which costs it much.
    return np.sum(z * (z > 0) - y * z + np.log1p(np.exp(-np.abs(z)))) / len(y)


class Logistic(Workload):
    """Tall and narrow: the limit is to read the data once."""

    name = "logistic"
    what = "logistic regression, 2 Mi x 64 float32: loss and gradient"
    goal, share_goal, only_reads = 2.0, 0.8, True
    n, d = 2 << 20, 64
    blocks = 8  # of Dask
    small = {"n": 1 << 13}

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(0)
        y = (rng.random(self.n) < 0.3).astype(np.float32)
        return normal(rng, self.n, self.d), y, normal(rng, self.d, scale=0.1)

    def bytes_needed(self) -> int:
        return self.n * (self.d + 1) * 4

    def eager(self, torch: Any) -> Step:
        x, y, w = map(torch.from_numpy, self.arrays())
        w.requires_grad_()
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
        loss_of = self.compiled(lambda w, x, y: cross_entropy(x @ w, y))

        def step() -> list[Any]:
            w.grad = None
            loss = loss_of(w, x, y)
            loss.backward()
            return [loss.item(), w.grad]

        return step

    def jax(self, lib: Any) -> Step:
        x, y, w = self.arrays()
        x, y, w = lib.rows(x), lib.rows(y), lib.whole(w)
        function = lib.jit(lib.value_and_grad(lambda w, x, y: logistic_loss(lib.np, x @ w, y)))

        def step() -> list[Any]:
            loss, grad = function(w, x, y)
            return [loss.item(), grad]

        return step

    def dask(self, lib: Any) -> Step:
        x, y, w = self.arrays()
        sums = lib.sum_of_blocks(self.by_hand, [lib.rows(x, self.blocks), lib.rows(y, self.blocks)], w)
        return lambda: [s / self.n for s in sums.compute()]

    def autograd(self, lib: Any) -> Step:
        x, y, w = self.arrays()
        function = lib.value_and_grad(lambda w: logistic_loss(lib.np, lib.np.dot(x, w), y))
        return lambda: list(function(w))

    def numba(self, lib: Any) -> Step:
        x, y, w = self.arrays()
        grads = np.empty((lib.loops.THREADS, self.d), np.float32)
        return lambda: [lib.loops.logistic(x, y, w, grads) / self.n, grads.sum(0) / np.float32(self.n)]

    def reference(self) -> list[Any]:
        return [s / self.n for s in super().reference()]

    @staticmethod
    def by_hand(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[Any]:
        z = x @ w
        e = np.exp(-np.abs(z))
        p = np.where(z >= 0, 1, e) / (1 + e)
        return [(np.maximum(z, 0) - y * z + np.log1p(e)).sum(), (p - y) @ x]


class LogisticWide(Logistic):
    """The same with longer rows."""

    name = "logistic-wide"
    what = "logistic regression, 256 Ki x 512 float32: loss and gradient"
    n, d = 256 << 10, 512
    blocks = 16
    small = {"n": 1 << 10}


class Newton(Logistic):
    """Second order: the gradient is differentiated again, and all of it may read the data once."""

    name = "newton"
    what = "logistic regression, 512 Ki x 64: loss, gradient, Hessian-vector product by double backward"
    goal = 2.0
    numba = None  # its second order is not written by hand
    compiled = None  # torch.compile cannot differentiate twice
    n, d = 512 << 10, 64
    small = {"n": 1 << 13}

    def arrays(self) -> Arrays:
        return *super().arrays(), normal(np.random.default_rng(1), self.d)

    def eager(self, torch: Any) -> Step:
        x, y, w, v = map(torch.from_numpy, self.arrays())
        w.requires_grad_()
        loss_function = torch.nn.functional.binary_cross_entropy_with_logits

        def step() -> list[Any]:
            loss = loss_function(x @ w, y)
            (grad,) = torch.autograd.grad(loss, w, create_graph=True)
            (product,) = torch.autograd.grad(grad @ v, w)
            return [loss.item(), grad, product]

        return step

    def jax(self, lib: Any) -> Step:
        x, y, w, v = self.arrays()
        x, y, w, v = lib.rows(x), lib.rows(y), lib.whole(w), lib.whole(v)

        @lib.jit
        def function(w: Any, x: Any, y: Any, v: Any) -> list[Any]:
            gradient = lib.value_and_grad(lambda w: logistic_loss(lib.np, x @ w, y))
            (loss, grad), (_, product) = lib.jvp(gradient, (w,), (v,))  # forward over reverse, as JAX advises
            return [loss, grad, product]

        def step() -> list[Any]:
            loss, grad, product = function(w, x, y, v)
            return [loss.item(), grad, product]

        return step

    def dask(self, lib: Any) -> Step:
        x, y, w, v = self.arrays()
        sums = lib.sum_of_blocks(self.by_hand, [lib.rows(x, self.blocks), lib.rows(y, self.blocks)], w, v)
        return lambda: [s / self.n for s in sums.compute()]

    def autograd(self, lib: Any) -> Step:
        x, y, w, v = self.arrays()
        gradient = lib.value_and_grad(lambda w: logistic_loss(lib.np, lib.np.dot(x, w), y))

        def along(w: Any) -> Any:
            loss, grad = gradient(w)
            values.append((loss, grad))
            return lib.np.dot(grad, v)

        values: list[Any] = []

        def step() -> list[Any]:
            product = lib.grad(along)(w)
            loss, grad = map(lib.getval, values.pop())
            return [loss, grad, product]

        return step

    @staticmethod
    def by_hand(x: np.ndarray, y: np.ndarray, w: np.ndarray, v: np.ndarray) -> list[Any]:
        z, zv = (x @ np.stack([w, v], 1)).T
        e = np.exp(-np.abs(z))
        p = np.where(z >= 0, 1, e) / (1 + e)
        loss = (np.maximum(z, 0) - y * z + np.log1p(e)).sum()
        grad, product = np.stack([p - y, p * (1 - p) * zv]) @ x
        return [loss, grad, product]


class Softmax(Workload):
    """A hundred classes: the logits are larger than the data, and need not be kept."""

    name = "softmax"
    what = "softmax regression, 512 Ki x 64 into 100 classes: cross-entropy and gradient"
    goal, scaling_goal = 1.25, 1.8
    n, d, classes = 512 << 10, 64, 100
    small = {"n": 1 << 12}

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(0)
        y = rng.integers(0, self.classes, self.n)
        return normal(rng, self.n, self.d), y, normal(rng, self.d, self.classes, scale=0.1)

    def flops_needed(self) -> int:
        return 2 * 2 * self.n * self.d * self.classes

    def eager(self, torch: Any) -> Step:
        x, y, w = map(torch.from_numpy, self.arrays())
        w.requires_grad_()
        loss_of = self.compiled(lambda w, x, y: torch.nn.functional.cross_entropy(x @ w, y))

        def step() -> list[Any]:
            w.grad = None
            loss = loss_of(w, x, y)
            loss.backward()
            return [loss.item(), w.grad]

        return step

    def jax(self, lib: Any) -> Step:
        x, y, w = self.arrays()
        x, y, w = lib.rows(x), lib.rows(y), lib.whole(w)
        function = lib.jit(lib.value_and_grad(lambda w, x, y: lib.cross_entropy(x @ w, y)))

        def step() -> list[Any]:
            loss, grad = function(w, x, y)
            return [loss.item(), grad]

        return step

    def dask(self, lib: Any) -> Step:
        x, y, w = self.arrays()
        sums = lib.sum_of_blocks(self.by_hand, [lib.rows(x, 32), lib.rows(y, 32)], w)
        return lambda: [s / self.n for s in sums.compute()]

    def autograd(self, lib: Any) -> Step:
        x, y, w = self.arrays()
        function = lib.value_and_grad(lambda w: lib.cross_entropy(lib.np.dot(x, w), y))
        return lambda: list(function(w))

    def numba(self, lib: Any) -> Step:
        x, y, w = self.arrays()
        z = np.empty((self.n, self.classes), np.float32)

        def step() -> list[Any]:
            np.dot(x, w, out=z)
            return [lib.loops.entropy(z, y) / self.n, x.T @ z / np.float32(self.n)]

        return step

    def reference(self) -> list[Any]:
        return [s / self.n for s in super().reference()]

    @staticmethod
    def by_hand(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[Any]:
        loss, g = cross_entropy(x @ w, y)
        return [loss, x.T @ g]


def cross_entropy(z: np.ndarray, y: np.ndarray) -> tuple[Any, np.ndarray]:
    """Sum over the rows of logits z, labels y; and its gradient, which is written over z."""
    rows = np.arange(len(z))
    z -= z.max(1, keepdims=True)
    picked = z[rows, y].sum()
    np.exp(z, out=z)
    total = z.sum(1)
    z /= total[:, None]
    z[rows, y] -= 1
    return np.log(total).sum() - picked, z
