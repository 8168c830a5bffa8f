"""Values and nodes: what has been asked for, whether it has been computed or not.

Upper floors hold a `Value`. Inside the graph stands its `Result`, which nodes refer to; the `Result` knows its `Value`
only weakly. So a result whose `Value` is gone and that no pending node reads is not needed by anybody, and a
planner can tell by looking.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from distgrad import checks
from distgrad.caching import remembered
from distgrad.callsites import CallSite, Origin, origin
from distgrad.primitives.base import Aval, Layout, Primitive
from distgrad.sharding import Sharding
from distgrad.states import FAILED, KNOWN, PENDING, STORED, UNMADE, State, check_contents, check_step

NO_COPIES: Mapping[Sharding, int] = {}


class Spec:
    """What is known of a value before it is computed: shape, dtype and cuts.

    `spec` gives the same object for the same ones, so that to hash or compare them costs nothing.
    """

    __slots__ = ("aval", "dtype", "nbytes", "shape", "sharding")

    def __init__(self, aval: Aval, sharding: Sharding):
        self.aval = aval
        self.shape, self.dtype = aval
        self.sharding = sharding
        self.nbytes = aval.nbytes


@remembered(8 << 20, lambda _, made: 500 + 60 * len(made.aval.shape))
def spec(aval: Aval, sharding: Sharding) -> Spec:
    """The spec of values with this shape and dtype that are cut so."""
    return Spec(aval, sharding)


@remembered(4 << 20, lambda shape, _: 400)
def whole(shape: tuple[int, ...], dtype: np.dtype) -> Spec:
    """The spec of values that are not cut."""
    return spec(Aval(shape, dtype), Sharding.whole(shape))


class Node:
    """One primitive applied to results, with its layout and the place in the user's program that asked for it."""

    __slots__ = ("attrs", "inputs", "key", "layout", "outputs", "primitive", "where")

    def __init__(
        self,
        primitive: Primitive,
        inputs: tuple[Result, ...],
        attrs: dict[str, Any],
        layout: Layout,
        where: CallSite,
        key: Any,
        outputs: tuple[Result, ...],
    ):
        self.primitive = primitive
        self.inputs = inputs
        self.attrs = attrs
        self.layout = layout
        self.where = where
        self.key = key  # equal keys: same primitive, attributes, shapes, dtypes and shardings
        self.outputs = outputs

    @property
    def origin(self) -> Origin:
        """File and line of the user's call."""
        return origin(self.where)


class Lazy(Protocol):
    """How a lazy value is made, once somebody works with it: a call of a primitive that has not been made."""

    @property
    def primitive(self) -> Primitive:
        """What makes it."""

    @property
    def where(self) -> CallSite:
        """Where it was asked for."""

    @property
    def base(self) -> Value | None:
        """The operand that may be lazy in its turn; of the others none is that waits for writes."""

    @property
    def near(self) -> bool:
        """Whether all that it is made of is in the driver."""

    def call(self) -> tuple[tuple[Value, ...], dict[str, Any]]:
        """Operands and attributes."""


class LazyConstant(NamedTuple):
    """A large value that is made of small known ones: filled, counted, or drawn at random."""

    primitive: Primitive
    inputs: tuple[Value, ...]
    attrs: dict[str, Any]
    where: CallSite
    base: None = None
    near: bool = True

    def call(self) -> tuple[tuple[Value, ...], dict[str, Any]]:
        """Operands and attributes."""
        return self.inputs, self.attrs


class Colocation:
    """A group of known arrays that were computed with one another; `remote` once one of them had to go to the workers.

    Then the others do too, with what is made of them: they would go at each step, one by one.
    """

    __slots__ = ("_joined", "remote")

    def __init__(self) -> None:
        self.remote = False
        self._joined: Colocation | None = None

    def root(self) -> Colocation:
        """The group that this one has become part of."""
        found = self
        while found._joined is not None:
            found = found._joined
        if found is not self:
            self._joined = found  # so that the way does not grow
        return found

    def join(self, other: Colocation) -> Colocation:
        """The group of both."""
        mine, other = self.root(), other.root()
        if mine is not other:
            other._joined = mine
            mine.remote = mine.remote or other.remote
        return mine


def nobody() -> None:
    """In place of a weak reference to a value: none is taken until a node reads or makes it."""


class Result:
    """One result of a node. Its `state` says where its elements are (`states.py`), and which of these hold something:

    - `array`: the elements, in the driver. Of what is known; of what is stored, once it was fetched; of what is
      lazy, once it was looked at.
    - `lazy`: what makes it. Of what is lazy.
    - `driver`: the driver's own work that makes it once it is `run` (`session/driver.py`). Of what is pending there.
    - `id`, `copies`: what the workers have its shards under (all of it on each, where the sharding is one shard), and
      the same elements cut otherwise, kept because they were asked for once; `ref` holds these. Of what is stored.
    - `box`: where the partial results are. Of what is boxed; of what is stored, if the driver was told it.
    - `remat`: how it is made again. Of what is dropped; of what is stored, if it could be given up.
    - `error`: why there is nothing. Of what failed.

    `colocation` is that of a known array which is too large to travel inside a call, once it was worked with; `anchor`
    tells whether another result can be made again from this one. Only the methods below change the state.
    """

    __slots__ = (
        "__weakref__",
        "anchor",
        "array",
        "box",
        "colocation",
        "copies",
        "driver",
        "error",
        "handle",
        "id",
        "lazy",
        "ref",
        "remat",
        "spec",
        "state",
    )

    def __init__(self, spec: Spec, array: np.ndarray | None = None):
        self.spec = spec
        self.state = PENDING if array is None else KNOWN
        self.array = array
        self.anchor = False
        self.colocation: Colocation | None = None
        self.lazy: Lazy | None = None
        self.driver: Any = None
        self.id: int | None = None
        self.copies = NO_COPIES
        self.box: Any = None
        self.error: Any = None
        self.remat: Remat | None = None
        self.handle: Callable[[], Value | None] = nobody  # gives whoever holds it, beside pending nodes
        self.ref: RemoteRef | None = None

    @property
    def aval(self) -> Aval:
        """Shape and dtype."""
        return self.spec.aval

    @property
    def sharding(self) -> Sharding:
        """How it is cut."""
        return self.spec.sharding

    @property
    def lost(self) -> bool:
        """Whether nothing but workers could give it, or could have."""
        return self.array is None and self.driver is None and (self.lazy is None or not self.lazy.near)

    @property
    def pending(self) -> bool:
        """Whether its elements are still to be computed."""
        return self.state in UNMADE and self.array is None

    @property
    def awaited(self) -> bool:
        """Whether it is still to be computed, and somebody holds it."""
        return self.pending and self.handle() is not None

    def id_of(self, cuts: Sharding) -> int:
        """What the workers have it under, cut so."""
        found = self.id if cuts is self.spec.sharding or cuts == self.spec.sharding else self.copies[cuts]
        assert found is not None
        return found

    def colocate_with_workers(self) -> None:
        """The workers have it or get it, and with it what it is worked with."""
        self.colocation = self.colocation or Colocation()
        self.colocation.root().remote = True

    # From state to state

    def _to(self, state: State) -> None:
        if self.state is FAILED:  # and stays so, whatever a node that is still pending makes
            return
        if checks.ENABLED:
            check_step(self.state, state)
            check_contents(state, self)
        self.state = state

    def becomes_lazy(self, lazy: Lazy) -> None:
        """It is made once somebody works with it."""
        self.lazy = lazy
        self._to(State.LAZY)

    def becomes_known(self, array: np.ndarray) -> None:
        """The driver has its elements, and where workers store them, they do too.

        A lazy constant stays lazy: for workers to make it again costs no more than to send it.
        """
        self.array, self.box, self.driver = array, None, None
        if self.lazy is not None and self.lazy.base is not None:
            self.lazy = None
        if self.state is not State.STORED and self.lazy is None:
            self._to(State.KNOWN)

    def becomes_pending(self, spec: Spec | None = None) -> None:
        """A node that makes it is in the pending graph; `spec` if it is cut otherwise than while it was lazy."""
        self.spec = spec or self.spec
        self.lazy = self.remat = self.array = None
        self._to(State.PENDING)

    def becomes_stored(self, number: int, ref: RemoteRef, spec: Spec | None = None) -> None:
        """The workers hold it under a number; `spec` if they have it cut otherwise. The driver lets go of it."""
        self.spec = spec or self.spec
        self.id, self.box, self.array, self.ref = number, None, None, ref
        self._to(STORED)

    def becomes_boxed(self, box: Any, ref: RemoteRef) -> None:
        """Whoever needs it finds it, or the parts of it, in a box."""
        self.box = box
        if self.state is not State.STORED:
            self.ref = ref
            self._to(State.BOXED)

    def keep_copies(self, copies: Mapping[Sharding, int]) -> None:
        """The workers hold these, cut otherwise, with what is stored."""
        self.copies = copies
        if self.ref is not None:
            self.ref.ids = [number for number in (self.id, *copies.values()) if number is not None]

    def note_remat(self, remat: Remat) -> None:
        """It can be made again: if it is not stored, that is all there is."""
        self._takes(remat)
        if self.state is not State.STORED:
            self._to(State.DROPPED)

    def becomes_dropped(self, remat: Remat) -> None:
        """The workers free it, since it can be made again."""
        self._leave_workers()
        self._takes(remat)
        self._to(State.DROPPED)

    def _takes(self, remat: Remat) -> None:
        self.remat = remat
        for result in remat.anchors:
            result.anchor = True

    def becomes_donated(self) -> None:
        """A call was sent that may write over it: to be freed there are only the copies."""
        if self.ref is not None:
            self.ref.ids.remove(self.id)  # type: ignore[arg-type]

    def becomes_local(self) -> None:
        """The workers that held it are gone; the driver has it."""
        self._leave_workers()
        self._to(State.KNOWN)

    def _leave_workers(self) -> None:
        self.id = self.box = self.ref = None
        self.copies = NO_COPIES

    def becomes_failed(self, error: Exception) -> None:
        """There will be no elements."""
        self.error = error
        self._to(State.FAILED)


Pins = tuple[tuple[str, int], ...]  # of a node's primitives: the rows of the tiles in which each ran


class Remat(NamedTuple):
    """How to make a result again: the past node that makes it, and what those up to it are made of.

    Without anchors it can be made only as long as others hold all that.
    """

    past: Any
    anchors: tuple[Result, ...] = ()
    rank: Any = ()  # the smallest costs least for a byte
    output: int = 0  # which of its results


class RemoteRef:
    """What the workers of a session hold for a result under `ids`: when this goes, `session.release` is told."""

    __slots__ = ("ids", "session")

    def __init__(self, session: Any, ids: list[int]):
        self.session = session
        self.ids = ids

    def __del__(self) -> None:
        for number in self.ids:
            self.session.release(number)


class Value:
    """An immutable array that is known, pending or on the workers. Holding it keeps its bytes alive."""

    __slots__ = ("__weakref__", "result")

    def __init__(self, result: Result):
        self.result = result

    def watched(self) -> Value:
        """The value itself; from now on its result knows whether it is still held."""
        self.result.handle = weakref.ref(self)
        return self

    @staticmethod
    def known(array: np.ndarray) -> Value:
        """A value that the driver has at hand. The array must not be changed after this."""
        return Value(Result(whole(array.shape, array.dtype), array))

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        return self.result.spec.shape

    @property
    def dtype(self) -> np.dtype:
        """NumPy's dtype of the elements."""
        return self.result.spec.dtype

    @property
    def sharding(self) -> Sharding:
        """How it is cut."""
        return self.result.spec.sharding

    @property
    def array(self) -> np.ndarray | None:
        """The elements, where the driver has them at hand, or makes them of what it has; else None."""
        result = self.result
        work = result.driver
        if work is not None:
            work.run()
        return result.array
