"""Arrays that cross between the driver and the workers: in batches, so that little beside the array itself is held."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import msgpack
import numpy as np

from distgrad.exchange import held, inside
from distgrad.exchange.base import taken
from distgrad.program import Slot
from distgrad.session.calls import Calls
from distgrad.sharding import Sharding, everything, extent
from distgrad.worker.transport import Handle

BATCH = 32 << 20  # bytes of one call
AHEAD = 96 << 20  # bytes that may be on their way


class Batch(NamedTuple):
    """Shards `first` up to `last`; of one that is larger than a batch the part `start:stop` along `dim` (-1: all)."""

    worker: int
    first: int
    last: int
    dim: int = -1
    start: int = 0
    stop: int = 0


def send(calls: Calls, array: np.ndarray, sharding: Sharding) -> int:
    """Have the workers store an array, cut along at most one dimension; the id under which they do.

    Waits until they have it, so that the caller may change the array. What is not cut is handed over once, and crosses
    to each node once.
    """
    (number,) = calls.new_ids([taken(Slot(array.dtype, sharding), calls.workers)])
    sent: deque[tuple[Handle, int]] = deque()
    whole = calls.transport.put(np.asarray(array, order="C")) if sharding.count == 1 else None
    ahead = 0
    try:
        for worker, first, last, *_ in _loads(sharding, calls.workers, array.itemsize):
            header = msgpack.packb({"id": number, "cuts": sharding.wire(), "first": first, "last": last})
            part = np.asarray(array[_span(sharding, first, last)], order="C") if whole is None else whole
            nbytes = part.nbytes if isinstance(part, np.ndarray) else 0
            sent.append((calls.transport.call(worker, "load", (header, part), 1)[0], nbytes))
            ahead += nbytes
            while ahead > AHEAD:
                handle, nbytes = sent.popleft()
                ahead -= nbytes
                calls.get([handle])
        calls.get([handle for handle, _ in sent])
    except BaseException:
        calls.freed.append(number)
        raise
    return number


def receive(calls: Calls, number: int, dtype: np.dtype, sharding: Sharding) -> np.ndarray:
    """The array that the workers store under `number`, each batch written to its place when it comes."""
    result = np.empty(sharding.shape, dtype)
    coming: deque[tuple[Handle, Batch]] = deque()
    most = max(1, AHEAD // max(BATCH, min(sharding.largest * dtype.itemsize, AHEAD)))
    for batch in _unloads(sharding, calls.workers, dtype.itemsize):
        if len(coming) >= most:
            _place(result, sharding, calls, *coming.popleft())
        mine = held(sharding.count, calls.workers, batch.worker).start
        asked = (number, batch.first - mine, batch.last - mine, batch.dim, batch.start, batch.stop)
        coming.append((calls.transport.call(batch.worker, "unload", asked, 1)[0], batch))
    while coming:
        _place(result, sharding, calls, *coming.popleft())
    return result


def _place(result: np.ndarray, sharding: Sharding, calls: Calls, handle: Handle, batch: Batch) -> None:
    whole = everything(sharding.shape)
    part = (slice(None),) * batch.dim + (slice(batch.start, batch.stop),) if batch.dim >= 0 else ()
    for shard, piece in zip(range(batch.first, batch.last), calls.answer(handle), strict=True):
        where: tuple[Any, ...] = (*inside(sharding.cell(shard), whole), ...)  # a view also without dimensions
        result[where][part or ...] = piece


def along_one(sharding: Sharding) -> Sharding:
    """The cuts along the first dimension that is cut, alone."""
    if len(sharding.cut_dims) <= 1:
        return sharding
    first = sharding.cut_dims[0]
    whole = Sharding.whole(sharding.shape)
    return Sharding(
        tuple(s if d == first else w for d, (s, w) in enumerate(zip(sharding.cuts, whole.cuts, strict=True)))
    )


def _loads(sharding: Sharding, workers: int, itemsize: int) -> Iterator[Batch]:
    """All shards in batches, one of each worker in turn; an empty one for who has none, so that the value is known."""
    return _in_turn(
        [
            _runs(sharding, held(sharding.count, workers, w), w, itemsize) or [Batch(w, 0, 0)]
            for w in range(workers)
        ]
    )


def _unloads(sharding: Sharding, workers: int, itemsize: int) -> Iterator[Batch]:
    """All shards in batches; one that is larger in parts. What is not cut lies on each worker, and all give some."""
    if sharding.largest * itemsize <= BATCH:
        where = range(workers if sharding.count > 1 else 1)
        return _in_turn([_runs(sharding, held(sharding.count, workers, w), w, itemsize) for w in where])
    if sharding.count == 1:
        parts = _parts(0, 0, sharding.shape, itemsize)
        return (part._replace(worker=n % workers) for n, part in enumerate(parts))
    return _in_turn(
        [
            [
                part
                for shard in held(sharding.count, workers, w)
                for part in _parts(w, shard, extent(sharding.cell(shard)), itemsize)
            ]
            for w in range(workers)
        ]
    )


def _parts(worker: int, shard: int, shape: tuple[int, ...], itemsize: int) -> Iterator[Batch]:
    """A shard in parts along its longest dimension."""
    dim = max(range(len(shape)), key=lambda d: shape[d])
    step = max(1, BATCH * shape[dim] // max(1, math.prod(shape) * itemsize))
    for start in range(0, shape[dim], step):
        yield Batch(worker, shard, shard + 1, dim, start, min(start + step, shape[dim]))


def _in_turn(batches: list[list[Batch]]) -> Iterator[Batch]:
    return (batch for row in zip_longest(*batches) for batch in row if batch is not None)


def _runs(sharding: Sharding, shards: range, worker: int, itemsize: int) -> list[Batch]:
    """Runs of shards of about `BATCH` bytes."""
    step = max(1, BATCH // max(1, sharding.largest * itemsize))
    starts = range(shards.start, shards.stop, step)
    return [Batch(worker, first, min(first + step, shards.stop)) for first in starts]


def _span(sharding: Sharding, first: int, last: int) -> tuple[slice, ...]:
    """Where the shards `first` up to `last` lie, in a tensor that is cut along one dimension."""
    (dim,) = sharding.cut_dims
    edges = sharding.cuts[dim].edges
    return (slice(None),) * dim + (slice(edges[first], edges[last]),)
