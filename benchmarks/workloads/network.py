"""Matrix products: how near the rate of BLAS a program comes."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads.base import RATE, Arrays, Step, Workload, normal
from benchmarks.workloads.classify import cross_entropy


class Mlp(Workload):
    """A network with two hidden layers, full batch: forward, backward and the step of SGD."""

    name = "mlp"
    what = "MLP step, 65,536 x 256, two hidden layers of 1,024, 10 classes, SGD"
    goal, share_goal, scaling_goal = 1.0, 0.95, 1.8
    n = 65_536
    sizes = (256, 1024, 1024, 10)
    small = {"n": 512}

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(0)
        parameters: list[np.ndarray] = []
        for rows, columns in zip(self.sizes, self.sizes[1:], strict=False):
            parameters += [normal(rng, rows, columns, scale=(2 / rows) ** 0.5), np.zeros(columns, np.float32)]
        return normal(rng, self.n, self.sizes[0]), rng.integers(0, self.sizes[-1], self.n), *parameters

    def flops_needed(self) -> int:
        products = [rows * columns for rows, columns in zip(self.sizes, self.sizes[1:], strict=False)]
        return 2 * self.n * (3 * sum(products) - products[0])  # the data's gradient is not needed

    def eager(self, torch: Any) -> Step:
        F = torch.nn.functional
        x, y, *parameters = map(torch.from_numpy, self.arrays())
        parameters = [(p.t().contiguous() if p.ndim == 2 else p).requires_grad_() for p in parameters]

        def loss_of(w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any) -> Any:
            h = F.relu(F.linear(x, w1, b1))
            h = F.relu(F.linear(h, w2, b2))
            return F.cross_entropy(F.linear(h, w3, b3), y)

        loss_of = self.compiled(loss_of)

        def step() -> list[Any]:
            loss = loss_of(*parameters)
            for p in parameters:
                p.grad = None
            loss.backward()
            with torch.no_grad():
                for p in parameters:
                    p -= RATE * p.grad
            return [loss.item(), *(p.t() if p.ndim == 2 else p for p in parameters)]

        return step

    def jax(self, lib: Any) -> Step:
        x, y, *parameters = self.arrays()
        x, y = lib.rows(x), lib.rows(y)

        def loss_function(parameters: Any, x: Any, y: Any) -> Any:
            w1, b1, w2, b2, w3, b3 = parameters
            h = lib.nn.relu(x @ w1 + b1)
            h = lib.nn.relu(h @ w2 + b2)
            return lib.cross_entropy(h @ w3 + b3, y)

        def update(parameters: Any, x: Any, y: Any) -> Any:
            loss, grads = lib.value_and_grad(loss_function)(parameters, x, y)
            return loss, [p - RATE * g for p, g in zip(parameters, grads, strict=True)]

        update = lib.jit(update, donate_argnums=0)
        state = [[lib.whole(p) for p in parameters]]

        def step() -> list[Any]:
            loss, state[0] = update(state[0], x, y)
            return [loss.item(), *state[0]]

        return step

    def dask(self, lib: Any) -> Step:
        x, y, *parameters = self.arrays()
        blocks = [lib.rows(x, 8), lib.rows(y, 8)]

        def step() -> list[Any]:
            loss, *grads = lib.sum_of_blocks(self.by_hand, blocks, *parameters).compute()
            for p, g in zip(parameters, grads, strict=True):
                p -= RATE / self.n * g
            return [loss / self.n, *parameters]

        return step

    def autograd(self, lib: Any) -> Step:
        np_ = lib.np
        x, y, *parameters = self.arrays()

        def loss_function(parameters: Any) -> Any:
            w1, b1, w2, b2, w3, b3 = parameters
            h = lib.relu(np_.dot(x, w1) + b1)
            h = lib.relu(np_.dot(h, w2) + b2)
            return lib.cross_entropy(np_.dot(h, w3) + b3, y)

        function = lib.value_and_grad(loss_function)

        def step() -> list[Any]:
            loss, grads = function(parameters)
            for p, g in zip(parameters, grads, strict=True):
                p -= RATE * g
            return [loss, *parameters]

        return step

    def reference(self) -> list[Any]:
        arrays = self.arrays()
        loss, *grads = (s / self.n for s in self.by_hand(*arrays))
        return [loss, *(p - RATE * g for p, g in zip(arrays[2:], grads, strict=True))]

    @staticmethod
    def by_hand(x: np.ndarray, y: np.ndarray, *parameters: np.ndarray) -> list[Any]:
        w1, b1, w2, b2, w3, b3 = parameters
        h1 = x @ w1
        h1 += b1
        np.maximum(h1, 0, out=h1)
        h2 = h1 @ w2
        h2 += b2
        np.maximum(h2, 0, out=h2)
        z = h2 @ w3
        z += b3
        loss, g3 = cross_entropy(z, y)
        g2 = g3 @ w3.T
        g2 *= h2 > 0
        g1 = g2 @ w2.T
        g1 *= h1 > 0
        return [loss, x.T @ g1, g1.sum(0), h1.T @ g2, g2.sum(0), h2.T @ g3, g3.sum(0)]


class MlpAdam(Mlp):
    """The same network trained by Adam on shuffled minibatches, with the loader, layers and optimizer of the library.

    A step is a quarter of an epoch; its time is told for one minibatch. Results are the losses: Adam divides a gradient
    near 0 by its size, so that the last digits of the gradients become the first of some parameters' changes.
    """

    name = "mlp-adam"
    what = "minibatch of 1,024 shuffled rows of 65,536 x 256: two hidden layers of 1,024, 10 classes, Adam"
    goal, share_goal, scaling_goal = 1.0, 0, 0
    against = ("torch",)
    peers = ("distgrad", "torch", "torch tuned")
    batch, batches = 1024, 16
    repeats = 16
    small = {"n": 2048, "batch": 64, "batches": 4, "repeats": 4}

    def flops_needed(self) -> int:
        return super().flops_needed() * self.batch // self.n

    def eager(self, torch: Any) -> Step:
        nn, data = torch.nn, torch.utils.data
        x, y, *arrays = self.arrays()
        layers: list[Any] = []
        for w, b in zip(arrays[::2], arrays[1::2], strict=True):
            layers += [nn.Linear(*w.shape), nn.ReLU()]
            with torch.no_grad():
                layers[-2].weight.copy_(torch.from_numpy(w.T.copy()))
                layers[-2].bias.copy_(torch.from_numpy(b))
        model = nn.Sequential(*layers[:-1])
        optimizer = torch.optim.Adam(model.parameters())
        order = np.random.default_rng(1).permutation(self.n)[: self.batch * self.batches]
        rows = data.Subset(data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), order.tolist())
        loader = data.DataLoader(rows, batch_size=self.batch)

        def step() -> list[Any]:
            losses = []
            for features, labels in loader:
                loss = nn.functional.cross_entropy(model(features), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            return [torch.stack(losses)]

        return step

    def reference(self) -> list[Any]:
        x, y, *parameters = self.arrays()
        moments = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
        order = np.random.default_rng(1).permutation(self.n)[: self.batch * self.batches]
        losses = []
        for t, rows in enumerate(np.split(order, self.batches), 1):
            loss, *grads = (s / self.batch for s in self.by_hand(x[rows], y[rows], *parameters))
            losses.append(loss)
            for i, ((m, v), g) in enumerate(zip(moments, grads, strict=True)):
                m, v = moments[i] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                parameters[i] = parameters[i] - 1e-3 * (m / (1 - 0.9**t)) / (
                    np.sqrt(v / (1 - 0.999**t)) + 1e-8
                )
        return [np.array(losses)]


class Matmul(Workload):
    """Three products of square matrices, and little beside."""

    name = "matmul"
    what = "(A @ B).square().sum(), 4096 x 4096 float32, and both gradients"
    goal, share_goal, scaling_goal = 1.0, 0.95, 1.8
    n = 4096
    small = {"n": 256}

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(0)
        return normal(rng, self.n, self.n), normal(rng, self.n, self.n)

    def flops_needed(self) -> int:
        return 3 * 2 * self.n**3

    def eager(self, torch: Any) -> Step:
        a, b = (torch.from_numpy(x).requires_grad_() for x in self.arrays())
        loss_of = self.compiled(lambda a, b: (a @ b).square().sum())

        def step() -> list[Any]:
            a.grad = b.grad = None
            loss = loss_of(a, b)
            loss.backward()
            return [loss.item(), a.grad, b.grad]

        return step

    def jax(self, lib: Any) -> Step:
        a, b = self.arrays()
        a, b = lib.rows(a), lib.whole(b)
        function = lib.jit(lib.value_and_grad(lambda a, b: lib.np.square(a @ b).sum(), (0, 1)))

        def step() -> list[Any]:
            loss, grads = function(a, b)
            return [loss.item(), *grads]

        return step

    def dask(self, lib: Any) -> Step:
        a, b = self.arrays()
        results = self.by_hand(lib.rows(a, 2), lib.rows(b, 1))
        return lambda: lib.persist(*results)

    def autograd(self, lib: Any) -> Step:
        a, b = self.arrays()

        def loss_function(a: Any, b: Any) -> Any:
            c = lib.np.dot(a, b)
            return lib.np.sum(c * c)

        function = lib.value_and_grad(loss_function, (0, 1))

        def step() -> list[Any]:
            loss, grads = function(a, b)
            return [loss, *grads]

        return step

    @staticmethod
    def by_hand(a: Any, b: Any) -> list[Any]:
        c = a @ b
        g = 2 * c
        return [(c * c).sum(), g @ b.T, a.T @ g]
