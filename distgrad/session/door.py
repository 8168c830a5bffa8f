"""The one session of the process, and the functions through which the floors above use it."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import itertools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.arguments import real, whole
from distgrad.cutting import DEFAULT_SHARD_BYTES
from distgrad.errors import DistgradError
from distgrad.graph import Value
from distgrad.interrupts import held_back
from distgrad.plan.explain import Explanation
from distgrad.primitives import TABLE, Primitive
from distgrad.session import batching, measure
from distgrad.session.beginning import begin
from distgrad.session.core import Session
from distgrad.session.driver import own
from distgrad.session.inline import computed_here, is_remote, small
from distgrad.session.placement import (
    FETCH,
    HERE,
    NOWHERE,
    VIEW,
    WORKERS,
    Facts,
    Where,
    decide,
    fits_call,
    fits_here,
    stays,
)
from distgrad.session.room import Memory
from distgrad.session.signature import here
from distgrad.session.store import LOST
from distgrad.session.writes import DEPTH, depth, lazy_view, waits
from distgrad.sharding import Sharding
from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import Transport
from distgrad.worker.worker import Worker

_session: Session | None = None
_starting = threading.RLock()
_epochs = itertools.count(1)
_shard_bytes = DEFAULT_SHARD_BYTES
_inline_bytes = DEFAULT_SHARD_BYTES


def init(
    address: str | None = None,
    *,
    workers: int | None = None,
    threads: int = 1,
    inline_bytes: int | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    timeout: float | None = None,
    compile: bool | None = None,
) -> Session:
    """Start the workers; called by itself at the first large tensor.

    `address=None` starts a local Ray, "auto" or "host:port" joins a cluster, "inproc" runs the workers in this process
    without Ray. `workers` defaults to one for each core, `threads` are CPUs of each. Tensors are cut into
    shards of about `shard_bytes`. What takes at most `inline_bytes` (those of a shard unless set) is computed in
    this process, if all that it is made of is here: a call would cost more. With 0 the workers do
    everything. `timeout` (seconds; None: no limit) bounds the wait for a result. `compile`: whether loops on workers
    become machine code (None: unless the environment's DISTGRAD_COMPILE is 0); without, they run on NumPy.
    """
    workers = None if workers is None else whole("workers", workers, 1)
    threads = whole("threads", threads, 1)
    shard_bytes = whole("shard_bytes", shard_bytes, 1)
    inline_bytes = None if inline_bytes is None else whole("inline_bytes", inline_bytes, 0)
    timeout = None if timeout is None else real("timeout", timeout, 0)
    with _starting:
        if _session is not None:
            raise DistgradError("distgrad is initialized already: call shutdown() first")
        transport: Transport | None = None
        try:
            with held_back():
                if address == "inproc":
                    transport = InProcess(workers or 2, Worker)
                else:
                    cluster = importlib.import_module("distgrad.cluster")
                    transport = cluster.start(address, workers=workers, threads=threads)
                session = attach(
                    transport,
                    inline_bytes=inline_bytes,
                    shard_bytes=shard_bytes,
                    timeout=timeout,
                    compile=compile,
                )
                if len(session.kinds) > 1:
                    _tell(
                        f"processors of {len(session.kinds)} kinds give other last bits: {session.machines}"
                    )
                return session
        except (
            BaseException
        ):  # also Ctrl-C, which came meanwhile: nothing may stay for the next call to stumble over
            with held_back():
                detach()
                if transport is not None:
                    transport.close()
            raise


def attach(
    transport: Transport,
    *,
    inline_bytes: int | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    timeout: float | None = None,
    compile: bool | None = None,
) -> Session:
    """Use workers that run already. What they hold from an earlier session is forgotten."""
    global _session, _inline_bytes, _shard_bytes
    epoch = next(_epochs)
    inline_bytes = shard_bytes if inline_bytes is None else inline_bytes
    if not begin(transport, epoch, compile, timeout):
        _tell("loops run on NumPy: llvmlite, which compiles them, cannot be imported everywhere")
    _session = Session(
        transport,
        inline_bytes=inline_bytes,
        shard_bytes=shard_bytes,
        timeout=timeout,
        epoch=epoch,
        leave=shutdown,
    )
    _inline_bytes, _shard_bytes = inline_bytes, shard_bytes
    atexit.register(_session.tell_untold)
    if measure.active is not None:
        measure.active.join(_session)
    return _session


def detach() -> Transport | None:
    """Leave the workers running, for another `attach`; None if there are none."""
    global _session, _inline_bytes, _shard_bytes
    with _starting:
        session, _session = _session, None
        _inline_bytes, _shard_bytes = DEFAULT_SHARD_BYTES, DEFAULT_SHARD_BYTES
        if session is None:
            return None
        if measure.active is not None:
            measure.active.leave(session)
        atexit.unregister(session.tell_untold)
        session.abandon()
        return session.transport


def _forked() -> None:
    """In a child: a thread that is not here may hold the locks of its parent. The session is still the parent's."""
    global _starting
    _starting = threading.RLock()
    if _session is not None:
        _session.lock = threading.RLock()


os.register_at_fork(after_in_child=_forked)


def is_initialized() -> bool:
    """Whether there are workers."""
    return _session is not None


def shutdown() -> None:
    """End the workers. Tensors that only they held are lost. Does nothing if there are none."""
    with held_back():
        transport = detach()
        if transport is not None:
            transport.close()


def current() -> Session:
    """The session; starts a local one if there is none."""
    if _session is None:
        with _starting:
            if _session is None:
                transport = init().transport
                _tell(f"{transport.origin} with {transport.workers} workers (see distgrad.init)")
    assert _session is not None
    return _session


def _tell(text: str) -> None:
    """One line for the user on stderr, if there is one."""
    with contextlib.suppress(OSError, ValueError):  # closed
        if sys.stderr is not None:
            print(f"distgrad: {text}", file=sys.stderr)


def emit(name: str, *inputs: Value, **attrs: Any) -> Value:
    """Apply the primitive `name` to `inputs`: computed at once where all is small and known, else recorded."""
    return dispatch(name, inputs, attrs)[0]


def emit_all(name: str, *inputs: Value, **attrs: Any) -> Sequence[Value]:
    """The same for a primitive with several results."""
    return dispatch(name, inputs, attrs)


def dispatch(name: str, inputs: Sequence[Value], attrs: dict[str, Any]) -> Sequence[Value]:
    """The same for operands and attributes that are put together already; what is not known yet is recorded."""
    primitive = TABLE[name]
    if _inline_bytes:
        values = small(primitive, inputs, attrs, _inline_bytes, _session is not None)
        if values is not None:
            return values
    if batching.used and any(type(v.result) is batching.Batched for v in inputs):
        return batching.apply_batched(primitive, inputs, attrs, below())
    where = _elsewhere(primitive, inputs)
    if where is VIEW:
        return (_lazy_view(primitive, inputs[0], attrs),)
    if where is NOWHERE:
        raise DistgradError(LOST)  # before workers are started in vain
    session = current() if _session is None else _session
    if where is FETCH:
        session.bring(inputs)
        values = small(primitive, inputs, attrs, _inline_bytes, True)
        if values is not None:
            return values
    return session.record(primitive, inputs, attrs)


def _elsewhere(primitive: Primitive, inputs: Sequence[Value]) -> Where:
    """Where a call runs that is not `small` as it is. Most are recorded, and that must be told without gathering facts.

    Small operands are fetched if a known one would have to be sent otherwise: so a loop on small data computes in the
    driver, also where its parameters come from a step on large data.
    """
    heavy = False
    for value in inputs if _inline_bytes else ():
        result = value.result
        if (result.array is not None or result.driver is not None) and result.id is None:
            spec = result.spec
            kept = spec.nbytes <= _inline_bytes and spec.sharding.count == 1
            heavy = heavy or (kept and not fits_call(spec.nbytes) and not is_remote(result))
    waiting = "view" in primitive.traits and waits(inputs[0])
    if not heavy and not waiting and _session is not None:
        return WORKERS
    lost = [value.result.spec for value in inputs if value.result.lost]
    fetchable = bool(lost) and all(fits_here(spec.nbytes, spec.sharding.count) for spec in lost)
    workers = _session is not None
    facts = Facts(_inline_bytes, workers, near=False, waiting=waiting, lost=bool(lost), heavy=heavy)
    return decide(facts._replace(fetchable=fetchable))


def below() -> batching.Below:
    """What is done with the values that batched ones are made of."""
    return batching.Below(dispatch, _shard_bytes)


def _lazy_view(primitive: Primitive, base: Value, attrs: dict[str, Any]) -> Value:
    """A view of what waits for writes waits too: to write to it, or read part of it, asks for nothing else."""
    if depth(base) > DEPTH:
        write_out(base)
        return dispatch(primitive.name, (base,), attrs)[0]
    return lazy_view(primitive, base, attrs, here(primitive), _shard_bytes)


def write_out(value: Value) -> None:
    """Have the writes done that wait for a value."""
    result = value.result
    if result.lazy is None:
        return
    facts = Facts(_inline_bytes, _session is not None, near=result.lazy.near, remote=is_remote(result))
    if decide(facts) is HERE:
        computed_here(result)
    else:
        current().record_lazy(result)


def constant(array: np.ndarray, sharding: Sharding | None = None) -> Value:
    """A value from an array that the caller will not change. A large one is sent to the workers at once."""
    if sharding is None and stays(array.nbytes, _inline_bytes):
        return Value.known(array)
    value = current().upload(array, sharding)
    return value if sharding is None or value.sharding == sharding else emit("reshard", value, cuts=sharding)


def snapshot(array: np.ndarray, sharding: Sharding | None = None) -> Value:
    """A value with an array's present contents, which the caller may change later. A large one is copied only once."""
    value = constant(array, sharding)
    return Value.known(array.copy()) if value.result.array is array else value


def fetch(value: Value) -> np.ndarray:
    """The elements, in the driver. Waits for them. The array is read-only for the caller."""
    result = value.result
    if not result.lost:
        return computed_here(result)
    if type(result) is batching.Batched:
        raise RuntimeError(batching.NO_ITEM)
    if _session is None:
        raise DistgradError(LOST)
    return _session.fetch(result)


def at_hand(value: Value) -> bool:
    """Whether the elements are in the driver, or are made there as soon as somebody asks."""
    result = value.result
    if result.lazy is None:
        return not result.lost
    return decide(Facts(_inline_bytes, nbytes=result.spec.nbytes, near=result.lazy.near)) is HERE


def bring(value: Value) -> None:
    """Have a small value in the driver, where the driver computes what is small."""
    facts = Facts(_inline_bytes, nbytes=value.result.spec.nbytes, cut=value.sharding.count > 1)
    if decide(facts) is HERE and not batching.is_batched(value):
        fetch(value)


def fetch_own(value: Value) -> np.ndarray:
    """The same as an array of the caller's own; what nobody else has need not be copied for that."""
    array = fetch(value)
    if array is value.result.array:
        return np.array(array)
    array.flags.writeable = True
    return array


def begin_pass(caller: tuple[Any, int]) -> None:
    """A backward pass is about to be recorded, which the user began at `caller`."""
    if _session is not None:
        _session.begin_pass(caller)


def begin_remat() -> None:
    """Values of forward are about to be made again for backward."""
    if _session is not None:
        _session.begin_remat()


def end_pass() -> None:
    """A backward pass has been recorded: it is run here, and sent now, or with what follows if it is light."""
    own.pending.run()
    if _session is not None and _session.pending:
        _session.end_pass()


def flush() -> None:
    """Send all pending work to the workers; does not wait for it."""
    if _session is not None and _session.pending:
        _session.flush()


def settle() -> None:
    """Send all pending work and wait for it. What went wrong is told to those who ask for it."""
    if _session is not None:
        _session.settle()


def synchronize() -> None:
    """Send all pending work and wait until the workers have done it. Raises what went wrong there."""
    if _session is not None:
        _session.synchronize()


def measured(how: Callable[[Session], None]) -> None:
    """Apply `how` to the session, if there is one: a profile begins or ends to measure it."""
    if _session is not None:
        with _session.lock:
            how(_session)


def memory() -> Memory:
    """For each worker a dict of bytes: `held` by tensors, `pooled` for reuse, those of the `programs` that it keeps
    ready, and `rss`, the size of the process.

    Beside them `minor_faults`: pages that the process has touched for the first time. The list's `driver` is a dict of
    this process's bytes: `plans`, with all else that is remembered of ops, and `rss`.
    """
    return current().memory()


def explain(values: Sequence[Value]) -> Explanation:
    """The plan that is pending for these values. Nothing is sent."""
    return current().explain([batching.innermost(v).result for v in values])


def shard_bytes() -> int:
    """Bytes of a shard, about, where nothing else is asked for."""
    return _shard_bytes


def inline_bytes() -> int:
    """Bytes up to which the driver computes what is made of what it has."""
    return _inline_bytes
