"""Storage: the mutable cell that tensors share, its version counter, and how a view finds its contents in it.

Values never change. An in-place op computes a new value and puts it in the storage; every tensor on the storage
then sees it. A view has a path that leads from the storage's contents to its own.
"""

from __future__ import annotations

from typing import Any

from distgrad import session
from distgrad.graph import Value
from distgrad.strided import Strided


class Version:
    """Counts the in-place changes of a storage. `.data` gives a tensor a counter of its own, as in torch."""

    __slots__ = ("changed", "number")

    def __init__(self) -> None:
        self.number = 0
        self.changed: Any = None  # the op and place of the last change: (name, code, instruction)

    def to_save(self) -> int:
        """The number, for a tensor that is saved for backward."""
        return self.number


class Untracked(Version):
    """In place of a version for tensors that were made in inference mode, and their views."""

    __slots__ = ()

    def to_save(self) -> int:
        """torch's error."""
        raise RuntimeError(
            "Inference tensors cannot be saved for backward. Please do not use Tensors created in inference mode in "
            "computation tracked by autograd. To work around this, you can make a clone to get a normal tensor and "
            "use it in autograd, or use `torch.no_grad()` instead of `torch.inference_mode()`."
        )


class Storage:
    """The current value of one or more tensors; `generation` counts its replacements."""

    __slots__ = ("__weakref__", "generation", "value")

    def __init__(self, value: Value):
        self.value = value
        self.generation = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Storage:
        """One for all tensors on it that are copied together. Values never change, so it costs nothing."""
        copy = Storage(self.value)
        copy.generation = self.generation
        return copy

    def replace(self, value: Value) -> None:
        """Put a new value in. Views find it at their next use."""
        self.value = value
        self.generation += 1


class View:
    """What makes a tensor a view.

    `chain` (see `ops/moves.py`) tells how it is found in the storage, and its strides. `base` is the tensor it is a
    differentiable view of, or None after `detach()`. `value` are the contents as of `generation` of the storage;
    `seen` is the version for which the tensor's grad_fn holds.
    """

    __slots__ = ("base", "chain", "creation", "generation", "seen", "value")

    def __init__(self, chain: Any, value: Value, generation: int, base: Any, seen: int):
        self.chain = chain
        self.value = value
        self.generation = generation
        self.base = base
        self.seen = seen
        self.creation: str | None = (
            None  # why not to write here: "no_grad", "inference", "function" (a user's), or an op that gives several
        )

    @property
    def layout(self) -> Strided:
        """Where the elements lie in the storage."""
        return self.chain.found.layout

    @property
    def route(self) -> Any:
        """How the view is found in its base."""
        before = self.base._view
        return self.chain.route(None if before is None else before.chain)

    def alone(self) -> View:
        """The same place in a storage, without a base that it would be a differentiable view of."""
        return type(self)(self.chain, self.value, self.generation, None, 0)

    def refresh(self, storage: Storage) -> Value:
        """The contents now."""
        if self.generation != storage.generation:
            self.value = self.chain.found.path.get(storage.value)
            self.generation = storage.generation
        return self.value

    def write(self, storage: Storage, new: Value) -> None:
        """Replace the contents, in the storage too, which keeps its sharding."""
        old = storage.value
        made = self.chain.found.path.put(old, new)
        if made.sharding is not old.sharding and made.sharding != old.sharding:
            made = session.emit("reshard", made, cuts=old.sharding)
        storage.replace(made)
        self.value = new
        self.generation = storage.generation
