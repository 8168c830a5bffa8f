"""The inner loop: the steps of one `Loop`, over the tiles of one shard.

A loop is prepared once for each program. Each array that a step reads or writes is a register; what a step needs
to know about it is settled here: read from a whole array or tile by tile, a temporary that stays in the cache, a piece
of a stored shard that is written in place, or a sum over the tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from distgrad.primitives import MERGES, Place
from distgrad.primitives.rules import place
from distgrad.sharding import Bounds, Cut, Region
from distgrad.wire import Loop, Program, Step
from distgrad.worker.pool import Pool

_INTO, _MAKE, _COPY, _ADD = range(4)  # how a step's result gets to where it belongs


class Local(Protocol):
    """The arrays of one shard, by slot."""

    def get(self, slot: int) -> np.ndarray | None:
        """The shard's own piece, or all of a whole value; None if there is none."""


class _Read(NamedTuple):
    """An operand that comes from outside the loop and fills `register`.

    It is read tile by tile along `dim` (None: all at once). Of a whole value only the shard's region is read: where
    the bounds of the dimensions in `region` lie is told by the number of a grid and a place in it.
    """

    register: int
    slot: int
    dim: int | None
    region: tuple[tuple[int, int, int], ...]


class _Task(NamedTuple):
    """A step, ready for tiles of one size: call `fn` on `operands`, and bring the result to `register` in way `how`."""

    number: int
    step: Step
    fn: Callable[..., Any]
    operands: tuple[int, ...]
    register: int
    how: int
    target: np.ndarray | None


def _tile_dim(names: tuple[int | None, ...], tile: int | None) -> int | None:
    return names.index(tile) if tile is not None and tile in names else None


class LoopRunner:
    """One loop, ready to run on any shard. `escaping` are the slots whose shards are needed after the loop."""

    def __init__(self, loop: Loop, program: Program, count: int, escaping: set[int], pool: Pool):
        self.rows = loop.rows
        self.steps = loop.steps
        self.slots = program.slots
        self.count = count
        self.pool = pool
        self.tiled = loop.rows > 0 and any(step.tile is not None for step in loop.steps)
        self.made = {slot for step in loop.steps for slot in step.outs}
        self.escaping = [s for s in self.made if s in escaping]
        self.shapes = [
            ([self.slots[i].aval.shape for i in step.ins], [self.slots[i].aval.shape for i in step.outs])
            for step in loop.steps
        ]
        self.out_dim: dict[int, int | None] = {}  # tile dimension of each slot made here
        self.total: dict[int, Callable[..., Any]] = {}  # slots that are summed over the tiles: how
        for step in loop.steps:
            labels = step.layout.labels
            for k, slot in enumerate(step.outs):
                dim = _tile_dim(labels.outs[k], step.tile) if self.tiled and labels else None
                self.out_dim[slot] = dim
                if self.tiled and dim is None and labels and labels.merge:
                    self.total[slot] = MERGES[labels.merge]
        self._find_grids()
        self._number_registers()
        self._assign_buffers()
        self.buffers: list[np.ndarray] = []  # kept between runs: fresh memory is dear
        self._extents: dict[
            Any, dict[int, tuple[int, ...]]
        ] = {}  # by the lengths of a shard: shape of each result
        self._ready: dict[
            Any, tuple[list[_Task], dict[int, np.ndarray]]
        ] = {}  # tasks by lengths, rows and skips

    # Prepared once

    def _find_grids(self) -> None:
        """The distinct cuts of the steps' grids, and where the bounds of the tile label are found in them."""
        cuts = [tuple(cut for _, cut in step.layout.grid) for step in self.steps]
        self.grids = list(dict.fromkeys(cuts))
        self.grid_of = [self.grids.index(c) for c in cuts]
        self.span: tuple[int, int] | None = None  # None: the tile label is not cut
        self.length = 0
        for number, step in enumerate(self.steps):
            if self.tiled and step.tile is not None and step.layout.labels is not None:
                labels = [label for label, _ in step.layout.grid]
                if step.tile in labels:
                    self.span = (self.grid_of[number], labels.index(step.tile))
                names = (*step.layout.labels.ins, *step.layout.labels.outs)
                shapes = (*self.shapes[number][0], *self.shapes[number][1])
                self.length = next(
                    s[n.index(step.tile)] for n, s in zip(names, shapes, strict=True) if step.tile in n
                )
                return

    def _number_registers(self) -> None:
        """Number the registers and list the reads that fill them."""
        self.registers = 0
        self.of_slot: dict[int, int] = {}
        self.reads: list[_Read] = []
        known: dict[Any, int] = {}
        self.operands: list[tuple[int, ...]] = []
        for number, step in enumerate(self.steps):
            registers = []
            for which, slot in enumerate(step.ins):
                if slot in self.made:
                    registers.append(self.of_slot[slot])
                    continue
                names = step.layout.labels.ins[which] if step.layout.labels else ()
                dim = _tile_dim(names, step.tile) if self.tiled else None
                region: tuple[tuple[int, int, int], ...] = ()
                if self.slots[slot].sharding.count == 1 and self.count > 1:
                    labels = [label for label, _ in step.layout.grid]
                    grid = self.grid_of[number]
                    region = tuple((d, grid, labels.index(n)) for d, n in enumerate(names) if n in labels)
                key = (slot, dim, region)
                if key not in known:
                    known[key] = self._new_register()
                    self.reads.append(_Read(known[key], slot, dim, region))
                registers.append(known[key])
            self.operands.append(tuple(registers))
            for slot in step.outs:
                self.of_slot[slot] = self._new_register()

    def _new_register(self) -> int:
        self.registers += 1
        return self.registers - 1

    def _assign_buffers(self) -> None:
        """Give every temporary of a tiled loop a buffer; one whose last reader has run is used again."""
        last = {slot: n for n, step in enumerate(self.steps) for slot in step.ins if slot in self.made}
        self.buffer_of: dict[int, int] = {}
        self.buffer_bytes: list[int] = []
        if not self.tiled:
            return
        idle: list[int] = []
        aliased = {slot for step in self.steps if step.primitive.view for slot in (*step.ins, *step.outs)}
        for n, step in enumerate(self.steps):
            for slot in step.outs:
                dim = self.out_dim[slot]
                if not step.primitive.into or (slot in self.escaping and slot not in self.total):
                    continue
                lengths = [cut.longest for cut in self.slots[slot].sharding.cuts]
                if dim is not None:
                    lengths[dim] = min(lengths[dim], self.rows)
                nbytes = math.prod(lengths) * self.slots[slot].dtype.itemsize
                fitting = [b for b in idle if self.buffer_bytes[b] >= nbytes]
                if fitting:
                    idle.remove(fitting[0])
                    self.buffer_of[slot] = fitting[0]
                else:
                    self.buffer_of[slot] = len(self.buffer_bytes)
                    self.buffer_bytes.append(nbytes)
            for slot in {*step.ins, *step.outs}:
                if slot in self.buffer_of and last.get(slot, n) == n and slot not in aliased:
                    idle.append(self.buffer_of[slot])

    # For each shard

    def run(
        self, shard: int, local: Local, skip: set[int], running: list[Step | None]
    ) -> dict[int, np.ndarray]:
        """Run on one shard. `local` maps slots to their arrays: the shard's own piece, or all of a whole value.

        Returns the escaping slots' arrays. Steps that make a slot in `skip` are left out. `running[0]` is the
        step that was begun last, for whoever catches an error.
        """
        bounds = [_bounds(cuts, shard) for cuts in self.grids]
        regs: list[Any] = [None] * self.registers
        streams: list[tuple[int, np.ndarray, int]] = []
        for read in self.reads:
            array = local.get(read.slot)
            if array is None:
                continue  # only steps that are skipped read it
            if read.region:
                index = [slice(None)] * array.ndim
                for d, grid, label in read.region:
                    index[d] = slice(*bounds[grid][label])
                array = array[tuple(index)]
            if read.dim is None:
                regs[read.register] = array
            else:
                streams.append((read.register, array, read.dim))
        if self.tiled:
            return self._tiles(shard, bounds, regs, streams, skip, running)
        return self._once(shard, regs, skip, running)

    def _place(self, number: int, shard: int) -> Place:
        return place(self.steps[number].layout, shard, *self.shapes[number])

    def _once(
        self, shard: int, regs: list[Any], skip: set[int], running: list[Step | None]
    ) -> dict[int, np.ndarray]:
        """Run the steps on the whole shard."""
        out: dict[int, np.ndarray] = {}
        for n, step in enumerate(self.steps):
            if step.outs[0] in skip:
                continue
            running[0] = step
            kwargs = dict(step.attrs)
            if step.primitive.placed or step.primitive.into:
                where = self._place(n, shard)
                if step.primitive.placed:
                    kwargs["at"] = where
                if step.primitive.into:
                    kwargs["out"] = self.pool.take(_extent(where.outs[0]), self.slots[step.outs[0]].dtype)
            results = step.primitive.kernel(*(regs[r] for r in self.operands[n]), **kwargs)
            results = results if isinstance(results, tuple) else (results,)
            for slot, result in zip(step.outs, results, strict=True):
                regs[self.of_slot[slot]] = array = np.asarray(result)  # indexing may have made it a scalar
                if slot in self.escaping:
                    out[slot] = array
        return out

    def _tiles(
        self,
        shard: int,
        bounds: list[list[Bounds]],
        regs: list[Any],
        streams: list[tuple[int, np.ndarray, int]],
        skip: set[int],
        running: list[Step | None],
    ) -> dict[int, np.ndarray]:
        """Run the steps tile by tile."""
        lengths = tuple([hi - lo for grid in bounds for lo, hi in grid])
        if lengths not in self._extents:
            self._extents[lengths] = {
                slot: _extent(region)
                for n, step in enumerate(self.steps)
                for slot, region in zip(step.outs, self._place(n, shard).outs, strict=True)
            }
        extents = self._extents[lengths]
        out: dict[int, np.ndarray] = {}
        for slot in self.escaping:
            if slot not in skip:
                out[slot] = self.pool.take(extents[slot], self.slots[slot].dtype)
                dim = self.out_dim[slot]
                if dim is not None:
                    streams.append((self.of_slot[slot], out[slot], dim))
        placed = {n: self._place(n, shard) for n, step in enumerate(self.steps) if step.primitive.placed}
        first, end = bounds[self.span[0]][self.span[1]] if self.span is not None else (0, self.length)
        selects = [(r, array, (slice(None),) * d) for r, array, d in streams]
        tasks: list[_Task] = []
        size = -1
        for start in range(first, max(end, first + 1), self.rows):
            stop = min(start + self.rows, end)
            for register, array, before in selects:
                regs[register] = array[(*before, slice(start - first, stop - first))]
            if stop - start != size:
                size = stop - start
                tasks, targets = self._tasks(lengths, extents, size, skip)
                for register, buffer in targets.items():
                    regs[register] = buffer
            for n, step, fn, operands, register, how, target in tasks:
                running[0] = step
                args = [regs[r] for r in operands]
                if n in placed:
                    fn = partial(fn, at=_tile_place(step, placed[n], start, stop))
                if how == _INTO:
                    fn(*args, out=regs[register])
                elif how == _MAKE:
                    result = fn(*args)
                    if isinstance(result, tuple):
                        self._spread(step, result, regs, out)
                    else:
                        regs[register] = result
                elif how == _COPY:
                    np.copyto(regs[register], fn(*args))
                else:
                    slot = step.outs[0]
                    part = fn(*args) if target is None else fn(*args, out=target)
                    if start == first:
                        out[slot][...] = part
                    else:
                        self.total[slot](out[slot], part, out=out[slot])
        return out

    def _tasks(
        self, lengths: tuple[int, ...], extents: dict[int, tuple[int, ...]], rows: int, skip: set[int]
    ) -> tuple[list[_Task], dict[int, np.ndarray]]:
        """The tasks for tiles of `rows`, and the temporaries that registers point to."""
        key = (lengths, rows, frozenset(skip))
        if key in self._ready:
            return self._ready[key]
        if not self.buffers:
            self.buffers = [np.empty(n, np.uint8) for n in self.buffer_bytes]
        tasks, targets = [], {}
        for n, step in enumerate(self.steps):
            slot = step.outs[0]
            if slot in skip:
                continue
            fn = partial(step.primitive.kernel, **step.attrs) if step.attrs else step.primitive.kernel
            register = self.of_slot[slot]
            target: np.ndarray | None = None
            if slot in self.buffer_of:
                shape = list(extents[slot])
                dim = self.out_dim[slot]
                if dim is not None:
                    shape[dim] = rows
                dtype = self.slots[slot].dtype
                flat = self.buffers[self.buffer_of[slot]][: math.prod(shape) * dtype.itemsize]
                target = flat.view(dtype).reshape(shape)
            if slot in self.total:
                how = _ADD
            elif len(step.outs) > 1 or (not step.primitive.into and slot not in self.escaping):
                how = _MAKE
            elif step.primitive.into:
                how = _INTO
                if target is not None:
                    targets[register] = target
            else:
                how = _COPY
            tasks.append(_Task(n, step, fn, self.operands[n], register, how, target))
        if len(self._ready) > 64:
            self._ready.clear()
        self._ready[key] = tasks, targets
        return tasks, targets

    def _spread(
        self, step: Step, results: tuple[np.ndarray, ...], regs: list[Any], out: dict[int, np.ndarray]
    ) -> None:
        for slot, result in zip(step.outs, results, strict=True):
            if slot in out:
                np.copyto(regs[self.of_slot[slot]], result)
            else:
                regs[self.of_slot[slot]] = result


def _bounds(cuts: tuple[Cut, ...], shard: int) -> list[Bounds]:
    """The bounds of one cell of a grid along each of its cuts."""
    found = []
    for cut in reversed(cuts):
        shard, i = divmod(shard, cut.count)
        found.append(cut.bounds(i))
    found.reverse()
    return found


def _tile_place(step: Step, where: Place, start: int, stop: int) -> Place:
    """The place of one tile of a shard."""
    labels = step.layout.labels
    assert labels is not None
    return Place(
        tuple(_narrow(r, n, step.tile, start, stop) for r, n in zip(where.ins, labels.ins, strict=True)),
        tuple(_narrow(r, n, step.tile, start, stop) for r, n in zip(where.outs, labels.outs, strict=True)),
    )


def _narrow(region: Region, names: tuple[int | None, ...], tile: int | None, start: int, stop: int) -> Region:
    dim = _tile_dim(names, tile)
    return region if dim is None else (*region[:dim], (start, stop), *region[dim + 1 :])


def _extent(region: Region) -> tuple[int, ...]:
    return tuple(hi - lo for lo, hi in region)
