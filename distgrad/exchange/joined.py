"""A shard that stays in the pieces that it came in."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from distgrad.exchange.tree import Take


class Joined:
    """A shard left in the pieces that it came in, side by side along `dim`, to be read tile by tile along that.

    A tile inside of a piece is a view of it; one across a border is put together in memory that `take` gives. So what
    moves to a neighbour's cuts, of which most stays where it is, is not copied.
    """

    __slots__ = ("dim", "ends", "own", "pieces", "take")

    def __init__(self, pieces: Sequence[np.ndarray], dim: int, take: Take, own: int | None = None):
        self.pieces = pieces
        self.own = own  # which of the pieces is all of the shard that lay here before
        self.dim = dim
        self.take = take
        self.ends = list(accumulate(piece.shape[dim] for piece in pieces))

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        before, (start, stop) = index[: self.dim], (index[self.dim].start, index[self.dim].stop)
        first, last = bisect_right(self.ends, start), bisect_left(self.ends, stop)
        first = min(first, len(self.ends) - 1)
        parts = []
        for piece, end in zip(self.pieces[first : last + 1], self.ends[first : last + 1], strict=True):
            lo = end - piece.shape[self.dim]
            parts.append(piece[(*before, slice(max(0, start - lo), stop - lo), *index[self.dim + 1 :])])
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[self.dim] = stop - start
        return np.concatenate(parts, self.dim, out=self.take(tuple(shape), parts[0].dtype))

    def whole(self) -> np.ndarray:
        """All pieces as one array."""
        return self[(*[slice(None)] * self.dim, slice(0, self.ends[-1]))]

    def settle(self) -> None:
        """Copy all but the shard that lay here before: the others are parts of what arrived, or of other shards."""
        self.pieces = [piece if n == self.own else piece.copy() for n, piece in enumerate(self.pieces)]
