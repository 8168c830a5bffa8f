"""Storage: the mutable cell that tensors share, its version counter, and how a view finds its contents in it.

Values never change. An in-place op computes a new value and puts it in the storage; every tensor on the storage
then sees it. A view has a chain of steps that lead from the storage's contents to its own.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from distgrad.graph import Value


class Version:
    """Counts the in-place changes of a storage. `.data` gives a tensor a counter of its own, as in torch."""

    __slots__ = ("changed", "number")

    def __init__(self) -> None:
        self.number = 0
        self.changed: Any = None  # the op and place of the last change: (name, code, instruction)


class Storage:
    """The current value of one or more tensors; `generation` counts its replacements."""

    __slots__ = ("generation", "value")

    def __init__(self, value: Value):
        self.value = value
        self.generation = 0

    def replace(self, value: Value) -> None:
        """Put a new value in. Views find it at their next use."""
        self.value = value
        self.generation += 1


class Step(Protocol):
    """One step of a view, from its parent: a view op with its arguments and its inverse."""

    def get(self, parent: Value) -> Value:
        """The view's contents."""

    def put(self, parent: Value, new: Value) -> Value:
        """The parent's contents with the view's replaced by `new`."""

    def take(self, parent: Any) -> Any:
        """`get` for tensors, recorded."""

    def scatter(self, parent: Any, new: Any) -> Any:
        """`put` for tensors, recorded."""

    def pull(self, g: Any) -> Any:
        """The parent's gradient from the view's."""

    def layout(self, array: np.ndarray) -> np.ndarray:
        """The same view of a NumPy array: tells strides."""


class View:
    """What makes a tensor a view.

    `steps` lead from the storage to the tensor. `base` is the tensor it is a differentiable view of, or None after
    `detach()`; the last `len(steps) - depth` steps lead from it. `value` are the contents as of `generation` of the
    storage; `seen` is the version for which the tensor's grad_fn holds.
    """

    __slots__ = ("base", "creation", "depth", "generation", "seen", "steps", "value")

    def __init__(
        self, steps: tuple[Step, ...], value: Value, generation: int, base: Any, depth: int, seen: int
    ):
        self.steps = steps
        self.value = value
        self.generation = generation
        self.base = base
        self.depth = depth
        self.seen = seen
        self.creation: str | None = (
            None  # "no_grad", or the op that gave several views at once: why not to write here
        )

    def refresh(self, storage: Storage) -> Value:
        """The contents now."""
        if self.generation != storage.generation:
            value = storage.value
            for step in self.steps:
                value = step.get(value)
            self.value = value
            self.generation = storage.generation
        return self.value

    def write(self, storage: Storage, new: Value) -> None:
        """Replace the contents, in the storage too."""
        parents = [storage.value]
        for step in self.steps[:-1]:
            parents.append(step.get(parents[-1]))
        self.value = new
        for step, parent in zip(reversed(self.steps), reversed(parents), strict=True):
            new = step.put(parent, new)
        storage.replace(new)
        self.generation = storage.generation

    def array_like(self, shape: tuple[int, ...]) -> np.ndarray:
        """A NumPy view of no memory, with the strides that a real array of this view would have, in bytes of one."""
        dummy = contiguous(shape)
        for step in self.steps:
            dummy = step.layout(dummy)
        return dummy


def contiguous(shape: tuple[int, ...]) -> np.ndarray:
    """An array of this shape with C order strides on one byte of memory: only its strides may be used."""
    strides, n = [], 1
    for size in reversed(shape):
        strides.append(n)
        n *= max(size, 1)
    return np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), shape, tuple(reversed(strides)))
