"""`examples/poisson_regression.py`: its fit against Newton's method, on workers too, and against torch where it is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from values import Start

import distgrad as torch

PROGRAM = Path(__file__).parents[1] / "examples" / "poisson_regression.py"


def load(library: str) -> ModuleType:
    """The example as a module that imports `library`."""
    spec = importlib.util.spec_from_loader(f"poisson_{library}", None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    text = PROGRAM.read_text().replace("import distgrad as torch", f"import {library} as torch")
    exec(compile(text, str(PROGRAM), "exec"), module.__dict__)
    return module


example = load("distgrad")


def by_newton(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Weights and, last, the intercept for one kind of count: iteratively reweighted least squares."""
    design = np.column_stack([x, np.ones(len(x))])
    beta = np.array([0.0, 0.0, 0.0, np.log(counts.mean())])
    for _ in range(30):
        mean = np.exp(design @ beta)
        beta = beta + np.linalg.solve(design.T @ (mean[:, None] * design), design.T @ (counts - mean))
    return beta


@pytest.mark.parametrize("places", ["driver", "workers"])
def test_the_fit_is_that_of_newtons_method(start: Start, places: str) -> None:
    measured, counted = example.men()
    x, y = torch.tensor(measured), torch.tensor(counted)
    if places == "workers":
        start(3, 256)
        x, y = x.reshard([3, 4, 20]), y.reshard(7)
    w, b, losses = example.fit(x, y)
    want = np.column_stack([by_newton(measured, counts) for counts in counted.T])
    np.testing.assert_allclose(np.vstack([w.numpy(), b.numpy()]), want, rtol=1e-5, atol=1e-5)
    assert losses[-1] <= losses[0]
    left, whole = example.deviance(x, y, w, b)
    mean = np.exp(np.column_stack([measured, np.ones(20)]) @ want)
    logs = np.where(counted > 0, counted * np.log(np.maximum(counted, 1) / mean), 0)
    assert left == pytest.approx(2 * (logs - counted + mean).sum(), rel=1e-6)
    assert left < whole


def test_the_program_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["poisson_regression.py", "--men", "3000"])
    example.main()
    text = capsys.readouterr().out
    assert "chin-ups:    8.8 for the average man" in text
    assert float(text.split("of the model by ")[1].split()[0]) < 0.05


def test_torch_fits_the_same() -> None:
    peer = pytest.importorskip("torch")
    measured, counted = example.men()
    w, b, _ = load("torch").fit(peer.tensor(measured), peer.tensor(counted))
    ours = example.fit(torch.tensor(measured), torch.tensor(counted))
    np.testing.assert_allclose(ours[0].numpy(), w.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours[1].numpy(), b.numpy(), rtol=1e-6)
