"""The driver's side of one set of workers: what is pending, what is on its way, what lies where."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np

from distgrad.errors import DistgradError, OutOfMemoryError, WorkerError
from distgrad.graph import Node, Origin, Result, Value
from distgrad.plan.build import BoxRef, Form, Plan, Stage, build, reading
from distgrad.plan.capture import Capture, capture, needed
from distgrad.plan.explain import Explanation, explanation
from distgrad.primitives import Aval, Primitive
from distgrad.session.failures import worker_error
from distgrad.session.signature import origin, signature
from distgrad.sharding import Sharding, default_sharding
from distgrad.wire import encode, pack_array
from distgrad.worker.exchange import held
from distgrad.worker.execute import Failure, receive_shards, receive_sums
from distgrad.worker.pool import Pool
from distgrad.worker.transport import Handle, Transport
from distgrad.worker.worker import unpack_large, unpack_small

FEED = 64 << 10  # bytes of a known array that may travel inside a call; a larger one is uploaded
UPLOAD = 64 << 20  # bytes of one call of an upload
PENDING = 20_000  # nodes after which the pending work is sent by itself
IN_FLIGHT = 12  # stages that may be on their way before the driver waits for the oldest
PLANS = 256  # plans that are kept


class Box(NamedTuple):
    """What the workers sent at the end of a stage, as handles: [worker], and for "each" [sender][receiver]."""

    serial: int
    replies: list[Handle]
    large: list[Handle]
    each: list[list[Handle]]


class _Call(NamedTuple):
    """A stage on its way: where to read its failures, and whose they are."""

    serial: int
    replies: list[Handle]
    nodes: list[int]
    origins: list[Origin | None]


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
        self.inline_bytes = inline_bytes
        self.shard_bytes = shard_bytes
        self.timeout = timeout
        self.epoch = epoch
        self.lock = threading.RLock()
        self.pending: list[Node] = []
        self.closed = False
        self._serial = 0
        self._next_id = 0
        self._freed: deque[int] = deque()  # filled by __del__, so at any moment
        self._bytes: dict[int, float] = {}  # bytes that each worker holds, for each id
        self._in_flight: deque[_Call] = deque()
        self._errors: dict[tuple[int, int], WorkerError] = {}
        self._plans: dict[Any, Plan] = {}
        self._leave = leave or self.close

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.transport.workers} workers"
        return f"<distgrad.Session: {state}>"

    # Emit

    def record(
        self, primitive: Primitive, inputs: Sequence[Value], attrs: dict[str, Any]
    ) -> tuple[Value, ...]:
        """Add a node to the pending graph."""
        results = tuple(v.result for v in inputs)
        made = signature(primitive, results, attrs, self.shard_bytes)
        with self.lock:
            for result in results:
                self._usable(result)
            node = Node(primitive, results, attrs, made.layout, origin(), made.number)
            node.outputs = tuple(Result(a, s) for a, s in zip(made.outs, made.layout.outs, strict=True))
            self.pending.append(node)
            values = tuple(Value(r) for r in node.outputs)
            if len(self.pending) >= PENDING:
                self.flush()
        return values

    def _usable(self, result: Result) -> None:
        if result.error is not None:
            raise result.error
        if (
            (result.id is not None or result.box is not None)
            and result.release.__self__ is not self
            and result.array is None
        ):
            raise DistgradError("this tensor's contents were lost when its session was shut down")
        if result.array is not None and result.id is None and result.array.nbytes > FEED:
            self._upload(
                result,
                result.array,
                default_sharding(result.array.shape, result.array.itemsize, self.shard_bytes),
            )

    # Flush

    def flush(self) -> None:
        """Send what is pending and still needed. Does not wait."""
        with self.lock:
            nodes, self.pending = needed(self.pending, None), []
            if nodes:
                captured = capture(nodes)
                self._run(captured, self.plan(captured))

    def plan(self, captured: Capture) -> Plan:
        """The plan for this structure: made once."""
        plan = self._plans.get(captured.key)
        if plan is None:
            if len(self._plans) >= PLANS:
                self._plans.pop(next(iter(self._plans)))
            plan = self._plans[captured.key] = build(captured, self.shard_bytes)
        return plan

    def _run(self, captured: Capture, plan: Plan) -> None:
        self._check_memory(plan)
        origins = [node.origin for node in captured.nodes]
        ids: dict[Form, int] = {}
        for value, external in enumerate(captured.externals):
            result = captured.results[value]
            if external.kind == "stored":
                assert result.id is not None
                ids[value, result.sharding] = result.id
        boxes: list[Box] = []
        for stage in plan.stages:
            for form in stage.keep:
                ids[form] = self._new_id(captured.results[form[0]].aval, form[1])
            boxes.append(self._submit(stage, ids, captured, boxes, origins))
            self._freed.extend(ids[form] for form in stage.last_use)
        for value, form in plan.stored.items():
            self._settle(captured.results[value], ids[form], None)
        for value, b in plan.boxed.items():
            self._settle(captured.results[value], None, (boxes[b.stage], b.what, b.channel, b.position))
        while len(self._in_flight) > IN_FLIGHT:
            self._collect(self._in_flight.popleft())

    def _settle(self, result: Result, number: int | None, box: Any) -> None:
        result.id = number
        result.box = box
        result.release = self.release

    def _submit(
        self,
        stage: Stage,
        ids: dict[Form, int],
        captured: Capture,
        boxes: list[Box],
        origins: list[Origin | None],
    ) -> Box:
        sources = [self._box(ref, captured, boxes) for ref in stage.boxes]
        feeds = [captured.results[v].array for v in stage.feeds]
        box = self._call(
            stage.data,
            inputs=[ids[f] for f in stage.inputs],
            keep=[ids[f] for f in stage.keep],
            feeds=feeds,  # type: ignore[arg-type]
            boxes=list(zip(stage.program.boxes, sources, strict=True)),
            returns=stage.returns,
        )
        self._in_flight.append(_Call(box.serial, box.replies, stage.nodes, origins))
        return box

    def _box(self, ref: BoxRef, captured: Capture, boxes: list[Box]) -> Box:
        return boxes[ref.number] if ref.kind == "stage" else captured.boxes[ref.number]

    def _call(
        self,
        program: bytes,
        *,
        inputs: Sequence[int] = (),
        keep: Sequence[int] = (),
        feeds: Sequence[np.ndarray] = (),
        boxes: Sequence[tuple[tuple[str, ...], Box]] = (),
        returns: tuple[str, ...] = (),
    ) -> Box:
        """Send one program to every worker."""
        workers = self.transport.workers
        self._serial += 1
        header = msgpack.packb(
            {
                "serial": self._serial,
                "epoch": self.epoch,
                "workers": workers,
                "inputs": inputs,
                "keep": keep,
                "feeds": [pack_array(a) for a in feeds],
                "free": self._take_freed(),
                "stash": [box.serial for _, box in boxes],
            }
        )
        count = 1 + ("large" in returns) + workers * ("each" in returns)
        sent = Box(self._serial, [], [], [])
        for worker in range(workers):
            args: list[Any] = [header, program]
            for channels, box in boxes:
                for channel in channels:
                    if channel == "each":
                        args += [[] if w == worker else box.each[w][worker] for w in range(workers)]
                    else:
                        args += box.replies if channel == "small" else box.large
            handles = self.transport.call(worker, "run", tuple(args), count)
            sent.replies.append(handles[0])
            if "large" in returns:
                sent.large.append(handles[1])
            if "each" in returns:
                sent.each.append(handles[count - workers :])
        return sent

    def explain(self, results: Sequence[Result]) -> Explanation:
        """What is pending for these results."""
        with self.lock:
            captured = capture(needed(self.pending, results))
            plan = build(captured, self.shard_bytes) if captured.nodes else Plan([], {}, {})
            return explanation(plan, captured, self.transport.workers)

    # Memory

    def _new_id(self, aval: Aval, sharding: Sharding) -> int:
        self._next_id += 1
        self._bytes[self._next_id] = (
            aval.nbytes if sharding.count == 1 else aval.nbytes / self.transport.workers
        )
        return self._next_id

    def release(self, number: int) -> None:
        """The value stored under `number` is needed no more. Called from __del__: only notes it."""
        self._freed.append(number)

    def _take_freed(self) -> list[int]:
        freed = []
        while self._freed:
            number = self._freed.popleft()
            self._bytes.pop(number, None)
            freed.append(number)
        return freed

    def _check_memory(self, plan: Plan) -> None:
        """Refuse work whose results cannot fit the workers' memory."""
        workers = self.transport.workers
        need = plan.held_cut + plan.held_whole * workers
        if need < 256 << 20:
            return
        nodes = self.transport.nodes()
        there = sum({n["node"]: n["available"] for n in nodes}.values())
        freed = sum(self._bytes.get(i, 0) for i in list(self._freed)) * workers
        if need > there + freed:
            raise OutOfMemoryError(
                f"the pending work needs {need:,} bytes on the workers, which have {int(there + freed):,} bytes free. "
                "Nothing was sent. Use fewer or smaller tensors, delete what is no longer needed, or add workers."
            )

    # Fetch

    def fetch(self, result: Result) -> np.ndarray:
        """The elements. Waits for them, and raises what went wrong on the way."""
        with self.lock:
            if result.array is not None:
                return result.array
            if result.pending:
                self.flush()
            self._usable(result)
            try:
                array = (
                    self._read_box(result)
                    if result.box is not None and result.id is None
                    else self._read(result)
                )
            finally:
                self.check()
            array.flags.writeable = False
            if array.nbytes <= max(self.inline_bytes, FEED):
                result.array = array
            return array

    def _read_box(self, result: Result) -> np.ndarray:
        box, what, channel, position = result.box
        workers = self.transport.workers
        answers = self.transport.get(box.replies if channel == "small" else box.large, self.timeout)
        items = [(unpack_small(a) if channel == "small" else unpack_large(a))[position] for a in answers]
        self._raise_failures(items, result)
        return np.array(receive_sums(what, items, workers, range(1))[0])

    def _read(self, result: Result) -> np.ndarray:
        assert result.id is not None
        program = reading(result.aval, result.sharding)
        box = self._call(encode(program), inputs=[result.id], returns=("large",))
        items = [unpack_large(a)[0] for a in self.transport.get(box.large, self.timeout)]
        self._raise_failures(items, result)
        what = program.departures[0].what
        return receive_shards(what, items, self.transport.workers, range(1), result.aval.dtype, Pool(0))[0]  # type: ignore[arg-type]

    def _raise_failures(self, items: Sequence[Any], result: Result) -> None:
        failure = next((i for i in items if isinstance(i, Failure)), None)
        if failure is not None:
            self._drain()
            result.error = self._error(failure)
            raise result.error

    # Errors

    def check(self) -> None:
        """Raise the first failure among the calls that were sent, waiting for them."""
        error = self._drain()
        if error is not None:
            raise error

    def _drain(self) -> WorkerError | None:
        first = None
        while self._in_flight:
            first = self._collect(self._in_flight.popleft(), quiet=True) or first
        return first

    def _collect(self, call: _Call, quiet: bool = False) -> WorkerError | None:
        first = None
        for reply in self.transport.get(call.replies, self.timeout):
            for raw in msgpack.unpackb(reply, raw=False)["failures"]:
                failure = Failure(*raw)
                if failure.serial == call.serial:
                    number = call.nodes[failure.step]
                    origin = call.origins[number] if number >= 0 else None
                    known = self._errors.get((call.serial, failure.step))
                    if known is None:
                        known = self._errors[call.serial, failure.step] = worker_error(failure, origin)
                        first = first or known
        if first is not None and not quiet:
            raise first
        return first

    def _error(self, failure: Failure) -> WorkerError:
        return self._errors.get((failure.serial, failure.step)) or worker_error(failure, None)

    # Upload

    def upload(self, array: np.ndarray, sharding: Sharding | None = None) -> Value:
        """Send an array to the workers now; the caller may change it afterwards."""
        sharding = sharding or default_sharding(array.shape, array.itemsize, self.shard_bytes)
        value = Value(Result(Aval(array.shape, array.dtype), sharding))
        with self.lock:
            self._upload(value.result, array, sharding)
        return value

    def _upload(self, result: Result, array: np.ndarray, sharding: Sharding) -> None:
        if len(sharding.cut_dims) > 1:  # by rows first; the exact cuts by an exchange when it is read
            raise ValueError(f"an array is sent with cuts along one dimension, got {sharding}")
        self._need_room(array.nbytes)
        number = self._new_id(result.aval, sharding)
        sent = []
        for worker in range(self.transport.workers):
            for first, last in _batches(
                sharding, held(sharding.count, self.transport.workers, worker), array
            ):
                header = msgpack.packb({"id": number, "cuts": sharding.wire(), "first": first, "last": last})
                part = np.array(array[_span(sharding, first, last)], order="C")
                sent += self.transport.call(worker, "load", (header, part), 1)
        self.transport.get(sent, self.timeout)
        result.sharding = sharding
        self._settle(result, number, None)
        result.array = None

    def _need_room(self, nbytes: int) -> None:
        self._check_memory(Plan([], {}, {}, held_cut=nbytes))

    def memory(self) -> list[dict[str, int]]:
        """For each worker the bytes that it holds, keeps for reuse, and has in all."""
        with self.lock:
            freed = self._take_freed()
            handles = []
            for worker in range(self.transport.workers):
                self.transport.call(worker, "free", (freed,), 1)
                handles += self.transport.call(worker, "memory", (), 1)
            return self.transport.get(handles, self.timeout)

    def close(self) -> None:
        """End the workers."""
        if not self.closed:
            self.closed = True
            self.pending.clear()
            self.transport.close()


def _batches(sharding: Sharding, shards: range, array: np.ndarray) -> list[tuple[int, int]]:
    """Runs of shards of about `UPLOAD` bytes; an empty one where there are no shards, so that the value is known."""
    step = max(1, UPLOAD // max(1, sharding.largest * array.itemsize))
    runs = [(first, min(first + step, shards.stop)) for first in range(shards.start, shards.stop, step)]
    return runs or [(shards.start, shards.start)]


def _span(sharding: Sharding, first: int, last: int) -> tuple[slice, ...]:
    """Where the shards `first` up to `last` lie, in a tensor that is cut along at most one dimension."""
    if sharding.count == 1:
        return (slice(None),) * len(sharding.shape)
    (dim,) = sharding.cut_dims
    edges = sharding.cuts[dim].edges
    return (slice(None),) * dim + (slice(edges[first], edges[last]),)
