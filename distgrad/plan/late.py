"""Work that is better put off: to the next flush, to a later stage, or until somebody asks for it.

What only a later stage reads is made there, and need not be kept until then. While `x[1:]` is on its way, `x[:-1] ** 2`
could be computed; but to write it and to read it again is dearer than to read x, so it runs with what reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from distgrad.plan.costs import SMALL
from distgrad.plan.ir import Graph, NodeInfo


def deferrable(graph: Graph, stage: Mapping[int, int]) -> set[int]:
    """Small work that waits for a sum and that no large work waits for, such as dividing a loss or updating a bias.

    It stays pending. If the driver asks for its result, it does this work itself; else it is done at the
    beginning of the next stage that is sent. Either way a stage for it alone is saved.
    """
    deferred: set[int] = set()
    large: set[int] = set()  # values that nodes read which are not deferred
    for node in reversed(graph.nodes):
        infos = [graph.values[v] for v in (*node.ins, *node.outs)]
        small = all(info.sharding.count == 1 and info.aval.nbytes <= SMALL for info in infos)
        if small and node.layout.shards == 1 and stage[node.outs[0]] > 0 and large.isdisjoint(node.outs):
            deferred.add(node.number)
        else:
            large.update(node.ins)
    return deferred


def late(graph: Graph, stage: Mapping[int, int], leaving: Iterable[int]) -> dict[int, int]:
    """The later stage in which a node should run, by its first result.

    `stage` tells for each value when the node that makes it can run, `leaving` are values that leave at its end. A
    node is put off if that asks for no more bytes to be kept than its results have.
    """
    values = graph.values
    chosen: dict[int, int] = {}
    readers: dict[int, list[int]] = {}  # of each value: the stages in which it is read
    staying = set(leaving)
    for node in reversed(graph.nodes):
        (out, *_) = node.outs
        when = stage[out]
        then = min((s for v in node.outs for s in readers.get(v, ())), default=when)
        fixed = any(values[v].wanted or v in staying for v in node.outs)
        if then > when and not fixed and _movable(node):
            kept = {
                v
                for v in node.ins
                if values[v].external is None
                and stage[v] < then
                and all(s < then for s in readers.get(v, ()))
            }
            # What is made of the others, such as their maximum, is put off in its turn.
            kept -= {
                v
                for v in kept
                if _movable(graph.makers.get(v))
                and v not in readers
                and v not in staying
                and kept.issuperset(graph.makers[v].ins)
            }
            if sum(values[v].aval.nbytes for v in kept) <= sum(values[v].aval.nbytes for v in node.outs):
                chosen[out] = when = then
        for v in node.ins:
            readers.setdefault(v, []).append(when)
    return chosen


def _movable(node: NodeInfo | None) -> bool:
    return node is not None and not node.layout.merged and node.layout.shards > 1
