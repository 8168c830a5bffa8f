"""What keeps the driver's time for a stage in proportion to the number of workers, where all send to all.

Replies reach many workers in bundles: `FAN` are put together by one worker, as many bundles by another, until one is
left. On the channel "each", who sends to whom is worked out by the driver as by the workers, and nothing else is sent.
Workers own contiguous ranges of shards, so most moves are between neighbours, and a large sum goes only to those who
own a part of it. It is worked out from the ends of the ranges alone: a worker may be addressed that gets nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from distgrad.caching import remembered
from distgrad.program import Departure, Move, Sum
from distgrad.sharding import owned, owner

FAN = 32  # replies that one call takes at the most: with Ray each costs the driver 10 us, and a call alone 170 us


@remembered(4 << 20, lambda _, found: 1000 + sum(100 + 8 * len(to) for to in found))
def addressed(departures: tuple[Departure, ...], workers: int) -> tuple[tuple[int, ...], ...]:
    """For each worker its `receivers`."""
    return tuple(receivers(departures, workers, worker) for worker in range(workers))


def receivers(departures: Sequence[Departure], workers: int, worker: int) -> tuple[int, ...]:
    """The other workers to which `worker` sends on the channel "each", rising."""
    found: set[int] = set()
    for departure in departures:
        if departure.channel == "each":
            what = departure.what
            total = math.prod(what.counts) if isinstance(what, Sum) else what.source.count
            mine = owned(total, workers, worker)
            if mine:
                shards, count = _sums(what, mine) if isinstance(what, Sum) else _targets(what, mine)
                found.update(_owners(shards, count, workers))
    found.discard(worker)
    return tuple(sorted(found))


def _owners(shards: range, count: int, workers: int) -> Iterable[int]:
    """The workers that own these of `count` shards."""
    if not shards:
        return ()
    if count < workers:  # some own none
        return [owner(count, workers, shard) for shard in shards]
    return range(owner(count, workers, shards[0]), owner(count, workers, shards[-1]) + 1)


def _sums(what: Sum, mine: range) -> tuple[range, int]:
    """Sums that the partial results `mine` are parts of, and how many there are: exact but for further dimensions.

    The first dimensions that are not reduced tell which sums; all that differ in others alone are counted in.
    """
    if what.target is not None:  # every part goes to all who own some of the sum
        return range(what.target.count), what.target.count
    first = what.reduced.index(True) if True in what.reduced else len(what.reduced)
    each = math.prod(what.counts[first:])
    sums = math.prod(n for n, r in zip(what.counts[first:], what.reduced[first:], strict=True) if not r)
    reached = range(mine[0] // each * sums, (mine[-1] // each + 1) * sums)
    return reached, math.prod(what.counts[:first]) * sums


def _targets(what: Move, mine: range) -> tuple[range, int]:
    """Target shards that the source shards `mine` may overlap, and how many there are: exact along the first cut."""
    source, target = what.source, what.target
    dim = min((*source.cut_dims, *target.cut_dims))
    inner, each = math.prod(source.grid[dim + 1 :]), math.prod(target.grid[dim + 1 :])
    lo, _ = source.cuts[dim].bounds(mine[0] // inner)
    _, hi = source.cuts[dim].bounds(mine[-1] // inner)
    pieces = target.cuts[dim].overlapping(*what.seen(dim, lo, hi))
    return range(pieces.start * each, pieces.stop * each), target.count
