"""Lineage: how what the workers store came to be there, as the driver knows it, so that it can be made again.

Every value on workers has a *maker*: arrays that the driver has uploaded and kept, a *run* of a plan (all that one
flush has sent), or a *copy* that was taken of it. A run is done again as it was, by the same programs on the same
operands: the bits are the same, and nothing is planned anew. It knows what it has read by who made that, and keeps
none of it alive, so lineage goes back over values that were overwritten long ago, as far as the last copies.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.callsites import CallSite
from distgrad.graph import Result, Spec
from distgrad.plan.plans import Plan
from distgrad.sharding import Sharding
from distgrad.worker.transport import Handle

Sites = list[Sequence[CallSite | None]]  # by stage, of each step


class Made:
    """One value: who makes it, and which of its results it is. A copy takes the place of the maker once it is there."""

    __slots__ = ("maker", "number")

    def __init__(self, maker: Maker, number: int):
        self.maker = maker
        self.number = number


class Read(NamedTuple):
    """What a run has read on the workers."""

    made: Made
    box: Any  # where the parts of it were, if it was not stored
    copies: Mapping[Sharding, Made]  # who has stored it cut otherwise


class Run:
    """A plan that was sent. `order` says what was sent before what; `serial` is that of its last call."""

    __slots__ = ("order", "plan", "reads", "serial", "sites", "specs")

    def __init__(
        self, order: int, plan: Plan, reads: list[np.ndarray | Read], sites: Sites, specs: list[Spec]
    ):
        self.order = order
        self.plan = plan
        self.reads = reads  # its external values: a known one itself
        self.sites = sites
        self.specs = specs  # of all its values
        self.serial = 0

    def needs(self, counts: Callable[[Any], bool]) -> list[Made]:
        """What must be there for it to be done again; not what is still in a box that `counts`."""
        found = []
        for value, cuts in self.plan.places.given:
            read = self.reads[value]
            assert isinstance(read, Read)
            found.append(read.made)
            if cuts != self.specs[value].sharding:
                found.append(read.copies[cuts])
        boxed = (r for r in self.reads if isinstance(r, Read) and r.box is not None and not counts(r.box))
        return found + [read.made for read in boxed]


class Upload:
    """An array of the driver's; None: it was not kept, and `text` says what that was."""

    __slots__ = ("__weakref__", "array", "order", "sharding", "text")

    def __init__(self, order: int, array: np.ndarray | None, sharding: Sharding, text: str):
        self.order = order
        self.array = array
        self.sharding = sharding
        self.text = text


class Copy:
    """Values as they were at one time, in the transport's keeping: those that are whole, and each worker's shards."""

    __slots__ = ("order", "shards", "specs", "whole")

    def __init__(self, order: int, whole: Handle | None, shards: list[Handle], specs: list[Spec]):
        self.order = order
        self.whole = whole
        self.shards = shards
        self.specs = specs


Maker = Run | Upload | Copy


class Order(NamedTuple):
    """What is to be done again, in this order; and of what cannot be, the source that is gone."""

    makers: list[Maker]
    gone: dict[Maker, Upload]


def behind(wanted: Iterable[Made], counts: Callable[[Any], bool]) -> list[Maker]:
    """All makers that values go back to, in the order in which they were sent."""
    found: set[Maker] = set()
    stack = [made.maker for made in wanted]
    while stack:
        maker = stack.pop()
        if maker not in found:
            found.add(maker)
            if isinstance(maker, Run):
                stack += [made.maker for made in maker.needs(counts)]
    return sorted(found, key=lambda maker: maker.order)


def order(wanted: Iterable[Made], counts: Callable[[Any], bool]) -> Order:
    """What is to be done again to have these values."""
    makers: list[Maker] = []
    gone: dict[Maker, Upload] = {}
    for maker in behind(wanted, counts):
        if isinstance(maker, Upload) and maker.array is None:
            gone[maker] = maker
        source = None
        if isinstance(maker, Run):
            source = next((gone[m.maker] for m in maker.needs(counts) if m.maker in gone), None)
        if source is not None:
            gone[maker] = source
        elif maker not in gone:
            makers.append(maker)
    return Order(makers, gone)


def depths(wanted: Sequence[Made], counts: Callable[[Any], bool]) -> list[int]:
    """For each of these values how many runs one after the other make it, from what was uploaded or copied."""
    found: dict[Maker, int] = {}
    for maker in behind(wanted, counts):
        before = [found[made.maker] for made in maker.needs(counts)] if isinstance(maker, Run) else [-1]
        found[maker] = 1 + max(before, default=0)
    return [found[made.maker] for made in wanted]


class Alive:
    """The results that workers have something of, known weakly."""

    def __init__(self) -> None:
        self._refs: list[weakref.ref[Result]] = []
        self._full = 1_000

    def add(self, result: Result) -> None:
        """The workers have it; it may be added again."""
        self._refs.append(weakref.ref(result))
        if len(self._refs) > self._full:
            self._refs = [weakref.ref(r) for r in self.results()]
            self._full = 1_000 + 2 * len(self._refs)

    def results(self) -> list[Result]:
        """Those that are still held, and still on workers."""
        there = dict.fromkeys(ref() for ref in self._refs)
        return [r for r in there if r is not None and r.ref is not None]
