"""What crosses between workers. Each kind of exchange knows what it sends, what it makes of that, and what it costs.

`reduce` merges partial results in one fixed tree, `reshard` moves shards to other cuts; `routing` tells who sends to
whom. Nothing is said of it on the wire: both sides work it out. The driver uses the same when it reads a value.
"""

from __future__ import annotations

from typing import Any

from distgrad.exchange.base import Failure, Reading, held, inside, senders
from distgrad.exchange.joined import Joined
from distgrad.exchange.reduce import Reduce, ReduceScatter, reduce_of, scattered
from distgrad.exchange.reshard import Reshard
from distgrad.exchange.tree import Tree
from distgrad.fields import check, read_list, show
from distgrad.program import Exchange

__all__ = [
    "KINDS",
    "Failure",
    "Joined",
    "Reading",
    "Reduce",
    "ReduceScatter",
    "Reshard",
    "Tree",
    "held",
    "inside",
    "read_exchange",
    "reduce_of",
    "scattered",
    "senders",
]

KINDS: dict[str, type[Exchange]] = {kind.kind: kind for kind in (Reduce, ReduceScatter, Reshard)}


def read_exchange(raw: Any, at: Reading) -> Exchange:
    """What `Exchange.wire` wrote, checked. Raises WireError."""
    name, *fields = read_list(raw, at.what) or [None]
    check(type(name) is str and name in KINDS, f"{at.what}: {show(name)} is none of {', '.join(KINDS)}")
    return KINDS[name].read(fields, at)
