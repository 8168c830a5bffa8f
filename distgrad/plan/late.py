"""Work that is better put off: to the next flush, to a later stage, or until somebody asks for it.

What only a later stage reads is made there, and need not be kept until then. While `x[1:]` is on its way, `x[:-1] ** 2`
could be computed; but to write it and to read it again is dearer than to read x, so it runs with what reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from distgrad.plan.capture import NodeInfo, ValueInfo
from distgrad.plan.costs import SMALL


def deferrable(
    values: Sequence[ValueInfo], nodes: Sequence[tuple[int, NodeInfo]], stage: Mapping[int, int]
) -> set[int]:
    """Small work that waits for a sum and that no large work waits for, such as dividing a loss or updating a bias.

    It stays pending. If the driver asks for its result, it does this work itself; else it is done at the
    beginning of the next stage that is sent. Either way a stage for it alone is saved.
    """
    deferred: set[int] = set()
    large: set[int] = set()  # values that nodes read which are not deferred
    for number, node in reversed(nodes):
        infos = [values[v] for v in (*node.ins, *node.outs)]
        small = all(info.sharding.count == 1 and info.aval.nbytes <= SMALL for info in infos)
        if small and node.layout.shards == 1 and stage[node.outs[0]] > 0 and large.isdisjoint(node.outs):
            deferred.add(number)
        else:
            large.update(node.ins)
    return deferred


def late(
    values: Sequence[ValueInfo],
    nodes: Sequence[tuple[int, NodeInfo]],
    stage: Mapping[int, int],
    leaving: Iterable[int],
) -> dict[int, int]:
    """The later stage in which a node should run, by its first result.

    `stage` tells for each value when the node that makes it can run, `leaving` are values that leave at its end. A
    node is put off if that asks for no more bytes to be kept than its results have.
    """
    chosen: dict[int, int] = {}
    makers = {
        v: node for _, node in nodes if not node.layout.merged and node.layout.shards > 1 for v in node.outs
    }
    readers: dict[int, list[int]] = {}  # of each value: the stages in which it is read
    staying = set(leaving)
    for _, node in reversed(nodes):
        (out, *_) = node.outs
        when = stage[out]
        then = min((s for v in node.outs for s in readers.get(v, ())), default=when)
        movable = not node.layout.merged and node.layout.shards > 1
        fixed = any(values[v].wanted or v in staying for v in node.outs)
        if movable and not fixed and then > when:
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
                if v in makers and v not in readers and v not in staying and kept.issuperset(makers[v].ins)
            }
            if sum(values[v].aval.nbytes for v in kept) <= sum(values[v].aval.nbytes for v in node.outs):
                chosen[out] = when = then
        for v in node.ins:
            readers.setdefault(v, []).append(when)
    return chosen
