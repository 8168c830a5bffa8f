"""Values that were not kept, or need not be: how they are made again.

A *past node* has run, and is kept without what it has read and made: it knows those weakly, so that it keeps nothing
alive, or by the past node that made them. To make a result again the past nodes behind it become nodes anew, as far
back as what is still there: the *anchors*, which a dropped result must hold, and which one that is kept need not.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from distgrad.graph import Node, Pins, Remat, Result, Spec
from distgrad.plan.capture import Capture
from distgrad.plan.costs import SMALL
from distgrad.plan.plans import Plan


class Output(NamedTuple):
    """One result of a past node."""

    past: PastNode
    number: int


class Source(NamedTuple):
    """What a past node reads: a small result itself, others weakly; and the past node that made it, if known."""

    held: Result | None
    known: weakref.ref[Result] | None
    made: Output | None

    @property
    def result(self) -> Result | None:
        """The result, if it is still there."""
        return self.held if self.known is None else self.known()


class PastNode:
    """A node that has run."""

    __slots__ = ("node", "outs", "pins", "sources", "specs")

    def __init__(self, node: Node, sources: tuple[Source, ...], pins: Pins):
        self.node = (node.primitive, node.attrs, node.layout, node.where, node.key)
        self.sources = sources
        self.pins = pins
        self.specs = [out.spec for out in node.outputs]
        self.outs = [weakref.ref(out) for out in node.outputs]

    def again(self, inputs: tuple[Result, ...], outputs: tuple[Result, ...]) -> Node:
        """The node that makes `outputs`."""
        primitive, attrs, layout, where, key = self.node
        return Node(primitive, inputs, attrs, layout, where, key, outputs)


def note(plan: Plan, captured: Capture) -> list[Result]:
    """Say of what was dropped, and of what could have been, how it is made again; the latter."""
    makers: dict[Result, Output] = {}
    for n in sorted(plan.repeatable):
        node = captured.nodes[n]
        sources = tuple(_source(r, makers.get(r)) for r in node.inputs)
        past = PastNode(node, sources, plan.pins.get(n, ()))
        makers.update((out, Output(past, index)) for index, out in enumerate(node.outputs))
    results = captured.results
    for v in plan.rematerialised:
        past, index = makers[results[v]]
        results[v].note_remat(Remat(past, anchors(past) or (), plan.ranks.get(v, ()), index))
    for v in plan.rematerialisable:
        past, index = makers[results[v]]
        results[v].note_remat(Remat(past, (), plan.ranks.get(v, ()), index))
    return [results[v] for v in plan.rematerialisable]


def _source(result: Result, made: Output | None) -> Source:
    if made is None and result.spec.nbytes <= SMALL:
        return Source(result, None, None)
    return Source(None, weakref.ref(result), made)


def _behind(source: Source, gone: Collection[Result]) -> Result | Output | None:
    """What a source is read from: a result that is there, or the past node that makes it again; None: it is lost."""
    result = source.result
    if result is not None and result not in gone and not result.pending:
        return result
    if source.made is not None:
        return source.made
    remat = None if result is None else result.remat
    return None if remat is None else Output(remat.past, remat.output)


def anchors(past: PastNode, gone: Collection[Result] = ()) -> tuple[Result, ...] | None:
    """What a past node and those before it are made of, to be held; None if some of it is lost."""
    found: dict[Result, None] = {}
    seen = {past}
    stack = [past]
    while stack:
        for source in stack.pop().sources:
            result, behind = source.result, _behind(source, gone)
            if behind is None:
                return None
            if isinstance(behind, Output) and behind is source.made:
                if behind.past not in seen:
                    seen.add(behind.past)
                    stack.append(behind.past)
            elif result is not None:  # also one that can be made again by itself, and anchors
                found[result] = None
    return tuple(found)


class Replay(NamedTuple):
    """Nodes that are to run for the second time, in their order: with the tiles that they had, and what they make."""

    nodes: list[Node]
    pins: dict[Node, Pins]
    made: dict[PastNode, tuple[Result, ...]]


class Replays:
    """Of the pending nodes those that run for the second time."""

    def __init__(self) -> None:
        self.pins: dict[Node, Pins] = {}
        self.made: dict[PastNode, tuple[Result, ...]] = {}

    def add(self, replay: Replay) -> None:
        """They are pending."""
        self.pins.update(replay.pins)
        self.made.update(replay.made)

    def keep(self, pending: Sequence[Node]) -> None:
        """Of all others than these nothing is pending any more."""
        self.pins = {node: self.pins[node] for node in pending if node in self.pins}
        outs = {out for node in self.pins for out in node.outputs}
        self.made = {past: made for past, made in self.made.items() if not outs.isdisjoint(made)}

    def numbers(self, nodes: Sequence[Node], replay: Replay | None = None) -> Mapping[int, Pins]:
        """Of `nodes` those that run again, also in a replay that is only considered, and their pins."""
        pins = self.pins if replay is None else {**self.pins, **replay.pins}
        return {n: pins[node] for n, node in enumerate(nodes) if node in pins} if pins else {}

    def nodes(self, remats: Mapping[Result, Remat], gone: Collection[Result] = ()) -> Replay | None:
        """The nodes that make these results; None if they are lost.

        With results that are `gone`, and so are not read, the nodes are to run before all that is pending, and read
        nothing of that.
        """
        replay = Replay([], {}, {} if gone else dict(self.made))
        stack = [remat.past for remat in reversed([*remats.values()])]
        while stack:
            past = stack[-1]
            if past in replay.made:
                stack.pop()
                continue
            inputs: list[Result] = []
            missing: list[PastNode] = []
            for source in past.sources:
                behind = _behind(source, gone)
                if behind is None:
                    return None
                if isinstance(behind, Result):
                    inputs.append(behind)
                elif behind.past in replay.made:
                    inputs.append(replay.made[behind.past][behind.number])
                else:
                    missing.append(behind.past)
            if missing:
                stack += reversed(missing)
                continue
            stack.pop()
            outputs = tuple(
                self._output(known(), spec, gone) for known, spec in zip(past.outs, past.specs, strict=True)
            )
            node = past.again(tuple(inputs), outputs)
            replay.made[past] = outputs
            replay.pins[node] = past.pins
            replay.nodes.append(node)
        return replay

    @staticmethod
    def _output(known: Result | None, spec: Spec, gone: Collection[Result]) -> Result:
        """The result that is waited for, or a new one in place of what is there or forgotten."""
        if known is not None and (known in gone or (known.pending and known.remat is not None)):
            return known
        return Result(spec)


def give_up(result: Result, gone: Collection[Result]) -> None:
    """Have the workers free a result that can be made again; `gone` are all of those."""
    remat = result.remat
    assert remat is not None
    result.becomes_dropped(remat._replace(anchors=anchors(remat.past, gone) or ()))


def can_go(results: Iterable[Result]) -> list[Result]:
    """Of these results those that the workers could free, what costs least to make again for a byte first."""
    found = [(r.remat.rank, n, r) for n, r in enumerate(results) if r.remat is not None and r.id is not None]
    return [r for _, _, r in sorted(found, key=lambda item: item[:2]) if r.array is None]
