"""What views are made of: moves, each of which arranges or leaves out elements (paths of them: `move_path.py`).

A view op says to which moves it comes down. From them follow its strides, its contents, and what becomes of the tensor
that it is a view of when it is written to.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from distgrad import session
from distgrad.graph import Value
from distgrad.ops.helpers import broadcast_to, constant
from distgrad.ops.regrouping import compact, reshaped
from distgrad.strided import Ints, Strided, diagonal_of, diagonal_slice

Slices = tuple[tuple[int, int, int], ...]


class Move(ABC):
    """One step from a tensor to a view of it."""

    __slots__ = ()
    partial: ClassVar[bool] = (
        False  # whether it may leave elements out: only then does `put` look at the parent
    )

    @property
    def overlaps(self) -> bool:
        """Whether it sees elements several times."""
        return False

    @abstractmethod
    def layout(self, parent: Strided) -> Strided:
        """Where the view's elements lie."""

    @abstractmethod
    def get(self, parent: Value) -> Value:
        """The view's contents."""

    @abstractmethod
    def put(self, parent: Value, new: Value) -> Value:
        """The parent's contents with the view's replaced by `new`."""

    def put_marked(self, parent: Value, new: Value, marks: Value) -> Value:
        """The same for those elements of the view that are marked; what becomes of others does not matter, so all."""
        return self.put(parent, new)

    def marked(self, none: Value, marks: Value) -> Value:
        """What of the parent is marked in the view; `none` is False everywhere."""
        return self.put(none, marks)

    def under(self, core: Ints, shape: Ints) -> tuple[Move, ...]:
        """The moves of `core` that give, expanded, what this one gives of `core` expanded to `shape`."""
        return (self,)

    def after(self, slices: Slices) -> tuple[Slices, Any] | None:
        """Slices of the parent, and a move or moves of those, that give these slices of the view; None: no such."""
        return None

    def transposed(self, shape: Ints, new: Value) -> Value:
        """Zeros of the parent's shape, to whose elements those of `new` are added which see them."""
        zeros = broadcast_to(constant(0, new.dtype), shape) if self.partial else new
        return self.put(zeros, new)


@dataclass(frozen=True)
class Permute(Move):
    """Dimension `dims[i]` becomes dimension i."""

    dims: Ints

    def layout(self, parent: Strided) -> Strided:
        return parent.permute(self.dims)

    def after(self, slices: Slices) -> tuple[Slices, Move] | None:
        return tuple(slices[d] for d in inverse(self.dims)), self

    def get(self, parent: Value) -> Value:
        return session.emit("permute", parent, dims=self.dims)

    def put(self, parent: Value, new: Value) -> Value:
        return session.emit("permute", new, dims=inverse(self.dims))


@dataclass(frozen=True)
class Slice(Move):
    """(start, length, step) of each dimension."""

    slices: Slices
    partial = True

    def layout(self, parent: Strided) -> Strided:
        return parent.slice(self.slices)

    def get(self, parent: Value) -> Value:
        return compact(session.part(parent, self.slices))

    def put(self, parent: Value, new: Value) -> Value:
        return session.put(parent, new, self.slices)

    def under(self, core: Ints, shape: Ints) -> tuple[Move, ...]:
        trios = zip(self.slices, core, shape, strict=True)
        return (Slice(tuple(s if n == m else (0, min(s[1], 1), 1) for s, n, m in trios)),)

    def then(self, other: Slice) -> Slice:
        """Both as one."""
        pairs = zip(self.slices, other.slices, strict=True)
        return Slice(tuple((a + c * b if n else 0, n, b * d) for (a, _, b), (c, n, d) in pairs))


@dataclass(frozen=True)
class Squeeze(Move):
    """Without the dimensions `dims`, rising, which have length 1."""

    dims: Ints

    def layout(self, parent: Strided) -> Strided:
        return parent.squeeze(self.dims)

    def after(self, slices: Slices) -> tuple[Slices, Move] | None:
        opened = list(slices)
        for d in self.dims:
            opened.insert(d, (0, 1, 1))
        return tuple(opened), self

    def get(self, parent: Value) -> Value:
        return session.emit("squeeze_dims", parent, dims=self.dims)

    def put(self, parent: Value, new: Value) -> Value:
        return session.emit("expand_dims", new, dims=self.dims)

    def then(self, other: Squeeze) -> Squeeze:
        """Both as one."""
        dims = list(self.dims)
        for d in other.dims:
            for before in self.dims:
                d += before <= d
            dims.append(d)
        return Squeeze(tuple(sorted(dims)))


@dataclass(frozen=True)
class Unsqueeze(Move):
    """A new dimension of length 1 at position `dim` of the result."""

    dim: int

    def layout(self, parent: Strided) -> Strided:
        return parent.unsqueeze(self.dim)

    def after(self, slices: Slices) -> tuple[Slices, Move] | None:
        rest = (*slices[: self.dim], *slices[self.dim + 1 :])
        return (rest, self) if slices[self.dim] == (0, 1, 1) else None

    def get(self, parent: Value) -> Value:
        return session.emit("expand_dims", parent, dims=(self.dim,))

    def put(self, parent: Value, new: Value) -> Value:
        return session.emit("squeeze_dims", new, dims=(self.dim,))


@dataclass(frozen=True)
class Reshape(Move):
    """The elements in C order in another shape than `before`."""

    shape: Ints
    before: Ints

    def layout(self, parent: Strided) -> Strided:
        layout = parent.reshape(self.shape)
        assert layout is not None
        return layout

    def after(self, slices: Slices) -> tuple[Slices, Move] | None:
        same = zip(self.shape, self.before, strict=False)
        first = next((d for d, (n, m) in enumerate(same) if n != m), min(len(self.shape), len(self.before)))
        inner, (rest, core) = slices[first:], (self.shape[first:], self.before[first:])
        if math.prod(rest) != math.prod(core):  # of no elements: any two shapes go together
            return None
        if inner == _all(rest):
            box: Slices | None = _all(core)
        else:
            box = _box(core, *inner[0][:2]) if len(inner) == 1 and inner[0][2] == 1 else None
        if box is None:
            return None
        found = (*slices[:first], *box)
        return found, Reshape(tuple(n for _, n, _ in slices), tuple(n for _, n, _ in found))

    def get(self, parent: Value) -> Value:
        return reshaped(parent, self.shape)

    def put(self, parent: Value, new: Value) -> Value:
        return reshaped(new, self.before)

    def under(self, core: Ints, shape: Ints) -> tuple[Move, ...]:
        """A dimension of the result is made of repeated dimensions alone, or of others alone."""
        wide = self.layout(Strided.contiguous(core).expand(shape))
        pairs = zip(wide.shape, wide.strides, strict=True)
        return (Reshape(tuple(1 if stride == 0 and n > 1 else n for n, stride in pairs), core),)


@dataclass(frozen=True)
class Diagonal(Move):
    """Where the position in dimension b is that in a plus `offset`; it becomes the last dimension."""

    offset: int
    a: int
    b: int
    partial = True

    def layout(self, parent: Strided) -> Strided:
        return parent.diagonal(self.offset, self.a, self.b)

    def _flat(self, shape: Ints) -> tuple[Ints, Ints, Slices]:
        """The order of dimensions that has a and b last, the shape with these two made one, the diagonal of that."""
        order = (*(d for d in range(len(shape)) if d not in (self.a, self.b)), self.a, self.b)
        *batch, n, m = (shape[d] for d in order)
        return order, (*batch, n * m), (*((0, k, 1) for k in batch), diagonal_slice(n, m, self.offset))

    def get(self, parent: Value) -> Value:
        order, flat, slices = self._flat(parent.shape)
        return compact(session.part(reshaped(_permuted(parent, order), flat), slices))

    def put(self, parent: Value, new: Value) -> Value:
        order, flat, slices = self._flat(parent.shape)
        front = _permuted(parent, order)
        made = session.put(reshaped(front, flat), new, slices)
        return _permuted(reshaped(made, front.shape), inverse(order))

    def under(self, core: Ints, shape: Ints) -> tuple[Move, ...]:
        """Along a repeated dimension one place is as good as the other."""
        a, b, n = self.a, self.b, len(shape)
        repeated = {d for d in (a, b) if core[d] != shape[d]}
        if not repeated:
            return (self,)
        row, column, length = diagonal_of(shape[a], shape[b], self.offset)
        slices = [(0, size, 1) for size in core]
        slices[a], slices[b] = (row if length else 0, length, 1), (column if length else 0, length, 1)
        for d in repeated:
            slices[d] = (0, min(length, 1), 1)
        if len(repeated) == 2:
            gone, kept = min(a, b), max(a, b)
        else:
            gone, kept = (a, b) if a in repeated else (b, a)
        if length == 0:
            slices[gone] = (0, 1, 1)
        order = (*(d for d in range(n) if d not in (gone, kept)), kept, gone)
        return (Slice(tuple(slices)), Permute(order), Squeeze((n - 1,)))


class Expand(NamedTuple):
    """Dimensions of length 1, and new ones in front, repeated to `shape`. In a path it comes last."""

    shape: Ints

    def layout(self, parent: Strided) -> Strided:
        return parent.expand(self.shape)


def _permuted(x: Value, dims: Ints) -> Value:
    return x if dims == tuple(range(len(dims))) else session.emit("permute", x, dims=dims)


def undone(move: Any) -> tuple[Move, ...]:
    """The moves that lead back from a view in which all elements of its parent are seen, each once."""
    if isinstance(move, Permute):
        return (Permute(inverse(move.dims)),)
    if isinstance(move, Squeeze):
        return tuple(Unsqueeze(d) for d in move.dims)
    assert isinstance(move, Unsqueeze)
    return (Squeeze((move.dim,)),)


def inverse(dims: Ints) -> Ints:
    """The permutation that undoes `dims`."""
    order = [d % len(dims) for d in dims]
    return tuple(order.index(i) for i in range(len(order)))


def _all(shape: Ints) -> Slices:
    return tuple((0, n, 1) for n in shape)


def _box(shape: Ints, start: int, length: int) -> Slices | None:
    """The slices of `shape` that hold a run of its elements in C order; None if the run is no box."""
    if not shape:
        return () if length else None
    row = math.prod(shape[1:])
    if row == 0:
        return None
    if start % row == length % row == 0:
        return ((start // row, length // row, 1), *_all(shape[1:]))
    if length == 0 or start // row != (start + length - 1) // row:
        return None
    inside = _box(shape[1:], start % row, length)
    return None if inside is None else ((start // row, 1, 1), *inside)
