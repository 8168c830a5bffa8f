"""How a session begins on its workers: whether loops are compiled is the same for all of them and for the driver."""

from __future__ import annotations

from distgrad.compiler import switch
from distgrad.worker.transport import Transport


def begin(transport: Transport, epoch: int, compile: bool | None, timeout: float | None) -> bool:
    """What the workers hold is forgotten. False: loops were to be compiled, and somebody cannot."""

    def reset(compile: bool) -> bool:
        calls = [transport.call(w, "reset", (epoch, compile), 1)[0] for w in range(transport.workers)]
        return all(transport.get(calls, timeout))

    wanted = switch.wanted(compile)
    able = reset(wanted) and switch.possible()
    if wanted and not able:
        reset(False)
    switch.turn(wanted and able)
    return able or not wanted
