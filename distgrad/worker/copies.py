"""Copies of stored values, from which workers that were lost get back what they had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np

from distgrad.errors import WireError
from distgrad.exchange import Failure, Joined, held
from distgrad.fields import WORKERS, check_array, read_int, read_list, read_sharding
from distgrad.primitives.base import DTYPES
from distgrad.program import Slot
from distgrad.sharding import extent
from distgrad.worker.execute import Pieces


class Restored(NamedTuple):
    """A value to be stored under a number: how it is cut, which of its shards, and those."""

    number: int
    slot: Slot
    mine: range
    value: Pieces | Failure


def copied(value: Pieces | Failure) -> list[Any]:
    """A list of its shards; of a failure, no shards and what that is on the wire."""
    if isinstance(value, Failure):
        return [[], value.wire()]
    return [[piece.whole() if type(piece) is Joined else piece for piece in value]]


def restored(
    header: bytes, copies: Sequence[Any], worker: int, take: Callable[..., np.ndarray]
) -> list[Restored]:
    """What a worker is to store of `copies`.

    `header` is a list: how many workers there are; and of each value its id, in which of the copies it is, at which
    place there, its dtype and cuts. Raises WireError.
    """
    try:
        workers, entries = read_list(msgpack.unpackb(header, raw=False), "restore", 2)
        read_int(workers, "restore: workers", worker + 1, WORKERS)
        return [_restored(raw, copies, workers, worker, take) for raw in read_list(entries, "restore")]
    except WireError:
        raise
    except Exception as error:  # a list that is too short, a name that means nothing
        raise WireError(f"restore: damaged: {str(error) or type(error).__name__}") from None


def _restored(
    raw: Any, copies: Sequence[Any], workers: int, worker: int, take: Callable[..., np.ndarray]
) -> Restored:
    number, source, place, name, cuts = read_list(raw, "restore", 5)
    slot = Slot(DTYPES[name], read_sharding(cuts, "restore"))
    mine = held(slot.sharding.count, workers, worker)
    shards, *failed = copies[source][place]
    if failed:
        return Restored(read_int(number, "restore"), slot, mine, Failure(*failed[0]))
    pieces: list[Any] = []
    for shard, array in zip(mine, shards, strict=True):
        found = check_array(array, extent(slot.sharding.cell(shard)), slot.dtype, "restore")
        pieces.append(take(found.shape, found.dtype))
        np.copyto(pieces[-1], found)
    return Restored(read_int(number, "restore"), slot, mine, pieces)
