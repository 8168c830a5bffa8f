"""The lives of a session's workers: what is to be done when some are lost, decided without doing it.

Events go in (a call was sent, was heard of; workers were lost, one was replaced, ...), and `todo` says what to do next.
After a loss nothing that any worker stores counts: all begin a new *epoch*, in which calls of an older one are refused,
and what was there is made again from what the driver knows (`lineage.py`). So it does not matter which workers were
lost, how many, or in what they were; a loss in the middle of that begins it anew.

      alive ── lost ── starting ── alive ...      of a worker
      ready ── replacing ── resetting ── redoing ── ready      of all: what `todo` says
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from distgrad import checks
from distgrad.checks import CheckError

TRIES = 5  # losses in one recovery; then something ends every worker, and the user is told

_epochs = itertools.count(1)


def next_epoch() -> int:
    """An epoch that no worker has seen: workers may serve several sessions."""
    return next(_epochs)


class Life(Enum):
    """Of a worker."""

    ALIVE = "alive"  # as far as is known
    LOST = "lost"  # it does nothing any more
    STARTING = "starting"  # another takes its place


class Start(NamedTuple):
    """Start another worker in the place of one."""

    worker: int


class Reset(NamedTuple):
    """Have all workers forget what they store, and serve an epoch."""

    epoch: int


class Redo(NamedTuple):
    """Make again what the workers had."""


class GiveUp(NamedTuple):
    """Tell the user: whatever is started ends."""


Todo = Start | Reset | Redo | GiveUp


class Lives:
    """The state of all workers. Every method but `todo` and `counts` is an event."""

    def __init__(self, workers: int, epoch: int):
        self.workers = [Life.ALIVE] * workers
        self.epoch = epoch  # what is sent is of this one, and all that was sent since the last loss
        self.begun = True  # whether all workers serve it
        self.redone = True  # and have again what was there before
        self.last = 0  # serial of the last call that was sent; of all calls of a session no two have the same
        self.heard = 0  # of the last one of which all workers have said that it is done, and all before it
        self.void: list[range] = []  # calls that some worker was lost in, ascending: nothing comes of them
        self.losses = 0  # in this recovery

    def sent(self) -> int:
        """A call goes to all workers; its serial."""
        self.last += 1
        return self.last

    def done(self, serial: int) -> None:
        """All workers have said that a call is done. One of an older epoch says nothing any more."""
        if not self._void(serial):
            self.heard = serial
            self._check()

    def lost(self, workers: Iterable[int]) -> None:
        """Workers do not answer; or nobody knows which (none), but a value went with one of them."""
        for worker in workers:
            self.workers[worker] = Life.LOST
        if self.last > self.heard:
            self.void.append(range(self.heard + 1, self.last + 1))
        self.heard = self.last
        self.epoch = next_epoch()
        self.begun = self.redone = False
        self.losses += 1
        self._check()

    def starts(self, worker: int) -> None:
        """Another is being started in its place."""
        self.workers[worker] = Life.STARTING

    def started(self, worker: int) -> None:
        """It is there, and has nothing."""
        self.workers[worker] = Life.ALIVE

    def reset(self, epoch: int) -> None:
        """All workers serve an epoch, and have nothing."""
        if epoch == self.epoch and not self.begun:
            self.begun = True
            self._check()

    def recovered(self) -> None:
        """All was made again, and heard of."""
        self.redone, self.losses = True, 0
        self._check()

    def gave_up(self) -> None:
        """The user was told: the next try is a new one."""
        self.losses = 0

    def todo(self) -> Todo | None:
        """What is to be done next; None: nothing, the workers have what the driver thinks that they have."""
        if self.losses > TRIES:
            return GiveUp()
        for worker, life in enumerate(self.workers):
            if life is not Life.ALIVE:
                return Start(worker)
        if not self.begun:
            return Reset(self.epoch)
        return None if self.redone else Redo()

    def counts(self, serial: int) -> bool:
        """Whether what a call gives can be read: it was heard of, or may still be."""
        return not self._void(serial)

    def _void(self, serial: int) -> bool:
        return any(serial in calls for calls in self.void)

    def _check(self) -> None:
        """Raise CheckError unless the attributes go together as they should."""
        if not checks.ENABLED:
            return
        edges = [edge for calls in self.void for edge in (calls.start, calls.stop)]
        told = {
            "more was heard of than was sent": self.heard > self.last,
            "calls that are void overlap": edges != sorted(edges) or any(not calls for calls in self.void),
            "all is there again on workers that have not begun": self.redone and not self.begun,
            "a worker that has begun is not alive": self.begun and set(self.workers) != {Life.ALIVE},
        }
        for text, wrong in told.items():
            if wrong:
                raise CheckError(text)
