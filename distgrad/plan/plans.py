"""What a plan is: its stages, in order, each with its program, and where the wanted values are afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from distgrad.graph import Pins
from distgrad.plan.ir import Instance
from distgrad.plan.memory import Footprint
from distgrad.plan.rematerialise import Offer
from distgrad.program import Exchange, Program, Slot

NodeRows = Mapping[tuple[int, str], int]  # of the tiles, by the number of a node and its primitive's name


@dataclass(frozen=True)
class BoxRef:
    """A box that a stage reads: "stage" n of the same plan, or "external" box n of the capture."""

    kind: str
    number: int


@dataclass
class Stage:
    """One program and what it is bound to. `keep` and `inputs` are instances; `feeds` numbers of values."""

    program: Program
    data: bytes
    inputs: list[Instance]
    feeds: list[int]
    keep: list[Instance]
    boxes: list[BoxRef]
    nodes: list[int]  # of each step, in order: the number of its node (-1: it is the planner's own)
    returns: tuple[str, ...]
    holders: list[Slot | None]  # whose memory each of `keep` takes
    last_use: list[Instance] = field(
        default_factory=list
    )  # kept instances that nothing needs after this stage
    # Once it was sent: what each of `holders` takes of each worker, and what all of that takes of one at the most.
    taken: list[tuple[int, ...]] | None = None
    most: int = 0


@dataclass
class Boxed:
    """A wanted value in `stage`'s box: whoever reads it merges the partial results, or takes the one that is there."""

    stage: int
    what: Exchange
    channel: str = ""  # this and the next are known once the stage is written
    position: int = -1


@dataclass
class Places:
    """Where the ids of a plan's instances stand in the one list that a run makes of them: those given, then those kept.

    A number is looked up sooner than an instance, whose cuts are hashed for that.
    """

    given: list[Instance]
    inputs: list[list[int]]  # of each stage
    last_use: list[list[int]]  # of each stage
    stored: list[tuple[int, int]]  # values with their places
    copies: list[tuple[Instance, int]]


@dataclass
class Plan:
    """Stages in order, and where each wanted value is afterwards: stored, boxed or both."""

    stages: list[Stage]
    stored: dict[int, Instance]
    boxed: dict[int, Boxed]
    held_cut: int = 0  # bytes of what is kept, cut over the workers
    held_whole: int = 0  # bytes of what is kept on every worker
    passing: int = 0  # bytes at most that every worker has for a while: sent to it whole, or a part of a sum
    copies: list[Instance] = field(
        default_factory=list
    )  # stored values cut otherwise, kept for the next time
    deferred: list[int] = field(default_factory=list)  # nodes that stay pending
    # Values that are wanted and not stored, and those that are but could be made again: by which nodes.
    rematerialised: dict[int, list[int]] = field(default_factory=dict)
    rematerialisable: dict[int, list[int]] = field(default_factory=dict)
    ranks: dict[int, Any] = field(default_factory=dict)  # of those: which costs least for a byte
    pins: dict[int, Pins] = field(default_factory=dict)  # of each node in them
    remade: tuple[Offer, ...] = ()  # what is made again instead of kept, under a budget
    offers: list[Offer] | None = None  # what could be, once that was asked
    drops: dict[Any, int] = field(default_factory=dict)  # how much that it reads was freed before, and when
    choices: dict[Any, int] = field(default_factory=dict)  # how many of these were chosen, and when
    footprints: list[tuple[Footprint, ...]] | None = None  # of the stages, once they were asked for
    last_reads: dict[int, int] | None = (
        None  # of what it may be given: the last stage to read it, once that was asked
    )
    # Whether each of `places.given` is cut as its value is, once it was sent.
    own_cuts: list[bool] | None = None
    fits: bool = False  # whether there was room once for all that it holds

    @cached_property
    def places(self) -> Places:
        """Worked out when it is sent for the first time."""
        kept: set[Instance] = set()
        given: dict[Instance, None] = {}
        for stage in self.stages:
            kept.update(stage.keep)
            given.update((instance, None) for instance in stage.inputs if instance not in kept)
        places = {instance: place for place, instance in enumerate(given)}
        count, inputs, last_use = len(places), [], []
        for stage in self.stages:
            places.update((instance, count + n) for n, instance in enumerate(stage.keep))
            count += len(stage.keep)
            inputs.append([places[instance] for instance in stage.inputs])
            last_use.append([places[instance] for instance in stage.last_use])
        stored = [(value, places[instance]) for value, instance in self.stored.items()]
        return Places(list(given), inputs, last_use, stored, [(c, places[c]) for c in self.copies])

    def rows(self) -> NodeRows:
        """The rows of the tiles in which each node runs."""
        return {
            (number, step.primitive.name): loop.rows
            for stage in self.stages
            for number, (_, loop, step) in zip(stage.nodes, stage.program.steps(), strict=True)
        }

    @property
    def repeatable(self) -> set[int]:
        """The nodes that may run again, for those who ask for what they make."""
        ways = (*self.rematerialised.values(), *self.rematerialisable.values())
        return {number for numbers in ways for number in numbers}

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the driver, about, with the key under which it is kept."""
        return 3000 + sum(3000 + 900 * len(stage.nodes) + len(stage.data) for stage in self.stages)
