"""From captured work to a plan: which passes run, in which order, and what is made again instead of kept."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from distgrad.plan import rematerialise as remat
from distgrad.plan.capture import Capture
from distgrad.plan.ir import STORED, Graph
from distgrad.plan.late import deferrable, late
from distgrad.plan.lower import lower
from distgrad.plan.pipeline import optimise
from distgrad.plan.plans import NodeRows, Plan
from distgrad.plan.rematerialise import Offer
from distgrad.plan.schedule import Schedule
from distgrad.plan.write import Repeats


def build(captured: Capture, remade: Sequence[Offer] = (), lasts: bool = False) -> Plan:
    """Make the plan for a capture. What is `remade`, some of its `offers`, is not kept but made again.

    With `lasts`, all that is offered to those who ask can be made again later, whether it is kept now or not.
    """
    graph = captured.graph()
    cheap = remat.rematerialised(graph, captured.forward, captured.again)
    schedule, deferred = _staged(graph, cheap)
    rows: NodeRows = {}
    second: set[int] = set()  # values that are made for the second time
    ways: dict[int, list[int]] = {}
    ranks: dict[int, Any] = {}
    if remade or lasts or captured.pins:
        second = _made_by(graph, captured.again)
        rows = _rows(captured, graph, cheap) if captured.again else lower(schedule).rows()
    if lasts:
        graph, ways, ranks = _with_makers(graph, cheap, deferred, remade)
        cheap |= {v: ways[v] for offer in remade if not offer.later for v in offer.values if v in ways}
        schedule, deferred = _staged(graph, cheap, deferred)
    passing = [o for o in remade if o.later and not any(schedule.values[v].wanted for v in o.values)]
    if passing:
        first = len(schedule.values)
        graph, at = remat.made_between(schedule, passing)
        schedule = Schedule(graph, at)
        second |= {*range(first, len(graph.values))}
    plan = lower(schedule, Repeats(captured.again, second, rows))
    plan.deferred = sorted(deferred)
    plan.rematerialised = cheap
    plan.rematerialisable = {v: numbers for v, numbers in ways.items() if v in plan.stored}
    plan.ranks, plan.remade = ranks, tuple(remade)
    if ways:
        for (number, name), count in rows.items():
            plan.pins[number] = (*plan.pins.get(number, ()), (name, count))
    return plan


def _staged(
    graph: Graph, cheap: Container[int], deferred: set[int] | None = None
) -> tuple[Schedule, set[int]]:
    """The nodes in their stages; and the numbers of those that are deferred. What is `cheap` is not stored."""
    values, nodes = graph.values, graph.nodes
    values = [info._replace(wanted=False) if v in cheap else info for v, info in enumerate(values)]
    if deferred is None:
        graph = Graph(values, nodes)
        deferred = deferrable(graph, Schedule(graph).stages())
    if deferred:
        read = {v for node in nodes if node.number in deferred for v in node.ins}
        values = [info._replace(wanted=info.wanted or v in read) for v, info in enumerate(values)]
        nodes = [node for node in nodes if node.number not in deferred]
    graph = Graph(values, nodes)
    optimise(graph)
    schedule = Schedule(graph)
    put_off = late(graph, schedule.stages(), schedule.leaving())
    return (Schedule(graph, put_off) if put_off else schedule), deferred


def _made_by(graph: Graph, numbers: Container[int]) -> set[int]:
    return {v for node in graph.nodes if node.number in numbers for v in node.outs}


def _rows(captured: Capture, graph: Graph, cheap: Container[int]) -> NodeRows:
    """The rows of tiles as they are where what is made again is there: those of the nodes that make it are known."""
    second = _made_by(graph, captured.again)
    rest = [node for node in graph.nodes if node.number not in captured.again]
    read = {v for node in rest for v in node.ins}
    there = [
        info._replace(wanted=False, external=STORED if v in read else None) if v in second else info
        for v, info in enumerate(graph.values)
    ]
    schedule, _ = _staged(Graph(there, rest), cheap)
    return {**lower(schedule).rows(), **captured.pins}


def _with_makers(
    graph: Graph, cheap: Mapping[int, list[int]], deferred: Container[int], remade: Sequence[Offer]
) -> tuple[Graph, dict[int, list[int]], dict[int, Any]]:
    """The graph, with small values kept to make others of them; what makes each of those; their ranks."""
    put_off = _made_by(graph, deferred)
    offered = [o for o in remat.offers_after(graph, put_off) if o.values[0] not in cheap]
    gone = {v for offer in remade if not offer.later for v in offer.values}.union(cheap)
    ways, small = remat.makers_after(graph, put_off, offered, gone)
    kept = [info._replace(wanted=info.wanted or v in small) for v, info in enumerate(graph.values)]
    return Graph(kept, graph.nodes), ways, {o.values[0]: o.rank for o in offered}


def offers(captured: Capture) -> list[Offer]:
    """What could be made again instead of kept, the cheapest first; nothing for the third time where others do."""
    graph = captured.graph()
    cheap = remat.rematerialised(graph, captured.forward, captured.again)
    _, deferred = _staged(graph, cheap)
    kept = {*cheap, captured.asked}
    found = remat.offers_after(graph, _made_by(graph, deferred), captured.again)
    found = [o for o in found if o.values[0] not in kept]
    if found:  # what is not kept in the end may be kept from stage to stage
        graph, ways, _ = _with_makers(graph, cheap, deferred, found)
        cheap |= ways
    schedule, _ = _staged(graph, cheap, deferred)
    return sorted([*found, *remat.offers_between(schedule)], key=lambda offer: offer.rank)
