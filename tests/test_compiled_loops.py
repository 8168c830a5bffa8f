"""Loops as machine code: NumPy's results, the same bits on any number of workers and any processor, and a cache."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from values import same_bits

import distgrad as torch
from distgrad.compiler import machine, switch
from distgrad.primitives import TABLE
from distgrad.primitives.base import Lower
from distgrad.session import door
from distgrad.worker import compiled
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

F4 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """No session is left from before, and none is left."""
    door.shutdown()
    yield
    door.shutdown()


def begin(workers: int, compile: bool, shard_bytes: int = 1000) -> None:
    """All is on workers in this process."""
    door.attach(InProcess(workers, Worker), inline_bytes=0, shard_bytes=shard_bytes, compile=compile)


# Programs.


def elements(x: Any, w: Any) -> list[Any]:
    """A polynomial, and its gradient."""
    loss = (3 * x**3 - x * x / (1 + x.abs())).sum()
    loss.backward()
    return [loss, x.grad]


def rows(x: Any, w: Any) -> list[Any]:
    """Rows are centred and scaled, weighed, and summed in all ways."""
    y = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 0.1).sqrt() * w
    loss = (y * y.tanh()).sum()
    loss.backward()
    return [loss, x.grad, w.grad, y.amax(1), y.sum(0), (y > 0).any(1), (y > 5).sum()]


def logistic(x: Any, w: Any) -> list[Any]:
    """Rows times a vector, and back."""
    z = x @ w
    loss = (torch.nn.functional.softplus(z) - z * (z > 0)).mean()
    loss.backward()
    return [loss, w.grad, torch.sigmoid(z)]


def entropy(x: Any, w: Any) -> list[Any]:
    """Softmax, by its logarithm."""
    loss = (torch.logsumexp(x * w, 1) + torch.softmax(x, 1).amax(1)).sum()
    loss.backward()
    return [loss, x.grad, w.grad]


def steps_between(x: Any, w: Any) -> list[Any]:
    """What is not compiled stands between what is: the order of rows, a product of matrices."""
    y = (x * w).sort(1).values * 2 + 1
    z = (y @ y[:7].t() / 1000).exp().sum(1)
    loss = (z.log() + y.mean(1)).sum()
    loss.backward()
    return [loss, x.grad, w.grad]


def neighbours(x: Any, w: Any) -> list[Any]:
    """Elements of the rows before and behind."""
    y = x[1:] * w - x[:-1] ** 2
    loss = (y * y).sum() + (x[:, 1:] - x[:, :-1]).abs().sum()
    loss.backward()
    return [loss, x.grad, w.grad]


def integers(x: Any, w: Any) -> list[Any]:
    """Integers and truth, NaN and infinities."""
    n = (x.detach() * 10).long()
    bad = torch.where(n % 3 == 0, x.detach() / 0, x.detach())
    return [
        (n * n - n).sum(),
        n.amax(1),
        n.sum(0),
        bad.sum(1),
        bad.amax(0),
        (bad == bad).sum(),
        n.clamp(-3, 4) * 2 + 1,
    ]


PROGRAMS = [elements, rows, logistic, entropy, steps_between, neighbours, integers]
SHAPES = [(60, 40), (61, 7), (5, 100), (1, 3), (200, 1), (3, 1025)]


def result(
    program: Callable[[Any, Any], list[Any]], shape: tuple[int, int], cut: Any, dtype: Any
) -> list[np.ndarray]:
    """What a program gives, on data that is always the same."""
    rng = np.random.default_rng(shape[0])
    x = torch.from_numpy(rng.normal(size=shape).astype(dtype)).reshard(cut or {}).requires_grad_()
    w = torch.from_numpy(rng.normal(size=shape[1]).astype(dtype)).requires_grad_()
    return [t.detach().numpy() for t in program(x, w)]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
@pytest.mark.parametrize(
    ("dtype", "shapes"),
    [
        ("float32", SHAPES[:2]),
        ("float64", SHAPES[:1]),
        pytest.param("float32", SHAPES[2:], marks=pytest.mark.sweep),
    ],
)
def test_results_are_those_of_numpy(
    program: Callable[[Any, Any], list[Any]], dtype: str, shapes: list[tuple[int, int]]
) -> None:
    for shape in shapes:
        for cut in (
            {},
            {0: sorted([0, shape[0] // 3, shape[0] // 2, shape[0] // 2])},
            {1: [0, shape[1] // 2]},
        ):
            found = []
            for compile in (False, True):
                begin(2, compile)
                assert switch.on() == compile
                found.append(result(program, shape, cut, dtype))
                door.shutdown()
            for got, want in zip(*found, strict=True):
                assert got.dtype == want.dtype
                assert got.shape == want.shape
                far = 2e-5 if dtype == "float32" else 1e-12
                scale = np.abs(want[np.isfinite(want)]).max(initial=1.0) if want.dtype.kind == "f" else 1.0
                np.testing.assert_allclose(got, want, rtol=far, atol=far * scale)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_bits_do_not_depend_on_the_workers(program: Callable[[Any, Any], list[Any]]) -> None:
    for shape in ((60, 40), (61, 7)):
        found = []
        for workers in (1, 3):
            begin(workers, True, 400)
            found.append(result(program, shape, None, "float32"))
            door.shutdown()
        assert all(same_bits(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("program", [rows, entropy], ids=lambda p: p.__name__)
def test_one_row_that_is_all(program: Callable[[Any, Any], list[Any]]) -> None:
    """What is reduced to one element is known at the end of a nest only, and read by another."""
    for columns in (3, 700, 5000):
        found = []
        for compile, workers in ((False, 1), (True, 1), (True, 2)):
            begin(workers, compile)
            found.append(result(program, (1, columns), {0: [0, 0, 1]}, "float64"))
            door.shutdown()
        for want, got, again in zip(*found, strict=True):
            assert same_bits(got, again)
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


def test_loops_are_compiled_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(compiled, "machine_code", lambda *a: made.append(a) or machine.machine_code(*a))
    begin(2, True)
    result(rows, (60, 40), None, "float32")
    assert any(len(nest.steps) > 20 and nest.phases > 2 for nest, *_ in made)  # forward and backward in one
    made.clear()
    door.shutdown()
    begin(2, False)
    result(rows, (60, 40), None, "float32")
    assert made == []


def test_a_row_of_a_step_that_fails() -> None:
    begin(2, True)
    x = torch.arange(4000.0).reshape(100, 40)
    bad = x.long() // torch.zeros(40, dtype=torch.int64)
    good = (x * 2 + 1).sum(1)
    np.testing.assert_allclose(good.numpy(), (np.arange(4000.0).reshape(100, 40) * 2 + 1).sum(1))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        (bad * 2 + 1).sum().item()


def test_what_a_failed_step_leaves_out_may_need_more_memory_between_phases() -> None:
    """The exponentials are stored for the step that fails; without it they are kept from phase to phase."""
    begin(1, True)
    x = torch.linspace(-1, 1, 4000).reshape(100, 40)
    e = (x - x.amax(1, keepdim=True)).exp()
    bad = torch.fmod(e.long(), torch.zeros(40, dtype=torch.int64)) + e.sort(1).values.long()
    good = (e / e.sum(1, keepdim=True)).sum(0)
    a = np.linspace(-1, 1, 4000, dtype=np.float32).reshape(100, 40)
    want = np.exp(a - a.max(1, keepdims=True))
    np.testing.assert_allclose(good.numpy(), (want / want.sum(1, keepdims=True)).sum(0), rtol=1e-5)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        bad.sum().item()


# Whether loops are compiled.


def test_the_environment_and_the_argument_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, asked, expected in (
        ("0", None, False),
        ("1", None, True),
        ("0", True, True),
        ("1", False, False),
    ):
        monkeypatch.setenv("DISTGRAD_COMPILE", variable)
        torch.init("inproc", workers=1, compile=asked)
        assert switch.on() == expected
        torch.shutdown()


def test_without_the_compiler_all_run_on_numpy_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(switch, "possible", lambda: False)
    begin(2, True)
    assert not switch.on()
    assert capsys.readouterr().err.count("loops run on NumPy") == 1
    begin_again = result(rows, (60, 40), None, "float32")
    assert np.isfinite(begin_again[0])


def test_a_compiler_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, distgrad; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_what_is_lowered_to_another_type_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Lower(lambda b, x: b.convert(x, "double"))
    monkeypatch.setitem(TABLE, "exp", dataclasses.replace(TABLE["exp"], lower=wrong))
    begin(1, True, 32)
    with pytest.raises(Exception, match="lowered to double, declared float"):
        torch.arange(40.0).exp().tolist()
