"""Arrays that the driver sends to the workers."""

from __future__ import annotations

import msgpack
import numpy as np

from distgrad.program import Slot
from distgrad.session.calls import Calls
from distgrad.sharding import Sharding
from distgrad.worker.exchange import held

UPLOAD = 64 << 20  # bytes of one call


def send(calls: Calls, array: np.ndarray, sharding: Sharding) -> int:
    """Have the workers store an array, cut along at most one dimension; the id under which they do.

    Waits until they have it, so that the caller may change the array.
    """
    number = calls.new_id(Slot(array.dtype, sharding))
    sent = []
    try:
        for worker in range(calls.workers):
            for first, last in _batches(
                sharding, held(sharding.count, calls.workers, worker), array.itemsize
            ):
                header = msgpack.packb({"id": number, "cuts": sharding.wire(), "first": first, "last": last})
                part = np.array(array[_span(sharding, first, last)], order="C")
                sent += calls.transport.call(worker, "load", (header, part), 1)
        calls.get(sent)
    except BaseException:
        calls.freed.append(number)
        raise
    return number


def along_one(sharding: Sharding) -> Sharding:
    """The cuts along the first dimension that is cut, alone."""
    if len(sharding.cut_dims) <= 1:
        return sharding
    first = sharding.cut_dims[0]
    whole = Sharding.whole(sharding.shape)
    return Sharding(
        tuple(s if d == first else w for d, (s, w) in enumerate(zip(sharding.cuts, whole.cuts, strict=True)))
    )


def _batches(sharding: Sharding, shards: range, itemsize: int) -> list[tuple[int, int]]:
    """Runs of shards of about `UPLOAD` bytes; an empty one where there are no shards, so that the value is known."""
    step = max(1, UPLOAD // max(1, sharding.largest * itemsize))
    runs = [(first, min(first + step, shards.stop)) for first in range(shards.start, shards.stop, step)]
    return runs or [(shards.start, shards.start)]


def _span(sharding: Sharding, first: int, last: int) -> tuple[slice, ...]:
    """Where the shards `first` up to `last` lie, in a tensor that is cut along at most one dimension."""
    if sharding.count == 1:
        return (slice(None),) * len(sharding.shape)
    (dim,) = sharding.cut_dims
    edges = sharding.cuts[dim].edges
    return (slice(None),) * dim + (slice(edges[first], edges[last]),)
