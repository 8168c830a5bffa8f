"""The shapes that steps of a loop have in common, and where the operands and results of each lie in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from distgrad.compiler.nest import CHUNK, COLUMN, FULL, LONGEST, MOST_LANES, ONE, ROW, TABLE, Space
from distgrad.primitives.base import Labels, Lower, Pick, Rows
from distgrad.program import Slot, Step

Shape = tuple[int, ...]
Names = tuple[int | None, ...]


class Frame(NamedTuple):
    """The shape of a group, how many of its dimensions are rows (0: all is one row), and which window tiles have."""

    shape: Shape
    rows: int
    window: int
    turn: int = (
        0  # of several groups that go through the same: the later ones read what the others have reduced
    )

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
    if isinstance(step.primitive.lower, Rows):
        made = slots[step.outs[0]].aval.shape
        fits = frame.rows == 1 and frame.shape == made and step.labels and step.tile == step.labels.outs[0][0]
        return Reading((TABLE, ROW), FULL) if fits and min(made) > 1 else None
    if isinstance(step.primitive.lower, Pick):
        return _picking(step, frame, shapes, slots[step.outs[0]].aval.shape)
    maps = isinstance(step.primitive.lower, Lower)
    assert step.labels is not None
    return _reading(step.labels, shapes, slots[step.outs[0]].aval.shape, maps, step.tile, frame)


def _picking(step: Step, frame: Frame, shapes: Sequence[Shape], out: Shape) -> Reading | None:
    """How one fits that has an element of each row apart from the others: see `Pick`."""
    assert step.labels is not None
    names = step.labels.ins[0]
    ins = [frame.of(shape) for shape in shapes]
    made = frame.of(out)
    tile = names.index(step.tile) if step.tile in names else frame.rows
    if made is None or None in ins or frame.rows != step.attrs["dim"] or tile >= frame.rows:
        return None
    return Reading(tuple([space for space in ins if space is not None]), made)


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


def frames(steps: Sequence[Step], slots: Sequence[Slot], windows: Sequence[int]) -> list[Frame]:
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


def witness(
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
