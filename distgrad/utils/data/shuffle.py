"""The rows of a table that lies cut on the workers, in another order, by one exchange.

Each shard first takes its own rows in the order of the pieces that they go to, as many for each piece (a few too many:
the longest list counts). So what moves is a block of equal size from each shard to each piece, a transposition, and no
worker ever has more than its part. Then each piece takes its rows into their final order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distgrad import session
from distgrad.cutting import SHARED
from distgrad.graph import Value
from distgrad.ops.regrouping import reshaped
from distgrad.sharding import Cut, Sharding

ROWS = 128  # of a piece of a batch, at least; twice as many where there are more than `FEW` pieces:
FEW = 4  # their products are slower by a twentieth, and each makes a part of the gradient, to be added to the others;
PIECE_BYTES = 256 << 10  # fewer if they have as many bytes


class Dealt(NamedTuple):
    """Rows in an order, in pieces that are cut from each other: (pieces, rows, ...).

    With `each`, every piece has so many rows of each batch; without, batches lie one after the other.
    """

    value: Value
    each: int
    size: int

    def batch(self, number: int) -> Value:
        """The rows of a whole batch: where they lie in all pieces, nothing is moved."""
        pieces, rows, *shape = self.value.shape
        full = [(0, n, 1) for n in shape]
        if self.each:
            slices = ((0, pieces, 1), (number * self.each, self.each, 1), *full)
            return reshaped(session.emit("slice", self.value, slices=slices), (self.size, *shape))
        flat = reshaped(self.value, (pieces * rows, *shape))
        return session.emit("slice", flat, slices=((number * self.size, self.size, 1), *full))


def pieces_of(size: int, row_bytes: int) -> int:
    """Into how many pieces a batch is cut: a power of two that divides it; 1: it is too small."""
    pieces = 2
    while pieces <= SHARED and size % pieces == 0:
        rows = size // pieces
        if rows < (ROWS if pieces <= FEW else 2 * ROWS) and rows * row_bytes < PIECE_BYTES:
            break
        pieces *= 2
    return pieces // 2


def can_deal(x: Value) -> bool:
    """Whether a table is cut in even runs of rows, as large ones are unless another cut was asked for."""
    cut = x.sharding.cuts[0] if x.shape else None
    return cut is not None and x.sharding.cut_dims == (0,) and cut.is_even


def deal(x: Value, order: np.ndarray, size: int) -> Dealt:
    """The rows of `x` in this order, whole batches of `size`."""
    pieces = pieces_of(size, x.result.spec.nbytes // x.shape[0])
    batches = len(order) // size
    each = size // pieces if pieces > 1 else 0
    if each:
        wanted = order.reshape(batches, pieces, each).swapaxes(0, 1).reshape(pieces, -1)
    else:
        pieces = min(SHARED, batches)
        rows = -(-len(order) // pieces)
        wanted = np.concatenate([order, np.full(pieces * rows - len(order), order[0])]).reshape(pieces, rows)
    return Dealt(_moved(x, wanted), each, size)


def _moved(x: Value, wanted: np.ndarray) -> Value:
    """The rows `wanted` of each piece."""
    with session.called("DataLoader"):
        step = x.sharding.cuts[0].step
        shards, pieces, shape = -(-x.shape[0] // step), len(wanted), x.shape[1:]
        leaving, arriving, room = routes(wanted, step, shards)
        out = session.emit("take_own", x, session.constant(leaving.reshape(shards, -1)), step=step)
        out = session.emit("reshape", out, shape=(shards, pieces, room, *shape))
        out = session.emit("permute", out, dims=(1, 0, *range(2, 3 + len(shape))))
        cuts = Sharding((Cut.even(pieces, 1), *(Cut(n) for n in out.shape[1:])))
        out = session.emit("reshard", out, cuts=cuts)
        out = session.emit("reshape", out, shape=(pieces * shards * room, *shape))
        return session.emit("take_own", out, session.constant(arriving), step=shards * room)


def routes(wanted: np.ndarray, step: int, shards: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(shard, piece, room): which rows a shard gives to a piece; (piece, row): where they arrive; and the room."""
    pieces, rows = wanted.shape
    sources = wanted // step
    counts = np.stack([np.bincount(row, minlength=shards) for row in sources])
    room = max(1, int(counts.max()))
    leaving = np.zeros((shards, pieces, room), np.int64)
    arriving = np.empty((pieces, rows), np.int64)
    for piece, (row, source) in enumerate(zip(wanted, sources, strict=True)):
        by_source = np.argsort(source, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts[piece])[:-1]])
        rank = np.arange(rows) - np.repeat(starts, counts[piece])
        ordered = source[by_source]
        leaving[ordered, piece, rank] = row[by_source] - ordered * step
        arriving[piece, by_source] = ordered * room + rank
    return leaving, arriving, room
