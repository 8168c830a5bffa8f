"""From nodes that have their stages to a plan: what is kept, what is sent, what the driver is told."""

from __future__ import annotations

from collections import Counter

from distgrad.exchange import Reshard
from distgrad.plan import costs
from distgrad.plan.ir import Instance
from distgrad.plan.plans import Boxed, Plan, Stage
from distgrad.plan.schedule import Schedule
from distgrad.plan.write import Positions, Repeats, StageWriter, Traffic

# A stored value is kept in other cuts too if it has at most 1/4 of the bytes of the largest around; and whole on every
# worker, where all of it is read, up to this many bytes: what a gather costs shows beside a product of small matrices.
COPY_SHARE = 4
COPY_WHOLE = 64 << 20


NOTHING = Repeats()


def lower(schedule: Schedule, repeats: Repeats = NOTHING) -> Plan:
    """Write the programs."""
    stored, boxed = _wanted(schedule)
    told = _told(schedule, stored)
    boxed.update(told)
    copies = _copies(schedule)
    lasting = {*stored.values(), *copies}
    kept = {*stored.values(), *copies}
    for instance in copies:
        schedule.uses[instance].add(schedule.ready[instance])
    for instance, used in schedule.uses.items():
        if max(used) > schedule.ready[instance] and schedule.kind(instance) not in ("feed", "stored"):
            kept.add(instance)
    stages: list[Stage] = []
    positions: Positions = {}
    for stage, traffic in enumerate(_traffic(schedule, kept, boxed, told)):
        stages.append(StageWriter(schedule, stage, traffic, repeats).write(positions))
    for value, pieces in boxed.items():
        pieces.channel, pieces.position = positions[pieces.stage, schedule.base(value)]
    for instance in kept - lasting:
        stages[max(schedule.uses[instance])].last_use.append(instance)
    held = (*stored.values(), *(copy for copy in copies if not schedule.is_halo(copy)))
    whole = sum(schedule.nbytes(instance.value) for instance in held if instance.cuts.count == 1)
    cut = sum(schedule.nbytes(instance.value) for instance in held if instance.cuts.count > 1)
    return Plan(stages, stored, boxed, cut, whole, _passing(schedule), copies)


def _wanted(schedule: Schedule) -> tuple[dict[int, Instance], dict[int, Boxed]]:
    """Where each wanted value is: it is stored if it is there whole, or read, else left in its box."""
    stored: dict[int, Instance] = {}
    boxed: dict[int, Boxed] = {}
    for value, info in enumerate(schedule.values):
        instance = schedule.base(value)
        if not info.wanted or (info.external is not None and info.external.kind != "boxed"):
            continue
        if instance not in schedule.ready:
            continue  # made by a node that is deferred
        whole = instance not in schedule.uses and instance.cuts.count == 1
        if value in schedule.merged and whole:
            boxed[value] = Boxed(schedule.partial_stage[value], schedule.merged[value])
        elif instance in schedule.how and whole:
            boxed[value] = Boxed(schedule.ready[instance] - 1, schedule.how[instance])
        elif info.external is None or instance in schedule.uses:
            stored[value] = instance
            schedule.uses.setdefault(instance, set()).add(schedule.ready[instance])
    return stored, boxed


def _told(schedule: Schedule, stored: dict[int, Instance]) -> dict[int, Boxed]:
    """Small results that the driver is told at once, such as a loss: reading one takes no call then."""
    told: dict[int, Boxed] = {}
    total = 0
    for value, instance in stored.items():
        nbytes = schedule.nbytes(value)
        if instance.cuts.count == 1 and total + nbytes <= costs.SMALL:
            total += nbytes
            told[value] = Boxed(schedule.ready[instance], Reshard(instance.cuts, instance.cuts))
    return told


def _copies(schedule: Schedule) -> list[Instance]:
    """Moved instances to keep: of values that are stored, and small beside what they are used with, or gathered.

    Labels beside a matrix are cut otherwise by default. They are moved once, not at every step.
    """
    kept = []
    for (value, _), instance in schedule.moves:
        info = schedule.values[value]
        if not schedule.is_stored(value) or instance.value != value:  # another value: a slice
            continue
        readers = [n for n in schedule.graph.readers.get(value, ()) if instance in n.operands]
        beside = max(schedule.nbytes(v) for n in readers for v in (*n.ins, *n.outs))
        largest = max(other.aval.nbytes for other in schedule.values if other.external is not None)
        nbytes, limit = info.aval.nbytes, max(beside, largest)
        if (
            nbytes <= limit // COPY_SHARE
            or (instance.cuts.count == 1 and nbytes <= min(limit, COPY_WHOLE))
            or schedule.is_halo(instance)
        ):
            kept.append(instance)
    return kept


def _traffic(
    schedule: Schedule, kept: set[Instance], boxed: dict[int, Boxed], told: dict[int, Boxed]
) -> list[Traffic]:
    """For each stage what it uses, keeps and sends."""
    last = max([schedule.ready[f] for f in schedule.uses] + [b.stage for b in boxed.values()], default=-1)
    found = [Traffic() for _ in range(max(last + 1, len(schedule.by_stage)))]
    for instance, used in schedule.uses.items():
        for stage in used | {schedule.ready[instance]} if instance in kept else used:
            found[stage].here.append(instance)
    for instance in kept:
        found[schedule.ready[instance]].keep.append(instance)
    for value, stage in schedule.partial_stage.items():
        if schedule.base(value) in schedule.uses or value in boxed:
            found[stage].sums.append(value)
    for source, to in schedule.moves:
        found[schedule.ready[to] - 1].moves.append((source, to))
    for value, pieces in told.items():
        found[pieces.stage].told.append(value)
    return found


def _passing(schedule: Schedule) -> int:
    """Bytes that every worker has for a while: sent to it whole, or its part of a sum; at the most."""
    passing: Counter[int] = Counter()
    for _, instance in schedule.moves:
        if instance.cuts.count == 1:
            passing[schedule.ready[instance]] += schedule.nbytes(instance.value)
    for value in schedule.merged:
        passing[schedule.partial_stage[value]] += schedule.nbytes(value)
    return max(passing.values(), default=0)
