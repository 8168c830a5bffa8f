"""Indexing, masks, gather and scatter: what torch prints, and what is fetched and moved for it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import golden_cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorder import Recorder
from values import numbers

import distgrad
from distgrad import session
from distgrad.errors import WorkerError
from distgrad.ops.table import OPS
from distgrad.session import door


@pytest.mark.parametrize("case", golden_cases.cases("indexing"), ids=lambda case: f"line{case.line}")
def test_as_torch_prints(torch: ModuleType, case: golden_cases.Case) -> None:
    assert golden_cases.run(case.program, torch) == case.printed


# Against NumPy, which indexes alike where integers do not stand beside tensors.
SHAPE = (4, 3, 5)


@st.composite
def keys(draw: Any) -> tuple[Any, ...]:
    """Slices, None, one Ellipsis, and either a mask or index arrays that broadcast."""
    key: list[Any] = []
    dim, length = 0, draw(st.integers(1, 3))
    mask_used = False
    while dim < len(SHAPE):
        kind = draw(st.sampled_from(["slice", "all", "index", "mask", "none"]))
        n = SHAPE[dim]
        if kind == "none":
            key.append(None)
            continue
        if kind == "slice":
            start, stop = draw(st.integers(-n, n)), draw(st.integers(-n, n))
            key.append(slice(start, stop, draw(st.integers(1, 3))))
        elif kind == "index" and not mask_used:
            column = draw(st.booleans())
            index = np.array(draw(st.lists(st.integers(-n, n - 1), min_size=length, max_size=length)))
            key.append(index[:, None] if column else index)
        elif kind == "mask" and not any(isinstance(k, np.ndarray) for k in key):
            key.append(np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))))
            mask_used = True
        else:
            key.append(slice(None))
        dim += 1
    return tuple(key)


@pytest.fixture(scope="module")
def cut() -> Iterator[list[Any]]:
    """One tensor, cut in some ways."""
    door.shutdown()
    transport = Recorder(2)
    door.attach(transport, inline_bytes=0, shard_bytes=64)
    ways: list[Any] = [None, {0: 2}, {1: [0, 0, 1]}, {0: 1, 2: 2}]
    yield [distgrad.tensor(numbers(*SHAPE), sharding=way) for way in ways]
    door.shutdown()


def on_workers(item: Any) -> Any:
    """An index that the driver does not know."""
    if isinstance(item, np.ndarray):
        given = distgrad.tensor(item)
        return given | given if item.dtype == bool else given * 1
    return item


@given(keys(), st.booleans())
def test_like_numpy(cut: list[Any], key: tuple[Any, ...], known: bool) -> None:
    want = numbers(*SHAPE)[key]
    ours = (
        tuple(distgrad.tensor(k) if isinstance(k, np.ndarray) else k for k in key)
        if known
        else tuple(map(on_workers, key))
    )
    for x in cut:
        np.testing.assert_array_equal(x[ours].numpy(), want)


@given(keys(), st.sampled_from(["number", "full", "row"]))
def test_assignment_like_numpy(cut: list[Any], key: tuple[Any, ...], kind: str) -> None:
    want = numbers(*SHAPE)
    region = want[key].shape
    new: Any = -1.0
    if kind == "full" and all(not isinstance(k, np.ndarray) or k.dtype == bool for k in key):
        new = -1.0 - np.arange(np.prod(region)).reshape(region)
    elif kind == "row" and region:
        new = -1.0 - np.arange(region[-1])
    want[key] = new
    ours = tuple(map(on_workers, key))
    for x in cut:
        y = x.clone()
        y[ours] = distgrad.tensor(new) if isinstance(new, np.ndarray) else new
        np.testing.assert_array_equal(y.numpy(), want)
        assert x.sharding.count == 1 or y.sharding == x.sharding


# Masks.
@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what is fetched from the workers."""
    shapes: list[tuple[int, ...]] = []
    plain = door.Session.fetch

    def fetch(self: Any, result: Any) -> Any:
        shapes.append(result.aval.shape)
        return plain(self, result)

    monkeypatch.setattr(door.Session, "fetch", fetch)
    return shapes


def test_chosen_elements_stay_on_their_shards(recorder: Recorder, fetched: list[tuple[int, ...]]) -> None:
    a = numbers(64, 64)
    shards = 32
    x = distgrad.tensor(a, sharding=2, requires_grad=True)
    before = len(recorder.calls)
    mask = x > 100.0
    y = x[mask]
    assert y.sharding.cuts[0].edges == (0, *np.cumsum([(p > 100).sum() for p in np.split(a, shards)]))
    y.square().sum().backward()
    z = (x.detach() * 2)[mask]
    assert fetched == [(shards,)]
    assert sum(size for _, _, size in recorder.calls[before:]) < a.nbytes / 4
    np.testing.assert_array_equal(x.grad.numpy(), np.where(a > 100, 2 * a, 0))
    np.testing.assert_array_equal(z.detach().numpy(), 2 * a[a > 100])
    assert x.grad.sharding == x.sharding


def test_rows_chosen_by_a_mask(recorder: Recorder, fetched: list[tuple[int, ...]]) -> None:
    a = numbers(64, 3, 4)
    x = distgrad.tensor(a, sharding=4, requires_grad=True)
    mask = a[:, 0, 0] > 40
    known = x[distgrad.tensor(mask)]
    assert fetched == []
    assert known.sharding.count == x.sharding.count
    known.sum().backward()
    np.testing.assert_array_equal(known.detach().numpy(), a[mask])
    np.testing.assert_array_equal(x.grad.numpy(), np.broadcast_to(mask[:, None, None], a.shape))


def test_writing_one_value_needs_no_count(recorder: Recorder, fetched: list[tuple[int, ...]]) -> None:
    a = numbers(64, 8)
    x = distgrad.tensor(a, sharding=4, requires_grad=True)
    row = distgrad.tensor(numbers(8), requires_grad=True)
    y = x * 1
    y[x > 30] = 0.0
    y[x[:, 0] > 40] = row
    y.sum().backward()
    assert fetched == []
    rows = a[:, 0] > 40
    np.testing.assert_array_equal(row.grad.numpy(), np.full(8, rows.sum()))
    np.testing.assert_array_equal(x.grad.numpy(), ~((a > 30) | rows[:, None]))


def test_nothing_chosen_and_all_chosen(torch: ModuleType) -> None:
    x = torch.tensor(numbers(20), requires_grad=True)
    assert x[x > 1e9].shape == (0,)
    x[x > 1e9].sum().backward()
    assert x.grad.tolist() == [0] * 20
    np.testing.assert_array_equal(x[x < 1e9].detach().numpy(), numbers(20))
    assert torch.nonzero(x > 1e9).shape == (0, 1)


# What is on the way.
MODULES = (
    "reductions",
    "norms",
    "ordering",
    "shape",
    "joining",
    "rearranging",
    "gathering",
    "advanced",
    "regrouping",
)


def test_ops_do_not_fetch(recorder: Recorder, fetched: list[tuple[int, ...]]) -> None:
    """Forward and backward of all ops whose results' shapes do not depend on data."""
    own = {importlib.import_module(f"distgrad.ops.{name}").__name__ for name in MODULES}
    ops = [op for op in OPS.values() if op.body.__module__ in own and op.name != "repeat_interleave"]
    assert len(ops) > 60
    for op in ops:
        for args, keywords in op.examples():
            tracked = [a.requires_grad_() if _real(a) else a for a in args]
            outs = op.function(*tracked, **keywords)
            for out in outs if isinstance(outs, tuple) else (outs,):
                if isinstance(out, distgrad.Tensor) and out.requires_grad:
                    (out * 1).sum().backward()
            assert fetched == [], op.name


def _real(a: Any) -> bool:
    return isinstance(a, distgrad.Tensor) and a.is_floating_point()


def test_an_index_that_only_workers_know_is_checked_there(recorder: Recorder) -> None:
    x = distgrad.tensor(numbers(6, 5))
    index = distgrad.tensor([1, 6]) * 1
    with pytest.raises(IndexError, match="index 6 is out of bounds for dimension 0 with size 6") as raised:
        x[index].numpy()
    assert isinstance(raised.value, WorkerError)
    with pytest.raises(IndexError, match="index 6 is out of bounds for dimension 1 with size 5"):
        x[index * 0, index].numpy()
    np.testing.assert_array_equal(x[index - 1].numpy(), numbers(6, 5)[[0, 5]])
    session.synchronize()


def test_repeated_indices_add_up(torch: ModuleType) -> None:
    x = torch.zeros(3, requires_grad=True)
    x[torch.tensor([0, 0, 2, -1, 0])].sum().backward()
    assert x.grad.tolist() == [3, 0, 2]


def test_gradient_for_what_scatter_did_not_read(torch: ModuleType) -> None:
    """A source larger than the index has gradient zero beyond it (torch raises here)."""
    x, src = torch.zeros(3, 4, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    x.scatter(1, torch.tensor([[0], [1]]), src).sum().backward()
    assert src.grad.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_a_view_of_a_view_is_written(torch: ModuleType) -> None:
    x = torch.zeros(3, 4, requires_grad=True) * 1
    values = torch.ones(2, requires_grad=True)
    x[1:][0][torch.tensor([True, False, True, False])] = values
    x[1:][:, [3, 1]] = values * 5
    (x * torch.arange(12.0).reshape(3, 4)).sum().backward()
    assert x.tolist() == [[0] * 4, [1, 5, 1, 5], [0, 5, 0, 5]]
    assert values.grad.tolist() == [4 + 5 * (7 + 11), 6 + 5 * (5 + 9)]


@pytest.mark.parametrize("pick", ["index", "embedding", "index_select"])
def test_rows_of_a_table_that_is_cut(pick: str) -> None:
    rng = np.random.default_rng(0)
    table, rows = rng.standard_normal((500, 16), np.float32), rng.integers(0, 500, 300)
    table[3] = [-0.0, np.inf, -np.inf, np.nan] * 4
    results, gradients = [], []
    for workers in (1, 2, 3):
        with distgrad.init("inproc", workers=workers, inline_bytes=0, shard_bytes=2048):
            x, i = distgrad.from_numpy(table).requires_grad_(), distgrad.from_numpy(rows)
            if pick == "index":
                found = x[i]
            elif pick == "embedding":
                found = distgrad.nn.functional.embedding(i, x)
            else:
                found = x.index_select(0, i)
            (found * 2).sum().backward()
            assert found.sharding.count > 1  # no worker has to hold all of it
            results.append(found.detach().numpy())
            assert x.grad is not None
            gradients.append(x.grad.numpy())
    assert [r.tobytes() for r in results] == [table[rows].tobytes()] * 3
    expected = np.bincount(rows, minlength=500)[:, None] * np.full(16, 2, np.float32)
    assert all(np.array_equal(g, expected) for g in gradients)
