"""The example of private training: alike in the driver, on workers and with PyTorch, and as a loop over samples."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad

PATH = Path(__file__).parents[1] / "examples" / "per_sample_gradients.py"


def load(other: bool = False) -> ModuleType:
    """The example as a module, perhaps with PyTorch."""
    text = PATH.read_text()
    module = ModuleType("per_sample_gradients")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = text.replace("import distgrad as torch", "import torch") if other else text
        exec(compile(text, PATH, "exec"), module.__dict__)
    return module


def trained(example: Any, state: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[float]]:
    model = example.network(4)
    params = {name: example.torch.tensor(array) for name, array in state.items()}
    data = tuple(t[:40] for t in example.patients())
    params, lengths = example.train(model, params, data, 3, noise=0.0, clip=0.5)
    return [p.numpy() for p in params.values()], lengths


@pytest.fixture
def state() -> dict[str, np.ndarray]:
    distgrad.shutdown()
    distgrad.manual_seed(1)
    return {name: p.detach().numpy() for name, p in load().network(4).named_parameters()}


def close(found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_on_workers(state: dict[str, np.ndarray]) -> None:
    known = trained(load(), state)
    with distgrad.init("inproc", workers=3, inline_bytes=0, shard_bytes=1 << 10):
        found = trained(load(), state)
    close(found[0], known[0])
    close(found[1], known[1])


def test_as_a_loop_over_samples(state: dict[str, np.ndarray]) -> None:
    example = load()
    model, params = example.network(4), {name: distgrad.tensor(a) for name, a in state.items()}
    x, y = (t[:6] for t in example.patients())
    each = example.gradients_of_each(model, params, x, y)
    for i in range(6):
        model.load_state_dict(params)
        model.zero_grad()
        distgrad.nn.functional.binary_cross_entropy_with_logits(model(x[i]).squeeze(), y[i]).backward()
        for name, p in model.named_parameters():
            np.testing.assert_allclose(each[name][i].numpy(), p.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_the_program_learns(capsys: pytest.CaptureFixture[str]) -> None:
    distgrad.shutdown()
    load().main(["--epochs", "2", "--steps", "3"])
    last = capsys.readouterr().out.split("epoch  2: ")[1]
    assert float(last.split("%")[0]) > 85


def test_pytorch_gives_the_same(state: dict[str, np.ndarray]) -> None:
    pytest.importorskip("torch")
    ours, theirs = trained(load(), state), trained(load(other=True), state)
    close(ours[0], theirs[0])
    close(ours[1], theirs[1])
