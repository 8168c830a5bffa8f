"""The graph that the planner works on: values by number, the nodes that make them, and those that read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from distgrad.primitives import TABLE, Aval, Labels, Layout, Primitive
from distgrad.primitives.rules import Grid, on_grid
from distgrad.program import Exchange
from distgrad.sharding import Sharding


class External(NamedTuple):
    """A value that is there already: "feed" (in the driver), "stored" (on the workers) or "boxed" (partial results)."""

    kind: str
    what: Exchange | None = None
    box: int = -1  # number of the box among the capture's
    channel: str = ""
    position: int = -1
    copies: tuple[Sharding, ...] = ()  # other cuts in which the workers have it


FEED, STORED = External("feed"), External("stored")


class ValueInfo(NamedTuple):
    """What the planner knows of a value. `haloed` are cuts with so much overlap that all may be read of them."""

    aval: Aval
    sharding: Sharding
    wanted: bool = False
    external: External | None = None
    haloed: Sharding | None = None


class Instance(NamedTuple):
    """A value, by its number, in certain cuts."""

    value: int
    cuts: Sharding


class NodeInfo(NamedTuple):
    """A node as the planner sees it: `ins` and `outs` are numbers of values."""

    primitive: Primitive
    attrs: dict[str, Any]
    layout: Layout
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    number: int = -1  # of the node in the capture that it comes from; -1: it is the planner's own

    @property
    def name(self) -> str:
        """Of its primitive."""
        return self.primitive.name

    @property
    def operands(self) -> list[Instance]:
        """What it reads, cut as it needs that."""
        return [Instance(v, need) for v, need in zip(self.ins, self.layout.needs, strict=True)]

    @property
    def results(self) -> list[Instance]:
        """What it makes."""
        return [Instance(v, cuts) for v, cuts in zip(self.outs, self.layout.outs, strict=True)]


# Another node, the values that are the same as its results, or nothing.
Change = NodeInfo | tuple[int, ...] | None


class Graph:
    """Values by number, and nodes in an order in which they can run. A value has one maker, or is there before.

    Values keep their numbers; new ones stand at the end. Nodes are never changed but replaced: by `sweep`, or all at
    once by `replace`. `makers` and `readers` are worked out once somebody asks. During a sweep `makers` are the nodes
    as they are by then, `readers` those before it began, so that what it has done does not hide what was alike.
    """

    def __init__(self, values: Iterable[ValueInfo], nodes: Iterable[NodeInfo]):
        self.values = list(values)
        self.nodes: Sequence[NodeInfo] = list(nodes)
        self._inserted: list[NodeInfo] = []  # in a sweep: before the node in hand
        self._known: dict[Any, int] = {}  # in a sweep: what was emitted

    @cached_property
    def makers(self) -> dict[int, NodeInfo]:
        """The node that makes each value."""
        return {v: node for node in self.nodes for v in node.outs}

    @cached_property
    def readers(self) -> dict[int, list[NodeInfo]]:
        """The nodes that read each value, in order; one that reads it twice stands there twice."""
        found: dict[int, list[NodeInfo]] = {}
        for node in self.nodes:
            for v in node.ins:
                found.setdefault(v, []).append(node)
        return found

    @cached_property
    def order(self) -> dict[int, int]:
        """The place of its maker among the nodes, for each value."""
        return {v: n for n, node in enumerate(self.nodes) for v in node.outs}

    def avals(self, numbers: Iterable[int]) -> list[Aval]:
        """Shapes and dtypes."""
        return [self.values[v].aval for v in numbers]

    def read_once(self, value: int) -> bool:
        """Whether one operand of one node is all that needs a value."""
        return len(self.readers.get(value, ())) == 1 and not self.values[value].wanted

    # Nodes for a change

    def _labels(self, node: NodeInfo) -> Labels:
        assert node.primitive.labels is not None
        return node.primitive.labels(self.avals(node.ins), node.attrs)

    def _laid(self, node: NodeInfo, labels: Labels, grid: Grid) -> NodeInfo:
        ins = self.avals(node.ins)
        outs = self.avals(node.outs) or node.primitive.shape(ins, node.attrs)
        made = on_grid(labels, ins, outs, [self.values[v].sharding for v in node.ins], grid)
        return node._replace(layout=made)

    def on_grid(self, node: NodeInfo, grid: Grid) -> NodeInfo:
        """The node with the layout that its shard rule gives on this grid."""
        return self._laid(node, self._labels(node), grid)

    def cut_like(self, node: NodeInfo, target: Sharding) -> NodeInfo:
        """The node with its result cut like `target`, where its shard rule can make that."""
        labels = self._labels(node)
        cuts = zip(labels.outs[0], target.cuts, strict=True)
        grid = tuple([(label, cut) for label, cut in cuts if label is not None and cut.count > 1])
        if "cuts" in node.attrs:
            node = node._replace(attrs={**node.attrs, "cuts": target})
        return self._laid(node, labels, grid)

    def emit(self, name: str, *ins: int, grid: Grid = (), **attrs: Any) -> int:
        """Have a primitive run on a grid before the node in hand, for a new value. The same again gives the same."""
        key = name, ins, grid, tuple(attrs.items())
        if key not in self._known:
            self._known[key] = number = len(self.values)
            node = self.on_grid(NodeInfo(TABLE[name], attrs, Layout(0, (), ()), ins, ()), grid)
            (aval,) = node.primitive.shape(self.avals(ins), attrs)
            self.values.append(ValueInfo(aval, node.layout.outs[0]))
            self._inserted.append(node._replace(outs=(number,)))
        return self._known[key]

    # Changes

    def replace(self, nodes: Sequence[NodeInfo]) -> None:
        """These are all nodes from now on."""
        self.nodes = nodes
        for known in ("makers", "readers", "order"):
            self.__dict__.pop(known, None)

    def sweep(self, change: Callable[[NodeInfo], Change], names: Collection[str] | None = None) -> None:
        """Put in the place of each node, in order, what `change` makes of it, after what that emits.

        Values that are the same as its results are read instead of these, if nobody wants the results themselves. With
        `names`, only nodes with these primitives are looked at.
        """
        same: dict[int, int] = {}
        done: list[NodeInfo] = []
        changed = False
        for old in self.nodes:
            node = old
            if same and not same.keys().isdisjoint(old.ins):
                node = old._replace(ins=tuple([same.get(v, v) for v in old.ins]))
            made = change(node) if names is None or node.primitive.name in names else None
            if made is None and node is old and not self._inserted:
                done.append(old)
                continue
            changed, new = True, self._inserted
            if isinstance(made, NodeInfo):
                new.append(made)
            elif made is None or any(self.values[v].wanted for v in node.outs):
                new.append(node)
            else:
                same.update(zip(node.outs, made, strict=True))
            for one in new:
                done.append(one._replace(number=old.number))
                self.makers.update(dict.fromkeys(one.outs, done[-1]))
            new.clear()
        self._known.clear()
        if changed:
            self.replace(done)


def key_of(node: NodeInfo) -> Any:
    """Equal for nodes that make the same of the same."""
    return node.primitive.name, tuple(node.attrs.items()), node.ins, node.layout.outs
