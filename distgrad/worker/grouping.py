"""Which steps of a loop are compiled together, as nests of rows and columns; the others stay calls of NumPy.

A group has one shape, split into rows and columns; each value of it has an element for all of these, for each row, for
each column, or one. What a step reads decides in which group it can be, and whether it must wait for another unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from distgrad.compiler.builder import TYPES, Builder, Lanes
from distgrad.compiler.nest import COLUMN, FULL, ONE, ROW, TABLE, Map, Nest, Reduction, Space, Taken
from distgrad.primitives.base import Fold, Lower, Lowering, Offset, Pick, Rows
from distgrad.program import Slot, Step
from distgrad.worker.frames import Frame, frames, reading, witness
from distgrad.worker.making import Making, Source, Unit, cast
from distgrad.worker.stencils import StencilMaking, members

SHORTEST = 4  # columns of a row of a table that is read where it lies


def compilable(step: Step, slots: Sequence[Slot]) -> bool:
    """Whether a loop can have machine code for the step, as far as its kind goes."""
    lower = step.primitive.lower
    if lower is None or step.tile is None or len(step.outs) != 1:
        return False
    if any(slots[i].aval.size == 0 for i in (*step.ins, *step.outs)):
        return False
    if isinstance(lower, Offset):
        return True
    if isinstance(lower, Rows):
        return _takes_rows(step, lower, slots)
    if isinstance(lower, Pick):
        return _picks(step, lower, slots)
    kinds = [slots[i].dtype.kind for i in step.ins]
    how = step.layout.labels.merge if step.layout.labels is not None else None
    return set(kinds) <= set(lower.kinds) and (isinstance(lower, Lower) or how == lower.how or how is None)


def _takes_rows(step: Step, lower: Rows, slots: Sequence[Slot]) -> bool:
    """Whether the rows of a whole table are taken, which are not too short."""
    table, index = (slots[i] for i in step.ins)
    (out,) = (slots[i].aval.shape for i in step.outs)
    labels = step.layout.labels
    whole = (
        lower.along(**step.attrs) and labels is not None and labels.merge is None and labels.ins[0][0] is None
    )
    known = table.dtype.name in TYPES and index.dtype == np.int64 and len(index.aval.shape) == 1
    return whole and known and math.prod(out[1:]) >= SHORTEST and out[1:] == table.aval.shape[1:]


def _picks(step: Step, lower: Pick, slots: Sequence[Slot]) -> bool:
    """Whether rows, which are not cut, have one index each, along what is last of them."""
    (out,) = step.outs
    others = [i for k, i in enumerate(step.ins) if k != lower.index]
    full = slots[out if lower.code else step.ins[0]].aval.shape
    dim = step.attrs["dim"]
    index = slots[step.ins[lower.index]]
    uncut = step.layout.outs[0] if lower.code else step.layout.needs[0]
    known = all(slots[i].dtype.name in TYPES and slots[i].dtype.kind in lower.kinds for i in (*others, out))
    one_each = index.aval.shape == (*full[:dim], 1, *full[dim + 1 :])
    return known and one_each and math.prod(full[dim + 1 :]) == 1 and uncut.cuts[dim].count == 1


def units(
    steps: Sequence[Step],
    slots: Sequence[Slot],
    operands: Sequence[tuple[int, ...]],
    windows: Sequence[int | None],
    left: Sequence[int],
    needed: set[int],
    checked: Mapping[int, int],
) -> list[Unit]:
    """The steps `left` of a loop in units, in an order in which they can run.

    `operands` are the registers that each step reads, `windows` what all of its operands and results have of a tile,
    `needed` the slots that are read after the loop, `checked` the registers with indices that were checked before.
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
        making = (
            StencilMaking(steps, slots, operands)
            if isinstance(group, int)
            else NestMaking(steps, slots, operands, group, checked)
        )
        for n in chosen:
            making.add(n)
        made.append((level, 1, chosen[0], making.done(wanted)))
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
    for frame in frames([steps[n] for n in able], slots, list(able.values())):
        own = [n for n, window in able.items() if window == frame.window]
        while members := _members(steps, slots, [n for n in own if n not in found], frame):
            found.update(dict.fromkeys(members, frame))
            frame = frame._replace(turn=frame.turn + 1)
    return found


def _members(steps: Sequence[Step], slots: Sequence[Slot], able: Sequence[int], frame: Frame) -> list[int]:
    """Steps that can run together in a frame; none, unless one of them goes through all elements."""
    made: dict[int, Space] = {}  # where the slots lie that are made in this frame
    seen: set[int] = set()  # the slots of which all elements are gone through
    members = []
    for n in able:
        step = steps[n]
        if (fit := reading(step, frame, slots)) is None:
            continue
        spaces = list(zip(step.ins, fit.ins, strict=True))
        lower = step.primitive.lower
        if isinstance(lower, Pick) and lower.code is None and step.ins[0] not in seen:
            continue  # one element of each row is read more quickly than all of them
        if _unchecked(step, made) or not all(made.get(i, space) == space for i, space in spaces):
            continue
        if any(made.get(i) in (COLUMN, ONE) for i in step.ins):
            continue  # it is known at the end only: another turn can read it
        made[step.outs[0]] = fit.out
        seen.update(i for i, space in (*spaces, (step.outs[0], fit.out)) if space == FULL)
        members.append(n)
    return members if seen else []


def _unchecked(step: Step, made: Container[int]) -> bool:
    """Whether the step's indices or table are `made` by the unit that it is to run in: nobody can check them before."""
    lower = step.primitive.lower
    if isinstance(lower, Rows):
        return any(i in made for i in step.ins)
    return isinstance(lower, Pick) and step.ins[lower.index] in made


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
    light = [_light(steps[n].primitive.lower) for n in members]
    return not all(moved) and (len(members) > 1 or not all(light))


def _light(lower: Lowering | None) -> bool:
    """Whether NumPy alone does it as quickly."""
    if isinstance(lower, Pick):
        return lower.code is None
    return isinstance(lower, Lower) and lower.light


class NestMaking(Making[Map | Reduction]):
    """A nest, in a frame. `checked`: the registers with indices, by step, that were checked before."""

    def __init__(
        self,
        steps: Sequence[Step],
        slots: Sequence[Slot],
        operands: Sequence[tuple[int, ...]],
        frame: Frame,
        checked: Mapping[int, int],
    ):
        super().__init__(steps, slots, operands)
        self.frame, self.checked = frame, checked
        self.known: dict[Source, int] = {}
        self.taken: list[Taken] = []
        self.counter: int | None = None

    def _operand(self, n: int, k: int, space: Space) -> int:
        slot, register = self.steps[n].ins[k], self.operands[n][k]
        if slot in self.number:
            return self.number[slot]
        if space == TABLE:  # other rows are another value
            return self._read(register, TABLE, FULL, self.slots[slot].dtype)
        lower = self.steps[n].primitive.lower
        told = isinstance(lower, (Rows, Pick)) and k == lower.index
        source = self.checked[n] if told else register, space
        if source not in self.known:
            self.known[source] = self._read(*source, space, self.slots[slot].dtype)
        return self.known[source]

    def add(self, n: int) -> None:
        """One step more."""
        self.members.append(n)
        step, lower = self.steps[n], self.steps[n].primitive.lower
        found = reading(step, self.frame, self.slots)
        assert found is not None
        ins = [self._operand(n, k, space) for k, space in enumerate(found.ins)]
        if isinstance(lower, Pick):
            self._pick(lower, ins.pop(lower.index), ins, step.outs[0])
            return
        (out,) = step.outs
        dtype = self.slots[out].dtype
        if isinstance(lower, Fold):
            ins = list(self._with_dtype(ins, dtype))
        made = self.number[out] = self._new(found.out, dtype)
        if isinstance(lower, Fold):
            self.made.append(Reduction(made, tuple(ins), lower.how))
        elif isinstance(lower, Rows):
            self.taken.append(Taken(ins[0], ins[1], self.slots[step.ins[0]].aval.shape[0]))
            self.made.append(Map(made, (ins[0],), _same, True))
        else:
            assert isinstance(lower, Lower)
            self.made.append(Map(made, tuple(ins), partial(lower.code, **step.attrs), lower.light))

    def _pick(self, lower: Pick, index: int, ins: Sequence[int], out: int) -> None:
        """A `Pick`. What is picked are bits, among zeros: so all of them stay."""
        dtype = self.slots[out].dtype
        column = self._map(ROW, np.dtype("int32"), partial(cast, dtype="int32"), index)
        there = self._map(FULL, np.dtype(bool), _equal, self._columns, column)
        if lower.code is not None:
            self.number[out] = self._map(FULL, dtype, lower.code, there, *ins)
            return
        bits = np.dtype(f"i{dtype.itemsize}") if dtype.kind == "f" else dtype
        one = self._map(FULL, bits, _or_zero, there, *ins)
        found = self._new(ROW, bits)
        self.made.append(Reduction(found, (one,), "or"))
        self.number[out] = self._map(ROW, dtype, partial(_of_bits, dtype=dtype), found)

    def _map(self, space: Space, dtype: np.dtype, code: Callable[..., Any], *ins: int) -> int:
        made = self._new(space, dtype)
        self.made.append(Map(made, ins, code))
        return made

    @property
    def _columns(self) -> int:
        """The number of each column."""
        if self.counter is None:
            self.counter = self._new(COLUMN, np.dtype("int32"))
        return self.counter

    def done(self, needed: set[int]) -> Unit:
        """All of it. `needed` are the slots that somebody else reads."""
        outputs = tuple([slot for n in self.members for slot in self.steps[n].outs if slot in needed])
        nest = Nest(
            tuple(self.values),
            tuple(self.arrays),
            tuple(self.made),
            tuple([self.number[slot] for slot in outputs]),
            tuple(self.taken),
            self.counter,
        )
        at, whole = witness(self.steps, self.slots, self.members, self.frame)
        return Unit(tuple(self.members), nest, tuple(self.inputs), outputs, self.frame.rows, at, whole)


def _equal(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    return b.equal(x, y)


def _or_zero(b: Builder, there: Lanes, x: Lanes) -> Lanes:
    bits = b.bits(x) if x.floating else x
    return b.select(there, bits, b.like(bits, 0))


def _of_bits(b: Builder, x: Lanes, dtype: np.dtype) -> Lanes:
    return b.floats(x) if dtype.kind == "f" else x


def _same(b: Builder, x: Lanes) -> Lanes:
    return x
