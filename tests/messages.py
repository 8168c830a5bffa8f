"""Programs and calls written by hand, as msgpack carries them, so that anything may be wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np

from distgrad.fields import pack_array
from distgrad.wire import VERSION
from distgrad.worker.worker import Worker

Raw = Any  # lists, maps, numbers and strings


def slot(dtype: str, *shape: int, cuts: dict[int, list[int]] | None = None) -> Raw:
    """A slot; `cuts` gives the cut of a dimension as it is written on the wire."""
    return [dtype, [(cuts or {}).get(d, [n, 0]) for d, n in enumerate(shape)]]


def step(
    name: str, ins: Sequence[int], outs: Sequence[int], attrs: dict[str, Any], shards: int = 1, **more: Any
) -> Raw:
    return [name, list(ins), list(outs), attrs, shards, more.get("grid", []), more.get("tile")]


def program(slots: Sequence[Raw], steps: Sequence[Raw] = (), rows: int = 0, **fields: Any) -> dict[str, Any]:
    """One fragment with one loop of these steps; `fields` are those of the program."""
    fragments = [[steps[0][4], [[rows, list(steps)]]]] if steps else []
    empty: dict[str, Any] = {key: [] for key in ("inputs", "feeds", "recvs", "sends", "keep", "boxes")}
    return {"v": VERSION, "slots": list(slots), "fragments": fragments, **empty, **fields}


def header(**fields: Any) -> bytes:
    empty: dict[str, Any] = {key: [] for key in ("inputs", "keep", "feeds", "free", "donate", "stash")}
    return msgpack.packb({"serial": 1, "epoch": 0, "workers": 1, **empty, "profile": False, **fields})


def load_header(number: int, cuts: Raw, first: int = 0, last: int = 1) -> bytes:
    return msgpack.packb({"id": number, "cuts": cuts, "first": first, "last": last})


class Answer(NamedTuple):
    """What a call gave: the failures, as (kind, message), and the pieces that are stored of each result."""

    failures: list[tuple[str, str]]
    results: list[list[np.ndarray] | None]


def call(
    name: str, arrays: Sequence[np.ndarray], attrs: dict[str, Any], *outs: Raw, worker: Worker | None = None
) -> Answer:
    """One step on whole arrays, whose results are kept. Raises WireError where the program is refused."""
    worker = worker or Worker(0)
    ins = list(range(len(arrays)))
    made = list(range(len(arrays), len(arrays) + len(outs)))
    slots = [slot(a.dtype.name, *a.shape) for a in arrays] + list(outs)
    raw = program(slots, [step(name, ins, made, attrs)], feeds=ins, keep=made)
    head = header(feeds=[pack_array(a) for a in arrays], keep=[100 + i for i in made])
    (reply,) = worker.run(head, msgpack.packb(raw))
    failures = [(kind, message) for kind, message, *_ in msgpack.unpackb(reply)["failures"]]
    stored = [worker.store[100 + i] for i in made]
    return Answer(failures, [pieces if isinstance(pieces, list) else None for pieces in stored])


def works(worker: Worker) -> bool:
    """Whether a worker still gives the right answer to a good program."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    answer = call("multiply", [x, x], {}, slot("float32", 2, 3), worker=worker)
    (made,) = answer.results
    worker.free([102])
    return made is not None and made[0].tolist() == (x * x).tolist()
