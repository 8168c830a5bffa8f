"""The states of a result, and which may follow on which.

         promised ──┐            ┌── known
                    ├─ pending ──┼── stored ── spared ─┐
    (new) ──────────┘     ▲      ├── boxed             │
                          │      └── failed            │
                          └────────────────────────────┘

What the workers hold can be lost with them: that would be one more state, reached from stored and boxed.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from distgrad.checks import CheckError


class State(Enum):
    """Where the elements of a result are."""

    KNOWN = "known"  # in the driver
    PROMISED = "promised"  # nowhere yet: made here or on the workers, whichever works with it first
    PENDING = "pending"  # nowhere yet: a node that was not run makes it
    STORED = "stored"  # on the workers, under an id; in the driver too, once it was fetched
    BOXED = "boxed"  # on the workers, as partial results in a box, which whoever needs the sum merges
    SPARED = "spared"  # nowhere: a recipe makes it again
    FAILED = "failed"  # nowhere: an error says why


K, P, N, S, B, R, F = State

NEXT: dict[State, frozenset[State]] = {
    K: frozenset({K, S, F}),  # sent to the workers; named by a node that was given up
    P: frozenset({K, N}),  # kept in the driver; given to the workers
    N: frozenset({K, P, N, S, B, R, F}),  # N: what lies between, made for the second time
    S: frozenset({K, S, B, R, F}),  # once more, in another session; freed to be made again
    B: frozenset({K, S, B, R, F}),  # fetched; cut otherwise
    R: frozenset({N, S, F}),  # its recipe is followed
    F: frozenset({F}),
}


UNMADE = frozenset({P, N, R})  # where there are no elements anywhere

HELD: dict[
    State, tuple[str, ...]
] = {  # what a result holds of this; nothing else, but for what `Result` says
    K: ("array",),
    P: ("promise",),
    N: (),
    S: ("id", "lease"),
    B: ("box", "lease"),
    R: ("recipe",),
    F: ("error",),
}
ALSO: dict[State, tuple[str, ...]] = {
    K: ("lease",),
    P: ("array",),
    N: (),
    S: ("array", "box", "recipe"),
    B: (),
    R: (),
    F: ("array", "promise", "id", "lease", "box", "recipe"),
}


def check_contents(state: State, result: Any) -> None:
    """Raise CheckError unless a result holds what belongs to a state, and nothing else."""
    found = {
        name
        for name in ("array", "promise", "id", "box", "recipe", "error", "lease")
        if getattr(result, name) is not None
    }
    needed, allowed = set(HELD[state]), {*HELD[state], *ALSO[state]}
    if not needed <= found <= allowed:
        raise CheckError(f"a result becomes {state.value} with {sorted(found)}, not {sorted(needed)}")


def check_step(before: State, after: State) -> None:
    """Raise CheckError if no result goes from the one to the other."""
    if after not in NEXT[before]:
        raise CheckError(f"a result that is {before.value} becomes {after.value}")
