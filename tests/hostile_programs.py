"""Programs that are well formed and not meant well, each from a number: real ones that were changed, and new ones.

`Hostile.make` gives a program and the number of workers; what it is given to work on is made in `hostile_calls.py`.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np
import primitive_cases  # noqa: F401 - enters all cases
from cases import CASES
from messages import program
from regrouping_cases import REGROUPINGS

from distgrad.exchange import reduce_of
from distgrad.primitives import TABLE, Aval, Layout
from distgrad.primitives.base import DTYPES
from distgrad.primitives.rules import layout
from distgrad.program import Step
from distgrad.sharding import Cut, Sharding
from distgrad.wire import _step, _tile_labels

Rng = np.random.Generator
LARGE = (64, 1000, 1 << 16, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 40, 1 << 62, (1 << 63) - 1)


class Sample(NamedTuple):
    """Operands and attributes that a primitive takes."""

    name: str
    avals: tuple[Aval, ...]
    attrs: Callable[[Sequence[Sharding]], dict[str, Any]]


def _samples() -> list[Sample]:
    found = [
        Sample(name, tuple(Aval(a.shape, a.dtype) for a in c.arrays), lambda s, c=c: dict(c.attrs))
        for name, cases in CASES.items()
        for c in cases
    ]
    return found + [
        Sample(r.name, tuple(Aval(a.shape, a.dtype) for a in r.arrays), r.attrs) for r in REGROUPINGS
    ]


SAMPLES: dict[str, list[Sample]] = {}
for _sample in _samples():
    SAMPLES.setdefault(_sample.name, []).append(_sample)
NAMES = sorted(SAMPLES)


def pick(rng: Rng, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def cuts(rng: Rng, shape: tuple[int, ...]) -> Sharding:
    """Some way to cut a shape; most are cut along one dimension, or not at all."""
    made = [Cut(n) for n in shape]
    for d in [d for d in range(len(shape)) if rng.random() < 0.4] if rng.random() < 0.7 else []:
        n = shape[d]
        how = rng.integers(4)
        if how == 0:
            made[d] = Cut.even(n, int(rng.integers(1, n + 2)))
        elif how == 1:
            made[d] = Cut.at(n, [0, *sorted(int(i) for i in rng.integers(0, n + 1, rng.integers(4))), n])
        elif how == 2:
            made[d] = Cut.even(n + 3, int(rng.integers(1, 4))).sliced(int(rng.integers(4)), n, 1)
        else:
            made[d] = Cut.even(n, max(1, n // 2))
    return Sharding(tuple(made))


class Hostile:
    """`real` are programs as bytes, of which some are changed."""

    def __init__(self, real: Sequence[bytes]):
        self.real = [msgpack.unpackb(data) for data in real]

    def make(self, rng: Rng) -> tuple[dict[str, Any], int]:
        """A program and the number of workers that it is for."""
        raw = pick(rng, self.real) if self.real and rng.random() < 0.3 else self.new(rng)
        raw = msgpack.unpackb(msgpack.packb(raw))
        for _ in range(pick(rng, (0, 0, 1, 1, 1, 1, 2, 2, 3))):
            with contextlib.suppress(
                LookupError, TypeError, ValueError, AttributeError
            ):  # of what an earlier change left
                pick(rng, CHANGES)(rng, raw)
        return raw, pick(rng, (1,) * 30 + (2,) * 16 + (3,) * 3 + (40,))

    def new(self, rng: Rng) -> dict[str, Any]:
        """Some steps from the table, each in a fragment of its own; what they make is kept or sent, or read again."""
        raw = program([])
        for _ in range(int(rng.integers(1, 4))):
            self._add(rng, raw)
        return raw

    def _add(self, rng: Rng, raw: dict[str, Any]) -> None:
        sample = pick(rng, SAMPLES[pick(rng, NAMES)])
        primitive, avals = TABLE[sample.name], list(sample.avals)
        shardings = [cuts(rng, a.shape) for a in avals]
        try:
            attrs = sample.attrs(shardings)
            outs = list(primitive.shape(avals, attrs))
            made = layout(primitive, avals, outs, shardings, attrs, int(rng.choice((1, 24, 64, 1 << 20))))
        except Exception:  # what is chosen may not go together
            return
        slots = raw["slots"]
        ins = list(range(len(slots), len(slots) + len(avals)))
        results = list(range(ins[-1] + 1 if ins else len(slots), len(slots) + len(avals) + len(outs)))
        slots += [[a.dtype.name, s.wire()] for a, s in zip(avals, made.needs, strict=True)]
        slots += [[o.dtype.name, s.wire()] for o, s in zip(outs, made.outs, strict=True)]
        for i, need in zip(ins, made.needs, strict=True):
            self._provide(rng, raw, i, need)
        if "path" in attrs:
            attrs["path"] = pick(rng, ("/dev/null", "/dev/zero", "/", "/nowhere", ""))
        tiles = list(_tile_labels(primitive, made))
        tiled = bool(tiles) and rng.random() < 0.6
        tile = pick(rng, [label for label, _ in made.grid[:1]] or tiles) if tiled else None
        steps = [_step(Step(primitive, tuple(ins), tuple(results), attrs, made, tile))]
        rows = int(rng.integers(1, 6)) if tiled else 0
        steps += self._further(rng, raw, made, results, tile)
        raw["fragments"].append([made.shards, [[rows, steps]]])
        self._use(rng, raw, made, results)

    def _provide(self, rng: Rng, raw: dict[str, Any], slot: int, need: Sharding) -> None:
        """An operand is stored, comes with the call, or arrives."""
        where = rng.random()
        if where < 0.55:
            raw["inputs"].append(slot)
        elif where < 0.8 and need.count == 1:
            raw["feeds"].append(slot)
        else:
            channel = "each" if need.count > 1 else pick(rng, ("small", "large"))
            source = cuts(rng, need.shape)
            raw["boxes"].append([channel])
            box = len(raw["boxes"]) - 1
            what = ["reshard", source.wire(), need.wire(), None]
            if rng.random() < 0.5 and need.count == 1:
                what = [
                    "reduce",
                    [int(rng.integers(1, 6))],
                    [True],
                    pick(rng, ("add", "maximum", "disjoint")),
                ]
            raw["recvs"].append([slot, what, box, channel, 0])

    def _further(
        self, rng: Rng, raw: dict[str, Any], made: Layout, results: list[int], tile: int | None
    ) -> list[Any]:
        """A step that reads the result where it lies, element by element."""
        if made.merged or made.labels is None or rng.random() < 0.5:
            return []
        (first, *_), out = results, made.outs[0]
        names = made.labels.outs[0]
        dtype = raw["slots"][first][0]
        name = pick(rng, ("copy", "isnan", "logical_not", "negative", "exp"))
        if dtype in ("bool", "int32", "int64") and name in ("negative", "exp"):
            name = "copy"
        raw["slots"].append(["bool" if name in ("isnan", "logical_not") else dtype, out.wire()])
        here = len(raw["slots"]) - 1
        grid = [[d, cut.wire()] for d, cut in enumerate(out.cuts) if cut.count > 1]
        along = None if tile is None or tile not in names else names.index(tile)
        if tile is not None and along is None:
            return []
        results.append(here)
        return [[name, [first], [here], {}, made.shards, grid, along]]

    def _use(self, rng: Rng, raw: dict[str, Any], made: Layout, results: list[int]) -> None:
        for slot in results:
            if made.merged:
                count = made.outs[0].count
                channel = "each" if count > 1 else pick(rng, ("small", "large"))
                raw["sends"].append([slot, reduce_of(made).wire(), channel])
                continue
            if rng.random() < 0.8:
                raw["keep"].append(slot)
            if rng.random() < 0.4:
                source = Sharding(tuple(made.outs[0].cuts)) if slot == results[0] else None
                if source is not None:
                    target = cuts(rng, source.shape)
                    channel = "each" if target.count > 1 else pick(rng, ("small", "large"))
                    raw["sends"].append([slot, ["reshard", source.wire(), target.wire(), None], channel])


def _places(raw: Any) -> Iterator[tuple[Any, Any]]:
    """All that stands in nested lists and maps, from the inside: in what, and under which key."""
    items = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for key, item in items:
        if isinstance(item, dict | list):
            yield from _places(item)
        yield raw, key


def _everywhere(raw: Any) -> list[tuple[Any, Any]]:
    """All places of shapes and cuts: in slots, grids, attributes and exchanges."""
    return [place for part in ("slots", "fragments", "recvs", "sends") for place in _places(raw[part])]


# Changes. Each changes a program in place, in one respect; many of them leave it one that may be run.
def _number(rng: Rng, old: int) -> int:
    near = (0, 1, -1, 2, 3, old + 1, old - 1, old * 2, -old, old + 7)
    return pick(rng, LARGE) if rng.random() < 0.15 else pick(rng, near)


def _field(rng: Rng, raw: Any) -> None:
    """Some field, anywhere."""
    parent, key = pick(rng, [p for part in raw.values() for p in _places(part)] or [(raw, "keep")])
    old = parent[key]
    if type(old) is int:
        parent[key] = _number(rng, old)
    elif type(old) is bool:
        parent[key] = not old
    elif type(old) is str:
        parent[key] = pick(rng, (*DTYPES, "add", "disjoint", "multiply", "each", "small", "large", "reduce"))
    elif type(old) is list and old:
        i, j = rng.integers(len(old), size=2).tolist()
        how = rng.integers(4)
        if how == 0:
            del old[i]
        elif how == 1:
            old.append(copy.deepcopy(old[i]))
        else:
            old[i], old[j] = old[j], old[i]
    elif old is None:
        parent[key] = int(rng.integers(3))


def _steps(raw: Any) -> list[Any]:
    return [s for _, loops in raw["fragments"] for _, steps in loops for s in steps]


def _attribute(rng: Rng, raw: Any) -> None:
    """A number of an attribute."""
    found = [(p, k) for step in _steps(raw) for p, k in _places(step[3]) if type(p[k]) in (int, float)]
    if found:
        parent, key = pick(rng, found)
        parent[key] = _number(rng, int(parent[key]))


def _length(rng: Rng, raw: Any) -> None:
    """A length, wherever it stands, or at some of these places."""
    lengths = [cut[0] for _, cs in raw["slots"] for cut in cs if cut]
    if lengths:
        old = pick(rng, lengths)
        new = _number(rng, old) if type(old) is int else 1
        some = rng.random() < 0.3
        for parent, key in _everywhere(raw):
            if type(parent[key]) is int and parent[key] == old and (not some or rng.random() < 0.5):
                parent[key] = new


def _dtype(rng: Rng, raw: Any) -> None:
    """A dtype, wherever it stands, or in one slot."""
    if raw["slots"]:
        old, new = pick(rng, raw["slots"])[0], pick(rng, tuple(DTYPES))
        one = pick(rng, raw["slots"]) if rng.random() < 0.3 else None
        for s in raw["slots"]:
            if s[0] == old and one in (None, s):
                s[0] = new
        for s in _steps(raw):
            if s[3].get("dtype") == old and one is None:
                s[3]["dtype"] = new


def _operand(rng: Rng, raw: Any) -> None:
    """Another slot is read, which may be one of the same type."""
    if _steps(raw):
        ins = pick(rng, _steps(raw))[1]
        if ins:
            i = int(rng.integers(len(ins)))
            same = [n for n, s in enumerate(raw["slots"]) if s == raw["slots"][ins[i]]]
            ins[i] = pick(rng, same) if rng.random() < 0.6 else int(rng.integers(len(raw["slots"])))


def _primitive(rng: Rng, raw: Any) -> None:
    """Another primitive that takes the same attributes."""
    if _steps(raw):
        step = pick(rng, _steps(raw))
        if step[0] in TABLE:
            attrs = TABLE[step[0]].attrs
            step[0] = pick(rng, [p.name for p in TABLE.values() if p.attrs == attrs])


def _cut(rng: Rng, raw: Any) -> None:
    """A cut, wherever it stands."""
    found = [cut for _, cs in raw["slots"] for cut in cs if cut]
    if found:
        old = list(pick(rng, found))
        new = cuts(rng, (min(max(old[0], 0), 1 << 20),)).wire()[0]
        if rng.random() < 0.1:
            new = [old[0], max(1, math.isqrt(max(old[0], 0)))]
        for parent, key in _everywhere(raw):
            if type(parent[key]) is list and parent[key] == old:
                parent[key] = list(new)


def _tiles(rng: Rng, raw: Any) -> None:
    loops = [loop for _, loops in raw["fragments"] for loop in loops]
    if loops:
        loop = pick(rng, loops)
        loop[0] = int(rng.integers(0, 9))
        for step in loop[1]:
            step[6] = None if not loop[0] else int(rng.integers(3)) if step[6] is None else step[6]


def _kept(rng: Rng, raw: Any) -> None:
    """What is kept."""
    raw["keep"] = sorted({int(i) for i in rng.integers(0, max(1, len(raw["slots"])), 3)})


CHANGES: list[Callable[[Rng, Any], None]] = [
    _field, _attribute, _attribute, _length, _length, _dtype, _dtype, _operand, _operand, _primitive, _cut, _tiles,
    _kept,
]  # fmt: skip
