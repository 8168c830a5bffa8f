"""From a storage to a view: the view ops that were called one after the other, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from distgrad.ops.move_path import Path
from distgrad.ops.moves import undone
from distgrad.strided import Ints, Strided


class Step(NamedTuple):
    """A view op that was called on a tensor of this shape."""

    op: Callable[..., tuple[Any, ...]]
    shape: Ints
    args: tuple[Any, ...]

    def moves(self) -> tuple[Any, ...]:
        """What it comes down to."""
        return self.op(self.shape, *self.args)


class Found(NamedTuple):
    """What follows from the steps of a view: its strides, how to find it in the storage, and how in its base."""

    layout: Strided
    path: Path
    route: Path


class Chain:
    """The steps from a storage, whose shape is `start`, to a view; the first `depth` of them lead to its base.

    What follows from them is worked out when it is asked for: most views are only read, once.
    """

    __slots__ = ("_found", "depth", "start", "steps")

    def __init__(self, start: Ints, steps: tuple[Step, ...], depth: int):
        self.start = start
        self.steps = steps
        self.depth = depth
        self._found: Found | None = None

    @property
    def found(self) -> Found:
        """What follows from the steps."""
        if self._found is None:
            layout, path = Strided.contiguous(self.start), Path.of(self.start)
            route = path
            for i, step in enumerate(self.steps):
                if i and i == self.depth:
                    route = path.again()
                for move in step.moves():
                    layout = move.layout(layout)
                    same = route is path
                    path = path.then(move, layout.shape)
                    route = path if same else route.then(move, layout.shape)
            self._found = Found(layout, path, route)
        return self._found

    def route(self, base: Chain | None) -> Path:
        """How the view is found in its base, to which `base` leads now: that may have been turned in place."""
        if base is None or len(base.steps) == self.depth:
            return self.found.route
        layout, path = base.found.layout, base.found.path.again()
        back = [
            m for step in reversed(base.steps[self.depth :]) for done in step.moves() for m in undone(done)
        ]
        for move in (*back, *(m for step in self.steps[self.depth :] for m in step.moves())):
            layout = move.layout(layout)
            path = path.then(move, layout.shape)
        return path
