"""The inner loop: the steps of one `Loop`, over the tiles of one shard.

What its steps read and write is settled once, in `registers.py`, and what each tile does in `tiles.py`; here it is run,
shard by shard.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any, Protocol

import numpy as np

from distgrad import checks
from distgrad.checks import CheckError
from distgrad.primitives import Place
from distgrad.primitives.rules import place
from distgrad.program import Step
from distgrad.sharding import Bounds, Cut, extent
from distgrad.worker.meter import Meter
from distgrad.worker.placing import tile_place, tiled
from distgrad.worker.pool import alone, refers
from distgrad.worker.tiles import Extents, Form, Placed, StepFailed, Stream, Tile, Tiles

Spent = dict[tuple[int, int], np.ndarray]  # by slot and shard


class Local(Protocol):
    """The arrays of one shard, by slot."""

    def get(self, slot: int) -> np.ndarray | None:
        """The shard's own piece, or all of a whole value; None if there is none."""

    def gift(self, slot: int) -> tuple[list[Any], int] | None:
        """A value's pieces and which is read here, if it may be written over as far as the program goes."""

    @property
    def spent(self) -> Spent:
        """What was written over such pieces."""


class LoopRunner(Tiles):
    """One loop, ready to run on any shard. `escaping` are the slots whose shards are needed after the loop."""

    def run(
        self,
        shard: int,
        local: Local,
        skip: set[int],
        onto: dict[int, np.ndarray],
        meter: Meter | None = None,
    ) -> dict[int, np.ndarray]:
        """Run on one shard. `local` maps slots to their arrays: the shard's own piece, or all of a whole value.

        Returns the escaping slots' arrays. Steps that make a slot in `skip` are left out. What is in `onto` by slot, a
        kernel that can may lay its result onto, and return. A `meter` takes the times of the steps. Raises StepFailed.
        """
        bounds = [_bounds(cuts, shard) for cuts in self.grids]
        regs = self.regs if self.tiled else [None] * self.registers
        try:
            streams = self._read(local, bounds, regs)
            if self.tiled:
                return self._by_tiles(shard, bounds, regs, streams, skip, meter)
            return self._once(shard, local, regs, skip, onto, meter)
        except (StepFailed, CheckError):
            raise
        except Exception as error:  # no memory to put pieces together, or for temporaries
            step = next((step for step in self.steps if step.outs[0] not in skip), None)
            if step is None:
                raise
            raise StepFailed(step, error) from None

    def _read(self, local: Local, bounds: list[list[Bounds]], regs: list[Any]) -> list[Stream]:
        """Fill the registers that are read whole; what the others are read from."""
        streams: list[Stream] = []
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
        """Where a step reads and writes: looked up if it has one shard."""
        known = self._where.get(number)
        if known is None:
            layout = self.steps[number].layout
            known = place(layout, shard, *self.shapes[number])
            if layout.shards == 1:
                self._where[number] = known
        return known

    def _once(
        self,
        shard: int,
        local: Local,
        regs: list[Any],
        skip: set[int],
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
            try:
                results = self._results(n, shard, local, regs, onto, own)
            except CheckError:
                raise
            except Exception as error:  # a kernel may fail in any way
                raise StepFailed(step, error) from None
            for slot, array in zip(step.outs, results, strict=True):
                regs[self.of_slot[slot]] = array
                if meter is not None:
                    meter.watch([array])
                if slot in self.escaping:
                    out[slot] = array
        return out

    def _results(
        self,
        n: int,
        shard: int,
        local: Local,
        regs: list[Any],
        onto: dict[int, np.ndarray],
        own: set[int],
    ) -> list[np.ndarray]:
        """What step `n` makes of the whole shard. Memory that is taken for that is noted in `own`."""
        step = self.steps[n]
        if (step.outs[0], shard) in local.spent:  # done before another step failed, and its operands are gone
            return [local.spent[slot, shard] for slot in step.outs]
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
        results = step.primitive.kernel(*(regs[r] for r in self.operands[n]), **kwargs)
        results = results if isinstance(results, tuple) else (results,)
        if "over_next" in traits:
            local.spent.update(((slot, shard), made) for slot, made in zip(step.outs, results, strict=True))
        if checks.ENABLED:
            self._check(n, shard, results)
        arrays = [np.asarray(result) for result in results]  # indexing may have made it a scalar
        own.update(id(array) for array in arrays if array is kwargs.get("out"))
        return arrays

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
        streams: list[Stream],
        skip: set[int],
        meter: Meter | None,
    ) -> dict[int, np.ndarray]:
        """Run the steps tile by tile."""
        placed: dict[int, Place] = {}
        lengths: tuple[Any, ...] = tuple([hi - lo for grid in bounds for lo, hi in grid])
        if self.shifts:
            relative, placed = self._placed_steps(shard)
            lengths += relative
        extents = self._extents.get(lengths) or self._extents.again(lengths)
        if extents is None:
            extents = self._extents.keep(lengths, self._shapes(shard))
        out = self._escaping(extents, regs, streams, skip)
        piece = shard // (self.count // self.windows[0].count)
        first, end = tiled(self.windows, piece)
        pieces = [window.bounds(piece) for window in self.windows]
        form = Form(
            lengths,
            end - first,
            tuple([(lo - first, hi - first) for lo, hi in pieces]),
            frozenset(skip),
            tuple([register for register, *_ in streams]),  # what failed elsewhere is not among them
        )
        tiles = self.tiles(form, first, streams, extents, placed)
        places = [(register, n, self._place(n, shard)) for n, register in self.told.items()]
        try:
            self._run_tiles(tiles, first, regs, streams, places, meter)
        finally:
            regs[:] = [None] * len(regs)  # what was read is not kept alive
        return out

    def _placed_steps(self, shard: int) -> Placed:
        """Where all steps read and write on a shard: to each other, and in their operands and results."""
        known = self._placed.get(shard) or self._placed.again(shard)
        if known is None:
            placed = {n: self._place(n, shard) for n in range(len(self.steps))}
            known = self._placed.keep(shard, (_relative(placed.values()), placed))
        return known

    def _shapes(self, shard: int) -> Extents:
        """The shapes of what the steps read and make on one shard."""
        found: Extents = {}
        for n, step in enumerate(self.steps):
            where = self._place(n, shard)
            found.update((slot, extent(region)) for slot, region in zip(step.outs, where.outs, strict=True))
            found.update(((n, k), extent(region)) for k, region in enumerate(where.ins))
        return found

    def _escaping(
        self, extents: Extents, regs: list[Any], streams: list[Stream], skip: set[int]
    ) -> dict[int, np.ndarray]:
        """Memory for what is needed after the loop; what is written tile by tile is one more stream."""
        out: dict[int, np.ndarray] = {}
        for slot in self.escaping:
            if slot in skip:
                continue
            try:
                out[slot] = self.pool.take(extents[slot], self.slots[slot].dtype)
            except Exception as error:
                raise StepFailed(self.maker[slot], error) from None
            dim, window = self.out_dim[slot], self.window_of_slot[slot]
            if dim is None or window is None:
                regs[self.of_slot[slot]] = out[slot]
            else:
                streams.append((self.of_slot[slot], out[slot], (slice(None),) * dim, window))
        return out

    def _run_tiles(
        self,
        tiles: list[Tile],
        first: int,
        regs: list[Any],
        streams: list[Stream],
        places: list[tuple[int, int, Place]],
        meter: Meter | None,
    ) -> None:
        """Run the calls of tiles that begin at `first`. `places`: registers that tell a step where a tile lies."""
        targets: dict[int, np.ndarray] = {}
        step: Step | None = None
        try:
            for tile in tiles:
                for (register, array, _, _), part in zip(streams, tile.parts, strict=True):
                    regs[register] = array[part]
                if tile.targets is not targets:
                    targets = tile.targets
                    for register, buffer in targets.items():
                        regs[register] = buffer
                if places:
                    spans = [(first + lo, first + hi) for lo, hi in tile.spans]
                    for register, n, where in places:
                        regs[register] = tile_place(where, self.narrowed[n], spans)
                for step, call in tile.calls if meter is None else meter.timing(tile.calls):  # noqa: B007 - read below
                    call()
        except CheckError:
            raise
        except Exception as error:  # a kernel may fail in any way
            if step is None:
                raise
            raise StepFailed(step, error) from None


def _is_free(
    regs: list[Any], register: int, gift: tuple[list[Any], int] | None, form: tuple[Any, Any]
) -> bool:
    """Whether the array in a register, which its value gives away, has this form and is known to nobody else."""
    if gift is None:
        return False
    pieces, n = gift
    return (
        regs[register] is pieces[n]
        and refers((pieces, regs), (n, register)) == alone()
        and pieces[n].flags.c_contiguous
        and pieces[n].flags.writeable
        and (pieces[n].shape, pieces[n].dtype) == form
    )


def _relative(places: Iterable[Place]) -> tuple[Bounds, ...]:
    """Where operands and results of steps lie to each other: bounds, counted from the first along each dimension."""
    found: list[Bounds] = []
    origin: dict[int, int] = {}
    for where in places:
        for region in (*where.ins, *where.outs):
            found += [(lo - origin.setdefault(d, lo), hi - lo) for d, (lo, hi) in enumerate(region)]
    return tuple(found)


def _bounds(cuts: tuple[Cut, ...], shard: int) -> list[Bounds]:
    """The bounds of one cell of a grid along each of its cuts."""
    found = []
    for cut in reversed(cuts):
        shard, i = divmod(shard, cut.count)
        found.append(cut.bounds(i))
    found.reverse()
    return found
