"""The memory that the workers have, and whether what is asked for fits into it."""

from __future__ import annotations

from distgrad.errors import OutOfMemoryError
from distgrad.plan.build import Plan
from distgrad.plan.capture import Capture
from distgrad.session.calls import Calls

ROOM_CHECKED = 256 << 20  # bytes that may be stored without asking how much memory there is


def check_room(
    calls: Calls, cut: int, whole: int, captured: Capture | None = None, plan: Plan | None = None
) -> None:
    """Refuse to store bytes (`cut` over the workers, `whole` on each) for which there is no memory.

    The error names the largest result, if the bytes are those of a plan.
    """
    need = cut + whole * calls.workers
    if need < ROOM_CHECKED:
        return
    there = sum({node["node"]: node["available"] for node in calls.transport.nodes()}.values())
    there += calls.freed_bytes()
    if need > there:
        largest = "" if captured is None or plan is None else _largest(captured, plan)
        raise OutOfMemoryError(
            f"the pending work needs {need:,} bytes on the workers, which have {there:,} bytes free. "
            "Nothing was sent. Use fewer or smaller tensors, delete what is no longer needed, or add workers."
            f"{largest}"
        )


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
