"""Fusing: the steps of a stage become fragments, which run shard by shard, and loops in them, which run tile by tile.

Both are made by one list scheduling: take all steps of one kind that can run now, then those of the next kind. Tile
sizes follow from shapes alone (promise P2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from distgrad.compiler import switch
from distgrad.program import Fragment, Loop, Slot, Step
from distgrad.worker.grouping import compilable

TILE = 256 << 10  # bytes of the largest array that a tile makes: some fit into a core's second-level cache
LEAST = 64 << 10  # bytes of it beyond which loops that are compiled run by tiles; the others beyond `TILE`
PRODUCT = 512 << 10  # the same beside products of matrices: long tiles suit BLAS more than they cost the rest
HALOED = 512 << 10  # the same where tiles read neighbours: one that lies across two shards is put together
READ = 2 << 20  # bytes of a tile of an array that is only read: from memory once, then from the cache
HEAVY = 32768  # multiply-adds for each row from which a product runs on whole shards: BLAS blocks for itself
StepRows = Mapping[tuple[int, ...], int]  # of the tiles, by the results of a step


def fuse(
    steps: Sequence[Step], slots: Sequence[Slot], leaving: set[int], pins: StepRows = MappingProxyType({})
) -> tuple[Fragment, ...]:
    """Group the steps (in an order in which they could run). `leaving` are slots that are kept or sent.

    `pins` are the rows of the tiles of some steps, by their results: sums and products have the bits that they have in
    tiles of so many rows. 0: the step is made again, and has no say in how many there are.
    """
    fragments = []
    groups = _groups(
        steps, lambda s: s.layout.shards, lambda count: count == 1, lambda key, maker, step, slot: True
    )
    for n, (count, group) in enumerate(groups):
        outside = leaving.union(*({i for s in later for i in s.ins} for _, later in groups[n + 1 :]))
        fragments.append(Fragment(count, _loops(group, slots, outside, pins)))
    return tuple(fragments)


def _loops(
    steps: Sequence[Step], slots: Sequence[Slot], escaping: set[int], pins: StepRows
) -> tuple[Loop, ...]:
    tiled: list[Step] = []
    whole = set(escaping)  # slots that are read on whole shards
    for s in reversed(steps):
        tiled.append(replace(s, tile=_tile_label(s, slots, whole)))
        whole.update(s.ins if tiled[-1].tile is None else ())
    steps = tiled[::-1]

    def streams(key: Any, maker: Step, step: Step, slot: int) -> bool:
        """Whether `step` may read what `maker` makes in the same loop."""
        if key is None:
            return True
        theirs, ours = maker.labels, step.labels
        if theirs is None or ours is None:
            return False
        made = _dim(theirs.outs[maker.outs.index(slot)], maker.tile)
        read = {_dim(names, step.tile) for names, i in zip(ours.ins, step.ins, strict=True) if i == slot}
        return made is not None and read == {made}

    def kind(step: Step) -> Hashable:
        pace = _pace(step)
        return pace if pace is None or not pins.get(step.outs) else (pace, pins[step.outs])

    loops = []
    for key, group in _groups(steps, kind, lambda k: k is None, streams):
        own = [step for step in group if pins.get(step.outs) != 0] or group
        rows = 0 if key is None else pins.get(group[0].outs) or _rows(own, slots)
        loops.append(Loop(rows, tuple(group)))
    return tuple(loops)


def _groups(
    steps: Sequence[Step],
    kind: Callable[[Step], Hashable],
    first: Callable[[Any], bool],
    together: Callable[[Any, Step, Step, int], bool],
) -> list[tuple[Any, list[Step]]]:
    """Groups of steps of one kind. Kinds that are `first` are taken as soon as they can run.

    `together(kind, maker, step, slot)` says whether `step` may stand in one group with the maker of its operand.
    """
    maker = {slot: step for step in steps for slot in step.outs}
    kinds = {id(s): kind(s) for s in steps}
    rest = list(steps)
    done: set[int] = set()
    groups = []
    while rest:
        ready = [s for s in rest if all(i not in maker or i in done for i in s.ins)]
        key = kinds[id(next((s for s in ready if first(kinds[id(s)])), ready[0]))]
        group: list[Step] = []
        inside: set[int] = set()
        for s in rest:
            if kinds[id(s)] == key and all(
                i not in maker or i in done or (i in inside and together(key, maker[i], s, i)) for i in s.ins
            ):
                group.append(s)
                inside.update(s.outs)
        done |= inside
        chosen = {id(s) for s in group}
        rest = [s for s in rest if id(s) not in chosen]
        groups.append((key, group))
    return groups


def _dim(names: tuple[int | None, ...], label: int | None) -> int | None:
    return names.index(label) if label is not None and label in names else None


def _tile_label(step: Step, slots: Sequence[Slot], escaping: set[int]) -> int | None:
    """The label along which the step can run tile by tile; None if it is to run on whole shards."""
    labels = step.layout.labels
    traits = step.primitive.traits
    if "whole" in traits or ("view" in traits and not escaping.isdisjoint(step.outs)):
        return None
    if labels is None:
        return _tile_dim(step)
    largest = max(slots[i].sharding.largest * slots[i].dtype.itemsize for i in (*step.ins, *step.outs))
    if largest <= (LEAST if switch.on() else TILE) and step.layout.shards == 1:
        return None
    if step.layout.grid:
        label: int | None = step.layout.grid[0][0]
    else:
        shapes = [
            (names, slots[i].aval.shape)
            for names, i in zip((*labels.outs, *labels.ins), (*step.outs, *step.ins), strict=True)
        ]
        if switch.on():  # along the largest, also where the result is none of its rows
            shapes.sort(key=lambda pair: math.prod(pair[1]), reverse=True)
        label = next(
            (
                n
                for names, shape in shapes
                for n, size in zip(names, shape, strict=True)
                if n is not None and size > 1
            ),
            None,
        )
    if label is None or (label not in labels.outs[0] and labels.merge is None) or _heavy(step, slots, label):
        return None
    if any(label not in names for names in labels.outs) and len(labels.outs) > 1:
        return None
    if labels.merge == "disjoint" and label not in labels.outs[0]:
        return None  # each tile would go through the whole result
    if "onto" in traits and not any(label in names for names in labels.ins):
        return None  # each tile would go through all operands
    return label


def _tile_dim(step: Step) -> int | None:
    """The dimension along which a regrouping can run tile by tile: the first that is cut."""
    (need, *more), (out, *_) = step.layout.needs, step.layout.outs
    if "shifts" not in step.primitive.traits or more or not out.cut_dims or need.cut_dims != out.cut_dims:
        return None
    if any(need.cuts[d].pace != out.cuts[d].pace for d in out.cut_dims):
        return None
    dim = out.cut_dims[0]
    slices = step.attrs.get("slices")
    return dim if slices is None or slices[dim][2] == 1 else None


def _heavy(step: Step, slots: Sequence[Slot], label: int) -> bool:
    """Whether a product does so much for each row that it is better left to BLAS in one piece."""
    labels = step.layout.labels
    if step.primitive.name != "contract" or labels is None:
        return False
    sizes: dict[int | None, int] = {}
    for names, i in zip(labels.ins, step.ins, strict=True):
        sizes.update(zip(names, slots[i].aval.shape, strict=True))
    return math.prod(size for n, size in sizes.items() if n != label) >= HEAVY


def _pace(step: Step) -> Hashable:
    """How the tile label is cut, but for shifts and overlaps: loops share it, so their steps have tiles in common."""
    return next((cut.pace for cut in step.windows()), None)


def _rows(steps: Sequence[Step], slots: Sequence[Slot]) -> int:
    """Rows of a tile: as many as keep what the loop makes within `TILE` or `PRODUCT` bytes, what it reads in `READ`."""
    matrices = any(s.primitive.name == "contract" and len(slots[s.outs[0]].sharding.shape) > 1 for s in steps)
    largest = PRODUCT if matrices else TILE
    if (
        switch.on()
        and not matrices
        and all(compilable(s, slots) or "view" in s.primitive.traits for s in steps)
    ):
        # What one unit makes on its way stays in the processor's registers. A tile at the edge of a halo is copied.
        largest = HALOED if any("shifts" in s.primitive.traits for s in steps) else READ
    made = {slot for step in steps if "view" not in step.primitive.traits for slot in step.outs}
    rows = READ
    for step in steps:
        labels = step.labels
        assert labels is not None
        for names, i in zip((*labels.ins, *labels.outs), (*step.ins, *step.outs), strict=True):
            dim = _dim(names, step.tile)
            if dim is not None:
                row = math.prod(c.longest for d, c in enumerate(slots[i].sharding.cuts) if d != dim)
                nbytes = max(1, row) * slots[i].dtype.itemsize
                rows = min(rows, (largest if i in made else READ) // nbytes)
    return max(1, rows)
