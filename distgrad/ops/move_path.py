"""The path of a view: its moves, brought into the form in which no element is seen twice on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distgrad import session
from distgrad.dtype import BOOL
from distgrad.graph import Value
from distgrad.ops.helpers import broadcast_to, constant
from distgrad.ops.moves import Expand, Move, Permute, Reshape, Slice, Slices, Squeeze, Unsqueeze, _all
from distgrad.ops.table import call
from distgrad.sharding import Sharding
from distgrad.strided import Ints, Strided


@dataclass(frozen=True)
class Path:
    """How a view's elements are found in a tensor: moves that give `core`, which is expanded to `shape`.

    So no move repeats an element, whatever the order in which the user expanded and selected: an op after an expand is
    brought before it (`under`). A view that may be written to sees no element twice, and there `core` is `shape`.
    """

    moves: tuple[Move, ...]
    core: Ints
    shape: Ints

    @classmethod
    def of(cls, shape: Ints) -> Path:
        """To a tensor itself."""
        return cls((), shape, shape)

    @property
    def repeated(self) -> Ints:
        """The dimensions along which elements are repeated."""
        return tuple(d for d, (n, m) in enumerate(zip(self.core, self.shape, strict=True)) if n != m)

    @property
    def first(self) -> Slices:
        """The slices that take the core from the view: the first of what is repeated."""
        return tuple((0, n, 1) for n in self.core)

    def again(self) -> Path:
        """From the view to itself: what is repeated is found where it stands first."""
        if self.core == self.shape:
            return Path.of(self.shape)
        return Path((Slice(self.first),), self.core, self.shape)

    def narrow(self) -> Path:
        """The path to the core."""
        return self if self.core == self.shape else Path(self.moves, self.core, self.core)

    def then(self, move: Move | Expand, shape: Ints) -> Path:
        """The path to a view of the view, which has this shape."""
        if type(move) is Expand:
            return self._expanded(shape)
        if self.core == self.shape:
            return Path(_joined(self.moves, move, self.core), shape, shape)  # type: ignore[arg-type]
        moves, core = self.moves, self.core
        for one in move.under(core, self.shape):  # type: ignore[union-attr]
            moves, core = _joined(moves, one, core), one.layout(Strided.contiguous(core)).shape
        return Path(moves, core, shape)

    def _expanded(self, shape: Ints) -> Path:
        moves, core = self.moves, self.core
        for _ in range(len(shape) - len(core)):
            moves, core = (*moves, Unsqueeze(0)), (1, *core)
        fewer = tuple(0 if m == 0 else n for n, m in zip(core, shape, strict=True))
        return Path(_joined(moves, Slice(tuple((0, n, 1) for n in fewer)), core), fewer, shape)

    def get(self, value: Value) -> Value:
        """The view's contents."""
        for move in self.moves:
            value = move.get(value)
        if self.core == self.shape:
            return value
        return session.emit("expand", value, shape=self.shape, cuts=None)

    def put(self, value: Value, new: Value) -> Value:
        """The tensor's contents with the view's replaced by `new`, which is alike wherever an element is repeated."""
        if self.core != self.shape:
            new = session.part(new, self.first)
        if len(self.moves) == 1:
            return self.moves[0].put(value, new)
        last = max((i for i, move in enumerate(self.moves) if move.partial), default=-1)
        parents = [value]
        for move in self.moves[: max(last, 0)]:
            parents.append(move.get(parents[-1]))
        first = next((i for i, move in enumerate(self.moves) if move.overlaps), len(self.moves))
        marks = None  # what of a view that overlaps is written, once that is not all of it
        for i in range(len(self.moves) - 1, -1, -1):
            move, parent = self.moves[i], parents[min(i, max(last, 0))]
            if marks is None and i > first and move.partial:
                marks = broadcast_to(constant(True, BOOL), new.shape)
            if marks is None:
                new = move.put(parent, new)
            else:
                new = move.put_marked(parent, new, marks)
                none = broadcast_to(constant(False, BOOL), new.shape)
                marks = move.marked(none, marks) if i > first else None
        return new

    def pad(self, new: Value, cuts: Sharding) -> Value:
        """Zeros, cut like `cuts`, to whose elements those of `new` are added which see them."""
        if self.repeated:
            name = str(new.dtype)
            new = session.emit("sum", new, dims=self.repeated, keepdim=True, dtype=name)
        if self.moves and type(self.moves[0]) is Slice and not any(m.partial for m in self.moves[1:]):
            new = Path(self.moves[1:], self.core, self.core).put(new, new)
            return session.emit("pad", new, slices=self.moves[0].slices, cuts=cuts)
        if self.tangled:
            return self._add_up(new, cuts)
        zeros = broadcast_to(constant(0, new.dtype), cuts.shape, cuts)
        return self.narrow().put(zeros, new)

    @property
    def tangled(self) -> bool:
        """Whether elements are seen several times otherwise than by repeated dimensions: in windows that overlap."""
        return any(move.overlaps for move in self.moves)

    def _add_up(self, new: Value, cuts: Sharding) -> Value:
        layouts = [Strided.contiguous(cuts.shape)]
        for move in self.moves[:-1]:
            layouts.append(Strided.contiguous(move.layout(layouts[-1]).shape))
        for move, layout in zip(reversed(self.moves), reversed(layouts), strict=True):
            new = move.transposed(layout.shape, new)
        return new if new.sharding == cuts else session.emit("reshard", new, cuts=cuts)

    def pull(self, g: Any, cuts: Sharding) -> Any:
        """`pad` of a tensor, recorded."""
        return call("_pad_along", g, self, cuts)


def _joined(moves: tuple[Move, ...], move: Move, shape: Ints) -> tuple[Move, ...]:
    """`moves`, which give `shape`, and another.

    What `x[i][j]`, `x.T[i]` or `x.view(-1)[i]` does becomes one slice of x, so that a write is one too.
    """
    last = moves[-1] if moves else None
    if isinstance(move, Slice):
        if move.slices == _all(shape):
            return moves
        if isinstance(last, Slice):
            return (*moves[:-1], last.then(move))
        sooner = last.after(move.slices) if last is not None else None
        if sooner is not None:
            found, more = sooner
            return (*_joined(moves[:-1], Slice(found), ()), *(more if isinstance(more, tuple) else (more,)))
    elif isinstance(move, Squeeze):
        if not move.dims:
            return moves
        if isinstance(last, Squeeze):
            return (*moves[:-1], last.then(move))
    elif (isinstance(move, Permute) and move.dims == tuple(range(len(shape)))) or (
        isinstance(move, Reshape) and move.shape == shape
    ):
        return moves
    return (*moves, move)
