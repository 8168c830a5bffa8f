"""Which steps of a loop are compiled together as a stencil: slices, pads and what is done element by element with them.

All values of a stencil have the same number of dimensions, none of which is turned. What is read at several distances
is made again for each, so something dear that is shifted is made by one stencil and read by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from distgrad.compiler.builder import TYPES, Builder, Lanes
from distgrad.compiler.nest import FULL, ONE, Map, Reduction, Space, Value
from distgrad.compiler.stencil import Shift, Stencil
from distgrad.primitives.base import Fold, Lower, Offset
from distgrad.program import Slot, Step

DEAR = 8  # instructions from which it is quicker to store what is read at several distances
Names = tuple[int | None, ...]


class Spot(NamedTuple):
    """What has bounds in a stencil: operand `which` of step `step`, or its result (-1).

    `dims` tell for each dimension of the box which one of the operand that is; None: one element stands for all.
    """

    step: int
    which: int
    dims: tuple[int | None, ...]


class Members(NamedTuple):
    """The steps in stencils, each with the number of its stencil, and those that read elsewhere what is dear."""

    of: dict[int, int]
    borders: set[int]


def members(
    steps: Sequence[Step], slots: Sequence[Slot], left: Sequence[int], compilable: Callable[[Step], bool]
) -> Members:
    """The stencils in a loop: what hangs together by values, with one shift in it at least."""
    if not any(isinstance(steps[n].primitive.lower, Offset) for n in left):
        return Members({}, set())
    dims: dict[int, int] = {}
    maker: dict[int, int] = {}
    group: dict[int, int] = {}
    for n in left:
        step = steps[n]
        found = _dims(step, slots) if compilable(step) else 0
        spots = [_spot(step, n, k, slots) for k in range(len(step.ins))] if found else [None]
        made = [(spot, maker[i]) for spot, i in zip(spots, step.ins, strict=False) if i in maker]
        if None in spots or any(dims[m] != found or spot is None or None in spot.dims for spot, m in made):
            continue
        dims[n] = found
        near = {group[m] for _, m in made}
        group[n] = min(near, default=n)
        for other in near - {group[n]}:
            group.update({m: group[n] for m, g in group.items() if g == other})
        if not isinstance(steps[n].primitive.lower, Fold):
            maker[steps[n].outs[0]] = n
    shifting = {group[n] for n in group if isinstance(steps[n].primitive.lower, Offset)}
    working = {group[n] for n in group if not isinstance(steps[n].primitive.lower, Offset)}
    of = {n: g for n, g in group.items() if g in shifting & working}
    return Members(of, _borders(steps, slots, of, maker))


def _dims(step: Step, slots: Sequence[Slot]) -> int:
    """The dimensions of the box that a step goes through; 0: it cannot be in a stencil."""
    lower, labels = step.primitive.lower, step.labels
    assert labels is not None
    whole = labels.outs[0]
    if isinstance(lower, Fold):
        whole = max(labels.ins, key=len)
        alike = all(
            names == whole and slots[i].aval.shape == slots[step.ins[0]].aval.shape
            for names, i in zip(labels.ins, step.ins, strict=True)
        )
        if not alike or slots[step.outs[0]].aval.size != 1:
            return 0
    if isinstance(lower, Offset) and lower.by(len(whole), **step.attrs) is None:
        return 0
    known = all(slots[i].dtype.name in TYPES for i in (*step.ins, *step.outs))
    return len(whole) if known and None not in whole and len(set(whole)) == len(whole) else 0


def _spot(step: Step, n: int, k: int, slots: Sequence[Slot]) -> Spot | None:
    """Operand `k` of step number `n`; None: its dimensions stand in another order."""
    labels = step.labels
    assert labels is not None
    if isinstance(step.primitive.lower, Offset):
        return Spot(n, k, tuple(range(len(labels.outs[0]))))
    folds = isinstance(step.primitive.lower, Fold)
    whole = max(labels.ins, key=len) if folds else labels.outs[0]
    sizes = dict(zip(labels.outs[0], slots[step.outs[0]].aval.shape, strict=True))
    names, shape = labels.ins[k], slots[step.ins[k]].aval.shape
    own = {name: d for d, name in enumerate(names) if name in whole and shape[d] == sizes.get(name, shape[d])}
    if any(n > 1 and names[d] not in own for d, n in enumerate(shape)):
        return None
    dims = tuple([own.get(name) for name in whole])
    at = [d for d in dims if d is not None]
    return Spot(n, k, dims) if at == sorted(at) else None


def _borders(
    steps: Sequence[Step], slots: Sequence[Slot], of: dict[int, int], maker: dict[int, int]
) -> set[int]:
    """The shifts that read what is dear to make again."""
    cones: dict[int, frozenset[int]] = {}  # of each step: those whose results are made again with its own
    borders = set()
    for n in sorted(of):
        before = [cones[maker[i]] for i in steps[n].ins if maker.get(i) in cones]
        cone = frozenset({n}).union(*before)
        if before and _shifts(steps[n]) and sum(_instructions(steps[m], slots) for m in cone) > DEAR:
            borders.add(n)
            cone = frozenset({n})
        cones[n] = cone
    return borders


def _shifts(step: Step) -> bool:
    """Whether elements of the operand are read elsewhere."""
    lower, labels = step.primitive.lower, step.labels
    assert labels is not None
    return isinstance(lower, Offset) and any(lower.by(len(labels.outs[0]), **step.attrs) or ())


def _instructions(step: Step, slots: Sequence[Slot]) -> int:
    lower = step.primitive.lower
    if not isinstance(lower, Lower):
        return 0
    kinds = tuple([slots[i].dtype.name for i in step.ins])
    return _lines(lower, kinds, tuple(sorted(step.attrs.items())))


@lru_cache(maxsize=1024)
def _lines(lower: Lower, kinds: tuple[str, ...], attrs: tuple[tuple[str, Any], ...]) -> int:
    """How many instructions an element takes."""
    b = Builder(8)
    lower.code(b, *[Lanes(f"%x{n}", TYPES[kind]) for n, kind in enumerate(kinds)], **dict(attrs))
    return len(b.lines)


class Making:
    """A stencil that grows: with the registers that it reads, the slots that it makes, and its places."""

    def __init__(self, steps: Sequence[Step], slots: Sequence[Slot], operands: Sequence[tuple[int, ...]]):
        self.steps, self.slots, self.operands = steps, slots, operands
        self.values: list[Value] = []
        self.number: dict[Any, int] = {}  # of a slot that is made here, or of what is read
        self.registers: list[int] = []
        self.made: list[Map | Shift | Reduction] = []
        self.read: list[Spot] = []
        self.zeros: list[Spot] = []
        self.added: list[Spot] = []
        self.results: dict[int, Spot] = {}

    def _new(self, space: Space, dtype: np.dtype) -> int:
        self.values.append(Value(space, dtype))
        return len(self.values) - 1

    def _operand(self, n: int, k: int) -> int:
        slot = self.steps[n].ins[k]
        if slot in self.number:
            return self.number[slot]
        spot = _spot(self.steps[n], n, k, self.slots)
        assert spot is not None
        key = "read", self.operands[n][k], spot.dims
        if key not in self.number:
            self.number[key] = self._new(FULL, self.slots[slot].dtype)
            self.registers.append(self.operands[n][k])
            self.read.append(spot)
        return self.number[key]

    def add(self, n: int) -> None:
        """One step more."""
        step, lower = self.steps[n], self.steps[n].primitive.lower
        (out,) = step.outs
        ins = [self._operand(n, k) for k in range(len(step.ins))]
        dims = tuple(range(len(self.slots[out].aval.shape)))
        if isinstance(lower, Fold):
            self._reduce(n, lower, ins)
            return
        made = self.number[out] = self._new(FULL, self.slots[out].dtype)
        self.results[out] = Spot(n, -1, dims)
        if isinstance(lower, Lower):
            self.made.append(Map(made, tuple(ins), partial(lower.code, **step.attrs), lower.light))
            return
        assert isinstance(lower, Offset)
        by = lower.by(len(dims), **step.attrs)
        assert by is not None
        self.made.append(Shift(made, (ins[0],), by, lower.zeros))
        self.zeros += [Spot(n, 0, dims)] if lower.zeros else []

    def _reduce(self, n: int, lower: Fold, ins: list[int]) -> None:
        (out,) = self.steps[n].outs
        dtype, spot = self.slots[out].dtype, _spot(self.steps[n], n, 0, self.slots)
        assert spot is not None
        for k, i in enumerate(ins):
            if self.values[i].dtype != dtype:
                ins[k] = self._new(FULL, dtype)
                self.made.append(Map(ins[k], (i,), partial(_cast, dtype=dtype.name), True))
        self.number[out] = self._new(ONE, dtype)
        self.made.append(Reduction(self.number[out], tuple(ins), lower.how))
        self.added.append(spot)
        self.results[out] = Spot(n, -1, (None,) * len(spot.dims))

    def done(self, needed: set[int]) -> tuple[Stencil, list[int], list[int], list[Spot]]:
        """All of it. `needed` are the slots that somebody else reads."""
        outputs = [out for out in self.results if out in needed]
        nest = Stencil(
            len(next(iter(self.results.values())).dims),
            tuple(self.values),
            tuple([i for key, i in self.number.items() if isinstance(key, tuple)]),
            tuple([tuple([d is None for d in spot.dims]) for spot in self.read]),
            tuple(self.made),
            tuple([self.number[out] for out in outputs]),
        )
        made = [self.results[out] for out in outputs]
        return nest, self.registers, outputs, [*self.read, *made, *self.zeros, *self.added]


def _cast(b: Builder, x: Lanes, dtype: str) -> Lanes:
    return b.cast(x, dtype)
