"""Rules of rows that are taken from a table, weighted, and added to others: one product with a sparse matrix.

It may add in another order than that of the indices; in which one follows from the lengths of the tables.
"""

from __future__ import annotations

from distgrad.plan.ir import Change, Graph, NodeInfo
from distgrad.plan.patterns import ANY, made, rule, rules
from distgrad.primitives import TABLE

TAKEN = made("take", ANY, ANY)


@rule(made("index_add", ANY, TAKEN))
def add_taken(graph: Graph, node: NodeInfo, index: int, taken: NodeInfo, table: int, source: int) -> Change:
    """`index_add` of `take(table, source)`."""
    return _joined(graph, node, taken, (index, source, table))


@rule(made("index_add", ANY, made("multiply", TAKEN, ANY, either=True)))
def add_weighted(
    graph: Graph,
    node: NodeInfo,
    index: int,
    product: NodeInfo,
    taken: NodeInfo,
    table: int,
    source: int,
    factor: int,
) -> Change:
    """The same of its product with one weight for each row."""
    spread = graph.makers.get(factor)
    weight = spread.ins[0] if spread is not None and spread.name == "expand" else factor
    column = len(graph.values[weight].aval.shape) == 2 and graph.values[weight].aval.shape[1] == 1
    return _joined(graph, node, taken, (index, source, table, weight)) if column else None


def _joined(graph: Graph, node: NodeInfo, taken: NodeInfo, ins: tuple[int, ...]) -> NodeInfo | None:
    """Rows that are taken are added at once, in the same partial sums, if `add_taken` does that."""
    (out,) = graph.avals(node.outs)
    _, _, table, *weight = graph.avals(ins)
    (_, rows) = graph.avals(node.ins)
    rules = node.layout.labels, taken.layout.labels
    if not (
        len(table.shape) == len(out.shape) == 2
        and node.attrs["dim"] == taken.attrs["dim"] == 0
        and all(aval.dtype == out.dtype for aval in (table, *weight))
        and table.dtype.kind == "f"
        and max(table.shape[0], *rows.shape, out.shape[0]) < 1 << 31
        and [labels and labels.merge for labels in rules] == ["add", None]
    ):
        return None
    attrs = {"size": node.attrs["size"], "wrap": taken.attrs["wrap"]}
    made_of = node._replace(primitive=TABLE["add_taken"], attrs=attrs, ins=ins)
    return graph.on_grid(made_of, node.layout.grid)


SPARSE = rules(add_taken, add_weighted)
