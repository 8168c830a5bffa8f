"""The same bits on any number of workers (promise P2): of a training run, of sums and products, of random numbers."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TIMEOUT

import distgrad as torch
import distgrad.nn.functional as F
from distgrad.cutting import sharding_of
from distgrad.session import door
from distgrad.sharding import Sharding
from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import Transport
from distgrad.worker.worker import Worker

Arrays = dict[str, np.ndarray]
Program = Callable[[], Arrays]

ROWS, WIDTH, HIDDEN, CLASSES = 1200, 20, 32, 5
CUTS = [
    1,
    1,
    90,
    150,
    151,
    300,
    420,
    421,
    600,
    610,
    850,
    1199,
]  # 13 shards, one of them empty, two of one row


def uneven(*shape: int) -> Sharding:
    return sharding_of(shape, CUTS)


# Programs.
def train(steps: int = 20) -> Arrays:
    """A network with one hidden layer, learning by gradient descent with momentum to tell five classes of points."""
    torch.manual_seed(7)
    x = torch.randn(ROWS, WIDTH, sharding=uneven(ROWS, WIDTH))
    labels = (x @ torch.randn(WIDTH, CLASSES) + 0.3 * torch.randn(ROWS, CLASSES)).argmax(1)
    w1, w2 = torch.randn(WIDTH, HIDDEN) / WIDTH**0.5, torch.randn(HIDDEN, CLASSES) / HIDDEN**0.5
    params = [p.requires_grad_() for p in (w1, torch.zeros(HIDDEN), w2, torch.zeros(CLASSES))]
    speeds = [torch.zeros_like(p) for p in params]
    losses = []
    for _ in range(steps):
        w1, b1, w2, b2 = params
        loss = F.cross_entropy(F.relu(x @ w1 + b1) @ w2 + b2, labels)
        losses.append(loss.detach())
        for p in params:
            p.grad = None
        loss.backward()
        with torch.no_grad():
            for p, v in zip(params, speeds, strict=True):
                v.mul_(0.9).add_(p.grad)
                p.sub_(v, alpha=0.1)
    kept = {"losses": torch.stack(losses), "data": x, "labels": labels}
    for i, p in enumerate(params):
        kept |= {f"parameter {i}": p.detach(), f"gradient {i}": p.grad, f"speed {i}": speeds[i]}
    return {name: tensor.numpy() for name, tensor in kept.items()}


def sums() -> Arrays:
    """Whatever adds over shards, of numbers of very different sizes, so that the order of additions shows."""
    torch.manual_seed(1)
    rows = torch.randn(ROWS, 16, sharding=uneven(ROWS, 16)) * torch.exp(3 * torch.randn(ROWS, 1))
    columns = rows.T
    index = torch.randint(0, 7, (ROWS,), sharding=uneven(ROWS))
    return {
        name: tensor.numpy()
        for name, tensor in {
            "sum": rows.sum(),
            "sum of rows": rows.sum(1),
            "sum of columns": rows.sum(0),
            "mean": columns.mean(1),
            "variance": rows.var(0),
            "norm": rows.norm(),
            "product": columns @ rows,
            "product with a matrix": rows @ torch.randn(16, 3),
            "product with a vector": columns @ rows[:, 0],
            "softmax along the cut": torch.softmax(rows, 0),
            "softmax across": torch.log_softmax(rows, 1),
            "logsumexp": torch.logsumexp(rows, 0),
            "cumsum": torch.cumsum(rows, 0),
            "index_add": torch.zeros(7, 16).index_add(0, index, rows),
            "index_select": rows.index_select(0, index),
            "sort": rows.sort(0)[0],
        }.items()
    }


def draws() -> Arrays:
    """Random numbers, with cuts that are given, default, and none."""
    torch.manual_seed(3)
    return {
        name: tensor.numpy()
        for name, tensor in {
            "rand": torch.rand(ROWS, 3, sharding=uneven(ROWS, 3)),
            "randn": torch.randn(ROWS, 3),
            "float64": torch.randn(ROWS, dtype=torch.float64, sharding=uneven(ROWS)),
            "randint": torch.randint(-5, 6, (ROWS,), sharding=uneven(ROWS)),
            "few": torch.randn(5),
            "permutation": torch.randperm(100),
            "dropout": F.dropout(torch.ones(ROWS, 2), 0.3),
        }.items()
    }


# The checker.
def run_on(transport: Transport, program: Program, **options: Any) -> Arrays:
    """What the program gives with all work on these workers, which stay."""
    door.shutdown()
    door.attach(transport, timeout=TIMEOUT, **{"inline_bytes": 0, "shard_bytes": 4096, **options})
    try:
        return program()
    finally:
        door.detach()


def check_same_bits(results: Mapping[Any, Arrays]) -> None:
    """All results are the same, to the bit; else AssertionError that says which differ."""
    (first, want), *others = results.items()
    for who, got in others:
        assert got.keys() == want.keys()
        for name, array in want.items():
            other = got[name]
            assert (other.dtype, other.shape) == (array.dtype, array.shape), f"{name}: {who} and {first}"
            if other.tobytes() != array.tobytes():
                bits = np.array_equal(other, array, equal_nan=True)
                count = (
                    "signs of zero or nan" if bits else f"{(other != array).sum()} of {array.size} elements"
                )
                raise AssertionError(f"{name}: {count} differ between {who} and {first}")


# The tests.
# Not for the whole run: as Ray counts, each of these takes a quarter of the CPUs, which other tests want.
@pytest.fixture(scope="module")
def transports(ray_workers: Transport) -> Iterator[dict[str, Transport]]:
    """1, 2, 3 and 5 workers in this process, and 1, 2 and 3 in one Ray."""
    cluster = importlib.import_module("distgrad.cluster")
    started: list[Transport] = []
    try:
        started += [cluster.start(workers=n, timeout=TIMEOUT) for n in (1, 3)]
        found: dict[str, Transport] = {f"{n} here": InProcess(n, Worker) for n in (1, 2, 3, 5)}
        yield found | {"1 on Ray": started[0], "2 on Ray": ray_workers, "3 on Ray": started[1]}
    finally:
        for transport in started:
            transport.close()


@pytest.mark.parametrize("program", [pytest.param(train, marks=pytest.mark.sweep), sums, draws])
def test_same_bits_on_any_number_of_workers(program: Program, transports: dict[str, Transport]) -> None:
    check_same_bits({who: run_on(transport, program) for who, transport in transports.items()})


@pytest.mark.sweep
def test_same_bits_with_small_work_in_the_driver(transports: dict[str, Transport]) -> None:
    """As by default: tensors of a few KB are known to the driver, large ones are not."""
    check_same_bits(
        {who: run_on(transport, train, inline_bytes=8192) for who, transport in transports.items()}
    )


def test_training_learns() -> None:
    """The run that the bits are of is a good one: it is that of NumPy."""
    got = run_on(InProcess(2, Worker), train)
    x, labels = got["data"].astype("float64"), got["labels"]
    after = run_on(InProcess(1, Worker), lambda: train(1))
    params = [after[f"parameter {i}"] + 0.1 * after[f"speed {i}"].astype("float64") for i in range(4)]
    speeds = [np.zeros_like(p) for p in params]
    losses = []
    for _ in range(20):
        w1, b1, w2, b2 = params
        hidden = np.maximum(x @ w1 + b1, 0)
        scores = hidden @ w2 + b2
        powers = np.exp(scores - scores.max(1, keepdims=True))
        chances = powers / powers.sum(1, keepdims=True)
        losses.append(-np.log(chances[np.arange(ROWS), labels]).mean())
        g = (chances - np.eye(CLASSES)[labels]) / ROWS
        back = (g @ w2.T) * (hidden > 0)
        for p, v, slope in zip(
            params, speeds, (x.T @ back, back.sum(0), hidden.T @ g, g.sum(0)), strict=True
        ):
            v *= 0.9
            v += slope
            p -= 0.1 * v
    np.testing.assert_allclose(got["losses"], losses, rtol=1e-4)
    assert losses[-1] < 0.7 * losses[0]
    for i, p in enumerate(params):
        np.testing.assert_allclose(got[f"parameter {i}"], p, rtol=1e-3, atol=1e-4)


def test_draws_do_not_follow_the_cuts() -> None:
    def whole() -> Arrays:
        torch.manual_seed(3)
        return {"rand": torch.rand(ROWS, 3).numpy(), "randn": torch.randn(ROWS, 3, sharding={1: 2}).numpy()}

    cut = run_on(InProcess(3, Worker), draws)
    check_same_bits(
        {
            "cut": {name: cut[name] for name in ("rand", "randn")},
            "other cuts": run_on(InProcess(2, Worker), whole, shard_bytes=100),
            "whole": run_on(InProcess(1, Worker), whole, shard_bytes=1 << 20),
            "mostly in the driver": run_on(InProcess(1, Worker), whole, inline_bytes=1 << 20),
        }
    )


@pytest.mark.sweep
def test_a_long_chain_on_workers() -> None:
    """3,000 ops, which are one program; backward as well."""

    def chain() -> Arrays:
        x = torch.full((50,), 0.5, dtype=torch.float64, sharding=20, requires_grad=True)
        y = x
        for i in range(3000):
            y = y * 1.001 if i % 3 else y + 0.25
        y.sum().backward()
        return {"y": y.detach().numpy(), "slope": x.grad.numpy()}

    got = run_on(InProcess(2, Worker), chain)
    y = 0.5
    for i in range(3000):
        y = y * 1.001 if i % 3 else y + 0.25
    np.testing.assert_allclose(got["y"], np.full(50, y), rtol=1e-12)
    np.testing.assert_allclose(got["slope"], np.full(50, 1.001**2000), rtol=1e-12)


SMALL = """
import sys
import distgrad as torch
a = torch.tensor([2.0, 3.0], requires_grad=True)
b = torch.tensor([6.0, 4.0], requires_grad=True)
Q = 3 * a**3 - b**2
Q.backward(gradient=torch.tensor([1.0, 1.0]))
x = torch.randn(2, 2, requires_grad=True)
(x @ x + x.sum(1)).mean().backward()
print(a.grad, x.grad.shape)
assert not torch.is_initialized()
assert "ray" not in sys.modules and "distgrad.cluster" not in sys.modules
"""


def test_small_tensors_need_no_ray() -> None:
    root = Path(torch.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SMALL], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("tensor([36., 81.]) torch.Size([2, 2])\n", "")
