"""Rules of arithmetic: with scalars that were expanded, and signs. They change no bit but the sign of a NaN or zero."""

from __future__ import annotations

from distgrad.plan.ir import Change, Graph, NodeInfo
from distgrad.plan.patterns import ANY, ARRAY, SCALAR, made, once, rule, rules
from distgrad.primitives import TABLE

EXACT = " ".join(p.name for p in TABLE.values() if "exact" in p.traits)


@rule(made(EXACT))
def fold_expanded(graph: Graph, node: NodeInfo) -> Change:
    """Arithmetic with a scalar that was expanded, such as the gradient of a sum, is done with the scalar."""
    scalars: dict[int, int] = {}
    for v in node.ins:
        maker = graph.makers.get(v)
        if (
            maker is not None
            and maker.primitive.name == "expand"
            and not graph.values[maker.ins[0]].aval.shape
        ):
            scalars[v] = maker.ins[0]
    if not scalars:
        return None
    ins = tuple(scalars.get(v, v) for v in node.ins)
    avals, info = graph.avals(ins), graph.values[node.outs[0]]
    if all(not aval.shape for aval in avals):
        small = graph.emit(node.name, *ins, **node.attrs)
        attrs = {"shape": info.aval.shape, "cuts": info.sharding}
        expanded = NodeInfo(TABLE["expand"], attrs, node.layout, (small,), node.outs)
        return graph.cut_like(expanded, info.sharding)
    if node.primitive.shape(avals, node.attrs)[0].shape == info.aval.shape:
        return graph.cut_like(node._replace(ins=ins), info.sharding)
    return None


@rule(made("squeeze_dims", made("expand_dims", ANY)))
def squeeze_expanded(graph: Graph, node: NodeInfo, inner: NodeInfo, value: int) -> Change:
    """Dimensions of length 1 that are put in and taken out again, as where a row is written and read."""
    same = inner.attrs == node.attrs and graph.values[value].sharding == graph.values[node.outs[0]].sharding
    return (value,) if same else None


@rule(made("add", once("pad", ANY), once("pad", ANY)))
def add_padded(graph: Graph, node: NodeInfo, left: NodeInfo, a: int, right: NodeInfo, b: int) -> Change:
    """What is put at the same place among zeros, such as gradients of one slice, is added before that."""
    alike = left.attrs == right.attrs and graph.values[a].sharding == graph.values[b].sharding
    if not alike or graph.values[left.outs[0]].sharding != graph.values[node.outs[0]].sharding:
        return None
    grid = tuple([(d, cut) for d, cut in enumerate(graph.values[a].sharding.cuts) if cut.count > 1])
    return left._replace(ins=(graph.emit("add", a, b, grid=grid),), outs=node.outs)


def _instead(graph: Graph, node: NodeInfo, name: str, a: int, b: int) -> NodeInfo:
    """Another primitive of other operands, for the same result in the same cuts."""
    other = node._replace(primitive=TABLE[name], ins=(a, b))
    return graph.cut_like(other, graph.values[node.outs[0]].sharding)


def _floats(graph: Graph, node: NodeInfo) -> bool:
    return graph.values[node.outs[0]].aval.dtype.kind == "f"


@rule(
    made("negative", once("multiply", ARRAY, SCALAR, either=True)),
    made("multiply", once("negative", ARRAY), SCALAR, either=True),
)
def scale_by_negative(graph: Graph, node: NodeInfo, _: NodeInfo, a: int, s: int) -> Change:
    """-(a * s) and -a * s are a * -s."""
    return _instead(graph, node, "multiply", a, graph.emit("negative", s)) if _floats(graph, node) else None


@rule(made("add", ANY, once("negative", ANY), either=True), made("subtract", ANY, once("negative", ANY)))
def add_negative(graph: Graph, node: NodeInfo, a: int, _: NodeInfo, b: int) -> Change:
    """a + -b is a - b, and a - -b is a + b."""
    name = "subtract" if node.name == "add" else "add"
    return _instead(graph, node, name, a, b) if _floats(graph, node) else None


FOLDING, SIGNS = rules(fold_expanded, squeeze_expanded, add_padded), rules(scale_by_negative, add_negative)
