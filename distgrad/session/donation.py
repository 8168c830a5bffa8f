"""What a plan reads for the last time: given to the workers, which may write results over it.

So a step of an optimizer goes through half the memory: parameters and state are there once, not once more as what they
become.
"""

from __future__ import annotations

from collections.abc import Sequence

from distgrad.graph import Node, Result
from distgrad.plan.capture import Capture
from distgrad.plan.costs import SMALL
from distgrad.plan.plans import Plan

Gifts = dict[int, list[Result]]  # by the number of the stage that may write over them


def donated(plan: Plan, captured: Capture, left: Sequence[Node]) -> Gifts:
    """By stage, the results that nobody needs once it has run: not the user, nor what is `left` or is made again."""
    if plan.last_reads is None:
        plan.last_reads = _last_reads(plan, captured)
    if not plan.last_reads:
        return {}
    again = [captured.nodes[n] for n in plan.repeatable]
    kept = {result for node in (*left, *again) for result in node.inputs}
    stages: Gifts = {}
    for value, number in plan.last_reads.items():
        result = captured.results[value]
        if result not in kept and not result.anchor and result.remat is None:
            stages.setdefault(number, []).append(result)
    return stages


def _last_reads(plan: Plan, captured: Capture) -> dict[int, int]:
    """The stage that is the last to read a value, for those that could be given to it; the same for each capture.

    What lies whole on every worker, as its memory counts most, and what a step may write over; no small things.
    """
    over = {r for n in captured.nodes if "over_next" in n.primitive.traits for r in n.inputs}
    found = {
        value: result.sharding
        for value, result in enumerate(captured.results[: len(captured.externals)])
        if captured.externals[value].kind == "stored"
        and not captured.wanted[value]
        and result.spec.nbytes > SMALL
        and (result.sharding.count == 1 or result in over)
    }
    last: dict[int, int] = {}
    for number, stage in enumerate(plan.stages):
        for value, sharding in stage.inputs:
            if found.get(value) == sharding:
                last[value] = number
    return last
