"""Windows as a move: views that see an element several times, and strides of any kind as moves.

Of windows that overlap only the gradient has to know: it adds up. To write through them is possible where it comes
down to slices, `x.unfold(0, 3, 1)[1]`, where no element is seen twice, or where one number is written (`inplace.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from distgrad import session
from distgrad.graph import Value
from distgrad.ops.helpers import broadcast_to, constant
from distgrad.ops.move_path import Path
from distgrad.ops.moves import Expand, Move, Permute, Reshape, Slice, Slices, Squeeze, Unsqueeze
from distgrad.strided import Ints, Strided


def _along(shape: Ints, dim: int, start: int, length: int, step: int = 1) -> Slices:
    return tuple((start, length, step) if d == dim else (0, n, 1) for d, n in enumerate(shape))


@dataclass(frozen=True)
class Windows(Move):
    """`count` windows of `size` elements along `dim`, one every `step`; the elements become the last dimension."""

    dim: int
    count: int
    size: int
    step: int
    partial = True

    @property
    def overlaps(self) -> bool:
        """Whether an element is in several windows."""
        return self.step < self.size and self.count > 1

    def layout(self, parent: Strided) -> Strided:
        """A stride of `step` elements between windows, of one inside them."""
        d = self.dim
        stride = parent.strides[d] if parent.strides else 1
        return Strided(
            (*parent.shape[:d], self.count, *parent.shape[d + 1 :], self.size),
            (*parent.strides[:d], stride * self.step, *parent.strides[d + 1 :], stride),
            parent.offset,
        )

    def after(self, slices: Slices) -> tuple[Slices, tuple[Move, ...]] | None:
        """Of one window, or of one place in all windows, there are slices."""
        (a, n, b), (c, m, k), d = slices[self.dim], slices[-1], self.dim
        last = len(slices) - 2
        start, rest = a * self.step + c, (slices[:d], slices[d + 1 : -1])
        if m == 1:
            return (*rest[0], (start, n, b * self.step), *rest[1]), (Unsqueeze(last + 1),)
        if n == 1:
            order = (*(i for i in range(last + 1) if i != d), d)
            moves = () if d == last else (Permute(order),)
            return (*rest[0], (start, m, k), *rest[1]), (*moves, Unsqueeze(d))
        return None

    def _each(self, shape: Ints) -> list[tuple[int, int, Slices]]:
        """(dimension, place there, slices of the parent) for each offset in a window, or window if they are fewer."""
        d, last = self.dim, len(shape)
        if self.size <= self.count:
            slices = (_along(shape, d, k, self.count, self.step) for k in range(self.size))
            return [(last, k, s) for k, s in enumerate(slices)]
        slices = (_along(shape, d, t * self.step, self.size) for t in range(self.count))
        return [(d, t, s) for t, s in enumerate(slices)]

    def get(self, parent: Value) -> Value:
        """By one primitive where the windows' dimension is not cut, else of slices, which move little."""
        if self._whole(parent):
            n = len(parent.shape)
            front = session.emit("permute", parent, dims=(*_others(n, self.dim), self.dim))
            kernel = {"kernel": (self.size,), "stride": (self.step,), "padding": (0,), "dilation": (1,)}
            made = session.emit("window_gather", front, size=(self.count,), **kernel)
            return session.emit("permute", made, dims=self._order(n))
        parts = []
        for at, _, slices in self._each(parent.shape):
            part = session.part(parent, slices)
            if at == self.dim:  # a window: its elements go last
                n = len(part.shape)
                part = session.emit("permute", part, dims=(*_others(n, self.dim), self.dim))
            parts.append(session.emit("expand_dims", part, dims=(at,)))
        dim = self._each(parent.shape)[0][0]
        return session.emit("cat", *parts, dim=dim, sizes=(1,) * len(parts))

    def _whole(self, x: Value) -> bool:
        one = min(self.size, self.count) == 1
        return (
            not one
            and x.dtype.kind in "fi"
            and (x.sharding.count == 1 or self.dim not in x.sharding.cut_dims)
        )

    def _order(self, n: int) -> Ints:
        """From (others, element, window) to the view's order of dimensions."""
        order = list(range(n - 1))
        order.insert(self.dim, n)
        return (*order, n - 1)

    def _parts(self, new: Value, shape: Ints) -> list[tuple[Slices, Value]]:
        """What of the view belongs to which slices of the parent."""
        found = []
        for at, i, slices in self._each(shape):
            part = session.part(new, _along(new.shape, at, i, 1))
            part = session.emit("squeeze_dims", part, dims=(at,))
            if at == self.dim:
                order = list(_others(len(shape), len(shape) - 1))
                order.insert(self.dim, len(shape) - 1)
                part = session.emit("permute", part, dims=tuple(order))
            found.append((slices, part))
        return found

    def put(self, parent: Value, new: Value) -> Value:
        """Part by part: where windows overlap these are alike."""
        for slices, part in self._parts(new, parent.shape):
            parent = session.put(parent, part, slices)
        return parent

    def put_marked(self, parent: Value, new: Value, marks: Value) -> Value:
        """Only what is marked: the rest of a window may be older than what another window wrote there."""
        parts = zip(self._parts(new, parent.shape), self._parts(marks, parent.shape), strict=True)
        for (slices, part), (_, written) in parts:
            made = session.emit("where", written, part, session.part(parent, slices))
            parent = session.put(parent, made, slices)
        return parent

    def marked(self, none: Value, marks: Value) -> Value:
        """What of the parent is marked in one of the windows."""
        for slices, part in self._parts(marks, none.shape):
            none = session.put(none, session.emit("logical_or", part, session.part(none, slices)), slices)
        return none

    def transposed(self, shape: Ints, new: Value) -> Value:
        """Zeros of the parent's shape, to which every element is added where it was read."""
        if self._whole(new) and len(shape) not in new.sharding.cut_dims:
            n = len(shape)
            order = self._order(n)
            front = session.emit("permute", new, dims=tuple(order.index(i) for i in range(n + 1)))
            kernel = {"kernel": (self.size,), "stride": (self.step,), "padding": (0,), "dilation": (1,)}
            made = session.emit("window_scatter", front, size=(shape[self.dim],), **kernel)
            back = list(range(n - 1))
            back.insert(self.dim, n - 1)
            return session.emit("permute", made, dims=tuple(back))
        total = None
        for slices, part in self._parts(new, shape):
            zeros = broadcast_to(constant(0, new.dtype), shape)
            padded = session.emit("pad", part, slices=slices, cuts=zeros.sharding)
            total = padded if total is None else session.emit("add", total, padded)
        assert total is not None
        return total


def _others(n: int, dim: int) -> Ints:
    return tuple(d for d in range(n) if d != dim)


def windows(shape: Ints, dim: int, count: int, size: int, step: int) -> tuple[Move, ...]:
    """The moves that give these windows: a reshape where they do not overlap, and the last is followed by enough."""
    n = len(shape)
    if size > step or count * step > shape[dim] or min(size, count) == 1:
        return (Windows(dim, count, size, step),)
    cut = (*shape[:dim], count * step, *shape[dim + 1 :])
    parted = (*shape[:dim], count, step, *shape[dim + 1 :])
    moved = tuple(d for d in range(n + 1) if d != dim + 1)
    return (
        Slice(_along(shape, dim, 0, count * step)),
        Reshape(parted, cut),
        Slice(_along(parted, dim + 1, 0, size)),
        Permute((*moved, dim + 1)),
    )


def path_of(shape: Ints, moves: tuple[Move | Expand, ...], order: Ints | None = None) -> Path:
    """The path by these moves, of what lies in C order once its dimensions are in the `order` that is given."""
    layout, path = Strided.contiguous(shape), Path.of(shape)
    if order is not None:
        layout = Strided.contiguous(tuple(shape[d] for d in order))
        path = path.then(Permute(order), layout.shape)
    for move in moves:
        layout = move.layout(layout)
        path = path.then(move, layout.shape)
    return path


def strides(shape: Ints, size: Ints, stride: Ints, offset: int, order: Ints | None = None) -> Path:
    """From a tensor of this shape to the view that has this size, strides and offset in it.

    From the largest stride to the smallest: windows of what the smaller ones span. The tensor lies in C order, or does
    so with its dimensions in the `order` that is given.
    """
    dense = shape if order is None else tuple(shape[d] for d in order)
    n = math.prod(shape)
    kept = sorted((d for d in range(len(size)) if size[d] != 1 and stride[d]), key=lambda d: -stride[d])
    rest = [d for d in range(len(size)) if d not in kept]
    spans = [1 + sum((size[e] - 1) * stride[e] for e in kept[i:]) for i in range(len(kept) + 1)]
    moves: list[Move | Expand] = [Reshape((n,), dense)]
    room = n - offset if kept and size[kept[0]] * stride[kept[0]] <= n - offset else spans[0]
    moves.append(Slice(((offset, room, 1),)))
    now: Ints = (room,)
    for i, d in enumerate(kept):
        last = len(now) - 1
        if i == len(kept) - 1:
            moves.append(Slice(_along(now, last, 0, size[d], stride[d])))
            now = (*now[:-1], size[d])
        else:
            inner = spans[i + 1]
            wide = stride[d] if inner <= stride[d] and size[d] * stride[d] <= now[last] else inner
            moves += windows(now, last, size[d], wide, stride[d])
            now = (*now[:-1], size[d], wide)
    if not kept:
        moves.append(Squeeze((0,)))
        now = ()
    for _ in rest:
        moves.append(Unsqueeze(len(now)))
        now = (*now, 1)
    moves.append(Expand((*now[: len(kept)], *(size[d] for d in rest))))
    placed = (*kept, *rest)
    moves.append(Permute(tuple(placed.index(d) for d in range(len(size)))))
    return path_of(shape, tuple(moves), order)
