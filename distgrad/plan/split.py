"""Softmax, its logarithm and the gradient of that, taken apart where they are of the same operand.

What their kernels do in one go becomes steps of its own: the maximum, the exponentials and their sum, which the nodes
then share. And where only chosen elements count, only these are computed:

- *Gather first*: elements gathered from `a - b`, where b is the same along the rows, are gathered from a.
- *Lay*: a gradient that is zero but for one element of each row is laid onto what is subtracted from it.

As the steps are those of the kernels, no rule changes a bit of any result, but for the sign of a zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.dtype import NAMES
from distgrad.plan.capture import NodeInfo, Numbered, ValueInfo
from distgrad.primitives import TABLE
from distgrad.primitives.rules import on_grid

FAMILY = ("softmax", "log_softmax", "log_softmax_backward")


def split_softmax(values: list[ValueInfo], nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    """The nodes with those of the family split that have an operand and a dimension in common. Adds to `values`."""
    relatives: dict[Any, int] = {}
    for _, node in nodes:
        if node.primitive.name in FAMILY:
            key = _key(node)
            relatives[key] = relatives.get(key, 0) + 1
    if all(n < 2 for n in relatives.values()):
        return list(nodes)
    makers = {v: node for _, node in nodes for v in node.outs}
    done: list[Numbered] = []
    for number, node in nodes:
        if node.primitive.name in FAMILY and relatives[_key(node)] > 1 and _in_tiles(values, node):
            done += [(number, step) for step in _Splitter(values, node, makers).steps]
        else:
            done.append((number, node))
    return done


def _key(node: NodeInfo) -> Any:
    return node.ins[0], node.attrs["dim"], node.layout.grid


def _in_tiles(values: Sequence[ValueInfo], node: NodeInfo) -> bool:
    """Whether all steps would run on the same tiles, so that what passes between them stays in the cache."""
    return bool(node.layout.grid) or any(n > 1 for n in values[node.outs[0]].aval.shape[: node.attrs["dim"]])


class _Splitter:
    """The steps of one node, on its grid."""

    def __init__(self, values: list[ValueInfo], node: NodeInfo, makers: dict[int, NodeInfo]):
        self.values, self.node = values, node
        self.steps: list[NodeInfo] = []
        x, dim, name = node.ins[0], node.attrs["dim"], node.primitive.name
        along = {"dims": (dim,), "keepdim": True}
        adding = {**along, "dtype": NAMES[values[x].aval.dtype]}
        shifted = self.step("subtract", x, self.step("amax", x, **along))
        powers = self.step("exp", shifted)
        total = self.step("sum", powers, **adding)
        if name == "softmax":
            self.last("divide", powers, total)
        elif name == "log_softmax":
            self.last("subtract", shifted, self.step("log", total))
        else:
            g = node.ins[1]
            maker = makers.get(g)
            laid = (
                maker is not None
                and maker.primitive.name == "scatter_zeros"
                and maker.attrs["dim"] == dim
                and maker.layout.grid == node.layout.grid
            )
            if laid:
                assert maker is not None
                _, index, src = maker.ins
                ratio = self.step("divide", src, total)
                self.last("scatter_subtract", powers, ratio, index, src, **maker.attrs)
            else:
                ratio = self.step("divide", self.step("sum", g, **adding), total)
                self.last("subtract", g, self.step("multiply", powers, ratio))

    def step(self, name: str, *ins: int, **attrs: Any) -> int:
        """One step more; gives the number of its result."""
        primitive = TABLE[name]
        (aval,) = primitive.shape([self.values[v].aval for v in ins], attrs)
        made = self._node(name, ins, attrs, aval, len(self.values))
        self.values.append(ValueInfo(aval, made.layout.outs[0], False, None))
        self.steps.append(made)
        return made.outs[0]

    def last(self, name: str, *ins: int, **attrs: Any) -> None:
        """The step that makes the node's own result."""
        out = self.node.outs[0]
        self.steps.append(self._node(name, ins, attrs, self.values[out].aval, out))

    def _node(self, name: str, ins: tuple[int, ...], attrs: dict[str, Any], aval: Any, out: int) -> NodeInfo:
        """A node on the grid of the one that is split; labels are numbers of dimensions in all of them."""
        primitive = TABLE[name]
        assert primitive.labels is not None
        avals = [self.values[v].aval for v in ins]
        labels = primitive.labels(avals, attrs)
        made = on_grid(labels, avals, [aval], [self.values[v].sharding for v in ins], self.node.layout.grid)
        return NodeInfo(primitive, attrs, made, ins, (out,))


def gather_first(values: list[ValueInfo], nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    """Gather before subtracting, where nobody else reads the difference. Adds to `values`."""
    makers = {v: node for _, node in nodes for v in node.outs}
    readers: dict[int, list[NodeInfo]] = {}
    for _, node in nodes:
        for v in node.ins:
            readers.setdefault(v, []).append(node)
    done: list[Numbered] = []
    for number, node in nodes:
        maker = makers.get(node.ins[0]) if node.primitive.name == "gather" else None
        if maker is None or not _pickable(values, node, maker, readers):
            done.append((number, node))
            continue
        a, b = maker.ins
        (out,) = node.outs
        taken = len(values)
        values.append(values[out]._replace(wanted=False))
        done.append((number, node._replace(ins=(a, node.ins[1]), outs=(taken,))))
        avals = [values[taken].aval, values[b].aval]
        assert maker.primitive.labels is not None
        made = on_grid(
            maker.primitive.labels(avals, {}),
            avals,
            [values[out].aval],
            [values[taken].sharding, values[b].sharding],
            node.layout.grid,
        )
        done.append((number, NodeInfo(maker.primitive, {}, made, (taken, b), (out,))))
    return done


def _pickable(
    values: Sequence[ValueInfo], node: NodeInfo, maker: NodeInfo, readers: dict[int, list[NodeInfo]]
) -> bool:
    """Whether a node gathers from a difference of which nothing else is read, one element where b has one."""
    if maker.primitive.name != "subtract" or values[node.ins[0]].wanted:
        return False
    a, b = maker.ins
    return (
        all(reader.primitive.name == "gather" for reader in readers[node.ins[0]])
        and values[a].aval.shape == values[node.ins[0]].aval.shape
        and values[b].aval.shape == values[node.outs[0]].aval.shape
        and values[a].sharding == values[node.ins[0]].sharding == node.layout.needs[0]
        and not node.layout.merged
        and values[b].aval.shape[node.attrs["dim"]] == 1
    )
