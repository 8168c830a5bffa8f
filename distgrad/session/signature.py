"""What is worked out once for each distinct node, and where in the user's program a node came from."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from distgrad.graph import Origin, Result
from distgrad.primitives import Aval, Layout, Primitive
from distgrad.primitives.rules import layout

KEPT = 100_000  # nodes; one whose cuts are lists of points counts for more


class Signature(NamedTuple):
    """What follows from a primitive, its attributes and its operands' types and cuts."""

    primitive: Primitive
    outs: tuple[Aval, ...]
    layout: Layout
    number: int


_known: dict[Any, Signature] = {}
_numbers = itertools.count()
_weight = 0
current_op = threading.local()  # its attribute `name` is the op that is running


def signature(
    primitive: Primitive, results: Sequence[Result], attrs: dict[str, Any], shard_bytes: int
) -> Signature:
    """Shapes, layout and number of a node; equal nodes get the same number."""
    global _weight
    key = (primitive.name, tuple(attrs.items()), tuple((r.aval, r.sharding) for r in results), shard_bytes)
    found = _known.get(key)
    if found is None:
        avals = [r.aval for r in results]
        outs = tuple(primitive.shape(avals, attrs))
        made = layout(primitive, avals, outs, [r.sharding for r in results], attrs, shard_bytes)
        points = sum(len(cut.points or ()) for s in (*made.needs, *made.outs) for cut in s.cuts)
        _weight += 1 + points // 8
        if _weight > KEPT:
            _known.clear()
            _weight = 0
        found = _known[key] = Signature(primitive, outs, made, next(_numbers))
    return found


def origin() -> Origin | None:
    """The innermost frame that is not distgrad's own."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "distgrad":
        frame = frame.f_back
    if frame is None:
        return None
    return Origin(getattr(current_op, "name", "?"), frame.f_code.co_filename, frame.f_lineno)
