"""How many bytes each worker holds while a plan runs, told before it runs.

This follows `worker/execute.py`: a value that a stage makes or receives is there until the stage ends, a temporary
of a loop on whole shards until the loop has run, and what a later loop of the fragment reads until the shard is done.
What a kernel allocates for itself, and gives up before it returns, is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from distgrad.caching import remembered
from distgrad.exchange import Reduce, Tree, held
from distgrad.exchange.base import sizes, stored_bytes
from distgrad.program import Fragment, Program, Recv, Send, Slot
from distgrad.sharding import Sharding
from distgrad.worker.analysis import Analysis, Registers
from distgrad.worker.registers import Read


class Footprint(NamedTuple):
    """Bytes of one stage on one worker, beside what is stored and what the stage before has put aside."""

    received: int  # what it has received and made of that before it runs
    most: int  # at the worst moment from then on
    aside: tuple[int, ...]  # of each value what it has sent to itself, for the next stage to read
    pieces: tuple[int, ...]  # which of those of the stage before it reads piece by piece, until it is over
    kept: tuple[int, ...]  # of each value that is stored when it is over


def footprints(program: Program, kept: Sequence[Slot | None], workers: int) -> tuple[Footprint, ...]:
    """For each worker; `kept` are the holders of what is stored."""
    known = Analysis(program, Registers)
    return tuple(_StageMemory(known, workers, worker).footprint(kept) for worker in range(workers))


def peak(stored: int, freed: int, stages: Iterable[tuple[Footprint, int]]) -> int:
    """The most bytes that one worker holds while stages run.

    `stored` is what it holds at first; the first stage frees `freed` of it. Beside each stage stands what the next
    one frees.
    """
    most = stored
    aside: tuple[int, ...] = ()
    for stage, done in stages:
        most = max(most, stored + sum(aside) + stage.received)
        stored -= freed
        most = max(most, stored + stage.most + sum(aside[n] for n in stage.pieces if aside))
        stored += sum(stage.kept)
        aside, freed = stage.aside, done
    return most


@remembered(8 << 20, lambda _, waiting: 700 + waiting.nbytes)
def _waiting(what: Reduce, sharding: Sharding, first: int, last: int) -> np.ndarray:
    """For each of the shards `first` to `last`, elements that wait in trees before it gives its part."""
    elements = sizes(sharding)
    trees: dict[int, Tree] = {}
    before = np.zeros(last - first, np.int64)
    count = 0
    for n, (_, kept, leaf) in enumerate(what.leaves(range(first, last))):
        before[n] = count
        made = trees.setdefault(kept, what.tree(merging=False))
        count -= len(made.stack) * int(elements[kept])
        made.push(0, leaf, None)
        count += len(made.stack) * int(elements[kept])
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
    """What each view is a view of. In tiles nothing stays a view; what a kernel may also write counts as written."""
    roots: dict[int, int] = {}
    for _, loop, step in program.steps():
        if step.primitive.traits & {"view", "into"} == {"view"} and loop.rows == 0:
            roots.update((slot, roots.get(step.ins[0], step.ins[0])) for slot in step.outs)
    return roots


def _turned(program: Program, roots: dict[int, int]) -> set[int]:
    """The views whose elements lie in another order than theirs."""
    steps = (step for _, _, step in program.steps() if step.primitive.name in ("flip", "permute"))
    return {slot for step in steps for slot in step.outs if slot in roots}


def _holder(program: Program, roots: dict[int, int], slot: int) -> int:
    """The slot whose memory an escaping slot keeps: a view of little of an array is copied."""
    root = roots.get(slot, slot)
    small = 2 * program.slots[slot].sharding.largest < program.slots[root].sharding.largest
    return slot if small else root


class _StageMemory:
    """One program on one worker."""

    def __init__(self, known: Analysis[Registers], workers: int, worker: int):
        self.known = known
        self.program = known.program
        self.roots = _roots(known.program)
        self.turned = _turned(known.program, self.roots)
        self.workers = workers
        self.worker = worker

    def footprint(self, holders: Sequence[Slot | None]) -> Footprint:
        program = self.program
        received = sum(program.slots[i].aval.nbytes for i in program.feeds)
        received += sum(self.recv(a) for a in program.recvs)
        most, there = received, received
        for fragment, loops, escaping in self.known.fragments:
            made, worst = self.fragment(fragment, loops, escaping)
            most = max(most, there + worst)
            there += made
        copied, aside = 0, []
        for send in program.sends:
            every, own, whole = self.send(send)
            copied += every
            if send.channel == "each":
                aside.append(own + whole)
        pieces = [r.position for r in program.recvs if r.channel == "each" and r.slot in self.known.in_pieces]
        kept = tuple(self.stored(slot) if slot is not None else 0 for slot in holders)
        most = max(most, there + copied) + self.known.scratch
        return Footprint(received, most, tuple(aside), tuple(pieces), kept)

    def stored(self, slot: Slot) -> int:
        return stored_bytes(slot, self.workers, self.worker)

    def largest(self, number: int) -> int:
        """Bytes of the largest piece of slot `number`."""
        slot = self.program.slots[number]
        elements = sizes(slot.sharding)
        if number not in self.known.partial:  # any shard may give a part of any sum
            mine = held(slot.sharding.count, self.workers, self.worker)
            elements = elements[mine.start : mine.stop]
        return slot.dtype.itemsize * int(elements.max(initial=0))

    def recv(self, recv: Recv) -> int:
        """What comes from others, and what is made of it."""
        slot, what = self.program.slots[recv.slot], recv.what
        dim = self.known.in_pieces.get(recv.slot)
        in_tiles = dim is not None and self.known.along.get(recv.slot) == dim
        return what.recv_bytes(slot, self.workers, self.worker, recv.channel, in_tiles)

    def fragment(self, fragment: Fragment, loops: Sequence[Registers], escaping: set[int]) -> tuple[int, int]:
        """What a fragment leaves for the rest of the stage, and what it takes at the worst moment."""
        slots, partial = self.program.slots, self.known.partial
        mine = held(fragment.count, self.workers, self.worker)
        if not mine:
            return 0, 0
        size: dict[int, int] = {}  # bytes of the largest shard of what has memory of its own
        now = worst = 0
        for loop in loops:
            inside = sum(self.joined(loop, read) for read in loop.reads if read.slot in self.known.in_pieces)
            staying = {self.roots.get(slot, slot) for slot in loop.escaping}  # views keep what they see
            for n, step in enumerate(loop.steps):
                for slot in step.outs:
                    if slot in self.roots:
                        continue
                    size[slot] = self.largest(slot)
                    if n in loop.over:  # the memory of an operand, which is counted
                        inside -= size.get(step.ins[loop.over[n]], 0)
                    if slot in staying:
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
            every = range(slots[slot].sharding.count)
            trees += what.part_bytes(slots[slot], self.workers, self.worker, every)
            waiting = _waiting(what, slots[slot].sharding, mine.start, mine.stop)
            there = there + waiting * slots[slot].dtype.itemsize
        return made + trees, int(there.max()) + worst

    def joined(self, loop: Registers, read: Read) -> int:
        """Bytes of tiles that lie across the borders of the pieces of a shard: one is read while another is made."""
        slot = self.program.slots[read.slot]
        if not loop.tiled or read.dim is None or read.window is None:
            return 0
        lengths = [cut.longest for cut in slot.sharding.cuts]
        tile = 2 * (loop.rows + loop.windows[read.window].overlap)
        lengths[read.dim] = min(lengths[read.dim], tile)
        return slot.dtype.itemsize * math.prod(lengths)

    def send(self, send: Send) -> tuple[int, int, int]:
        """Bytes that are copied to be sent, those of them that go to the worker itself, and what else it keeps."""
        kept = send.slot in (*self.program.keep, *self.program.inputs)
        slot = self.program.slots[send.slot]
        copied, own, whole = send.what.send_bytes(slot, self.workers, self.worker, send.channel, kept)
        if send.slot in self.turned:  # no part of it lies in one run, so what goes to others is copied
            copied = max(copied, -(-send.what.moved(slot, self.workers, send.channel) // self.workers))
        return copied, own, whole
