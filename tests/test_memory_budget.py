"""`memory_budget`: peaks below the budget, the same bits, cheap work first, and what `explain` says of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from op_calls import workers

import distgrad as torch
from distgrad.arguments import nbytes
from distgrad.errors import OutOfMemoryError
from distgrad.plan.plans import Plan
from distgrad.session import door, sending
from distgrad.session.budget import budgets
from distgrad.tensor import Tensor

ROWS, WIDTH, SHARD = 1 << 10, 16, 2048
ONE = ROWS * WIDTH * 8 // 2  # bytes of an activation on each of two workers


@pytest.fixture(autouse=True)
def two_workers() -> Iterator[None]:
    with workers(shard_bytes=SHARD):
        yield


class Net:
    """Layers with a norm over all rows, so that each takes stages of its own; in float64."""

    def __init__(self, depth: int = 3, width: int = WIDTH):
        torch.manual_seed(0)
        self.x = torch.randn(ROWS, width, dtype=torch.float64)
        self.weights = [
            torch.randn(width, width, dtype=torch.float64).div(4).requires_grad_() for _ in range(depth)
        ]
        torch.synchronize()

    def loss(self) -> Tensor:
        h = self.x
        for w in self.weights:
            h = h @ w
            h = ((h - h.mean(0)) / (h.var(0) + 1e-5).sqrt()).tanh()
        return (h**2).mean()

    def gradients(self, look: bool = False) -> list[Tensor]:
        loss = self.loss()
        if look:
            loss.item()
        return list(torch.autograd.grad(loss, self.weights))


def peak(profile: Any) -> int:
    return max(worker.measured for worker in profile.peak_bytes)


def measured(net: Net, budget: Any = None, look: bool = False) -> tuple[int, list[Tensor]]:
    """The most bytes that a worker held for the gradients, and these."""
    with torch.profile() as p:
        if budget is None:
            found = net.gradients(look)
        else:
            with torch.memory_budget(budget):
                found = net.gradients(look)
        torch.synchronize()
    return peak(p), found


@pytest.mark.parametrize("look", [pytest.param(False, marks=pytest.mark.sweep), True])
def test_the_peak_is_below_the_budget_and_the_bits_stay(look: bool) -> None:
    net = Net()
    most, wants = measured(net, look=look)
    for part in (0.6, 0.2):
        net.x.sum().item()  # frees what the step before has kept
        held, found = measured(net, int(most * part), look)
        assert all(torch.equal(a, b) for a, b in zip(found, wants, strict=True))
        assert held <= part * most


def test_a_look_at_every_layer() -> None:
    """What earlier looks have kept is freed for later ones; what the user holds is made again when it is read."""
    net, part = Net(2), 0.5

    def run() -> tuple[int, list[Tensor]]:
        torch.synchronize()
        with torch.profile() as p:
            h, held = net.x, []
            for w in net.weights:
                h = torch.nn.functional.layer_norm(h @ w, (WIDTH,)).tanh() @ w
                h = h - h.mean(0)
                held.append(h)
                h.sum().item()
            found = list(torch.autograd.grad((h**2).mean(), net.weights))
            torch.synchronize()
        return peak(p), [*held, *found]

    most, wants = run()
    with torch.memory_budget(int(part * most)):
        run()
        held, found = run()
        assert held <= part * most
        assert all(torch.equal(a, b) for a, b in zip(found, wants, strict=True))


def test_explain_tells_what_is_freed_before_backward() -> None:
    net = Net()
    most, _ = measured(net, look=True)
    with torch.memory_budget(int(0.6 * most)):
        loss = net.loss()
        loss.item()
        before = max(worker.stored for worker in door.current().calls.held())
        told = torch.explain(*torch.autograd.grad(loss, net.weights))
    assert before <= 0.6 * most < told.choice.before
    assert max(told.peak_bytes) <= 0.6 * most
    assert told.choice.freed > 0
    assert "freed and made again, since earlier work has kept it:" in told.text


def test_what_values_are_made_of_is_not_kept_for_that() -> None:
    """A result that is stored could be made again of its data; these are freed with their last name all the same."""
    with torch.memory_budget(4 * ONE):
        made = []
        for n in range(6):
            x = torch.full((ROWS, WIDTH), float(n), dtype=torch.float64)
            torch.synchronize()
            y = x.sin()[:16]
            made.append((y * x[:16]).exp())
            made[-1].sum().item()
            del x, y
            torch.synchronize()
        assert max(w.stored - w.freed for w in door.current().calls.held()) <= 2 * ONE


def pending(net: Net, budget: Any) -> Any:
    torch.synchronize()
    gs = net.gradients()
    with torch.memory_budget(budget):
        return torch.explain(*gs)


def test_explain_tells_the_choice(capsys: pytest.CaptureFixture[str]) -> None:
    net = Net()
    free = torch.explain(*net.gradients())
    assert free.choice is None
    most = max(free.peak_bytes)
    roomy = pending(net, 2 * most)
    assert roomy.choice.remade == ()
    assert roomy.choice.before == roomy.choice.after == most
    tight = pending(net, int(0.7 * most))
    choice = tight.choice
    assert choice.after == max(tight.peak_bytes) <= 0.7 * most
    assert choice.nbytes > 0
    assert choice.flops > 0
    assert tight.flops > free.flops
    assert "made again instead of kept:" in tight.text
    assert "budget of" in capsys.readouterr().out


def test_products_come_last() -> None:
    net = Net()
    most = max(torch.explain(*net.gradients()).peak_bytes)
    taken = [pending(net, int(most * part)).choice.remade for part in (0.9, 0.7, 0.5, 0.25)]
    assert not any(offer.product for offer in taken[0])
    assert any(offer.product for offer in taken[-1])
    for offers in taken:
        kinds = [offer.product for offer in offers]
        assert kinds == sorted(kinds)
    assert [len(offers) for offers in taken] == sorted(len(offers) for offers in taken)


def test_a_budget_that_cannot_be_kept_to_is_told_and_the_work_runs() -> None:
    net = Net()
    told = pending(net, 1000)
    assert told.choice.after > 1000
    assert "it cannot be kept to" in told.text

    def twice() -> list[Tensor]:
        with torch.memory_budget(1000):
            net.gradients()[0].sum().item()
            return net.gradients()

    with pytest.warns(UserWarning, match="a worker may come to hold .* more than 1000 B: no more") as said:
        found = twice()
    torch.synchronize()
    assert [one.filename for one in said] == [__file__]
    assert all(torch.equal(a, b) for a, b in zip(found, net.gradients(), strict=True))


@pytest.mark.filterwarnings("ignore:memory_budget")  # it cannot be kept to
def test_what_was_not_stored_is_made_when_it_is_asked_for() -> None:
    net = Net()
    with torch.memory_budget(ONE):
        y = net.x.sin()
        z = y.exp() * y
        z.sum().item()
        assert max(worker.stored for worker in door.current().calls.held()) < 2 * ONE
    assert torch.equal(y, net.x.sin())
    assert torch.equal(z, net.x.sin().exp() * net.x.sin())


def test_steps_find_their_plans(plans: list[Plan]) -> None:
    net = Net()
    gs = net.gradients()
    most = max(torch.explain(*gs).peak_bytes)
    del gs
    torch.synchronize()
    with torch.memory_budget(int(0.6 * most)):
        for step in range(4):
            net.gradients()
            torch.synchronize()
            if step == 1:
                count = len(plans)
    assert len(plans) == count


def test_the_block_holds_for_what_it_leaves_pending() -> None:
    net = Net()
    most, wants = measured(net)
    with torch.profile() as p:
        with torch.memory_budget(int(0.6 * most)):
            gs = net.gradients()
        torch.synchronize()
    assert peak(p) <= 0.6 * most
    assert all(torch.equal(a, b) for a, b in zip(gs, wants, strict=True))
    assert door.current().left_budget is None


def test_what_it_leaves_pending_is_of_its_session() -> None:
    with torch.memory_budget(10):
        kept = torch.ones(ROWS, WIDTH) * 2
    assert door.current().left_budget == 10
    del kept
    door.shutdown()
    with workers(shard_bytes=SHARD):
        assert torch.explain(torch.ones(ROWS, WIDTH) * 2).choice is None


def test_sizes() -> None:
    assert [nbytes("x", size) for size in (5, "5", "2GiB", "1.5 KiB", "3 MB", "7b")] == [
        5,
        5,
        2**31,
        1536,
        3_000_000,
        7,
    ]
    for size, error in (
        ("much", ValueError),
        (0, ValueError),
        (-1, ValueError),
        (1.5, TypeError),
        (True, TypeError),
    ):
        with pytest.raises(error, match="memory_budget"):
            torch.memory_budget(size)  # type: ignore[arg-type]
    with torch.memory_budget("1GiB"), torch.memory_budget(10):
        assert budgets.now() == 10
    assert budgets.now() is None


@pytest.mark.filterwarnings("ignore:memory_budget")  # it cannot be kept to
def test_what_other_pending_nodes_read_is_not_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is sent in parts, as there is no room for all of its results: a part freed what the next reads."""
    rows = [f(Net().x) for f in (torch.exp, torch.tanh, torch.sin, torch.cos, torch.expm1, torch.atan)]
    with torch.memory_budget(2 * ONE):
        for x in rows:
            x.sum().item()
        wants = [(x * (i + 2.0)).sum(0)[0].item() for i, x in enumerate(rows)]
    real, short = sending.check_room, [True]

    def check(calls: Any, cut: int, whole: int, captured: Any, plan: Plan) -> None:
        if short[0] and sum(captured.wanted[len(captured.externals) :]) > 2:
            raise OutOfMemoryError("no room for so many")
        real(calls, cut, whole, captured, plan)

    monkeypatch.setattr(sending, "check_room", check)
    with torch.memory_budget(2 * ONE):
        found = [(x * (i + 2.0)).sum(0) for i, x in enumerate(rows)]
        door.flush()
        short[0] = False
        assert [f[0].item() for f in found] == wants


def test_what_is_dropped_is_not_held_for_being_made_again() -> None:
    x = Net().x
    with torch.memory_budget(3 * ONE):
        y = torch.tanh(torch.exp(x)) * 2
        y.sum().item()
    session = door.current()
    z = y * 3
    del y, z
    torch.synchronize()
    assert not session._remakable
    assert not session._replays.made


def test_what_lies_otherwise_is_copied_to_be_sent() -> None:
    """A flipped value was predicted to leave without a copy, as one that lies in order does."""
    net = Net()
    w = net.weights[0]
    with torch.profile() as p:
        found = torch.autograd.grad(((net.x @ w).flip(0) ** 2).mean(), w)
        torch.synchronize()
    assert len(found) == 1
    assert all(0 <= one.predicted - one.measured < ONE // 16 for one in p.peak_bytes)


@pytest.mark.filterwarnings("error:memory_budget")
def test_a_budget_that_cannot_be_kept_to_as_an_error_loses_nothing() -> None:
    """It is an error of whoever asks, before anything is sent; with more room, or after the block, that work runs."""
    net = Net(2)
    wants, want = [g.numpy() for g in net.gradients()], net.loss().item()
    with torch.memory_budget(1000):
        found = net.gradients()  # what would be sent at its end is no error of backward
        loss = net.loss()
        for _ in range(2):
            with pytest.raises(UserWarning, match="a worker may come to hold"):
                found[0].numpy()
        with pytest.raises(UserWarning, match="a worker may come to hold"):
            torch.synchronize()
        assert found[0]._value.result.pending
        with torch.memory_budget("1GiB"):
            assert found[0].numpy().tobytes() == wants[0].tobytes()
        loss += 1
        with pytest.raises(UserWarning, match="a worker may come to hold"):
            loss.item()
    with pytest.raises(UserWarning, match="a worker may come to hold"):
        loss.item()
    assert loss.item() == want + 1  # the block is over, and that was told
    assert all(g.numpy().tobytes() == one.tobytes() for g, one in zip(found, wants, strict=True))


@pytest.mark.filterwarnings("error:memory_budget")
def test_gradients_are_added_once_where_that_warning_is_an_error() -> None:
    net = Net(1)
    w = net.weights[0]
    net.loss().backward()
    want = w.grad.numpy()
    w.grad = None
    with torch.memory_budget(1000):
        net.loss().backward()
        with pytest.raises(UserWarning, match="a worker may come to hold"):
            w.grad.numpy()
        with torch.no_grad():
            w -= w.grad
    with pytest.raises(UserWarning, match="a worker may come to hold"):
        torch.synchronize()
    assert w.grad.numpy().tobytes() == want.tobytes()
