"""Sums and running totals of float32 are nearly as exact as their dtype: along every dimension, in parts, in gradients.

What is right is worked out in float64. Equal elements are the hardest: all additions round the same way for long.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from values import Start

import distgrad as torch
from distgrad.primitives import TABLE, contract, reductions
from distgrad.session import door
from distgrad.worker import registers
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

EXACT = 4e-6  # of the sum of the sizes of the terms; one after the other they come to 1e-5 to 1e-3
SUMS = [
    ((1_000_000,), None),
    ((2, 160_000, 3), 1),
    ((250_000, 4), 0),
    ((4_096, 300), 0),
    ((20_000, 64), 0),
    ((30, 20_000), 1),
    ((16, 5_000, 8), (0, 2)),
    ((16, 5_000, 8), 1),
    ((16, 5_000, 8), (0, 1)),
    ((5_000, 1, 40), (0, 1)),
]


@pytest.fixture(autouse=True)
def in_this_process(start: Start) -> None:
    """What is too large for the driver starts no Ray."""
    door.shutdown()
    door.attach(InProcess(2, Worker))


def tenths(*shape: int) -> np.ndarray:
    return np.full(shape, 0.1, np.float32)


def randoms(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).random(shape, np.float32)


def close(got: Any, want: Any, size: Any = None) -> None:
    """`got` is `want`, worked out in float64, to `EXACT` of `size`, the sum of the sizes of the terms."""
    got = got.numpy() if isinstance(got, torch.Tensor) else got
    assert got.dtype == np.float32
    assert np.max(np.abs(got - want) / np.abs(want if size is None else size)) < EXACT


def check_sum(x: np.ndarray, dims: Any) -> None:
    close(torch.from_numpy(x).sum(dims), x.sum(axis=dims, dtype=np.float64))
    close(torch.from_numpy(x).mean(dims), x.mean(axis=dims, dtype=np.float64))


@pytest.mark.parametrize("make", [tenths, randoms])
@pytest.mark.parametrize(("shape", "dims"), SUMS, ids=str)
def test_sums_in_the_driver(shape: tuple[int, ...], dims: Any, make: Any) -> None:
    check_sum(make(*shape), dims)


@pytest.mark.parametrize("shard_bytes", [1 << 15, 1 << 24])
@pytest.mark.parametrize(("shape", "dims"), SUMS, ids=str)
def test_sums_over_tiles_and_shards(start: Start, shape: Any, dims: Any, shard_bytes: int) -> None:
    start(workers=2, shard_bytes=shard_bytes)
    check_sum(tenths(*shape), dims)


@pytest.mark.parametrize("dims", [0, 1, (0, 1)])
@pytest.mark.parametrize("cut", [False, True])
def test_sums_of_other_layouts(start: Start, dims: Any, cut: bool) -> None:
    if cut:
        start(workers=2, shard_bytes=1 << 16)
    x = tenths(40_000, 6)
    for layout in (x.T, x[::2, ::3], x[::-1], np.broadcast_to(x[:, :1], (40_000, 5))):
        close(torch.tensor(layout).sum(dims), layout.sum(axis=dims, dtype=np.float64))
    t = torch.from_numpy(x)
    close(t.T.sum(dims), x.T.sum(axis=dims, dtype=np.float64))
    close(t[::2, ::3].sum(dims), x[::2, ::3].sum(axis=dims, dtype=np.float64))


def test_a_sum_over_many_tiles(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 tiles of one shard, in three levels of partial sums."""
    start(workers=1, shard_bytes=1 << 30)
    monkeypatch.setattr("distgrad.plan.fuse.READ", 4096)
    x = tenths(1_000_003)
    close(torch.from_numpy(x).sum(), x.sum(dtype=np.float64))
    y = randoms(9, 100_001)
    close((torch.from_numpy(y) * 3).sum(0), 3 * y.sum(axis=0, dtype=np.float64))
    whole = torch.arange(1_000_003, dtype=torch.float64)
    assert whole.sum().item() == 1_000_003 * 1_000_002 // 2


# Running totals.
def test_running_totals() -> None:
    assert torch.full((1_000_000,), 0.1).cumsum(0)[-1].item() == np.float32(1e6 * float(np.float32(0.1)))
    assert torch.ones(20_000_000).cumsum(0)[-1].item() == 20_000_000
    factor = np.float32(1 + 1e-6)
    products = torch.full((1_000_000,), float(factor)).cumprod(0)
    assert products[-1].item() == pytest.approx(float(factor) ** 1_000_000, rel=1e-7)
    assert torch.full((1_000_000,), float(factor)).prod().item() == pytest.approx(
        float(factor) ** 1_000_000, rel=1e-7
    )


@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((100_000,), 0), ((300, 400), 0), ((300, 400), 1), ((2, 50_000, 3), 1), ((3, 0), 1), ((), 0)],
)
def test_running_totals_along_each_dimension(name: str, shape: Any, dim: int) -> None:
    x = np.asarray(randoms(*shape) * 1e-4 + 1, np.float32)
    got = getattr(torch.from_numpy(x), name)(dim).numpy()
    want = getattr(np, name)(x, dim, dtype=np.float64) if shape else x
    np.testing.assert_allclose(got, want, rtol=1e-7)
    twice = getattr(torch.from_numpy(x[..., ::-1] if shape else x), name)(dim, dtype=torch.float64)
    assert twice.dtype is torch.float64


def test_gradient_of_a_running_total() -> None:
    x = torch.zeros(2, 100_000, 3, requires_grad=True)
    (x.cumsum(1) * 0.1).sum().backward()
    want = np.arange(100_000, 0, -1) * float(np.float32(0.1))
    close(x.grad, np.broadcast_to(want[:, None], (2, 100_000, 3)))


# Products.
PRODUCTS = [
    ("bnd,bn->bd", (2, 160_000, 3), (2, 160_000)),
    ("n,n->", (300_000,), (300_000,)),
    ("nd,n->d", (100_000, 3), (100_000,)),
    ("dn,n->d", (3, 100_000), (100_000,)),
    ("nd,ne->de", (100_000, 3), (100_000, 2)),
    ("bnd,bne->bde", (2, 50_001, 4), (2, 50_001, 20)),
    ("nmd,nm->d", (300, 200, 3), (300, 200)),
    ("bn,bn->b", (3, 40_000), (3, 40_000)),
]


@pytest.mark.parametrize("make", [tenths, randoms])
@pytest.mark.parametrize(("subscripts", "a", "b"), PRODUCTS, ids=str)
def test_products(subscripts: str, a: Any, b: Any, make: Any) -> None:
    x, y = make(*a), make(*b)
    want = np.einsum(subscripts, x.astype(np.float64), y.astype(np.float64), optimize=True)
    close(torch.einsum(subscripts, torch.from_numpy(x), torch.from_numpy(y)), want)


@pytest.mark.parametrize(("subscripts", "a", "b"), PRODUCTS, ids=str)
def test_products_over_tiles_and_shards(start: Start, subscripts: str, a: Any, b: Any) -> None:
    start(workers=2, shard_bytes=1 << 18)
    test_products(subscripts, a, b, tenths)


# Gradients.
@pytest.mark.parametrize("shard_bytes", [None, 1 << 16])
@pytest.mark.parametrize("shape", [(3,), (160_000, 1), (2, 1, 3), (), (1, 160_000, 1)], ids=str)
def test_gradients_of_what_was_broadcast(start: Start, shape: Any, shard_bytes: int | None) -> None:
    if shard_bytes is not None:
        start(workers=2, shard_bytes=shard_bytes)
    x = tenths(2, 160_000, 3)
    b = torch.ones(shape, requires_grad=True)
    (torch.from_numpy(x) * b).sum().backward()
    wide = (1,) * (3 - len(shape)) + shape
    along = tuple(d for d in range(3) if wide[d] == 1)
    close(b.grad, x.sum(axis=along, dtype=np.float64).reshape(shape))


def test_gradients_of_a_product() -> None:
    x, v = tenths(100_000, 3), tenths(3)
    w = torch.tensor(v, requires_grad=True)
    (torch.from_numpy(x) @ w).sum().backward()
    close(w.grad, x.sum(axis=0, dtype=np.float64))


# For whatever shapes, and with the checks checked.
@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shape = [draw(st.integers(1, 40)) for _ in range(draw(st.integers(1, 4)))]
    d = draw(st.integers(0, len(shape) - 1))
    shape[d] = max(1, draw(st.integers(1, 60_000)) // math.prod(n for i, n in enumerate(shape) if i != d))
    dims = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    return tuple(shape), tuple(sorted(dims))


@settings(max_examples=60)
@given(cases())
def test_sums_of_any_shape(case: Any) -> None:
    shape, dims = case
    for x in (tenths(*shape), randoms(*shape) - np.float32(0.5)):
        got = TABLE["sum"].kernel(x, dims, False, dtype="float32")
        wide = x.astype(np.float64)
        close(got, wide.sum(axis=dims), np.abs(wide).sum(axis=dims))


@settings(max_examples=40)
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 8_000),
    st.booleans(),
    st.booleans(),
)
def test_products_of_any_shape(m: int, n: int, b: int, k: int, a_turned: bool, b_turned: bool) -> None:
    x, y = tenths(b, k, m) if a_turned else tenths(b, m, k), tenths(b, n, k) if b_turned else tenths(b, k, n)
    subscripts = f"b{'km' if a_turned else 'mk'},b{'nk' if b_turned else 'kn'}->bmn"
    got = contract.contract(x, y, subscripts)
    np.testing.assert_allclose(got, k * float(x.flat[0]) ** 2 if k else 0.0, rtol=2 * EXACT)


@settings(max_examples=25)
@given(cases(), st.integers(1, 400), st.integers(6, 12))
def test_sums_in_any_tiles_have_the_same_bits_on_any_workers(
    start: Start, monkeypatch: pytest.MonkeyPatch, case: Any, tile: int, shard: int
) -> None:
    shape, dims = case
    x = tenths(*shape)
    with monkeypatch.context() as small:
        small.setattr("distgrad.plan.fuse.READ", 16 * tile)
        small.setattr("distgrad.plan.fuse.TILE", 16 * tile)
        made = []
        for workers in (1, 2, 3):
            start(workers=workers, shard_bytes=1 << (shard + 4))
            made.append(torch.from_numpy(x).sum(dims).numpy())
    assert {m.tobytes() for m in made} == {made[0].tobytes()}
    close(made[0], x.sum(axis=dims, dtype=np.float64))


def test_adding_one_after_the_other_is_caught(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as planted:
        planted.setattr(reductions, "BLOCK", 1 << 40)
        with pytest.raises(AssertionError):
            test_sums_in_the_driver((2, 160_000, 3), 1, tenths)
    with monkeypatch.context() as planted:
        planted.setattr(contract, "TERMS", 1 << 40)
        with pytest.raises(AssertionError):
            test_products(*PRODUCTS[0], tenths)
    with monkeypatch.context() as planted:
        planted.setattr(registers, "RADIX", 1 << 20)
        with pytest.raises(AssertionError):
            test_a_sum_over_many_tiles(start, monkeypatch)
