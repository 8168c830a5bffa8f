"""What a plan is made for: the structure of the pending work, without the values in it.

Two steps of a training loop have the same structure, so the second finds its plan under the same key.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from distgrad.graph import Node, Pins, Result
from distgrad.plan.ir import FEED, STORED, External, Graph, NodeInfo, ValueInfo


@dataclass
class Capture:
    """The pending work that is needed, numbered: first the values that are there, then the nodes' results."""

    key: Any
    nodes: list[Node]
    results: list[Result]
    boxes: list[Any]
    externals: list[External]
    ins: list[int]  # of all nodes, one after the other
    wanted: list[bool]
    forward: int = 0  # the first nodes, up to this number, need not be kept
    again: frozenset[int] = frozenset()  # nodes that run for the second time, as what they make is asked for
    pins: Mapping[tuple[int, str], int] = field(default_factory=dict)  # of these: the rows of their tiles
    asked: int = -1  # a value that must be kept, as somebody waits for it

    def graph(self) -> Graph:
        """All values, in the order of their numbers, and all nodes."""
        known = len(self.externals)
        values = [
            ValueInfo(r.aval, r.sharding, w, self.externals[i] if i < known else None)
            for i, (r, w) in enumerate(zip(self.results, self.wanted, strict=True))
        ]
        made, read = itertools.count(known), iter(self.ins)
        nodes = []
        for number, node in enumerate(self.nodes):
            ins = tuple(itertools.islice(read, len(node.inputs)))
            outs = tuple(itertools.islice(made, len(node.outputs)))
            nodes.append(NodeInfo(node.primitive, node.attrs, node.layout, ins, outs, number))
        return Graph(values, nodes)


def needed(pending: Sequence[Node], roots: Iterable[Result] | None) -> list[Node]:
    """The nodes that `roots` need, or (None) that anything that is still held needs; in their order."""
    read = set(roots or ())
    held = roots is None
    chosen = []
    for node in reversed(pending):
        for out in node.outputs:
            if out in read or (held and out.handle() is not None):
                chosen.append(node)
                read.update(node.inputs)
                break
    chosen.reverse()
    return chosen


def apart_from(refused: AbstractSet[Node], pending: Sequence[Node]) -> list[Node]:
    """The nodes that are not refused and read nothing of what is; in their order."""
    if not refused:
        return list(pending)
    spoiled: set[Result] = set()
    chosen = []
    for node in pending:
        if node in refused or not spoiled.isdisjoint(node.inputs):
            spoiled.update(node.outputs)
        else:
            chosen.append(node)
    return chosen


def left_over(pending: Sequence[Node], sent: AbstractSet[Node], kept: AbstractSet[Result]) -> list[Node]:
    """What stays pending once some nodes are `sent`: the others, and of those what they read and is not `kept`."""
    read: set[Result] = set()
    chosen = []
    for node in reversed(pending):
        if node not in sent or not read.isdisjoint(node.outputs):
            chosen.append(node)
            read.update([r for r in node.inputs if r.pending and r not in kept])
    chosen.reverse()
    return chosen


def capture(
    nodes: list[Node],
    forward: int = 0,
    again: Mapping[int, Pins] = MappingProxyType({}),
    asked: Result | None = None,
) -> Capture:
    """Number the values of `nodes` and make the key of their structure; the rest as in `Capture`."""
    read = [r for node in nodes for r in node.inputs]
    made = [out for node in nodes for out in node.outputs]
    inside = set(made)
    outside = [result for result in dict.fromkeys(read) if result not in inside]
    results = [*outside, *made]
    numbers = {result: number for number, result in enumerate(results)}
    ins = [numbers[r] for r in read]
    boxes: list[Any] = []
    externals = [STORED if r.id is not None and not r.copies else _external(r, boxes) for r in outside]
    wanted = [r.handle() is not None for r in results]
    key = (
        tuple([n.key for n in nodes]),
        tuple(ins),
        tuple(externals),
        tuple([r.spec for r in outside]),
        tuple(wanted),
        forward,
        tuple(again.items()),
        -1 if asked is None else numbers.get(asked, -1),
    )
    pins = {(number, name): rows for number, mine in again.items() for name, rows in mine}
    return Capture(
        key, nodes, results, boxes, externals, ins, wanted, forward, frozenset(again), pins, key[-1]
    )


def _external(result: Result, boxes: list[Any]) -> External:
    if result.id is not None:
        return External("stored", copies=tuple(result.copies))
    if result.array is not None:
        return FEED
    box, what, channel, position = result.box
    if not any(b is box for b in boxes):
        boxes.append(box)
    return External("boxed", what, next(i for i, b in enumerate(boxes) if b is box), channel, position)
