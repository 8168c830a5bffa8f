"""The driver's side of one set of workers. What is asked for is fetched, or finished here.

A session is made of layers: `store.py` what lies where, `recording.py` what is pending, `sending.py` how it is planned
and sent, and this.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import numpy as np

from distgrad.caching import shared_bytes
from distgrad.errors import DistgradError, WorkerError
from distgrad.exchange import Failure
from distgrad.graph import Result, Value
from distgrad.plan.capture import needed
from distgrad.plan.write import reading
from distgrad.program import Slot
from distgrad.session.failures import fresh, worker_error
from distgrad.session.inline import run_kernel
from distgrad.session.placement import fits_call, fits_here, stays
from distgrad.session.room import Memory, memory
from distgrad.session.sending import Sending
from distgrad.session.store import LOST
from distgrad.session.transfer import BATCH, receive
from distgrad.sharding import Sharding
from distgrad.wire import encode
from distgrad.worker.transport import resident

TOLD = 3  # errors that are printed at the end


class Session(Sending):
    """The driver's side of one set of workers."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()

    def memory(self) -> Memory:
        """For each worker the bytes that it holds, keeps for reuse, and has in all; and of the driver."""
        with self.lock:
            told = Memory(memory(self.calls))
            told.driver = {"plans": self._plans.nbytes + shared_bytes(), "rss": resident()}
            return told

    def fetch(self, result: Result) -> np.ndarray:
        """The elements. Waits for them, and raises what went wrong on the way."""
        with self.lock:
            if result.lazy is not None:
                self.record_lazy(result)
            if result.remat is not None:
                self._rematerialise(result)
            if result.array is None and result.pending:
                if not self._is_finished_here(result):
                    self.flush(asked=result)
                if result.pending:
                    self._finish(result)
            self._claim(result)
            if result.array is not None:
                return result.array
            try:
                array = self._read(result)
            except WorkerError as error:
                result.becomes_failed(fresh(error))
                raise
            array.flags.writeable = False
            if stays(array.nbytes, self.inline_bytes):
                result.becomes_known(array)
                if not fits_call(array.nbytes):
                    result.colocate_with_workers()
            return array

    def bring(self, inputs: Sequence[Value]) -> None:
        """Fetch what only the workers have."""
        for value in inputs:
            if value.result.lost:
                self.fetch(value.result)

    def _is_finished_here(self, result: Result) -> bool:
        """Whether all that is pending is small work for `result`, on what the driver was told."""
        nodes = needed(self.pending, [result])
        made = {out for node in nodes for out in node.outputs}
        read = {r for node in nodes for r in node.inputs} - made
        return (
            any(_told(r) for r in read)
            and all(r.array is not None or _told(r) for r in read)
            and all(fits_here(r.spec.nbytes, 1) for r in (*read, *made))
            and all(node.layout.shards == 1 for node in nodes)
            and len(nodes) == len(needed(self.pending, None))
        )

    def _finish(self, result: Result) -> None:
        """Do the small work that was left pending for `result`, here in the driver."""
        nodes = needed(self.pending, [result])
        if not nodes:
            raise DistgradError(
                "this tensor's contents were lost: the call that should have made them did not happen"
            )
        for node in nodes:
            try:
                arrays = [self.fetch(r) for r in node.inputs]
            except WorkerError as error:
                result.becomes_failed(fresh(error))
                raise
            try:
                made = run_kernel(node.primitive, arrays, [o.spec for o in node.outputs], node.attrs)
            except Exception as error:  # as where a worker does it; the node stays pending
                failure = Failure(type(error).__name__, str(error), -1, 0)
                raise worker_error(failure, node.origin) from None
            for output, array in zip(node.outputs, made, strict=True):
                output.becomes_known(array)
        done = {id(node) for node in nodes}
        self._forward = 0
        self.pending = [node for node in self.pending if id(node) not in done]

    @np.errstate(all="ignore")  # as where workers add such parts
    def _read(self, result: Result) -> np.ndarray:
        if result.box is not None:
            box, what, channel, position = result.box
            items = self.calls.read(box, channel, position)
        else:
            assert result.id is not None
            if result.aval.nbytes > BATCH:
                return receive(self.calls, result.id, result.aval.dtype, result.sharding)
            program = reading(result.aval, result.sharding)
            box = self.calls.run(encode(program), inputs=[result.id], returns=("large",))
            what = program.sends[0].what
            items = self.calls.read(box, "large", 0)
        slot = Slot(result.aval.dtype, Sharding.whole(result.aval.shape))
        (array,) = what.receive(items, self.transport.workers, range(1), slot)
        return array if array.flags.owndata and array.flags.writeable else np.array(array)  # the transport's

    def settle(self) -> None:
        """Send what is pending and wait until it is done. What went wrong is told to those who ask for it."""
        with self.lock:
            self._record_writes()
            self.flush()
            self.calls.drain()

    def synchronize(self) -> None:
        """Send what is pending and wait until it is done. Raises what went wrong and was not told yet."""
        with self.lock:
            self._record_writes()
            self._refused.clear()
            refused = self.flush()
            self.calls.check()
            if refused is not None:
                try:
                    raise self._let_go(refused)
                finally:
                    del refused

    def close(self) -> None:
        """End the workers."""
        if not self.closed:
            self.abandon()
            self.transport.close()

    def tell_untold(self) -> None:
        """Print what went wrong and was not told to anybody, as far as it is known without waiting."""
        if self.closed or os.getpid() != self._pid:
            return
        with contextlib.suppress(DistgradError):
            errors = self.calls.untold()
            for error in errors[:TOLD]:
                print(f"distgrad: went wrong, and nobody asked for it: {error}", file=sys.stderr)
            if errors[TOLD:]:
                print(f"distgrad: and {len(errors) - TOLD} more", file=sys.stderr)

    def abandon(self) -> None:
        """Leave the workers: what is pending will not be computed."""
        self.tell_untold()
        self.closed = True
        for node in self.pending:
            for result in node.outputs:
                result.becomes_failed(DistgradError(LOST))
        self.pending.clear()


def _told(result: Result) -> bool:
    """Whether it, or its parts, came with the workers' replies."""
    return result.box is not None and result.box[2] == "small"
