"""The driver's side of one set of workers: what is pending, how it is planned, and what lies where."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from time import perf_counter
from typing import Any

import numpy as np

from distgrad.caching import Cache, shared_bytes
from distgrad.cutting import default_sharding
from distgrad.errors import DistgradError, OutOfMemoryError, WorkerError
from distgrad.exchange import Failure
from distgrad.graph import CallSite, Node, Remat, RemoteRef, Result, Value, nobody, spec
from distgrad.interrupts import held_back
from distgrad.plan.build import build
from distgrad.plan.capture import Capture, apart_from, capture, left_over, needed
from distgrad.plan.costs import SMALL
from distgrad.plan.explain import Explanation, explanation
from distgrad.plan.levels import Form
from distgrad.plan.plans import Plan, Stage
from distgrad.plan.rematerialise import Offer
from distgrad.plan.write import reading
from distgrad.primitives import Aval, Primitive
from distgrad.program import Program, Slot
from distgrad.session import measure
from distgrad.session.budget import Chooser, Prepared, budgets
from distgrad.session.calls import Box, Calls
from distgrad.session.donation import Gifts, donated
from distgrad.session.failures import fresh, worker_error
from distgrad.session.inline import FEED, run_kernel
from distgrad.session.rematerialise import Replay, Replays, anchors, give_up, is_there, note
from distgrad.session.room import Memory, check_room, memory, too_large
from distgrad.session.signature import Signature, here, signature
from distgrad.session.transfer import BATCH, along_one, receive, send
from distgrad.session.writes import LazyWrites, Log
from distgrad.sharding import Sharding
from distgrad.wire import encode
from distgrad.worker.machine import kinds, processor
from distgrad.worker.transport import DRIVER, Transport, resident

LIGHT = 64 << 20  # bytes that kernels touch in some milliseconds; a call for each worker takes about one
PENDING = 4_096  # nodes after which the pending work is sent by itself
NOTHING = encode(Program((), (), (), (), (), (), (), ()))  # a call that only frees
LOST = "this tensor's contents were lost when its session was shut down"
BROKEN_OFF = "this tensor's contents were lost when a call to the workers was broken off"
TOLD = 3  # errors that are printed at the end
PLANS = 64 << 20  # bytes of plans that are kept
PASSES = 1_000  # call sites at which passes begin that are known
COPIES = 4  # other cuts in which one value is kept


class Session:
    """The driver's side of one set of workers."""

    def __init__(
        self,
        transport: Transport,
        *,
        inline_bytes: int,
        shard_bytes: int,
        timeout: float | None = None,
        epoch: int = 0,
        leave: Callable[[], None] | None = None,
    ):
        self.transport = transport
        self.calls = Calls(transport, epoch, timeout)
        self.inline_bytes = inline_bytes
        self.shard_bytes = shard_bytes
        self.lock = threading.RLock()
        self.pending: list[Node] = []
        self.weight = 0.0  # what is pending, in bytes that its kernels touch
        self._forward = 0  # how many of the pending nodes came before the first backward pass
        self.left_budget: int | None = None  # of a block that has ended before all of its work was sent
        self._asked: Result | None = None  # a large result that somebody waits for
        self._replays = Replays()  # of the pending nodes those that run for the second time
        self._remakable: dict[
            Result, Remat
        ] = {}  # what pending nodes read that is stored, and could be made again
        self._kept: weakref.WeakSet[Result] = weakref.WeakSet()  # what is stored, and could be made again
        self._refused: set[Node] = (
            set()
        )  # those that could not be sent: they wait until somebody asks for them
        self._full = PENDING  # pending nodes at which they are sent
        self.closed = False
        self.logs: weakref.WeakSet[Log] = weakref.WeakSet()  # writes that wait
        self._plans: Cache[Any, Plan] = Cache(PLANS, lambda key, plan: plan.nbytes)
        self._leave = leave or self.close
        self._pid = os.getpid()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.transport.workers} workers, {self.machines}"
        return f"<distgrad.Session: {state}>"

    @property
    def kinds(self) -> dict[str, list[int]]:
        """The workers of each kind of processor, the driver as `DRIVER` among them: each kind has other last bits."""
        found = kinds(self.transport.processors)
        found.setdefault(processor(), []).append(DRIVER)
        return found

    @property
    def machines(self) -> str:
        """The same as text."""
        if len(self.kinds) == 1:
            return next(iter(self.kinds))
        return "; ".join(f"{kind} ({_members(who)})" for kind, who in self.kinds.items())

    # Record

    def record(self, primitive: Primitive, inputs: Sequence[Value], attrs: dict[str, Any]) -> Sequence[Value]:
        """Add a node to the pending graph."""
        outputs, values = [], []
        with self.lock:
            results, made = self._operands(primitive, inputs, attrs)
            for out in made.outs:
                result = Result(out)
                outputs.append(result)
                values.append(Value(result).watched())
            self._pend(primitive, results, attrs, made, here(primitive), tuple(outputs))
            if len(self.pending) >= self._full:
                self.flush()
        return values

    def _operands(
        self, primitive: Primitive, inputs: Sequence[Value], attrs: dict[str, Any]
    ) -> tuple[list[Result], Signature]:
        """The results that a node reads, all of which workers can get, and what follows from them."""
        results, specs = [], []
        for value in inputs:
            result = value.result
            if result.handle is nobody:
                value.watched()
            if result.lazy is not None:
                self.redeem(result)
            self._usable(result)
            results.append(result)
            specs.append(result.spec)
        return results, signature(primitive, specs, attrs, self.shard_bytes)

    def _pend(
        self,
        primitive: Primitive,
        inputs: Sequence[Result],
        attrs: dict[str, Any],
        made: Signature,
        where: CallSite,
        outputs: tuple[Result, ...],
    ) -> None:
        self.pending.append(Node(primitive, tuple(inputs), attrs, made.layout, where, made.number, outputs))
        self.weight += made.weight

    def brings_back(self, inputs: Sequence[Value]) -> bool:
        """Whether `inputs` are known now: small ones are fetched from the workers, if another would have to go there.

        So a loop on small data computes in the driver, also where its parameters come from a step on large data.
        """
        for value in inputs:
            if value.result.array is not None and self._would_go(value.result, value.result.array):
                break
        else:
            return False
        with self.lock:
            lost = [value.result for value in inputs if value.result.lost]
            if not lost or any(r.spec.nbytes > SMALL or r.spec.sharding.count > 1 for r in lost):
                return False
            for result in lost:
                self.fetch(result)
            return True

    def _would_go(self, result: Result, array: np.ndarray) -> bool:
        """Whether what is known is not there yet, and too large to travel inside a call."""
        return (
            result.id is None
            and FEED < array.nbytes <= self.inline_bytes
            and result.spec.sharding.count == 1
            and not (result.colocation is not None and result.colocation.root().remote)
        )

    def redeem(self, result: Result) -> None:
        """Have the workers make a lazy result."""
        with self.lock:
            chain = [result]  # of lazy results, each made of the next
            while (lazy := chain[-1].lazy) is not None and lazy.base is not None:
                chain.append(lazy.base.result)
            for result in reversed(chain):
                lazy = result.lazy
                if lazy is not None:
                    inputs, attrs = lazy.call()
                    results, made = self._operands(lazy.primitive, inputs, attrs)
                    result.becomes_pending(*made.outs)
                    self._pend(lazy.primitive, results, attrs, made, lazy.where, (result,))

    def _usable(self, result: Result) -> None:
        """Raise if a result failed or is of another session; send it to the workers if it is large and only here."""
        if result.error is not None:
            raise fresh(result.error)
        if result.remat is not None:
            self._recall(result)
        array = result.array
        if result.ref is not None and result.ref.session is not self:
            if array is None:
                raise DistgradError(LOST)
            result.becomes_local()
        if array is None or result.id is not None:
            return
        if result.spec.sharding.count > 1:  # from an earlier session
            self._upload(result, array, result.sharding)
        elif array.nbytes > FEED:
            result.colocate_with_workers()
            self._upload(result, array, default_sharding(array.shape, array.itemsize, self.shard_bytes))

    def _recall(self, result: Result) -> None:
        """Have nodes pending that make a result which was dropped; of one that is stored, remember how it is made."""
        remat = result.remat
        if remat is None:
            return
        if is_there(result):
            if result not in self._remakable and (found := anchors(remat.past)) is not None:
                self._remakable[result] = remat._replace(anchors=found)
            return
        replay = self._replays.nodes({result: remat})
        if replay is None:
            raise DistgradError(LOST)
        for node in replay.nodes:
            for operand in node.inputs:
                if not operand.pending:
                    self._usable(operand)
        self._pend_again(replay)
        self.pending.extend(replay.nodes)

    def _pend_again(self, replay: Replay) -> None:
        """Nodes that run for the second time are pending: what they make waits for them."""
        self._replays.add(replay)
        for node in replay.nodes:
            for out in node.outputs:
                out.becomes_pending()

    def waits(self, result: Result) -> None:
        """Writes wait for a result; `synchronize` has them done."""
        if isinstance(result.lazy, LazyWrites):
            self.logs.add(result.lazy.log)

    def _write(self) -> None:
        """Have all writes done that wait for what somebody holds."""
        for log in list(self.logs):
            value = log.latest()
            if value is not None and value.result.lazy is not None:
                with contextlib.suppress(DistgradError):  # of a source: told to those who read it
                    self.redeem(value.result)

    # Flush

    def begin_pass(self, caller: tuple[Any, int]) -> None:
        """A backward pass is about to be recorded: what stands before it is forward."""
        if len(self.calls.passes) < PASSES:
            self.calls.passes.add(caller)
        self._forward = self._forward or len(self.pending)

    def end_pass(self) -> None:
        """A backward pass has been recorded: send it, unless it is so light that the calls would cost more.

        Light steps of a loop wait for each other, and for the first value that is read: then they go in one call.
        """
        if self.weight >= LIGHT:
            self.flush(remat=True)

    def begin_remat(self) -> None:
        """Values of forward are about to be made again: send what is pending, if that is heavy.

        In one plan with it they would be the values that are there, and kept until now.
        """
        if self.weight >= LIGHT:
            self.flush()

    def flush(self, remat: bool = False, asked: Result | None = None) -> Exception | None:
        """Send what is pending and still needed. Does not wait for it.

        With `remat`, results of the forward pass that are cheap to make again are not stored: the backward pass has
        read them, and for most a variable's name is all that is left. How they are made stays known, for whoever asks.

        Work that cannot be planned, or for which there is no room, concerns those who ask for it: it stays pending, the
        rest is sent, and the error is returned. It is raised if it is in the way of what is `asked` for.
        """
        with self.lock:
            early = set(self.pending[: self._forward]) if remat else set()
            self.pending = needed(self.pending, None)
            self.weight, self._forward = 0.0, 0
            self._prune()
            self._refused.intersection_update(self.pending)
            large = asked is not None and asked.spec.nbytes > SMALL
            self._asked = asked if large else None
            error = left = self._send(self._ready(), early)
            if isinstance(error, OutOfMemoryError) and self._set_aside():
                left = self._send(self._ready(), early)
            if asked is not None:
                nodes = needed(self.pending, [asked])
                if left is not None or not self._refused.isdisjoint(nodes):
                    error = self._send(nodes)
                    if error is not None:
                        try:
                            raise error
                        finally:  # its traceback knows this frame: in a circle the user's tensors would stay
                            self._asked = None
                            del error, left
            elif left is not None:
                self._send_in_parts([n for n in self._ready() if any(o.awaited for o in n.outputs)])
            self._full, self._asked = PENDING + len(self.pending), None
            return error

    def _ready(self) -> list[Node]:
        """The pending nodes that somebody needs, but for what was refused and what reads it."""
        return needed(apart_from(self._refused, self.pending), None)

    def _send(self, nodes: list[Node], early: AbstractSet[Node] = frozenset()) -> Exception | None:
        """Send nodes; or the error, if they cannot be planned or there is no room for them: then nothing is sent."""
        if not nodes:
            return None
        begin = perf_counter()
        try:
            made = self._made(nodes, len(early & set(nodes)))
            nodes, captured, plan = made.nodes, made.captured, made.plan
            if measure.active is not None:
                measure.active.planned(begin, captured, plan, self)
            check_room(self.calls, plan.held_cut, plan.held_whole + plan.passing, captured, plan)
        except Exception as error:
            return error
        self._free(made)
        gifts = donated(plan, captured, self.pending)
        if gifts:
            self.calls.make_room(len(plan.stages))
        with held_back() if gifts else contextlib.nullcontext():
            try:
                self._run(captured, plan, gifts)
            except BaseException:
                self._lose(gifts)
                raise
            self.left_budget = None
            self.pending = left_over(self.pending, set(nodes), {nodes[n] for n in plan.deferred})
        self._prune()
        self._refused.difference_update(nodes)
        if measure.active is not None:
            measure.active.flushed(begin)
        return None

    def _lose(self, gifts: Gifts) -> None:
        """Calls that may write over these results were broken off: what was to be made of them cannot be any more."""
        lost = {result for results in gifts.values() for result in results}
        left = apart_from({n for n in self.pending if not lost.isdisjoint(n.inputs)}, self.pending)
        for node in set(self.pending).difference(left):
            for out in node.outputs:
                out.becomes_failed(DistgradError(BROKEN_OFF))
        self.pending = left

    def _prune(self) -> None:
        """Forget of what nodes that are not pending any more would have made, and could have made again."""
        if self._remakable or self._replays.pins:
            read = {r for node in self.pending for r in node.inputs}
            self._remakable = {r: remat for r, remat in self._remakable.items() if r in read}
            self._replays.keep(self.pending)

    def _set_aside(self) -> bool:
        """Refuse the pending nodes of which one result alone has no room; whether there are any."""
        sizes = {n: max((o.aval.nbytes for o in n.outputs if o.awaited), default=0) for n in self._ready()}
        found = [n for n, nbytes in sizes.items() if too_large(self.calls, nbytes)]
        self._refused.update(found)
        return bool(found)

    def _send_in_parts(self, roots: list[Node]) -> None:
        """Send what these nodes give, which does not go in one: half of it at a time. Refuse what does not go alone."""
        if len(roots) == 1:
            self._refused.update(roots)
            return
        for part in (roots[: len(roots) // 2], roots[len(roots) // 2 :]):
            ready = apart_from(self._refused, self.pending)
            outs = [o for n in set(part).intersection(ready) for o in n.outputs if o.awaited]
            if outs and self._send(needed(ready, outs)) is not None:
                self._send_in_parts([n for n in ready if n in set(part)])

    def _made(self, nodes: list[Node], forward: int = 0) -> Prepared:
        """What is to be sent for these nodes."""
        captured = capture(nodes, forward, self._replays.numbers(nodes), self._asked)
        plan, budget = self._planned(captured), budgets.now(self.left_budget)
        if budget is None:
            return Prepared(nodes, captured, plan)
        chooser = Chooser(self.calls, budget, self._planned, self._replays, self._asked)
        sent = set(nodes)
        later = {r for node in self.pending if node not in sent for r in node.inputs}
        return chooser.made(nodes, captured, self._kept, self._remakable, later)

    def _free(self, made: Prepared) -> None:
        """Have freed what a choice says; its nodes make again what is read of that."""
        for result in made.gone:
            give_up(result, made.gone)
        if made.replay is not None:
            self._pend_again(made.replay)
            self.pending[:0] = made.replay.nodes
        if made.frees:
            self.calls.run(NOTHING)

    def _planned(self, captured: Capture, remade: Sequence[Offer] = (), lasts: bool = False) -> Plan:
        """The plan that makes the first of its offers again."""
        key = (captured.key, len(remade), lasts) if remade or lasts else captured.key
        plan = self._plans.get(key) or self._plans.again(key)
        if plan is None:
            plan = self._plans.keep(key, build(captured, remade, lasts))
        return plan

    def _run(self, captured: Capture, plan: Plan, gifts: Gifts) -> None:
        ids: dict[Form, int] = {}
        for value, external in enumerate(captured.externals):
            result = captured.results[value]
            if external.kind == "stored":
                assert result.id is not None
                ids[value, result.sharding] = result.id
                for cuts, number in result.copies.items():
                    ids[value, cuts] = number
        boxes: dict[int, Box] = {}
        made: set[int] = set()
        still = {b.stage for b in plan.boxed.values()}
        try:
            for n, stage in enumerate(plan.stages):
                for form, holder in zip(stage.keep, stage.holders, strict=True):
                    ids[form] = self.calls.new_id(holder)
                    made.add(ids[form])
                boxes[n] = self._submit(stage, ids, captured, boxes, gifts.get(n, ()))
                for result in gifts.get(n, ()):
                    result.becomes_donated()
                if measure.active is not None:
                    measure.active.sent(self.calls.epoch, boxes[n].serial, plan, n)
                if n - 1 not in still:  # the next stage is the only one to read it
                    boxes.pop(n - 1, None)
                done = [ids[form] for form in stage.last_use]
                made.difference_update(done)
                self.calls.freed.extend(done)
        except BaseException:
            self.calls.freed.extend(made)
            raise
        for value, form in plan.stored.items():
            captured.results[value].becomes_stored(ids[form], RemoteRef(self, [ids[form]]))
        kept = {(b.stage, b.channel): boxes[b.stage].only(b.channel) for b in plan.boxed.values()}
        for value, b in plan.boxed.items():
            result = captured.results[value]
            result.becomes_boxed(
                (kept[b.stage, b.channel], b.what, b.channel, b.position), RemoteRef(self, [])
            )
        if plan.rematerialised or plan.rematerialisable:
            self._kept.update(note(plan, captured))
        for value, cuts in plan.copies:
            result = captured.results[value]
            copies = {**result.copies, cuts: ids[value, cuts]}
            if len(copies) > COPIES:
                self.release(copies.pop(next(iter(copies))))
            result.keep_copies(copies)

    def _submit(
        self,
        stage: Stage,
        ids: dict[Form, int],
        captured: Capture,
        boxes: dict[int, Box],
        gifts: Sequence[Result],
    ) -> Box:
        sources = [boxes[r.number] if r.kind == "stage" else captured.boxes[r.number] for r in stage.boxes]
        return self.calls.run(
            stage.data,
            inputs=[ids[f] for f in stage.inputs],
            keep=[ids[f] for f in stage.keep],
            donate=[result.id for result in gifts if result.id is not None],
            feeds=[captured.results[v].array for v in stage.feeds],  # type: ignore[misc]
            boxes=list(zip(stage.program.boxes, sources, strict=True)),
            returns=stage.returns,
            sends=stage.program.sends,
            sites=[captured.nodes[n].where if n >= 0 else None for n in stage.nodes],
        )

    def explain(self, results: Sequence[Result]) -> Explanation:
        """What is pending for these results."""
        with self.lock:
            for result in results:
                if result.lazy is not None and not result.lazy.near:
                    self.redeem(result)
                if result.remat is not None:
                    self._recall(result)
            nodes = needed(self.pending, results)
            if not nodes:
                return explanation(Plan([], {}, {}), capture([]), self.calls.held())
            made = self._made(nodes)
            return explanation(made.plan, made.captured, made.now or self.calls.held(), made.choice)

    # Memory

    def release(self, number: int) -> None:
        """The value stored under `number` is needed no more. Called from __del__: only notes it."""
        self.calls.freed.append(number)

    def memory(self) -> Memory:
        """For each worker the bytes that it holds, keeps for reuse, and has in all; and of the driver."""
        with self.lock:
            told = Memory(memory(self.calls))
            told.driver = {"plans": self._plans.nbytes + shared_bytes(), "rss": resident()}
            return told

    # Fetch

    def fetch(self, result: Result) -> np.ndarray:
        """The elements. Waits for them, and raises what went wrong on the way."""
        with self.lock:
            if result.lazy is not None:
                self.redeem(result)
            if result.remat is not None:
                self._recall(result)
            if result.array is None and result.pending:
                if not self._at_hand(result):
                    self.flush(asked=result)
                if result.pending:
                    self._finish(result)
            self._usable(result)
            if result.array is not None:
                return result.array
            try:
                array = self._read(result)
            except WorkerError as error:
                result.becomes_failed(fresh(error))
                raise
            array.flags.writeable = False
            if array.nbytes <= max(self.inline_bytes, FEED):
                result.becomes_known(array)
                if array.nbytes > FEED:
                    result.colocate_with_workers()
            return array

    def _at_hand(self, result: Result) -> bool:
        """Whether all that is pending is small work for `result`, on what the driver was told."""
        nodes = needed(self.pending, [result])
        made = {out for node in nodes for out in node.outputs}
        read = {r for node in nodes for r in node.inputs} - made
        return (
            any(_told(r) for r in read)
            and all(r.array is not None or _told(r) for r in read)
            and all(r.spec.nbytes <= SMALL for r in (*read, *made))
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
            self._write()
            self.flush()
            self.calls.drain()

    def synchronize(self) -> None:
        """Send what is pending and wait until it is done. Raises what went wrong and was not told yet."""
        with self.lock:
            self._write()
            self._refused.clear()
            refused = self.flush()
            self.calls.check()
            if refused is not None:
                try:
                    raise refused
                finally:
                    del refused

    # Upload

    def upload(self, array: np.ndarray, sharding: Sharding | None = None) -> Value:
        """Send an array to the workers now; the caller may change it afterwards."""
        sharding = along_one(sharding or default_sharding(array.shape, array.itemsize, self.shard_bytes))
        value = Value(Result(spec(Aval(array.shape, array.dtype), sharding)))
        with self.lock:
            self._upload(value.result, array, sharding)
        return value

    def _upload(self, result: Result, array: np.ndarray, sharding: Sharding) -> None:
        sharding = along_one(sharding)
        check_room(self.calls, *((0, array.nbytes) if sharding.count == 1 else (array.nbytes, 0)))
        number = send(self.calls, array, sharding)
        result.becomes_stored(number, RemoteRef(self, [number]), spec(result.aval, sharding))

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


def _members(who: list[int]) -> str:
    """Such as "workers 0, 1, driver"."""
    workers = [str(n) for n in who if n != DRIVER]
    named = [f"worker{'s' * (len(workers) > 1)} {', '.join(workers)}"] if workers else []
    return ", ".join(named + ["driver"] * (DRIVER in who))


def _told(result: Result) -> bool:
    """Whether it, or its parts, came with the workers' replies."""
    return result.box is not None and result.box[2] == "small"
