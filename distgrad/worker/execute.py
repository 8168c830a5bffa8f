"""Runs a program on one worker's shards. A `Runner` is prepared once for each program and kept."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from distgrad.errors import WireError
from distgrad.exchange import Failure, Joined, Tree, held
from distgrad.program import Program, Recv, Send
from distgrad.worker.analysis import Analysis
from distgrad.worker.loops import LoopRunner, Spent, StepFailed
from distgrad.worker.meter import Meter
from distgrad.worker.pool import Pool


class Seat(NamedTuple):
    """Which worker runs, of how many, and the number of the call."""

    worker: int
    workers: int
    serial: int


Pieces = list[Any]  # a value's shards on this worker, in order: arrays, or `Joined` ones


class Runner(Analysis[LoopRunner]):
    """One program, ready to run."""

    def __init__(self, program: Program, pool: Pool, length: int = 0):
        super().__init__(program, partial(LoopRunner, pool=pool))
        self.pool = pool
        self.length = length  # of the program, in bytes

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, about."""
        return (
            5000
            + 8 * self.length
            + sum(runner.nbytes for _, runners, _ in self.fragments for runner in runners)
        )

    def bind(
        self,
        at: Seat,
        inputs: Sequence[Pieces | Failure],
        feeds: Sequence[np.ndarray],
        boxes: Sequence[Any],
        meter: Meter | None = None,
    ) -> dict[int, Any]:
        """The slots that have values before anything runs. Raises WireError for boxes that do not fit."""
        env: dict[int, Any] = dict(zip(self.program.inputs, inputs, strict=True))
        env.update((slot, [array]) for slot, array in zip(self.program.feeds, feeds, strict=True))
        if meter is not None:
            meter.watch(feeds)
            meter.arrived(boxes, at.worker)
        for recv in self.program.recvs:
            try:
                with np.errstate(all="ignore"):
                    env[recv.slot] = made = self._receive(recv, at, boxes)
                if meter is not None and isinstance(made, list) and recv.slot not in self.in_pieces:
                    meter.watch(made)
            except Exception as error:
                text = str(error) or type(error).__name__
                raise WireError(f"boxes: slot {recv.slot} cannot be made of what arrived: {text}") from None
        return env

    def run(
        self, at: Seat, env: dict[int, Any], meter: Meter | None = None, donated: Container[int] = ()
    ) -> None:
        """Fill the slots that are kept or leave: with pieces, a Failure, or trees of partial results.

        What is `donated` may be written over by the only step of a fragment that reads it, if nothing later does.
        """
        for number in range(len(self.fragments)):
            gifts = {slot for slot in self.final[number] if slot in donated}
            self._fragment(number, at, env, meter, gifts)

    def _fragment(
        self, number: int, at: Seat, env: dict[int, Any], meter: Meter | None, gifts: set[int]
    ) -> None:
        """Run one fragment. Where a step fails on its data, the rest of the fragment is run again without it."""
        fragment = self.fragments[number][0]
        steps = [step for loop in fragment.loops for step in loop.steps]
        failed: dict[int, Failure] = {}
        spent: Spent = {}  # what was written over gifts: that is done once
        while True:
            for step in steps:
                operands = (failed.get(i) or env.get(i) for i in step.ins)
                cause = next((o for o in operands if isinstance(o, Failure)), None)
                if cause is not None:
                    failed.update(dict.fromkeys(step.outs, cause))
            try:
                made = self._shards(number, at, set(failed), env, meter, gifts, spent)
            except StepFailed as found:
                step, error = found.step, found.error
                if step.outs[0] in failed:
                    raise error from None
                failure = Failure(type(error).__name__, str(error), self.numbers[id(step)], at.serial)
                failed.update(dict.fromkeys(step.outs, failure))
                del error
                continue
            env.update(made)
            env.update(failed)
            return

    def _shards(
        self,
        number: int,
        at: Seat,
        failed: set[int],
        env: dict[int, Any],
        meter: Meter | None,
        gifts: set[int],
        spent: Spent,
    ) -> dict[int, Any]:
        """The escaping slots' pieces, shard by shard. Raises StepFailed."""
        fragment, runners, escaping = self.fragments[number]
        shards = held(fragment.count, at.workers, at.worker)
        made: dict[int, Any] = {}
        for slot in escaping - failed:
            made[slot] = {} if slot in self.partial else []
        sums = {slot: self.partial[slot] for slot in made if slot in self.partial}
        places = {slot: what.leaves(shards) for slot, what in sums.items()}
        where: dict[int, tuple[Tree, int]] = {}
        first = {
            slot: held(self.program.slots[slot].sharding.count, at.workers, at.worker).start for slot in env
        }
        for shard in shards:
            local = _Local(env, first, shard, self.along, gifts, spent)
            onto = {}
            for slot, what in sums.items():
                _, kept, leaf = next(places[slot])
                parts = made[slot].setdefault(kept, what.tree(self.pool.take))
                where[slot] = parts, leaf
                if parts.onto is not None:
                    onto[slot] = parts.onto
            for n, runner in enumerate(runners):
                begin = perf_counter() if meter is not None else 0.0
                local.here.update(runner.run(shard, local, failed, onto, meter))
                if meter is not None:
                    meter.loop(number, n, shard, begin)
            for slot, pieces in made.items():
                array = local.here[slot]
                try:
                    if slot not in sums:
                        pieces.append(_own(array))
                    elif array is not onto.get(slot):  # a partial result, which nothing else reads
                        parts, leaf = where[slot]
                        parts.push(0, leaf, array, own=array.flags.writeable)
                except Exception as error:  # there may be no memory
                    raise StepFailed(self.maker[slot], error) from None
        return made

    def _receive(self, recv: Recv, at: Seat, boxes: Sequence[Any]) -> Pieces | Failure:
        slot = self.program.slots[recv.slot]
        items = [() if sent is None else sent[recv.position] for sent in boxes[recv.box][recv.channel]]
        for item in items:
            if isinstance(item, Failure):
                return item
        shards = held(slot.sharding.count, at.workers, at.worker)
        along = self.in_pieces.get(recv.slot)
        return recv.what.receive(items, at.workers, shards, slot, self.pool.take, along)


class _Local:
    """The arrays of one shard by slot: what was made for it just now, else its piece of what was there before."""

    def __init__(
        self,
        env: dict[int, Any],
        first: dict[int, int],
        shard: int,
        along: dict[int, int],
        gifts: set[int],
        spent: Spent,
    ):
        self.env, self.first, self.shard, self.along = env, first, shard, along
        self.gifts, self.spent = gifts, spent
        self.here: dict[int, np.ndarray] = {}

    def gift(self, slot: int) -> tuple[Pieces, int] | None:
        """A value's pieces and which is read here, if it may be written over as far as the program goes."""
        pieces = self.env.get(slot) if slot in self.gifts else None
        return (pieces, self._place(slot, pieces)) if isinstance(pieces, list) else None

    def _place(self, slot: int, pieces: Pieces) -> int:
        whole = len(pieces) == 1 and self.first[slot] == 0
        return 0 if whole else self.shard - self.first[slot]

    def get(self, slot: int) -> np.ndarray | None:
        """None if the slot has no value here, because its maker failed."""
        if slot in self.here:
            return self.here[slot]
        pieces = self.env.get(slot)
        if not isinstance(pieces, list):
            return None
        piece = pieces[self._place(slot, pieces)]
        if type(piece) is Joined and self.along.get(slot) != piece.dim:
            self.here[slot] = piece = piece.whole()
        return piece


def arrays(value: Pieces | Failure) -> Iterator[np.ndarray]:
    """The arrays that a value consists of."""
    for piece in value if isinstance(value, list) else ():
        yield from piece.pieces if type(piece) is Joined else (piece,)


def settled(value: Pieces | Failure) -> Pieces | Failure:
    """A value as it may be stored: it keeps no more alive than is stored anyway."""
    for piece in value if isinstance(value, list) else ():
        if type(piece) is Joined:
            piece.settle()
    return value


def _own(array: np.ndarray) -> np.ndarray:
    """The array as it may be kept: a small view does not keep a large base alive."""
    base = array.base
    if isinstance(base, np.ndarray) and 2 * array.nbytes < base.nbytes and array.strides != (0,) * array.ndim:
        return array.copy()
    return array


def outgoing(send: Send, value: Any, worker: int, workers: int, to: Iterable[int] | None = None) -> list[Any]:
    """What `worker` puts into its box for a value: for the channel "each" a list for each worker in `to`, else one."""
    what = send.what
    receivers = (
        [held(what.count, workers, w) for w in (range(workers) if to is None else to)]
        if send.channel == "each"
        else [range(what.count)]
    )
    if isinstance(value, Failure):
        return [value for _ in receivers]
    return [list(what.send(value, workers, worker, shards)) for shards in receivers]
