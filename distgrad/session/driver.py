"""What is pending in the driver: work on arrays of middle size, which runs here through loops as it would on workers.

While a session compiles, what is made element by element, or summed, of more than `MEDIUM` bytes is not computed by one
call of NumPy for each op: a node joins a pending graph, with all that is made of its results in the same way. When
somebody asks, or a backward pass ends, the graph is planned, by structure as any other, and its one program runs in
this process. Each thread of the user's has a graph of its own: so what is planned together follows from what that does,
not from when.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.caching import Cache
from distgrad.compiler import switch
from distgrad.exchange import Failure
from distgrad.graph import LazyConstant, Node, Result, Spec, Value
from distgrad.interrupts import held_back
from distgrad.plan.build import build
from distgrad.plan.capture import Capture, capture, needed
from distgrad.primitives import Primitive
from distgrad.primitives.base import Fold, Lower
from distgrad.session.failures import worker_error
from distgrad.session.placement import LIGHT, STEPS
from distgrad.session.signature import Signature, here, signature
from distgrad.worker.execute import Runner, Seat
from distgrad.worker.pool import Pool

# Bytes of a result beyond which its op waits: else NumPy is done before a node is recorded.
MEDIUM = 128 << 10
MOST = 4 * LIGHT  # bytes that kernels touch, after which pending work is run by itself
KEPT = 32 << 20  # bytes of programs that are kept ready, in each thread
SPARE = 64 << 20  # bytes that wait for reuse
UNCUT = 1 << 62  # bytes of a shard: nothing is cut
ALONE = Seat(0, 1, 0)


class _Ready(NamedTuple):
    """A program, and what its slots are: which values of a capture it reads, and which it gives."""

    runner: Runner
    inputs: list[int]
    feeds: list[int]
    made: list[tuple[int, int]]  # (value, slot)


class Pending:
    """What is pending in one thread. Others may ask for it."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.weight = 0.0  # bytes that their kernels touch
        self.lock = threading.RLock()
        self.pool = Pool(SPARE)
        self._ready: Cache[Any, _Ready] = Cache(
            KEPT, lambda _, ready: 5000 + 2 * ready.runner.nbytes, shared=True
        )
        _all.add(self)

    def record(
        self, primitive: Primitive, inputs: Sequence[Value], attrs: dict[str, Any], made: Signature
    ) -> Value:
        """Add a node, which `reads` all of its operands."""
        (out,), layout, number, weight = made
        with self.lock:
            operands = tuple([self._operand(value.result) for value in inputs])
            result = Result(out)
            result.driver = self
            value = Value(result).watched()
            self.nodes.append(Node(primitive, operands, attrs, layout, here(primitive), number, (result,)))
            self.weight += weight
            if self.weight > MOST or len(self.nodes) >= STEPS:
                self.run()
        return value

    def _operand(self, result: Result) -> Result:
        """What a node reads: as it is, or, of a number that is to be expanded, made in this graph.

        So nothing goes through as many copies of one number.
        """
        lazy = result.lazy
        if result.array is None and isinstance(lazy, LazyConstant):
            specs = [value.result.spec for value in lazy.inputs]
            made = signature(lazy.primitive, specs, lazy.attrs, UNCUT)
            return self.record(lazy.primitive, lazy.inputs, lazy.attrs, made).result
        return result

    def reads(self, result: Result) -> bool:
        """Whether a node can read a result as it is: it is known, or made by a node of this graph, now or then."""
        if result.array is not None or result.driver is self:
            return True
        lazy = result.lazy
        return (
            isinstance(lazy, LazyConstant)
            and lazy.primitive.name == "expand"
            and all(value.result.array is not None or value.result.driver is self for value in lazy.inputs)
        )

    def run(self) -> None:
        """Compute what somebody holds; nothing if there is no work. What fails stays pending."""
        if not self.nodes:
            return
        with self.lock, held_back():
            nodes = needed(self.nodes, None)
            if nodes:
                self._run(capture(nodes))
            self.nodes, self.weight = [], 0.0

    def _run(self, captured: Capture) -> None:
        key = captured.key, switch.on()
        known = self._ready.get(key) or self._ready.again(key)
        ready = known or self._prepared(captured)
        results, runner = captured.results, ready.runner
        arrays = [[results[value].array] for value in ready.inputs]
        feeds = [results[value].array for value in ready.feeds]
        with np.errstate(all="ignore"):
            env = runner.bind(ALONE, arrays, feeds, ())  # type: ignore[arg-type]
            self.pool.call()
            runner.run(ALONE, env)
        if known is None:  # its size is known now, and will not change
            self._ready.keep(key, ready)
        for value, slot in ready.made:
            pieces = env[slot]
            if isinstance(pieces, Failure):
                number = next(n for n, node in enumerate(captured.nodes) if results[value] in node.outputs)
                raise worker_error(pieces, captured.nodes[number].origin)
        for value, slot in ready.made:
            (array,) = env[slot]
            results[value].becomes_known(array)

    def _prepared(self, captured: Capture) -> _Ready:
        plan = build(captured)
        (stage,) = plan.stages  # nothing is cut, so nothing is exchanged
        slots = dict(zip(stage.keep, stage.program.keep, strict=True))
        made = [(value, slots[instance]) for value, instance in plan.stored.items()]
        inputs = [instance.value for instance in stage.inputs]
        return _Ready(Runner(stage.program, self.pool, len(stage.data)), inputs, stage.feeds, made)


def waits_as(primitive: Primitive, specs: Sequence[Spec], attrs: dict[str, Any]) -> Signature | None:
    """The signature of a call that can wait: it has machine code, and fails on no data, or is a view. Else None."""
    lower = primitive.lower
    if isinstance(lower, (Lower, Fold)):
        able = {spec.dtype.kind for spec in specs} <= set(lower.kinds)
    else:
        able = "view" in primitive.traits
    made = signature(primitive, specs, attrs, UNCUT) if able else None
    return made if made is not None and made.layout.shards == 1 else None


class _Own(threading.local):
    """Of each thread what is pending there."""

    def __init__(self) -> None:
        self.pending = Pending()


def _forked() -> None:
    """In a child: a thread that is not here may hold the lock of its graph."""
    for pending in _all:
        pending.lock = threading.RLock()


_all: weakref.WeakSet[Pending] = weakref.WeakSet()
own = _Own()
os.register_at_fork(after_in_child=_forked)
