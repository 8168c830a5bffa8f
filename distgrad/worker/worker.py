"""The worker: a store of shards, a pool of memory and the runners of programs. No Ray in it.

Every method takes and gives bytes, numbers and arrays, so the same object serves in the driver's process and in a Ray
actor. Calls come one at a time.
"""

from __future__ import annotations

import resource
from collections import Counter
from itertools import islice
from typing import Any

import msgpack
import numpy as np

from distgrad.caching import Cache
from distgrad.compiler import switch
from distgrad.errors import WireError
from distgrad.exchange import Failure, Joined, held, routing
from distgrad.exchange.boxes import pack_large, pack_small, unpack_large, unpack_small
from distgrad.fields import (
    WORKERS,
    check_array,
    read_int,
    read_list,
    read_sharding,
    unpack_array,
)
from distgrad.primitives.base import DTYPES
from distgrad.program import CHANNELS, Program, Slot
from distgrad.sharding import Sharding, extent
from distgrad.wire import decode
from distgrad.worker.execute import Pieces, Runner, Seat, arrays, outgoing, settled
from distgrad.worker.meter import Meter
from distgrad.worker.pool import Pool
from distgrad.worker.transport import resident

PROGRAMS = 96 << 20  # bytes of the programs that are kept ready


class Worker:
    """One of the workers, number `number`. `epoch` tells its life from that of a worker that was lost."""

    def __init__(self, number: int, epoch: int = 0):
        self.number = number
        self.epoch = epoch
        self.pool = Pool()
        self.store: dict[int, Pieces | Failure] = {}
        self.slots: dict[int, Slot] = {}  # of each stored value: its dtype and how it is cut
        self.ranges: dict[int, range] = {}  # and the numbers of the shards that lie here
        self.stash: dict[int, list[Any]] = {}  # by call: what this worker sends to itself
        self.runners: Cache[bytes, Runner] = Cache(PROGRAMS, lambda program, runner: runner.nbytes)
        self.meter: Meter | None = None  # while a profile is on

    @np.errstate(all="ignore")  # in kernels, and where sums meet that arrive or leave
    def run(self, header: bytes, program: bytes, *boxes: Any) -> tuple[Any, ...]:
        """Run one stage.

        `header` is a map: serial (number of the call), epoch, workers, inputs and keep (ids in the order of the
        program's), feeds (arrays), free (ids), donate (those of the inputs that nobody needs afterwards), stash (the
        serial of the call that each box came from) and profile (whether to measure). `boxes` holds, for each box of
        the program and each of its channels, one item from each worker; for "each" the numbers of the senders, then
        one item from each of those; for "small", among many workers, the one bundle of all.

        Returns the reply (`failures`; `small`: arrays for each send of that channel; `profile`: what was
        measured, if that was asked for), then the channel "large" if the program uses it, then for "each" one item
        for each of its `receivers`. A failed step is told in the reply and stands in place of its results; only a
        program that is not well formed raises, before anything has run.
        """
        head = self._header(header)
        runner = self._runner(program)
        slots = runner.program.slots
        for key in ("inputs", "feeds", "keep"):
            found, needed = len(head[key]), len(getattr(runner.program, key))
            if found != needed:
                raise WireError(f"header: {found} {key}, the program has {needed}")
        meter = self._meter(head["profile"], runner)
        workers = head["workers"]
        bound = zip(runner.program.inputs, head["inputs"], strict=True)
        inputs = [self._stored(number, slots[i], workers) for i, number in bound]
        feeds = [_feed(raw, slots[i]) for i, raw in zip(runner.program.feeds, head["feeds"], strict=True)]
        at = Seat(self.number, workers, head["serial"])
        env = runner.bind(at, inputs, feeds, self._boxes(runner.program, boxes, head), meter)
        # From here on nothing is refused.
        self.pool.call()
        self.stash.clear()  # only the call after may read what a call has sent, and it has
        self.free(head["free"])
        self.free(head["donate"])
        given = set(head["donate"])
        donated = {
            i for i, number in zip(runner.program.inputs, head["inputs"], strict=True) if number in given
        }
        if meter is not None:
            meter.lap("receive")
        before = runner.nbytes
        runner.run(at, env, meter, donated)
        self.runners.grew(runner.nbytes - before)
        if meter is not None:
            meter.lap("compute")
        for slot, number in zip(runner.program.keep, head["keep"], strict=True):
            self.store[number] = settled(env[slot])
            self.slots[number] = slots[slot]
            self.ranges[number] = held(slots[slot].sharding.count, workers, self.number)
        return self._reply(runner, env, head, meter)

    def _meter(self, wanted: bool, runner: Runner) -> Meter | None:
        if not wanted:
            self.meter = self.pool.watch = None
            return None
        if self.meter is None:
            self.meter = Meter(self.pool)
            self.pool.watch = self.meter.watch
            for value in self.store.values():
                self.meter.watch(arrays(value))
        self.meter.start(runner.scratch)
        return self.meter

    def _header(self, header: bytes) -> dict[str, Any]:
        try:
            head = msgpack.unpackb(header, raw=False)
        except Exception as error:
            raise WireError(f"header is not msgpack: {str(error) or type(error).__name__}") from None
        keys = {"serial", "epoch", "workers", "inputs", "keep", "feeds", "free", "donate", "stash", "profile"}
        if type(head) is not dict or set(head) != keys:
            raise WireError(f"header: expected a map with the keys {sorted(keys)}")
        for key in ("serial", "epoch", "workers"):
            read_int(head[key], f"header: {key}")
        if head["epoch"] != self.epoch:
            raise WireError(f"header: for epoch {head['epoch']!r}, this worker is of epoch {self.epoch}")
        if not self.number < head["workers"] <= WORKERS:
            raise WireError(
                f"header: for {head['workers']} workers of {WORKERS} at most, this is number {self.number}"
            )
        for key in ("inputs", "keep", "free", "donate", "stash"):
            _ids(head[key], f"header: {key}")
        times: Counter[int] = Counter(head["inputs"])
        if any(times[number] != 1 for number in head["donate"]):
            raise WireError("header: donate has an id that is not of one input")
        if len(set(head["keep"])) < len(head["keep"]):
            raise WireError("header: keep has one id for several values")
        read_list(head["feeds"], "header: feeds")
        if type(head["profile"]) is not bool:
            raise WireError("header: profile must be a boolean")
        return head

    def _runner(self, program: bytes) -> Runner:
        runner = self.runners.get(program) or self.runners.again(program)
        if runner is None:
            runner = self.runners.keep(program, Runner(decode(program), self.pool, len(program)))
        return runner

    def _stored(self, number: int, slot: Slot, workers: int) -> Pieces | Failure:
        if number not in self.store:
            raise WireError(f"header: nothing is stored under {number}")
        if self.slots[number] != slot:
            raise WireError(
                f"header: {self.slots[number]} is stored under {number}, the program is for {slot}"
            )
        value = self.store[number]
        mine = held(slot.sharding.count, workers, self.number)
        if isinstance(value, list) and self.ranges[number] != mine:
            raise WireError(
                f"header: {len(value)} shards are stored under {number}, not those of {workers} workers"
            )
        return value

    def _boxes(
        self, program: Program, boxes: tuple[Any, ...], head: dict[str, Any]
    ) -> list[dict[str, list[Any]]]:
        if len(head["stash"]) != len(program.boxes):
            raise WireError(f"header: {len(head['stash'])} stash, the program has {len(program.boxes)} boxes")
        try:
            return self._unpacked(program, boxes, head)
        except Exception as error:  # msgpack has many ways to fail
            raise WireError(f"boxes: damaged: {str(error) or type(error).__name__}") from None

    def _unpacked(
        self, program: Program, boxes: tuple[Any, ...], head: dict[str, Any]
    ) -> list[dict[str, list[Any]]]:
        workers = head["workers"]
        received = []
        items = iter(boxes)
        for channels, serial in zip(program.boxes, head["stash"], strict=True):
            box: dict[str, list[Any]] = {}
            for channel in channels:
                if channel == "each":
                    sent: list[Any] = [None] * workers
                    for sender in _ids(next(items), "senders"):
                        if sender == self.number or sent[sender] is not None:
                            raise ValueError(f"worker {sender} is named twice")
                        sent[sender] = next(items)
                    sent[self.number] = self.stash[serial]
                elif channel == "small" and workers > routing.FAN:
                    sent = read_list(next(items), "bundle", workers)
                else:
                    sent = list(islice(items, workers))
                if channel == "small":
                    box[channel] = [unpack_small(reply) for reply in sent]
                else:
                    box[channel] = [None if s is None else unpack_large(s) for s in sent]
            received.append(box)
        if next(items, self) is not self:
            raise ValueError("more items than the program has")
        return received

    def _reply(
        self, runner: Runner, env: dict[int, Any], head: dict[str, Any], meter: Meter | None
    ) -> tuple[Any, ...]:
        program = runner.program
        workers = head["workers"]
        out: dict[str, list[Any]] = {channel: [] for channel in CHANNELS}
        to = routing.receivers(program.sends, workers, self.number)
        for send in program.sends:
            value = env[send.slot]
            try:
                sent = outgoing(send, value, self.number, workers, (*to, self.number))
            except Exception as error:  # there may be no memory for a copy
                value = Failure(type(error).__name__, str(error), -1, head["serial"])
                env[send.slot] = value
                sent = outgoing(send, value, self.number, workers, (*to, self.number))
            out[send.channel].append(sent)
        failures = {id(v): v for v in env.values() if isinstance(v, Failure)}
        small = [pack_small(item) for (item,) in out["small"]]
        reply: dict[str, Any] = {"failures": [f.wire() for f in failures.values()], "small": small}
        if meter is not None:
            for channel, items in out.items():
                for item in items:
                    others = item[:-1] if channel == "each" else item
                    meter.left(others, 1 if channel == "each" else workers - 1)
            meter.lap("send")
            reply["profile"] = meter.told(runner.numbers)
        answer: list[Any] = [msgpack.packb(reply)]
        if out["large"]:
            answer.append([pack_large(item) for (item,) in out["large"]])
        if out["each"]:
            rows = [[pack_large(item) for item in row] for row in zip(*out["each"], strict=True)]
            self.stash[head["serial"]] = rows.pop()
            answer.extend(rows)
        return tuple(answer)

    def bundle(self, *replies: bytes | list[bytes]) -> tuple[list[bytes]]:
        """Replies, or bundles of them, as one bundle in the same order."""
        made = [one for part in replies for one in ([part] if isinstance(part, bytes) else part)]
        if any(type(one) is not bytes for one in made):
            raise WireError("bundle: a reply is bytes")
        return (made,)

    def load(self, header: bytes, array: np.ndarray) -> tuple[int]:
        """Store shards that the driver sends: `array` holds those from `first` up to `last`, side by side.

        Several calls may bring the shards of one value, in order.
        """
        number, sharding, shards = _load_header(header)
        dim = sharding.cut_dims[0] if sharding.cut_dims else 0
        cells = [extent(sharding.cell(shard)) for shard in shards]
        shape = list(sharding.shape)
        if shape:
            shape[dim] = sum(cell[dim] for cell in cells)
        if type(array) is not np.ndarray or array.dtype not in DTYPES.values():
            raise WireError("load: not an array of a dtype that a value may have")
        array, slot = check_array(array, tuple(shape), array.dtype, "load"), Slot(array.dtype, sharding)
        before = self.ranges.get(number, range(shards.start, shards.start))
        pieces = self.store.get(number, [])
        fits = self.slots.get(number, slot) == slot and before.stop == shards.start
        if isinstance(pieces, Failure) or not fits:
            raise WireError(
                f"load: shards from {shards.start} on do not go with what is stored under {number}"
            )
        start, made = 0, []
        for cell in cells:
            piece = self.pool.take(cell, array.dtype)
            if cell:
                np.copyto(piece, array[(slice(None),) * dim + (slice(start, start + cell[dim]),)])
                start += cell[dim]
            else:
                piece[...] = array
            made.append(piece)
        self.store[number], self.slots[number] = [*pieces, *made], slot
        self.ranges[number] = range(before.start, shards.stop)
        return (array.nbytes,)

    def unload(self, number: int, first: int, last: int, dim: int, start: int, stop: int) -> tuple[list[Any]]:
        """Shards `first` up to `last` of those that lie here; of each the part `start:stop` along `dim` (-1: all)."""
        if (
            any(type(n) is not int for n in (number, first, last, dim, start, stop))
            or number not in self.store
        ):
            raise WireError(f"unload: nothing is stored under {number!r}, or not a number")
        value = self.store[number]
        if isinstance(value, Failure):
            return (value.wire(),)
        dims, length = self.slots[number].sharding.shape, len(value)
        if not 0 <= first <= last <= length or not -1 <= dim < len(dims):
            raise WireError(
                f"unload: shards {first}:{last} along {dim} of {length} of {len(dims)} dimensions"
            )
        part = (slice(None),) * dim + (slice(max(0, start), max(0, stop)),) if dim >= 0 else ...
        pieces = (piece.whole() if type(piece) is Joined else piece for piece in value[first:last])
        return ([np.asarray(piece[part], order="C") for piece in pieces],)

    def reset(self, epoch: int, compile: bool = False) -> tuple[bool]:
        """Forget all values: a new session begins. Calls of other epochs are refused from here on.

        `compile`: loops become machine code. Returns whether they can; where not, they run on NumPy.
        """
        read_int(epoch, "epoch")
        if type(compile) is not bool:
            raise WireError(f"compile: expected true or false, got {type(compile).__name__}")
        able = switch.possible()
        if switch.on() != (compile and able):
            self.runners.clear()
        switch.turn(compile and able)
        self.store.clear()
        self.slots.clear()
        self.ranges.clear()
        self.stash.clear()
        self.epoch = epoch
        return (able,)

    def free(self, ids: list[int]) -> tuple[int]:
        """Forget the values stored under `ids`."""
        for number in _ids(ids, "free"):
            self.store.pop(number, None)
            self.slots.pop(number, None)
            self.ranges.pop(number, None)
        return (len(ids),)

    def memory(self) -> tuple[dict[str, int]]:
        """Bytes: `held` by values, `pooled` for reuse, of `programs` kept ready, and `rss` of the process.

        Beside them its `minor_faults` so far.
        """
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        told = {"held": self.pool.held, "pooled": self.pool.free, "programs": self.runners.nbytes}
        told |= {"rss": resident(), "minor_faults": faults}
        return ({"worker": self.number, **told},)


def _ids(raw: Any, what: str) -> list[int]:
    """A list of numbers."""
    return [read_int(i, what) for i in read_list(raw, what)]


def _load_header(header: bytes) -> tuple[int, Sharding, range]:
    """Under which id to store, how the value is cut (along one dimension at most), and which of its shards."""
    try:
        head = msgpack.unpackb(header, raw=False)
    except Exception as error:
        raise WireError(f"load: header is not msgpack: {str(error) or type(error).__name__}") from None
    keys = {"id", "cuts", "first", "last"}
    if type(head) is not dict or set(head) != keys:
        raise WireError(f"load: expected a map with the keys {sorted(keys)}")
    sharding = read_sharding(head["cuts"], "load")
    if len(sharding.cut_dims) > 1 or any(cut.overlap for cut in sharding.cuts):
        raise WireError("load: cut along more than one dimension, or in pieces that overlap")
    first = read_int(head["first"], "load: first", 0, sharding.count)
    last = read_int(head["last"], "load: last", first, sharding.count)
    return read_int(head["id"], "load: id"), sharding, range(first, last)


def _feed(raw: Any, slot: Slot) -> np.ndarray:
    array = unpack_array(raw)
    if (array.shape, array.dtype) != slot.aval:
        raise WireError(f"feed: {array.dtype} of shape {array.shape}, the program is for {slot.aval}")
    return array
