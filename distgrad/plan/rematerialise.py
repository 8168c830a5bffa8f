"""Rematerialisation: values that are made again instead of kept: which could be, at what cost, and how.

A value is kept for those who ask for it after the plan, or from one stage to a later one. Either way the nodes that
made it can run again, from what is there then: shard by shard, so that no exchange is needed, and on the same shards
and tiles, so that the bits are the same. Small values, such as a mean over all shards, are kept for that. What is made
element by element comes first, as it costs least for a byte: several such values are often made of one, a product say,
that is then kept instead of them. Products come last.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from distgrad.plan.costs import SMALL
from distgrad.plan.ir import Graph, NodeInfo
from distgrad.plan.schedule import Schedule
from distgrad.primitives import Layout

LIMIT = 1_000  # nodes that are run again for one value
CHEAP = 64  # operations for each element, and nodes, that are spent again rather than to store a value

Test = Callable[[int], bool]


class Offer(NamedTuple):
    """Values that could be made again: what that frees, and what it costs."""

    values: tuple[int, ...]
    roots: frozenset[int]  # values to keep longer for it
    nbytes: int
    flops: float
    product: bool  # whether a product is among the nodes
    later: bool  # for a later stage, else for whoever asks
    names: tuple[str, ...]  # of the primitives that make them
    third: bool = False  # whether some of that was made twice already

    @property
    def rank(self) -> tuple[bool, bool, float, tuple[int, ...]]:
        """The smallest goes first."""
        return self.third, self.product, self.flops / self.nbytes, self.values


def _repeatable(node: NodeInfo) -> bool:
    """Whether it runs shard by shard, and gives the same when it is run again."""
    return "source" not in node.primitive.traits and node.layout.labels is not None and not node.layout.merged


def is_light(layout: Layout) -> bool:
    """Whether a node sums over nothing: what does, such as a product, costs more than its result has elements."""
    labels = layout.labels
    if labels is None:
        return False
    read = {label for operand in labels.ins for label in operand if label is not None}
    return read <= {label for out in labels.outs for label in out}


def _light(node: NodeInfo) -> bool:
    return _repeatable(node) and is_light(node.layout)


def _walk(
    graph: Graph, value: int, stop: Test, runs: Callable[[NodeInfo], bool], limit: int = LIMIT
) -> tuple[list[int], set[int]]:
    """The values to make again for `value`, in their order, and those that cannot be (`runs` says which can).

    Values at which to `stop` are there, but `value` itself is not.
    """
    found: set[int] = set()
    roots: set[int] = set()
    reading = [value]
    while reading and len(found) <= limit:
        v = reading.pop()
        if v in found or v in roots or (v != value and stop(v)):
            continue
        if v in graph.makers and runs(graph.makers[v]):
            found.add(v)
            reading.extend(graph.makers[v].ins)
        else:
            roots.add(v)
    if len(found) > limit:
        roots.add(value)
    return sorted(found, key=graph.order.__getitem__), roots


def _flops(graph: Graph, made: Iterable[int]) -> float:
    nodes = {graph.order[v]: graph.makers[v] for v in made}.values()
    costs = (n.primitive.operations(graph.avals(n.ins), graph.avals(n.outs), n.attrs) for n in nodes)
    return sum(costs, 0.0)


def _names(graph: Graph, values: Iterable[int]) -> tuple[str, ...]:
    return tuple(graph.makers[v].name for v in values)


# What is cheap, whether memory is short or not.
def rematerialised(graph: Graph, forward: int, again: AbstractSet[int]) -> dict[int, list[int]]:
    """Results that only the user's variables name, and that are cheap to make again: the nodes that make each.

    They are made element by element, by the first `forward` nodes, from values that are held anyway. Nodes `again`
    were made again before and have been asked for, so their results are stored now: nothing is made a third time.
    """
    held = _held(graph, ())

    def there(v: int) -> bool:
        return graph.values[v].external is not None and held(v)

    def runs(node: NodeInfo) -> bool:
        labels = node.layout.labels
        return (
            node.number < forward
            and _repeatable(node)
            and len(node.outs) == 1
            and not (labels and labels.merge)
        )

    found = {}
    for value in (v for node in graph.nodes[:forward] for v in node.outs):
        info = graph.values[value]
        if info.wanted and info.sharding.count > 1:
            made, roots = _walk(graph, value, there, runs, CHEAP)
            numbers = {graph.makers[v].number for v in made}
            cheap = not roots and _flops(graph, made) <= CHEAP * max(1, info.aval.size)
            if cheap and again.isdisjoint(numbers):
                found[value] = sorted(numbers)
    return found


# For those who ask, where memory is short.
def _held(graph: Graph, put_off: Container[int]) -> Test:
    """What will be there when somebody asks: what is held anyway, and what is small and not `put_off`."""

    def there(v: int) -> bool:
        info = graph.values[v]
        small = info.aval.nbytes <= SMALL
        if info.external is None:
            return info.wanted or (small and v not in put_off)
        return info.external.kind != "boxed" and (info.wanted or small)

    return there


def offers_after(graph: Graph, put_off: Container[int], again: AbstractSet[int] = frozenset()) -> list[Offer]:
    """What could be made again for those who ask for it after the plan; nodes `again` have run before."""
    makers, there = graph.makers, _held(graph, put_off)
    offers = []
    for v in makers:
        info = graph.values[v]
        if not info.wanted or info.sharding.count == 1 or info.aval.nbytes <= SMALL:
            continue
        made, roots = _walk(graph, v, there, _repeatable)
        if not roots:
            product = not all(_light(makers[u]) for u in made)
            third = not again.isdisjoint(makers[u].number for u in made)
            flops, names = _flops(graph, made), _names(graph, (v,))
            offers.append(Offer((v,), frozenset(), info.aval.nbytes, flops, product, False, names, third))
    return offers


def makers_after(
    graph: Graph, put_off: Container[int], offers: Iterable[Offer], gone: AbstractSet[int]
) -> tuple[dict[int, list[int]], set[int]]:
    """The numbers of the nodes that make what is offered to those who ask, and the small values that are kept for that.

    Values that are `gone` are not kept.
    """
    makers, there = graph.makers, _held(graph, put_off)
    ways: dict[int, list[int]] = {}
    small: set[int] = set()
    for v in dict.fromkeys(v for offer in offers if not offer.later for v in offer.values):
        made, roots = _walk(graph, v, lambda u: there(u) and u not in gone, _repeatable)
        if not roots:
            ways[v] = sorted({makers[u].number for u in made})
            read = {i for u in made for i in makers[u].ins}.difference(made)
            small.update(i for i in read if graph.values[i].external is None and not graph.values[i].wanted)
    return ways, small


# For later stages, where memory is short.
class _Stages:
    """In which stages the values of a plan are made and read."""

    def __init__(self, schedule: Schedule):
        self.graph = schedule.graph
        self.made = schedule.stages()
        self.read: dict[int, set[int]] = {}
        for (value, _), stages in schedule.uses.items():
            self.read.setdefault(value, set()).update(stages)

    def later(self, value: int) -> list[int]:
        """The stages after the one that makes it in which it is read."""
        return sorted(s for s in self.read.get(value, ()) if s > self.made.get(value, 0))

    def kept(self) -> list[int]:
        """Large values that are kept from one stage to a later one, and for nothing else."""
        infos = self.graph.values
        return [
            v
            for v in self.graph.makers
            if not infos[v].wanted
            and infos[v].sharding.count > 1
            and infos[v].aval.nbytes > SMALL
            and self.later(v)
        ]

    def held(self, v: int) -> bool:
        """What is there in all stages after it was made, or may be since it is small."""
        info = self.graph.values[v]
        return info.external is not None or info.wanted or info.aval.nbytes <= SMALL

    def until(self, v: int) -> int:
        """The last stage in which a value is there."""
        return max(self.read.get(v, ()), default=-1)


def offers_between(schedule: Schedule) -> list[Offer]:
    """What could be made again in later stages, from what is there then."""
    stages, graph = _Stages(schedule), schedule.graph
    values, makers, kept = graph.values, graph.makers, stages.kept()
    groups: dict[frozenset[int], list[int]] = {}
    flops: dict[int, float] = {}
    for v in kept:
        made, roots = _walk(graph, v, stages.held, _light)
        if made:
            flops[v] = _flops(graph, made) * len(stages.later(v))
            groups.setdefault(frozenset(roots), []).append(v)
    offers = []
    for base, group in groups.items():
        longer = [r for r in base if r not in kept]
        freed = sum(values[v].aval.nbytes for v in group) - sum(values[r].aval.nbytes for r in longer)
        if freed > 0:
            cost = sum(flops[v] for v in group)
            offers.append(Offer(tuple(group), base, freed, cost, False, True, _names(graph, group)))
    light = {v for offer in offers for v in offer.values}
    heavy = dict.fromkeys(v for v in (*kept, *(r for offer in offers for r in offer.roots)) if v not in light)
    for v in heavy:
        if v not in makers:
            continue
        made, roots = _walk(graph, v, stages.held, _repeatable)
        if made and not roots and not all(_light(makers[u]) for u in made):
            cost = _flops(graph, made) * max(1, len(stages.later(v)))
            nbytes = values[v].aval.nbytes
            offers.append(Offer((v,), frozenset(), nbytes, cost, True, True, _names(graph, (v,))))
    return offers


def made_between(schedule: Schedule, chosen: Sequence[Offer]) -> tuple[Graph, dict[int, int]]:
    """The graph with nodes that make what is chosen again; and the stages of these, by their results."""
    stages, makers = _Stages(schedule), schedule.graph.makers
    values, at = list(schedule.values), dict(schedule.put_off)
    wanted = dict.fromkeys(v for offer in chosen for v in offer.values)
    roots = {r for offer in chosen for r in offer.roots}
    copies: dict[tuple[int, int], int] = {}  # (value, stage): the copy that is read there
    added: list[NodeInfo] = []
    for value in wanted:
        for stage in stages.later(value):

            def stop(v: int, stage: int = stage) -> bool:
                return v not in wanted and (stages.held(v) or v in roots or stages.until(v) >= stage)

            made, missing = _walk(schedule.graph, value, stop, _repeatable)
            if not missing.issubset(wanted):  # what cannot be made again after all is kept
                continue
            for v in made:
                if (v, stage) in copies:
                    continue
                node = makers[v]
                outs = tuple(range(len(values), len(values) + len(node.outs)))
                values.extend(values[out]._replace(wanted=False) for out in node.outs)
                added.append(node._replace(ins=_at(copies, node.ins, stage), outs=outs))
                copies.update(((out, stage), new) for out, new in zip(node.outs, outs, strict=True))
                at.update(dict.fromkeys(outs, stage))
    reading = []
    for node in schedule.graph.nodes:
        stage = max((stages.made[v] for v in node.outs if v in stages.made), default=-1)
        reading.append(node._replace(ins=_at(copies, node.ins, stage)))
    return Graph(values, _ordered([*reading, *added])), at


def _at(copies: Mapping[tuple[int, int], int], ins: Iterable[int], stage: int) -> tuple[int, ...]:
    return tuple(copies.get((v, stage), v) for v in ins)


def _ordered(nodes: Sequence[NodeInfo]) -> list[NodeInfo]:
    """The nodes in their order, but each after those that it reads from."""
    makers = {v: n for n, node in enumerate(nodes) for v in node.outs}
    done: dict[int, None] = {}
    for first in range(len(nodes)):
        stack = [first]
        while stack:
            n = stack[-1]
            before = [makers[v] for v in nodes[n].ins if v in makers and makers[v] not in done]
            if before:
                stack += before
            else:
                done[stack.pop()] = None
    return [nodes[n] for n in done]
