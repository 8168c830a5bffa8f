"""Halos: what a stencil reads at several places nearby is made in pieces that overlap, so that nothing is moved.

Of `x[1:] - x[:-1]` and its gradient each shard needs some elements of its neighbours'. Were every slice and every pad
moved to the cuts in which it is read, each would cost an exchange. Instead a value is made in the cuts that hold all
that its readers need of it: elements of a halo are computed on both sides of the cut, from operands with halos too.
That goes back to what is there already, or cannot be made so; of that the halos are exchanged, once, and if they are
narrow they are kept beside it.

An element is computed from the same operands wherever it is needed, and which pieces and tiles hold it follows from the
cuts alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from distgrad.plan.ir import Graph, NodeInfo
from distgrad.primitives import Layout
from distgrad.sharding import Cut, Sharding

SHARE = 4  # pieces overlap by at most 1/4 of their length


def with_halos(needs: Iterable[Sharding]) -> Sharding | None:
    """The cuts that hold all of these; None if they have not the same pace or the pieces would overlap too much."""
    dims = [_covering(set(cuts)) for cuts in zip(*(s.cuts for s in needs), strict=True)]
    return None if None in dims else Sharding(tuple(cut for cut in dims if cut is not None))


def _covering(cuts: set[Cut]) -> Cut | None:
    first = next(iter(cuts))
    if len(cuts) == 1:
        return first
    if len({(cut.pace, cut.size) for cut in cuts}) > 1:
        return None
    return _with_halo(first, min(-cut.offset for cut in cuts), max(cut.overlap - cut.offset for cut in cuts))


def _with_halo(like: Cut, lo: int, hi: int) -> Cut | None:
    """The cut with this pace whose piece i holds `lo + i * step` to `hi + (i + 1) * step`; it leaves nothing out."""
    lo = min(lo, 0)
    hi = max(hi, lo, like.size - like.count * like.step)
    if hi - lo > like.step // SHARE:
        return None
    return Cut.regular(like.size, like.step, -lo, like.count, hi - lo)


def shifted(node: NodeInfo, aval_shape: tuple[int, ...], target: Sharding) -> NodeInfo | None:
    """A slice or pad whose result is cut like `target`, of an operand with this shape; None if it cannot be so."""
    if node.primitive.name not in ("slice", "pad") or node.layout.needs[0].count == 1:
        return None
    cuts = []
    for cut, n, (start, _, step) in zip(target.cuts, aval_shape, node.attrs["slices"], strict=True):
        if cut.count == 1:
            cuts.append(Cut(n))
            continue
        if step != 1 or cut.points is not None:
            return None
        lo = (start if node.primitive.name == "slice" else -start) - cut.offset
        made = _with_halo(Cut(n, cut.step, None, 0, cut.count), lo, lo + cut.overlap)
        if made is None:
            return None
        cuts.append(made)
    attrs = {**node.attrs, "cuts": target} if "cuts" in node.attrs else node.attrs
    return node._replace(attrs=attrs, layout=Layout(target.count, (Sharding(tuple(cuts)),), (target,)))


def cut_as_read(graph: Graph) -> None:
    """Make results in the cuts in which they are read, or in cuts with halos that hold all these."""
    values = graph.values
    needs: dict[int, set[Sharding]] = {}  # of each value: the cuts in which it is read
    done = []
    for old in reversed(graph.nodes):
        node, out = old, old.outs[0]
        cuts = needs.get(out, set())
        if len(node.outs) == 1 and not values[out].wanted and cuts - {values[out].sharding}:
            made = _recut(graph, node, cuts, needs)
            if made is not None:
                values[out] = values[out]._replace(sharding=made.layout.outs[0])
                node = made
        for value, need in node.operands:
            needs.setdefault(value, set()).add(need)
        done.append(node)
    graph.replace(done[::-1])
    _share_halos(graph, needs)


def _recut(
    graph: Graph, node: NodeInfo, cuts: set[Sharding], needs: Mapping[int, set[Sharding]]
) -> NodeInfo | None:
    """The node with its result in cuts that hold all those in which it is read; None: it is better as it is."""
    target = with_halos(cuts)
    if target is None:
        return None
    near = with_halos((target, graph.values[node.outs[0]].sharding)) is not None
    if near and "shifts" in node.primitive.traits:
        return shifted(node, graph.values[node.ins[0]].aval.shape, target)
    labels = node.layout.labels
    if (
        labels is None
        or labels.merge is not None
        or target.count == 1
        or any(label not in labels.outs[0] for names in labels.ins for label in names if label is not None)
        or any(labels.outs[0][d] is None for d in target.cut_dims)
    ):
        return None
    made = graph.cut_like(node, target)
    if made.layout.outs != (target,):
        return None
    pairs = set(made.operands)
    moved = sum(need != graph.values[v].sharding and need not in needs.get(v, ()) for v, need in pairs)
    return made if near or moved <= 1 else None


def _share_halos(graph: Graph, needs: Mapping[int, set[Sharding]]) -> None:
    """Let slices and pads read what is there for others anyway. Sets `haloed` of values; `needs` are all reads."""
    values, nodes = graph.values, list(graph.nodes)
    sources: dict[int, Sharding] = {}
    for v, cuts in needs.items():
        sources[v] = values[v].sharding
        moved = {s for s in cuts if not sources[v].covers(s)}
        haloed = with_halos({*moved, sources[v]}) if len(moved) > 1 else None
        if haloed is not None:
            values[v] = values[v]._replace(haloed=haloed)
            sources[v] = haloed
    for n, node in enumerate(nodes):
        if node.primitive.name in ("slice", "pad"):
            (v,), (need,) = node.ins, node.layout.needs
            if need != values[v].sharding and sources[v].covers(need):
                nodes[n] = node._replace(layout=node.layout._replace(needs=(sources[v],)))
    graph.replace(nodes)
