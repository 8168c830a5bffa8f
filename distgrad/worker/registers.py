"""What a loop's steps read and write, settled once for each program.

Each array that a step reads or writes is a register: read from a whole array or tile by tile, a temporary that stays in
the cache, a piece of a stored shard that is written in place, or a sum over the tiles.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distgrad.compiler import switch
from distgrad.compiler.nest import Nest, scratch_bytes
from distgrad.primitives import MERGES
from distgrad.primitives.base import Pick, Rows
from distgrad.program import Loop, Program, Step
from distgrad.sharding import Cut, Sharding
from distgrad.worker.grouping import units
from distgrad.worker.making import Unit


class Read(NamedTuple):
    """An operand that comes from outside the loop and fills `register`.

    It is read tile by tile along `dim`, in the parts that window number `window` has of it (None: all at once). Of a
    whole value only the shard's region is read: where the bounds of the dimensions in `region` lie is told by the
    number of a grid and a place in it.
    """

    register: int
    slot: int
    dim: int | None
    window: int | None
    region: tuple[tuple[int, int, int], ...]


Names = tuple[int | None, ...]
RADIX, LEVELS = 16, 8  # parts of a sum that are added one after the other
ONTO = 256 << 10  # bytes of a sum up to which its parts are kept apart, though a kernel can lay them on one
Narrow = (
    tuple[int, int] | None
)  # of what a tile has only a part: the dimension, and the window that tells the part


def tile_dim(names: Names, tile: int | None) -> int | None:
    """The dimension that has the tile's label."""
    return names.index(tile) if tile is not None and tile in names else None


class Turn(NamedTuple):
    """The place of a tile in sums over the tiles: a sum of each level has `RADIX` times as many tiles as one below."""

    first: bool  # of all tiles
    begins: tuple[bool, ...]  # for each level: whether the tile is in the first part of a sum
    full: tuple[bool, ...]  # for each level: whether it is the last tile of a sum


def turn_of(number: int, count: int) -> Turn:
    """The place of tile `number` of `count`."""
    return Turn(
        number == 0,
        tuple([number // RADIX**n % RADIX == 0 for n in range(LEVELS)]),
        tuple([number + 1 == count or (number + 1) % RADIX ** (n + 1) == 0 for n in range(LEVELS)]),
    )


class Registers:
    """The registers, windows and buffers of one loop. `escaping` are the slots whose shards are needed after it."""

    def __init__(self, loop: Loop, program: Program, count: int, escaping: set[int]):
        self.rows = loop.rows
        self.steps = loop.steps
        self.slots = program.slots
        self.count = count
        self.tiled = loop.rows > 0 and any(step.tile is not None for step in loop.steps)
        self.maker = {slot: step for step in loop.steps for slot in step.outs}
        self.made = set(self.maker)
        self.escaping = [s for s in self.made if s in escaping]
        self.shapes = [
            ([self.slots[i].aval.shape for i in step.ins], [self.slots[i].aval.shape for i in step.outs])
            for step in loop.steps
        ]
        self.out_dim: dict[int, int | None] = {}  # tile dimension of each slot made here
        self.total: dict[int, Callable[..., Any]] = {}  # slots that are summed over the tiles: how
        for step in loop.steps:
            labels = step.labels
            for k, slot in enumerate(step.outs):
                dim = tile_dim(labels.outs[k], step.tile) if self.tiled and labels else None
                self.out_dim[slot] = dim
                if self.tiled and dim is None and labels and labels.merge:
                    self.total[slot] = MERGES[labels.merge]
        self._find_grids()
        self.window_of_slot = {
            slot: w
            for step, (_, outs) in zip(self.steps, self.window_of, strict=True)
            for slot, w in zip(step.outs, outs, strict=True)
        }
        self.over = {} if self.tiled else self._written_over()
        self.narrowed = [self._narrowed(n) for n in range(len(self.steps))]
        longest = max((window.longest for window in self.windows), default=0)
        self.most_tiles = -(-longest // self.rows) + 1 if self.tiled else 0
        self._number_registers()
        self.units = self.units_without(frozenset())
        self._assign_buffers()

    def _find_grids(self) -> None:
        """The distinct cuts of the steps' grids, and the windows: how slots are cut along the tile label.

        All windows have one pace, and tiles are counted as of a cut with that pace in which nothing is shifted.
        """
        cuts = [tuple(cut for _, cut in step.layout.grid) for step in self.steps]
        self.grids = list(dict.fromkeys(cuts))
        self.grid_of = [self.grids.index(c) for c in cuts]
        self.shifts = [n for n, step in enumerate(self.steps) if step.layout.labels is None]
        self.windows: list[Cut] = []
        self.window_of: list[
            tuple[list[int | None], list[int | None]]
        ] = []  # of each step's operands and results
        for step in self.steps:
            labels, layout = step.labels, step.layout
            if self.tiled and labels is not None:
                ins = [self._window(step, n, s) for n, s in zip(labels.ins, layout.needs, strict=True)]
                outs = [self._window(step, n, s) for n, s in zip(labels.outs, layout.outs, strict=True)]
                self.window_of.append((ins, outs))
            else:
                self.window_of.append(([None] * len(step.ins), [None] * len(step.outs)))

    def _window(self, step: Step, names: Names, sharding: Sharding) -> int | None:
        """The number of the window of an operand or result; None if it is the same for all tiles."""
        cut = step.window(names, sharding)
        if cut is None:
            return None
        if cut not in self.windows:
            self.windows.append(cut)
        return self.windows.index(cut)

    def _narrowed(self, number: int) -> tuple[list[Narrow], list[Narrow]]:
        """What a tile has only a part of, for each operand and result of a step."""
        step, (ins, outs) = self.steps[number], self.window_of[number]

        def narrow(names: Names, window: int | None) -> Narrow:
            dim = tile_dim(names, step.tile)
            return None if dim is None or window is None else (dim, window)

        if step.labels is None:
            return [None] * len(ins), [None] * len(outs)
        return list(map(narrow, step.labels.ins, ins)), list(map(narrow, step.labels.outs, outs))

    def _number_registers(self) -> None:
        """Number the registers and list the reads that fill them."""
        self.registers = 0
        self.of_slot: dict[int, int] = {}
        self.reads: list[Read] = []
        known: dict[Any, int] = {}
        self.operands: list[tuple[int, ...]] = []
        for number, step in enumerate(self.steps):
            registers = []
            for which, slot in enumerate(step.ins):
                if slot in self.made:
                    registers.append(self.of_slot[slot])
                    continue
                names = step.labels.ins[which] if step.labels else ()
                window = self.window_of[number][0][which]
                dim = tile_dim(names, step.tile) if self.tiled else None
                region: tuple[tuple[int, int, int], ...] = ()
                if self.slots[slot].sharding.count == 1 and self.count > 1:
                    labels = [label for label, _ in step.layout.grid]
                    grid = self.grid_of[number]
                    region = tuple((d, grid, labels.index(n)) for d, n in enumerate(names) if n in labels)
                key = (slot, dim, window, region)
                if key not in known:
                    known[key] = self._new_register()
                    self.reads.append(Read(known[key], slot, dim, window, region))
                registers.append(known[key])
            self.operands.append(tuple(registers))
            for slot in step.outs:
                self.of_slot[slot] = self._new_register()
        # The numbers of rows, or of columns, that compiled steps are told: they are checked before.
        told = [n for n, step in enumerate(self.steps) if isinstance(step.primitive.lower, (Rows, Pick))]
        self.checked = {n: self._new_register() for n in told}
        self.part_of_tile = {
            slot: self._new_register() for slot in self.total
        }  # what compiled units make of sums
        # Of each floating sum over the tiles: the registers of its partial sums, from the lowest, and its own.
        self.levels = {
            slot: [*(self._new_register() for _ in range(self._parts(slot))), self.of_slot[slot]]
            for slot in self.total
        }

    def _parts(self, slot: int) -> int:
        """How many partial sums stand below a sum over the tiles, so that it is nearly as exact as a pairwise one.

        `RADIX` tiles are added one after the other, then `RADIX` of their sums, and so on. Where order changes no bit,
        or to keep them apart would cost too much, there is none.
        """
        onto = any("onto" in step.primitive.traits and slot in step.outs for step in self.steps)
        dtype = self.slots[slot].dtype
        if self.total[slot] is not np.add or dtype.kind != "f" or (onto and self._largest(slot) > ONTO):
            return 0
        return sum(RADIX**n < self.most_tiles for n in range(1, LEVELS))

    def _largest(self, slot: int) -> int:
        """Bytes of the largest shard of a slot."""
        cuts = self.slots[slot].sharding.cuts
        return math.prod(cut.longest for cut in cuts) * self.slots[slot].dtype.itemsize

    def _new_register(self) -> int:
        self.registers += 1
        return self.registers - 1

    def units_without(self, skip: frozenset[int]) -> list[Unit]:
        """What runs as one call, in order, without the steps that make a slot in `skip`."""
        left = [n for n, step in enumerate(self.steps) if skip.isdisjoint(step.outs)]
        if not self.tiled or not switch.on():
            return [Unit((n,)) for n in left]
        windows = []
        for ins, outs in self.window_of:
            found = {w for w in (*ins, *outs) if w is not None}
            windows.append(found.pop() if len(found) == 1 else None)
        needed = {*self.escaping, *self.total}
        return units(self.steps, self.slots, self.operands, windows, left, needed, self.checked)

    def _reads(self, unit: Unit) -> list[int]:
        """The slots that a unit reads while it runs."""
        return [slot for n in unit.steps for slot in self.steps[n].ins]

    def _buffered(self, unit: Unit) -> list[int]:
        """The results of a unit that need memory of the loop's own."""
        if unit.nest is not None:
            return [slot for slot in unit.outputs if slot in self.total or slot not in self.escaping]
        (step,) = (self.steps[n] for n in unit.steps)
        traits = step.primitive.traits
        if "into" not in traits:
            return []
        return [
            slot
            for slot in step.outs
            if not ("onto" in traits if slot in self.total else slot in self.escaping)
        ]

    def _assign_buffers(self) -> None:
        """Give every temporary of a tiled loop a buffer; one whose last reader has run is used again."""
        last: dict[int, int] = {}  # of each slot, the last unit that reads it, or a view of it
        for n, unit in reversed(list(enumerate(self.units))):
            steps = [self.steps[k] for k in unit.steps]
            views = [slot for s in steps if "view" in s.primitive.traits for slot in s.outs]
            until = max([n, *(last.get(slot, n) for slot in views)])
            last.update((slot, max(until, last.get(slot, n))) for slot in self._reads(unit))
        self.buffer_of: dict[int, int] = {}
        self.buffer_bytes: list[int] = []
        if not self.tiled:
            return
        self.part_buffers: dict[int, tuple[int, int]] = {}  # by register: a buffer's number, and the slot
        for slot, registers in self.levels.items():
            for register in registers[:-1]:
                self.part_buffers[register] = len(self.buffer_bytes), slot
                self.buffer_bytes.append(self._largest(slot))
        if any(unit.nest is not None for unit in self.units):
            self.scratch_buffer = len(self.buffer_bytes)  # shared: what is in it is of one call
            self.buffer_bytes.append(self._most_scratch())
        ending: list[set[int]] = [set() for _ in self.units]  # the buffers that nobody reads after each unit
        idle: list[int] = []
        for n, unit in enumerate(self.units):
            for slot in self._buffered(unit):
                self.buffer_of[slot] = self._buffer(n, unit, slot, last, idle)
                ending[last.get(slot, n)].add(self.buffer_of[slot])
            # What this unit has written for others to read stays taken, also where it lies over an operand.
            made = [slot for k in unit.steps for slot in self.steps[k].outs]
            written = [self.buffer_of[slot] for slot in made if slot in self.buffer_of and slot in last]
            idle += [b for b in sorted(ending[n]) if b not in written]

    def _most_scratch(self) -> int:
        """Bytes that a compiled unit keeps while it runs, at most."""
        most = 0
        for unit in self.units:
            if isinstance(unit.nest, Nest) and unit.whole:
                n, k = unit.witness
                step = self.steps[n]
                cuts = self.slots[step.outs[0] if k < 0 else step.ins[k]].sharding.cuts[unit.rows :]
                most = max(most, scratch_bytes(unit.nest, math.prod(cut.longest for cut in cuts)))
        return most

    def _buffer(self, n: int, unit: Unit, slot: int, last: dict[int, int], idle: list[int]) -> int:
        """A buffer for what unit `n` makes: over an operand, an idle one, or a new one."""
        step = self.maker[slot]
        if unit.nest is None:
            over = next((i for i in step.ins if last[i] == n and self._in_place(step, i, slot)), None)
            if over is not None:
                return self.buffer_of[over]
        dim, window = self.out_dim[slot], self.window_of_slot[slot]
        lengths = [cut.longest for cut in self.slots[slot].sharding.cuts]
        if dim is not None and window is not None:
            lengths[dim] = min(lengths[dim], self.rows + self.windows[window].overlap)
        nbytes = math.prod(lengths) * self.slots[slot].dtype.itemsize
        fitting = [b for b in idle if self.buffer_bytes[b] >= nbytes]
        if fitting:
            idle.remove(fitting[-1])  # the one that was used last: the cache still has it
            return fitting[-1]
        self.buffer_bytes.append(nbytes)
        return len(self.buffer_bytes) - 1

    def _written_over(self) -> dict[int, int]:
        """On whole shards: the steps that write over an operand, which only they read, and which operand that is."""
        reads = Counter(slot for step in self.steps for slot in step.ins)
        found = {}
        for n, step in enumerate(self.steps):
            out = self.slots[step.outs[0]]
            traits = step.primitive.traits
            over = step.ins if "over" in traits else step.ins[:1] if "over_first" in traits else ()
            for which, slot in enumerate(over):
                alone = slot in self.made and slot not in self.escaping and reads[slot] == 1
                if alone and self.slots[slot] == out and not step.layout.merged:
                    found[n] = which
                    break
        return found

    def _in_place(self, step: Step, operand: int, out: int) -> bool:
        """Whether a step that is the last to read a temporary can write over it: fewer buffers stay in the cache.

        Only some kernels can; others may still read what they have written over.
        """
        return (
            "over" in step.primitive.traits
            and operand in self.buffer_of
            and operand not in self.total
            and (self.slots[operand].dtype, self.slots[operand].sharding)
            == (self.slots[out].dtype, self.slots[out].sharding)
            and (self.out_dim[operand], self.window_of_slot[operand])
            == (self.out_dim[out], self.window_of_slot[out])
        )
