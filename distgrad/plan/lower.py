"""From nodes that have their stages to a plan: what is kept, what is sent, what the driver is told."""

from __future__ import annotations

from collections import Counter

from distgrad.exchange import Reshard
from distgrad.plan import costs
from distgrad.plan.levels import Form, Levels
from distgrad.plan.plans import Boxed, Plan, Stage
from distgrad.plan.write import Positions, Repeats, StageWriter, Traffic

# A stored value is kept in other cuts too if it has at most 1/4 of the bytes of the largest around; and whole on every
# worker, where all of it is read, up to this many bytes: what a gather costs shows beside a product of small matrices.
COPY_SHARE = 4
COPY_WHOLE = 64 << 20


NOTHING = Repeats()


def lower(levels: Levels, repeats: Repeats = NOTHING) -> Plan:
    """Write the programs."""
    stored, boxed = _wanted(levels)
    told = _told(levels, stored)
    boxed.update(told)
    copies = _copies(levels)
    lasting = {*stored.values(), *copies}
    kept = {*stored.values(), *copies}
    for form in copies:
        levels.uses[form].add(levels.level[form])
    for form, used in levels.uses.items():
        if max(used) > levels.level[form] and levels.kind(form) not in ("feed", "stored"):
            kept.add(form)
    stages: list[Stage] = []
    positions: Positions = {}
    for level, traffic in enumerate(_traffic(levels, kept, boxed, told)):
        stages.append(StageWriter(levels, level, traffic, repeats).write(positions))
    for value, pieces in boxed.items():
        pieces.channel, pieces.position = positions[pieces.stage, levels.base(value)]
    for form in kept - lasting:
        stages[max(levels.uses[form])].last_use.append(form)
    held = (*stored.values(), *(copy for copy in copies if not levels.is_halo(copy)))
    whole = sum(levels.nbytes(form[0]) for form in held if form[1].count == 1)
    cut = sum(levels.nbytes(form[0]) for form in held if form[1].count > 1)
    return Plan(stages, stored, boxed, cut, whole, _passing(levels), copies)


def _wanted(levels: Levels) -> tuple[dict[int, Form], dict[int, Boxed]]:
    """Where each wanted value is: it is stored if it is there whole, or read, else left in its box."""
    stored: dict[int, Form] = {}
    boxed: dict[int, Boxed] = {}
    for value, info in enumerate(levels.values):
        form = levels.base(value)
        if not info.wanted or (info.external is not None and info.external.kind != "boxed"):
            continue
        if form not in levels.level:
            continue  # made by a node that is deferred
        whole = form not in levels.uses and form[1].count == 1
        if value in levels.merged and whole:
            boxed[value] = Boxed(levels.partial_level[value], levels.merged[value], "", -1)
        elif form in levels.how and whole:
            boxed[value] = Boxed(levels.level[form] - 1, levels.how[form], "", -1)
        elif info.external is None or form in levels.uses:
            stored[value] = form
            levels.uses.setdefault(form, set()).add(levels.level[form])
    return stored, boxed


def _told(levels: Levels, stored: dict[int, Form]) -> dict[int, Boxed]:
    """Small results that the driver is told at once, such as a loss: reading one takes no call then."""
    told: dict[int, Boxed] = {}
    total = 0
    for value, form in stored.items():
        nbytes = levels.nbytes(value)
        if form[1].count == 1 and total + nbytes <= costs.SMALL:
            total += nbytes
            told[value] = Boxed(levels.level[form], Reshard(form[1], form[1]), "", -1)
    return told


def _copies(levels: Levels) -> list[Form]:
    """Moved forms to keep: of values that are stored, and small beside what they are used with, or gathered.

    Labels beside a matrix are cut otherwise by default. They are moved once, not at every step.
    """
    kept = []
    for (value, _), form in levels.moves:
        info = levels.values[value]
        if info.external is None or info.external.kind != "stored" or not info.wanted:
            continue
        if form[0] != value:
            continue  # a slice
        readers = [
            n for n in levels.graph.readers.get(value, ()) if form in zip(n.ins, n.layout.needs, strict=True)
        ]
        beside = max(levels.nbytes(v) for n in readers for v in (*n.ins, *n.outs))
        largest = max(other.aval.nbytes for other in levels.values if other.external is not None)
        nbytes, limit = info.aval.nbytes, max(beside, largest)
        if (
            nbytes <= limit // COPY_SHARE
            or (form[1].count == 1 and nbytes <= min(limit, COPY_WHOLE))
            or levels.is_halo(form)
        ):
            kept.append(form)
    return kept


def _traffic(
    levels: Levels, kept: set[Form], boxed: dict[int, Boxed], told: dict[int, Boxed]
) -> list[Traffic]:
    """For each stage what it uses, keeps and sends."""
    last = max([levels.level[f] for f in levels.uses] + [b.stage for b in boxed.values()], default=-1)
    found = [Traffic() for _ in range(max(last + 1, len(levels.by_level)))]
    for form, used in levels.uses.items():
        for level in used | {levels.level[form]} if form in kept else used:
            found[level].here.append(form)
    for form in kept:
        found[levels.level[form]].keep.append(form)
    for value, level in levels.partial_level.items():
        if levels.base(value) in levels.uses or value in boxed:
            found[level].sums.append(value)
    for source, to in levels.moves:
        found[levels.level[to] - 1].moves.append((source, to))
    for value, pieces in told.items():
        found[pieces.stage].told.append(value)
    return found


def _passing(levels: Levels) -> int:
    """Bytes that every worker has for a while: sent to it whole, or its part of a sum; at the most."""
    passing: Counter[int] = Counter()
    for _, form in levels.moves:
        passing[levels.level[form]] += levels.nbytes(form[0]) if form[1].count == 1 else 0
    for value in levels.merged:
        passing[levels.partial_level[value]] += levels.nbytes(value)
    return max(passing.values(), default=0)
