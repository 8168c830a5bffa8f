"""Which steps of a loop are compiled together, as nests of rows and columns; the others stay calls of NumPy.

A group has one shape, split into rows and columns; each value of it has an element for all of these, for each row, for
each column, or one. What a step reads decides in which group it can be, and whether it must wait for another unit.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.nest import (
    CHUNK,
    COLUMN,
    FULL,
    LONGEST,
    MOST_LANES,
    ONE,
    ROW,
    Map,
    Nest,
    Reduction,
    Space,
    Value,
)
from distgrad.compiler.stencil import Stencil
from distgrad.primitives.base import DTYPES, Fold, Labels, Lower, Offset
from distgrad.program import Slot, Step
from distgrad.worker.stencils import Making, Spot, members

Shape = tuple[int, ...]
Names = tuple[int | None, ...]
Source = tuple[int, Space]  # a register, and how it is read


class Unit(NamedTuple):
    """Steps that run as one call. `nest`, if they are compiled: its inputs are registers, its outputs slots."""

    steps: tuple[int, ...]
    nest: Nest | Stencil | None = None
    inputs: tuple[Source, ...] = ()
    outputs: tuple[int, ...] = ()
    rows: int = 0  # how many of the dimensions are rows
    witness: tuple[int, int] = (
        0,
        -1,
    )  # a step, and which of its operands (-1: its result) has all of the frame's shape
    whole: bool = True  # False: the witness has but the rows, as no value has more
    spots: tuple[Spot, ...] = ()  # of a stencil: inputs, outputs, what has zeros around, what is added up


class Frame(NamedTuple):
    """The shape of a group, how many of its dimensions are rows (0: all is one row), and which window tiles have."""

    shape: Shape
    rows: int
    window: int

    def space(self, dims: Iterable[int]) -> Space | None:
        """Where a value lies that has these dimensions; None: in none of the spaces."""
        long = {d for d, n in enumerate(self.shape) if n > 1}
        has = long.intersection(dims)
        if has == long:
            return FULL
        if not has:
            return ONE
        if not self.rows:
            return None
        row = {d for d in long if d < self.rows}
        return ROW if has == row else COLUMN if has == long - row else None

    def of(self, shape: Shape) -> Space | None:
        """Where a value lies that has as many elements as all, or as the rows, with or without a place for columns."""
        if shape == self.shape:
            return FULL
        row = self.shape[: self.rows]
        ones = (1,) * (len(self.shape) - self.rows)
        return ROW if self.rows and shape in (row, row + ones) else None


def summed_by(shape: Shape) -> int:
    """The rows of the frame in which all elements of a value are added: rows that are neither short nor long, or none.

    It follows from the shape, so a sum has the same bits whatever else its loop does.
    """
    return len(shape) - 1 if len(shape) > 1 and MOST_LANES <= shape[-1] <= CHUNK else 0


class Reading(NamedTuple):
    """Where, in a frame, the operands of a step lie, and its result."""

    ins: tuple[Space, ...]
    out: Space


def reading(step: Step, frame: Frame, slots: Sequence[Slot]) -> Reading | None:
    """How a step fits into a frame; None: it does not."""
    shapes = tuple([slots[i].aval.shape for i in step.ins])
    maps = isinstance(step.primitive.lower, Lower)
    assert step.labels is not None
    return _reading(step.labels, shapes, slots[step.outs[0]].aval.shape, maps, step.tile, frame)


@lru_cache(maxsize=4096)  # a program has few kinds of steps
def _reading(
    labels: Labels, shapes: tuple[Shape, ...], out: Shape, maps: bool, tile: int | None, frame: Frame
) -> Reading | None:
    """The same by the step's labels, the shapes of its operands and result, and whether it is no reduction."""
    whole = out if maps else max(shapes, key=math.prod)
    names = labels.outs[0] if maps else labels.ins[shapes.index(whole)]
    dims = {name: d for d, name in enumerate(names) if name is not None}
    if frame.of(whole) is None or (frame.rows and tile in dims and dims[tile] >= frame.rows):
        return None
    ins: list[Space] = []
    for shape, own in zip(shapes, labels.ins, strict=True):
        space = _space(frame, dims, own, shape)
        if space is None:
            return None
        ins.append(space)
    made = _space(frame, dims, labels.outs[0], out)
    if made is None or not (made in (FULL, ROW) if maps else _can_fold(frame, ins, made)):
        return None
    return Reading(tuple(ins), made)


def _space(frame: Frame, dims: dict[int, int], names: tuple[int | None, ...], shape: Shape) -> Space | None:
    """Where a value lies whose dimensions have these labels: in the frame's own order, or in none of the spaces.

    `dims` are the dimensions of the frame by label.
    """
    long = [name for name, size in zip(names, shape, strict=True) if size > 1]
    places = [dims[n] for n in long if n is not None and n in dims]
    if len(places) < len(long) or places != sorted(places):
        return None
    return frame.space(places)


def _can_fold(frame: Frame, ins: list[Space], made: Space) -> bool:
    """Whether a reduction has, in this frame, the order of additions that its shape asks for."""
    if FULL not in ins:
        return made == ONE and set(ins) == {ROW}
    if made == ROW:
        return frame.rows > 0 and math.prod(frame.shape[frame.rows :]) <= LONGEST
    return made == COLUMN or (made == ONE and frame.rows == summed_by(frame.shape))


def compilable(step: Step, slots: Sequence[Slot]) -> bool:
    """Whether a loop can have machine code for the step, as far as its kind goes."""
    lower = step.primitive.lower
    if lower is None or step.tile is None or len(step.outs) != 1:
        return False
    if any(slots[i].aval.size == 0 for i in (*step.ins, *step.outs)):
        return False
    if isinstance(lower, Offset):
        return True
    kinds = [slots[i].dtype.kind for i in step.ins]
    how = step.layout.labels.merge if step.layout.labels is not None else None
    return set(kinds) <= set(lower.kinds) and (isinstance(lower, Lower) or how == lower.how or how is None)


def _frames(steps: Sequence[Step], slots: Sequence[Slot], windows: Sequence[int]) -> list[Frame]:
    """The frames that are worth a try, from the largest shape."""
    rows: dict[tuple[Shape, int], list[int]] = {}
    for step, window in zip(steps, windows, strict=True):
        assert step.labels is not None
        shapes = tuple([slots[i].aval.shape for i in (*step.ins, *step.outs)])
        for shape in set(shapes):
            splits = rows.setdefault((shape, window), [])
            splits += [n for n in [_split(step.labels.ins + step.labels.outs, shapes, shape)] if n]
    found = []
    for (shape, window), splits in rows.items():
        often = max(set(splits), key=lambda n: (splits.count(n), n), default=summed_by(shape))
        if math.prod(shape) > 1:
            found.append(Frame(shape, often, window))
    return sorted(found, key=lambda f: (math.prod(f.shape), len(f.shape), f), reverse=True)


@lru_cache(maxsize=4096)
def _split(names: tuple[Names, ...], shapes: tuple[Shape, ...], shape: Shape) -> int:
    """How a step, whose operands and results have these labels, splits one of them into rows and columns.

    0: it does not.
    """
    whole = names[shapes.index(shape)]
    long = [d for d, n in enumerate(shape) if n > 1]
    for own, other in zip(names, shapes, strict=True):
        has = [d for d in long if whole[d] is not None and whole[d] in own]
        if has == long or not has or len(has) != sum(n > 1 for n in other):
            continue
        if has == long[: len(has)]:
            return long[len(has)]
        if has == long[-len(has) :]:
            return long[-len(has)]
    return 0


def units(
    steps: Sequence[Step],
    slots: Sequence[Slot],
    operands: Sequence[tuple[int, ...]],
    windows: Sequence[int | None],
    left: Sequence[int],
    needed: set[int],
) -> list[Unit]:
    """The steps `left` of a loop in units, in an order in which they can run.

    `operands` are the registers that each step reads, `windows` what all of its operands and results have of a tile,
    `needed` the slots that are read after the loop.
    """
    stencils, borders = members(steps, slots, left, lambda step: compilable(step, slots))
    group_of: dict[int, Frame | int] = {n: -1 - g for n, g in stencils.items()}
    rest = [n for n in left if n not in stencils]
    group_of.update(_frame_of(steps, slots, windows, rest))
    order = _levels(steps, left, group_of, borders)
    _sink(steps, left, group_of, order, needed)
    groups: dict[tuple[int, Frame | int], list[int]] = {}
    for n in left:
        groups.setdefault((order[n], group_of.get(n, n)), []).append(n)
    made: list[tuple[int, int, int, Unit]] = []
    for (level, group), chosen in groups.items():
        if (isinstance(group, int) and group >= 0) or not _worth(steps, chosen):
            made += [(level, 0, n, Unit((n,))) for n in chosen]
            continue
        inside = set(chosen)
        wanted = needed.union(*(steps[n].ins for n in left if n not in inside))
        if isinstance(group, int):
            making = Making(steps, slots, operands)
            for n in chosen:
                making.add(n)
            nest, reads, outs, spots = making.done(wanted)
            inputs = tuple([(register, FULL) for register in reads])
            unit = Unit(tuple(chosen), nest, inputs, tuple(outs), spots=tuple(spots))
        else:
            unit = _unit(steps, slots, operands, chosen, group, wanted)
        made.append((level, 1, chosen[0], unit))
    made.sort(key=lambda entry: entry[:3])
    return [unit for *_, unit in made]


def _frame_of(
    steps: Sequence[Step], slots: Sequence[Slot], windows: Sequence[int | None], left: Sequence[int]
) -> dict[int, Frame]:
    """The frame of each step that is compiled."""
    able = {
        n: w
        for n in left
        if (w := windows[n]) is not None
        and not isinstance(steps[n].primitive.lower, Offset)
        and compilable(steps[n], slots)
    }
    found: dict[int, Frame] = {}
    for frame in _frames([steps[n] for n in able], slots, list(able.values())):
        made: dict[int, Space] = {}  # where the slots lie that are made in this frame
        whole = False
        members = []
        for n, window in able.items():
            if n in found or window != frame.window or (fit := reading(steps[n], frame, slots)) is None:
                continue
            spaces = zip(steps[n].ins, fit.ins, strict=True)
            if all(made.get(i, space) == space for i, space in spaces):
                made[steps[n].outs[0]] = fit.out
                members.append(n)
                whole = whole or FULL in (*fit.ins, fit.out)
        if whole:
            found.update(dict.fromkeys(members, frame))
    return found


def _levels(
    steps: Sequence[Step], left: Sequence[int], group_of: Mapping[int, Hashable], borders: set[int]
) -> dict[int, int]:
    """When each step can run: what reads from a group outside of it, or across a border, waits for that to end."""
    maker = {slot: n for n in left for slot in steps[n].outs}
    level: dict[int, int] = {}
    for n in left:
        before = [maker[i] for i in steps[n].ins if i in maker]
        mine = group_of.get(n)
        level[n] = max(
            [level[m] + (m in group_of and (group_of[m] != mine or n in borders)) for m in before],
            default=0,
        )
    return level


def _sink(
    steps: Sequence[Step],
    left: Sequence[int],
    group_of: Mapping[int, Hashable],
    level: dict[int, int],
    needed: set[int],
) -> None:
    """Shifts go to the first of their readers, if all are of the same group: else what they make would be stored."""
    readers: dict[int, list[int]] = {}
    for n in left:
        for i in steps[n].ins:
            readers.setdefault(i, []).append(n)
    for n in reversed(left):
        (out, *_), own = steps[n].outs, readers.get(steps[n].outs[0], [])
        moved = n in group_of and isinstance(steps[n].primitive.lower, Offset) and out not in needed
        if moved and own and all(group_of.get(m) == group_of[n] for m in own):
            level[n] = min(level[m] for m in own)


def _worth(steps: Sequence[Step], members: Sequence[int]) -> bool:
    """Whether compiling these steps gains anything over NumPy's own passes."""
    moved = [isinstance(steps[n].primitive.lower, Offset) for n in members]
    light = [isinstance(low := steps[n].primitive.lower, Lower) and low.light for n in members]
    return not all(moved) and (len(members) > 1 or not all(light))


def _unit(
    steps: Sequence[Step],
    slots: Sequence[Slot],
    operands: Sequence[tuple[int, ...]],
    members: Sequence[int],
    frame: Frame,
    needed: set[int],
) -> Unit:
    """A group as a nest."""
    values: list[Value] = []
    number: dict[int | Source, int] = {}  # of a slot that is made here, or of what is read
    inputs: list[Source] = []
    nest: list[Map | Reduction] = []

    def new(space: Space, slot: int, dtype: str | None = None) -> int:
        values.append(Value(space, DTYPES[dtype] if dtype else slots[slot].dtype))
        return len(values) - 1

    for n in members:
        step, lower = steps[n], steps[n].primitive.lower
        found = reading(step, frame, slots)
        assert found is not None
        ins = []
        for slot, register, space in zip(step.ins, operands[n], found.ins, strict=True):
            if slot not in number and (register, space) not in number:
                number[register, space] = new(space, slot)
                inputs.append((register, space))
            ins.append(number[slot] if slot in number else number[register, space])
        (out,) = step.outs
        if isinstance(lower, Lower):
            number[out] = new(found.out, out)
            nest.append(Map(number[out], tuple(ins), partial(lower.code, **step.attrs), lower.light))
            continue
        assert isinstance(lower, Fold)
        dtype = slots[out].dtype
        for k, (i, slot) in enumerate(zip(ins, step.ins, strict=True)):
            if slots[slot].dtype != dtype:
                ins[k] = new(found.ins[k], slot, dtype.name)
                nest.append(Map(ins[k], (i,), partial(_cast, dtype=dtype.name), True))
        number[out] = new(found.out, out)
        nest.append(Reduction(number[out], tuple(ins), lower.how))
    outputs = tuple([slot for n in members for slot in steps[n].outs if slot in needed])
    made = Nest(
        tuple(values),
        tuple([number[source] for source in inputs]),
        tuple(nest),
        tuple([number[slot] for slot in outputs]),
    )
    witness, whole = _witness(steps, slots, members, frame)
    return Unit(tuple(members), made, tuple(inputs), outputs, frame.rows, witness, whole)


def _witness(
    steps: Sequence[Step], slots: Sequence[Slot], members: Sequence[int], frame: Frame
) -> tuple[tuple[int, int], bool]:
    """What tells the shape of a tile: see `Unit`."""
    for space in (FULL, ROW):
        for n in members:
            fit = reading(steps[n], frame, slots)
            assert fit is not None
            places = (*fit.ins, fit.out)
            shapes = [slots[i].aval.shape for i in (*steps[n].ins, *steps[n].outs)]
            for k, (place, shape) in enumerate(zip(places, shapes, strict=True)):
                if place == space == frame.of(shape):
                    return (n, -1 if k == len(fit.ins) else k), space == FULL
    raise AssertionError("a group has neither all elements nor rows")


def _cast(b: Builder, x: Lanes, dtype: str) -> Lanes:
    return b.cast(x, dtype)
