"""The memory that the workers have, and whether what is asked for fits into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distgrad.errors import OutOfMemoryError
from distgrad.plan.capture import Capture
from distgrad.plan.explain import Held, peaks
from distgrad.plan.plans import Plan
from distgrad.session.calls import Calls

ROOM_CHECKED = 256 << 20  # bytes that may be stored without asking how much memory there is


class _Short(NamedTuple):
    """A node without room for what its workers are to hold."""

    where: str
    need: int
    there: int


def check_room(
    calls: Calls, cut: int, whole: int, captured: Capture | None = None, plan: Plan | None = None
) -> None:
    """Refuse to store bytes (`cut` over the workers, `whole` on each) for which a node has no memory.

    If they are those of a plan, what it holds for a while counts as well, when it runs for the first time; and the
    error names the largest result.
    """
    short = None
    if cut + whole * calls.workers >= ROOM_CHECKED:
        short = _shortage(calls, _needs(calls, cut, whole))
    if short is None and plan is not None and captured is not None and not plan.fits:
        if sum(r.spec.nbytes for r in captured.results) >= ROOM_CHECKED:
            short = _shortage(calls, peaks(plan, [Held(0, 0)] * calls.workers))
        plan.fits = short is None
    if short is not None:
        largest = "" if captured is None or plan is None else _largest(captured, plan)
        raise OutOfMemoryError(
            f"the pending work needs {short.need:,} bytes on the workers{short.where}, which have {short.there:,} "
            "bytes free. Nothing was sent. Use fewer or smaller tensors, delete what is no longer needed, or add "
            f"workers.{largest}"
        )


def too_large(calls: Calls, nbytes: int) -> bool:
    """Whether there is no room for one result, even if nothing else is to be held."""
    return nbytes >= ROOM_CHECKED and _shortage(calls, _needs(calls, nbytes, 0)) is not None


def _needs(calls: Calls, cut: int, whole: int) -> list[int]:
    """Of each worker the bytes of what is cut over all, and of what is whole on each."""
    return [-(-cut // calls.workers) + whole] * calls.workers


def _shortage(calls: Calls, needs: Sequence[int]) -> _Short | None:
    """The node that has least room for the bytes that its workers need, if it has too little.

    First by what is free as far as it is known here, roughly and then to the byte. If that is not enough the workers
    are waited for: then what they have freed is free, and what they keep for reuse they give back as they need it
    (`Pool`).
    """
    if _least(calls, needs, [-calls.ahead_at_most()] * calls.workers) is None:
        return None
    ahead, freed = calls.ahead_bytes(), calls.freed_bytes()
    short = _least(calls, needs, [f - a for f, a in zip(freed, ahead, strict=True)])
    if short is not None:
        short = _least(calls, needs, [told["pooled"] for told in memory(calls)])
    return short


def _least(calls: Calls, needs: Sequence[int], extra: list[int]) -> _Short | None:
    """The same, with bytes of each worker to be added to what its node has free."""
    places = calls.transport.nodes()
    by_node: dict[str, list[int]] = {}
    for worker, place in enumerate(places):
        by_node.setdefault(place["node"], []).append(worker)
    found = []
    for workers in by_node.values():
        place = places[workers[0]]
        need = sum(needs[w] for w in workers)
        there = max(0, place["available"] + sum(extra[w] for w in workers))
        where = f" of {place['ip']} (numbers {workers[0]} to {workers[-1]})" if len(by_node) > 1 else ""
        found.append(_Short(where, need, there))
    worst = min(found, key=lambda one: one.there - one.need)
    return worst if worst.need > worst.there else None


class Memory(list[dict[str, int]]):
    """For each worker what it has, in bytes; and what the `driver` has."""

    driver: dict[str, int]

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, driver: {self.driver}]"


def memory(calls: Calls) -> list[dict[str, int]]:
    """For each worker the bytes that it holds, keeps for reuse, and has in all."""
    freed = calls.take_freed()
    handles = []
    for worker in range(calls.workers):
        calls.transport.call(worker, "free", (freed,), 1)
        handles += calls.transport.call(worker, "memory", (), 1)
    return calls.get(handles)


def _largest(captured: Capture, plan: Plan) -> str:
    """Which of the results that are to be stored needs most."""
    stored = [captured.results[value] for value in plan.stored]
    if not stored:
        return ""
    result = max(stored, key=lambda r: r.aval.nbytes)
    maker = next((n for n in captured.nodes if any(o is result for o in n.outputs)), None)
    return f" The largest, of shape {list(result.aval.shape)}, comes from {maker.origin if maker else 'an exchange'}."
