"""The states of a result, and which may follow on which.

         lazy ──────┐            ┌── known
                    ├─ pending ──┼── stored ── dropped ─┐
    (new) ──────────┘     ▲      ├── boxed              │
                          │      └── failed             │
                          └─────────────────────────────┘

A stored result that is donated to a call stays stored for the moment that it has left: nobody holds it, and nothing
that is pending reads it.

What the workers hold can be lost with them: that would be one more state, reached from stored and boxed.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from distgrad.checks import CheckError


class State(Enum):
    """Where the elements of a result are."""

    KNOWN = "known"  # in the driver
    LAZY = "lazy"  # nowhere yet: made here or on the workers, whichever works with it first
    PENDING = "pending"  # nowhere yet: a node that was not run makes it
    STORED = "stored"  # on the workers, under an id; in the driver too, once it was fetched
    BOXED = "boxed"  # on the workers, as partial results in a box, which whoever needs the sum merges
    DROPPED = "dropped"  # nowhere: it is rematerialised once somebody asks for it
    FAILED = "failed"  # nowhere: an error says why

    __hash__ = (
        object.__hash__
    )  # that of Enum is a function of Python's, and states are looked up for each node


K, L, N, S, B, D, F = State
KNOWN, PENDING, STORED, FAILED = K, N, S, F  # to look one up in the class takes 0.1 us

NEXT: dict[State, frozenset[State]] = {
    K: frozenset({K, S, F}),  # sent to the workers; named by a node that was given up
    L: frozenset({K, N}),  # kept in the driver; given to the workers
    N: frozenset({K, L, N, S, B, D, F}),  # N: what lies between, made for the second time
    S: frozenset({K, S, B, D, F}),  # once more, in another session; freed to be made again
    B: frozenset({K, S, B, D, F}),  # fetched; cut otherwise
    D: frozenset({N, S, F}),  # it is rematerialised
    F: frozenset({F}),
}


UNMADE = frozenset({L, N, D})  # where there are no elements anywhere

HELD: dict[
    State, tuple[str, ...]
] = {  # what a result holds of this; nothing else, but for what `Result` says
    K: ("array",),
    L: ("lazy",),
    N: (),
    S: ("id", "ref"),
    B: ("box", "ref"),
    D: ("remat",),
    F: ("error",),
}
ALSO: dict[State, tuple[str, ...]] = {
    K: ("ref",),
    L: ("array",),
    N: ("driver",),
    S: ("array", "box", "remat"),
    B: (),
    D: (),
    F: ("array", "lazy", "id", "ref", "box", "remat"),
}


def check_contents(state: State, result: Any) -> None:
    """Raise CheckError unless a result holds what belongs to a state, and nothing else."""
    found = {
        name
        for name in ("array", "lazy", "driver", "id", "box", "remat", "error", "ref")
        if getattr(result, name) is not None
    }
    needed, allowed = set(HELD[state]), {*HELD[state], *ALSO[state]}
    if not needed <= found <= allowed:
        raise CheckError(f"a result becomes {state.value} with {sorted(found)}, not {sorted(needed)}")


def check_step(before: State, after: State) -> None:
    """Raise CheckError if no result goes from the one to the other."""
    if after not in NEXT[before]:
        raise CheckError(f"a result that is {before.value} becomes {after.value}")
