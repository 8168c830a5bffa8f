"""The benchmarks' workloads, small, against gradients written by hand. No other library is needed."""

import copy

import numpy as np
import pytest

import distgrad
from benchmarks import driver, simulate
from benchmarks.workloads import WORKLOADS
from distgrad.session import door

NAMES = [
    "poly",
    "chain",
    "logistic",
    "softmax",
    "mlp",
    "matmul",
    "rosenbrock",
    "factorise",
    "kepler",
    "logsumexp",
    "norm-gelu",
    "newton",
    "train",
]


@pytest.mark.parametrize("name", NAMES)
def test_first_step(name):
    workload = copy.copy(WORKLOADS[name])
    workload.shrink()
    with distgrad.init("inproc", workers=2, shard_bytes=1 << 16):
        results = [r.detach().numpy() if hasattr(r, "detach") else r for r in workload.eager(distgrad)()]
    expected = workload.reference()
    assert len(results) == len(expected)
    for got, want in zip(results, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("name", ["cnn-digits", "cnn-images", "lstm", "encoder"])
def test_networks_of_layers_step_alike_on_workers_and_in_the_driver(name):
    workload = copy.copy(WORKLOADS[name])
    workload.shrink()
    losses = []
    for inline in (0, 1 << 30):
        with distgrad.init("inproc", workers=2, shard_bytes=1 << 12, inline_bytes=inline):
            losses += workload.eager(distgrad)()
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_ops_of_a_step_are_counted():
    with distgrad.init("inproc", workers=1):
        assert driver.ops(driver.regression(rows=64)) == 9


@pytest.mark.sweep
@pytest.mark.parametrize("prepare", [driver.regression, driver.network])
def test_simulated_workers(prepare):
    door.shutdown()
    rows = simulate.SHARD // 4 // (16 if prepare is driver.regression else 256) * simulate.SHARDS[0]
    figures = [simulate.measure(prepare, rows, workers) for workers in (1, 40)]
    assert all(f.calls >= 1 and f.plan > 0 and f.find > 0 and f.submit > 0 for f in figures)
    assert figures[0].calls == figures[1].calls
    assert not door.is_initialized()
