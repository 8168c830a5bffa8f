"""Rules of softmax, its logarithm and their gradients, which are taken apart where that is less work.

What their kernels do in one go becomes steps of its own: the maximum, the exponentials and their sum. Nodes of the same
operand then share them, and compiled loops go through each row while it is in the cache. And where only chosen elements
count, only these are computed. As the steps are those of the kernels, no rule changes a bit of any result, but for the
sign of a zero.
"""

from __future__ import annotations

from typing import Any

from distgrad.compiler import switch
from distgrad.dtype import NAMES
from distgrad.plan.ir import Change, Graph, NodeInfo
from distgrad.plan.patterns import ANY, made, rule, rules
from distgrad.primitives import TABLE

FAMILY = "softmax log_softmax log_softmax_backward"


def _key(node: NodeInfo) -> Any:
    return node.ins[0], node.attrs["dim"], node.layout.grid


@rule(made(FAMILY))
def split_softmax(graph: Graph, node: NodeInfo) -> Change:
    """Steps for a node that has operand and dimension in common with another of the family; if compiled, for all."""
    family = FAMILY.split()
    relatives = {n.outs for n in graph.readers[node.ins[0]] if n.name in family and _key(n) == _key(node)}
    better = len(relatives) > 1 or switch.on()
    return _last_step(graph, node) if better and _in_tiles(graph, node) else None


@rule(made("softmax_backward"))
def split_gradient(graph: Graph, node: NodeInfo) -> Change:
    """Steps for the gradient of a softmax y, if they are compiled: g y - y sum(g y)."""
    if not switch.on() or not _in_tiles(graph, node):
        return None
    (y, g), dim, grid = node.ins, node.attrs["dim"], node.layout.grid
    dtype = NAMES[graph.values[y].aval.dtype]
    product = graph.emit("multiply", g, y, grid=grid)
    total = graph.emit("sum", product, grid=grid, dims=(dim,), keepdim=True, dtype=dtype)
    less = graph.emit("multiply", y, total, grid=grid)
    return graph.on_grid(node._replace(primitive=TABLE["subtract"], attrs={}, ins=(product, less)), grid)


def _in_tiles(graph: Graph, node: NodeInfo) -> bool:
    """Whether all steps would run on the same tiles, so that what passes between them stays in the cache."""
    before = graph.values[node.outs[0]].aval.shape[: node.attrs["dim"]]
    return bool(node.layout.grid) or any(n > 1 for n in before)


def _last_step(graph: Graph, node: NodeInfo) -> NodeInfo:
    """The step that makes the node's own result, after those that it needs; all are on the node's grid.

    Labels are numbers of dimensions in all of them.
    """
    x, dim, grid = node.ins[0], node.attrs["dim"], node.layout.grid
    along = {"dims": (dim,), "keepdim": True}
    adding = {**along, "dtype": NAMES[graph.values[x].aval.dtype]}

    def step(name: str, *ins: int, **attrs: Any) -> int:
        return graph.emit(name, *ins, grid=grid, **attrs)

    def last(name: str, *ins: int, **attrs: Any) -> NodeInfo:
        return graph.on_grid(node._replace(primitive=TABLE[name], attrs=attrs, ins=ins), grid)

    shifted = step("subtract", x, step("amax", x, **along))
    powers = step("exp", shifted)
    total = step("sum", powers, **adding)
    if node.name == "softmax":
        return last("divide", powers, total)
    if node.name == "log_softmax":
        return last("subtract", shifted, step("log", total))
    g = node.ins[1]
    laid = graph.makers.get(g)
    if laid is None or laid.name != "scatter_zeros" or (laid.attrs["dim"], laid.layout.grid) != (dim, grid):
        ratio = step("divide", step("sum", g, **adding), total)
        return last("subtract", g, step("multiply", powers, ratio))
    _, index, src = laid.ins  # zero but for one element of each row: laid onto what is subtracted from it
    return last("scatter_subtract", powers, step("divide", src, total), index, src, **laid.attrs)


@rule(made("gather", made("subtract", ANY, ANY), ANY))
def gather_first(graph: Graph, node: NodeInfo, difference: NodeInfo, a: int, b: int, index: int) -> Change:
    """Elements gathered from a - b, where b is the same along the rows, are gathered from a, if all that is read is."""
    values, (out,) = graph.values, difference.outs
    if (
        any(reader.name != "gather" for reader in graph.readers[out])
        or values[out].wanted
        or values[a].aval.shape != values[out].aval.shape
        or values[b].aval.shape != values[node.outs[0]].aval.shape
        or not values[a].sharding == values[out].sharding == node.layout.needs[0]
        or node.layout.merged
        or values[b].aval.shape[node.attrs["dim"]] != 1
    ):
        return None
    taken = graph.emit("gather", a, index, grid=node.layout.grid, **node.attrs)
    less = node._replace(primitive=difference.primitive, attrs={}, ins=(taken, b))
    return graph.on_grid(less, node.layout.grid)


SOFTMAX, GATHERS = rules(split_softmax, split_gradient), rules(gather_first)
