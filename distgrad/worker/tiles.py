"""The tiles of a shard: which part of each array each of them has, and its calls, bound to registers.

A tile is some dozen calls of some microseconds, so what they need is bound to them beforehand, once for all shards of
the same form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from distgrad import checks
from distgrad.caching import Cache
from distgrad.compiler.nest import Nest, scratch_bytes
from distgrad.compiler.stencil import Stencil
from distgrad.primitives import Place
from distgrad.primitives.base import Pick, Rows
from distgrad.program import Loop, Program, Step
from distgrad.sharding import Bounds, Region
from distgrad.worker.binding import (
    Call,
    adding,
    bound,
    carrying,
    getter,
    making,
    putting,
    shifting,
    summing,
    told,
    viewed,
    writing,
)
from distgrad.worker.compiled import LONGEST, CompiledCall, StencilCall, boxed
from distgrad.worker.making import Unit
from distgrad.worker.placing import tile_place
from distgrad.worker.pool import Pool
from distgrad.worker.registers import Registers, Turn, tile_dim, turn_of

KEPT = 1 << 20  # bytes of what a loop knows of forms of shards

Index = tuple[slice, ...]
Bound = list[tuple[Step, Call]]
Ready = tuple[Bound, dict[int, np.ndarray]]  # calls, and the temporaries that registers point to
Placed = tuple[tuple[Bounds, ...], dict[int, Place]]  # where steps lie to each other, and each by itself
Extents = dict[Any, tuple[int, ...]]  # the shape of each result, and of operand k of step n
# What is read or written tile by tile: the register, the array, the index of the dimensions before, the window.
Stream = tuple[int, Any, Index, int]


class StepFailed(Exception):
    """A kernel failed on its data, or there was no memory for its result: the step, and what it raised."""

    def __init__(self, step: Step, error: Exception):
        super().__init__(step, error)
        self.step = step
        self.error = error


class Form(NamedTuple):
    """What the tiles of a shard follow from: those of the next shard of the same form are the same."""

    lengths: tuple[Any, ...]
    end: int  # where its tiles end, counted from where they begin
    pieces: tuple[Bounds, ...]  # its part of each window, counted from there
    skip: frozenset[int]  # slots that are not made
    streams: tuple[int, ...]  # the registers that are read or written tile by tile


class Tile(NamedTuple):
    """What is to be done for one tile."""

    parts: list[Index]  # of the array of each stream
    spans: list[Bounds]  # the part of each window, counted from where the tiles begin
    calls: Bound
    targets: dict[int, np.ndarray]  # the temporaries that registers point to


class Tiles(Registers):
    """The tiles of one loop, and their calls, for each form of shard that it has seen."""

    def __init__(self, loop: Loop, program: Program, count: int, escaping: set[int], pool: Pool):
        super().__init__(loop, program, count, escaping)
        self.pool = pool
        self._where: dict[int, Place] = {}  # of steps with one shard: where they read and write
        # For kernels that want to know where a tile lies: by step, the register that tells it.
        placed = [n for n, s in enumerate(self.steps) if "placed" in s.primitive.traits and s.layout.labels]
        self.told = {n: self.registers + k for k, n in enumerate(placed)}
        self.regs: list[Any] = [None] * (self.registers + len(placed))
        # Scalars that a loop on tiles reads lie always at the same place, so that calls can be bound to them.
        self.scalars = {
            r.register: np.empty((), self.slots[r.slot].dtype)
            for r in self.reads
            if self.tiled and not self.slots[r.slot].aval.shape
        }
        # By the lengths of a shard; by its form; by lengths, parts of the windows, the turn, and steps left out.
        self._extents: Cache[Any, Extents] = Cache(KEPT, lambda _, made: 200 + 100 * len(made))
        self._tiles: Cache[Form, list[Tile]] = Cache(KEPT, _weight)
        self._ready: Cache[Any, Ready] = Cache(KEPT, lambda _, ready: 1000 + 700 * len(ready[0]))
        self._placed: Cache[int, Placed] = Cache(KEPT, lambda _, made: 200 + 600 * len(made[1]))  # by shard
        self._memory: dict[int, np.ndarray] = {}  # by register: the memory of a partial sum

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, about: of its steps, and of what is ready for shards that it has seen."""
        ready = self._extents.nbytes + self._tiles.nbytes + self._ready.nbytes + self._placed.nbytes
        return 2000 + 2500 * len(self.steps) + ready

    def tiles(
        self, form: Form, first: int, streams: list[Stream], extents: Extents, places: dict[int, Place]
    ) -> list[Tile]:
        """The tiles of a shard, which begin at `first`. `places` tells where steps read and write: those of
        regroupings, or of all steps if there are regroupings."""
        found = self._tiles.get(form) or self._tiles.again(form)
        return found or self._tiles.keep(form, self._plan(form, first, streams, extents, places))

    def _plan(
        self, form: Form, first: int, streams: list[Stream], extents: Extents, places: dict[int, Place]
    ) -> list[Tile]:
        tiles = []
        end = first + form.end
        pieces = [(first + lo, first + hi) for lo, hi in form.pieces]
        starts = range(first, max(end, first + 1), self.rows)
        for number, start in enumerate(starts):
            stop = max(start, min(start + self.rows, end))
            parts = [window.part(start, stop) for window in self.windows]
            spans = [  # where a piece is empty, a tile of it is too
                (min(max(lo, a), b), min(max(hi, a), b))
                for (lo, hi), (a, b) in zip(parts, pieces, strict=True)
            ]
            inside = [slice(lo - a, hi - a) for (lo, hi), (a, _) in zip(spans, pieces, strict=True)]
            turn = turn_of(number, len(starts))
            key = form.lengths, tuple([(lo - start, hi - start) for lo, hi in spans]), turn, form.skip
            ready = self._ready.get(key) or self._ready.again(key)
            if ready is None:
                ready = self._ready.keep(key, self._calls(turn, spans, extents, form.skip, places))
            tiles.append(
                Tile(
                    [(*before, inside[w]) for _, _, before, w in streams],
                    [(lo - first, hi - first) for lo, hi in spans],
                    *ready,
                )
            )
        return tiles

    def _calls(
        self,
        turn: Turn,
        spans: list[Bounds],
        extents: Extents,
        skip: frozenset[int],
        places: dict[int, Place],
    ) -> Ready:
        """The calls for tiles with these parts of the windows, and the temporaries that registers point to."""
        targets = dict(self.scalars)
        for register in self.part_buffers:
            targets[register] = self._part(register, extents)
        calls: Bound = []
        for unit in self.units if not skip else self.units_without(skip):
            if unit.nest is not None and self._compiled(unit, turn, spans, extents, places, calls, targets):
                continue
            for n in unit.steps:
                self._plain(n, turn, spans, extents, places, calls, targets, unit.nest is not None)
        return calls, targets

    def _plain(
        self,
        n: int,
        turn: Turn,
        spans: list[Bounds],
        extents: Extents,
        places: dict[int, Place],
        calls: Bound,
        targets: dict[int, np.ndarray],
        alone: bool,
    ) -> None:
        """Add the calls of step `n`, by NumPy. `alone`: it was to be compiled with others, and has no buffer."""
        step = self.steps[n]
        try:
            into = "into" in step.primitive.traits
            target = self._target(step.outs[0], extents, spans) if into else None
            if alone and into and target is None and step.outs[0] not in (*self.escaping, *self.total):
                target = np.empty(self._shape(step.outs[0], extents, spans), self.slots[step.outs[0]].dtype)
            if step.layout.labels is None:
                at = tile_place(places[n], self.narrowed[n], spans)
                made = self._regrouping(n, at, target, targets)
            else:
                made = self._call(n, turn, target, targets)
        except Exception as error:  # a regrouping is tried on its operand's memory
            raise StepFailed(step, error) from None
        calls += [] if made is None else [(step, made)]
        calls += [(step, call) for call in self._carries(step.outs[0], turn)]

    def _compiled(
        self,
        unit: Unit,
        turn: Turn,
        spans: list[Bounds],
        extents: Extents,
        places: dict[int, Place],
        calls: Bound,
        targets: dict[int, np.ndarray],
    ) -> bool:
        """Add the call of a compiled unit, and those that put its sums to others. False: it is empty or too long."""
        step = self.steps[unit.steps[-1]]
        regions: list[Region] = []
        if isinstance(unit.nest, Stencil):
            regions = self._regions(unit, spans, places)
            shape = tuple([hi - lo for lo, hi in boxed(unit, regions)])
            if max(shape) >= LONGEST:
                return False
        else:
            shape = self._frame(unit, extents, spans)
        if 0 in shape or self._is_empty(unit, extents):
            return False
        outputs = [self.part_of_tile.get(slot, self.of_slot[slot]) for slot in unit.outputs]
        for slot, register in zip(unit.outputs, outputs, strict=True):
            target = self._target(slot, extents, spans)
            if target is not None:
                targets[register] = target
        sources = [*[register for register, _ in unit.inputs], *outputs]
        where, shares = [targets.get(r, r) for r in sources], self._shares(unit)
        made: list[Call] = [
            StencilCall(unit, self.regs, where, regions, shares)
            if regions
            else CompiledCall(unit, self.regs, where, shape, shares, self._scratch(unit, shape))
        ]
        calls += [(self.steps[n], self._checking(n)) for n in unit.steps if n in self.checked]
        for slot in unit.outputs:
            if slot in self.total:
                part, levels = targets[self.part_of_tile[slot]], self.levels[slot]
                first = turn.first if len(levels) == 1 else turn.begins[0]
                made.append(putting(part, self.regs, levels[0], self.total[slot], first))
                made += self._carries(slot, turn)
        calls += [(step, call) for call in made]
        return True

    def _checking(self, n: int) -> Call:
        """Checks the numbers of the rows that step `n` takes, or of their elements."""
        step = self.steps[n]
        lower = step.primitive.lower
        assert isinstance(lower, (Rows, Pick))
        check, index = partial(lower.check, **step.attrs), self.operands[n][lower.index]
        return making(check, self.regs, getter((index,)), [self.checked[n]], [False])

    def _regions(self, unit: Unit, spans: list[Bounds], places: dict[int, Place]) -> list[Region]:
        """Where the places of a stencil lie in a tile."""
        found = []
        for spot in unit.spots:
            at = tile_place(places[spot.step], self.narrowed[spot.step], spans)
            found.append(at.outs[0] if spot.which < 0 else at.ins[spot.which])
        return found

    def _is_empty(self, unit: Unit, extents: Extents) -> bool:
        """Whether something that a unit reads or makes has no elements on a shard."""
        steps = [(n, self.steps[n]) for n in unit.steps]
        made = [slot for _, step in steps for slot in step.outs]
        read = [(n, k) for n, step in steps for k in range(len(step.ins))]
        return any(0 in extents[key] for key in (*made, *read))

    def _scratch(self, unit: Unit, shape: tuple[int, ...]) -> np.ndarray:
        """Memory for what a compiled unit keeps while it runs; without some of its steps that may be more."""
        assert isinstance(unit.nest, Nest)
        number = self.scratch_buffer
        own = scratch_bytes(unit.nest, math.prod(shape[unit.rows :]))
        nbytes = max(own, self.buffer_bytes[number])
        return self.pool.scratch(number, nbytes, (nbytes,), np.dtype(np.uint8))

    def _shares(self, unit: Unit) -> list[tuple[Step, float]]:
        """The steps of a unit, each with its part of all operations."""
        steps = [self.steps[n] for n in unit.steps]
        work = []
        for step in steps:
            ins, outs = ([self.slots[i].aval for i in slots] for slots in (step.ins, step.outs))
            work.append(step.primitive.operations(ins, outs, step.attrs) + 1)
        return [(step, one / sum(work)) for step, one in zip(steps, work, strict=True)]

    def _frame(self, unit: Unit, extents: Extents, spans: list[Bounds]) -> tuple[int, ...]:
        """The shape of a tile in the frame of a unit: that of an operand or result that has all of it, or all rows."""
        n, k = unit.witness
        step, (ins, outs) = self.steps[n], self.window_of[n]
        labels = step.labels
        assert labels is not None
        names, window = (labels.outs[0], outs[0]) if k < 0 else (labels.ins[k], ins[k])
        shape = list(extents[step.outs[0] if k < 0 else (n, k)])
        dim = tile_dim(names, step.tile)
        if dim is not None and window is not None:
            lo, hi = spans[window]
            shape[dim] = hi - lo
        return tuple(shape) if unit.whole else (*shape[: unit.rows], 1)

    def _regrouping(
        self, n: int, at: Place, target: np.ndarray | None, targets: dict[int, np.ndarray]
    ) -> Call | None:
        """The regrouping `n`, bound to its registers; None if a view, added to `targets`, is all that it takes."""
        step, operands, (out,) = self.steps[n], self.operands[n], self.steps[n].outs
        kernel = partial(step.primitive.kernel, **step.attrs, at=at)
        if out in self.escaping:
            return making(kernel, self.regs, getter(operands), [self.of_slot[out]], [True])
        view = viewed(kernel, targets.get(operands[0]))
        if view is not None:
            targets[self.of_slot[out]] = view
            return None
        return shifting(kernel, self.regs, operands[0], self.of_slot[out], target)

    def _call(self, n: int, turn: Turn, target: np.ndarray | None, targets: dict[int, np.ndarray]) -> Call:
        """Step `n`, bound to its registers. Adds the temporary that it makes to `targets`."""
        step, regs, operands = self.steps[n], self.regs, self.operands[n]
        kernel: Callable[..., Any] = (
            partial(step.primitive.kernel, **step.attrs) if step.attrs else step.primitive.kernel
        )
        registers = [self.of_slot[slot] for slot in step.outs]
        traits = step.primitive.traits
        if "placed" in traits:
            kernel = told(kernel, regs, self.told[n])
        if step.outs[0] in self.total:
            merge, levels = self.total[step.outs[0]], self.levels[step.outs[0]]
            first = turn.first if len(levels) == 1 else turn.begins[0]
            if "onto" in traits and not first:
                return adding(kernel, regs, getter(operands), levels[0])
            return summing(kernel, regs, operands, levels[0], merge, "into" in traits, first, target)
        if "into" not in traits:
            if checks.ENABLED:
                kernel = self._checked(n, kernel)
            copied = [slot in self.escaping for slot in step.outs]
            return making(kernel, regs, getter(operands), registers, copied)
        (register,) = registers
        if target is not None:
            targets[register] = target
        if target is not None and all(r in targets for r in operands):
            return bound(kernel, [targets[r] for r in operands], target)
        return writing(kernel, regs, operands, register)

    def _checked(self, n: int, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """The kernel of a step in tiles, whose results have the declared dtypes; their shapes are the tile's."""
        step = self.steps[n]
        dtypes = [self.slots[slot].dtype for slot in step.outs]

        def checked(*arrays: Any) -> tuple[np.ndarray, ...]:
            results = kernel(*arrays)
            made = [np.asarray(r) for r in (results if isinstance(results, tuple) else (results,))]
            checks.check_results(step.primitive.name, made, [r.shape for r in made], dtypes)
            return tuple(made)

        return checked

    def _carries(self, slot: int, turn: Turn) -> list[Call]:
        """What brings the partial sums of a slot that are full, or the last, to those above them."""
        levels = self.levels.get(slot, [])
        return [
            carrying(self.regs, part, above, self.total[slot], turn.begins[n])
            for n, (part, above) in enumerate(pairwise(levels), 1)
            if turn.full[n - 1]
        ]

    def _part(self, register: int, extents: Extents) -> np.ndarray:
        """The array of a partial sum: for all tiles at the same place."""
        number, slot = self.part_buffers[register]
        if register not in self._memory:
            nbytes = self.buffer_bytes[number]
            self._memory[register] = self.pool.scratch(number, nbytes, (nbytes,), np.dtype(np.uint8))
        shape, dtype = extents[slot], self.slots[slot].dtype
        return self._memory[register][: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def _target(self, slot: int, extents: Extents, spans: list[Bounds]) -> np.ndarray | None:
        """The temporary of a slot."""
        if slot not in self.buffer_of:
            return None
        number, shape = self.buffer_of[slot], self._shape(slot, extents, spans)
        return self.pool.scratch(number, self.buffer_bytes[number], shape, self.slots[slot].dtype)

    def _shape(self, slot: int, extents: Extents, spans: list[Bounds]) -> tuple[int, ...]:
        """The shape of what is made in a tile."""
        shape = list(extents[slot])
        dim, window = self.out_dim[slot], self.window_of_slot[slot]
        if dim is not None and window is not None:
            lo, hi = spans[window]
            shape[dim] = hi - lo
        return tuple(shape)


def _weight(form: Form, tiles: list[Tile]) -> int:
    """Bytes, about."""
    return 1000 + len(tiles) * (400 + 200 * len(form.streams))
