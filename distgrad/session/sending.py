"""The sending layer of a session: what is pending is planned, and goes to the workers as programs."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from time import perf_counter
from typing import Any

from distgrad.caching import Cache
from distgrad.callsites import call_site, origin
from distgrad.errors import DistgradError, OutOfMemoryError
from distgrad.exchange.base import taken
from distgrad.graph import Node, RemoteRef, Result
from distgrad.interrupts import held_back
from distgrad.plan.build import build
from distgrad.plan.capture import Capture, apart_from, capture, left_over, needed
from distgrad.plan.costs import SMALL
from distgrad.plan.explain import Choice, Explanation, explanation, nbytes_text
from distgrad.plan.plans import Plan, Stage
from distgrad.plan.rematerialise import Offer
from distgrad.program import Program
from distgrad.session import measure
from distgrad.session.budget import Chooser, Prepared, budgets
from distgrad.session.calls import Box
from distgrad.session.donation import Gifts, donated
from distgrad.session.placement import waits_for_more
from distgrad.session.recording import FULL, Recording
from distgrad.session.rematerialise import give_up, note
from distgrad.session.room import check_room, too_large
from distgrad.wire import encode

NOTHING = encode(Program((), (), (), (), (), (), (), ()))  # a call that only frees
BROKEN_OFF = "this tensor's contents were lost when a call to the workers was broken off"
PLANS = 64 << 20  # bytes of plans that are kept
PASSES = 1_000  # call sites at which passes begin that are known
COPIES = 4  # other cuts in which one value is kept


class Sending(Recording):
    """A session as far as it sends what was recorded."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._forward = 0  # how many of the pending nodes came before the first backward pass
        self.left_budget: int | None = None  # of a block that has ended before all of its work was sent
        self._asked: Result | None = None  # a large result that somebody waits for
        self._kept: weakref.WeakSet[Result] = weakref.WeakSet()  # what is stored, and could be made again
        self._told_over: set[int] = set()  # budgets of which a user has read that work needs more
        self._refused: set[Node] = set()  # what could not be sent: it waits until somebody asks for it
        self._plans: Cache[Any, Plan] = Cache(PLANS, lambda key, plan: plan.nbytes)

    def begin_pass(self, caller: tuple[Any, int]) -> None:
        """A backward pass is about to be recorded: what stands before it is forward."""
        if len(self.calls.passes) < PASSES:
            self.calls.passes.add(caller)
        self._forward = self._forward or len(self.pending)

    def end_pass(self) -> None:
        """A backward pass has been recorded: send it, unless it is so light that the calls would cost more.

        Light steps of a loop wait for each other, and for the first value that is read: then they go in one call.
        """
        if not waits_for_more(self.weight, len(self.pending)):
            self.flush(remat=True)

    def begin_remat(self) -> None:
        """Values of forward are about to be made again: send what is pending, if that is heavy.

        In one plan with it they would be the values that are there, and kept until now.
        """
        if not waits_for_more(self.weight, len(self.pending)):
            self.flush()

    def flush(self, remat: bool = False, asked: Result | None = None) -> Exception | None:
        """Send what is pending and still needed. Does not wait for it.

        With `remat`, results of the forward pass that are cheap to make again are not stored: the backward pass has
        read them, and for most a variable's name is all that is left. How they are made stays known, for whoever asks.

        Work that cannot be planned, or for which there is no room, concerns those who ask for it: it stays pending, the
        rest is sent, and the error is returned. It is raised if it is in the way of what is `asked` for.
        """
        with self.lock:
            early = set(self.pending[: self._forward]) if remat else set()
            self.pending = needed(self.pending, None)
            self.weight, self._forward = 0.0, 0
            self._prune()
            self._refused.intersection_update(self.pending)
            large = asked is not None and asked.spec.nbytes > SMALL
            self._asked = asked if large else None
            error = left = self._send(self._ready(), early)
            if isinstance(error, OutOfMemoryError) and self._set_aside():
                left = self._send(self._ready(), early)
            if asked is not None:
                nodes = needed(self.pending, [asked])
                if left is not None or not self._refused.isdisjoint(nodes):
                    error = self._send(nodes)
                    if error is not None:
                        try:
                            raise self._let_go(error)
                        finally:  # its traceback knows this frame: in a circle the user's tensors would stay
                            self._asked = None
                            del error, left
            elif left is not None:
                self._send_in_parts([n for n in self._ready() if any(o.awaited for o in n.outputs)])
            self._full, self._asked = FULL + len(self.pending), None
            return error

    def _tell_over(self, over: Choice) -> None:
        """Warn that what is about to be sent needs more than the budget, once for each size of budget.

        Where that is an error, what would have been sent stays pending.
        """
        if over.after <= over.budget or over.budget in self._told_over:
            return
        text = (
            f"memory_budget: a worker may come to hold {nbytes_text(over.after)} for what is sent now, more than "
            f"{nbytes_text(over.budget)}: no more of it can be made again instead of kept. explain() shows what is"
        )
        where = origin(call_site("memory_budget"))
        warnings.warn_explicit(text, UserWarning, where.file, where.line)
        self._told_over.add(over.budget)

    def _let_go(self, error: Exception) -> Exception:
        """An error that is about to be raised; a budget whose block is over has no more say after it."""
        if isinstance(error, Warning):
            self.left_budget = None
        return error

    def _ready(self) -> list[Node]:
        """The pending nodes, which somebody needs, but for what was refused, what reads it and what only that needs."""
        if not self._refused:
            return list(self.pending)
        return needed(apart_from(self._refused, self.pending), None)

    def _send(self, nodes: list[Node], early: AbstractSet[Node] = frozenset()) -> Exception | None:
        """Send nodes; or the error, if they cannot be planned or there is no room for them: then nothing is sent."""
        if not nodes:
            return None
        begin = perf_counter()
        try:
            made = self._made(nodes, len(early & set(nodes)))
            nodes, captured, plan = made.nodes, made.captured, made.plan
            if measure.active is not None:
                measure.active.planned(begin, captured, plan, self)
            check_room(self.calls, plan.held_cut, plan.held_whole + plan.passing, captured, plan)
            if made.choice is not None:
                self._tell_over(made.choice)
        except Exception as error:
            return error
        self._free(made)
        sent = set(nodes).difference([nodes[n] for n in plan.deferred])
        left = left_over(self.pending, sent, {captured.results[v] for v in (*plan.stored, *plan.boxed)})
        gifts = donated(plan, captured, left)
        with self._unbroken() if gifts else contextlib.nullcontext():
            self._run(captured, plan, gifts)
            self.left_budget = None
            self.pending = left
        self._prune()
        self._refused.difference_update(nodes)
        if measure.active is not None:
            measure.active.flushed(begin)
        return None

    @contextlib.contextmanager
    def _unbroken(self) -> Iterator[None]:
        """A block without Ctrl-C: what it sends cannot be sent again. It waits for nothing: that is done after it."""
        with held_back():
            self.calls.waits = False
            try:
                yield
            finally:
                self.calls.waits = True
        self.calls.make_room()

    def _lose(self, lost: set[Result]) -> None:
        """Calls that may write over these results were broken off: what was to be made of them cannot be any more."""
        left = apart_from({n for n in self.pending if not lost.isdisjoint(n.inputs)}, self.pending)
        for node in set(self.pending).difference(left):
            for out in node.outputs:
                out.becomes_failed(DistgradError(BROKEN_OFF))
        self.pending = left

    def _prune(self) -> None:
        """Forget of what nodes that are not pending any more would have made, and could have made again."""
        if self._remakable or self._replays.pins:
            read = {r for node in self.pending for r in node.inputs}
            self._remakable = {r: remat for r, remat in self._remakable.items() if r in read}
            self._replays.keep(self.pending)

    def _set_aside(self) -> bool:
        """Refuse the pending nodes of which one result alone has no room; whether there are any."""
        sizes = {n: max((o.aval.nbytes for o in n.outputs if o.awaited), default=0) for n in self._ready()}
        found = [n for n, nbytes in sizes.items() if too_large(self.calls, nbytes)]
        self._refused.update(found)
        return bool(found)

    def _send_in_parts(self, roots: list[Node]) -> None:
        """Send what these nodes give, which does not go in one: half of it at a time. Refuse what does not go alone."""
        if len(roots) == 1:
            self._refused.update(roots)
            return
        for part in (roots[: len(roots) // 2], roots[len(roots) // 2 :]):
            ready = apart_from(self._refused, self.pending)
            outs = [o for n in set(part).intersection(ready) for o in n.outputs if o.awaited]
            if outs and self._send(needed(ready, outs)) is not None:
                self._send_in_parts([n for n in ready if n in set(part)])

    def _made(self, nodes: list[Node], forward: int = 0) -> Prepared:
        """What is to be sent for these nodes."""
        captured = capture(nodes, forward, self._replays.numbers(nodes), self._asked)
        plan, budget = self._planned(captured), budgets.now(self.left_budget)
        if budget is None:
            return Prepared(nodes, captured, plan)
        chooser = Chooser(self.calls, budget, self._planned, self._replays, self._asked)
        sent = set(nodes)
        later = {r for node in self.pending if node not in sent for r in node.inputs}
        return chooser.made(nodes, captured, self._kept, self._remakable, later)

    def _free(self, made: Prepared) -> None:
        """Have freed what a choice says; its nodes make again what is read of that."""
        for result in made.gone:
            give_up(result, made.gone)
        if made.replay is not None:
            self._pend_again(made.replay)
            self.pending[:0] = made.replay.nodes
        if made.frees:
            self.calls.run(NOTHING)

    def _planned(self, captured: Capture, remade: Sequence[Offer] = (), lasts: bool = False) -> Plan:
        """The plan that makes the first of its offers again."""
        key = (captured.key, len(remade), lasts) if remade or lasts else captured.key
        plan = self._plans.get(key) or self._plans.again(key)
        if plan is None:
            plan = self._plans.keep(key, build(captured, remade, lasts))
        return plan

    def _run(self, captured: Capture, plan: Plan, gifts: Gifts) -> None:
        places = plan.places
        if plan.own_cuts is None:
            plan.own_cuts = [captured.results[value].sharding == cuts for value, cuts in places.given]
        ids: list[Any] = [
            captured.results[value].id if own else captured.results[value].id_of(cuts)
            for (value, cuts), own in zip(places.given, plan.own_cuts, strict=True)
        ]
        boxes: dict[int, Box] = {}
        made: set[int] = set()
        still = {b.stage for b in plan.boxed.values()}
        given: set[Result] = set()  # to calls that were begun
        try:
            for n, stage in enumerate(plan.stages):
                first = len(ids)
                new = self.calls.new_ids(self._taken(stage))
                ids += new
                made.update(new)
                given.update(gifts.get(n, ()))
                inputs = [ids[i] for i in places.inputs[n]]
                boxes[n] = self._submit(stage, inputs, ids[first:], captured, boxes, gifts.get(n, ()))
                for result in gifts.get(n, ()):
                    result.becomes_donated()
                if measure.active is not None:
                    measure.active.sent(self.calls.epoch, boxes[n].serial, plan, n)
                if n - 1 not in still:  # the next stage is the only one to read it
                    boxes.pop(n - 1, None)
                done = [ids[i] for i in places.last_use[n]]
                made.difference_update(done)
                self.calls.freed.extend(done)
        except BaseException:
            self.calls.freed.extend(made)
            if given:
                self._lose(given)
            raise
        for value, place in places.stored:
            captured.results[value].becomes_stored(ids[place], RemoteRef(self, [ids[place]]))
        channels = {(b.stage, b.channel) for b in plan.boxed.values()}
        parts = {(number, channel): boxes[number].only(channel) for number, channel in channels}
        for value, b in plan.boxed.items():
            result = captured.results[value]
            result.becomes_boxed(
                (parts[b.stage, b.channel], b.what, b.channel, b.position), RemoteRef(self, [])
            )
        if plan.rematerialised or plan.rematerialisable:
            self._kept.update(note(plan, captured))
        for (value, cuts), place in places.copies:
            result = captured.results[value]
            copies = {**result.copies, cuts: ids[place]}
            if len(copies) > COPIES:
                self.release(copies.pop(next(iter(copies))))
            result.keep_copies(copies)

    def _taken(self, stage: Stage) -> list[tuple[int, ...]]:
        """For each value that a stage keeps the bytes that it takes of each worker."""
        if stage.taken is None:
            workers = self.calls.workers
            stage.taken = [() if slot is None else taken(slot, workers) for slot in stage.holders]
            stage.most = max(map(sum, zip(*filter(None, stage.taken), strict=True)), default=0)
        return stage.taken

    def _submit(
        self,
        stage: Stage,
        inputs: list[int],
        keep: list[int],
        captured: Capture,
        boxes: dict[int, Box],
        gifts: Sequence[Result],
    ) -> Box:
        sources = [boxes[r.number] if r.kind == "stage" else captured.boxes[r.number] for r in stage.boxes]
        return self.calls.run(
            stage.data,
            inputs=inputs,
            keep=keep,
            most=stage.most,
            donate=[result.id for result in gifts if result.id is not None],
            feeds=[captured.results[v].array for v in stage.feeds],  # type: ignore[misc]
            boxes=list(zip(stage.program.boxes, sources, strict=True)),
            returns=stage.returns,
            sends=stage.program.sends,
            sites=[captured.nodes[n].where if n >= 0 else None for n in stage.nodes],
        )

    def explain(self, results: Sequence[Result]) -> Explanation:
        """What is pending for these results."""
        with self.lock:
            for result in results:
                if result.lazy is not None and not result.lazy.near:
                    self.record_lazy(result)
                if result.remat is not None:
                    self._rematerialise(result)
            nodes = needed(self.pending, results)
            if not nodes:
                return explanation(Plan([], {}, {}), capture([]), self.calls.held())
            made = self._made(nodes)
            return explanation(made.plan, made.captured, made.now or self.calls.held(), made.choice)
