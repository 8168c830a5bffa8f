"""The program of one stage: what it receives, computes, sends and keeps."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from distgrad.exchange import Reshard
from distgrad.plan import costs
from distgrad.plan.fuse import fuse
from distgrad.plan.ir import Instance
from distgrad.plan.memory import holders
from distgrad.plan.plans import BoxRef, NodeRows, Stage
from distgrad.plan.rematerialise import is_light
from distgrad.plan.schedule import Schedule
from distgrad.primitives import Aval
from distgrad.program import CHANNELS, Exchange, Program, Recv, Send, Slot, Step
from distgrad.sharding import Sharding
from distgrad.wire import encode

# Of what each stage sends: the channel, and which it is there.
Positions = dict[tuple[int, Instance], tuple[str, int]]


@dataclass
class Traffic:
    """Of one stage: the instances it uses and those it keeps, values whose sums leave, (from, to) of what is moved, and
    values that the driver is told."""

    here: list[Instance] = field(default_factory=list)
    keep: list[Instance] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)
    moves: list[tuple[Instance, Instance]] = field(default_factory=list)
    told: list[int] = field(default_factory=list)


class Repeats(NamedTuple):
    """What is made again, and in tiles of how many rows, so that it has the bits that it had."""

    nodes: Container[int] = ()  # they have no say in the tiles of others
    values: Container[int] = ()
    rows: NodeRows = MappingProxyType({})  # of each node, in the plan that makes nothing again


class StageWriter:
    """Writes the program of one stage."""

    def __init__(self, schedule: Schedule, number: int, traffic: Traffic, repeats: Repeats):
        self.schedule = schedule
        self.number = number
        self.traffic = traffic
        self.repeats = repeats
        self.slots: list[Slot] = []
        self.slot_of: dict[Instance, int] = {}

    def slot(self, instance: Instance) -> int:
        """The slot of an instance: a new one if it has none."""
        if instance not in self.slot_of:
            self.slot_of[instance] = len(self.slots)
            self.slots.append(Slot(self.schedule.values[instance.value].aval.dtype, instance.cuts))
        return self.slot_of[instance]

    def write(self, positions: Positions) -> Stage:
        """The stage. Notes in `positions` what it sends, and finds there what the stage before has sent."""
        schedule, keep = self.schedule, self.traffic.keep
        feeds = [instance for instance in self.traffic.here if schedule.kind(instance) == "feed"]
        inputs = [instance for instance in self.traffic.here if self._stored(instance)]
        boxes, recvs = self._recvs(positions)
        feed_slots = tuple(self.slot(instance) for instance in feeds)
        input_slots = tuple(self.slot(instance) for instance in inputs)
        numbers, steps = self._steps()
        leaving = self._leaving()
        keep_slots = tuple(self.slot(instance) for instance in keep)
        outside = {*keep_slots, *(self.slot(instance) for instance, _, _ in leaving)}
        fragments = fuse(steps, self.slots, outside, self._pins(numbers, steps))
        sends = self._sends(leaving, positions)
        used = [{recv.channel for recv in recvs if recv.box == n} for n in range(len(boxes))]
        channels = tuple(tuple(c for c in CHANNELS if c in mine) for mine in used)
        program = Program(
            tuple(self.slots), input_slots, feed_slots, recvs, fragments, sends, keep_slots, channels
        )
        number_of = {s.outs: number for number, s in zip(numbers, steps, strict=True)}
        return Stage(
            program,
            encode(program),
            inputs,
            [value for value, _ in feeds],
            keep,
            boxes,
            [number_of[s.outs] for f in fragments for loop in f.loops for s in loop.steps],
            program.channels(),
            [None if schedule.is_halo(f) else slot for f, slot in zip(keep, holders(program), strict=True)],
        )

    def _stored(self, instance: Instance) -> bool:
        """Whether an instance is stored when this stage begins."""
        kind = self.schedule.kind(instance)
        return kind == "stored" or (kind != "feed" and self.schedule.ready[instance] < self.number)

    def _recvs(self, positions: Positions) -> tuple[list[BoxRef], tuple[Recv, ...]]:
        """The boxes that are read, and the slots of sums and moves that are filled from them."""
        schedule, before = self.schedule, self.number - 1
        boxes: list[BoxRef] = []
        recvs: list[Recv] = []
        for instance in self.traffic.here:
            if schedule.ready[instance] != self.number:
                continue
            external = schedule.values[instance.value].external
            if schedule.kind(instance) == "boxed":
                assert external is not None
                assert external.what is not None
                ref, what = BoxRef("external", external.box), external.what
                channel, position = external.channel, external.position
            elif (before, instance) in positions:
                ref = BoxRef("stage", before)
                what = schedule.how.get(instance) or schedule.merged[instance.value]
                channel, position = positions[before, instance]
            else:
                continue
            if ref not in boxes:
                boxes.append(ref)
            recvs.append(Recv(self.slot(instance), what, boxes.index(ref), channel, position))
        return boxes, tuple(recvs)

    def _steps(self) -> tuple[list[int], list[Step]]:
        """The numbers of the nodes, and their steps."""
        numbers, steps = [], []
        nodes = self.schedule.by_stage[self.number] if self.number < len(self.schedule.by_stage) else []
        for node in nodes:
            ins = tuple(self.slot(operand) for operand in node.operands)
            outs = tuple(self.slot(result) for result in node.results)
            numbers.append(node.number)
            steps.append(Step(node.primitive, ins, outs, node.attrs, node.layout))
        return numbers, steps

    def _pins(self, numbers: list[int], steps: list[Step]) -> dict[tuple[int, ...], int]:
        """The rows of tiles with which each step has the bits that it has where nothing is made again.

        What is made again element by element has them in any tiles: those of the step that reads it.
        """
        again = self.repeats
        if not again.rows:
            return {s.outs: 0 for number, s in zip(numbers, steps, strict=True) if number in again.nodes}
        copies = {slot for (value, _), slot in self.slot_of.items() if value in again.values}
        pins: dict[tuple[int, ...], int] = {}
        read: dict[int, int] = {}  # of each slot: the rows of a step that reads it
        for number, s in zip(reversed(numbers), reversed(steps), strict=True):
            pin = again.rows.get((number, s.primitive.name), 0)
            if not copies.isdisjoint(s.outs) and is_light(s.layout):
                pin = next((read[slot] for slot in s.outs if slot in read), pin)
            pins[s.outs] = pin
            read.update(dict.fromkeys(s.ins, pin))
        return pins

    def _leaving(self) -> list[tuple[Instance, Instance, Exchange]]:
        """(what is here, what is made of it, how) of all that leaves at the end of this stage."""
        schedule, traffic = self.schedule, self.traffic
        base = schedule.base
        leaving: list[tuple[Instance, Instance, Exchange]] = []
        leaving += [(base(schedule.scattered.get(v, v)), base(v), schedule.merged[v]) for v in traffic.sums]
        leaving += [(source, to, schedule.how[to]) for source, to in traffic.moves]
        return leaving + [(base(v), base(v), Reshard(base(v).cuts, base(v).cuts)) for v in traffic.told]

    def _sends(
        self, leaving: list[tuple[Instance, Instance, Exchange]], positions: Positions
    ) -> tuple[Send, ...]:
        """Each in its channel: cut values to each owner, small ones in the reply, large ones as objects."""
        sends = []
        total = 0
        count = dict.fromkeys(CHANNELS, 0)
        for instance, to, what in leaving:
            nbytes = self.schedule.values[to.value].aval.nbytes
            small = nbytes <= costs.SMALL and total + nbytes <= costs.SMALL_TOTAL
            if to.cuts.count > 1:
                channel = "each"
            elif small or (
                to.value in self.traffic.told and instance == to
            ):  # what is told has its own limit
                channel = "small"
                total += nbytes
            else:
                channel = "large"
            positions[self.number, to] = (channel, count[channel])
            count[channel] += 1
            sends.append(Send(self.slot(instance), what, channel))
        return tuple(sends)


def reading(aval: Aval, sharding: Sharding) -> Program:
    """The program that sends a stored value to the driver."""
    gather = Reshard(sharding, Sharding.whole(aval.shape))
    return Program((Slot(aval.dtype, sharding),), (0,), (), (), (), (Send(0, gather, "large"),), (), ())
