"""How a tensor is cut: by its shape alone, or as the user says."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from distgrad.caching import remembered
from distgrad.sharding import Cut, Sharding

SHARED = 16  # pieces, fewer of which are made a power of two
MIN_ROWS = 256  # a shard with fewer rows than this is cut along the columns too
# A product of fewer rows spends its time on arranging the other matrix: BLAS gave 185, 199, 209 and 215 GFLOP/s with
# 256, 512, 1024 and 2048 rows of 4096. So shards of a matrix that is long both ways have this many rows,
PRODUCT_ROWS = 1024
PRODUCT_SHARDS = 8  # if that leaves as many shards,
PRODUCT_ROOM = 16  # and makes them no larger than so many times what they should have
DEFAULT_SHARD_BYTES = 4 << 20
PIECES = 1 << 14  # of more shards than these each has a good number of elements
SHARDS = 1 << 24  # shards of a value


def most_shards(elements: int) -> int:
    """Into how many shards a tensor of so many elements may be cut, since each costs as much as many elements.

    16,384 in any case; up to 65,536 with at least 16 elements each; more with at least 1,024 each.
    """
    return max(PIECES, min(4 * PIECES, elements >> 4), min(SHARDS, elements >> 10))


@remembered(4 << 20, lambda _, made: made.weight)
def default_sharding(shape: tuple[int, ...], itemsize: int, shard_bytes: int) -> Sharding:
    """The cuts that follow from shape and element size alone.

    Dimension 0 is cut (the first that is longer than one element) so that a shard holds about `shard_bytes`, or more
    if a matrix has long rows: products want many of them. The shards are as equal as can be. Where fewer than
    `MIN_ROWS` rows would be left of a tensor that is long in a further dimension too, that is cut as well.
    """
    cuts = [Cut(n) for n in shape]
    room = max(1, shard_bytes // itemsize)
    for d, n in enumerate(shape):
        row = math.prod(shape[d + 1 :])
        if n * row <= room or row == 0:
            break
        if n == 1:
            continue
        rows = room // row
        long = n >= MIN_ROWS and max(shape[d + 1 :], default=1) >= MIN_ROWS
        if long and d == len(shape) - 2:
            rows = max(rows, min(PRODUCT_ROWS, n // PRODUCT_SHARDS, PRODUCT_ROOM * room // row))
        if rows >= MIN_ROWS or not long:
            cuts[d] = Cut.even(n, _balanced(n, max(1, rows)))
            break
        cuts[d] = Cut.even(n, MIN_ROWS)
        room = max(1, room // MIN_ROWS)
    made = Sharding(tuple(cuts))
    most = most_shards(math.prod(shape))
    too_fine = most < SHARDS and made.count > most
    return default_sharding(shape, itemsize, 2 * shard_bytes) if too_fine else made


def _balanced(n: int, most: int) -> int:
    """The length of equal pieces of at most `most` of n elements; of few pieces a power of two, which workers share."""
    pieces = -(-n // most)
    if pieces < SHARED:
        pieces = 1 << (pieces - 1).bit_length()
    return -(-n // pieces)


def sharding_of(
    shape: tuple[int, ...], cuts: Sharding | int | Sequence[int] | dict[int, int | Sequence[int]]
) -> Sharding:
    """A sharding from what a user writes.

    `cuts` is a `Sharding` of the same shape, the length of a piece along dimension 0, a list of cut points along
    dimension 0 (0 and the size may be left out), or a dict from dimension to either of the two.
    """
    if isinstance(cuts, Sharding):
        if cuts.shape != shape:
            raise ValueError(f"sharding is for shape {list(cuts.shape)}, the tensor has shape {list(shape)}")
        return _not_too_many(cuts)
    by_dim = cuts if isinstance(cuts, dict) else {0: cuts} if shape else {}
    result = [Cut(n) for n in shape]
    for dim, how in by_dim.items():
        if isinstance(dim, bool) or not hasattr(dim, "__index__"):
            raise TypeError(f"a sharding's dimensions must be whole numbers, not {dim!r}")
        d = dim + len(shape) if dim < 0 else dim
        if not 0 <= d < len(shape):
            raise IndexError(
                f"Dimension out of range (expected to be in range of [{-len(shape)}, {len(shape) - 1}], but got {dim})"
            )
        result[d] = _cut_of(shape[d], how)
    return _not_too_many(Sharding(tuple(result)))


def _cut_of(size: int, how: Any) -> Cut:
    """One dimension's cut: from the length of a piece, or from cut points."""
    if hasattr(how, "__index__") and not isinstance(how, bool):
        step = operator.index(how)
        if step < 1:
            raise ValueError(f"a piece must be at least one element long, got {step}")
        return Cut.even(size, step)
    given = None if isinstance(how, (str, bytes, bool)) or not isinstance(how, Iterable) else list(how)
    if given is None or any(isinstance(p, bool) or not hasattr(p, "__index__") for p in given):
        raise TypeError(
            "a sharding is the length of a piece, a list of cut points, a dict from dimensions to either of them, or "
            f"another tensor's sharding, not {how!r:.60}"
        )
    points = [operator.index(p) for p in given]
    points = points if points[:1] == [0] else [0, *points]
    points = points if points[-1] == size and len(points) > 1 else [*points, size]
    return Cut.at(size, points)


def _not_too_many(cuts: Sharding) -> Sharding:
    size = math.prod(cuts.shape)
    if cuts.count > most_shards(size):
        raise ValueError(
            f"{cuts.count:,} shards are too many for {size:,} elements: more than {PIECES:,} need 16 elements each, "
            f"more than {4 * PIECES:,} need 1,024"
        )
    return cuts
