"""Random programs: the same bits from 1, 2 and 3 workers, and the driver's numbers but for rounding.

All that a program may do to a value is in `STEPS`. Every step takes any two matrices and gives a matrix, so that
what is drawn is always a program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distgrad as torch

F = torch.nn.functional


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A shard has several tiles. Numbers are double, so that rounding is far from a mistake."""
    torch.shutdown()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr("distgrad.plan.fuse.TILE", 120)
    monkeypatch.setattr("distgrad.plan.fuse.READ", 200)
    yield
    torch.set_default_dtype(torch.float32)
    torch.shutdown()


# The steps: of two matrices and a small number.
def fit(a: Any, b: Any) -> Any:
    """b, or its mean where it has another shape than a."""
    return b if a.shape == b.shape else b.mean()


def some(a: Any, k: int) -> Any:
    """Positions in the rows of a: some come several times, others not at all."""
    n = len(a)
    return torch.arange(n + k) * (k + 1) % n if n else torch.arange(0)


def row(a: Any, index: Any) -> Any:
    """One element of each row."""
    return a.gather(1, index[:, None]) if a.numel() else a.sum(1, keepdim=True)


def changed(a: Any, b: Any, k: int) -> Any:
    """Rows are changed in place, some of them through a view."""
    c = a.clone()
    view = c[k:]
    view *= 0.5
    c[:k] = fit(a, b)[:k] if a.shape == b.shape else 0.25
    c[::2] -= c[::2].tanh()
    return c + fit(a, b)


def learnt(a: Any, b: Any, k: int) -> Any:
    """A cross entropy whose classes are the columns."""
    if not a.numel():
        return a
    classes = torch.arange(len(a)) % a.shape[1]
    return a * F.cross_entropy(a, classes) + F.log_softmax(a, 1)


def picked(a: Any, b: Any, k: int) -> Any:
    return row(F.log_softmax(a, 1), some(a, k)[: len(a)] % max(1, a.shape[1])) * fit(a, b)


def gathered(a: Any, b: Any, k: int) -> Any:
    """Rows are taken from a table, and summed where they belong."""
    index = some(a, k)
    return torch.zeros(len(a) + k, a.shape[1]).index_add(0, index + k, a[index] * (k + 0.5))


Step = Callable[[Any, Any, int], Any]
STEPS: dict[str, Step] = {
    "squashed": lambda a, b, k: a.tanh(),
    "sigmoid": lambda a, b, k: 1 - a.sigmoid() * k,
    "power": lambda a, b, k: (a / 2) ** k,
    "scaled": lambda a, b, k: -(a * (k - 1.5)),
    "added": lambda a, b, k: a + fit(a, b) * 0.5,
    "subtracted": lambda a, b, k: -a - -fit(a, b),
    "multiplied": lambda a, b, k: a * fit(a, b).sin(),
    "divided": lambda a, b, k: a / (1 + fit(a, b) ** 2),
    "chosen": lambda a, b, k: torch.where(a > fit(a, b), a, -0.5 * fit(a, b)),
    "differences": lambda a, b, k: a[k:] - fit(a, b)[: len(a) - k] if a.shape == b.shape else a[k:] * 2,
    "second differences": lambda a, b, k: a[2:] - 2 * a[1:-1] + a[:-2] if len(a) > 2 else a,
    "columns": lambda a, b, k: a[:, k:] * a[:, : max(0, a.shape[1] - k)],
    "padded": lambda a, b, k: torch.cat([torch.zeros(k, a.shape[1]), a]),
    "joined": lambda a, b, k: torch.cat([a[k:], b[:k]]) if a.shape[1] == b.shape[1] else a,
    "rolled": lambda a, b, k: a.roll(k, 0) - fit(a, b),
    "reversed": lambda a, b, k: a.flip(0),
    "strided": lambda a, b, k: a[k % 2 :: 2],
    "transposed": lambda a, b, k: a.T,
    "reshaped": lambda a, b, k: a.reshape(a.shape[::-1]),
    "centred": lambda a, b, k: a - a.mean(k % 2, keepdim=True) if a.numel() else a,
    "summed": lambda a, b, k: a.sum(k % 2, keepdim=True) / 4,
    "largest": lambda a, b, k: a.amax(k % 2, keepdim=True) - a if a.numel() else a,
    "running": lambda a, b, k: a.cumsum(k % 2) / (1 + a.shape[k % 2]),
    "softmax": lambda a, b, k: a.softmax(k % 2) * fit(a, b),
    "learnt": learnt,
    "picked": picked,
    "product": lambda a, b, k: a @ (a.T @ a) / (1 + a.numel()),
    "outer": lambda a, b, k: (a @ b.T if a.shape[1] == b.shape[1] else a.sum() * b) / (1 + a.shape[1]),
    "gathered": gathered,
    "sorted": lambda a, b, k: a.sort(0)[0],
    "changed": changed,
    "read": lambda a, b, k: a * (1 + a.detach().sin().sum().item() / 64),
    "detached": lambda a, b, k: a * fit(a, b).detach(),
    "recut": lambda a, b, k: a.reshard(max(1, 3 * k)) if len(a) else a,
}


class Program(NamedTuple):
    """`steps` name what is done with which two values, and a number; the first `leaves` values have these cuts."""

    leaves: list[tuple[int, int]]
    cuts: list[Any]
    steps: list[tuple[str, int, int, int]]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    columns = draw(st.integers(1, 4))
    rows = draw(st.one_of(st.integers(0, 12), st.integers(24, 48)))
    shapes = [(rows, columns), draw(st.sampled_from([(rows, columns), (1, columns), (columns, rows)]))]
    piece = st.integers(1, 40)
    cuts = st.one_of(st.none(), piece, st.fixed_dictionaries({0: piece, 1: st.integers(1, 3)}))
    number = st.integers(0, 30)
    step = st.tuples(st.sampled_from(sorted(STEPS)), number, number, st.integers(0, 3))
    return Program(shapes, [draw(cuts) for _ in shapes], draw(st.lists(step, min_size=3, max_size=7)))


def run(program: Program, cuts: list[Any]) -> list[np.ndarray]:
    """What two steps of descent along a program's gradient give, and its second derivatives."""
    rng = np.random.default_rng(0)
    leaves = [
        torch.tensor(rng.standard_normal(shape), requires_grad=True, sharding=how)
        for shape, how in zip(program.leaves, cuts, strict=True)
    ]
    found = []
    for _ in range(2):
        values = list(leaves)
        for name, i, j, k in program.steps:
            values.append(STEPS[name](values[-1 - i % len(values)], values[-1 - j % len(values)], k))
        loss = sum((v.sin() * v).sum() / (1 + v.numel()) for v in (values[-1], values[-2], *leaves))
        gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        sum((g * g).sum() for g in gradients).backward()
        found += [loss, *gradients, *(x.grad for x in leaves)]
        with torch.no_grad():
            for x in leaves:
                x -= 0.05 * x.grad.clamp(-1, 1)
        found += [values[-1], leaves[0].detach().clone()]
    return [v.detach().numpy() for v in found]


@pytest.mark.sweep
@settings(max_examples=20, derandomize=True, database=None)
@given(programs(), st.sampled_from([128, 512, 1 << 20]), st.booleans())
def test_random_programs(
    monkeypatch: pytest.MonkeyPatch, program: Program, shard_bytes: int, at_once: bool
) -> None:
    with monkeypatch.context() as patch:
        if at_once:  # light passes are sent as heavy ones are
            patch.setattr("distgrad.session.placement.LIGHT", 0)
        results = []
        for workers in (1, 2, 3):
            with torch.init("inproc", workers=workers, inline_bytes=0, shard_bytes=shard_bytes):
                results.append(run(program, program.cuts))
    for others in results[1:]:
        assert [a.tobytes() for a in others] == [a.tobytes() for a in results[0]]
    with torch.init("inproc", workers=1):  # all that is not cut, in the driver
        expected = run(program, [None, None])
    for got, want in zip(results[0], expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8 * (1 + np.abs(want).max(initial=0)))
