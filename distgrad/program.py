"""What a stage does: slots for values, steps in loops in fragments, and what arrives, leaves and is kept.

A `Program` is the same for all workers; which shards a worker runs follows from its number. `wire` makes bytes of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from distgrad.errors import WireError
from distgrad.primitives import Aval, Labels, Layout, Primitive
from distgrad.sharding import Cut, Sharding

CHANNELS = ("small", "large", "each")
FAR = 1 << 20  # shards of what moves, as they are in a program that makes or reads more than this one


@dataclass(frozen=True)
class Slot:
    """A value inside a program: its dtype and how it is cut (for partial results: how their sum is cut)."""

    dtype: np.dtype
    sharding: Sharding

    @cached_property
    def aval(self) -> Aval:
        """Shape and dtype."""
        return Aval(self.sharding.shape, self.dtype)


@dataclass(frozen=True)
class Step:
    """One node. `tile` is the label along which its loop runs in tiles; None for whole shards."""

    primitive: Primitive
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    attrs: dict[str, Any]
    layout: Layout
    tile: int | None = None

    @cached_property
    def labels(self) -> Labels | None:
        """Those of the layout; of a regrouping that runs in tiles, the numbers of the dimensions."""
        if self.layout.labels is not None or self.tile is None:
            return self.layout.labels
        dims = tuple(range(len(self.layout.outs[0].cuts)))
        return Labels((dims,) * len(self.ins), (dims,) * len(self.outs))

    def window(self, names: tuple[int | None, ...], sharding: Sharding) -> Cut | None:
        """How an operand or result is cut along the tile label; None if it has no such dimension."""
        if self.tile is None or self.tile not in names:
            return None
        if self.layout.labels is None:
            return sharding.cuts[self.tile]
        return dict(self.layout.grid).get(self.tile) or Cut(sharding.shape[names.index(self.tile)])

    def windows(self) -> Iterator[Cut]:
        """How operands and results are cut along the tile label, those that have such a dimension."""
        labels, layout = self.labels, self.layout
        if labels is not None and self.tile is not None:
            for names, s in zip((*labels.ins, *labels.outs), (*layout.needs, *layout.outs), strict=True):
                cut = self.window(names, s)
                if cut is not None:
                    yield cut


@dataclass(frozen=True)
class Loop:
    """Steps that run tile by tile, `rows` long each; 0: once, on the whole shard."""

    rows: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Fragment:
    """Loops that run shard by shard, on `count` shards."""

    count: int
    loops: tuple[Loop, ...]


class Exchange(ABC):
    """How a value goes from the workers that have it, or parts of it, to those who need it. The kinds: `exchange/`.

    Both sides work out from it alone what is sent. `workers, worker` tell who asks, `slot` what arrives or leaves.
    """

    kind: ClassVar[str]  # its name on the wire

    @property
    @abstractmethod
    def parts(self) -> int:
        """The shards, or partial results, that workers own before."""

    @property
    @abstractmethod
    def count(self) -> int:
        """The shards that arrive."""

    @abstractmethod
    def reach(self, mine: range) -> tuple[range, int]:
        """Of what arrives all that the parts `mine` may go to, and of how many."""

    @abstractmethod
    def send(self, value: Any, workers: int, worker: int, to: range) -> Iterator[np.ndarray]:
        """What `worker` sends of a value for the shards `to`."""

    @abstractmethod
    def receive(
        self,
        items: Sequence[Sequence[np.ndarray]],
        workers: int,
        shards: range,
        slot: Slot,
        take: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty,
        along: int | None = None,
    ) -> list[Any]:
        """The `shards` from what each worker sent; along `along` they stay in pieces. Raises WireError for others."""

    def joined_along(self, kept: bool, along: int | None) -> int | None:
        """The dimension along which what arrives may stay in the pieces in which it came; None: it is put together."""
        return None

    @abstractmethod
    def moved(self, slot: Slot, workers: int, channel: str) -> int:
        """Bytes that leave for other workers, of all."""

    @abstractmethod
    def recv_bytes(self, slot: Slot, workers: int, worker: int, channel: str, in_tiles: bool) -> int:
        """Bytes that come to a worker from others, and of what is made of them unless that is read `in_tiles`."""

    @abstractmethod
    def send_bytes(
        self, slot: Slot, workers: int, worker: int, channel: str, kept: bool
    ) -> tuple[int, int, int]:
        """Bytes that are copied to be sent, those of them that a worker sends itself, and what else it keeps for that.

        `kept`: the value stays there anyway.
        """

    @abstractmethod
    def title(self) -> str:
        """What is said of it before what it makes."""

    @abstractmethod
    def wire(self) -> list[Any]:
        """As msgpack carries it."""

    @classmethod
    @abstractmethod
    def read(cls, fields: list[Any], at: Any) -> Exchange:
        """What `wire` wrote, but for the name, checked against what is known `at` that place. Raises WireError."""

    @staticmethod
    def nothing_left(sent: Iterator[Any], worker: int) -> None:
        """Raise WireError if a worker sent more than is asked for."""
        if next(sent, None) is not None:
            raise WireError(f"worker {worker} sent more arrays than were asked for")


@dataclass(frozen=True)
class Recv:
    """A slot that is filled from box `box` of the call: item `position` of the channel."""

    slot: int
    what: Exchange
    box: int
    channel: str
    position: int


@dataclass(frozen=True)
class Send:
    """A slot whose pieces leave in the box of this call."""

    slot: int
    what: Exchange
    channel: str


@dataclass(frozen=True)
class Program:
    """A stage. `inputs` are bound to stored values, `feeds` to arrays in the call, `keep` to ids to store under."""

    slots: tuple[Slot, ...]
    inputs: tuple[int, ...]
    feeds: tuple[int, ...]
    recvs: tuple[Recv, ...]
    fragments: tuple[Fragment, ...]
    sends: tuple[Send, ...]
    keep: tuple[int, ...]
    boxes: tuple[tuple[str, ...], ...]  # for each box that comes with the call, its channels

    def steps(self) -> Iterator[tuple[Fragment, Loop, Step]]:
        """All steps, in order, with what they stand in."""
        for fragment in self.fragments:
            for loop in fragment.loops:
                for step in loop.steps:
                    yield fragment, loop, step

    def channels(self) -> tuple[str, ...]:
        """The channels that this program's own box uses, in the order of `CHANNELS`."""
        used = {d.channel for d in self.sends}
        return tuple(c for c in CHANNELS if c in used)
