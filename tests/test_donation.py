"""What a step reads for the last time is written over; what somebody may still read never is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import distgrad as torch
from distgrad import session
from distgrad.errors import DistgradError
from distgrad.graph import Value
from distgrad.primitives import updates
from distgrad.primitives.optimizer_rules import RULES
from distgrad.session import placement
from distgrad.states import State
from distgrad.worker import loops, pool

SIDE = 160  # 100 KiB: more than what the driver keeps beside a call


@pytest.fixture
def workers() -> Iterator[Any]:
    """Two workers in this process that do everything, on pieces of 64 KiB."""
    with torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=1 << 20) as made:
        yield made


def whole(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype("float32")).reshard({})


def steps(
    net: Any, optimizer: Any, x: torch.Tensor, count: int, each: Callable[[], None] = lambda: None
) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        (net(x) ** 2).sum().backward()
        optimizer.step()
        each()
        session.settle()


def net_of(seed: int) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(SIDE, SIDE), torch.nn.ReLU(), torch.nn.Linear(SIDE, SIDE))


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("every", [False, True])
def test_a_rule_gives_the_same_bits_over_its_operands(rule: str, every: bool) -> None:
    options = " ".join(sorted(RULES[rule].options)) if every else ""
    rng = np.random.default_rng(3)
    shapes = [(2, 3), (), (updates.CHUNK + 5,), (4,)]
    size = sum(math.prod(s) for s in shapes)
    numbers = np.linspace(0.1, 0.9, RULES[rule].numbers)
    count = RULES[rule].states(frozenset(options.split()))
    state = [np.abs(rng.standard_normal(size)).astype("float32") for _ in range(count)]
    params, grads = ([rng.standard_normal(s).astype("float32") for s in shapes] for _ in range(2))
    with np.errstate(all="ignore"):  # as in a worker
        apart = updates.update_all(numbers, *state, *params, *grads, rule=rule, options=options)
        out = (*state, *params)
        over = updates.update_all(numbers, *state, *params, *grads, rule=rule, options=options, out=out)
    for a, b in zip(apart, over, strict=True):
        assert a.tobytes() == b.tobytes()
    assert all(made is one for made, one in zip(over, (*state, *params), strict=True))


def test_a_step_writes_over_parameters_and_state(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = net_of(0), whole(np.eye(SIDE)).reshard(SIDE // 4)
    optimizer = torch.optim.Adam(net.parameters())
    steps(net, optimizer, x, 2)
    free = loops._is_free
    over: list[tuple[int, ...]] = []

    def noted(*args: Any) -> bool:
        found = free(*args)
        over.extend([args[-1][0]] * found)
        return found

    monkeypatch.setattr(loops, "_is_free", noted)
    steps(net, optimizer, x, 1)
    state = (2 * (SIDE * SIDE + SIDE),)
    assert sorted(over) == sorted(2 * [state, state, (SIDE, SIDE), (SIDE, SIDE)])  # on each of two workers


@pytest.mark.parametrize("cuts", [{0: 100}, {1: 150}, {0: [140], 1: 200}])
def test_a_step_writes_over_what_is_cut(workers: Any, cuts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four parameters that are cut alike, and their state, shard by shard; the bits are those of each alone."""
    side = 300  # of shards above 32 KiB: the pool lends no smaller ones
    rng = np.random.default_rng(9)
    arrays = [rng.standard_normal((side, side)).astype("float32") for _ in range(4)]
    free, over = loops._is_free, []
    monkeypatch.setattr(loops, "_is_free", lambda *args: over.append(free(*args)) or over[-1])
    results = []
    for several in (True, False):
        params = [torch.from_numpy(a.copy()).reshard(cuts).requires_grad_() for a in arrays]
        optimizers = [torch.optim.Adam(group) for group in ([params] if several else [[p] for p in params])]
        for n in range(3):
            over.clear()
            for p in params:
                p.grad = torch.from_numpy(arrays[n]).reshard(cuts)
            for optimizer in optimizers:
                optimizer.step()
            session.settle()
        state = {p: s for optimizer in optimizers for p, s in optimizer.state.items()}
        assert all(state[p]["exp_avg"].sharding == p.sharding for p in params)
        assert over == [True] * (several * (4 + 2) * params[0].sharding.count)
        results.append([t.detach().numpy().tobytes() for p in params for t in (p, *state[p].values())])
    assert results[0] == results[1]


def test_a_training_step_is_one_call_for_each_worker(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "LIGHT", 0)  # a backward pass is sent, the optimizer's step with the next
    net, x = net_of(0), whole(np.eye(SIDE)).reshard(SIDE // 4)
    optimizer = torch.optim.Adam(net.parameters())
    serials = []
    for _ in range(4):
        optimizer.zero_grad()
        (net(x) ** 2).sum().backward()
        optimizer.step()
        serials.append(workers.calls._serial)
    assert np.diff(serials).tolist() == [1, 1, 1]  # no stage of its own turns the sums of gradients round


def test_small_work_that_is_put_off_keeps_no_parameter_back(
    workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bias and loss wait for the next step, and need some of this one; not what its parameters were made of."""
    monkeypatch.setattr(placement, "LIGHT", 0)
    w, b = (whole(np.ones(shape)).requires_grad_() for shape in ((SIDE, SIDE), (SIDE,)))
    x, given, run = whole(np.eye(SIDE)).reshard(SIDE // 4), [], workers.calls.run

    def noted(*args: Any, donate: Any = (), **kwargs: Any) -> Any:
        given.append(len(donate))
        return run(*args, donate=donate, **kwargs)

    monkeypatch.setattr(workers.calls, "run", noted)
    for _ in range(5):
        ((x @ w + b) ** 2).sum().backward()
        with torch.no_grad():
            for p in (w, b):
                p -= 0.1 * p.grad
                p.grad = None
    assert given[-3:] == [1, 1, 1]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "RMSprop", "NAdam", "Adagrad"])
def test_the_bits_are_those_of_workers_that_keep_everything(
    workers: Any, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for keeps in (False, True):
        if keeps:
            monkeypatch.setattr("distgrad.session.sending.donated", lambda *_: {})
        net, x = net_of(1), whole(np.random.default_rng(0).standard_normal((SIDE, SIDE))).reshard(SIDE // 4)
        steps(net, getattr(torch.optim, optimizer)(net.parameters(), lr=1e-3), x, 4)
        results.append([p.detach().numpy().tobytes() for p in net.parameters()])
    assert results[0] == results[1]


def test_what_is_held_stays_as_it_was(workers: Any) -> None:
    net, x = net_of(2), whole(np.eye(SIDE)).reshard(SIDE // 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    steps(net, optimizer, x, 1)
    weight = net[0].weight
    copies, seen = [], []

    def keep() -> None:
        copies.append((weight.detach().clone(), weight.detach().t().contiguous(), weight._value))
        seen.append([np.array(c.numpy()) for c in copies[-1][:2]])

    keep()
    steps(net, optimizer, x, 3, keep)
    for (copy, turned, value), (first, second) in zip(copies, seen, strict=True):
        np.testing.assert_array_equal(copy.numpy(), first)
        np.testing.assert_array_equal(turned.numpy(), second)
        np.testing.assert_array_equal(session.fetch(value), first)
    assert not np.array_equal(seen[0][0], seen[-1][0])


def test_a_view_of_a_parameter_that_a_worker_stores_is_not_written_over(workers: Any) -> None:
    weight, gradient = whole(np.ones((SIDE, SIDE))), whole(np.full((SIDE, SIDE), 2.0))
    value = weight._value
    turned = session.emit("permute", value, dims=(1, 0))
    session.settle()  # stored: a view, or a copy
    made = moved(value, gradient._value)
    del value, weight
    session.settle()
    np.testing.assert_array_equal(session.fetch(turned), 1)
    np.testing.assert_allclose(session.fetch(made), 0.8)


def moved(p: Value, g: Value, lr: float = 0.1) -> Value:
    """p - lr * g, by a node that may write over p and its momentum, which begins with 0."""
    numbers = Value.known(np.array([lr, 0.0, 0.0, 0.0, 1.0]))
    momentum = session.emit("expand", Value.known(np.float32(0)), shape=(SIDE * SIDE,), cuts=None)
    inputs = [numbers, momentum, p, g]
    return session.dispatch("update_all", inputs, {"rule": "sgd", "options": "momentum"})[1]


def test_other_steps_that_read_it_read_what_it_was(workers: Any) -> None:
    p, g = whole(np.ones((SIDE, SIDE)))._value, whole(np.full((SIDE, SIDE), 2.0))._value
    first = session.emit("multiply", p, g)
    made = moved(p, g)
    last = session.emit("add", p, g)
    del p
    session.settle()
    np.testing.assert_array_equal(session.fetch(first), 2)
    np.testing.assert_array_equal(session.fetch(last), 3)
    np.testing.assert_allclose(session.fetch(made), 0.8)


def test_a_step_beside_one_that_fails_is_done_once(workers: Any) -> None:
    p, g = whole(np.ones((SIDE, SIDE)))._value, whole(np.full((SIDE, SIDE), 2.0))._value
    index = torch.tensor([SIDE]).reshard({})._value
    made = moved(p, g)
    bad = session.emit("take", made, index, dim=0, size=SIDE, wrap=False)
    del p
    session.settle()
    with pytest.raises(DistgradError):
        session.fetch(bad)
    np.testing.assert_allclose(session.fetch(made), 0.8)


def test_what_is_spared_is_made_of_what_it_was(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "LIGHT", 0)  # each backward pass is sent
    net, x = net_of(4), whole(np.random.default_rng(5).standard_normal((SIDE, SIDE))).reshard(SIDE // 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    steps(net, optimizer, x, 1)
    weight = net[0].weight
    before = np.array(weight.detach().numpy())
    optimizer.zero_grad()
    scaled = x * weight  # cheap to make again: it is not stored
    (net(x).sum() + (scaled * scaled).sum()).backward()
    assert scaled._value.result.state is State.DROPPED
    optimizer.step()
    session.settle()
    assert not np.array_equal(weight.detach().numpy(), before)
    np.testing.assert_array_equal(scaled.detach().numpy(), x.numpy() * before)


@pytest.mark.filterwarnings("ignore:memory_budget")  # it cannot be kept to
def test_under_a_budget_the_bits_are_the_same(workers: Any) -> None:
    results = []
    for budget in (None, 400_000):
        net, x = net_of(6), whole(np.random.default_rng(0).standard_normal((SIDE, SIDE))).reshard(SIDE // 4)
        with torch.memory_budget(budget) if budget else contextlib.nullcontext():
            steps(net, torch.optim.Adam(net.parameters()), x, 3)
            results.append([p.detach().numpy().tobytes() for p in net.parameters()])
    assert results[0] == results[1]


def test_a_step_that_was_broken_off_is_not_done_twice(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    p, g = whole(np.ones((SIDE, SIDE)))._value, whole(np.full((SIDE, SIDE), 2.0))._value
    session.settle()
    other = session.emit("multiply", g, g)
    made = moved(p, g)
    del p
    call = workers.transport.call

    def broken(worker: int, method: str, args: Any, returns: int) -> Any:
        if worker == 1 and method == "run":
            raise RuntimeError("no way to worker 1")
        return call(worker, method, args, returns)

    with monkeypatch.context() as patch:
        patch.setattr(workers.transport, "call", broken)
        with pytest.raises(RuntimeError, match="no way"):
            session.flush()
    with pytest.raises(DistgradError, match="broken off"):
        session.fetch(made)
    np.testing.assert_array_equal(session.fetch(other), 4)


def test_what_was_not_sent_is_sent_the_next_time(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    p, g = whole(np.ones((SIDE, SIDE)))._value, whole(np.full((SIDE, SIDE), 2.0))
    session.settle()
    made = moved(p, (g + g.reshard(SIDE // 4).sum())._value)  # the sum is there in the second stage
    del p
    with monkeypatch.context() as patch:  # the first stage is not even begun
        patch.setattr(workers, "_submit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            session.flush()
    np.testing.assert_allclose(session.fetch(made), 1 - 0.1 * (2 * SIDE * SIDE + 2), rtol=1e-6)


def test_a_step_that_was_done_needs_no_memory_again(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    p, g = whole(np.ones((SIDE, SIDE)))._value, whole(np.full((SIDE, SIDE), 2.0))._value
    index = torch.tensor([SIDE]).reshard({})._value
    made = moved(p, g)
    bad = session.emit("take", made, index, dim=0, size=SIDE, wrap=False)
    del p
    outs, done = loops.LoopRunner._outs, []

    def short(self: Any, n: int, *rest: Any) -> Any:
        if id(self) in done:
            raise MemoryError("second time")
        done.append(id(self))
        return outs(self, n, *rest)

    monkeypatch.setattr(loops.LoopRunner, "_outs", short)
    session.settle()
    with pytest.raises(DistgradError):
        session.fetch(bad)
    np.testing.assert_allclose(session.fetch(made), 0.8)


def test_memory_that_is_short_before_a_tile_is_the_steps_failure(
    workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = whole(np.ones((SIDE, SIDE))).reshard(SIDE // 4)
    other = (x[:1] * 2)._value
    session.settle()

    def short(*_: Any) -> Any:
        raise MemoryError("no memory for temporaries")

    monkeypatch.setattr(pool.Pool, "scratch", short)
    bad, good = ((x + 1).exp() * 2).sum(), (torch.ones(SIDE, SIDE).reshard({}) + 1)
    with pytest.raises(DistgradError, match=r"no memory for temporaries in .*, called at File"):
        bad.item()
    np.testing.assert_array_equal(session.fetch(other), 2)
    np.testing.assert_array_equal(good.numpy(), 2)
