"""Which steps of a loop are compiled together as a stencil: slices, pads and what is done element by element with them.

All values of a stencil have the same number of dimensions, none of which is turned. What is read at several distances
is made again for each, so something dear that is shifted is made by one stencil and read by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from distgrad.compiler.builder import TYPES, Builder, Lanes
from distgrad.compiler.nest import FULL, ONE, Map, Reduction
from distgrad.compiler.stencil import By, Shift, Stencil
from distgrad.primitives.base import Fold, Lower, Offset
from distgrad.program import Slot, Step
from distgrad.worker.making import Dims, Making, Spot, Unit

DEAR = 8  # instructions from which it is quicker to store what is read at several distances


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
    if not isinstance(lower, Lower | Fold | Offset):
        return 0
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


def _home(step: Step) -> By:
    """Where tiles are counted from, in the coordinates of what a step makes, or adds up."""
    labels, layout = step.labels, step.layout
    assert labels is not None
    folds = isinstance(step.primitive.lower, Fold)
    names, cuts = (labels.ins[0], layout.needs[0]) if folds else (labels.outs[0], layout.outs[0])
    window = step.window(names, cuts)
    return tuple([-window.offset if window is not None and name == step.tile else 0 for name in names])


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


class StencilMaking(Making[Map | Shift | Reduction]):
    """A stencil, with its places."""

    def __init__(self, steps: Sequence[Step], slots: Sequence[Slot], operands: Sequence[tuple[int, ...]]):
        super().__init__(steps, slots, operands)
        self.known: dict[tuple[int, Dims], int] = {}
        self.read: list[Spot] = []
        self.zeros: list[Spot] = []
        self.added: list[Spot] = []
        self.results: dict[int, Spot] = {}
        self.homes: dict[int, By] = {}  # by slot

    def _operand(self, n: int, k: int) -> int:
        slot, register = self.steps[n].ins[k], self.operands[n][k]
        if slot in self.number:
            return self.number[slot]
        spot = self._spot(n, k)
        if (register, spot.dims) not in self.known:
            self.known[register, spot.dims] = self._read(register, FULL, FULL, self.slots[slot].dtype)
            self.read.append(spot)
        return self.known[register, spot.dims]

    def _spot(self, n: int, k: int) -> Spot:
        spot = _spot(self.steps[n], n, k, self.slots)
        assert spot is not None
        return spot

    def add(self, n: int) -> None:
        """One step more."""
        self.members.append(n)
        step, lower = self.steps[n], self.steps[n].primitive.lower
        (out,) = step.outs
        ins = tuple([self._operand(n, k) for k in range(len(step.ins))])
        dtype, dims = self.slots[out].dtype, tuple(range(len(self.slots[out].aval.shape)))
        if isinstance(lower, Fold):
            ins = self._with_dtype(ins, dtype)
            made = self._new(ONE, dtype)
            self.made.append(Reduction(made, ins, lower.how))
            self.added.append(self._spot(n, 0))
            self.results[out] = Spot(n, -1, (None,) * len(self.added[-1].dims))
        else:
            made = self._new(FULL, dtype)
            self.results[out] = Spot(n, -1, dims)
        self.number[out] = made
        self.homes[out] = _home(step)
        if isinstance(lower, Lower):
            self.made.append(Map(made, ins, partial(lower.code, **step.attrs), lower.light))
        elif isinstance(lower, Offset):
            by = lower.by(len(dims), **step.attrs)
            assert by is not None
            self.made.append(Shift(made, (ins[0],), by, lower.zeros))
            self.zeros += [Spot(n, 0, dims)] if lower.zeros else []

    def done(self, needed: set[int]) -> Unit:
        """All of it. `needed` are the slots that somebody else reads."""
        outputs = tuple([out for out in self.results if out in needed])
        nest = Stencil(
            len(next(iter(self.results.values())).dims),
            tuple(self.values),
            tuple(self.arrays),
            tuple([tuple([d is None for d in spot.dims]) for spot in self.read]),
            tuple(self.made),
            tuple([self.number[out] for out in outputs]),
            {self.number[out]: home for out, home in self.homes.items()},
        )
        spots = (*self.read, *[self.results[out] for out in outputs], *self.zeros, *self.added)
        return Unit(tuple(self.members), nest, tuple(self.inputs), outputs, spots=spots)
