"""The lives of workers, driven through every order of events; and the orders that lineage gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from distgrad.checks import CheckError
from distgrad.session.lives import TRIES, GiveUp, Life, Lives, Redo, Reset, Start


class Cluster(RuleBasedStateMachine):
    """A driver that does what `todo` says, beside what is true of its workers: processes, their epochs, their calls."""

    @initialize(workers=st.integers(1, 3))
    def begin(self, workers: int) -> None:
        self.lives = Lives(workers, 0)
        self.dead: set[int] = set()
        self.told: set[int] = set()  # of those, whose loss the driver has heard of
        self.epochs = [0] * workers
        self.whole = True  # whether the workers have what the driver thinks
        self.calls: dict[int, int] = {}  # those on their way: the epoch of each
        self.done: set[int] = set()  # heard of
        self.tries = 0

    @precondition(lambda self: self.lives.todo() is None)
    @rule()
    def send(self) -> None:
        serial = self.lives.sent()
        assert serial not in {*self.calls, *self.done}
        self.calls[serial] = self.lives.epoch

    @precondition(lambda self: self.calls)
    @rule(late=st.booleans())
    def reply(self, late: bool) -> None:
        """All answer to the oldest call, or to one of an older epoch: which says nothing."""
        old = [serial for serial, epoch in self.calls.items() if epoch != self.lives.epoch]
        serial = max(old) if old and late else min(self.calls)
        epoch = self.calls.pop(serial)
        if self.dead and epoch == self.lives.epoch:
            self.notice(self.dead - self.told, serial)
            return
        before = self.lives.heard
        self.lives.done(serial)
        if epoch == self.lives.epoch and self.lives.counts(serial):
            self.done.add(serial)
            assert self.lives.heard == serial
        else:
            assert self.lives.heard == before

    @rule(worker=st.integers(0, 2))
    def lose(self, worker: int) -> None:
        if worker < len(self.epochs) and worker not in self.dead:
            self.dead.add(worker)
            self.whole = False

    @precondition(lambda self: self.dead - self.told)
    @rule(named=st.booleans())
    def find(self, named: bool) -> None:
        """The driver hears of a loss; not always whose that was."""
        self.notice(self.dead - self.told if named else set(), None)

    def notice(self, workers: set[int], serial: int | None) -> None:
        self.told |= workers
        self.lives.lost(workers)
        for number in self.calls:
            assert not self.lives.counts(number)
        if serial is not None:
            assert not self.lives.counts(serial)

    @precondition(lambda self: self.lives.todo() is not None)
    @rule(fails=st.booleans())
    def act(self, fails: bool) -> None:
        todo = self.lives.todo()
        if isinstance(todo, GiveUp):
            assert self.lives.losses > TRIES
            self.lives.gave_up()
        elif isinstance(todo, Start):
            self.lives.starts(todo.worker)
            assert self.lives.todo() == todo  # also if there was no room, until it is there
            if not fails:
                self.dead.discard(todo.worker)
                self.told.discard(todo.worker)
                self.epochs[todo.worker] = 0
                self.lives.started(todo.worker)
        elif isinstance(todo, Reset):
            assert todo.epoch not in self.epochs
            if self.dead:
                self.notice(set(self.dead), None)
                return
            self.epochs = [todo.epoch] * len(self.epochs)
            self.lives.reset(todo.epoch - 1)  # of an older one
            assert isinstance(self.lives.todo(), Reset)
            self.lives.reset(todo.epoch)
        elif self.dead:
            self.notice(set(self.dead), None)
        else:
            assert isinstance(todo, Redo)
            serial = self.lives.sent()
            self.lives.done(serial)
            self.done.add(serial)
            self.whole = True
            self.lives.recovered()

    @invariant()
    def ready_means_that_all_is_there(self) -> None:
        if hasattr(self, "lives") and self.lives.todo() is None and not self.dead:
            assert self.whole
            assert set(self.epochs) == {self.lives.epoch}
            assert set(self.lives.workers) == {Life.ALIVE}

    @invariant()
    def what_was_heard_counts(self) -> None:
        if hasattr(self, "lives"):
            assert all(self.lives.counts(serial) for serial in self.done)


TestLives = Cluster.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_worker_that_cannot_be_started_is_started_again() -> None:
    lives = Lives(2, 0)
    lives.lost([1])
    lives.starts(1)
    assert lives.todo() == Start(1)


def test_the_user_is_told_where_every_try_ends_in_a_loss() -> None:
    lives: Any = Lives(1, 0)
    for _ in range(TRIES):
        lives.lost([0])
        assert lives.todo() == Start(0)
    lives.lost([0])
    assert lives.todo() == GiveUp()
    lives.gave_up()
    assert lives.todo() == Start(0)


def test_states_that_do_not_go_together_are_found() -> None:
    lives = Lives(2, 0)
    lives.heard = 3
    with pytest.raises(CheckError, match="more was heard of"):
        lives.recovered()
    lives = Lives(2, 0)
    lives.begun = False
    with pytest.raises(CheckError, match="have not begun"):
        lives.recovered()
    lives = Lives(2, 0)
    lives.workers[1] = Life.LOST
    with pytest.raises(CheckError, match="not alive"):
        lives.recovered()
