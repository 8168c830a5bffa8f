"""What keeps the driver's time for a stage in proportion to the number of workers, where all send to all.

Replies reach many workers in bundles: `FAN` are put together by one worker, as many bundles by another, until one is
left. On the channel "each", who sends to whom is worked out by the driver as by the workers, and nothing else is sent.
Workers own contiguous ranges of shards, so most moves are between neighbours, and a large sum goes only to those who
own a part of it. It is worked out from the ends of the ranges alone: a worker may be addressed that gets nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distgrad.caching import remembered
from distgrad.program import Send
from distgrad.sharding import owned, owner

FAN = 32  # replies that one call takes at the most: with Ray each costs the driver 10 us, and a call alone 170 us


@remembered(4 << 20, lambda _, found: 1000 + sum(100 + 8 * len(to) for to in found))
def addressed(sends: tuple[Send, ...], workers: int) -> tuple[tuple[int, ...], ...]:
    """For each worker its `receivers`."""
    return tuple(receivers(sends, workers, worker) for worker in range(workers))


def receivers(sends: Sequence[Send], workers: int, worker: int) -> tuple[int, ...]:
    """The other workers to which `worker` sends on the channel "each", rising."""
    found: set[int] = set()
    for send in sends:
        mine = owned(send.what.parts, workers, worker)
        if send.channel == "each" and mine:
            found.update(_owners(*send.what.reach(mine), workers))
    found.discard(worker)
    return tuple(sorted(found))


def _owners(shards: range, count: int, workers: int) -> Iterable[int]:
    """The workers that own these of `count` shards."""
    if not shards:
        return ()
    if count < workers:  # some own none
        return [owner(count, workers, shard) for shard in shards]
    return range(owner(count, workers, shards[0]), owner(count, workers, shards[-1]) + 1)
