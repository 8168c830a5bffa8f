"""What the driver computes itself: what is small, and made of what it has."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import distgrad as torch
from distgrad.primitives import TABLE
from distgrad.session import inline
from distgrad.worker.pool import Block

SHARD = 1 << 20


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    """Shards of 1 MiB: what takes no more is made in the driver, if what it is made of is there."""
    torch.shutdown()
    torch.init("inproc", workers=2, shard_bytes=SHARD)
    yield
    torch.shutdown()


def is_here(tensor: torch.Tensor) -> bool:
    return tensor._value.array is not None


def rows(n: int) -> torch.Tensor:
    return torch.from_numpy(np.arange(n * 64, dtype=np.float32).reshape(n, 64))


def test_one_shard_stays_here_and_so_does_what_is_made_of_it() -> None:
    shard = rows(SHARD // 256)
    assert is_here(shard)
    assert is_here(shard @ torch.ones(64))
    assert is_here(shard * 2)
    assert not is_here(rows(SHARD // 256 + 1))  # two shards
    assert not is_here(torch.cat([shard, shard]))


def test_what_is_made_of_something_far_away_is_made_there() -> None:
    far = torch.rand(SHARD)
    assert not is_here(far.sum())
    assert not is_here(far.sum() * torch.ones(3))


def test_nothing_is_here_if_the_workers_shall_do_everything() -> None:
    torch.shutdown()
    torch.init("inproc", inline_bytes=0)
    assert not is_here(torch.ones(2) * 2)


def test_what_had_to_go_to_the_workers_is_worked_with_there() -> None:
    labels, table = rows(1000), rows(1000)
    far = torch.rand(64, 64 * SHARD // 4096)

    def step(labels: torch.Tensor) -> bool:
        weights = (labels * 0.5 + table) * 2.0
        here = is_here(weights)
        float((weights @ far).sum())
        return here

    assert step(labels)
    assert not step(labels)
    assert not is_here(labels + 1.0)  # with all that it is made of
    table = rows(1000)
    assert step(rows(1000))  # the line of the program is not what counts


def test_what_is_made_of_nothing_large_is_made_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    far = torch.rand(1000, 64 * SHARD // 4096)

    def never(*args: object) -> None:
        raise AssertionError("nothing is to be sent")

    monkeypatch.setattr("distgrad.session.store.send", never)
    values = []
    for use in ("here", "there", "read"):
        torch.manual_seed(3)
        made = {
            "normal": torch.randn(100, 1000),
            "count": torch.arange(100_000).reshape(100, 1000).float(),
            "full": torch.full((100, 1000), 2.5),
        }
        for tensor in (made["normal"], made["full"]):
            assert not is_here(tensor)
            assert tensor._value.result.lazy is not None
        if use == "here":
            values.append([(t * 1.0).numpy() for t in made.values()])
            assert all(is_here(t) for t in made.values())
        elif use == "there":
            zero = (far[0, 0] * 0.0).reshape(())
            values.append([(t + zero).numpy() for t in (made["normal"], made["full"])])
            values[-1].insert(1, values[0][1])
        else:
            values.append([t.numpy() for t in made.values()])
            values.append([t.numpy() for t in made.values()])
    for others in values[1:]:
        for a, b in zip(values[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_promise_that_was_kept_here_is_kept_there_too() -> None:
    torch.manual_seed(5)
    noise = torch.randn(100, 1000)
    here = noise.numpy()
    total = noise @ torch.rand(1000, 64 * SHARD // 4096)
    np.testing.assert_array_equal((noise * (total[0, 0] * 0.0 + 1.0)).numpy(), here)
    np.testing.assert_array_equal(noise.numpy(), here)
    torch.shutdown()
    left = torch.zeros(100, 1000)
    torch.init("inproc", workers=3)
    assert (left + 1.0).sum().item() == 100_000.0


def test_to_read_a_result_changes_nothing_about_where_work_is_done() -> None:
    result = torch.rand(100, 50_000).sum(0)
    assert not is_here(result * 2.0)
    result.numpy()
    assert is_here(result)
    assert not is_here(result * 2.0)


@pytest.mark.parametrize("large_steps", [1, 3])
def test_small_steps_after_large_ones_compute_here_again(large_steps: int) -> None:
    rng = np.random.default_rng(0)
    large, small = (rng.standard_normal((n, 64), np.float32) for n in (2 * SHARD // 256, 600))
    w = torch.zeros(64, requires_grad=True)
    expected = np.zeros(64)

    def step(data: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        nonlocal expected
        loss = ((data @ w - 1) ** 2).mean()
        loss.backward()
        with torch.no_grad():
            w.sub_(0.01 * w.grad)
        w.grad = None
        expected = expected - 0.02 * rows.T @ (rows @ expected - 1) / len(rows)
        return loss

    far = torch.from_numpy(large)
    for _ in range(large_steps):
        assert not is_here(step(far, large))
    for _ in range(3):
        assert is_here(step(torch.from_numpy(small), small))
        assert is_here(w)
    assert not is_here(step(far, large))
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-4, atol=1e-6)


def test_what_is_large_does_not_come_back_for_something_small() -> None:
    w = torch.ones(300, 64) * rows(2 * SHARD // 256).sum(0)
    assert w.sharding.count == 1
    assert not is_here(rows(600) @ w.T)


def test_no_workers_start_for_what_is_small() -> None:
    torch.shutdown()
    x = torch.from_numpy(np.random.default_rng(0).random((65_536, 16), np.float32))
    w = torch.zeros(16, requires_grad=True)
    ((x @ w - torch.ones(65_536)) ** 2).mean().backward()
    assert w.grad is not None
    assert not torch.is_initialized()


def test_memory_is_used_again_only_when_nobody_looks_at_it() -> None:
    n = inline.POOLED // 4
    kept, views = [], []
    for k in range(20):
        made = torch.full((n,), float(k)) + 1.0
        kept.append(made)
        views.append((made * 2.0)[n // 2 :])
        del made
    for k in range(20):
        assert (kept[k].numpy() == k + 1).all()
        assert (views[k].numpy() == 2 * (k + 1)).all()
    first = kept[0]._value.array
    assert first is not None
    base = first
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert isinstance(base, Block)
    place = first.__array_interface__["data"][0]
    del first, base
    kept.clear(), views.clear()
    again = [torch.zeros(n) + k for k in range(40)]
    assert place in {a._value.array.__array_interface__["data"][0] for a in again}


def test_a_view_is_not_copied() -> None:
    x = rows(1024)
    for view in (x.reshape(64, 1024), x.T, x[3:700], x.unsqueeze(0)):
        assert np.shares_memory(view._value.array, x._value.array)


def test_threads_share_the_memory() -> None:
    def work(seed: int) -> float:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            array = rng.random(inline.POOLED // 4 + seed % 2, np.float32)
            x = torch.from_numpy(array)
            made = ((x + 1.0) * 2.0 - x) * 3.0
            np.testing.assert_array_equal(made.numpy(), ((array + np.float32(1)) * 2 - array) * np.float32(3))
        return 0.0

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(16)))


def test_a_kernel_that_may_give_a_view_gets_no_memory() -> None:
    assert any(p.traits >= {"view", "into"} for p in TABLE.values())  # so the rule is not empty
    big = torch.zeros(inline.POOLED)._value.result.spec
    for primitive in TABLE.values():
        assert inline._is_pooled(primitive, big) == (
            "into" in primitive.traits and "view" not in primitive.traits
        )


def test_nothing_is_far_without_workers() -> None:
    array = rows(1000)
    array._value.result.colocate_with_workers()
    torch.shutdown()
    assert is_here(array + 1.0)
    assert not torch.is_initialized()
