"""The examples on scikit-learn's digits: they learn, alike in the driver and on workers, and as with PyTorch.

The last is tried where PyTorch is installed, with the example's text in which the import alone is another.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import distgrad

EXAMPLES = Path(__file__).parents[1] / "examples"
STEPS, BATCH = 3, 24


def load(name: str, text: Callable[[str], str] = str) -> ModuleType:
    """An example as a module, its text perhaps changed; `examples` is no package."""
    path = EXAMPLES / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the libraries that it imports say of one another
        exec(compile(text(path.read_text()), path, "exec"), module.__dict__)
    return module


class Case(NamedTuple):
    """How an example is run: its model, and the rest of what `train` takes before the batches."""

    model: Callable[[Any], Any]
    rest: Callable[[Any, Any], tuple[Any, ...]]
    labelled: bool = True


def _warm(torch: Any, model: Any) -> tuple[Any, ...]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=STEPS)


CASES = {
    "digits_convnet": Case(
        lambda e: e.ConvNet(channels=4, dropout=0.0),
        lambda torch, model: (torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True),),
    ),
    "digits_transformer": Case(lambda e: e.Reader(width=8, heads=2, dropout=0.0), _warm),
    "digits_vae": Case(
        lambda e: e.Autoencoder(hidden=3, width=16),
        lambda torch, model: (torch.optim.Adam(model.parameters(), lr=2e-3),),
        labelled=False,
    ),
}
EACH = pytest.mark.parametrize("name", CASES)


def few_batches(name: str, example: Any) -> list[Any]:
    """The same few batches for every library."""
    if not CASES[name].labelled:
        return [(x,) for x in example.pictures_of_digits()[: STEPS * BATCH].split(BATCH)]
    pictures, digits, *_ = example.split_digits()
    return [(pictures[i : i + BATCH], digits[i : i + BATCH]) for i in range(0, STEPS * BATCH, BATCH)]


def losses(
    name: str, example: Any, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any] | None = None
) -> tuple[list[float], dict[str, np.ndarray]]:
    """The losses of a few steps from given or fresh parameters, which are given back."""
    case, torch = CASES[name], example.torch
    torch.manual_seed(0)
    model = case.model(example)
    if state is not None:
        model.load_state_dict({key: torch.tensor(array) for key, array in state.items()})
    began = {key: np.array(t.detach().numpy()) for key, t in model.state_dict().items()}
    random = np.random.default_rng(1)  # generators differ: the noise is the same for all
    monkeypatch.setattr(
        torch,
        "randn_like",
        lambda x: torch.tensor(random.standard_normal(tuple(x.shape)), dtype=torch.float32),
    )
    return example.train(model, *case.rest(torch, model), few_batches(name, example)), began


@EACH
def test_steps_are_the_same_in_the_driver_and_on_workers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    example = load(name)
    distgrad.shutdown()
    known, state = losses(name, example, monkeypatch)
    with distgrad.init("inproc", workers=3, inline_bytes=0, shard_bytes=1 << 12):
        found, _ = losses(name, example, monkeypatch, state)
    assert len(known) == STEPS
    np.testing.assert_allclose(found, known, rtol=1e-4)


@EACH
def test_the_program_learns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    distgrad.shutdown()
    load(name).main(["--epochs", "2"])
    numbers = re.findall(r"epoch +\d+: (?:loss )? *([\d.]+)", capsys.readouterr().out)
    assert len(numbers) == 2
    assert float(numbers[1]) < 0.9 * float(numbers[0])


@EACH
def test_pytorch_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    distgrad.shutdown()
    ours, state = losses(name, load(name), monkeypatch)
    theirs, _ = losses(
        name,
        load(name, lambda text: text.replace("import distgrad as torch", "import torch")),
        monkeypatch,
        state,
    )
    assert "torch" in sys.modules
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
