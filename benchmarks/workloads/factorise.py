"""Matrix factorisation: rows are gathered by index, and their gradients added where they came from."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads.base import Arrays, Step, Workload, normal


class Factorise(Workload):
    """Squared error of 1 M ratings, one pass; users and items in random order."""

    name = "factorise"
    what = "matrix factorisation, 1 M ratings of 100 k x 50 k, rank 32: loss and both gradients"
    goal = 1.25
    ratings, users, items, rank = 1_000_000, 100_000, 50_000, 32
    small = {"ratings": 5000, "users": 800, "items": 400}

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(0)
        i, j = rng.integers(0, self.users, self.ratings), rng.integers(0, self.items, self.ratings)
        r = normal(rng, self.ratings)
        return i, j, r, normal(rng, self.users, self.rank), normal(rng, self.items, self.rank)

    def bytes_needed(self) -> int:
        return self.ratings * (8 + 8 + 4) + 2 * (self.users + self.items) * self.rank * 4

    def eager(self, torch: Any) -> Step:
        i, j, r, u, v = map(torch.from_numpy, self.arrays())
        u.requires_grad_()
        v.requires_grad_()
        F = torch.nn.functional
        loss_of = self.compiled(lambda u, v: F.mse_loss((F.embedding(i, u) * F.embedding(j, v)).sum(1), r))

        def step() -> list[Any]:
            u.grad = v.grad = None
            loss = loss_of(u, v)
            loss.backward()
            return [loss.item(), u.grad, v.grad]

        return step

    def jax(self, lib: Any) -> Step:
        i, j, r, u, v = self.arrays()
        i, j, r, u, v = lib.rows(i), lib.rows(j), lib.rows(r), lib.whole(u), lib.whole(v)

        def loss_function(u: Any, v: Any, i: Any, j: Any, r: Any) -> Any:
            return (((u[i] * v[j]).sum(1) - r) ** 2).mean()

        function = lib.jit(lib.value_and_grad(loss_function, (0, 1)))

        def step() -> list[Any]:
            loss, grads = function(u, v, i, j, r)
            return [loss.item(), *grads]

        return step

    def dask(self, lib: Any) -> Step:
        *rows, u, v = self.arrays()
        sums = lib.sum_of_blocks(self.by_hand, [lib.rows(x, 4) for x in rows], u, v)

        def step() -> list[Any]:
            loss, gu, gv = sums.compute()
            gu /= self.ratings
            gv /= self.ratings
            return [loss / self.ratings, gu, gv]

        return step

    def autograd(self, lib: Any) -> Step:
        i, j, r, u, v = self.arrays()

        def loss_function(u: Any, v: Any) -> Any:
            return lib.np.sum((lib.np.sum(u[i] * v[j], 1) - r) ** 2) / self.ratings

        function = lib.value_and_grad(loss_function, (0, 1))

        def step() -> list[Any]:
            loss, grads = function(u, v)
            return [loss, *grads]

        return step

    def reference(self) -> list[Any]:
        return [s / self.ratings for s in super().reference()]

    @staticmethod
    def by_hand(i: np.ndarray, j: np.ndarray, r: np.ndarray, u: np.ndarray, v: np.ndarray) -> list[Any]:
        from scipy import sparse

        a, b = u[i], v[j]
        e = np.einsum("nk,nk->n", a, b)
        e -= r
        loss = e @ e
        e *= 2
        rows = np.arange(len(i) + 1)
        at_user = sparse.csr_array((e, i, rows), shape=(len(i), len(u)))
        at_item = sparse.csr_array((e, j, rows), shape=(len(j), len(v)))
        return [loss, at_user.T @ b, at_item.T @ a]
