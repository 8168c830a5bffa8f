"""Work of middle size in the driver: it waits for what follows, and runs through compiled loops as on workers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from values import same_bits

import distgrad as torch
from distgrad.compiler import switch
from distgrad.session import driver

N = driver.MEDIUM // 4  # elements of float32 up to which an op is done at once
LIMIT = 1 << 20  # bytes that the driver computes with


def begin(workers: int = 2, compile: bool = True) -> None:
    """Workers in this process, which are asked for nothing here."""
    torch.shutdown()
    torch.init("inproc", workers=workers, shard_bytes=LIMIT, compile=compile)


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    begin()
    yield
    torch.shutdown()
    switch.turn(False)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def is_pending(tensor: Any) -> bool:
    return tensor._value.result.driver is not None


def is_known(tensor: Any) -> bool:
    return tensor._value.result.array is not None


def test_what_is_of_middle_size_waits_and_so_does_what_is_made_of_it() -> None:
    x = torch.from_numpy(normal(N + 1))
    y = x.tanh()
    total = (y * y).sum()
    assert is_pending(y)
    assert is_pending(total)
    assert is_pending(total * 2 + torch.ones(3))
    np.testing.assert_allclose(total.item(), (np.tanh(normal(N + 1)) ** 2).sum(), rtol=1e-5)
    assert is_known(total)
    assert is_known(y)  # which somebody holds


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(lambda: torch.from_numpy(normal(N)).tanh(), id="small"),
        pytest.param(lambda: torch.from_numpy(normal(N + 1)).sum(), id="a small result of what is known"),
        pytest.param(lambda: torch.from_numpy(normal(N + 1)).sort()[0], id="not compiled"),
        pytest.param(lambda: torch.from_numpy(normal(2, N)).T, id="a view of what is known"),
        pytest.param(lambda: torch.from_numpy(normal(2 * N)).tanh().sort()[0], id="not compiled, after"),
    ],
)
def test_what_does_not_wait(what: Callable[[], Any]) -> None:
    assert is_known(what())


def test_nothing_waits_without_compiling_or_without_a_session() -> None:
    begin(compile=False)
    assert is_known(torch.from_numpy(normal(2 * N)).tanh())
    begin()
    torch.shutdown()
    assert is_known(torch.from_numpy(normal(2 * N)).tanh())
    assert not torch.is_initialized()


def train(n: int, steps: int = 12) -> list[Any]:
    """Linear regression, whose loss is read now and then."""
    x, y = torch.from_numpy(normal(n, 8)), torch.from_numpy(normal(n, seed=1))
    w = torch.zeros(8, requires_grad=True)
    losses = []
    for k in range(steps):
        loss = ((x @ w - y) ** 2).mean()
        w.grad = None
        loss.backward()
        with torch.no_grad():
            w.sub_(0.1 * w.grad)
        if k % 5 == 0:
            losses.append(loss.item())
    return [*losses, *w.tolist()]


@pytest.mark.parametrize("n", [N, N + 1, LIMIT // 32, LIMIT // 32 + 1])
def test_training_is_as_exact_and_has_the_same_bits_with_any_workers(n: int) -> None:
    found = []
    for workers in (1, 3):
        begin(workers)
        found.append(train(n))
    assert found[0] == found[1]
    begin(compile=False)
    np.testing.assert_allclose(found[0], train(n), rtol=2e-4, atol=1e-6)


def test_steps_find_their_plan_again(monkeypatch: pytest.MonkeyPatch) -> None:
    build, plans = driver.build, []

    def counting(captured: Any) -> Any:
        plans.append(captured.key)
        return build(captured)

    monkeypatch.setattr(driver, "build", counting)
    train(N + 3, 12)
    few = len(plans)
    train(N + 3, 40)
    assert few <= 4
    assert len(plans) <= few + 2


def test_bits_are_those_of_the_workers() -> None:
    x = normal(N + 5)

    def chain(t: Any) -> np.ndarray:
        return ((t.exp() + 1).log() * t.sin()).numpy()

    here = chain(torch.from_numpy(x))
    torch.shutdown()
    torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=LIMIT, compile=True)
    assert same_bits(here, chain(torch.from_numpy(x)))


def test_a_worker_reads_what_is_pending_here() -> None:
    rows, far = normal(2 * N // 64, 64), normal(LIMIT // 128, 64, seed=1)
    scaled = torch.from_numpy(rows) * 2
    assert is_pending(scaled)
    made = torch.from_numpy(far) @ scaled.T  # on workers
    np.testing.assert_allclose(made.numpy(), far @ (2 * rows).T, rtol=1e-4, atol=1e-4)
    total = (scaled * torch.from_numpy(far).sum()).sum()
    np.testing.assert_allclose(total.item(), (2 * rows * far.sum()).sum(), rtol=1e-2)


def test_errors_come_at_the_line() -> None:
    x = torch.from_numpy(normal(2 * N)) + 1
    assert is_pending(x)
    with pytest.raises(RuntimeError, match="must match the size"):
        x + torch.ones(7)
    with pytest.raises(RuntimeError, match="all elements of input should be between 0 and 1"):
        torch.nn.functional.binary_cross_entropy(x * 9, torch.ones(2 * N))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        torch.ones(2 * N, dtype=torch.int32) // torch.zeros(2 * N, dtype=torch.int32)
    with pytest.raises(IndexError):
        x[2 * N]


def test_a_failure_is_told_to_whoever_asks_and_the_work_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.from_numpy(normal(2 * N)) * 3

    def full(*args: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(driver.own.pending.pool, "take", full)
        with pytest.raises(MemoryError, match="no room"):
            y.numpy()
    np.testing.assert_array_equal(y.numpy(), normal(2 * N) * np.float32(3))


def test_views_and_writes() -> None:
    expected = normal(64, 1024) * 2
    y = torch.from_numpy(normal(64, 1024)) * 2
    assert is_pending(y)
    view, flat = y[3:40:2].T, y.reshape(-1)
    y[5] = 7.0
    y.mul_(0.5)
    y[:, 1:3] += y[:, 5:7]
    expected[5] = 7.0
    expected *= 0.5
    expected[:, 1:3] += expected[:, 5:7]
    np.testing.assert_array_equal(y.numpy(), expected)
    np.testing.assert_array_equal(view.numpy(), expected[3:40:2].T)
    np.testing.assert_array_equal(flat.numpy(), expected.reshape(-1))


def test_two_threads_run_backward_at_once_and_have_the_same_bits() -> None:
    x = torch.from_numpy(normal(2 * N))
    shared = x.tanh()  # pending in this thread
    found: dict[int, list[Any]] = {}

    def step(k: int) -> None:
        for _ in range(5):
            a = torch.full((2 * N,), 0.5, requires_grad=True)
            loss = ((a * shared).exp() + k).sum()
            loss.backward()
            found.setdefault(k, []).append((loss.item(), a.grad.numpy().tobytes()))

    threads = [threading.Thread(target=step, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(set(found[k])) == 1 for k in (0, 1))
    assert found[0][0][1] == found[1][0][1]
    y = np.tanh(normal(2 * N).astype(np.float64))
    np.testing.assert_allclose(found[1][0][0], (np.exp(0.5 * y) + 1).sum(), rtol=1e-5)


def test_work_is_done_without_being_asked_for_once_it_is_much() -> None:
    x = torch.from_numpy(normal(LIMIT // 4))
    w = torch.ones(1, requires_grad=True)
    for _ in range(2 * driver.LIGHT // LIMIT):
        (x * w).sum().backward()
    y = torch.zeros(LIMIT // 4)
    steps = driver.MOST // LIMIT
    for _ in range(steps):
        y = y + x
        assert driver.own.pending.weight <= driver.MOST
    np.testing.assert_allclose(y.numpy(), steps * normal(LIMIT // 4), rtol=1e-3)


def test_what_nobody_holds_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(normal(2 * N))
    (x.exp() + 1).sum()

    def never(*args: object) -> None:
        raise AssertionError("nobody reads it")

    monkeypatch.setattr(driver, "build", never)
    driver.own.pending.run()


def test_a_budget_and_a_profile_are_no_hindrance() -> None:
    x = torch.from_numpy(normal(2 * N)).requires_grad_()
    with torch.memory_budget("1KiB"), torch.profile() as p:
        loss = (x.tanh() * x).sum()
        loss.backward()
        grad = x.grad.numpy()
    y = normal(2 * N).astype(np.float64)
    np.testing.assert_allclose(grad, np.tanh(y) + y / np.cosh(y) ** 2, rtol=1e-4, atol=1e-5)
    assert p.driver_seconds >= 0


def test_results_outlive_the_session() -> None:
    y = torch.from_numpy(normal(2 * N)) * 2
    torch.shutdown()
    np.testing.assert_array_equal(y.numpy(), normal(2 * N) * 2)


def test_ctrl_c_waits_until_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.from_numpy(normal(2 * N)) * 3
    take = driver.own.pending.pool.take

    def interrupted(*args: Any) -> np.ndarray:
        signal.raise_signal(signal.SIGINT)
        return take(*args)

    monkeypatch.setattr(driver.own.pending.pool, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        y.numpy()
    assert is_known(y)
    np.testing.assert_array_equal(y.numpy(), normal(2 * N) * np.float32(3))


def test_long_chains_need_no_recursion() -> None:
    y = torch.from_numpy(normal(2 * N)) * 0
    for _ in range(600):
        y = y + 1
    assert is_pending(y)
    assert (y.numpy() == 600).all()
