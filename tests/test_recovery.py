"""Workers are lost at any moment: a program ends with the bits that it has without that."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import distgrad as torch
from distgrad import session
from distgrad.cluster import start
from distgrad.errors import ConnectError, WorkerError, WorkerLostError
from distgrad.graph import Value
from distgrad.session import door, history
from distgrad.session.lineage import Run
from distgrad.session.lives import Lives
from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import Handle
from distgrad.worker.worker import Worker

Program = Callable[[], list[np.ndarray]]
X = np.random.default_rng(0).standard_normal((6000, 6)).astype(np.float32)  # it is uploaded, not fed

SHARD = 1 << 14


class Mortal(InProcess):
    """Workers of which some are lost before the calls with the numbers in `kills`, counted from `begin` on."""

    def __init__(self, workers: int):
        super().__init__(workers, Worker)
        self.kills: dict[int, list[int]] = {}
        self.count = self.losses = 0
        self.room = True
        self.stale: list[Handle] | None = None  # planted: a copy is the one before

    def call(self, worker: int, method: str, args: tuple[Any, ...], returns: int) -> list[Handle]:
        self.count += 1
        for each in self.kills.pop(self.count, ()):
            self.lose(each % self.workers)
            self.losses += 1
        made = super().call(worker, method, args, returns)
        if method == "copy" and self.stale is not None:
            made, self.stale = self.stale or made, made
        return made

    def replace(self, worker: int) -> None:
        if not self.room:
            raise ConnectError("there is no room for another worker")
        super().replace(worker)


@pytest.fixture
def mortal() -> Iterator[Callable[..., Mortal]]:
    """Begin a session on workers that can be lost."""

    def begin(workers: int = 2, kills: dict[int, list[int]] | None = None) -> Mortal:
        door.shutdown()
        transport = Mortal(workers)
        door.attach(transport, inline_bytes=0, shard_bytes=SHARD)
        transport.count, transport.kills = 0, dict(kills or {})
        return transport

    yield begin
    door.shutdown()


def regression(steps: int = 8) -> list[np.ndarray]:
    """Logistic regression on data that was uploaded, with labels made from a seed."""
    torch.manual_seed(0)
    x, y = torch.tensor(X), (torch.rand(len(X)) < 0.5).float()
    w = torch.zeros(6, requires_grad=True)
    losses = []
    for n in range(steps):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ w, y)
        loss.backward()
        with torch.no_grad():
            w -= 0.1 * w.grad
        w.grad = None
        losses.append(loss.detach())
        if n % 3 == 1:
            losses[-2].item()
    return [w.detach().numpy(), *(loss.numpy() for loss in losses)]


def network(steps: int = 8) -> list[np.ndarray]:
    """A network with Adam, which writes over parameters and state."""
    torch.manual_seed(1)
    x, y = torch.randn(4000, 6), torch.randn(4000, 1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.ReLU(), torch.nn.Linear(40, 1))
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for n in range(steps):
        adam.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        adam.step()
        losses.append(loss.detach())
        if n % 4 == 2:
            loss.item()
    return [p.detach().numpy() for p in model.parameters()] + [loss.numpy() for loss in losses]


def stencil(steps: int = 12) -> list[np.ndarray]:
    """Values that are cut, each made of the one before and its neighbours'."""
    torch.manual_seed(2)
    u = torch.randn(4000, 4)
    for n in range(steps):
        u = u + 0.1 * (u.roll(1, 0) - 2 * u + u.roll(-1, 0))
        session.flush()
        if n % 5 == 4:
            u.sum().item()
    return [u.numpy()]


PROGRAMS = [regression, network, stencil]


def undisturbed(program: Program, begin: Callable[..., Mortal]) -> tuple[list[np.ndarray], int]:
    """What a program gives, and the calls that it makes on two workers."""
    transport = begin(2)
    return program(), transport.count


def same(made: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(made, right, strict=True))


@pytest.mark.parametrize("trial", [0, 1, *(pytest.param(n, marks=pytest.mark.sweep) for n in range(2, 120))])
@pytest.mark.parametrize("program", PROGRAMS)
def test_random_losses_change_no_bit(
    program: Program, trial: int, mortal: Callable[..., Mortal], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, calls = undisturbed(program, mortal)
    draw = random.Random(trial)
    monkeypatch.setattr(history, "LONG", draw.choice([512, 8]))  # with copies, and without
    workers = draw.randint(1, 3)
    moments = [draw.randint(1, max(2, calls * workers // 2)) for _ in range(draw.choice([1, 2, 3]))]
    kills = {at: [draw.randrange(3) for _ in range(draw.choice([1, 1, 2]))] for at in moments}
    transport = mortal(workers, kills)
    made = program()
    assert same(made, right)
    assert len(door.current().events) >= 2 * bool(transport.losses and not any(transport.kills))


def test_what_is_lost_is_told_once(mortal: Callable[..., Mortal], capsys: pytest.CaptureFixture[str]) -> None:
    transport = mortal(2)
    x = torch.tensor(X)
    y = (x * 2).sum(0)
    torch.nn.functional.relu(x)
    y.numpy()
    z = x.exp()
    session.flush()
    transport.lose(1)
    np.testing.assert_array_equal(z.numpy(), np.exp(X))
    told = capsys.readouterr().err
    text = (
        "distgrad: worker 1 is lost: it was ended by lose(). It is replaced, and done again: 1 upload, 1 run"
    )
    assert told.startswith(text)
    assert told.count("\n") == 1
    first, second = door.current().events
    assert first.workers == (1,)
    assert second.text in told
    assert transport.alive() == [True, True]


def test_an_error_that_was_told_is_not_told_again(mortal: Callable[..., Mortal]) -> None:
    transport = mortal(2)
    x = torch.tensor(X)
    bad = session.emit(
        "take", session.constant(X), Value.known(np.array([3, 9000])), dim=0, size=6000, wrap=True
    )
    with pytest.raises(WorkerError, match=r"test_recovery\.py"):
        session.synchronize()
    transport.lose(0)
    np.testing.assert_array_equal((x + 1).numpy(), X + 1)
    session.synchronize()
    with pytest.raises(WorkerError, match=r"test_recovery\.py"):
        session.fetch(bad)


def test_what_cannot_be_made_again_is_named_and_the_rest_goes_on(
    mortal: Callable[..., Mortal], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = mortal(2)
    seeded = torch.randn(5000, 3)
    right = (seeded * 2).numpy()
    monkeypatch.setattr(history, "KEPT", 0)
    x = torch.tensor(X)
    y = x * 2
    session.flush()
    transport.lose(0)
    later = y + 1
    text = r"a tensor \(float32 of shape \(6000, 6\)\) cannot be made again: worker 0 .*y.py:\d+, which was not kept"
    for gone in (y, later, x):
        with pytest.raises(WorkerLostError, match=text):
            gone.numpy()
    assert (seeded * 2).numpy().tobytes() == right.tobytes()
    np.testing.assert_array_equal((torch.tensor(X) * 3).numpy(), X * 3)


def test_copies_bound_what_is_done_again(
    mortal: Callable[..., Mortal], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, _ = undisturbed(lambda: stencil(60), mortal)
    monkeypatch.setattr(history, "LONG", 10)
    transport = mortal(2)
    torch.manual_seed(2)
    u = torch.randn(4000, 4)
    for n in range(60):
        u = u + 0.1 * (u.roll(1, 0) - 2 * u + u.roll(-1, 0))
        session.flush()
        if n % 5 == 4:
            u.sum().item()
    gc.collect()
    runs = sum(isinstance(one, Run) for one in gc.get_objects())
    assert runs < 40  # of some 70
    transport.lose(0)
    assert same([u.numpy()], right)
    assert "1 copy" in door.current().events[-1].text


def test_a_copy_waits_until_it_is_worth_its_time() -> None:
    now = 0.0
    known = history.History(lambda: now)
    known._runs = history.SHORT
    assert not known.due()
    now = 1.0
    assert known.due()
    result: Any = type("R", (), {"spec": type("S", (), {"nbytes": 50_000_000})})
    assert not known.worth([result])  # 0.1 s of each 10
    assert not known.due()
    now = 11.0
    assert known.due()
    assert known.worth([result])


def test_without_room_for_another_the_user_is_told_and_may_try_again(mortal: Callable[..., Mortal]) -> None:
    transport = mortal(2)
    x = torch.tensor(X)
    y = x + 1
    session.flush()
    transport.lose(1)
    transport.room = False
    for _ in range(2):
        with pytest.raises(ConnectError, match="no room"):
            y.numpy()
    transport.room = True
    np.testing.assert_array_equal(y.numpy(), X + 1)


def test_a_worker_that_is_lost_each_time_ends_the_tries(
    mortal: Callable[..., Mortal], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = mortal(1)
    x = torch.tensor(X)
    y = x + 1
    session.flush()
    real = transport.replace
    transport.lose(0)
    monkeypatch.setattr(transport, "replace", lambda worker: (real(worker), transport.lose(worker)))
    with pytest.raises(WorkerLostError, match="worker 0 is lost"):
        y.numpy()
    monkeypatch.setattr(transport, "replace", real)
    np.testing.assert_array_equal(y.numpy(), X + 1)


def forget_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Run.needs
    monkeypatch.setattr(Run, "needs", lambda self, counts: real(self, counts)[1:])


def check_no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lives, "counts", lambda self, serial: True)


def copy_the_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Mortal.__init__

    def stale(self: Mortal, workers: int) -> None:
        init(self, workers)
        self.stale = []

    monkeypatch.setattr(Mortal, "__init__", stale)


@pytest.mark.parametrize("plant", [forget_an_input, check_no_epoch, copy_the_step_before])
def test_planted_faults_are_found(
    plant: Callable[[pytest.MonkeyPatch], None],
    mortal: Callable[..., Mortal],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def program() -> list[np.ndarray]:
        return stencil(30)

    right, calls = undisturbed(program, mortal)
    monkeypatch.setattr(history, "LONG", 8)
    plant(monkeypatch)
    found = 0
    for at in (calls * 3 // 4, calls - 3):
        made = None
        mortal(2, {at: [0]})
        with contextlib.suppress(Exception):
            made = program()
        found += made is None or not same(made, right)
    assert found > 0


@pytest.mark.sweep
@pytest.mark.parametrize("program", PROGRAMS)
def test_processes_that_are_killed_change_no_bit(program: Any, mortal: Callable[..., Mortal]) -> None:
    right, _ = undisturbed(lambda: program(30), mortal)
    door.shutdown()
    transport = start(workers=2, timeout=300)
    try:
        for trial, seconds in enumerate((0.02, 0.2, 0.5, 0.8)):
            door.attach(transport, inline_bytes=0, shard_bytes=SHARD)
            pids = [place["pid"] for place in transport.nodes()][: 1 + trial % 2]

            def kill(pids: list[int] = pids, seconds: float = seconds) -> None:
                time.sleep(seconds)
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)

            thread = threading.Thread(target=kill)
            thread.start()
            assert same(program(30), right)
            thread.join()
            assert same(program(30), right)
            assert door.current().events
            door.detach()
    finally:
        door.detach()
        transport.close()
