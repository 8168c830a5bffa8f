"""Values and nodes: what has been asked for, whether it has been computed or not.

Upper floors hold a `Value`. Inside the graph stands its `Result`, which nodes refer to; the `Result` knows its `Value`
only weakly. So a result whose `Value` is gone and that no pending node reads is not needed by anybody, and a
planner can tell by looking.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import numpy as np

from distgrad.primitives.base import Aval, Layout, Primitive
from distgrad.sharding import Sharding


class Origin(NamedTuple):
    """Where an op was called: its name and the user's file and line."""

    op: str
    file: str
    line: int

    def __str__(self) -> str:
        return f'{self.op}, called at File "{self.file}", line {self.line}'


class Node:
    """One primitive applied to results, with its layout and the place in the user's program that asked for it."""

    __slots__ = ("attrs", "inputs", "key", "layout", "origin", "outputs", "primitive")

    def __init__(
        self,
        primitive: Primitive,
        inputs: tuple[Result, ...],
        attrs: dict[str, Any],
        layout: Layout,
        origin: Origin | None,
        key: Any,
    ):
        self.primitive = primitive
        self.inputs = inputs
        self.attrs = attrs
        self.layout = layout
        self.origin = origin
        self.key = key  # equal keys: same primitive, attributes, shapes, dtypes and shardings
        self.outputs: tuple[Result, ...] = ()


class Result:
    """One result of a node. It is in one of these states:

    - known: `array` holds it, in the driver;
    - pending: a node that was not run yet makes it;
    - stored: the workers hold its shards under `id` (all of it on each worker, where the sharding is one shard);
      `copies` are ids of the same elements cut otherwise, kept because they were asked for once;
    - boxed: the partial results are in `box`, and whoever needs the sum merges them;
    - failed: `error` says why.

    A stored result may be known as well, once it was fetched.
    """

    __slots__ = ("array", "aval", "box", "copies", "error", "handle", "id", "release", "sharding")

    def __init__(self, aval: Aval, sharding: Sharding):
        self.aval = aval
        self.sharding = sharding
        self.array: np.ndarray | None = None
        self.id: int | None = None
        self.copies: dict[Sharding, int] = {}
        self.box: Any = None
        self.error: Any = None
        self.handle: weakref.ref[Value] | None = None
        self.release: Any = None  # called with the id when the last reference is gone

    @property
    def pending(self) -> bool:
        """Whether it is still to be computed."""
        return self.array is None and self.id is None and self.box is None and self.error is None

    @property
    def wanted(self) -> bool:
        """Whether anybody but the pending nodes holds it."""
        return self.handle is not None and self.handle() is not None

    def __del__(self) -> None:
        if self.release is not None:
            for number in (self.id, *self.copies.values()):
                if number is not None:
                    self.release(number)


class Value:
    """An immutable array that is known, pending or on the workers. Holding it keeps its bytes alive."""

    __slots__ = ("__weakref__", "result")

    def __init__(self, result: Result):
        self.result = result
        result.handle = weakref.ref(self)

    @staticmethod
    def known(array: np.ndarray) -> Value:
        """A value that the driver has at hand. The array must not be changed after this."""
        result = Result(Aval(array.shape, array.dtype), Sharding.whole(array.shape))
        result.array = array
        return Value(result)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        return self.result.aval.shape

    @property
    def dtype(self) -> np.dtype:
        """NumPy's dtype of the elements."""
        return self.result.aval.dtype

    @property
    def sharding(self) -> Sharding:
        """How it is cut."""
        return self.result.sharding

    @property
    def array(self) -> np.ndarray | None:
        """The elements, where the driver has them at hand; else None."""
        return self.result.array
