"""How many bytes each worker holds while a plan runs, told before it runs.

This follows `worker/execute.py`: a value that a stage makes or receives is there until the stage ends, a temporary
of a loop on whole shards until the loop has run, and what a later loop of the fragment reads until the shard is done.
What a kernel allocates for itself, and gives up before it returns, is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import numpy as np

from distgrad.caching import remembered
from distgrad.program import Arrival, Departure, Fragment, Program, Slot, Sum
from distgrad.sharding import Region, Sharding, extent, owned
from distgrad.worker.exchange import Tree, held, leaves, overlaps, sums_sent, tree
from distgrad.worker.execute import Runner
from distgrad.worker.loops import LoopRunner
from distgrad.worker.pool import Pool


class Footprint(NamedTuple):
    """Bytes of one stage on one worker, beside what is stored and what the stage before has put aside."""

    arrived: int  # what it has received and made of that before it runs
    most: int  # at the worst moment from then on
    aside: int  # what it has sent to itself: there until the next stage has read it
    kept: tuple[int, ...]  # of each value that is stored when it is over


def footprints(program: Program, kept: Sequence[Slot | None], workers: int) -> tuple[Footprint, ...]:
    """For each worker; `kept` are the holders of what is stored."""
    runner = Runner(program, Pool())
    return tuple(_Stage(runner, workers, worker).footprint(kept) for worker in range(workers))


def peak(stored: int, freed: int, stages: Iterable[tuple[Footprint, int]]) -> int:
    """The most bytes that one worker holds while stages run.

    `stored` is what it holds at first; the first stage frees `freed` of it. Beside each stage stands what the next
    one frees.
    """
    most = stored
    aside = 0
    for stage, done in stages:
        most = max(most, stored + aside + stage.arrived)
        stored -= freed
        most = max(most, stored + stage.most)
        stored += sum(stage.kept)
        aside, freed = stage.aside, done
    return most


@remembered(4 << 20, lambda *_: 500)
def stored_bytes(slot: Slot, workers: int, worker: int) -> int:
    """Bytes of a value that `worker` stores."""
    return slot.dtype.itemsize * int(_sizes(slot.sharding)[_shards(slot.sharding, workers, worker)].sum())


@remembered(16 << 20, lambda _, sizes: 500 + sizes.nbytes)
def _sizes(sharding: Sharding) -> np.ndarray:
    """Elements of each shard."""
    lengths = [np.array(cut.lengths) for cut in sharding.cuts]
    return reduce(np.multiply.outer, lengths, np.ones((), np.int64)).ravel()


def _shards(sharding: Sharding, workers: int, worker: int) -> slice:
    mine = held(sharding.count, workers, worker)
    return slice(mine.start, mine.stop)


@remembered(8 << 20, lambda _, waiting: 700 + waiting.nbytes)
def _waiting(what: Sum, sharding: Sharding, first: int, last: int) -> np.ndarray:
    """For each of the shards `first` to `last`, elements that wait in trees before it gives its part."""
    sizes = _sizes(sharding)
    trees: dict[int, Tree] = {}
    before = np.zeros(last - first, np.int64)
    count = 0
    for n, (_, kept, leaf) in enumerate(leaves(what, range(first, last))):
        before[n] = count
        made = trees.setdefault(kept, tree(what, merging=False))
        count -= len(made.stack) * int(sizes[kept])
        made.push(0, leaf, None)
        count += len(made.stack) * int(sizes[kept])
    return before


def holders(program: Program) -> list[Slot | None]:
    """For each value that is kept, the slot whose memory it keeps: of a view another, or None if that is kept too."""
    roots = _roots(program)
    there = {*program.inputs, *(slot for slot in program.keep if slot not in roots)}
    found: list[Slot | None] = []
    for slot in program.keep:
        holder = _holder(program, roots, slot)
        found.append(None if holder != slot and holder in there else program.slots[holder])
        there.add(holder)
    return found


def _roots(program: Program) -> dict[int, int]:
    """What each view is a view of. In tiles nothing stays a view."""
    roots: dict[int, int] = {}
    for fragment in program.fragments:
        for loop in fragment.loops:
            for step in loop.steps:
                if step.primitive.view and loop.rows == 0:
                    roots.update((slot, roots.get(step.ins[0], step.ins[0])) for slot in step.outs)
    return roots


def _holder(program: Program, roots: dict[int, int], slot: int) -> int:
    """The slot whose memory an escaping slot keeps: a view of little of an array is copied."""
    root = roots.get(slot, slot)
    small = 2 * program.slots[slot].sharding.largest < program.slots[root].sharding.largest
    return slot if small else root


class _Stage:
    """One program on one worker."""

    def __init__(self, runner: Runner, workers: int, worker: int):
        self.runner = runner
        self.program = runner.program
        self.roots = _roots(runner.program)
        self.workers = workers
        self.worker = worker

    def footprint(self, holders: Sequence[Slot | None]) -> Footprint:
        program = self.program
        arrived = sum(program.slots[i].aval.nbytes for i in program.feeds)
        arrived += sum(self.arrival(a) for a in program.arrivals)
        most, there = arrived, arrived
        for fragment, loops, escaping in self.runner.fragments:
            made, worst = self.fragment(fragment, loops, escaping)
            most = max(most, there + worst)
            there += made
        copied = aside = 0
        for departure in program.departures:
            every, own, whole = self.departure(departure)
            copied += every
            aside += own + whole
        kept = tuple(self.stored(slot) if slot is not None else 0 for slot in holders)
        return Footprint(arrived, max(most, there + copied) + self.runner.scratch, aside, kept)

    def stored(self, slot: Slot) -> int:
        return stored_bytes(slot, self.workers, self.worker)

    def largest(self, number: int) -> int:
        """Bytes of the largest piece of slot `number`."""
        slot = self.program.slots[number]
        sizes = _sizes(slot.sharding)
        if number not in self.runner.partial:  # any shard may give a part of any sum
            sizes = sizes[_shards(slot.sharding, self.workers, self.worker)]
        return slot.dtype.itemsize * int(sizes.max(initial=0))

    def sums(self, slot: Slot, what: Sum, sender: int, to: range) -> int:
        """Bytes of the parts of the sums `to` that a worker sends."""
        sizes = _sizes(slot.sharding)
        parts = sums_sent(what, self.workers, sender, to)
        return slot.dtype.itemsize * sum(n * int(sizes[kept]) for kept, n in parts)

    def arrival(self, arrival: Arrival) -> int:
        """What comes from others, and what is made of it."""
        slot, what = self.program.slots[arrival.slot], arrival.what
        others = [w for w in range(self.workers) if w != self.worker or arrival.channel != "each"]
        mine = held(slot.sharding.count, self.workers, self.worker)
        if isinstance(what, Sum):
            parts = [sums_sent(what, self.workers, w, mine) for w in range(self.workers)]
            merged = sum(n for sent in parts for _, n in sent) > len(mine)
            return sum(self.sums(slot, what, w, mine) for w in others) + merged * self.stored(slot)
        if what.target.count == 1:
            return 2 * slot.aval.nbytes
        elements = sum(
            math.prod(extent(region))
            for w in others
            for _, _, region in overlaps(what, owned(what.source.count, self.workers, w), mine)
        )
        dim = self.runner.in_pieces.get(arrival.slot)
        in_tiles = dim is not None and self.runner.along.get(arrival.slot) == dim
        return elements * slot.dtype.itemsize + (0 if in_tiles else self.stored(slot))

    def fragment(
        self, fragment: Fragment, loops: Sequence[LoopRunner], escaping: set[int]
    ) -> tuple[int, int]:
        """What a fragment leaves for the rest of the stage, and what it takes at the worst moment."""
        slots, partial = self.program.slots, self.runner.partial
        mine = held(fragment.count, self.workers, self.worker)
        if not mine:
            return 0, 0
        size: dict[int, int] = {}  # bytes of the largest shard of what has memory of its own
        now = worst = 0
        for loop in loops:
            inside = 0
            for n, step in enumerate(loop.steps):
                for slot in step.outs:
                    if slot in self.roots:
                        continue
                    size[slot] = self.largest(slot)
                    if n in loop.over:  # the memory of an operand, which is counted
                        inside -= size.get(step.ins[loop.over[n]], 0)
                    if slot in loop.escaping:
                        now += size[slot]
                    elif not loop.tiled:
                        inside += size[slot]
            worst = max(worst, now + inside)
        kept = {_holder(self.program, self.roots, slot) for slot in escaping - partial.keys()}
        kept = {slot for slot in kept if slot in size or slot in escaping}
        made = sum(self.stored(slots[slot]) for slot in kept)
        last = sum(size.get(slot, 0) for slot in kept)
        there = np.arange(len(mine)) * (made - last) // max(1, len(mine) - 1)  # when each shard begins
        trees = 0
        for slot in escaping & partial.keys():
            what = partial[slot]
            trees += self.sums(slots[slot], what, self.worker, range(slots[slot].sharding.count))
            waiting = _waiting(what, slots[slot].sharding, mine.start, mine.stop)
            there = there + waiting * slots[slot].dtype.itemsize
        return made + trees, int(there.max()) + worst

    def departure(self, departure: Departure) -> tuple[int, int, int]:
        """Bytes that are copied to be sent, those of them that go to the worker itself, and what else it keeps."""
        slot, what = self.program.slots[departure.slot], departure.what
        if isinstance(what, Sum) and what.target is not None:
            return self.scattered(slot, what, what.target)
        if isinstance(what, Sum):
            mine = held(slot.sharding.count, self.workers, self.worker)
            own = self.sums(slot, what, self.worker, mine) if departure.channel == "each" else 0
            return 0, own, 0
        copied = own = 0
        seen: set[int] = set()  # shards of which a view goes to the worker itself
        mine = held(what.target.count, self.workers, self.worker) if departure.channel == "each" else range(0)
        sources = owned(what.source.count, self.workers, self.worker)
        for source, target, region in overlaps(what, sources, range(what.target.count)):
            nbytes = slot.dtype.itemsize * math.prod(extent(region))
            if what.slices is not None or not _contiguous(region, what.source.cell(source)):
                copied += nbytes
                own += nbytes if target in mine else 0
            elif target in mine:
                seen.add(source)
        if departure.slot in (*self.program.keep, *self.program.inputs):
            return copied, own, 0
        whole = int(_sizes(what.source)[list(seen)].sum()) * slot.dtype.itemsize
        return copied, own, whole

    def scattered(self, slot: Slot, what: Sum, target: Sharding) -> tuple[int, int, int]:
        """The same for partial results that leave in cuts: views of them, if the cuts leave rows whole."""
        whole = self.sums(slot, replace(what, target=None), self.worker, range(1))
        mine = held(target.count, self.workers, self.worker)
        if _contiguous(target.cell(0), tuple((0, n) for n in target.shape)):
            return 0, 0, whole if mine else 0
        cut = Slot(slot.dtype, target)
        return whole, self.sums(cut, what, self.worker, mine), 0


def _contiguous(region: Region, cell: Region) -> bool:
    """Whether a region of an array that fills the cell lies in one piece."""
    parts = extent(region)
    wholes = extent(cell)
    first = next((d for d, n in enumerate(parts) if n != 1), len(parts))
    return parts[first + 1 :] == wholes[first + 1 :]
