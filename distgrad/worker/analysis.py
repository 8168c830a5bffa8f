"""What follows from a program alone: for the worker that runs it, and for the driver that tells its memory before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import zip_longest
from typing import Generic, TypeVar

from distgrad.exchange import Reduce, reduce_of
from distgrad.program import Fragment, Loop, Program, Step
from distgrad.worker.registers import Registers

L = TypeVar("L", bound=Registers)


class Analysis(Generic[L]):
    """One program, looked through. `loop` makes what is known of each of its loops, or runs it."""

    def __init__(self, program: Program, loop: Callable[[Loop, Program, int, set[int]], L]):
        self.program = program
        self.numbers: dict[int, int] = {}  # id of a step: its number in the program
        self.fragments: list[tuple[Fragment, list[L], set[int]]] = []  # with the slots that escape each
        self.final: list[set[int]] = []  # the inputs that one step of each reads, and nothing after that
        self.partial: dict[int, Reduce] = {}  # slots that hold partial results
        self.along = _along(program)
        self.in_pieces = _in_pieces(program, self.along)
        self.maker: dict[int, Step] = {}
        for step in (step for f in program.fragments for loop in f.loops for step in loop.steps):
            self.numbers[id(step)] = len(self.numbers)
            self.maker.update(dict.fromkeys(step.outs, step))
            if step.layout.merged:
                self.partial.update((slot, reduce_of(step.layout)) for slot in step.outs)
        later = {d.slot for d in program.sends} | set(program.keep)  # than what is at hand
        for fragment in reversed(program.fragments):
            made = {s for one in fragment.loops for step in one.steps for s in step.outs}
            escaping = later & made
            reads = Counter(i for one in fragment.loops for step in one.steps for i in step.ins)
            self.final.append({i for i in program.inputs if reads[i] == 1 and i not in later})
            loops = []
            for one in reversed(fragment.loops):
                here = {s for step in one.steps for s in step.outs}
                loops.append(loop(one, program, fragment.count, later & here))
                later.update(i for step in one.steps for i in step.ins)
            self.fragments.append((fragment, loops[::-1], escaping))
        self.fragments.reverse()
        self.final.reverse()

    @property
    def scratch(self) -> int:
        """Bytes of the buffers for tiles."""
        loops = [one.buffer_bytes for _, loops, _ in self.fragments for one in loops]
        return sum(max(sizes) for sizes in zip_longest(*loops, fillvalue=0))


def _along(program: Program) -> dict[int, int]:
    """The slots that are only read in tiles along one dimension, and which that is."""
    dims: dict[int, set[int | None]] = {}
    for loop in (loop for fragment in program.fragments for loop in fragment.loops):
        for step in loop.steps:
            labels = step.labels
            names = labels.ins if labels is not None and loop.rows else ((),) * len(step.ins)
            for slot, n in zip(step.ins, names, strict=True):
                dim = n.index(step.tile) if step.tile is not None and step.tile in n else None
                dims.setdefault(slot, set()).add(dim)
    one = {slot: next(iter(found)) for slot, found in dims.items() if len(found) == 1}
    return {slot: dim for slot, dim in one.items() if dim is not None}


def _in_pieces(program: Program, along: dict[int, int]) -> dict[int, int]:
    """The slots of moved shards that are not put together, with the dimension along which their pieces lie."""
    leaving = {d.slot for d in program.sends}
    arriving = [(a.slot, a.what) for a in program.recvs if a.slot not in leaving]
    found = {slot: what.joined_along(slot in program.keep, along.get(slot)) for slot, what in arriving}
    return {slot: dim for slot, dim in found.items() if dim is not None}
