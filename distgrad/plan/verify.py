"""What holds of values and nodes after each pass. On in the tests (`checks.ENABLED`)."""

from __future__ import annotations

from collections.abc import Collection

from distgrad.checks import CheckError
from distgrad.plan.ir import Graph, NodeInfo
from distgrad.primitives.rules import agrees


def verify(graph: Graph, after: str, due: Collection[int]) -> None:
    """Raise CheckError, naming the pass, unless all of this holds.

    Every value has one maker, or is there before, and is made before it is read. What is `due` is made. A node's
    results have the shapes and dtypes that its primitive declares, and its layout is one that a shard rule can make,
    of these shapes, with results cut as its values are.
    """
    there = {v for v, info in enumerate(graph.values) if info.external is not None}
    for node in graph.nodes:
        where = f"after {after}: node {node.number}, {node.name}"
        missing = [v for v in node.ins if v not in there]
        if missing:
            raise CheckError(f"{where} reads {missing[0]}, which nobody has made")
        again = [v for v in node.outs if v in there]
        if again:
            raise CheckError(f"{where} makes {again[0]}, which has a maker")
        _verify_node(graph, node, where)
        there.update(node.outs)
    lost = [v for v in due if v not in there]
    if lost:
        raise CheckError(f"after {after}: nobody makes {lost[0]}, which is wanted")


def _verify_node(graph: Graph, node: NodeInfo, where: str) -> None:
    ins, outs = graph.avals(node.ins), graph.avals(node.outs)
    declared = list(node.primitive.shape(ins, node.attrs))
    if declared != outs:
        raise CheckError(f"{where} makes {outs}, its primitive declares {declared}")
    layout = node.layout
    if [s.shape for s in layout.needs] != [aval.shape for aval in ins]:
        raise CheckError(f"{where} needs cuts of {layout.needs}, its operands are {ins}")
    if list(layout.outs) != [graph.values[v].sharding for v in node.outs]:
        raise CheckError(f"{where} makes {layout.outs}, not the cuts of its values")
    if not agrees(layout, node.primitive, ins, node.attrs):
        raise CheckError(f"{where} is not cut as a shard rule can cut it: {layout}")
