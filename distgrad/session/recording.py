"""The recording layer of a session: nodes join the pending graph, with operands that workers can get."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from typing import Any

from distgrad.callsites import CallSite
from distgrad.cutting import default_sharding
from distgrad.errors import DistgradError
from distgrad.graph import Node, Remat, Result, Value, nobody
from distgrad.primitives import Primitive
from distgrad.session.failures import fresh
from distgrad.session.placement import fits_call
from distgrad.session.rematerialise import Replay, Replays, anchors
from distgrad.session.signature import here, signature
from distgrad.session.store import LOST, Store
from distgrad.session.writes import LazyWrites, Log
from distgrad.states import PENDING, STORED

FULL = 4_096  # nodes after which the pending work is sent by itself


class Recording(Store):
    """A session as far as it records what is to be done."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pending: list[Node] = []
        self.weight = 0.0  # what is pending, in bytes that its kernels touch
        self.logs: weakref.WeakSet[Log] = weakref.WeakSet()  # writes that wait
        self._full = FULL  # pending nodes at which they are sent
        self._replays = Replays()  # of the pending nodes those that run for the second time
        # What pending nodes read that is stored, and could be made again.
        self._remakable: dict[Result, Remat] = {}

    def record(self, primitive: Primitive, inputs: Sequence[Value], attrs: dict[str, Any]) -> Sequence[Value]:
        """Add a node to the pending graph."""
        with self.lock:
            values = self._pend(primitive, inputs, attrs, here(primitive))
            if len(self.pending) >= self._full:
                self.flush()
        return values

    def flush(self) -> Any:
        """Send what is pending."""
        raise NotImplementedError

    def _pend(
        self,
        primitive: Primitive,
        inputs: Sequence[Value],
        attrs: dict[str, Any],
        where: CallSite,
        lazy: Result | None = None,
    ) -> Sequence[Value]:
        """Have a node pending, whose operands workers can get. It makes what is `lazy`; else values that are given."""
        results, specs = [], []
        for value in inputs:
            result = value.result
            if result.handle is nobody:
                value.watched()
            work = result.driver
            if work is not None:
                work.run()
            state = result.state
            if state is STORED and result.remat is None and result.ref.session is self:  # type: ignore[union-attr]
                pass  # as most are, of a step
            elif state is not PENDING:
                if result.lazy is not None:
                    self.record_lazy(result)
                self._provide(result)
            results.append(result)
            specs.append(result.spec)
        outs, layout, number, weight = signature(primitive, specs, attrs, self.shard_bytes)
        values, outputs = [], []
        if lazy is not None:
            lazy.becomes_pending(*outs)
            outputs.append(lazy)
        else:
            for out in outs:
                result = Result(out)
                outputs.append(result)
                values.append(Value(result).watched())
        self.pending.append(Node(primitive, tuple(results), attrs, layout, where, number, tuple(outputs)))
        self.weight += weight
        return values

    def record_lazy(self, result: Result) -> None:
        """Have the workers make a lazy result."""
        with self.lock:
            chain = [result]  # of lazy results, each made of the next
            while (lazy := chain[-1].lazy) is not None and lazy.base is not None:
                chain.append(lazy.base.result)
            for result in reversed(chain):
                lazy = result.lazy
                if lazy is not None:
                    inputs, attrs = lazy.call()
                    self._pend(lazy.primitive, inputs, attrs, lazy.where, result)

    def _claim(self, result: Result) -> None:
        """Raise if a result failed, or went with the workers of another session; what is known leaves those."""
        if result.error is not None:
            raise fresh(result.error)
        if result.ref is not None and result.ref.session is not self:
            if result.array is None:
                raise DistgradError(LOST)
            result.becomes_local()

    def _provide(self, result: Result) -> None:
        """Have an operand where workers get it: made again if it was dropped, sent if it is large and only here."""
        if result.remat is not None:
            self._rematerialise(result)
        if result.error is not None or (result.ref is not None and result.ref.session is not self):
            self._claim(result)
        array = result.array
        if array is None or result.id is not None:
            return
        if result.spec.sharding.count > 1:  # from an earlier session
            self._upload(result, array, result.sharding)
        elif not fits_call(array.nbytes):
            result.colocate_with_workers()
            self._upload(result, array, default_sharding(array.shape, array.itemsize, self.shard_bytes))

    def _rematerialise(self, result: Result) -> None:
        """Have nodes pending that make a result which was dropped; of one that is stored, remember how it is made."""
        remat = result.remat
        if remat is None:
            return
        if not result.pending:
            if result not in self._remakable and (found := anchors(remat.past)) is not None:
                self._remakable[result] = remat._replace(anchors=found)
                for anchor in found:
                    anchor.anchor = True
            return
        replay = self._replays.nodes({result: remat})
        if replay is None:
            raise DistgradError(LOST)
        for node in replay.nodes:
            for operand in node.inputs:
                if not operand.pending:
                    self._provide(operand)
        self._pend_again(replay)
        self.pending.extend(replay.nodes)

    def _pend_again(self, replay: Replay) -> None:
        """Nodes that run for the second time are pending: what they make waits for them."""
        self._replays.add(replay)
        for node in replay.nodes:
            for out in node.outputs:
                out.becomes_pending()

    def note_writes(self, result: Result) -> None:
        """Writes wait for a result; `synchronize` has them done."""
        if isinstance(result.lazy, LazyWrites):
            self.logs.add(result.lazy.log)

    def _record_writes(self) -> None:
        """Have all writes done that wait for what somebody holds."""
        for log in list(self.logs):
            value = log.latest()
            if value is not None and value.result.lazy is not None:
                with contextlib.suppress(DistgradError):  # of a source: told to those who read it
                    self.record_lazy(value.result)
