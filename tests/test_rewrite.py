"""Less work for the same bits: what the planner folds, shares, drops, recuts and does not store."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import distgrad as torch
from distgrad.errors import DistgradError
from distgrad.plan.plans import Plan
from distgrad.session.core import Session

N = 4_000


@pytest.fixture(params=[1, 2, 3])
def workers(request: pytest.FixtureRequest) -> Iterator[int]:
    with torch.init("inproc", workers=request.param, inline_bytes=0, shard_bytes=4_096):
        yield request.param


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that have run."""
    seen: list[Plan] = []
    run = Session._run

    def spy(self: Session, captured: Any, plan: Plan, gifts: Any) -> None:
        seen.append(plan)
        run(self, captured, plan, gifts)

    monkeypatch.setattr(Session, "_run", spy)
    return seen


@pytest.fixture
def heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every backward pass is sent when it ends."""
    monkeypatch.setattr("distgrad.session.placement.LIGHT", 0)


def names(plan: Plan) -> list[str]:
    loops = [loop for s in plan.stages for f in s.program.fragments for loop in f.loops]
    return [step.primitive.name for loop in loops for step in loop.steps]


def numbers(n: int = N) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(n, np.float32)


def unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distgrad.plan.build.optimise", lambda graph: None)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, y: (3 * x**3 - y**2).sum(),
        lambda x, y: ((x - y) * (x - y)).mean(),
        lambda x, y: torch.nn.functional.binary_cross_entropy_with_logits(x, (y > 0).float()),
        lambda x, y: (x[1:] * y[:-1]).sum() - (-x).sum(),
        lambda x, y: ((-(3 * x) + y) ** 2 - (1 - y) ** 2 * -x).sum() + (-x * 2 - (-y)).exp().mean(),
        lambda x, y: (-x + -y).sum() + (-(x * y) * (-x)).sum() - ((-(2 * y)) - (-(x * 3)) / 2).abs().sum(),
        lambda x, y: torch.where(x > y, x, y).reshape(40, 100).logsumexp(1).sum(),
        lambda x, y: torch.nn.functional.cross_entropy(x.reshape(40, 100), torch.arange(40)),
        lambda x, y: torch.nn.functional.cross_entropy(
            x.reshape(400, 10), (y.reshape(400, 10)[:, 0] > 0).long(), ignore_index=1, reduction="sum"
        ),
        lambda x, y: torch.nn.functional.cross_entropy(x.reshape(20, 10, 20), torch.ones(20, 20).long()),
        lambda x, y: (torch.log_softmax(x.reshape(40, 100), 1) * y.reshape(40, 100)).sum(),
        lambda x, y: (torch.log_softmax(x.reshape(40, 100), 0) * y.reshape(40, 100)).sum(),
        lambda x, y: torch.logsumexp(x, 0) * (torch.softmax(x, 0) * y - torch.log_softmax(x, 0)).sum(),
    ],
)
def test_no_bit_changes(
    workers: int, monkeypatch: pytest.MonkeyPatch, f: Callable[[Any, Any], torch.Tensor]
) -> None:
    def run() -> list[bytes]:
        x = torch.from_numpy(numbers()).requires_grad_()
        y = torch.from_numpy(numbers()[::-1].copy()).reshard(700).requires_grad_()
        loss = f(x, y)
        loss.backward()
        return [t.detach().numpy().tobytes() for t in (loss, x.grad, y.grad) if t is not None]

    rewritten = run()
    unchanged(monkeypatch)
    assert run() == rewritten


def test_the_gradient_of_a_sum_is_a_scalar(workers: int, plans: list[Plan]) -> None:
    x = torch.from_numpy(numbers()).requires_grad_()
    (-(3 * x)).sum().backward()
    torch.synchronize()
    (plan,) = plans
    stepped = [
        s
        for st in plan.stages
        for f in st.program.fragments
        if f.count > 1
        for lo in f.loops
        for s in lo.steps
    ]
    assert [s.primitive.name for s in stepped if s.primitive.name in ("negative", "multiply")] == []
    assert x.grad is not None
    assert np.array_equal(x.grad.numpy(), np.full(N, -3, np.float32))


def test_signs_cost_nothing(workers: int, plans: list[Plan]) -> None:
    x = torch.from_numpy(numbers()).requires_grad_()
    y = torch.from_numpy(numbers()[::-1].copy())
    (((1 - x) ** 2).sum() + ((y - 3 * x) ** 2).sum()).backward()
    torch.synchronize()
    (plan,) = plans
    wide = [
        s
        for st in plan.stages
        for f in st.program.fragments
        if f.count > 1
        for lo in f.loops
        for s in lo.steps
    ]
    assert [s.primitive.name for s in wide].count("negative") == 0
    assert x.grad is not None
    expected = -2 * (1 - numbers()) - 6 * (numbers()[::-1] - 3 * numbers())
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_sign_that_is_read_elsewhere_stays(workers: int, plans: list[Plan]) -> None:
    x = torch.from_numpy(numbers())
    product = x * 3
    negative = -product
    total = (product * negative).sum() + (negative * 2).sum()
    assert np.array_equal(negative.numpy(), -(numbers() * 3))
    np.testing.assert_allclose(total.item(), np.sum(-9.0 * numbers() ** 2 - 6.0 * numbers()), rtol=1e-4)


def test_equal_work_is_done_once(workers: int, plans: list[Plan]) -> None:
    x = torch.from_numpy(numbers())
    y = torch.exp(x).sum() + torch.exp(x).max()
    y.item()
    assert names(plans[-1]).count("exp") == 1


def test_cross_entropy_and_its_gradient_share_the_exponentials(workers: int, plans: list[Plan]) -> None:
    x = torch.from_numpy(numbers().reshape(400, 10))
    w = torch.ones(10, 100, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(x @ w, torch.arange(400) // 4)
    loss.backward()
    assert abs(loss.item() - np.log(100)) < 1e-5
    steps = [name for plan in plans for name in names(plan)]
    assert [steps.count(name) for name in ("amax", "exp", "log_softmax", "scatter_zeros")] == [1, 1, 0, 0]
    assert steps.count("scatter_subtract") == 1


def test_logsumexp_and_its_gradient_share_the_exponentials(workers: int, plans: list[Plan]) -> None:
    x = torch.from_numpy(numbers().reshape(40, 100)).requires_grad_()
    x.logsumexp(1).sum().backward()
    torch.synchronize()
    assert [name for plan in plans for name in names(plan)].count("exp") == 1
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy().sum(1), 1, rtol=1e-6)


def test_a_second_derivative_reads_the_data_once(heavy: None, workers: int, plans: list[Plan]) -> None:
    x = torch.from_numpy(numbers(16 * 2_000).reshape(2_000, 16))
    w, v = torch.ones(16, requires_grad=True), torch.arange(16.0)
    torch.synchronize()
    plans.clear()
    (g,) = torch.autograd.grad(torch.sigmoid(x @ w).sum(), w, create_graph=True)
    (h,) = torch.autograd.grad(g @ v, w)
    total = h.sum().item()  # the parts of h came with the replies: that takes no call
    assert [len(plan.stages) for plan in plans] == [1]
    a = numbers(16 * 2_000).reshape(2_000, 16).astype(np.float64)
    p = 1 / (1 + np.exp(-a.sum(1)))
    want = (a.sum(1) * (a @ np.arange(16)) * p * (1 - p) * (1 - 2 * p)).sum()
    assert abs(total - want) < 1e-3 * abs(want)


def test_labels_are_computed_in_the_cuts_of_what_reads_them(workers: int, plans: list[Plan]) -> None:
    x = torch.from_numpy(numbers(16 * 2_000).reshape(2_000, 16)).reshard(300)
    y = torch.from_numpy(numbers(2_000)).reshard(1_000)
    torch.synchronize()
    plans.clear()
    for _ in range(2):
        ((1 - y) * x.sum(1)).sum().item()
    assert [len(plan.stages) for plan in plans] == [
        2,
        1,
    ]  # the labels are moved once, and kept in the other cuts


def test_a_cheap_value_that_only_a_variable_names_is_not_stored(
    heavy: None, workers: int, plans: list[Plan]
) -> None:
    x = torch.from_numpy(numbers()).requires_grad_()
    q = 3 * x**2
    (q.sum() * 1e6).backward()
    torch.synchronize()
    stored = sum(m["held"] for m in torch.memory())
    assert [form for plan in plans for form in plan.rematerialised] != []
    expected = 3 * numbers() ** 2
    assert np.array_equal(q.detach().numpy(), expected)  # made when it is asked for, from x
    assert np.array_equal(q.detach().numpy(), expected)
    assert stored <= sum(m["held"] for m in torch.memory())


def test_what_was_spared_and_asked_for_is_stored_from_then_on(
    heavy: None, workers: int, plans: list[Plan]
) -> None:
    x = torch.from_numpy(numbers())
    w = torch.ones(1, requires_grad=True)
    feature = torch.sin(3 * x)
    for _ in range(3):
        (w * feature).sum().backward()
        torch.synchronize()
    sines = [names(plan).count("sin") for plan in plans]
    assert sum(sines) <= 2
    assert sines[-1] == 0
    assert np.allclose(feature.numpy(), np.sin(3 * numbers()), rtol=1e-6)


def test_a_spared_value_outlives_what_it_is_made_from(heavy: None, workers: int) -> None:
    x = torch.from_numpy(numbers()).requires_grad_()
    q = x * 2
    (q * q).sum().backward()
    with torch.no_grad():
        x.mul_(0)
    torch.synchronize()
    assert np.array_equal(q.detach().numpy(), numbers() * 2)
    del x
    assert np.array_equal((q.detach() + 1).numpy(), numbers() * 2 + 1)


def test_what_spared_values_are_made_from_goes_with_them(heavy: None) -> None:
    gc.collect()
    gc.disable()
    try:
        with torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=1 << 16):
            w = torch.ones(1, requires_grad=True)
            held = set()
            for _ in range(4):
                x = torch.from_numpy(numbers(1 << 17))  # a batch
                q = x * w
                (q * q).sum().backward()
                w.grad = None
                torch.synchronize()
                held.add(sum(m["held"] for m in torch.memory()))
            assert len(held) == 1
    finally:
        gc.enable()


def test_all_that_is_pending_may_be_spared(heavy: None) -> None:
    with torch.init("inproc", workers=2, inline_bytes=1_000, shard_bytes=4_096):
        x = torch.from_numpy(numbers()).requires_grad_()
        w = torch.tensor(3.0, requires_grad=True)
        q = x * 2
        (w * w).backward()  # in the driver, and nothing to do with q
        assert w.grad is not None
        assert w.grad.item() == 6.0
        assert np.array_equal(q.detach().numpy(), numbers() * 2)


def test_a_spared_value_is_lost_with_its_session(heavy: None) -> None:
    with torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=4_096):
        x = torch.rand(N, requires_grad=True)
        q = x * 2
        (q * q).sum().backward()
        torch.synchronize()
    with torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=4_096):
        for _ in range(2):
            with pytest.raises(DistgradError, match="when its session was shut down"):
                q.detach().numpy()


def test_a_spared_value_survives_ctrl_c(heavy: None, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(numbers()).requires_grad_()
    q = x * 2
    (q * q).sum().backward()
    torch.synchronize()

    def interrupted(self: Session, result: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_provide", interrupted)
        with pytest.raises(KeyboardInterrupt):
            q.detach().numpy()
    assert np.array_equal(q.detach().numpy(), numbers() * 2)


def test_a_state_that_is_carried_along_does_not_grow_a_chain(
    heavy: None, workers: int, plans: list[Plan]
) -> None:
    w = torch.ones(1, requires_grad=True)
    h = torch.from_numpy(numbers())
    for _ in range(12):
        h = torch.tanh(w * h.detach() + 1)
        h.sum().backward()
        torch.synchronize()
    assert max(len(plan.stages) for plan in plans) <= 2
    assert max(names(plan).count("tanh") for plan in plans) <= 2


def test_light_steps_go_together_and_a_read_sends_them(workers: int, plans: list[Plan]) -> None:
    x = torch.from_numpy(numbers())
    w = torch.ones(1, requires_grad=True)
    for _ in range(5):
        loss = ((x * w) ** 2).mean()
        loss.backward()
        with torch.no_grad():
            w.sub_(0.1 * w.grad)
        w.grad = None
    assert plans == []
    loss.item()
    assert len(plans) == 1


def rated(count: int = 4_000, negative: bool = False) -> list[Any]:
    """Numbers of users and items, what they gave, and a row for each."""
    rng = np.random.default_rng(1)
    sizes = 300, 200
    users, items = (rng.integers(-n if negative else 0, n, count) for n in sizes)
    u, v = (rng.standard_normal((n, 8), np.float32) for n in sizes)
    return [users, items, rng.standard_normal(count, np.float32), u, v]


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("cuts", [None, 700, {1: 3}])
def test_taken_rows_are_added_without_being_stored(
    monkeypatch: pytest.MonkeyPatch, plans: list[Plan], cuts: Any, negative: bool
) -> None:
    i, j, r, u, v = rated(negative=negative)

    def run(workers: int) -> list[np.ndarray]:
        with torch.init("inproc", workers=workers, inline_bytes=0, shard_bytes=4_096):
            users, items, ratings = (torch.from_numpy(a) for a in (i, j, r))
            if isinstance(cuts, int):
                users = users.reshard(cuts)
            a, b = (torch.from_numpy(x) for x in (u, v))
            if isinstance(cuts, dict):
                a = a.reshard(cuts)
            a, b = a.requires_grad_(), b.requires_grad_()
            rows = torch.nn.functional.embedding(items, b) if not negative else b[items]
            loss = (((a[users] * rows).sum(1) - ratings) ** 2).mean()
            loss.backward()
            assert a.grad is not None
            assert b.grad is not None
            return [loss.detach().numpy(), a.grad.numpy(), b.grad.numpy()]

    made = [run(workers) for workers in (1, 2, 3)]
    assert sum(names(plan).count("add_taken") for plan in plans) == 6
    assert not any("index_add" in names(plan) for plan in plans)
    for other in made[1:]:
        assert [x.tobytes() for x in other] == [x.tobytes() for x in made[0]]
    unchanged(monkeypatch)
    loss, gu, gv = run(2)
    assert [x.tobytes() for x in (loss, gu)] == [x.tobytes() for x in made[0][:2]]
    np.testing.assert_allclose(
        made[0][2], gv, rtol=1e-5, atol=1e-7
    )  # added in the order of the longer table's rows
    e = (u[i].astype(float) * v[j]).sum(1) - r
    expected = np.zeros(u.shape)
    np.add.at(expected, i, 2 * e[:, None] / len(r) * v[j])
    np.testing.assert_allclose(made[0][1], expected, rtol=1e-4, atol=1e-6)


def test_a_graph_passes_its_messages_along(workers: int, plans: list[Plan]) -> None:
    source, target, weight, x, _ = rated()
    feature, w = torch.from_numpy(x), torch.from_numpy(weight).requires_grad_()
    edges = [torch.from_numpy(n) for n in (source, target)]
    out = torch.zeros(200, 8).index_add(0, edges[1], w[:, None] * feature[edges[0]])
    out.sum().backward()
    expected = np.zeros((200, 8))
    np.add.at(expected, target, weight[:, None] * x[source])
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), x[source].sum(1), rtol=1e-4, atol=1e-5)
    assert "add_taken" in [name for plan in plans for name in names(plan)]


def test_messages_without_weights(monkeypatch: pytest.MonkeyPatch, plans: list[Plan]) -> None:
    source, target, _, x, _ = rated(negative=True)

    def run(workers: int) -> list[np.ndarray]:
        with torch.init("inproc", workers=workers, inline_bytes=0, shard_bytes=4_096):
            feature = torch.from_numpy(x).requires_grad_()
            edges = [torch.from_numpy(n) for n in (source, target)]
            out = torch.zeros(200, 8).index_add(0, edges[1] % 200, feature[edges[0]])
            (out**2).sum().backward()
            assert feature.grad is not None
            return [out.detach().numpy(), feature.grad.numpy()]

    made = [run(workers) for workers in (1, 2, 3)]
    assert sum(names(plan).count("add_taken") for plan in plans) == 6
    assert len({tuple(x.tobytes() for x in one) for one in made}) == 1
    unchanged(monkeypatch)
    for joined, plain in zip(made[0], run(2), strict=True):
        np.testing.assert_allclose(joined, plain, rtol=1e-5, atol=1e-5)
