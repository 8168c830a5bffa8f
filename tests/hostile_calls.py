"""What a hostile program is called with, and the call itself: made twice, between guards, and looked at."""

from __future__ import annotations

import ctypes
import time
from typing import Any, NamedTuple

import msgpack
import numpy as np
from guarded import POISONS, Guards
from hostile_programs import LARGE, Hostile, Rng, cuts, pick
from messages import works
from numpy.lib.array_utils import byte_bounds

import distgrad.worker.worker as worker_module
from distgrad.errors import WireError
from distgrad.exchange import Reduce, Reshard, held, senders
from distgrad.fields import pack_array
from distgrad.primitives.base import DTYPES
from distgrad.program import Program, Recv, Slot
from distgrad.sharding import extent
from distgrad.wire import decode
from distgrad.worker.worker import Worker

MOST = 1 << 14  # elements of an array that is filled
ENOUGH = 1 << 20  # elements of a shard with which a program is run, not only read
MANY = 4000  # shards of a stored value with which it is run
COMPILED = 4  # of so many programs one runs as machine code, which takes longer
SECONDS = 30  # of processor time for one program, made twice
FILE = "data"  # for programs that read and write files, where they run


class Large(Exception):
    """A program that declares more elements or shards than are worth the time."""


class Call(NamedTuple):
    """A call of `run`, and what the worker holds before; arrays are put between guards when it is made."""

    number: int
    workers: int
    store: dict[int, tuple[Slot, list[np.ndarray]]]
    stash: dict[int, list[Any]]
    header: bytes
    program: bytes
    boxes: list[Any]


# What is in arrays.
def filled(rng: Rng, shape: tuple[int, ...], dtype: np.dtype, odd: bool = False) -> np.ndarray:
    """Numbers near 0 for the most part, and others that are at an end of their range; `odd` bools are any byte."""
    size = int(np.prod(shape, dtype=object))
    if size > MOST:
        return np.broadcast_to(np.asarray(rng.integers(0, 2), dtype), shape)
    if dtype.kind == "b":
        made = rng.integers(0, 256 if odd and rng.random() < 0.3 else 2, shape).astype(np.uint8).view(bool)
    elif dtype.kind == "i":
        low, high = pick(rng, ((0, 2), (0, 3), (-2, 5), (-1, 8), (-9, 9)))
        made = rng.integers(low, high, shape).astype(dtype)
        if size and rng.random() < 0.15:
            ends = np.iinfo(dtype)
            made.reshape(-1)[int(rng.integers(size))] = int(
                np.clip(pick(rng, (*LARGE, ends.min, -1)), ends.min, ends.max)
            )
    else:
        made = np.asarray(rng.standard_normal(shape) * pick(rng, (1, 1, 30))).astype(dtype)
        if size and rng.random() < 0.15:
            made.reshape(-1)[int(rng.integers(size))] = pick(rng, (np.nan, np.inf, -np.inf, -0.0, 3e38))
    return np.asarray(made).reshape(shape)


def _parts(rng: Rng, recv: Recv, slot: Slot, workers: int, sender: int, receiver: int) -> list[np.ndarray]:
    """What a worker would send for a recv, or about that."""
    what, mine = recv.what, held(slot.sharding.count, workers, receiver)
    shapes: list[tuple[int, ...]] = []
    if isinstance(what, Reduce):
        for kept, n in what.sent(workers, sender, mine):
            shapes += [extent(slot.sharding.cell(kept))] * n
    elif isinstance(what, Reshard):
        sources = senders(what.source, workers, sender)
        shapes = [extent(region) for _, _, region in what.overlaps(sources, mine)]
    made = [filled(rng, shape, slot.dtype, odd=True) for shape in shapes[:300]]
    if rng.random() < 0.1 / workers:
        made = pick(
            rng,
            (
                made[1:],
                [*made, np.zeros(3)],
                [np.zeros(a.shape, pick(rng, tuple(DTYPES))) for a in made],
                [np.asarray(a)[..., None] for a in made],
                [a.reshape(-1)[:1] for a in made],
                [a.T for a in made],
                [a.tolist() for a in made],
                ["IndexError", "gone", 0, 1],
            ),
        )
    return made


def _boxes(
    rng: Rng, program: Program, workers: int, number: int, stash: dict[int, list[Any]]
) -> tuple[list[int], list[Any]]:
    """The serial of each box, and the arguments."""
    serials, args = [], []
    for n, channels in enumerate(program.boxes):
        serials.append(n)
        for channel in channels:
            recvs = [a for a in program.recvs if (a.box, a.channel) == (n, channel)]
            count = min(4, max((a.position + 1 for a in recvs), default=1))
            sent = [
                [
                    next(
                        (
                            _parts(rng, a, program.slots[a.slot], workers, w, number)
                            for a in recvs
                            if a.position == position
                        ),
                        [],
                    )
                    for position in range(count)
                ]
                for w in range(workers)
            ]
            if channel == "each":
                others = [w for w in range(workers) if w != number]
                stash[n] = sent[number]
                args += [others, *(sent[w] for w in others)]
            elif channel == "small":
                replies = [msgpack.packb({"failures": [], "small": _packed(items)}) for items in sent]
                args += [replies] if workers > 32 else replies
            else:
                args += sent
    return serials, args


def _packed(items: list[list[Any]]) -> list[Any]:
    return [[pack_array(a) if isinstance(a, np.ndarray) else a for a in item] for item in items]


def call_of(rng: Rng, raw: Any, workers: int) -> tuple[Call, bool]:
    """A call for a program, and whether the program can be read. Where it can, the rest fits, for the most part."""
    number = int(rng.integers(workers))
    data = msgpack.packb(raw)
    try:
        program = decode(data)
    except WireError:
        return Call(number, workers, {}, {}, _header(rng, raw, workers), data, []), False
    if any(slot.sharding.largest > ENOUGH for slot in program.slots):  # it asks for the work that it says
        raise Large
    store, stash = {}, {}
    for n, i in enumerate(program.inputs):
        slot = program.slots[i]
        if rng.random() < 0.03:
            slot = Slot(DTYPES[pick(rng, tuple(DTYPES))], cuts(rng, (3,)))
        shards = held(slot.sharding.count, workers, number)
        if len(shards) > MANY:
            raise Large
        store[10 + n] = (
            slot,
            [filled(rng, extent(slot.sharding.cell(s)), slot.dtype) for s in shards],
        )
    feeds = [
        filled(rng, program.slots[i].aval.shape, program.slots[i].dtype, odd=True) for i in program.feeds
    ]
    serials, boxes = _boxes(rng, program, workers, number, stash)
    fields = {
        "inputs": list(store),
        "keep": [100 + n for n in range(len(program.keep))],
        "feeds": [pack_array(a) for a in feeds if a.size <= MOST],
        "stash": serials,
    }
    return Call(number, workers, store, stash, _header(rng, fields, workers), data, boxes), True


def _donated(rng: Rng, fields: Any) -> list[int]:
    """Some of the inputs."""
    inputs = fields.get("inputs") if isinstance(fields, dict) else None
    return [number for number in inputs if rng.random() < 0.5] if isinstance(inputs, list) else []


def _header(rng: Rng, fields: Any, workers: int) -> bytes:
    head = {
        "serial": 7,
        "epoch": 0,
        "workers": workers,
        "free": [],
        "donate": _donated(rng, fields),
        "profile": rng.random() < 0.1,
        **{
            key: fields[key] if isinstance(fields, dict) and key in fields else []
            for key in ("inputs", "keep")
        },
        **{key: fields.get(key, []) if isinstance(fields, dict) else [] for key in ("feeds", "stash")},
    }
    if rng.random() < 0.05:
        key = pick(rng, tuple(head))
        head[key] = pick(rng, (None, -1, 0, 1, 2, [], [1], [-1], [10, 10], [[]], True, *LARGE))
    try:
        return msgpack.packb(head)
    except (TypeError, ValueError, OverflowError):
        return b""


# The call.
class Rig:
    """Workers that take one call after the other."""

    def __init__(self, guards: Guards):
        self.guards = guards
        self.workers: dict[int, Worker] = {}
        unpack = worker_module.unpack_array
        worker_module.unpack_array = lambda raw: guards.copy(unpack(raw))  # feeds and small replies
        self.file = np.random.default_rng(0).bytes(4096)

    def check(self, call: Call, compile: bool = False) -> str:
        """Make the call with each poison. What came of it: "refused", "failed" or "done"."""
        if compile:  # which takes its time once
            self._made(call, POISONS[0], True)
        begun = time.process_time()
        first, second = (self._made(call, poison, compile) for poison in POISONS)
        assert first == second, f"what comes back depends on other memory: {_where(first, second)}"
        spent = time.process_time() - begun
        assert spent < SECONDS, f"{spent:.1f} s for {len(call.program)} bytes"
        return "refused" if first[0] == "refused" else "failed" if first[1] else "done"

    def _made(self, call: Call, poison: int, compile: bool) -> Any:
        worker = self.workers.setdefault(call.number, Worker(call.number))
        self.guards.begin(poison)
        worker.reset(0, compile)
        for number, (slot, pieces) in call.store.items():
            worker.store[number] = [self._guarded(p) for p in pieces]
            worker.slots[number] = slot
            worker.ranges[number] = held(slot.sharding.count, call.workers, call.number)
        worker.stash.update({serial: [self._item(i) for i in items] for serial, items in call.stash.items()})
        boxes = [[self._item(i) for i in box] if isinstance(box, list) else box for box in call.boxes]
        if b"_npy" in call.program:
            with open(FILE, "wb") as file:
                file.write(self.file)
        before = set(worker.store)
        try:
            answer = worker.run(call.header, call.program, *boxes)
        except WireError as error:
            assert set(worker.store) == before, "a call that is refused has an effect"
            seen: Any = ("refused", str(error))
        else:
            reply = msgpack.unpackb(answer[0])
            reply.pop("profile", None)
            _check_stored(worker, call)
            held_now = {n: _bytes(v) if isinstance(v, list) else v.wire() for n, v in worker.store.items()}
            seen = (
                "run",
                reply["failures"],
                reply["small"],
                _bytes(answer[1:]),
                held_now,
                _bytes(worker.stash),
            )
        self.guards.end()
        assert works(worker) if call.number == 0 else True, "the worker gives a wrong answer afterwards"
        return seen

    def _guarded(self, array: np.ndarray) -> np.ndarray:
        return self.guards.copy(array) if array.size <= MOST and not array.dtype.hasobject else array

    def _item(self, item: Any) -> Any:
        if isinstance(item, np.ndarray):
            return self._guarded(item)
        return [self._item(i) for i in item] if isinstance(item, list) else item


def _check_stored(worker: Worker, call: Call) -> None:
    """Every stored piece is what its slot says."""
    for number, value in worker.store.items():
        slot = worker.slots[number]
        shards = held(slot.sharding.count, call.workers, call.number)
        for shard, piece in zip(shards, value if isinstance(value, list) else (), strict=False):
            pieces = [piece] if isinstance(piece, np.ndarray) else piece.pieces
            for array in pieces:
                assert type(array) is np.ndarray, f"{type(array)} is stored"
                assert array.dtype == slot.dtype, f"{array.dtype} is stored as {slot.dtype}"
                flat = _small(array)
                assert array.dtype.kind != "b" or not flat.size or flat.view(np.uint8).max() <= 1, "odd bools"
            if isinstance(piece, np.ndarray):
                wanted = extent(slot.sharding.cell(shard))
                assert piece.shape == wanted, f"{piece.shape} is stored as {wanted}"


def _small(array: np.ndarray) -> np.ndarray:
    """Without what is repeated."""
    return array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]


def _bytes(item: Any) -> Any:
    if isinstance(item, np.ndarray):
        small = _small(item)
        low, high = byte_bounds(small)
        if small.nbytes > high - low:  # windows that overlap: their memory says it all
            return item.shape, item.dtype.name, small.strides, ctypes.string_at(low, high - low)
        return item.shape, item.dtype.name, small.tobytes()
    if isinstance(item, list | tuple):
        return [_bytes(i) for i in item]
    if isinstance(item, dict):
        return {key: _bytes(value) for key, value in item.items()}
    return [_bytes(p) for p in item.pieces] if hasattr(item, "pieces") else item


def _where(first: Any, second: Any, path: str = "") -> str:
    if type(first) is type(second) and isinstance(first, list | tuple) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return next((_where(a, b, f"{path}.{n}") for n, (a, b) in pairs if a != b), path)
    if isinstance(first, dict) and isinstance(second, dict) and set(first) == set(second):
        return next(
            (_where(first[k], second[k], f"{path}.{k}") for k in first if first[k] != second[k]), path
        )
    return f"{path}: {str(first)[:200]} and {str(second)[:200]}"


def check_load(rng: Rng, worker: Worker) -> str:
    """A load that may be anything."""
    sharding = cuts(rng, tuple(int(n) for n in rng.integers(0, 5, rng.integers(3))))
    head = {"id": 1, "cuts": sharding.wire(), "first": 0, "last": sharding.count}
    array: Any = filled(rng, sharding.shape, DTYPES[pick(rng, tuple(DTYPES))], odd=True)
    for _ in range(int(rng.integers(3))):
        key = pick(rng, (*head, "array"))
        if key == "array" and isinstance(array, np.ndarray):
            array = pick(
                rng, (array[..., None], array.T, array.reshape(-1)[1:], array.tolist(), array.astype(">i2"))
            )
        else:
            head[key] = pick(rng, (0, 1, -1, 2, None, "x", [], [[4, 2]], [[1 << 40, 1]], *LARGE))
    try:
        worker.load(msgpack.packb(head), array)
    except WireError:
        assert worker.store == {}
        return "refused"
    ((number, pieces),) = worker.store.items()
    slot, shards = worker.slots[number], worker.ranges[number]
    assert isinstance(pieces, list)
    shapes = [piece.shape for piece in pieces]
    assert shapes == [extent(slot.sharding.cell(s)) for s in shards]
    joined = np.concatenate([p.reshape(-1) for p in pieces]) if shapes else np.zeros(0)
    assert joined.dtype.kind != "b" or not joined.size or joined.view(np.uint8).max() <= 1
    assert not shapes or joined.size == array.size
    return "done"


def one(seed: int, index: int, hostile: Hostile, rig: Rig) -> str:
    """Program number `index` of a seed. Raises AssertionError, or whatever goes wrong."""
    rng = np.random.default_rng((seed, index))
    if rng.random() < 0.03:
        return "load " + check_load(rng, Worker(0))
    raw, workers = hostile.make(rng)
    try:
        msgpack.packb(raw)
    except (OverflowError, ValueError, TypeError):  # msgpack has no such number
        return "not sent"
    try:
        call, _ = call_of(rng, raw, workers)
    except Large:
        return "large"
    return rig.check(call, index % COMPILED == 0)
