"""Budgets of memory: which plan keeps to one by making values again instead of keeping them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from distgrad.graph import Node, Remat, Result
from distgrad.plan.build import offers
from distgrad.plan.capture import Capture, capture
from distgrad.plan.explain import Choice, Held, peaks
from distgrad.plan.memory import stored_bytes
from distgrad.plan.plans import Plan
from distgrad.program import Slot
from distgrad.session.calls import Calls
from distgrad.session.rematerialise import Replay, Replays, anchors, can_go

ROOMY = 8  # nothing is prepared while workers hold less than this part of the budget


class _Budgets(threading.local):
    """The bytes that a worker may hold, for this thread's blocks, the innermost last."""

    def __init__(self) -> None:
        self.stack: list[int] = []

    def now(self, left: int | None = None) -> int | None:
        """The budget for what is sent now; outside of all blocks that of one which has `left` some of its work."""
        return self.stack[-1] if self.stack else left


budgets = _Budgets()


class Prepared(NamedTuple):
    """What is to be sent: nodes, and the plan for them; what the workers are to free first; and why."""

    nodes: list[Node]
    captured: Capture
    plan: Plan
    choice: Choice | None = None
    now: Sequence[Held] = ()  # what the workers hold when they begin
    frees: bool = False  # whether they are to free what they hold in vain before they begin
    gone: tuple[Result, ...] = ()
    replay: Replay | None = None  # of the nodes those that make again what is read of that


Planned = Callable[..., Plan]  # the plan for a capture; some of its offers are made again, or may be later


class Chooser:
    """The plan that makes the least again and keeps to the budget; else the one found that holds the least.

    It makes again what the work itself could keep; then it has the workers free what earlier work has kept and nothing
    reads now; at last what is read, and is made again for that. Which operations run has no say in the bits of the
    results, so a plan may follow from what is held.
    """

    def __init__(self, calls: Calls, budget: int, planned: Planned, replays: Replays, asked: Result | None):
        self.calls, self.budget, self.planned = calls, budget, planned
        self.replays, self.asked = replays, asked

    def made(
        self,
        nodes: list[Node],
        captured: Capture,
        kept: Iterable[Result],
        remakable: Mapping[Result, Remat],
        later: Collection[Result],
    ) -> Prepared:
        """What is to be sent for `nodes`. What is `kept` could be made again; so could `remakable`, which they read.

        What other nodes read `later` stays.
        """
        now = self.calls.held()
        found = self._chosen(nodes, captured, now)
        if self._fits(found):
            return found
        if any(held.freed for held in now):
            now = [Held(held.stored - held.freed, 0) for held in now]
            found = self._chosen(nodes, captured, now)._replace(frees=True)
            if self._fits(found):
                return found
        inside = set(captured.results)
        gone: list[Result] = []
        for result in can_go(r for r in kept if not (r in inside or r in remakable or r in later)):
            if max(peaks(found.plan, now)) <= self.budget:
                break
            if result.remat is not None and anchors(result.remat.past, gone) is not None:
                gone.append(result)
                now = self._without(now, result)
        if gone:
            found = self._chosen(nodes, captured, now)._replace(gone=tuple(gone), frees=True)
        read = can_go(r for r in remakable if r in inside and r not in later)
        if self._fits(found) or not read:
            return found
        base = self.planned(captured)
        key = (self.budget, *now)
        count = base.drops.get(key)
        tried: dict[int, Prepared] = {0: found}

        def most(count: int) -> int:
            if count not in tried:
                tried[count] = self._freed(found, captured, remakable, read[:count]) or found
            choice = tried[count].choice
            assert choice is not None
            return choice.after

        if count is None:
            count = base.drops[key] = _least(most, len(read), self.budget)
        most(count)
        return tried[count]

    def _fits(self, made: Prepared) -> bool:
        return made.choice is not None and made.choice.after <= self.budget

    def _chosen(self, nodes: list[Node], captured: Capture, now: Sequence[Held]) -> Prepared:
        """The plan for a capture that makes the least again. `now` is what the workers hold."""
        base, budget = self.planned(captured), self.budget
        before = max(peaks(base, now))
        if before <= budget // ROOMY:
            return Prepared(nodes, captured, base, Choice(budget, before, before, ()), now)
        if base.offers is None:
            base.offers = offers(captured)
        found = base.offers
        lasts = any(not offer.later for offer in found)

        def most(count: int) -> int:
            return max(peaks(self.planned(captured, found[:count], lasts), now))

        key = (budget, *now)
        count = base.choices.get(key)
        if count is None:
            count = base.choices[key] = _least(most, len(found), budget)
        plan = self.planned(captured, found[:count], lasts)
        return Prepared(nodes, captured, plan, Choice(budget, before, most(count), tuple(found[:count])), now)

    def _freed(
        self, found: Prepared, captured: Capture, remakable: Mapping[Result, Remat], read: Sequence[Result]
    ) -> Prepared | None:
        """What is sent if some of what the nodes read is freed first and made again; None if it cannot be."""
        gone = {*found.gone, *read}
        replay = self.replays.nodes({r: remakable[r] for r in read}, gone)
        if replay is None:
            return None
        now = found.now
        for result in read:
            now = self._without(now, result)
        nodes = [*replay.nodes, *found.nodes]
        forward = captured.forward and captured.forward + len(replay.nodes)
        recaptured = capture(nodes, forward, self.replays.numbers(nodes, replay), self.asked)
        made = self._chosen(nodes, recaptured, now)
        assert made.choice is not None
        freed = sum(r.spec.nbytes for r in read)
        names = tuple(node.primitive.name for node in replay.nodes)
        choice = replace(made.choice, freed=freed, names=names, before=found.choice.before)  # type: ignore[union-attr]
        return made._replace(gone=(*found.gone, *read), replay=replay, choice=choice, frees=True)

    def _without(self, now: Sequence[Held], result: Result) -> list[Held]:
        slots = [Slot(result.aval.dtype, cuts) for cuts in (result.sharding, *result.copies)]
        workers = len(now)
        return [
            held._replace(stored=held.stored - sum(stored_bytes(slot, workers, w) for slot in slots))
            for w, held in enumerate(now)
        ]


def _least(most: Callable[[int], int], count: int, budget: int) -> int:
    """How much to take of `count`: by halves, since more of it seldom holds more."""
    if most(0) <= budget or not count:
        return 0
    low, high = 0, count
    if most(high) > budget:
        return min({0, high // 2, high * 3 // 4, high}, key=lambda count: (most(count), count))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if most(middle) <= budget else (middle, high)
    return high
