"""Programs as bytes: msgpack and nothing else.

`encode` writes a program, `decode` reads it back and checks every field: an unknown primitive, a mistyped attribute, a
reference to nothing, trailing bytes or too many bytes is a `WireError` that names what is wrong, and nothing of the
program has run.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgpack
import numpy as np

from distgrad.cutting import PIECES, SHARDS, most_shards
from distgrad.errors import WireError
from distgrad.exchange import Reading, Reduce, read_exchange, reduce_of
from distgrad.fields import bounded, check, read_int, read_list, read_sharding, show
from distgrad.primitives import TABLE, Layout, Primitive
from distgrad.primitives.base import ATTR_TYPES, DTYPES
from distgrad.primitives.rules import agrees, sizes_of
from distgrad.program import (
    CHANNELS,
    Exchange,
    Fragment,
    Loop,
    Program,
    Recv,
    Send,
    Slot,
    Step,
)
from distgrad.sharding import Cut, Sharding, sharding_from_wire

VERSION = 2
LIMIT = 16 << 20  # bytes of a program


# Writing


def encode(program: Program) -> bytes:
    """The program as msgpack."""
    return msgpack.packb(
        {
            "v": VERSION,
            "slots": [[s.dtype.name, s.sharding.wire()] for s in program.slots],
            "inputs": program.inputs,
            "feeds": program.feeds,
            "recvs": [[a.slot, a.what.wire(), a.box, a.channel, a.position] for a in program.recvs],
            "fragments": [
                [f.count, [[loop.rows, [_step(s) for s in loop.steps]] for loop in f.loops]]
                for f in program.fragments
            ],
            "sends": [[d.slot, d.what.wire(), d.channel] for d in program.sends],
            "keep": program.keep,
            "boxes": program.boxes,
        }
    )


def _step(step: Step) -> list[Any]:
    attrs = {k: v.wire() if isinstance(v, Sharding) else v for k, v in step.attrs.items()}
    grid = [[label, cut.wire()] for label, cut in step.layout.grid]
    return [step.primitive.name, step.ins, step.outs, attrs, step.layout.shards, grid, step.tile]


# Reading


def decode(data: bytes) -> Program:
    """Read a program and check all of it. Raises WireError."""
    if len(data) > LIMIT:
        raise WireError(f"program of {len(data)} bytes is over the limit of {LIMIT}")
    try:
        raw = msgpack.unpackb(data, strict_map_key=True, raw=False)
    except Exception as error:
        raise WireError(f"program is not msgpack: {str(error) or type(error).__name__}") from None
    return _Reader().program(raw)


class _Reader:
    """Reads one program; `defined` are the slots that have a value at this point of it, `partial` partial results."""

    def __init__(self) -> None:
        self.slots: tuple[Slot, ...] = ()
        self.most = SHARDS  # of any value: as many as the largest can need, or as one has that is stored
        self.defined: set[int] = set()
        self.partial: dict[int, Reduce] = {}

    def program(self, raw: Any) -> Program:
        keys = {"v", "slots", "inputs", "feeds", "recvs", "fragments", "sends", "keep", "boxes"}
        check(type(raw) is dict and set(raw) == keys, f"program: expected a map with the keys {sorted(keys)}")
        check(
            type(raw["v"]) is int and raw["v"] == VERSION,
            f"program: version {show(raw['v'])}, this is version {VERSION}",
        )
        self.slots = tuple(self.slot(s, i) for i, s in enumerate(read_list(raw["slots"], "slots")))
        boxes = tuple(self.box(b) for b in read_list(raw["boxes"], "boxes"))
        inputs = tuple(self.define(i, "inputs") for i in read_list(raw["inputs"], "inputs"))
        largest = max([s.aval.size for s in self.slots], default=0)
        self.most = max([most_shards(largest), *[self.slots[i].sharding.count for i in inputs]])
        for i, slot in enumerate(self.slots):
            bounded(slot.sharding, f"slot {i}", self.most)
        feeds = tuple(self.define(i, "feeds") for i in read_list(raw["feeds"], "feeds"))
        for i in feeds:
            check(self.slots[i].sharding.count == 1, f"feeds: slot {i} is cut")
        recvs = tuple(self.recv(a, boxes) for a in read_list(raw["recvs"], "recvs"))
        fragments = tuple(self.fragment(f) for f in read_list(raw["fragments"], "fragments"))
        sends = tuple(self.send(d) for d in read_list(raw["sends"], "sends"))
        keep = tuple(self.use(i, "keep") for i in read_list(raw["keep"], "keep"))
        idle = set(range(len(self.slots))) - self.defined
        check(not idle, f"slots: {show(min(idle, default=0))} has no value")
        return Program(self.slots, inputs, feeds, recvs, fragments, sends, keep, boxes)

    def slot(self, raw: Any, i: int) -> Slot:
        name, cuts = read_list(raw, f"slot {i}", 2)
        check(type(name) is str and name in DTYPES, f"slot {i}: unknown dtype {show(name)}")
        return Slot(DTYPES[name], read_sharding(cuts, f"slot {i}", self.most))

    def box(self, raw: Any) -> tuple[str, ...]:
        channels = tuple(read_list(raw, "boxes"))
        check(
            channels == tuple(c for c in CHANNELS if c in channels), "boxes: unknown channel, or wrong order"
        )
        return channels

    def use(self, i: Any, what: str) -> int:
        read_int(i, what)
        check(i in self.defined, f"{what}: slot {i} has no value here")
        check(i not in self.partial, f"{what}: slot {i} has partial results, which are only sent")
        return i

    def define(self, i: Any, what: str) -> int:
        read_int(i, what)
        check(i < len(self.slots), f"{what}: there is no slot {i}")
        check(i not in self.defined, f"{what}: slot {i} has a value already")
        self.defined.add(i)
        return i

    def what(self, raw: Any, slot: int, channel: Any, recv: bool) -> Exchange:
        at = Reading(self.slots[slot], slot, recv, self.partial.get(slot), self.most)
        made = read_exchange(raw, at)
        check(
            type(channel) is str and channel in (("each",) if made.count > 1 else ("small", "large")),
            f"{at.what}: not a channel for {made.count} shards: {show(channel)}",
        )
        return made

    def recv(self, raw: Any, boxes: tuple[tuple[str, ...], ...]) -> Recv:
        slot, what, box, channel, position = read_list(raw, "recv", 5)
        self.define(slot, "recv")
        read_int(box, "recv", 0, len(boxes) - 1)
        made = self.what(what, slot, channel, recv=True)
        check(channel in boxes[box], f"recv: box {box} has no channel {channel!r}")
        return Recv(slot, made, box, channel, read_int(position, "recv"))

    def send(self, raw: Any) -> Send:
        slot, what, channel = read_list(raw, "send", 3)
        if not (type(slot) is int and slot in self.partial):
            self.use(slot, "send")
        return Send(slot, self.what(what, slot, channel, recv=False), channel)

    def fragment(self, raw: Any) -> Fragment:
        count, loops = read_list(raw, "fragment", 2)
        read_int(count, "fragment", 1, SHARDS)
        made = []
        for loop in read_list(loops, "loops"):
            rows, steps = read_list(loop, "loop", 2)
            read_int(rows, "loop", 0, LIMIT)
            made.append(Loop(rows, tuple(self.step(s, count, rows) for s in read_list(steps, "steps"))))
            check(bool(steps), "loop: without steps")
            if rows:
                _check_tiles(made[-1], self.slots)
        check(bool(made), "fragment: without loops")
        return Fragment(count, tuple(made))

    def step(self, raw: Any, count: int, rows: int) -> Step:
        name, ins, outs, attrs, nshards, grid, tile = read_list(raw, "step", 7)
        check(type(name) is str and name in TABLE, f"unknown primitive {show(name)}")
        primitive = TABLE[name]
        attrs = self.attrs(primitive, attrs)
        ins = tuple(self.use(i, name) for i in read_list(ins, name))
        outs = tuple(self.define(i, name) for i in read_list(outs, name))
        check(len(ins) in _arity(name), f"{name}: does not take {len(ins)} operands")
        check(read_int(nshards, name, 1) == count, f"{name}: {nshards} shards in a fragment of {count}")
        avals = [self.slots[i].aval for i in ins]
        results = [self.slots[i].aval for i in outs]
        pairs = tuple(
            (read_int(label, name, -LIMIT, LIMIT), _cut(cut, name))
            for label, cut in (read_list(g, name, 2) for g in read_list(grid, name))
        )
        bounded(Sharding(tuple(cut for _, cut in pairs)), f"grid of {name}", self.most)
        layout = Layout(
            count,
            tuple(self.slots[i].sharding for i in ins),
            tuple(self.slots[i].sharding for i in outs),
            grid=pairs,
        )
        try:
            fit = list(primitive.shape(avals, attrs)) == results
            if fit and primitive.labels is not None:
                labels = primitive.labels(avals, attrs)
                sizes = tuple(sizes_of(labels, avals, results).items())
                merged = any(label not in labels.outs[0] for label, _ in pairs)
                layout = layout._replace(labels=labels, sizes=sizes, merged=merged)
            cut = fit and agrees(layout, primitive, avals, attrs)
        except Exception as error:
            text = str(error) or type(error).__name__
            raise WireError(f"{name}: operands or attributes do not fit: {text}") from None
        check(fit, f"{name}: results {outs} have other shapes or dtypes")
        check(cut, f"{name}: operands or results are not cut as its grid of {count} cells is")
        if layout.merged:
            self.partial.update((slot, reduce_of(layout)) for slot in outs)
        check(
            tile is None if rows == 0 else type(tile) is int and tile in _tile_labels(primitive, layout),
            f"{name}: bad tile label {show(tile)}",
        )
        return Step(primitive, ins, outs, attrs, layout, tile)

    def attrs(self, primitive: Primitive, raw: Any) -> dict[str, Any]:
        check(
            type(raw) is dict and set(raw) == set(primitive.attrs),
            f"{primitive.name}: attributes must be {sorted(primitive.attrs)}",
        )
        attrs = {}
        for key, kind in primitive.attrs.items():
            try:
                attrs[key] = made = ATTR_TYPES[kind](raw[key])
            except (TypeError, ValueError):
                text = f"attribute {key!r} is not of type {kind}: {show(raw[key])}"
                raise WireError(f"{primitive.name}: {text}") from None
            if isinstance(made, Sharding):
                bounded(made, f"{primitive.name}: attribute {key!r}", self.most)
        return attrs


def _tile_labels(primitive: Primitive, layout: Layout) -> Iterable[int]:
    """The labels along which a step can run tile by tile; of a regrouping, the dimensions."""
    if "whole" in primitive.traits:
        return ()
    if layout.labels is not None:
        return dict(layout.sizes)
    (need, *_), (out, *_) = layout.needs, layout.outs
    if "shifts" not in primitive.traits or need.cut_dims != out.cut_dims:
        return ()
    return [d for d in out.cut_dims[:1] if need.cuts[d].pace == out.cuts[d].pace]


@cache
def _arity(name: str) -> range:
    """How many operands the kernel of a primitive takes. One too many might be written to as `out`."""
    primitive = TABLE[name]
    if isinstance(primitive.kernel, np.ufunc):
        return range(primitive.kernel.nin, primitive.kernel.nin + 1)
    parameters = inspect.signature(primitive.kernel).parameters
    if any(p.kind == inspect.Parameter.VAR_POSITIONAL for p in parameters.values()):
        return range(1, LIMIT)
    others = primitive.attrs.keys() | {"at", "out", "onto", "dtype"}
    operands = [p for name, p in parameters.items() if name not in others]
    return range(sum(p.default is p.empty for p in operands), len(operands) + 1)


def _check_tiles(loop: Loop, slots: Sequence[Slot]) -> None:
    """The tiles of all steps are the same, and what a step makes tile by tile is read by the same tiles."""
    made: dict[int, int | None] = {}
    paces: set[Any] = set()
    longest = largest = 0
    for step in loop.steps:
        name, labels, tile = step.primitive.name, step.labels, step.tile
        assert labels is not None
        assert tile is not None
        grid = step.layout.grid
        check(not grid or grid[0][0] == tile, f"{name}: bad tile label {tile}")
        for cut in step.windows():
            paces.add(cut.pace)
            longest = max(longest, cut.longest)
        largest = max([largest, *[slots[i].sharding.largest for i in (*step.ins, *step.outs)]])
        for slot, names in zip(step.ins, labels.ins, strict=True):
            dim = names.index(tile) if tile in names else None
            good = slot not in made or (dim is not None and made[slot] == dim)
            check(good, f"{name}: slot {slot} is made by other tiles than it is read by")
        for slot, names in zip(step.outs, labels.outs, strict=True):
            made[slot] = names.index(tile) if tile in names else None
            good = made[slot] is not None or (labels.merge is not None and len(step.outs) == 1)
            check(good, f"{name}: bad tile label {tile}")
    check(len(paces) <= 1, "loop: steps with other tiles")
    tiles, most = -(-longest // loop.rows), max(PIECES >> 2, min(PIECES << 6, largest >> 6))
    check(tiles <= most, f"loop: {tiles} tiles of a shard of {largest} elements, more than {most}")


def _cut(raw: Any, what: str) -> Cut:
    try:
        return sharding_from_wire([read_list(raw, what)]).cuts[0]
    except ValueError as error:
        raise WireError(f"{what}: {error}") from None
