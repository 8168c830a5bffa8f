"""What a session remembers of what it has sent, and when that is to be cut short by copies.

The cost when nothing is lost is one object for each flush, and for each value that it stores. Lineage grows with every
step of a loop; a copy of what has come of it lets go of all behind it.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from distgrad.callsites import call_site, origin
from distgrad.graph import RemoteRef, Result
from distgrad.plan.capture import Capture
from distgrad.plan.plans import Plan
from distgrad.session.lineage import Alive, Copy, Made, Maker, Read, Run, Sites, Upload
from distgrad.sharding import Sharding

KEPT = 256 << 20  # bytes of uploaded arrays that the driver keeps
SHORT = 8  # runs one after the other that are sooner done again than copied
LONG = 512  # runs after which what they gave is copied, whatever that costs
SHARE = 100  # else copies take this part of the time at most
CALL, COPIED = 2e-3, 500e6  # a copy costs so many seconds, and one more for so many bytes

HEARD = Upload(0, None, Sharding.whole(()), "a sum that the workers had told")  # and which is at hand


class History:
    """How what is on the workers can be made again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.alive = Alive()
        self._orders = itertools.count(1)
        self._uploads: weakref.WeakSet[Upload] = weakref.WeakSet()
        self._boxed: deque[tuple[int, Made]] = deque()  # sums on their way: the serial of their call
        self._copies: deque[tuple[int, list[Made], Copy]] = deque()  # those that may not have been made yet
        self._clock = clock
        self._runs = 0  # since there was a copy
        self._brought = 0  # bytes that were uploaded since
        self._copied = clock()
        self._pause = 0.0  # seconds until the next is worth it

    def uploaded(self, result: Result, array: np.ndarray, sharding: Sharding, own: bool) -> None:
        """A result was sent to the workers: it is kept, as a copy unless it is our `own`, while there is room."""
        if result.ref is None:
            return
        fits = array.nbytes + sum(u.array.nbytes for u in self._uploads if u.array is not None) <= KEPT
        kept = None if not fits else array if own else array.copy()
        place = origin(call_site("upload"))
        text = f"{array.dtype} of shape {array.shape}, sent to the workers at {place.file}:{place.line}"
        upload = Upload(next(self._orders), kept, sharding, text)
        self._uploads.add(upload)
        self._brought += array.nbytes
        result.ref.made = Made(upload, 0)
        self.alive.add(result)

    def run(self, plan: Plan, captured: Capture, sites: Sites) -> Run:
        """A plan is about to be sent."""
        reads = [_read(result) for result in captured.results[: len(captured.externals)]]
        if plan.specs is None:
            plan.specs = [result.spec for result in captured.results]
        self._runs += 1
        return Run(next(self._orders), plan, reads, sites, plan.specs)

    def ref(self, session: object, result: Result, ids: list[int], run: Run, number: int) -> RemoteRef:
        """What the workers hold for a result of a run."""
        self.alive.add(result)
        return RemoteRef(session, ids, Made(run, number))

    def boxed(self, serial: int, ref: RemoteRef) -> None:
        """Parts of a result are on their way from a call. Once they are there, they are not made again."""
        if ref.made is not None:
            self._boxed.append((serial, ref.made))

    def heard(self, serial: int) -> None:
        """All calls up to this one were done: let go of what need not be made again."""
        while self._boxed and self._boxed[0][0] <= serial:
            self._boxed.popleft()[1].maker = HEARD
        while self._copies and self._copies[0][0] <= serial:
            _, made, copy = self._copies.popleft()
            for number, one in enumerate(made):
                one.maker, one.number = copy, number

    def lost(self) -> None:
        """What is on its way does not arrive any more."""
        self._boxed.clear()
        self._copies.clear()

    def due(self) -> bool:
        """Whether it is worth to look at what could be copied."""
        if self._runs < SHORT or self._copies:
            return False
        if self._runs >= LONG or self._brought > KEPT // 4:
            return True
        return self._clock() - self._copied > self._pause

    def worth(self, results: Sequence[Result]) -> bool:
        """Whether to copy these now; if not, it is asked for again when it is."""
        cost = CALL + sum(result.spec.nbytes for result in results) / COPIED
        self._pause = cost * SHARE
        if not results:
            self._runs = self._brought = 0
            return False
        return self._runs >= LONG or self._brought > KEPT // 4 or self._clock() - self._copied > self._pause

    def copying(self, serial: int, made: list[Made], copy: Copy) -> None:
        """A copy is there once the call with this serial was heard of."""
        self._copies.append((serial, made, copy))
        self._runs = self._brought = 0
        self._copied = self._clock()

    def order(self) -> int:
        """Of what is sent next."""
        return next(self._orders)


def _read(result: Result) -> np.ndarray | Read:
    ref = result.ref
    if result.id is None and result.array is not None:
        return result.array
    made = ref.made if ref is not None and ref.made is not None else Made(HEARD, 0)
    return Read(made, result.box if result.id is None else None, ref.copies if ref is not None else {})


def maker(result: Result) -> Maker | None:
    """Who makes what workers have of a result."""
    return None if result.ref is None or result.ref.made is None else result.ref.made.maker
