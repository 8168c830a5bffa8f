"""Large sums that are only read in cuts go to the owners of their shards: the same bits, fewer bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from recorder import Recorder

import distgrad as torch
from distgrad import primitives
from distgrad.plan import costs
from distgrad.primitives import Aval
from distgrad.session import door

RNG = np.random.default_rng(3)
TABLE = RNG.standard_normal((40, 6)).astype(np.float32)
ROWS = RNG.integers(0, 40, 300)
OTHER = RNG.standard_normal((300, 6)).astype(np.float32) * 10.0 ** RNG.integers(-2, 3, (300, 1))
CLOSE = 0.1  # of the bytes held
CUTS = [{0: 4}, {1: 2}, {0: 3, 1: 3}, {0: 9}]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No session is left behind."""
    yield
    door.shutdown()


def gradient(
    workers: int, cuts: dict[int, int], least: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, int, int, torch.profile]:
    """The gradient of a table whose rows are picked, the bytes that should move, and those that did."""
    monkeypatch.setattr(costs, "SCATTERED", least)
    door.shutdown()
    door.attach(Recorder(workers), inline_bytes=0, shard_bytes=2048)
    table = torch.from_numpy(TABLE).reshard(cuts).requires_grad_()
    picked = torch.from_numpy(ROWS)
    other = torch.from_numpy(OTHER.astype(np.float32))
    with torch.profile() as p:
        (table[picked] * other).sum().backward()
        torch.synchronize()
    assert table.grad is not None
    moved = p.moved_bytes
    return table.grad.numpy(), moved.predicted, moved.measured, p


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_the_bits_are_those_of_the_flat_way(
    workers: int, cuts: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _, _, _ = gradient(1, cuts, 1 << 40, monkeypatch)
    _, _, flat, _ = gradient(workers, cuts, 1 << 40, monkeypatch)
    got, predicted, moved, p = gradient(workers, cuts, 0, monkeypatch)
    assert got.tobytes() == expected.tobytes()
    assert predicted == moved
    assert moved < flat or workers == 1 or 1 in cuts  # cut along columns, the sum is not made whole
    assert all(abs(told.measured - told.predicted) <= CLOSE * told.measured for told in p.peak_bytes)
    exact = np.zeros(TABLE.shape)
    np.add.at(exact, ROWS, OTHER.astype(np.float32))
    np.testing.assert_allclose(got, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cuts", CUTS)
def test_cuts_of_every_form(cuts: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    data = RNG.standard_normal((30, 10, 6)).astype(np.float32)
    results = set()
    for workers in (1, 2, 3, 5):
        moved = []
        for least in (0, 1 << 40):
            monkeypatch.setattr(costs, "SCATTERED", least)
            door.shutdown()
            door.attach(Recorder(workers), inline_bytes=0, shard_bytes=1024)
            x = torch.from_numpy(data).reshard({0: 7})
            with torch.profile() as p:
                total = x.sum(0).reshard(cuts) * 2
                torch.synchronize()
            assert p.moved_bytes.predicted == p.moved_bytes.measured
            assert all(abs(told.measured - told.predicted) <= CLOSE * told.measured for told in p.peak_bytes)
            moved.append(p.moved_bytes.measured)
            results.add(total.numpy().tobytes())
            np.testing.assert_allclose(total.numpy(), 2 * data.sum(0), rtol=1e-4, atol=1e-5)
        assert moved[0] < moved[1] or workers == 1
    assert len(results) == 1


def test_a_sum_that_is_also_read_whole_is_sent_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "SCATTERED", 0)
    results = []
    for workers in (1, 2, 3):
        door.shutdown()
        door.attach(Recorder(workers), inline_bytes=0, shard_bytes=2048)
        rows = torch.from_numpy(OTHER.astype(np.float32))
        total = rows.sum(0)
        results.append(((total.reshard({0: 3}) * 2).numpy().tobytes(), total.numpy().tobytes()))
    assert len(set(results)) == 1


def test_a_sparse_product_refuses_what_its_parts_do_not_fit() -> None:
    row, rows, table = (
        Aval(shape, np.dtype(kind)) for shape, kind in (((9,), "i8"), ((8,), "i8"), ((5, 3), "f4"))
    )
    weights = [
        Aval(shape, np.dtype(kind)) for shape, kind in (((9, 1), "f4"), ((9, 0), "f4"), ((9, 1), "f8"))
    ]
    shape, attrs = primitives.TABLE["add_taken"].shape, {"size": 4, "wrap": False}
    assert shape([row, row, table, weights[0]], attrs) == (Aval((4, 3), np.dtype("f4")),)
    for wrong in (
        [row, rows, table],
        [row, row, table, weights[1]],
        [row, row, table, weights[2]],
        [row, row, row],
    ):
        with pytest.raises(ValueError, match="add_taken: needs"):
            shape(wrong, attrs)
    with pytest.raises(ValueError, match="add_taken: needs"):
        shape([row, row, table], {**attrs, "size": 1 << 31})
    idx, values = np.zeros(3, np.int64), np.ones((2, 2), np.float32)
    for source, weight in ((idx[:2], None), (idx, values[:, :1])):
        with pytest.raises(ValueError, match="rows are to be added"):
            primitives.TABLE["add_taken"].kernel(idx, source, values, weight, **attrs)
