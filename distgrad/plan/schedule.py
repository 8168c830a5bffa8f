"""Which stage each node runs in, and what must be moved before.

A value is made as one *instance*: in certain cuts. A node that needs another gets it by an exchange, and so does
whoever needs the sum of partial results. Every exchange ends a stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from distgrad.exchange import Reduce, Reshard, reduce_of, scattered
from distgrad.plan import costs
from distgrad.plan.ir import Graph, Instance, NodeInfo
from distgrad.primitives import TABLE, Layout
from distgrad.primitives.slices import Slices


class Schedule:
    """Of a graph: in which stage each node runs, and from which stage on each instance is there."""

    def __init__(self, graph: Graph, put_off: Mapping[int, int] = MappingProxyType({})):
        self.graph = graph
        self.values = graph.values
        self._bases = [Instance(value, info.sharding) for value, info in enumerate(graph.values)]
        self.put_off = put_off  # of nodes that do not run as early as they could, by their first result
        self.ready: dict[Instance, int] = {}  # the stage in which an instance is there for the first time
        self.merged: dict[int, Reduce] = {}
        self.partial_stage: dict[int, int] = {}  # of those: the stage in which the parts are made
        self.scattered: dict[int, int] = {}  # shards of a sum, which their owners merge: the sum
        self.by_stage: list[list[NodeInfo]] = []
        self.uses: dict[Instance, set[int]] = {}
        self.moves: list[tuple[Instance, Instance]] = []  # (from, to)
        self.how: dict[Instance, Reshard] = {}  # how each instance arrives that is moved
        self.taken = self._taken()
        self._assign()

    def base(self, value: int) -> Instance:
        """The instance that is made of a value."""
        return self._bases[value]

    def nbytes(self, value: int) -> int:
        """Of all its elements."""
        return self.values[value].aval.nbytes

    def kind(self, instance: Instance) -> str:
        """How an instance is there before anything runs: the kind of `External`; "" if it is not."""
        external = self.values[instance.value].external
        if external is None:
            return ""
        if instance == self.base(instance.value):
            return external.kind
        return "stored" if instance.cuts in external.copies else ""

    def is_stored(self, value: int) -> bool:
        """Whether a value was stored before, and stays so."""
        info = self.values[value]
        return info.external is not None and info.external.kind == "stored" and info.wanted

    def is_halo(self, instance: Instance) -> bool:
        """Whether an instance is a stored value with halos: kept, it takes no memory but for these."""
        value, cuts = instance
        return self.is_stored(value) and cuts.halo_dim(self.values[value].sharding) is not None

    def _assign(self) -> None:
        """Give every node the first stage in which its operands can be there, cut as it needs them."""
        for value, info in enumerate(self.values):
            if info.external is not None:
                self.ready[self.base(value)] = 0
                self.ready.update((Instance(value, cuts), 0) for cuts in info.external.copies)
        scattering = self._scattered()
        for node in self.graph.nodes:
            if node.outs[0] in scattering:
                (source,), (out,) = node.ins, node.outs
                self.scattered[out] = source
                self.merged[out] = scattered(self.merged[source], self.values[out].sharding)
                self.partial_stage[out] = self.partial_stage[source]
                self.ready[self.base(out)] = self.ready[self.base(source)]
                continue
            if node.outs[0] in self.taken:
                continue
            if node.ins and node.ins[0] in self.taken:
                self._send(self.taken[node.ins[0]], node.outs[0])
                continue
            stage, operands = self.put_off.get(node.outs[0], 0), node.operands
            for operand in operands:
                self._provide(operand)
                stage = max(stage, self.ready[operand])
            for operand in operands:
                self.uses.setdefault(operand, set()).add(stage)
            self._place(stage, node)
            for out in node.outs:
                if node.layout.merged:
                    self.merged[out] = reduce_of(node.layout)
                    self.partial_stage[out] = stage
                self.ready[self.base(out)] = stage + node.layout.merged

    def _recuts(self, value: int) -> list[NodeInfo] | None:
        """The nodes that give a value other cuts, if nothing else is done with it."""
        readers = self.graph.readers.get(value, [])
        alone = not self.values[value].wanted and all(reader.name == "reshard" for reader in readers)
        return readers if alone else None

    def _taken(self) -> dict[int, NodeInfo]:
        """The slices of what is cut of which only other cuts are read: nobody makes them, they are sent as they lie."""
        found: dict[int, NodeInfo] = {}
        for node in self.graph.nodes:
            if node.name == "slice" and node.layout.shards > 1:
                recuts = self._recuts(node.outs[0])
                if recuts is not None and all(n.layout.needs != node.layout.outs for n in recuts):
                    found[node.outs[0]] = node
        return found

    def _scattered(self) -> set[int]:
        """The cuts of a large sum which nobody reads whole: its partial results are sent in these."""
        found: set[int] = set()
        sums = [(v, node) for node in self.graph.nodes if node.layout.merged for v in node.outs]
        for v, node in sums:
            least = costs.ROWS if reduce_of(node.layout).exact else costs.SCATTERED
            if self.nbytes(v) >= least and self.values[v].sharding.count == 1:
                recuts = self._recuts(v)
                if recuts is not None and all(n.layout.shards > 1 for n in recuts):
                    found.update(n.outs[0] for n in recuts)
        return found

    def _send(self, part: NodeInfo, out: int) -> None:
        """Have the elements of a slice sent from the shards that have them, to be `out`."""
        source = part.operands[0]
        self._provide(source)
        self._move(source, self.base(out), part.attrs["slices"])

    def _move(self, source: Instance, to: Instance, slices: Slices | None = None) -> None:
        self.moves.append((source, to))
        self.how[to] = Reshard(source.cuts, to.cuts, slices)
        self.uses.setdefault(source, set()).add(self.ready[source])
        self.ready[to] = self.ready[source] + 1

    def _place(self, stage: int, node: NodeInfo) -> None:
        while len(self.by_stage) <= stage:
            self.by_stage.append([])
        self.by_stage[stage].append(node)

    def _provide(self, instance: Instance) -> None:
        """Have an instance that is read: if it is for the first time, by a move, or cut out on the spot."""
        if instance in self.ready:
            return
        value, need = instance
        source = self._source(instance)
        there = self.ready[source]
        if source.cuts.count == 1 or source.cuts.covers(
            need
        ):  # every worker has all of its own and cuts it out
            made = Layout(need.count, (source.cuts,), (need,))
            self.uses.setdefault(source, set()).add(there)
            self._place(there, NodeInfo(TABLE["reshard"], {"cuts": need}, made, (value,), (value,)))
            self.ready[instance] = there
        else:
            self._move(source, instance)

    def _source(self, instance: Instance) -> Instance:
        """What an instance is cut out of or moved from: the value as it was made, or as it is moved for all readers."""
        value, need = instance
        base, haloed = self.base(value), self.values[value].haloed
        if haloed is None or haloed == need or base.cuts.covers(need) or not haloed.covers(need):
            return base
        source = Instance(value, haloed)
        self._provide(source)
        return source

    def stages(self) -> dict[int, int]:
        """For each value the stage in which the node that makes it runs."""
        there = {v: n for n, nodes in enumerate(self.by_stage) for node in nodes for v in node.outs}
        there |= {v: self.partial_stage[v] + 1 for v in self.scattered}
        there |= {i.value: self.ready[i] for i in self.how if i == self.base(i.value)}
        return there | {v: self.ready[n.operands[0]] for v, n in self.taken.items()}

    def leaving(self) -> set[int]:
        """What must be there at the end of its stage, since it is sent, or is there because it was."""
        return {v for move in self.moves for v, _ in move} | self.taken.keys()
