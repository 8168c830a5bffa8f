"""The benchmarks' workloads, small, against gradients written by hand. No other library is needed."""

import copy

import numpy as np
import pytest

import distgrad
from benchmarks import driver, report, simulate
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


def invented(name, **seconds):
    """A race of three rounds."""
    return {
        "workload": name,
        "steps": {
            peer.replace("_", " "): [{"seconds": s, "cpu": s, "faults": 0}] * 3 for peer, s in seconds.items()
        },
        "figures": {"distgrad": {}},
        "left out": {},
    }


def test_goals_are_told_against_the_best_of_all_peers():
    races = [
        invented("chain", distgrad=1.0, torch=9.0, jax_donated=2.5, numba=0.5, one_worker=1.7, limit=0.1),
        invented("logistic", distgrad=1.0, torch_tuned=1.6, dask=3.0, limit=0.8),
        invented("train", distgrad=1.0, torch=0.9, jax=0.1, limit=0.1),
        invented("shards", distgrad=1.0, many_shards=1.1),
    ]
    lines = report.goals([report.Summary(race) for race in races])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:6]]
    assert [row[0] for row in cells] == ["chain", "logistic", "train", "geometric mean"]
    assert cells[0][2:] == ["jax donated 2.5 s", "2.50", "≥ 2", "10% a copy", "1.70 < 1.8", "0.50"]
    assert cells[1][2:] == ["torch tuned 1.6 s", "1.60", "< 2", "80% ≥ 80% reading once", "", ""]
    assert cells[2][2:5] == ["torch 900 ms", "0.90", "< 1"]
    assert cells[3][3:5] == ["1.53", "< 1.6"]
    assert "No workload under 1: no" in lines[-1]
