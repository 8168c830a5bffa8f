"""From captured work to a plan: which passes run, in which order, and what is made again instead of kept."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from distgrad.plan.capture import STORED, Capture, Numbered, ValueInfo
from distgrad.plan.late import deferrable, late
from distgrad.plan.levels import Levels
from distgrad.plan.lower import lower
from distgrad.plan.plans import Plan, Rows
from distgrad.plan.rematerialise import Offer, again, asked, lasting, later, rematerialised
from distgrad.plan.rewrite import rewrite
from distgrad.plan.write import Repeats


def build(captured: Capture, shard_bytes: int, remade: Sequence[Offer] = (), lasts: bool = False) -> Plan:
    """Make the plan for a capture. What is `remade`, some of its `offers`, is not kept but made again.

    With `lasts`, all that is offered to those who ask can be made again later, whether it is kept now or not.
    """
    values, nodes = captured.values(), list(enumerate(captured.infos()))
    cheap = rematerialised(values, nodes, captured.forward, captured.again)
    levels, deferred = _staged(values, nodes, cheap, shard_bytes)
    rows: Rows = {}
    second: set[int] = set()  # values that are made for the second time
    ways: dict[int, list[int]] = {}
    ranks: dict[int, Any] = {}
    if remade or lasts or captured.pins:
        second = _made_by(nodes, captured.again)
        rows = _rows(captured, values, nodes, cheap, shard_bytes) if captured.again else lower(levels).rows()
    if lasts:
        values, ways, ranks = _lasting(values, nodes, cheap, deferred, remade)
        cheap |= {v: ways[v] for offer in remade if not offer.later for v in offer.values if v in ways}
        levels, deferred = _staged(values, nodes, cheap, shard_bytes, deferred)
    passing = [o for o in remade if o.later and not any(levels.values[v].wanted for v in o.values)]
    if passing:
        first = len(levels.values)
        values, nodes, at = again(levels, passing)
        levels = Levels(values, nodes, shard_bytes, at)
        second |= {*range(first, len(values))}
    plan = lower(levels, Repeats(captured.again, second, rows))
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
) -> tuple[Levels, set[int]]:
    """The nodes in their stages; and the numbers of those that are deferred. What is `cheap` is not stored."""
    values = [info._replace(wanted=False) if v in cheap else info for v, info in enumerate(values)]
    if deferred is None:
        deferred = deferrable(values, nodes, Levels(values, nodes, shard_bytes).stages())
    if deferred:
        read = {v for number, node in nodes if number in deferred for v in node.ins}
        values = [info._replace(wanted=info.wanted or v in read) for v, info in enumerate(values)]
        nodes = [(n, node) for n, node in nodes if n not in deferred]
    values, nodes = rewrite(values, nodes, shard_bytes)
    levels = Levels(values, nodes, shard_bytes)
    put_off = late(values, nodes, levels.stages(), levels.leaving())
    return (Levels(values, nodes, shard_bytes, put_off) if put_off else levels), deferred


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
    levels, _ = _staged(there, rest, cheap, shard_bytes)
    return {**lower(levels).rows(), **captured.pins}


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
    levels, _ = _staged(values, nodes, cheap, shard_bytes, deferred)
    return sorted([*found, *later(levels)], key=lambda offer: offer.rank)
