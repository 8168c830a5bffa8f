"""Real calls of real programs, to be made again, as they were or damaged."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import settings
from recorder import Recorder, Scene, Watched, flat, picture
from values import put

from distgrad import session
from distgrad.cutting import sharding_of
from distgrad.errors import WireError
from distgrad.graph import Value
from distgrad.plan import write
from distgrad.program import Program
from distgrad.session import door
from distgrad.wire import encode

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


# Real programs.


def work() -> Iterator[Value]:
    """Values that take every kind of primitive, exchange and loop to compute; None: flush what there is so far."""
    emit, rng = session.emit, np.random.default_rng(1)

    x = put(rng.standard_normal((23, 6), np.float32), [0, 5, 5, 12, 20])
    y = put(rng.standard_normal((23, 6), np.float32), {1: 2})
    w, idx = put(rng.standard_normal((6, 4), np.float32)), put(np.array([3, 0, 3]))
    h = emit("tanh", emit("contract", x, w, subscripts="mk,kn->mn"))
    yield emit("divide", h, emit("sum", h, dims=(0,), keepdim=True, dtype="float32"))
    yield emit("contract", x, h, subscripts="mk,mn->kn")
    yield emit("softplus", emit("add", x, y), beta=1.0, threshold=20.0)
    yield emit("softmax", x, dim=0)
    yield emit("cumsum", put(np.arange(7), 3), dim=0, dtype="int64")
    yield emit("cumsum", put(np.arange(2000), 500), dim=0, dtype="int64")  # too large to go with the replies
    yield session.emit_all("sort", y, dim=0, descending=True)[1]
    part = emit("slice", x, slices=((3, 4, 3), (1, 4, 1)))
    yield emit("slice_put", x, emit("permute", emit("permute", part, dims=(1, 0)), dims=(1, 0)),
               parts=(((0, 4, 2), (2, 4, 1)),))  # fmt: skip
    yield emit("cat", x, y, dim=1, sizes=(6, 6))
    yield emit("index_add", idx, emit("take", x, idx, dim=0, size=23, wrap=True), dim=0, size=5)
    yield emit("reshard", x, cuts=sharding_of((23, 6), {0: 7, 1: [2]}))
    yield emit("expand", put(np.float32([[2]])), shape=(8, 6), cuts=sharding_of((8, 6), 3))
    yield emit("random", put([1, 2]), shape=(9, 5), kind="normal", dtype="float64", low=0, high=0, cuts=None)
    mask = emit("greater", emit("reshape", x, shape=(138,)), put(np.float32(0)))
    yield emit("shard_counts", mask, cuts=mask.sharding)
    long = put(np.arange(40_000, dtype=np.float32), {0: 30_000})
    yield emit("sum", emit("exp", emit("negative", long)), dims=(0,), keepdim=False, dtype="float32")


@functools.cache
def recorded() -> tuple[list[Program], list[Scene]]:
    """The planner's programs, and the calls of two workers that ran them, each program once."""
    programs: list[Program] = []

    def noted(program: Program) -> bytes:
        programs.append(program)
        return encode(program)

    door.shutdown()
    patch = pytest.MonkeyPatch()
    recorder = Recorder(2, Watched)
    try:
        patch.setattr(write, "encode", noted)
        door.attach(recorder, inline_bytes=0, shard_bytes=64)
        for value in work():
            session.flush()
            session.fetch(value)
    finally:
        patch.undo()
        door.shutdown()
    scenes: dict[bytes, Scene] = {}
    for worker in recorder.objects:
        for scene in worker.scenes:
            scenes.setdefault(scene.program, scene)
    return programs, list(scenes.values())


PROGRAMS = [encode(p) for p in recorded()[0]]
SCENES = recorded()[1]


def run(scene: Scene, program: bytes | None = None, header: bytes | None = None, boxes: Any = None) -> None:
    """Make a call of which something is damaged. It may do what it says or be refused, then without any effect.

    The worker must take the undamaged call afterwards.
    """
    worker = scene.worker()
    before = picture(worker)
    try:
        worker.run(
            scene.header if header is None else header,
            scene.program if program is None else program,
            *(scene.boxes if boxes is None else boxes),
        )
    except WireError:
        assert picture(worker) == before
        check_works(scene, worker)


def refused(scene: Scene, text: str = ".", **damaged: Any) -> None:
    """Make a call that must be refused."""
    worker = scene.worker()
    before = picture(worker)
    call = {"header": scene.header, "program": scene.program, "boxes": scene.boxes, **damaged}
    with pytest.raises(WireError, match=text):
        worker.run(call["header"], call["program"], *call["boxes"])
    assert picture(worker) == before
    check_works(scene, worker)


def check_works(scene: Scene, worker: Any) -> None:
    """The call as it was gives the answer that it gave."""
    expected = scene.worker().run(scene.header, scene.program, *scene.boxes)
    assert flat(worker.run(scene.header, scene.program, *scene.boxes)) == flat(expected)


def header_of(scene: Scene) -> dict[str, Any]:
    return msgpack.unpackb(scene.header)


Path = tuple[Any, ...]


def paths(raw: Any, here: Path = ()) -> Iterator[Path]:
    """The way to each value inside nested lists and maps."""
    yield here
    if isinstance(raw, dict):
        for key, item in raw.items():
            yield from paths(item, (*here, key))
    elif isinstance(raw, list):
        for i, item in enumerate(raw):
            yield from paths(item, (*here, i))


def at(raw: Any, path: Path) -> Any:
    return functools.reduce(lambda item, key: item[key], path, raw)


def damaged(raw: Any, choices: Callable[[Any, Path], list[Any]]) -> Iterator[tuple[Path, Any, bytes]]:
    """The message with one value after the other replaced by each of its `choices`."""
    for path in list(paths(raw)):
        old = at(raw, path)
        for value in choices(old, path):
            if path:
                at(raw, path[:-1])[path[-1]] = value
            yield path, value, msgpack.packb(raw if path else value)
        if path:
            at(raw, path[:-1])[path[-1]] = old


def changed(raw: Any, path: Path, value: Any) -> bytes:
    """The message with one value replaced."""
    raw = copy.deepcopy(raw)
    at(raw, path[:-1])[path[-1]] = value
    return msgpack.packb(raw)


DEEP: Any = functools.reduce(lambda inner, _: [inner], range(900), None)
TYPES = [
    None,
    True,
    -1,
    1.5,
    "x",
    b"x",
    [],
    {},
    [[]],
    {"x": 1},
    msgpack.ExtType(5, b"x"),
    msgpack.Timestamp(0),
    DEEP,
]


def may_be(old: Any, new: Any, path: Path) -> bool:
    """Whether a field may hold a value of this type: numbers as floats, and what may be None."""
    if type(old) is type(new):
        return True
    if "threshold" in path or "beta" in path:
        return type(new) in (int, float)
    return "cuts" in path[-1:] and (new is None or type(new) is list)
