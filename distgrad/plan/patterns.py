"""Rules: a pattern of nodes, and a function that says what stands in the place of the last of them.

    @rule(made("subtract", ANY, once("negative", ANY)))
    def subtract_negative(graph, node, a, _, b): ...

The function is given the node that the pattern ends in, then what the operands of the pattern have met, in its order:
values, and the nodes that make what `made` or `once` stands for. It gives another node, or None.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distgrad.plan.ir import Change, Graph, NodeInfo

Found = tuple[Any, ...]


@dataclass(frozen=True)
class Leaf:
    """A value: of so many dimensions at least, and at most."""

    least: int = 0
    most: int = sys.maxsize

    def match(self, graph: Graph, value: int) -> list[Found]:
        """The value itself."""
        return [(value,)] if self.least <= len(graph.values[value].aval.shape) <= self.most else []


ANY, ARRAY, SCALAR = Leaf(), Leaf(least=1), Leaf(most=0)


@dataclass(frozen=True)
class Made:
    """A value that one of these primitives makes of such operands, in `either` order; needed `once` or by many."""

    names: frozenset[str]
    operands: tuple[Leaf | Made, ...]
    either: bool = False
    once: bool = False

    def match(self, graph: Graph, value: int) -> list[Found]:
        """The node, and what its operands have met."""
        node = graph.makers.get(value)
        if (
            node is None
            or node.primitive.name not in self.names
            or (self.once and not graph.read_once(value))
        ):
            return []
        return [(node, *found) for found in self.inside(graph, node)]

    def inside(self, graph: Graph, node: NodeInfo) -> list[Found]:
        """What the operands of a node with such a name have met."""
        found = _each(graph, self.operands, node.ins)
        return found + _each(graph, self.operands, node.ins[::-1]) if self.either else found


def _each(graph: Graph, patterns: Sequence[Leaf | Made], values: Sequence[int]) -> list[Found]:
    met: list[Found] = [()]
    for pattern, value in zip(patterns, values, strict=False):
        found = pattern.match(graph, value)
        if not found:
            return found
        met = [(*before, *one) for before in met for one in found]
    return met


def made(names: str, *operands: Leaf | Made, either: bool = False) -> Made:
    """What one of the primitives (words of `names`) makes of such operands; of any, if none are given."""
    return Made(frozenset(names.split()), operands, either)


def once(names: str, *operands: Leaf | Made, either: bool = False) -> Made:
    """The same, and nothing else needs it."""
    return Made(frozenset(names.split()), operands, either, once=True)


@dataclass(frozen=True)
class Rule:
    """Patterns, and what is made of what meets one of them, if that is better."""

    patterns: tuple[Made, ...]
    better: Callable[..., Change]


def rule(*patterns: Made) -> Callable[[Callable[..., Change]], Rule]:
    """Declare a rule: `@rule(pattern)`."""
    return lambda better: Rule(patterns, better)


def rules(*declared: Rule) -> Callable[[Graph], None]:
    """The pass that goes once through the nodes, in order, and applies to each the first of the rules that fits."""
    named: dict[str, list[tuple[Made, Callable[..., Change]]]] = {}
    for pattern, better in ((pattern, one.better) for one in declared for pattern in one.patterns):
        for name in pattern.names:
            named.setdefault(name, []).append((pattern, better))

    def run(graph: Graph) -> None:
        def change(node: NodeInfo) -> Change:
            for pattern, better in named[node.primitive.name]:
                for found in pattern.inside(graph, node):
                    made = better(graph, node, *found)
                    if made is not None:
                        return made
            return None

        graph.sweep(change, named)

    return run
