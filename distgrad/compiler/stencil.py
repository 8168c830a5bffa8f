"""Stencils as data: steps over the elements of a box that read neighbours, at distances that are the same for all.

Every value has coordinates of its own, and what is gone through is a box of coordinates. A shift says how far the
element of its operand lies from its own. A value that is read at several distances is made again for each of them:
that takes no memory, and whoever puts steps together leaves out what is dear. Where an array ends, so do what is read
of it, the zeros around it, what is stored and what is added: these are places, each with bounds in every dimension.
At one place of the box each result is wanted at a distance of its own, its home, so that halves of one array are gone
through side by side, and the box is no longer than a tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from distgrad.compiler.nest import FULL, Map, Reduction, Value, Way

By = tuple[int, ...]  # how far away, along each dimension


class Shift(NamedTuple):
    """Element i is element `i + by` of the operand. `zeros`: outside of the operand it is 0, else it is never read."""

    out: int
    ins: tuple[int]
    by: By
    zeros: bool


@dataclass(frozen=True)
class Stencil:
    """Steps in an order in which they can run, over boxes of `dims` dimensions.

    Inputs are arrays; `repeated` says of each along which dimensions one element stands for all. Outputs are boxes or,
    of reductions, one element. `homes` tell of each, by value, how far from the place in the box the elements lie that
    are stored, or added.
    """

    dims: int
    values: tuple[Value, ...]
    inputs: tuple[int, ...]
    repeated: tuple[tuple[bool, ...], ...]
    steps: tuple[Map | Shift | Reduction, ...]
    outputs: tuple[int, ...]
    homes: dict[int, By]

    @property
    def addresses(self) -> tuple[int, ...]:
        """The values whose memory the code is told, in the order of its arguments."""
        return (*self.inputs, *self.outputs)

    @cached_property
    def maker(self) -> dict[int, Map | Shift | Reduction]:
        """The step that makes each value."""
        return {step.out: step for step in self.steps}

    @cached_property
    def reductions(self) -> list[Reduction]:
        """What is reduced to one element."""
        return [step for step in self.steps if isinstance(step, Reduction)]

    @cached_property
    def zeros(self) -> list[Shift]:
        """The shifts with zeros around."""
        return [step for step in self.steps if isinstance(step, Shift) and step.zeros]

    @property
    def boxes(self) -> list[int]:
        """The outputs that are no single elements."""
        return [v for v in self.outputs if self.values[v].space == FULL]

    @cached_property
    def codes(self) -> dict[Way, Any]:
        """The machine code that there is for it: see `machine.machine_code`."""
        return {}

    @cached_property
    def instances(self) -> dict[tuple[int, By], None]:
        """Each value, and from how far away it is read."""
        wanted = [(v, self.homes[v]) for v in self.boxes]
        wanted += [(v, self.homes[step.out]) for step in self.reductions for v in step.ins]
        found: dict[tuple[int, By], None] = {}
        while wanted:
            value, by = wanted.pop()
            if (value, by) in found:
                continue
            found[value, by] = None
            step = self.maker.get(value)
            if isinstance(step, Shift):
                wanted.append((step.ins[0], added(by, step.by)))
            elif step is not None:
                wanted += [(v, by) for v in step.ins]
        return found

    @cached_property
    def reach(self) -> list[tuple[By, By]]:
        """Of each place, from how far away it is read, at least and at most: inputs, outputs, `zeros`, `reductions`."""
        found: dict[tuple[str, int], list[By]] = {}
        for value, by in self.instances:
            step = self.maker.get(value)
            if step is None:
                found.setdefault(("input", value), []).append(by)
            elif isinstance(step, Shift) and step.zeros:
                found.setdefault(("zeros", value), []).append(added(by, step.by))
        here = [(0,) * self.dims]
        reads = [found.get(("input", v), here) for v in self.inputs]
        reads += [[self.homes[v]] for v in self.outputs]
        reads += [found.get(("zeros", step.out), here) for step in self.zeros]
        reads += [[self.homes[step.out]] for step in self.reductions]
        return [
            (tuple(map(min, zip(*bys, strict=True))), tuple(map(max, zip(*bys, strict=True))))
            for bys in reads
        ]


def added(by: By, more: By) -> By:
    """Two distances, one after the other."""
    return tuple([a + b for a, b in zip(by, more, strict=True)])
