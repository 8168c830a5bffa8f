"""The same results from less work: the passes over captured nodes, before these are given stages.

No pass changes a bit of any result, but for what `arithmetic.py`, `softmax.py` and `sparse.py` say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from distgrad import checks
from distgrad.plan.arithmetic import FOLDING, SIGNS
from distgrad.plan.halo import cut_as_read
from distgrad.plan.ir import Change, Graph, NodeInfo, key_of
from distgrad.plan.softmax import GATHERS, SOFTMAX
from distgrad.plan.sparse import SPARSE
from distgrad.plan.verify import verify


def common_subexpressions(graph: Graph) -> None:
    """What was computed before is not computed again."""
    seen: dict[Any, tuple[int, ...]] = {}

    def before(node: NodeInfo) -> Change:
        found = seen.setdefault(key_of(node), node.outs)
        return None if found is node.outs else found

    graph.sweep(before)


def dead_code(graph: Graph) -> None:
    """What nobody reads or wants is not computed."""
    read: set[int] = set()
    kept = []
    for node in reversed(graph.nodes):
        if any(graph.values[v].wanted or v in read for v in node.outs):
            read.update(node.ins)
            kept.append(node)
    graph.replace(kept[::-1])


class Pass(NamedTuple):
    """A step of the pipeline: it changes the graph that it is given."""

    name: str
    run: Callable[[Graph], None]


PIPELINE = (
    Pass("softmax in steps", SOFTMAX),
    Pass("constant folding", FOLDING),
    Pass("common subexpressions", common_subexpressions),
    Pass("signs", SIGNS),
    Pass("gathers before differences", GATHERS),
    Pass("sparse products", SPARSE),
    Pass("dead code", dead_code),
    Pass("cuts and halos", cut_as_read),
)


def optimise(graph: Graph) -> None:
    """Run all passes. Raises CheckError if the checks are on and a pass makes what cannot be."""
    due = {v for node in graph.nodes for v in node.outs if graph.values[v].wanted}
    if checks.ENABLED:
        verify(graph, "capture", due)
    for one in PIPELINE:
        before = (list(graph.values), graph.nodes) if checks.ENABLED else None
        one.run(graph)
        if before is not None and not (_same(graph.values, before[0]) and _same(graph.nodes, before[1])):
            verify(graph, one.name, due)


def _same(after: Any, before: Any) -> bool:
    """Whether a pass has left all as it was, told by what the items consist of."""
    return len(after) == len(before) and all(
        all(x is y for x, y in zip(a, b, strict=True)) for a, b in zip(after, before, strict=True)
    )
