"""What is worked out once for each distinct node."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from distgrad.caching import Cache
from distgrad.callsites import CallSite, call_site
from distgrad.errors import OutOfMemoryError
from distgrad.graph import Spec, spec
from distgrad.primitives import Aval, Layout, Primitive
from distgrad.primitives.rules import layout
from distgrad.wire import SHARDS

FLOPS = 4  # operations in the time in which a byte is read, about
KEPT = 32 << 20  # bytes of what is known of distinct nodes


class Signature(NamedTuple):
    """What follows from a primitive, its attributes and its operands' types and cuts."""

    outs: tuple[Spec, ...]
    layout: Layout
    number: int
    weight: float  # bytes that are read and written, or as many as take the time of its arithmetic

    @property
    def nbytes(self) -> int:
        """Bytes of all that, about."""
        points = sum(len(cut.points or ()) for s in (*self.layout.needs, *self.layout.outs) for cut in s.cuts)
        return 800 + 80 * points  # shardings without points are few, and shared


_known: Cache[Any, Signature] = Cache(KEPT, lambda key, made: made.nbytes + 100 * len(key), shared=True)
_numbers = itertools.count()


class _CurrentOp(threading.local):
    name = ""  # of the op that is running; none between ops
    caller: tuple[Any, int] | None = None  # code and instruction that all ops come from, during backward


current_op = _CurrentOp()


class called:
    """A block, or a function, whose nodes are the work of the op `name`: errors and profiles name it.

    What ops themselves do for each call is the same without this object, which costs 0.5 us.
    """

    __slots__ = ("before", "name")

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        self.before, current_op.name = current_op.name, self.name

    def __exit__(self, *exc: object) -> None:
        current_op.name = self.before


def here(primitive: Primitive) -> CallSite:
    """The op that is running, or else the primitive, and where the user called it.

    For `Session.record` and its like, which `dispatch` calls: four frames below the one that may be the user's.
    """
    name, caller = current_op.name or primitive.name, current_op.caller
    return call_site(name, 4) if caller is None else (name, *caller)


def signature(
    primitive: Primitive, specs: Sequence[Spec], attrs: dict[str, Any], shard_bytes: int
) -> Signature:
    """Shapes, layout and number of a node; equal nodes get the same number."""
    key = (primitive, shard_bytes, *specs, *attrs.items())
    found = _known.get(key) or _known.again(key)
    if found is None:
        avals = [s.aval for s in specs]
        outs = tuple(primitive.shape(avals, attrs))
        _check_sizes(outs)
        made = layout(primitive, avals, outs, [s.sharding for s in specs], attrs, shard_bytes)
        _check_shards(made, outs)
        touched = sum(aval.nbytes for aval in (*avals, *outs))
        work = max(touched, primitive.operations(avals, outs, attrs) / FLOPS)
        weight = 0.0 if "view" in primitive.traits else work
        specs = tuple(spec(aval, s) for aval, s in zip(outs, made.outs, strict=True))
        found = _known.keep(key, Signature(specs, made, next(_numbers), weight))
    return found


def _check_sizes(outs: Sequence[Aval]) -> None:
    """Refuse what no machine can count, in torch's words."""
    for out in outs:
        if out.nbytes >= 1 << 63:
            raise RuntimeError(f"Storage size calculation overflowed with sizes={list(out.shape)}")


def _check_shards(made: Layout, outs: Sequence[Aval]) -> None:
    """Refuse what would take more shards than programs can tell of; with shards of the usual size that is 64 TiB."""
    for out, sharding in zip(outs, made.outs, strict=True):
        if sharding.count > SHARDS:
            raise OutOfMemoryError(
                f"a tensor of shape {list(out.shape)} takes {out.nbytes:,} bytes, which would be {sharding.count:,} "
                f"shards: there can be {SHARDS:,}. Use a smaller one, or larger shards: init(shard_bytes=...)"
            )
