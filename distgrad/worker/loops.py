"""The inner loop: the steps of one `Loop`, over the tiles of one shard.

What its steps read and write is settled once, in `registers.py`; here it is run, shard by shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from distgrad import checks
from distgrad.primitives import Place
from distgrad.primitives.rules import place
from distgrad.program import Loop, Program, Step
from distgrad.sharding import Bounds, Cut, Region, extent
from distgrad.worker.binding import (
    Call,
    adding,
    bound,
    carrying,
    getter,
    making,
    shifting,
    summing,
    viewed,
    writing,
)
from distgrad.worker.meter import Meter
from distgrad.worker.pool import Pool, alone, refers
from distgrad.worker.registers import Narrow, Registers, Turn, turn_of


class Local(Protocol):
    """The arrays of one shard, by slot."""

    def get(self, slot: int) -> np.ndarray | None:
        """The shard's own piece, or all of a whole value; None if there is none."""

    def gift(self, slot: int) -> list[Any] | None:
        """The one piece of a value, in its list, if it may be written over as far as the program goes."""

    @property
    def spent(self) -> dict[int, np.ndarray]:
        """What was written over such pieces."""


Calls = list[tuple[Step, Call]]
Index = tuple[slice, ...]
# What is read or written tile by tile: the register, the array, the index of the dimensions before, the window.
_Stream = tuple[int, Any, Index, int]


class _Tile(NamedTuple):
    """What is to be done for one tile of a shard: the same for all shards of the same form."""

    parts: list[Index]  # of the array of each stream
    spans: list[Bounds]  # the part of each window, counted from where the tiles begin
    calls: Calls
    targets: dict[int, np.ndarray]  # the temporaries that registers point to


class LoopRunner(Registers):
    """One loop, ready to run on any shard. `escaping` are the slots whose shards are needed after the loop."""

    def __init__(self, loop: Loop, program: Program, count: int, escaping: set[int], pool: Pool):
        super().__init__(loop, program, count, escaping)
        self.pool = pool
        self.regs: list[Any] = [None] * self.registers
        # Scalars that a loop on tiles reads lie always at the same place, so that calls can be bound to them.
        self.scalars = {
            r.register: np.empty((), self.slots[r.slot].dtype)
            for r in self.reads
            if self.tiled and not self.slots[r.slot].aval.shape
        }
        self.spans: list[Bounds] = []  # the part of each window that runs now, for kernels that want to know
        self.placed: dict[int, Place] = {}
        # The shape of each result, by the lengths of a shard.
        self._extents: dict[Any, dict[int, tuple[int, ...]]] = {}
        self._tiles: dict[
            Any, list[_Tile]
        ] = {}  # by lengths, bounds of the windows, steps left out, and streams
        # Calls and temporaries, by lengths, parts of the windows, the place in sums, and steps left out.
        self._ready: dict[Any, tuple[Calls, dict[int, np.ndarray]]] = {}
        self.grown = 0  # bytes of these, about
        self._memory: dict[int, np.ndarray] = {}  # by register: the memory of a partial sum

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, about: of its steps, and of what is ready for shards that it has seen."""
        return 2000 + 2500 * len(self.steps) + self.grown

    # For each shard

    def run(
        self,
        shard: int,
        local: Local,
        skip: set[int],
        running: list[Step | None],
        onto: dict[int, np.ndarray],
        meter: Meter | None = None,
    ) -> dict[int, np.ndarray]:
        """Run on one shard. `local` maps slots to their arrays: the shard's own piece, or all of a whole value.

        Returns the escaping slots' arrays. Steps that make a slot in `skip` are left out. `running[0]` is the
        step that was begun last, for whoever catches an error. What is in `onto` by slot, a kernel that can may lay its
        result onto, and return. A `meter` takes the times of the steps.
        """
        bounds = [_bounds(cuts, shard) for cuts in self.grids]
        regs = self.regs if self.tiled else [None] * self.registers
        streams = self._read(local, bounds, regs)
        if self.tiled:
            return self._by_tiles(shard, bounds, regs, streams, skip, running, meter)
        return self._once(shard, local, regs, skip, running, onto, meter)

    def _read(self, local: Local, bounds: list[list[Bounds]], regs: list[Any]) -> list[_Stream]:
        """Fill the registers that are read whole; what the others are read from."""
        streams: list[_Stream] = []
        for read in self.reads:
            array = local.get(read.slot)
            if array is None:
                continue  # only steps that are skipped read it
            if read.region:
                index = [slice(None)] * array.ndim
                for d, grid, label in read.region:
                    index[d] = slice(*bounds[grid][label])
                array = array[tuple(index)]
            if read.register in self.scalars:
                np.copyto(self.scalars[read.register], array)
            elif read.dim is None or read.window is None:
                regs[read.register] = array
            else:
                streams.append((read.register, array, (slice(None),) * read.dim, read.window))
        return streams

    def _place(self, number: int, shard: int) -> Place:
        return place(self.steps[number].layout, shard, *self.shapes[number])

    def _once(
        self,
        shard: int,
        local: Local,
        regs: list[Any],
        skip: set[int],
        running: list[Step | None],
        onto: dict[int, np.ndarray],
        meter: Meter | None,
    ) -> dict[int, np.ndarray]:
        """Run the steps on the whole shard."""
        out: dict[int, np.ndarray] = {}
        own: set[int] = set()  # results that have memory of their own, taken here
        steps: Iterable[tuple[Step, int]] = zip(self.steps, count(), strict=False)
        for step, n in steps if meter is None else meter.timing(steps):
            if step.outs[0] in skip:
                continue
            running[0] = step
            kwargs, traits = dict(step.attrs), step.primitive.traits
            if "placed" in traits or "into" in traits:
                where = self._place(n, shard)
                if "placed" in traits:
                    kwargs["at"] = where
                if "onto" in traits and step.outs[0] in onto:
                    kwargs["onto"] = onto[step.outs[0]]
                elif len(step.outs) > 1 and "into" in traits:
                    kwargs["out"] = self._outs(n, where, regs, local)
                elif "into" in traits:
                    made = regs[self.operands[n][self.over[n]]] if n in self.over else None
                    if made is None or id(made) not in own:
                        made = self.pool.take(extent(where.outs[0]), self.slots[step.outs[0]].dtype)
                    kwargs["out"] = made
            if step.outs[0] in local.spent:
                results = tuple([local.spent[slot] for slot in step.outs])
            else:
                results = step.primitive.kernel(*(regs[r] for r in self.operands[n]), **kwargs)
                results = results if isinstance(results, tuple) else (results,)
                if "over_next" in traits:
                    local.spent.update(zip(step.outs, results, strict=True))
            if checks.ENABLED:
                self._check(n, shard, results)
            for slot, result in zip(step.outs, results, strict=True):
                regs[self.of_slot[slot]] = array = np.asarray(result)  # indexing may have made it a scalar
                if array is kwargs.get("out"):
                    own.add(id(array))
                if meter is not None:
                    meter.watch([array])
                if slot in self.escaping:
                    out[slot] = array
        return out

    def _outs(self, n: int, where: Place, regs: list[Any], local: Local) -> tuple[np.ndarray, ...]:
        """Memory for the results of step `n`: of operands, where it may write over these, or new."""
        step, made = self.steps[n], []
        over = "over_next" in step.primitive.traits
        for k, (region, slot) in enumerate(zip(where.outs, step.outs, strict=True), 1):
            form = extent(region), self.slots[slot].dtype
            register = self.operands[n][k] if over else -1
            free = over and _is_free(regs, register, local.gift(step.ins[k]), form)
            made.append(regs[register] if free else self.pool.take(*form))
        return tuple(made)

    def _check(self, n: int, shard: int, results: tuple[Any, ...]) -> None:
        step = self.steps[n]
        shapes = [extent(region) for region in self._place(n, shard).outs]
        dtypes = [self.slots[slot].dtype for slot in step.outs]
        checks.check_results(step.primitive.name, [np.asarray(r) for r in results], shapes, dtypes)

    def _by_tiles(
        self,
        shard: int,
        bounds: list[list[Bounds]],
        regs: list[Any],
        streams: list[_Stream],
        skip: set[int],
        running: list[Step | None],
        meter: Meter | None,
    ) -> dict[int, np.ndarray]:
        """Run the steps tile by tile."""
        lengths: tuple[Any, ...] = tuple([hi - lo for grid in bounds for lo, hi in grid])
        if self.shifts:
            lengths += tuple([_relative(self._place(n, shard)) for n in self.shifts])
        if lengths not in self._extents:
            self._extents[lengths] = {
                slot: extent(region)
                for n, step in enumerate(self.steps)
                for slot, region in zip(step.outs, self._place(n, shard).outs, strict=True)
            }
        extents = self._extents[lengths]
        out: dict[int, np.ndarray] = {}
        for slot in self.escaping:
            if slot not in skip:
                running[0] = self.maker[slot]
                out[slot] = self.pool.take(extents[slot], self.slots[slot].dtype)
                dim = self.out_dim[slot]
                window = self.window_of_slot[slot]
                if dim is None or window is None:
                    regs[self.of_slot[slot]] = out[slot]
                else:
                    streams.append((self.of_slot[slot], out[slot], (slice(None),) * dim, window))
        placed = [n for n, step in enumerate(self.steps) if "placed" in step.primitive.traits]
        self.placed = {n: self._place(n, shard) for n in placed}
        piece = shard // (self.count // self.windows[0].count)
        pieces = [window.bounds(piece) for window in self.windows]
        first, end = _tiled(self.windows, piece)
        there = tuple([register for register, *_ in streams])  # what failed elsewhere is not among them
        form = lengths, end - first, *[(lo - first, hi - first) for lo, hi in pieces], frozenset(skip), there
        if form not in self._tiles:
            if len(self._tiles) > 64:
                self._forget()
            self._tiles[form] = self._plan(first, end, pieces, streams, lengths, extents, skip)
        targets: dict[int, np.ndarray] = {}
        step: Step | None = None
        try:
            for tile in self._tiles[form]:
                for (register, array, _, _), part in zip(streams, tile.parts, strict=True):
                    regs[register] = array[part]
                if tile.targets is not targets:
                    targets = tile.targets
                    for register, buffer in targets.items():
                        regs[register] = buffer
                if self.placed:
                    self.spans = [(first + lo, first + hi) for lo, hi in tile.spans]
                for step, call in tile.calls if meter is None else meter.timing(tile.calls):  # noqa: B007 - read below
                    call()
        except Exception:
            running[0] = step
            raise
        finally:
            regs[:] = [None] * len(regs)  # what was read is not kept alive
        return out

    def _forget(self) -> None:
        """Nothing is ready any more."""
        self._tiles.clear()
        self._ready.clear()
        self._extents.clear()
        self.grown = 0

    def _plan(
        self,
        first: int,
        end: int,
        pieces: list[Bounds],
        streams: list[_Stream],
        lengths: tuple[Any, ...],
        extents: dict[int, tuple[int, ...]],
        skip: set[int],
    ) -> list[_Tile]:
        """The tiles of a shard that go through `first:end`; its windows have the bounds `pieces`."""
        tiles = []
        starts = range(first, max(end, first + 1), self.rows)
        for number, start in enumerate(starts):
            stop = max(start, min(start + self.rows, end))
            parts = [window.part(start, stop) for window in self.windows]
            self.spans = spans = [  # where a piece is empty, a tile of it is too
                (min(max(lo, a), b), min(max(hi, a), b))
                for (lo, hi), (a, b) in zip(parts, pieces, strict=True)
            ]
            inside = [slice(lo - a, hi - a) for (lo, hi), (a, _) in zip(spans, pieces, strict=True)]
            key = (
                lengths,
                tuple([(lo - start, hi - start) for lo, hi in spans]),
                turn_of(number, len(starts)),
                frozenset(skip),
            )
            tiles.append(
                _Tile(
                    [(*before, inside[w]) for _, _, before, w in streams],
                    [(lo - first, hi - first) for lo, hi in spans],
                    *self._calls(key, extents, skip),
                )
            )
        self.grown += 1000 + len(tiles) * (400 + 200 * len(streams))
        return tiles

    def _calls(
        self, key: Any, extents: dict[int, tuple[int, ...]], skip: set[int]
    ) -> tuple[Calls, dict[int, np.ndarray]]:
        """The calls for tiles like the present one, and the temporaries that registers point to.

        A tile is some dozen calls of some microseconds, so what they need is bound to them beforehand. `key` tells
        lengths, parts of the windows, the tile's place in sums, and steps left out.
        """
        if key in self._ready:
            return self._ready[key]
        targets = dict(self.scalars)
        for register in self.part_buffers:
            targets[register] = self._part(register, extents)
        turn: Turn = key[2]
        calls: Calls = []
        for n, step in enumerate(self.steps):
            if step.outs[0] not in skip:
                made = self._call(n, extents, turn, targets)
                calls += [] if made is None else [(step, made)]
                calls += [(step, call) for call in self._carries(step.outs[0], turn)]
        if len(self._ready) > 64:
            self._forget()
        self._ready[key] = calls, targets
        self.grown += 1000 + 700 * len(calls)
        return calls, targets

    def _call(
        self, n: int, extents: dict[int, tuple[int, ...]], turn: Turn, targets: dict[int, np.ndarray]
    ) -> Call | None:
        """Step `n`, bound to its registers. Adds the temporaries that it makes to `targets`; None: that is all."""
        step, regs, operands = self.steps[n], self.regs, self.operands[n]
        kernel: Callable[..., Any] = (
            partial(step.primitive.kernel, **step.attrs) if step.attrs else step.primitive.kernel
        )
        target = self._target(step.outs[0], extents)
        registers = [self.of_slot[slot] for slot in step.outs]
        if step.layout.labels is None:
            kernel = partial(kernel, at=self._tile_place(n))
            if step.outs[0] in self.escaping:
                return making(kernel, regs, getter(operands), registers, [True])
            view = viewed(kernel, targets.get(operands[0]))
            if view is not None:
                targets[registers[0]] = view
                return None
            return shifting(kernel, regs, operands[0], registers[0], target)
        traits = step.primitive.traits
        if "placed" in traits:
            kernel = partial(self._at, n, kernel)
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

    def _part(self, register: int, extents: dict[int, tuple[int, ...]]) -> np.ndarray:
        """The array of a partial sum: for all tiles at the same place."""
        number, slot = self.part_buffers[register]
        if register not in self._memory:
            nbytes = self.buffer_bytes[number]
            self._memory[register] = self.pool.scratch(number, nbytes, (nbytes,), np.dtype(np.uint8))
        shape, dtype = extents[slot], self.slots[slot].dtype
        return self._memory[register][: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def _target(self, slot: int, extents: dict[int, tuple[int, ...]]) -> np.ndarray | None:
        """The temporary of a slot."""
        if slot not in self.buffer_of:
            return None
        shape = list(extents[slot])
        dim, window = self.out_dim[slot], self.window_of_slot[slot]
        if dim is not None and window is not None:
            lo, hi = self.spans[window]
            shape[dim] = hi - lo
        number = self.buffer_of[slot]
        return self.pool.scratch(number, self.buffer_bytes[number], tuple(shape), self.slots[slot].dtype)

    def _at(self, n: int, kernel: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a kernel that wants to know where the tile lies."""
        return kernel(*args, at=self._tile_place(n), **kwargs)

    def _tile_place(self, n: int) -> Place:
        """The place of a tile that has the parts `spans` of the windows."""
        where, (ins, outs), spans = self.placed[n], self.narrowed[n], self.spans
        return Place(
            tuple([_narrow(r, part, spans) for r, part in zip(where.ins, ins, strict=True)]),
            tuple([_narrow(r, part, spans) for r, part in zip(where.outs, outs, strict=True)]),
        )


def _is_free(regs: list[Any], register: int, gift: list[Any] | None, form: tuple[Any, Any]) -> bool:
    """Whether the array in a register, which its value gives away, has this form and is known to nobody else."""
    return (
        gift is not None
        and regs[register] is gift[0]
        and refers((gift, regs), (0, register)) == alone()
        and gift[0].flags.c_contiguous
        and gift[0].flags.writeable
        and (gift[0].shape, gift[0].dtype) == form
    )


def _tiled(windows: list[Cut], piece: int) -> Bounds:
    """What tiles must go through so that they fill piece number `piece` of all windows."""
    if windows[0].points is not None:
        return windows[0].bounds(piece)
    step = windows[0].step or windows[0].size
    first = min(max(piece * step, cut.offset) for cut in windows)
    end = max(min((piece + 1) * step, cut.size + cut.offset - cut.overlap) for cut in windows)
    return first, end


def _relative(where: Place) -> Region:
    """Where in its operand the result of a regrouping begins, and how long both are."""
    (source,), (out,) = where.ins, where.outs
    return tuple([(c - a, b - a) for (a, b), (c, _) in zip(source, out, strict=True)]) + tuple(
        [(0, d - c) for c, d in out]
    )


def _bounds(cuts: tuple[Cut, ...], shard: int) -> list[Bounds]:
    """The bounds of one cell of a grid along each of its cuts."""
    found = []
    for cut in reversed(cuts):
        shard, i = divmod(shard, cut.count)
        found.append(cut.bounds(i))
    found.reverse()
    return found


def _narrow(region: Region, part: Narrow, spans: list[Bounds]) -> Region:
    """The part of an operand's or a result's region that a tile has."""
    return region if part is None else (*region[: part[0]], spans[part[1]], *region[part[0] + 1 :])
