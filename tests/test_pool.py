"""What a worker keeps for reuse: what a loop uses again, and little else."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

import distgrad as torch
from distgrad.worker import pool as pool_module
from distgrad.worker.pool import Pool, _capacity

BYTE = np.dtype(np.uint8)
MB = 1 << 20


def made(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all memory that the pool asks the machine for."""
    sizes: list[int] = []
    original = pool._made

    def noted(size: int) -> object:
        sizes.append(size)
        return original(size)

    monkeypatch.setattr(pool, "_made", noted)
    return sizes


def test_sizes_are_rounded_up_by_an_eighth_at_most() -> None:
    for size in (1, 4096, 40_000, 12_000_000, 12_000_001, (1 << 30) + 1):
        grains = -(-size // 4096) * 4096
        assert grains <= _capacity(size) <= max(grains * 9 // 8 + 4096, grains)
        assert _capacity(_capacity(size)) == _capacity(size)


@pytest.mark.parametrize(
    "length", [lambda n: 12 * MB - 4000 * n, lambda n: 8 * MB + 4000 * n, lambda n: random.randrange(12 * MB)]
)
def test_arrays_of_a_new_length_each_step_do_not_fill_it(length: Callable[[int], int]) -> None:
    """The first needs a chunk for each size of which nothing as large waits: they are given back before long."""
    random.seed(0)
    pool = Pool()
    for n in range(400):
        pool.call()
        pool.take((length(n),), BYTE)
        assert pool.held == 0
        assert pool.free <= 2 * 12 * MB + 32 * MB
    assert pool.free <= 12 * MB * 5


@pytest.mark.parametrize(
    "sizes", [[40, 40, 8], [40, 32, 27, 20, 13, 12], [1, 2, 4, 8, 16, 32, 64, 128], [100] * 3]
)
@pytest.mark.parametrize("together", [True, False])
def test_a_loop_takes_new_memory_in_its_first_steps_alone(
    sizes: list[int], together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool()
    new = made(pool, monkeypatch)
    for step in range(200):
        pool.call()
        arrays = []
        for size in sizes:
            arrays.append(pool.take((size * MB,), BYTE))
            if not together:
                arrays.clear()
        arrays.clear()
        if step == 2:
            new.clear()
    assert new == []
    assert sum(sizes) * MB >= pool.free >= max(sizes) * MB


def test_what_is_not_used_for_a_while_is_given_back() -> None:
    pool = Pool()
    arrays = [pool.take((20 * MB,), BYTE) for _ in range(5)]
    del arrays
    assert pool.free >= 100 * MB
    for _ in range(100):
        pool.call()
        pool.take((20 * MB,), BYTE)
    assert (pool.held, pool.free) == (0, 20 * MB)


def test_where_memory_is_short_what_waits_is_given_back_before_more_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool()
    arrays = [pool.take((80 * MB,), BYTE) for _ in range(3)]
    del arrays
    assert pool.free == 240 * MB
    monkeypatch.setattr(pool_module, "machine_memory", lambda: (1000 * MB, 240 * MB))
    kept = pool.take((130 * MB,), BYTE)
    assert kept.nbytes == pool.held
    # 240 there; 130 are asked for, 64 may be before it is looked at again, 50 are left to others.
    assert pool.free == 160 * MB or pool.free <= 236 * MB
    monkeypatch.setattr(pool_module, "machine_memory", lambda: (1000 * MB, 0))
    more = pool.take((129 * MB,), BYTE)
    assert (pool.held, pool.free) == (kept.nbytes + more.nbytes, 0)


def test_memory_that_is_given_back_leaves_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.init("inproc", workers=1) as session:
        pool = session.transport._workers[0].pool  # type: ignore[attr-defined]
        before = torch.memory()[0]["rss"]
        array = pool.take((100 * MB,), BYTE)
        array[:] = 1
        assert torch.memory()[0]["rss"] - before > 90 * MB
        del array
        assert torch.memory()[0]["pooled"] == 100 * MB
        for _ in range(100):
            pool.call()
        assert torch.memory()[0]["pooled"] == 0
        assert torch.memory()[0]["rss"] - before < 30 * MB


@pytest.mark.sweep
def test_slices_of_a_new_length_each_step() -> None:
    n = 300_000
    with torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=100_000):
        x = torch.ones(n)
        for k in range(0, n, 5000):
            part = (x[k:] * 2).cumsum(0)
            assert part[-1].item() == 2 * (n - k)
        del part
        assert sum(m["held"] for m in torch.memory()) <= 4 * n + 20 * 4096
        assert sum(m["pooled"] for m in torch.memory()) <= 12 * 4 * n  # it was 60 times 4 n and more
