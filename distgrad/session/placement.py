"""Where work runs: in the driver or on the workers, now or later, with operands that are fetched or sent.

`decide` is told facts and names what is to be done; it acts on nothing. Whoever asked acts.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from distgrad.plan.costs import SMALL

FEED = 64 << 10  # bytes of a known array that may travel inside a call; a larger one is uploaded
AT_ONCE = 16 << 10  # bytes that are copied for each write: that costs less than to keep account
STEPS = 1_024  # pending nodes at whose number the end of a step is the place to send them
LIGHT = 64 << 20  # bytes that kernels touch in some milliseconds; a call for each worker takes about one


class Where(Enum):
    """Where work runs, and when."""

    HERE = "in the driver, now"
    LAZY = "made later, by whoever works with it first: driver or workers"
    VIEW = "waits as a view, with the writes to what it is a view of"
    FETCH = "in the driver, now, once operands were fetched from the workers"
    WORKERS = "recorded, and sent to the workers later"
    NOWHERE = "cannot be made: its operands went with the workers"


HERE, LAZY, VIEW, FETCH, WORKERS, NOWHERE = Where  # to look one up in the class takes 0.1 us


class Facts(NamedTuple):
    """What is known of a piece of work, of what it is made of, and of the session."""

    limit: int  # bytes that the driver computes with (`inline_bytes`); 0: the workers do everything
    workers: bool = False  # whether there are any
    nbytes: int = 0  # of the largest operand, or of all results together
    cut: bool = False  # whether an operand or a result has several shards
    near: bool = True  # whether each operand is in the driver, or is lazy and made of what is
    constant: bool = False  # whether the result is too large to travel, and made of nothing that is
    write: bool = False  # whether it replaces part of a value
    waiting: bool = False  # whether it is a view of what waits for writes
    remote: bool = False  # whether what it is colocated with had to go to the workers
    lost: bool = False  # whether an operand is nowhere but with workers, or was
    heavy: bool = False  # whether a known operand would have to be sent for it, and could stay here
    fetchable: bool = False  # whether what the driver does not have is small and in one piece


def decide(facts: Facts) -> Where:
    """Where work runs.

    What is cut stays on the workers, also once it was fetched: looking at a tensor changes nothing. So does what is
    colocated with what had to go there: it would go again at each step.
    """
    if facts.waiting:
        return VIEW
    if facts.write:
        return HERE if facts.near and facts.limit and facts.nbytes <= AT_ONCE else LAZY
    if facts.near and facts.limit and not facts.cut and facts.nbytes <= facts.limit:
        if facts.constant:
            return LAZY
        if not (facts.remote and facts.workers):
            return HERE
    if facts.lost and not facts.workers:
        return NOWHERE
    if facts.limit and facts.heavy and facts.fetchable:
        return FETCH
    return WORKERS


def fits_call(nbytes: int) -> bool:
    """Whether an array goes to the workers inside of calls, and not once and for all, to be kept there."""
    return nbytes <= FEED


def stays(nbytes: int, limit: int) -> bool:
    """Whether the driver keeps an array that it has: the user's, or one that was fetched."""
    return nbytes <= max(limit, FEED)


def fits_here(nbytes: int, shards: int) -> bool:
    """Whether the driver takes a result of the workers to go on with it, or finishes what is pending for it."""
    return nbytes <= SMALL and shards == 1


def waits_for_more(weight: float, nodes: int) -> bool:
    """Whether pending work, which touches so many bytes, is so light that the calls for it would cost more.

    Many nodes do not wait: their number alone would have them sent later, but in the midst of a step, at ever other
    places, so that no plan would be found again.
    """
    return weight < LIGHT and nodes < STEPS
