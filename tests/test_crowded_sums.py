"""Many rows that are added to one: as exact as float32, in the driver, over tiles and shards, and in gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from values import Start

import distgrad as torch
from distgrad.primitives import grouped
from distgrad.session import door
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

TENTH = float(np.float32(0.1))
EXACT = 4e-6  # of a sum of equal numbers; one after the other they come to 1e-4 to 1e-2
N = 200_003


@pytest.fixture(params=[None, 1 << 16, 1 << 30])
def shards(request: pytest.FixtureRequest, start: Start) -> None:
    """In the driver, in many shards, and in many tiles of one."""
    door.shutdown()
    if request.param is None:
        door.attach(InProcess(2, Worker))
    else:
        start(workers=2, shard_bytes=request.param)


def indices(kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    if kind == "one row":
        return np.zeros(N, np.int64)
    if kind == "few rows":
        return rng.integers(0, 7, N)
    idx = rng.integers(0, 1_000, N)
    idx[rng.random(N) < 0.5] = 3  # as the padding of sentences
    return idx


def close(got: Any, idx: np.ndarray, rows: int, each: float = TENTH) -> None:
    want = np.bincount(idx, minlength=rows) * each
    want = want[:, None] if got.dim() > 1 else want
    np.testing.assert_allclose(got.numpy(), np.broadcast_to(want, got.shape), rtol=EXACT)


KINDS = pytest.mark.parametrize("kind", ["one row", "few rows", "padding"])


@KINDS
@pytest.mark.parametrize("width", [None, 3])
def test_index_add_and_scatter_add(shards: None, kind: str, width: int | None) -> None:
    idx = indices(kind)
    src = torch.full((N,) if width is None else (N, width), 0.1)
    close(torch.zeros(1_000, *src.shape[1:]).index_add(0, torch.tensor(idx), src), idx, 1_000)
    places = idx if width is None else np.repeat(idx[:, None], width, 1)
    close(torch.zeros(1_000, *src.shape[1:]).scatter_add(0, torch.tensor(places), src), idx, 1_000)


@KINDS
def test_gradients_of_what_is_taken(shards: None, kind: str) -> None:
    idx = indices(kind)
    t = torch.tensor(idx)
    for take in (
        lambda w: w[t],
        lambda w: w.index_select(0, t),
        lambda w: torch.nn.functional.embedding(t, w),
    ):
        w = torch.ones(1_000, 2, requires_grad=True)
        (take(w) * 0.1).sum().backward()
        close(w.grad, idx, 1_000)
    flat = torch.ones(1_000, requires_grad=True)
    (flat.gather(0, t) * 0.1).sum().backward()
    close(flat.grad, idx, 1_000)


def test_rows_that_are_taken_weighted_and_added(shards: None) -> None:
    idx, source = indices("padding"), indices("few rows")
    for rows in (50, 5_000):
        table, weight = torch.full((rows, 3), 0.5), torch.full((N, 1), 0.2)
        made = torch.zeros(1_000, 3).index_add(0, torch.tensor(idx), table[torch.tensor(source)] * weight)
        close(made, idx, 1_000, 0.5 * float(np.float32(0.2)))


@settings(max_examples=30)
@given(st.integers(1, 3_000), st.integers(1, 5_000), st.integers(1, 4), st.integers(0, 9), st.booleans())
def test_any_groups(n: int, groups: int, width: int, crowd: int, wide: bool) -> None:
    rng = np.random.default_rng(n)
    idx = rng.integers(0, groups, n)
    idx[rng.random(n) < crowd / 10] = groups // 2
    rows = rng.standard_normal((n, width)).astype(np.float64 if wide else np.float32)
    want = np.ones((groups, width))
    np.add.at(want, idx, rows.astype(np.float64))
    size = np.ones((groups, width))
    np.add.at(size, idx, np.abs(rows))
    made = np.ones((groups, width), rows.dtype)
    grouped.add_rows(idx, rows, made)
    assert (np.abs(made - want) <= 3e-6 * size).all()
    made = np.ones(groups, rows.dtype)
    grouped.add_elements(idx, rows[:, 0].copy(), made)
    assert (np.abs(made - want[:, 0]) <= 3e-6 * size[:, 0]).all()


def test_adding_one_after_the_other_is_caught(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    door.shutdown()
    door.attach(InProcess(2, Worker))
    monkeypatch.setattr(grouped, "MANY", 1 << 40)
    with pytest.raises(AssertionError):
        test_index_add_and_scatter_add(None, "one row", 3)
