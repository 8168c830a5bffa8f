"""What is worked out once is kept up to a number of bytes, in the driver and in the workers."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

import distgrad as torch
from distgrad.caching import Cache, remembered, shared_bytes
from distgrad.cutting import sharding_of
from distgrad.exchange import base as exchanged
from distgrad.session import sending
from distgrad.sharding import Cut, Sharding, sharding_from_wire
from distgrad.worker import worker


def test_a_cache_keeps_no_more_than_its_limit_and_what_is_used() -> None:
    cache: Cache[int, str] = Cache(1000, lambda key, value: len(value))
    for n in range(1000):
        cache.keep(n, "x" * 10)
        assert cache.get(0) or cache.again(0)
        assert cache.nbytes == sum(map(len, (*cache.values(), *cache._older.values()))) <= 1000
    assert cache.get(999)
    assert cache.get(990)
    assert cache.get(500) is cache.again(500) is None
    cache.clear()
    assert (cache.nbytes, cache.again(0), len(cache)) == (0, None, 0)


def test_a_cache_takes_one_value_that_is_larger_than_it_is() -> None:
    cache: Cache[int, str] = Cache(1000, lambda key, value: len(value))
    cache.keep(1, "x" * 300)
    cache.keep(2, "x" * 5000)
    assert cache.get(2)
    cache.keep(3, "x")
    cache.keep(4, "x" * 500)
    assert cache.nbytes <= 1000
    cache.keep(5, "x" * 500)
    assert cache.nbytes == 1000
    cache.grew(10)
    assert cache.nbytes == 510


def test_a_remembered_function_is_called_once_while_there_is_room() -> None:
    called: list[int] = []

    @remembered(100, lambda args, made: 10)
    def twice(n: int) -> int:
        called.append(n)
        return 2 * n

    assert [twice(n % 3) for n in range(9)] == [2 * (n % 3) for n in range(9)]
    assert called == [0, 1, 2]
    for n in range(100):
        assert twice(n) == 2 * n
    before = shared_bytes()
    twice.cache.clear()  # type: ignore[attr-defined]
    assert 50 <= before - shared_bytes() <= 100
    twice(1)
    assert called[-1] == 1


def recurrent(x: Any, w: Any, steps: int) -> Any:
    for n in range(steps):
        x = torch.tanh(x @ w + 0.1 * n)
    return (x * x).sum()


def moving(x: Any, w: Any, steps: int) -> Any:
    for n in range(steps):
        x = x.cumsum(0).reshard({0: 64 + n}).sin()
    return (x @ w).sum()


def by_rows(x: Any, w: Any, steps: int) -> Any:
    for n in range(steps):
        x = x / (x.norm(dim=1, keepdim=True) + n) + x.softmax(1)
    return (x @ w).sum()


def trained(model: Callable[..., Any], x: Any, w: Any, steps: int) -> None:
    model(x, w, steps).backward()
    w.grad.sum().item()
    w.grad = None


@pytest.mark.sweep
@pytest.mark.parametrize("model", [recurrent, moving, by_rows])
def test_the_bytes_are_those_that_the_process_has(model: Callable[..., Any]) -> None:
    with torch.init("inproc", workers=1, inline_bytes=0, shard_bytes=1 << 14) as session:
        here = session.transport._workers[0]  # type: ignore[attr-defined]
        x, w = torch.randn(1000, 16), torch.randn(16, 16, requires_grad=True)
        trained(model, x, w, 2)
        session._plans.clear()
        here.runners.clear()
        gc.collect()
        tracemalloc.start(1)
        try:
            trained(model, x, w, 20)
            memory = torch.memory()
            gc.collect()
            with_all = tracemalloc.get_traced_memory()[0]
            here.runners.clear()
            gc.collect()
            programs = with_all - tracemalloc.get_traced_memory()[0]
            plans = session._plans.nbytes
            session._plans.clear()
            gc.collect()
            without = with_all - programs - tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert programs / 2 <= memory[0]["programs"] <= 2 * programs
    assert without / 2 <= plans <= 2.5 * without
    assert memory.driver["plans"] >= plans


def test_programs_of_every_length_do_not_fill_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PROGRAMS", 1_000_000)
    monkeypatch.setattr(sending, "PLANS", 400_000)
    with torch.init("inproc", workers=2, inline_bytes=0) as session:
        x, w = torch.randn(8, 4), torch.randn(4, 4, requires_grad=True)
        for steps in range(2, 30, 2):
            trained(recurrent, x, w, steps)
        told = torch.memory()
        assert all(300_000 < m["programs"] <= 1_000_000 for m in told)  # of 4.8 million
        assert 100_000 < session._plans.nbytes <= 400_000
        assert "programs" in repr(told)
        assert "driver: {'plans'" in repr(told)


@pytest.mark.sweep
def test_shard_sizes_of_many_shards_are_bounded_by_bytes() -> None:
    for n in range(50):
        exchanged.sizes(Sharding((Cut.even(200_000 + n, 1),)))
    assert exchanged.sizes.cache.nbytes <= 16 << 20  # type: ignore[attr-defined]


def test_equal_cuts_that_arrive_are_one_object() -> None:
    cuts = sharding_of((100, 20), {0: 10, 1: [3, 17]}).wire()
    assert sharding_from_wire(cuts) is sharding_from_wire([list(c) for c in cuts])
    assert sharding_from_wire(Sharding.whole(()).wire()) == Sharding.whole(())
