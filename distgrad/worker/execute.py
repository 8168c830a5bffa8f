"""Runs a program on one worker's shards. A `Runner` is prepared once for each program and kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from distgrad.errors import WireError
from distgrad.fields import check_array
from distgrad.program import Arrival, Departure, Fragment, Move, Program, Slot, Step, Sum, sum_of
from distgrad.sharding import Region, extent, owned
from distgrad.worker.exchange import (
    Joined,
    Take,
    Tree,
    held,
    inside,
    leaves,
    merged,
    overlaps,
    senders,
    sums_sent,
    tree,
)
from distgrad.worker.loops import LoopRunner
from distgrad.worker.meter import Meter
from distgrad.worker.pool import Pool


class Failure:
    """Stands where a value would: which step failed, and how. Whatever reads it fails alike."""

    __slots__ = ("kind", "message", "serial", "step")

    def __init__(self, kind: str, message: str, step: int, serial: int):
        self.kind = kind
        self.message = message
        self.step = step  # number of the step in its program; -1: not a step's fault
        self.serial = serial  # number of the call

    def wire(self) -> list[Any]:
        """As msgpack carries it."""
        return [self.kind, self.message, self.step, self.serial]


class Seat(NamedTuple):
    """Which worker runs, of how many, and the number of the call."""

    worker: int
    workers: int
    serial: int


Pieces = list[Any]  # a value's shards on this worker, in order: arrays, or `Joined` ones


class Runner:
    """One program, ready to run."""

    def __init__(self, program: Program, pool: Pool, length: int = 0):
        self.program = program
        self.pool = pool
        self.length = length  # of the program, in bytes
        self.numbers: dict[int, int] = {}  # id of a step: its number in the program
        self.fragments: list[tuple[Fragment, list[LoopRunner], set[int]]] = []
        self.partial: dict[int, Sum] = {}  # slots that hold partial results
        self.along = _along(program)
        self.in_pieces = _in_pieces(program, self.along)
        self.maker: dict[int, Step] = {}
        for step in (step for f in program.fragments for loop in f.loops for step in loop.steps):
            self.numbers[id(step)] = len(self.numbers)
            self.maker.update(dict.fromkeys(step.outs, step))
            if step.layout.merged:
                self.partial.update((slot, sum_of(step.layout)) for slot in step.outs)
        later = {d.slot for d in program.departures} | set(program.keep)  # than what is at hand
        for fragment in reversed(program.fragments):
            made = {s for loop in fragment.loops for step in loop.steps for s in step.outs}
            escaping = later & made
            runners = []
            for loop in reversed(fragment.loops):
                here = {s for step in loop.steps for s in step.outs}
                runners.append(LoopRunner(loop, program, fragment.count, later & here, pool))
                later.update(i for step in loop.steps for i in step.ins)
            self.fragments.append((fragment, runners[::-1], escaping))
        self.fragments.reverse()

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, about."""
        return (
            5000
            + 8 * self.length
            + sum(runner.nbytes for _, runners, _ in self.fragments for runner in runners)
        )

    @property
    def scratch(self) -> int:
        """Bytes of the buffers for tiles."""
        loops = [runner.buffer_bytes for _, runners, _ in self.fragments for runner in runners]
        return sum(max(sizes) for sizes in zip_longest(*loops, fillvalue=0))

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
        for arrival in self.program.arrivals:
            try:
                with np.errstate(all="ignore"):
                    env[arrival.slot] = made = self._receive(arrival, at, boxes)
                if meter is not None and isinstance(made, list) and arrival.slot not in self.in_pieces:
                    meter.watch(made)
            except Exception as error:
                text = str(error) or type(error).__name__
                raise WireError(
                    f"boxes: slot {arrival.slot} cannot be made of what arrived: {text}"
                ) from None
        return env

    def run(self, at: Seat, env: dict[int, Any], meter: Meter | None = None) -> None:
        """Fill the slots that are kept or leave: with pieces, a Failure, or trees of partial results."""
        for number in range(len(self.fragments)):
            self._fragment(number, at, env, meter)

    def _fragment(self, number: int, at: Seat, env: dict[int, Any], meter: Meter | None) -> None:
        """Run one fragment. Where a step fails on its data, the rest of the fragment is run again without it."""
        fragment = self.fragments[number][0]
        steps = [step for loop in fragment.loops for step in loop.steps]
        failed: dict[int, Failure] = {}
        while True:
            for step in steps:
                operands = (failed.get(i) or env.get(i) for i in step.ins)
                cause = next((o for o in operands if isinstance(o, Failure)), None)
                if cause is not None:
                    failed.update(dict.fromkeys(step.outs, cause))
            running: list[Step | None] = [None]
            try:
                made = self._shards(number, at, set(failed), env, running, meter)
            except Exception as error:  # a kernel may fail in any way
                culprit = running[0]
                if culprit is None or culprit.outs[0] in failed:
                    raise
                failure = Failure(type(error).__name__, str(error), self.numbers[id(culprit)], at.serial)
                failed.update(dict.fromkeys(culprit.outs, failure))
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
        running: list[Step | None],
        meter: Meter | None,
    ) -> dict[int, Any]:
        """The escaping slots' pieces, shard by shard. `running[0]` is the step that was begun last."""
        fragment, runners, escaping = self.fragments[number]
        shards = held(fragment.count, at.workers, at.worker)
        made: dict[int, Any] = {}
        for slot in escaping - failed:
            made[slot] = {} if slot in self.partial else []
        sums = {slot: self.partial[slot] for slot in made if slot in self.partial}
        places = {slot: leaves(what, shards) for slot, what in sums.items()}
        where: dict[int, tuple[Tree, int]] = {}
        first = {
            slot: held(self.program.slots[slot].sharding.count, at.workers, at.worker).start for slot in env
        }
        for shard in shards:
            local = _Local(env, first, shard, self.along)
            onto = {}
            for slot, what in sums.items():
                _, kept, leaf = next(places[slot])
                parts = made[slot].setdefault(kept, tree(what, self.pool.take))
                where[slot] = parts, leaf
                if parts.onto is not None:
                    onto[slot] = parts.onto
            for n, runner in enumerate(runners):
                begin = perf_counter() if meter is not None else 0.0
                local.here.update(runner.run(shard, local, failed, running, onto, meter))
                if meter is not None:
                    meter.loop(number, n, shard, begin)
            running[0] = None
            for slot, pieces in made.items():
                if slot in sums:
                    array = local.here[slot]  # a partial result, which nothing else reads
                    if array is not onto.get(slot):
                        parts, leaf = where[slot]
                        running[0] = self.maker[slot]
                        parts.push(0, leaf, array, own=array.flags.writeable)
                else:
                    running[0] = self.maker[slot]
                    pieces.append(_own(local.here[slot]))
        return made

    def _receive(self, arrival: Arrival, at: Seat, boxes: Sequence[Any]) -> Pieces | Failure:
        slot = self.program.slots[arrival.slot]
        items = [
            () if sent is None else sent[arrival.position] for sent in boxes[arrival.box][arrival.channel]
        ]
        for item in items:
            if isinstance(item, Failure):
                return item
        shards = held(slot.sharding.count, at.workers, at.worker)
        if isinstance(arrival.what, Sum):
            return receive_sums(arrival.what, items, at.workers, shards, slot, self.pool.take)
        along = self.in_pieces.get(arrival.slot)
        return receive_shards(arrival.what, items, at.workers, shards, slot.dtype, self.pool, along)


class _Local:
    """The arrays of one shard by slot: what was made for it just now, else its piece of what was there before."""

    def __init__(self, env: dict[int, Any], first: dict[int, int], shard: int, along: dict[int, int]):
        self.env, self.first, self.shard, self.along = env, first, shard, along
        self.here: dict[int, np.ndarray] = {}

    def get(self, slot: int) -> np.ndarray | None:
        """None if the slot has no value here, because its maker failed."""
        if slot in self.here:
            return self.here[slot]
        pieces = self.env.get(slot)
        if not isinstance(pieces, list):
            return None
        whole = len(pieces) == 1 and self.first[slot] == 0
        piece = pieces[0] if whole else pieces[self.shard - self.first[slot]]
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


def send(
    departure: Departure, value: Any, worker: int, workers: int, to: Iterable[int] | None = None
) -> list[Any]:
    """What `worker` puts into its box for a value: for the channel "each" a list for each worker in `to`, else one."""
    what = departure.what
    slot_count = _sums(what) if what.target is None else what.target.count
    receivers = (
        [held(slot_count, workers, w) for w in (range(workers) if to is None else to)]
        if departure.channel == "each"
        else [range(slot_count)]
    )
    if isinstance(value, Failure):
        return [value for _ in receivers]
    return [list(_send(what, value, worker, workers, shards)) for shards in receivers]


def _sums(what: Sum) -> int:
    total = 1
    for n, reduced in zip(what.counts, what.reduced, strict=True):
        total *= 1 if reduced else n
    return total


def _send(what: Sum | Move, value: Any, worker: int, workers: int, to: range) -> Any:
    if isinstance(what, Sum):
        if what.target is not None:
            arrays = [array for tree in value.values() for _, _, array, _ in tree.stack]
            for shard in to:
                at = inside(what.target.cell(shard), tuple((0, n) for n in what.target.shape))
                yield from (np.asarray(array[at], order="C") for array in arrays)
            return
        for kept, tree in sorted(value.items()):
            if kept in to:
                yield from (np.asarray(array) for _, _, array, _ in tree.stack)
        return
    sources = senders(what.source, workers, worker)
    start = held(what.source.count, workers, worker).start
    for source, _, region in overlaps(what, sources, to):
        piece = value[source - start][what.inside(region, what.source.cell(source))]
        # A slice does not keep alive what it is a slice of.
        yield np.asarray(piece, order="C") if what.slices is None else np.array(piece, order="C")


def receive_sums(
    what: Sum,
    items: Sequence[Sequence[np.ndarray]],
    workers: int,
    shards: range,
    slot: Slot,
    take: Take = np.empty,
) -> list[np.ndarray]:
    """The sums `shards`, which `slot` describes, from what each worker sent. Raises WireError for anything else."""
    pieces: list[dict[int, list[Any]]] = []  # of each worker by the number of the sum
    for w in range(workers):
        sent = iter(items[w])
        pieces.append({})
        for kept, n in sums_sent(what, workers, w, shards):
            shape = extent(slot.sharding.cell(kept))
            part = [check_array(a, shape, slot.dtype, "sum") for a in islice(sent, n)]
            if len(part) != n:
                raise WireError(f"sum: {len(part)} parts of worker {w}, not {n}")
            pieces[w][kept] = part
        _all_taken(sent, w)
    result = []
    for kept in shards:
        parts = {w: sent.get(kept, []) for w, sent in enumerate(pieces)}
        result.append(np.asarray(merged(what, parts, workers, kept, take)))
    return result


def _all_taken(sent: Iterator[Any], worker: int) -> None:
    if next(sent, None) is not None:
        raise WireError(f"worker {worker} sent more arrays than were asked for")


def receive_shards(
    what: Move,
    items: Sequence[Sequence[np.ndarray]],
    workers: int,
    shards: range,
    dtype: np.dtype,
    pool: Pool,
    along: int | None = None,
) -> list[Any]:
    """The target shards from what each worker sent. Those that are in pieces stay so if these lie along `along`."""
    parts: list[list[tuple[Region, np.ndarray]]] = [[] for _ in shards]
    for w in range(workers):
        arrays = iter(items[w])
        for _, target, region in overlaps(what, owned(what.source.count, workers, w), shards):
            array = check_array(next(arrays, None), extent(region), dtype, "shard")
            parts[target - shards.start].append((region, array))
        _all_taken(arrays, w)
    return [_put_together(what, s, p, dtype, pool, along) for s, p in zip(shards, parts, strict=True)]


def _put_together(
    what: Move,
    shard: int,
    parts: list[tuple[Region, np.ndarray]],
    dtype: np.dtype,
    pool: Pool,
    along: int | None,
) -> Any:
    if along is not None and parts:
        before = what.source.cell(shard) if shard < what.source.count else None
        own = next((n for n, (region, _) in enumerate(parts) if region == before), None)
        pieces = [array for _, array in parts]
        return pieces[0] if len(pieces) == 1 else Joined(pieces, along, pool.take, own)
    cell = what.target.cell(shard)
    result = pool.take(extent(cell), dtype)
    for region, array in parts:
        result[inside(region, cell)] = array
    return result


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
    """The slots of moved shards that are not put together, with the dimension along which their pieces lie.

    That is the one along which they were cut otherwise. Either all that is done with them is to read them in tiles
    along it; or they are kept, and are what was there before with narrow borders: then only these take memory.
    """
    leaving = {d.slot for d in program.departures}
    found = {}
    for slot, what in ((a.slot, a.what) for a in program.arrivals if a.slot not in leaving):
        if isinstance(what, Move) and what.target.count > 1:
            cuts = enumerate(zip(what.source.cuts, what.target.cuts, strict=True))
            changed = [d for d, (source, target) in cuts if source != target]
            kept = slot in program.keep
            if what.target.bordering(what.source) is not None if kept else changed == [along.get(slot)]:
                found[slot] = changed[0]
    return found
