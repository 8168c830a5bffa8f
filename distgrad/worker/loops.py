"""The inner loop: the steps of one `Loop`, over the tiles of one shard.

A loop is prepared once for each program. Each array that a step reads or writes is a register; what a step needs
to know about it is settled here: read from a whole array or tile by tile, a temporary that stays in the cache, a piece
of a stored shard that is written in place, or a sum over the tiles.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from distgrad.primitives import MERGES, Place
from distgrad.primitives.rules import place
from distgrad.sharding import Region
from distgrad.wire import Loop, Program, Step
from distgrad.worker.pool import Pool

_INTO, _MAKE, _COPY, _ADD = range(4)  # how a step's result gets to where it belongs


class Local(Protocol):
    """The arrays of one shard, by slot."""

    def get(self, slot: int) -> np.ndarray | None:
        """The shard's own piece, or all of a whole value; None if there is none."""


class _Read(NamedTuple):
    """An operand that comes from outside the loop: operand `which` of step `step` is read into `register`.

    It is read tile by tile along `dim` (None: all at once); of a `whole` value only the shard's region is read.
    """

    register: int
    step: int
    which: int
    slot: int
    dim: int | None
    whole: bool


def _tile_dim(names: tuple[int | None, ...], tile: int | None) -> int | None:
    return names.index(tile) if tile is not None and tile in names else None


class LoopRunner:
    """One loop, ready to run on any shard.

    `escaping` are the slots whose shards are needed after the loop; `merged` those of them that hold partial results.
    """

    def __init__(self, loop: Loop, program: Program, count: int, escaping: set[int], pool: Pool):
        self.loop = loop
        self.slots = program.slots
        self.count = count
        self.pool = pool
        self.steps = loop.steps
        self.made = {slot for step in loop.steps for slot in step.outs}
        self.escaping = [s for s in self.made if s in escaping]
        self.in_shapes = [[self.slots[i].aval.shape for i in step.ins] for step in loop.steps]
        self.out_shapes = [[self.slots[i].aval.shape for i in step.outs] for step in loop.steps]
        self.tiled = loop.rows > 0 and any(step.tile is not None for step in loop.steps)
        self.out_dim: dict[int, int | None] = {}  # tile dimension of each slot made here
        self.total: dict[int, Any] = {}  # slots that are summed over the tiles: how
        for step in loop.steps:
            labels = step.layout.labels
            for k, slot in enumerate(step.outs):
                dim = _tile_dim(labels.outs[k], step.tile) if self.tiled and labels else None
                self.out_dim[slot] = dim
                if self.tiled and dim is None and labels and labels.merge:
                    self.total[slot] = MERGES[labels.merge]
        self._registers()
        self._scratch()
        self.buffers: list[np.ndarray] = []  # kept between runs: fresh memory is dear

    def _registers(self) -> None:
        """Number the registers and list the reads that fill them."""
        self.count_registers = 0
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
                labels = step.layout.labels
                whole = self.slots[slot].sharding.count == 1 and self.count > 1
                dim = _tile_dim(labels.ins[which], step.tile) if self.tiled and labels else None
                region: Any = None
                if whole:
                    cuts = dict(step.layout.grid)
                    region = (
                        tuple((d, cuts[n]) for d, n in enumerate(labels.ins[which]) if n in cuts)
                        if labels
                        else number
                    )
                key = (slot, dim, region)
                if key not in known:
                    known[key] = self._new()
                    self.reads.append(_Read(known[key], number, which, slot, dim, whole))
                registers.append(known[key])
            self.operands.append(tuple(registers))
            for slot in step.outs:
                self.of_slot[slot] = self._new()

    def _new(self) -> int:
        self.count_registers += 1
        return self.count_registers - 1

    def _scratch(self) -> None:
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
                shape = self.slots[slot].aval.shape
                row = math.prod(m for d, m in enumerate(shape) if d != dim)
                nbytes = row * (self.loop.rows if dim is not None else 1) * self.slots[slot].dtype.itemsize
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

    def run(
        self, shard: int, local: Local, skip: set[int], running: list[Step | None]
    ) -> dict[int, np.ndarray]:
        """Run on one shard. `local` maps slots to their arrays: the shard's own piece, or all of a whole value.

        Returns the escaping slots' arrays. Steps that make a slot in `skip` are left out. `running[0]` is the
        step that was begun last, for whoever catches an error.
        """
        places = [
            place(s.layout, shard, i, o)
            for s, i, o in zip(self.steps, self.in_shapes, self.out_shapes, strict=True)
        ]
        regs: list[Any] = [None] * self.count_registers
        streams: list[tuple[int, np.ndarray, int]] = []
        for read in self.reads:
            array = local.get(read.slot)
            if array is None:
                continue  # only steps that are skipped read it
            if read.whole:
                region = places[read.step].ins[read.which]
                array = array[tuple(slice(lo, hi) for lo, hi in region)]
            if read.dim is None:
                regs[read.register] = array
            else:
                streams.append((read.register, array, read.dim))
        out: dict[int, np.ndarray] = {}
        for n, step in enumerate(self.steps):
            for k, slot in enumerate(step.outs):
                if (
                    slot in self.escaping
                    and slot not in skip
                    and (self.tiled or (step.primitive.into and k == 0))
                ):
                    out[slot] = self.pool.take(_extent(places[n].outs[k]), self.slots[slot].dtype)
                    if self.out_dim[slot] is not None:
                        streams.append((self.of_slot[slot], out[slot], self.out_dim[slot]))  # type: ignore[arg-type]
        if self.tiled:
            self._tiles(places, regs, streams, out, skip, running)
        else:
            self._once(places, regs, out, skip, running)
        return out

    def _once(
        self,
        places: list[Place],
        regs: list[Any],
        out: dict[int, np.ndarray],
        skip: set[int],
        running: list[Step | None],
    ) -> None:
        for n, step in enumerate(self.steps):
            if step.outs[0] in skip:
                continue
            running[0] = step
            kwargs = dict(step.attrs)
            if step.primitive.placed:
                kwargs["at"] = places[n]
            if step.primitive.into:
                slot = step.outs[0]
                kwargs["out"] = (
                    out[slot]
                    if slot in out
                    else self.pool.take(_extent(places[n].outs[0]), self.slots[slot].dtype)
                )
            results = step.primitive.kernel(*(regs[r] for r in self.operands[n]), **kwargs)
            for slot, result in zip(
                step.outs, results if isinstance(results, tuple) else (results,), strict=True
            ):
                regs[self.of_slot[slot]] = result
                if slot in self.escaping and slot not in out:
                    out[slot] = np.asarray(result)

    def _tiles(
        self,
        places: list[Place],
        regs: list[Any],
        streams: list[tuple[int, np.ndarray, int]],
        out: dict[int, np.ndarray],
        skip: set[int],
        running: list[Step | None],
    ) -> None:
        first, end = self._span(places)
        if not self.buffers:
            self.buffers = [np.empty(n, np.uint8) for n in self.buffer_bytes]
        selects = [(r, array, (slice(None),) * d) for r, array, d in streams]
        rows = self.loop.rows
        plan: list[Any] = []
        tile_rows = -1
        for start in range(first, max(end, first + 1), rows):
            stop = min(start + rows, end)
            lo, hi = start - first, stop - first
            for register, array, before in selects:
                regs[register] = array[(*before, slice(lo, hi))]
            if stop - start != tile_rows:
                tile_rows = stop - start
                plan = self._plan(places, tile_rows, regs, out, skip)
            for step, fn, operands, register, how, target, n in plan:
                running[0] = step
                args = [regs[r] for r in operands]
                if step.primitive.placed:
                    fn = partial(fn, at=self._tile_place(step, places[n], start, stop))
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
                    part = fn(*args) if target is None else fn(*args, out=target)
                    if start == first:
                        out[step.outs[0]][...] = part
                    else:
                        total = out[step.outs[0]]
                        self.total[step.outs[0]](total, part, out=total)

    def _span(self, places: list[Place]) -> tuple[int, int]:
        """The bounds of the tile label in this shard: the same for all steps of the loop."""
        for step, where in zip(self.steps, places, strict=True):
            labels = step.layout.labels
            if labels is not None and step.tile is not None:
                for names, region in zip((*labels.ins, *labels.outs), (*where.ins, *where.outs), strict=True):
                    if step.tile in names:
                        return region[names.index(step.tile)]
        raise AssertionError("a tiled loop has a tile label")

    def _plan(
        self, places: list[Place], rows: int, regs: list[Any], out: dict[int, np.ndarray], skip: set[int]
    ) -> list[Any]:
        """The steps as (step, function, operands, register, how, target, number) for tiles of `rows`."""
        plan = []
        for n, step in enumerate(self.steps):
            slot = step.outs[0]
            if slot in skip:
                continue
            fn = partial(step.primitive.kernel, **step.attrs) if step.attrs else step.primitive.kernel
            register = self.of_slot[slot]
            target = None
            if slot in self.buffer_of:
                shape = list(_extent(places[n].outs[0]))
                if self.out_dim[slot] is not None:
                    shape[self.out_dim[slot]] = rows  # type: ignore[index]
                nbytes = math.prod(shape) * self.slots[slot].dtype.itemsize
                target = (
                    self.buffers[self.buffer_of[slot]][:nbytes].view(self.slots[slot].dtype).reshape(shape)
                )
            if slot in self.total:
                how = _ADD
                if slot not in out:  # nobody needs the sum: the planner does not ask for such steps
                    out[slot] = np.empty(_extent(places[n].outs[0]), self.slots[slot].dtype)
            elif len(step.outs) > 1:
                how = _MAKE
            elif step.primitive.into:
                how = _INTO
                if target is not None:
                    regs[register] = target
            else:
                how = _COPY if slot in self.escaping else _MAKE
            plan.append((step, fn, self.operands[n], register, how, target, n))
        return plan

    def _spread(
        self, step: Step, results: tuple[np.ndarray, ...], regs: list[Any], out: dict[int, np.ndarray]
    ) -> None:
        for slot, result in zip(step.outs, results, strict=True):
            if slot in out:
                np.copyto(regs[self.of_slot[slot]], result)
            else:
                regs[self.of_slot[slot]] = result

    def _tile_place(self, step: Step, where: Place, start: int, stop: int) -> Place:
        labels = step.layout.labels
        assert labels is not None
        return Place(
            tuple(
                _narrow(r, _tile_dim(names, step.tile), start, stop)
                for r, names in zip(where.ins, labels.ins, strict=True)
            ),
            tuple(
                _narrow(r, _tile_dim(names, step.tile), start, stop)
                for r, names in zip(where.outs, labels.outs, strict=True)
            ),
        )


def _narrow(region: Region, dim: int | None, start: int, stop: int) -> Region:
    return region if dim is None else (*region[:dim], (start, stop), *region[dim + 1 :])


def _extent(region: Region) -> tuple[int, ...]:
    return tuple(hi - lo for lo, hi in region)
