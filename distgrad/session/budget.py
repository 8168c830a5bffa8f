"""Budgets of memory: which plan keeps to one by making values again instead of keeping them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence

from distgrad.plan.build import Plan, offers
from distgrad.plan.capture import Capture
from distgrad.plan.explain import Choice, Held, told
from distgrad.plan.remake import Offer

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {f"{letter}ib": 1 << 10 * n for n, letter in enumerate("kmgt", 1)}


def nbytes(size: int | str) -> int:
    """Bytes, from a number or from a text such as "2GiB" or "500 MB".

    Raises:
        TypeError: it is neither a number nor a text.
        ValueError: it is no size, or not above 0.
    """
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        kind = type(size).__name__
        raise TypeError(f'memory_budget() takes bytes or a text such as "2GiB", not {kind}')
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", size)
        if found is None or found[2].lower() not in UNITS:
            raise ValueError(f'memory_budget() takes bytes or a text such as "2GiB", not {size!r}')
        size = int(float(found[1]) * UNITS[found[2].lower()])
    if size <= 0:
        raise ValueError("memory_budget() takes more than 0 bytes")
    return size


class _Budgets(threading.local):
    """The bytes that a worker may hold, for this thread's blocks, the innermost last."""

    def __init__(self) -> None:
        self.stack: list[int] = []

    def now(self, left: int | None = None) -> int | None:
        """The budget for what is sent now; outside of all blocks that of one which has `left` some of its work."""
        return self.stack[-1] if self.stack else left


budgets = _Budgets()


def choose(
    base: Plan,
    captured: Capture,
    budget: int,
    now: Sequence[Held],
    planned: Callable[[Capture, Sequence[Offer]], Plan],
    shard_bytes: int,
) -> tuple[Plan, Choice]:
    """The plan that makes the least again and keeps to the budget; else the one found that holds the least.

    `base` makes nothing again, `planned` gives a plan that does, `now` is what the workers hold. Which operations run
    has no say in the bits of the results, so a plan may follow from what is held.
    """
    before = max(told(base, now))
    if before <= budget:
        return base, Choice(budget, before, before, ())
    if base.offers is None:
        base.offers = offers(captured, shard_bytes)
    key = (budget, *(held.stored - held.freed for held in now))
    count = base.choices.get(key)
    if count is None:
        count = base.choices[key] = _fewest(base, captured, budget, now, planned)
    plan = planned(captured, base.offers[:count])
    return plan, Choice(budget, before, max(told(plan, now)), tuple(base.offers[:count]))


def _fewest(
    base: Plan,
    captured: Capture,
    budget: int,
    now: Sequence[Held],
    planned: Callable[[Capture, Sequence[Offer]], Plan],
) -> int:
    """How many of the offers to take: by halves, since more of them seldom hold more."""
    assert base.offers is not None
    found: dict[int, int] = {0: max(told(base, now))}

    def most(count: int) -> int:
        if count not in found:
            assert base.offers is not None
            found[count] = max(told(planned(captured, base.offers[:count]), now))
        return found[count]

    low, high = 0, len(base.offers)
    if most(high) > budget:
        for count in {high // 2, high * 3 // 4}:
            most(count)
        return min(found, key=lambda count: (found[count], count))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if most(middle) <= budget else (middle, high)
    return high
