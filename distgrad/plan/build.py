"""From captured work to programs: what each stage receives, computes, sends and keeps."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from distgrad.exchange import Reshard
from distgrad.graph import Pins
from distgrad.plan import costs
from distgrad.plan.capture import STORED, Capture, Numbered, ValueInfo
from distgrad.plan.fuse import fuse
from distgrad.plan.late import deferrable, late
from distgrad.plan.levels import Form, Levels
from distgrad.plan.memory import Footprint, holders
from distgrad.plan.rematerialise import Offer, again, asked, is_light, lasting, later, rematerialised
from distgrad.plan.rewrite import rewrite
from distgrad.primitives import Aval
from distgrad.program import Exchange, Program, Recv, Send, Slot, Step
from distgrad.sharding import Sharding
from distgrad.wire import encode

# A stored value is kept in other cuts too if it has at most 1/4 of the bytes of the largest around; and whole on every
# worker, where all of it is read, up to this many bytes: what a gather costs shows beside a product of small matrices.
COPY_SHARE = 4
COPY_WHOLE = 64 << 20


Rows = Mapping[tuple[int, str], int]  # by the number of a node and its primitive's name


@dataclass(frozen=True)
class BoxRef:
    """A box that a stage reads: "stage" n of the same plan, or "external" box n of the capture."""

    kind: str
    number: int


@dataclass
class Stage:
    """One program and what it is bound to. `keep` and `inputs` are forms; `feeds` numbers of values."""

    program: Program
    data: bytes
    inputs: list[Form]
    feeds: list[int]
    keep: list[Form]
    boxes: list[BoxRef]
    nodes: list[
        int
    ]  # for each step, in the program's order: the number of its node (-1: made by the planner)
    returns: tuple[str, ...]
    holders: list[Slot | None]  # whose memory each of `keep` takes
    last_use: list[Form] = field(default_factory=list)  # kept forms that nothing needs after this stage


@dataclass
class Boxed:
    """A wanted value in `stage`'s box: whoever reads it merges the partial results, or takes the one that is there."""

    stage: int
    what: Exchange
    channel: str
    position: int


@dataclass
class Plan:
    """Stages in order, and where each wanted value is afterwards: stored, boxed or both."""

    stages: list[Stage]
    stored: dict[int, Form]
    boxed: dict[int, Boxed]
    held_cut: int = 0  # bytes of what is kept, cut over the workers
    held_whole: int = 0  # bytes of what is kept on every worker
    passing: int = (
        0  # bytes that every worker has for a while: sent to it whole, or its part of a sum; at the most
    )
    copies: list[Form] = field(default_factory=list)  # stored values cut otherwise, kept for the next time
    deferred: list[int] = field(default_factory=list)  # nodes that stay pending
    rematerialised: dict[int, list[int]] = field(
        default_factory=dict
    )  # wanted, not stored: the nodes that make them
    rematerialisable: dict[int, list[int]] = field(
        default_factory=dict
    )  # stored, but could be made again: by which nodes
    ranks: dict[int, Any] = field(default_factory=dict)  # of those: which costs least for a byte
    pins: dict[int, Pins] = field(default_factory=dict)  # of each node in them
    remade: tuple[Offer, ...] = ()  # what is made again instead of kept, under a budget
    offers: list[Offer] | None = None  # what could be, once that was asked
    drops: dict[Any, int] = field(
        default_factory=dict
    )  # how much of what it reads was freed before, and when
    choices: dict[Any, int] = field(default_factory=dict)  # how many of these were chosen, and when
    footprints: list[tuple[Footprint, ...]] | None = None  # of the stages, once they were asked for
    fits: bool = False  # whether there was room once for all that it holds

    def rows(self) -> Rows:
        """The rows of the tiles in which each node runs."""
        found: dict[tuple[int, str], int] = {}
        for stage in self.stages:
            numbers = iter(stage.nodes)
            for fragment in stage.program.fragments:
                for loop in fragment.loops:
                    for step in loop.steps:
                        found[next(numbers), step.primitive.name] = loop.rows
        return found

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the driver, about, with the key under which it is kept."""
        return 3000 + sum(3000 + 900 * len(stage.nodes) + len(stage.data) for stage in self.stages)


def build(captured: Capture, shard_bytes: int, remade: Sequence[Offer] = (), lasts: bool = False) -> Plan:
    """Make the plan for a capture. What is `remade`, some of its `offers`, is not kept but made again.

    With `lasts`, all that is offered to those who ask can be made again later, whether it is kept now or not.
    """
    values, nodes = captured.values(), list(enumerate(captured.infos()))
    cheap = rematerialised(values, nodes, captured.forward, captured.again)
    builder, deferred = _staged(values, nodes, cheap, shard_bytes)
    builder.extra = captured.again
    ways: dict[int, list[int]] = {}
    ranks: dict[int, Any] = {}
    if remade or lasts or captured.pins:
        second = _made_by(nodes, captured.again)
        rows = _rows(captured, values, nodes, cheap, shard_bytes) if captured.again else builder.plan().rows()
        if lasts:
            values, ways, ranks = _lasting(values, nodes, cheap, deferred, remade)
            cheap |= {v: ways[v] for offer in remade if not offer.later for v in offer.values if v in ways}
            builder, deferred = _staged(values, nodes, cheap, shard_bytes, deferred)
        builder.rows, builder.copied = rows, second
        passing = [o for o in remade if o.later and not any(builder.values[v].wanted for v in o.values)]
        if passing:
            first = len(builder.values)
            values, nodes, at = again(builder, passing)
            builder = _Builder(values, nodes, shard_bytes, at)
            builder.rows, builder.copied = rows, second.union(range(first, len(values)))
    plan = builder.plan()
    plan.deferred = sorted(deferred)
    plan.rematerialised = cheap
    plan.rematerialisable = {v: numbers for v, numbers in ways.items() if v in plan.stored}
    plan.ranks, plan.remade = ranks, tuple(remade)
    if ways:
        for (number, name), count in rows.items():
            plan.pins[number] = (*plan.pins.get(number, ()), (name, count))
    return plan


def _staged(
    values: list[ValueInfo],
    nodes: list[Numbered],
    cheap: Container[int],
    shard_bytes: int,
    deferred: set[int] | None = None,
) -> tuple[_Builder, set[int]]:
    """The nodes in their stages; and the numbers of those that are deferred. What is `cheap` is not stored."""
    values = [info._replace(wanted=False) if v in cheap else info for v, info in enumerate(values)]
    if deferred is None:
        deferred = deferrable(values, nodes, Levels(values, nodes, shard_bytes).stages())
    if deferred:
        read = {v for number, node in nodes if number in deferred for v in node.ins}
        values = [info._replace(wanted=info.wanted or v in read) for v, info in enumerate(values)]
        nodes = [(n, node) for n, node in nodes if n not in deferred]
    values, nodes = rewrite(values, nodes, shard_bytes)
    builder = _Builder(values, nodes, shard_bytes)
    put_off = late(values, nodes, builder.stages(), builder.leaving())
    return (_Builder(values, nodes, shard_bytes, put_off) if put_off else builder), deferred


def _made_by(nodes: Sequence[Numbered], numbers: Container[int]) -> set[int]:
    return {v for number, node in nodes if number in numbers for v in node.outs}


def _rows(
    captured: Capture,
    values: Sequence[ValueInfo],
    nodes: Sequence[Numbered],
    cheap: Container[int],
    shard_bytes: int,
) -> Rows:
    """The rows of tiles as they are where what is made again is there: those of the nodes that make it are known."""
    second = _made_by(nodes, captured.again)
    rest = [(n, node) for n, node in nodes if n not in captured.again]
    read = {v for _, node in rest for v in node.ins}
    there = [
        info._replace(wanted=False, external=STORED if v in read else None) if v in second else info
        for v, info in enumerate(values)
    ]
    builder, _ = _staged(there, rest, cheap, shard_bytes)
    return {**builder.plan().rows(), **captured.pins}


def _lasting(
    values: list[ValueInfo],
    nodes: Sequence[Numbered],
    cheap: Mapping[int, list[int]],
    deferred: set[int],
    remade: Sequence[Offer],
) -> tuple[list[ValueInfo], dict[int, list[int]], dict[int, Any]]:
    """The values, of which small ones are kept to make others of them; what makes each of those; their ranks."""
    put_off = _made_by(nodes, deferred)
    offered = [o for o in asked(values, nodes, put_off) if o.values[0] not in cheap]
    gone = {v for offer in remade if not offer.later for v in offer.values}.union(cheap)
    found = lasting(values, nodes, put_off, offered, gone)
    kept = [info._replace(wanted=True) if v in found.small else info for v, info in enumerate(values)]
    return kept, found.makers, {o.values[0]: o.rank for o in offered}


def offers(captured: Capture, shard_bytes: int) -> list[Offer]:
    """What could be made again instead of kept, the cheapest first; nothing for the third time where others do."""
    values, nodes = captured.values(), list(enumerate(captured.infos()))
    cheap = rematerialised(values, nodes, captured.forward, captured.again)
    _, deferred = _staged(values, nodes, cheap, shard_bytes)
    put_off = _made_by(nodes, deferred)
    kept = {*cheap, captured.asked}
    found = [o for o in asked(values, nodes, put_off, captured.again) if o.values[0] not in kept]
    if found:  # what is not kept in the end may be kept from stage to stage
        values, ways, _ = _lasting(values, nodes, cheap, deferred, found)
        cheap |= ways
    builder, _ = _staged(values, nodes, cheap, shard_bytes, deferred)
    return sorted([*found, *later(builder)], key=lambda offer: offer.rank)


@dataclass
class _Traffic:
    """Of one stage: the forms it uses and those it keeps, values whose sums leave, (from, to) of what is moved, and
    values that the driver is told."""

    here: list[Form] = field(default_factory=list)
    keep: list[Form] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)
    moves: list[tuple[Form, Form]] = field(default_factory=list)
    told: list[int] = field(default_factory=list)


class _Builder(Levels):
    """Writes the programs of stages that are known."""

    extra: frozenset[int] = (
        frozenset()
    )  # nodes that have no say in the tiles: they are there to make values again
    copied: Container[int] = ()  # values that are made again
    rows: Rows = MappingProxyType(
        {}
    )  # of the plan that makes nothing again: the rows of the tiles of each node

    def plan(self) -> Plan:
        """Write the programs."""
        stored: dict[int, Form] = {}
        boxed: dict[int, Boxed] = {}
        for value, info in enumerate(self.values):
            form = self.base(value)
            if not info.wanted or (info.external is not None and info.external.kind != "boxed"):
                continue
            if form not in self.level:
                continue  # made by a node that is deferred
            if value in self.merged and form not in self.uses and form[1].count == 1:
                boxed[value] = Boxed(self.partial_level[value], self.merged[value], "", -1)
            elif form in self.how and form not in self.uses and form[1].count == 1:
                boxed[value] = Boxed(self.level[form] - 1, self.how[form], "", -1)
            elif info.external is None or form in self.uses:
                stored[value] = form
                self.uses.setdefault(form, set()).add(self.level[form])
        told = self._told(stored)
        boxed.update(told)
        depth = 1 + max(
            [self.level[f] for f in self.uses] + [b.stage for b in boxed.values()] + [len(self.by_level) - 1]
        )
        copies = self._copies()
        kept = {*stored.values(), *copies}
        for form in copies:
            self.uses[form].add(self.level[form])
        for form, levels in self.uses.items():
            if max(levels) > self.level[form] and self._kind(form) not in ("feed", "stored"):
                kept.add(form)
        stages: list[Stage] = []
        positions: dict[tuple[int, Form], tuple[str, int]] = {}
        for level, traffic in enumerate(self._traffic(kept, boxed, told, depth)):
            stages.append(_StageWriter(self, level, traffic).write(positions))
        for value, pieces in boxed.items():
            pieces.channel, pieces.position = positions[pieces.stage, self.base(value)]
        for form in kept - {*stored.values(), *copies}:
            stages[max(self.uses[form])].last_use.append(form)
        plan = Plan(stages, stored, boxed, copies=copies)
        for form in (*stored.values(), *(copy for copy in copies if not self.is_halo(copy))):
            nbytes = self.values[form[0]].aval.nbytes
            if form[1].count == 1:
                plan.held_whole += nbytes
            else:
                plan.held_cut += nbytes
        passing = [0] * (depth + 1)
        for _, form in self.moves:
            if form[1].count == 1:
                passing[self.level[form]] += self.values[form[0]].aval.nbytes
        for value in self.merged:
            passing[self.partial_level[value]] += self.values[value].aval.nbytes
        plan.passing = max(passing, default=0)
        return plan

    def _traffic(
        self, kept: set[Form], boxed: dict[int, Boxed], told: dict[int, Boxed], depth: int
    ) -> list[_Traffic]:
        """For each stage what it uses, keeps and sends."""
        found = [_Traffic() for _ in range(depth)]
        for form, levels in self.uses.items():
            for level in levels | {self.level[form]} if form in kept else levels:
                found[level].here.append(form)
        for form in kept:
            found[self.level[form]].keep.append(form)
        for value, level in self.partial_level.items():
            if self.base(value) in self.uses or value in boxed:
                found[level].sums.append(value)
        for source, to in self.moves:
            found[self.level[to] - 1].moves.append((source, to))
        for value, pieces in told.items():
            found[pieces.stage].told.append(value)
        return found

    def _told(self, stored: dict[int, Form]) -> dict[int, Boxed]:
        """Small results that the driver is told at once, such as a loss: reading one takes no call then."""
        told: dict[int, Boxed] = {}
        total = 0
        for value, form in stored.items():
            nbytes = self.values[value].aval.nbytes
            if form[1].count == 1 and total + nbytes <= costs.SMALL:
                total += nbytes
                told[value] = Boxed(self.level[form], Reshard(form[1], form[1]), "", -1)
        return told

    def _copies(self) -> list[Form]:
        """Moved forms to keep: of values that are stored, and small beside what they are used with, or gathered.

        Labels beside a matrix are cut otherwise by default. They are moved once, not at every step.
        """
        kept = []
        for (value, _), form in self.moves:
            external = self.values[value].external
            if external is None or external.kind != "stored" or not self.values[value].wanted:
                continue
            if form[0] != value:
                continue  # a slice
            readers = [
                n
                for _, n in self.nodes
                for v, need in zip(n.ins, n.layout.needs, strict=True)
                if (v, need) == form
            ]
            beside = max(self.values[v].aval.nbytes for n in readers for v in (*n.ins, *n.outs))
            largest = max(info.aval.nbytes for info in self.values if info.external is not None)
            nbytes, limit = self.values[value].aval.nbytes, max(beside, largest)
            if (
                nbytes <= limit // COPY_SHARE
                or (form[1].count == 1 and nbytes <= min(limit, COPY_WHOLE))
                or self.is_halo(form)
            ):
                kept.append(form)
        return kept

    def is_halo(self, form: Form) -> bool:
        """Whether a form is a stored value with halos: kept, it takes no memory but for these."""
        value, cuts = form
        external = self.values[value].external
        stored = external is not None and external.kind == "stored"
        return stored and self.values[value].wanted and cuts.halo_dim(self.values[value].sharding) is not None

    def _kind(self, form: Form) -> str:
        external = self.values[form[0]].external
        if external is None:
            return ""
        return external.kind if form == self.base(form[0]) else "stored" if form[1] in external.copies else ""


class _StageWriter:
    """Writes the program of one stage."""

    def __init__(self, builder: _Builder, level: int, traffic: _Traffic):
        self.b = builder
        self.level = level
        self.traffic = traffic
        self.slots: list[Slot] = []
        self.slot_of: dict[Form, int] = {}

    def slot(self, form: Form) -> int:
        if form not in self.slot_of:
            self.slot_of[form] = len(self.slots)
            self.slots.append(Slot(self.b.values[form[0]].aval.dtype, form[1]))
        return self.slot_of[form]

    def write(self, positions: dict[tuple[int, Form], tuple[str, int]]) -> Stage:
        b, level = self.b, self.level
        inputs: list[Form] = []
        feeds: list[int] = []
        boxes: list[BoxRef] = []
        recvs: list[Recv] = []
        for form in self.traffic.here:
            kind = b._kind(form)
            if kind == "feed":
                feeds.append(form[0])
            elif kind == "stored" or b.level[form] < level:
                inputs.append(form)
        self._recvs(boxes, recvs, positions)
        feed_slots = tuple(self.slot((v, b.values[v].sharding)) for v in feeds)
        input_slots = tuple(self.slot(f) for f in inputs)
        numbered, steps = self._steps()
        sending = self._sending()
        keep = self.traffic.keep
        keep_slots = [self.slot(f) for f in keep]
        leaving = {*keep_slots, *(self.slot(form) for form, _, _ in sending)}
        fragments = fuse(steps, self.slots, leaving, self._pins(numbered, steps))
        order = {s.outs: number for number, s in zip(numbered, steps, strict=True)}
        sends = self._sends(sending, positions)
        channels = []
        for box in boxes:
            used = {a.channel for a in recvs if a.box == boxes.index(box)}
            channels.append(tuple(c for c in ("small", "large", "each") if c in used))
        program = Program(
            tuple(self.slots),
            input_slots,
            feed_slots,
            tuple(recvs),
            fragments,
            tuple(sends),
            tuple(keep_slots),
            tuple(channels),
        )
        nodes = [order[s.outs] for f in fragments for loop in f.loops for s in loop.steps]
        held = [None if b.is_halo(form) else slot for form, slot in zip(keep, holders(program), strict=True)]
        return Stage(program, encode(program), inputs, feeds, keep, boxes, nodes, program.channels(), held)

    def _recvs(
        self,
        boxes: list[BoxRef],
        recvs: list[Recv],
        positions: dict[tuple[int, Form], tuple[str, int]],
    ) -> None:
        """Fill the slots of sums and moves that arrive in this stage."""
        b, level = self.b, self.level
        for form in self.traffic.here:
            if b.level[form] != level:
                continue
            base = b.base(form[0])
            external = b.values[form[0]].external
            if form == base and external is not None and external.kind == "boxed":
                assert external.what is not None
                ref = BoxRef("external", external.box)
                what: Exchange = external.what
                channel, position = external.channel, external.position
            elif (level - 1, form) in positions:
                ref = BoxRef("stage", level - 1)
                what = b.how.get(form) or b.merged[form[0]]
                channel, position = positions[level - 1, form]
            else:
                continue
            if ref not in boxes:
                boxes.append(ref)
            recvs.append(Recv(self.slot(form), what, boxes.index(ref), channel, position))

    def _steps(self) -> tuple[list[int], list[Step]]:
        numbered, steps = [], []
        nodes = self.b.by_level[self.level] if self.level < len(self.b.by_level) else []
        for number, node in nodes:
            ins = tuple(self.slot((v, need)) for v, need in zip(node.ins, node.layout.needs, strict=True))
            outs = tuple(self.slot((v, s)) for v, s in zip(node.outs, node.layout.outs, strict=True))
            numbered.append(number)
            steps.append(Step(node.primitive, ins, outs, node.attrs, node.layout))
        return numbered, steps

    def _pins(self, numbered: list[int], steps: list[Step]) -> dict[tuple[int, ...], int]:
        """The rows of tiles with which each step has the bits that it has where nothing is made again.

        What is made again element by element has them in any tiles: those of the step that reads it.
        """
        b = self.b
        if not b.rows:
            return {s.outs: 0 for number, s in zip(numbered, steps, strict=True) if number in b.extra}
        copies = {slot for (value, _), slot in self.slot_of.items() if value in b.copied}  # made again
        pins: dict[tuple[int, ...], int] = {}
        read: dict[int, int] = {}  # of each slot: the rows of a step that reads it
        for number, s in zip(reversed(numbered), reversed(steps), strict=True):
            pin = b.rows.get((number, s.primitive.name), 0)
            if not copies.isdisjoint(s.outs) and is_light(s.layout):
                pin = next((read[slot] for slot in s.outs if slot in read), pin)
            pins[s.outs] = pin
            read.update(dict.fromkeys(s.ins, pin))
        return pins

    def _sending(self) -> list[tuple[Form, Form, Exchange]]:
        """(form here, form that arrives, how) of all that leaves at the end of this stage."""
        b, traffic = self.b, self.traffic
        leaving: list[tuple[Form, Form, Exchange]] = []
        leaving += [(b.base(b.scattered.get(v, v)), b.base(v), b.merged[v]) for v in traffic.sums]
        leaving += [(source, to, b.how[to]) for source, to in traffic.moves]
        return leaving + [(b.base(v), b.base(v), Reshard(b.base(v)[1], b.base(v)[1])) for v in traffic.told]

    def _sends(
        self,
        sending: list[tuple[Form, Form, Exchange]],
        positions: dict[tuple[int, Form], tuple[str, int]],
    ) -> list[Send]:
        sends = []
        total = 0
        count = {"small": 0, "large": 0, "each": 0}
        for form, to, what in sending:
            nbytes = self.b.values[to[0]].aval.nbytes
            small = nbytes <= costs.SMALL and total + nbytes <= costs.SMALL_TOTAL
            if to[1].count > 1:
                channel = "each"
            elif small or (form == to and to[0] in self.traffic.told):  # what is told has a limit of its own
                channel = "small"
                total += nbytes
            else:
                channel = "large"
            positions[self.level, to] = (channel, count[channel])
            count[channel] += 1
            sends.append(Send(self.slot(form), what, channel))
        return sends


def reading(aval: Aval, sharding: Sharding) -> Program:
    """The program that sends a stored value to the driver."""
    gather = Reshard(sharding, Sharding.whole(aval.shape))
    return Program((Slot(aval.dtype, sharding),), (0,), (), (), (), (Send(0, gather, "large"),), (), ())
