"""Which stage each node runs in, and what must be moved before.

A *form* is a value with a way of being cut. A value is made in one form; a node that needs another gets it by an
exchange, and so does whoever needs the sum of partial results. Every exchange ends a stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from distgrad.exchange import Reduce, Reshard, reduce_of, scattered
from distgrad.plan import costs
from distgrad.plan.ir import Graph, NodeInfo
from distgrad.primitives import TABLE, Layout
from distgrad.primitives.slices import Slices
from distgrad.sharding import Sharding

Form = tuple[int, Sharding]


class Levels:
    """Of a graph: in which stage each node runs, and from which stage on each form is there."""

    def __init__(self, graph: Graph, put_off: Mapping[int, int] = MappingProxyType({})):
        self.graph = graph
        self.values = graph.values
        self.put_off = put_off  # of nodes that do not run as early as they could, by their first result
        self.level: dict[Form, int] = {}  # the stage in which a form is there for the first time
        self.merged: dict[int, Reduce] = {}
        self.partial_level: dict[int, int] = {}  # of those: the stage in which the parts are made
        self.scattered: dict[int, int] = {}  # shards of a sum, which their owners merge: the sum
        self.by_level: list[list[NodeInfo]] = []
        self.uses: dict[Form, set[int]] = {}
        self.moves: list[tuple[Form, Form]] = []  # (from, to)
        self.how: dict[Form, Reshard] = {}  # how each form arrives that is moved
        self.taken = self._taken()
        self._levels()

    def base(self, value: int) -> Form:
        """The form in which a value is made."""
        return value, self.values[value].sharding

    def nbytes(self, value: int) -> int:
        """Of all its elements."""
        return self.values[value].aval.nbytes

    def kind(self, form: Form) -> str:
        """How a form is there before anything runs: the kind of `External`; "" if it is not."""
        external = self.values[form[0]].external
        if external is None:
            return ""
        return external.kind if form == self.base(form[0]) else "stored" if form[1] in external.copies else ""

    def is_halo(self, form: Form) -> bool:
        """Whether a form is a stored value with halos: kept, it takes no memory but for these."""
        value, cuts = form
        info = self.values[value]
        stored = info.external is not None and info.external.kind == "stored"
        return stored and info.wanted and cuts.halo_dim(info.sharding) is not None

    def _levels(self) -> None:
        """Give every node the first stage in which its operands can be there, in the form that it needs."""
        for value, info in enumerate(self.values):
            if info.external is not None:
                self.level[self.base(value)] = 0
                self.level.update(((value, cuts), 0) for cuts in info.external.copies)
        scattering = self._scattered()
        for node in self.graph.nodes:
            if node.outs[0] in scattering:
                (source,), (out,) = node.ins, node.outs
                self.scattered[out] = source
                self.merged[out] = scattered(self.merged[source], self.values[out].sharding)
                self.partial_level[out] = self.partial_level[source]
                self.level[self.base(out)] = self.level[self.base(source)]
                continue
            if node.outs[0] in self.taken:
                continue
            if node.ins and node.ins[0] in self.taken:
                self._send(self.taken[node.ins[0]], node.outs[0])
                continue
            forms = tuple(
                self._form(value, need) for value, need in zip(node.ins, node.layout.needs, strict=True)
            )
            level = max((self.level[f] for f in forms), default=0)
            level = max(level, self.put_off.get(node.outs[0], 0))
            for form in forms:
                self.uses.setdefault(form, set()).add(level)
            self._place(level, node)
            for out in node.outs:
                if node.layout.merged:
                    self.merged[out] = reduce_of(node.layout)
                    self.partial_level[out] = level
                self.level[self.base(out)] = level + node.layout.merged

    def _taken(self) -> dict[int, NodeInfo]:
        """The slices of what is cut of which only other cuts are read: nobody makes them, they are sent as they lie."""
        found: dict[int, NodeInfo] = {}
        for node in self.graph.nodes:
            for v in node.ins:
                if v in found and (
                    node.primitive.name != "reshard" or node.layout.needs[0] == self.base(v)[1]
                ):
                    del found[v]
            if (
                node.primitive.name == "slice"
                and node.layout.shards > 1
                and not self.values[node.outs[0]].wanted
            ):
                found[node.outs[0]] = node
        return found

    def _send(self, part: NodeInfo, out: int) -> None:
        """Have the elements of a slice sent from the shards that have them, to be `out`."""
        source = self._form(part.ins[0], part.layout.needs[0])
        self._move(source, self.base(out), part.attrs["slices"])

    def _move(self, source: Form, to: Form, slices: Slices | None = None) -> None:
        self.moves.append((source, to))
        self.how[to] = Reshard(source[1], to[1], slices)
        self.uses.setdefault(source, set()).add(self.level[source])
        self.level[to] = self.level[source] + 1

    def _scattered(self) -> set[int]:
        """The cuts of a large sum which nobody reads whole: its partial results are sent in these."""
        sums: dict[int, set[int]] = {}
        for node in self.graph.nodes:
            for v in node.ins:
                if v in sums:
                    cut = node.primitive.name == "reshard" and node.layout.shards > 1
                    sums[v].add(node.outs[0] if cut else -1)
            for v in node.outs:
                info = self.values[v]
                large = info.aval.nbytes >= costs.SCATTERED and info.sharding.count == 1
                if node.layout.merged and large and not info.wanted:
                    sums[v] = set()
        return {out for cuts in sums.values() if -1 not in cuts for out in cuts}

    def _place(self, level: int, node: NodeInfo) -> None:
        while len(self.by_level) <= level:
            self.by_level.append([])
        self.by_level[level].append(node)

    def _form(self, value: int, need: Sharding) -> Form:
        """The form in which a value is read. Makes it if this is the first time: by a move, or on the spot."""
        form = (value, need)
        if form in self.level:
            return form
        source = self._holding(value, need)
        there = self.level[source]
        if source[1].count == 1 or source[1].covers(need):  # every worker has all of its own and cuts it out
            made = Layout(need.count, (source[1],), (need,))
            self.uses.setdefault(source, set()).add(there)
            self._place(there, NodeInfo(TABLE["reshard"], {"cuts": need}, made, (value,), (value,)))
            self.level[form] = there
        else:
            self._move(source, form)
        return form

    def _holding(self, value: int, need: Sharding) -> Form:
        """The form from which a value is cut out or moved: as it was made, or what is moved for all that read it."""
        base, haloed = self.base(value), self.values[value].haloed
        if haloed is None or haloed == need or base[1].covers(need) or not haloed.covers(need):
            return base
        return self._form(value, haloed)

    def stages(self) -> dict[int, int]:
        """For each value the stage in which the node that makes it runs."""
        there = {v: n for n, nodes in enumerate(self.by_level) for node in nodes for v in node.outs}
        there |= {v: self.partial_level[v] + 1 for v in self.scattered}
        there |= {v: self.level[v, cuts] for v, cuts in self.how if (v, cuts) == self.base(v)}
        return there | {v: self.level[n.ins[0], n.layout.needs[0]] for v, n in self.taken.items()}

    def leaving(self) -> set[int]:
        """What must be there at the end of its stage, since it is sent, or is there because it was."""
        return {v for move in self.moves for v, _ in move} | self.taken.keys()
