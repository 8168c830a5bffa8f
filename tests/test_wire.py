"""Programs as bytes: what the planner writes is read back alike; what is damaged is a WireError without effect."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder import Recorder, Scene, Watched, flat, picture

from distgrad import session
from distgrad.errors import WireError
from distgrad.graph import Value
from distgrad.plan import build as planner
from distgrad.primitives import TABLE
from distgrad.program import Program
from distgrad.session import door
from distgrad.sharding import sharding_of
from distgrad.wire import LIMIT, VERSION, _arity, decode, encode, pack_array, unpack_array

quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)


# Real programs.


def work() -> Iterator[Value]:
    """Values that take every kind of primitive, exchange and loop to compute; None: flush what there is so far."""
    emit, rng = session.emit, np.random.default_rng(1)

    def put(array: Any, cuts: Any = None) -> Value:
        array = np.asarray(array)
        return session.constant(array, None if cuts is None else sharding_of(array.shape, cuts))

    x = put(rng.standard_normal((23, 6), np.float32), [0, 5, 5, 12, 20])
    y = put(rng.standard_normal((23, 6), np.float32), {1: 2})
    w, idx = put(rng.standard_normal((6, 4), np.float32)), put(np.array([3, 0, 3]))
    h = emit("tanh", emit("contract", x, w, subscripts="mk,kn->mn"))
    yield emit("divide", h, emit("sum", h, dims=(0,), keepdim=True, dtype="float32"))
    yield emit("contract", x, h, subscripts="mk,mn->kn")
    yield emit("softplus", emit("add", x, y), beta=1.0, threshold=20.0)
    yield emit("softmax", x, dim=0)
    yield emit("cumsum", put(np.arange(7), 3), dim=0, dtype="int64")
    yield session.emit_all("sort", y, dim=0, descending=True)[1]
    part = emit("slice", x, slices=((3, 4, 3), (1, 4, 1)))
    yield emit("slice_put", x, emit("permute", emit("permute", part, dims=(1, 0)), dims=(1, 0)),
               slices=((0, 4, 2), (2, 4, 1)))  # fmt: skip
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
        patch.setattr(planner, "encode", noted)
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


def test_the_programs_are_of_every_kind() -> None:
    programs = [decode(data) for data in PROGRAMS]
    kinds = {(type(a.what).__name__, a.channel) for p in programs for a in p.arrivals}
    assert {("Sum", "small"), ("Move", "each"), ("Move", "large")} <= kinds
    loops = [loop for p in programs for f in p.fragments for loop in f.loops]
    assert {loop.rows > 0 for loop in loops} == {True, False}
    assert len({step.primitive.name for loop in loops for step in loop.steps}) > 20
    assert any(p.feeds for p in programs)
    assert any(p.inputs for p in programs)
    assert any(len(p.boxes) for p in programs)


# Round trip.


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_round_trip(number: int) -> None:
    program = recorded()[0][number]
    read = decode(PROGRAMS[number])
    assert read == program
    assert encode(read) == PROGRAMS[number]
    for fragment in read.fragments:
        for loop in fragment.loops:
            for step in loop.steps:
                assert step.primitive is TABLE[step.primitive.name]
                assert not any(isinstance(value, list) for value in step.attrs.values())


def test_scenes_can_be_played_again() -> None:
    for scene in SCENES:
        check_works(scene, scene.worker())


# Damaged bytes.


def test_every_truncation_is_refused() -> None:
    for data in PROGRAMS:
        for n in range(len(data)):
            with pytest.raises(WireError):
                decode(data[:n])
    for scene in SCENES:
        for n in (0, 1, len(scene.program) // 2, len(scene.program) - 1):
            refused(scene, program=scene.program[:n])


@pytest.mark.parametrize("tail", [b"\x00", b"\xc0", b"\x80", b"tail"])
def test_trailing_bytes_are_refused(tail: bytes) -> None:
    for data in PROGRAMS:
        with pytest.raises(WireError, match="not msgpack"):
            decode(data + tail)
    refused(SCENES[0], program=SCENES[0].program + tail)
    refused(SCENES[0], header=SCENES[0].header + tail)


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(WireError, match=f"{LIMIT + 1} bytes is over the limit of {LIMIT}"):
        decode(bytes(LIMIT + 1))


@settings(quick, max_examples=400)
@given(st.binary(max_size=60))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


@settings(quick, max_examples=400)
@given(st.sampled_from(PROGRAMS), st.data())
def test_flipped_bits_are_refused_or_change_a_value(program: bytes, data: st.DataObject) -> None:
    damaged = bytearray(program)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = decode(bytes(damaged))
    except WireError:
        return
    assert decode(encode(read)) == read


@settings(quick, max_examples=200)
@given(st.sampled_from(SCENES), st.data())
def test_a_worker_survives_flipped_bits(scene: Scene, data: st.DataObject) -> None:
    damaged = bytearray(scene.program)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    run(scene, program=bytes(damaged))


# Damaged fields.

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


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_value_of_another_type_is_refused_in_every_field(number: int) -> None:
    def choices(old: Any, path: Path) -> list[Any]:
        return [value for value in TYPES if not may_be(old, value, path)]

    for path, value, data in damaged(msgpack.unpackb(PROGRAMS[number]), choices):
        with pytest.raises(WireError):
            pytest.fail(f"{path}: {type(value)}: {decode(data)}")


def other_values(old: Any, path: Path) -> list[Any]:
    """Values of the same type."""
    if type(old) is int:
        return [0, 1, old + 1, old - 1, 3 * old + 5, 1 << 30, 1 << 40, 1 << 62, (1 << 64) - 1, -(1 << 63)]
    if type(old) is str:
        return ["", "add", "float64", "sum", "move", "each", "large", "\u0000"]
    if type(old) is bool:
        return [not old]
    if type(old) is list:
        return [old[1:], old[:-1], [*old, *old[-1:]], old[::-1]]
    if type(old) is dict:
        return [{k: v for k, v in old.items() if k != key} for key in old] + [{**old, "more": 1}]
    return []


@pytest.mark.parametrize("number", range(len(SCENES)))
def test_another_value_is_refused_or_means_something(number: int) -> None:
    scene = SCENES[number]
    for _, _, data in damaged(msgpack.unpackb(scene.program), other_values):
        try:
            read = decode(data)
        except WireError:
            continue
        assert decode(encode(read)) == read
        if max(f.count for f in read.fragments) < 100 if read.fragments else True:
            run(scene, program=data)


# What the errors say.

SMALL: dict[str, Any] = {
    "v": VERSION,
    "slots": [["float32", [[4, 2]]], ["float32", [[4, 2]]], ["float32", []]],
    "inputs": [0],
    "feeds": [],
    "arrivals": [],
    "fragments": [
        [2, [[0, [["exp", [0], [1], {}, 2, [[0, [4, 2]]], None],
                  ["sum", [1], [2], {"dims": [0], "keepdim": False, "dtype": "float32"}, 2, [[0, [4, 2]]], None]]]]]
    ],
    "departures": [[2, ["sum", [2], [True], "add"], "small"]],
    "keep": [1],
    "boxes": [],
}  # fmt: skip
STEP = ("fragments", 0, 1, 0, 1, 0)
SUM = ("fragments", 0, 1, 0, 1, 1)
DAMAGES: list[tuple[Path, Any, str]] = [
    (("v",), VERSION + 1, "version"),
    (("v",), True, "version"),
    (("slots", 0, 0), "complex64", "slot 0: unknown dtype"),
    (("slots", 0, 0), "object", "slot 0: unknown dtype"),
    (("slots", 1, 1), [[4, 5]], "slot 1: not a cut"),
    (("slots", 1, 1), [[4, -1, 0, 3, 2, 4]], "slot 1: cut points must rise"),
    (("slots", 1, 1), [4, 2], "slot 1: expected a list"),
    (("inputs",), [0, 0], "slot 0 has a value already"),
    (("inputs",), [3], "there is no slot 3"),
    (("inputs",), [-1], "-1 is not in"),
    (("inputs",), [], "slot 0 has no value here"),
    (("feeds",), [0], "slot 0 has a value already"),
    ((*STEP, 0), "system", "unknown primitive 'system'"),
    ((*STEP, 0), "__class__", "unknown primitive"),
    ((*STEP, 1), [2], "exp: slot 2 has no value here"),
    ((*STEP, 1), [9], "exp: slot 9 has no value here"),
    ((*STEP, 1), [0, 0], "exp: does not take 2 operands"),
    ((*STEP, 1), [], "exp: does not take 0 operands"),
    ((*STEP, 2), [0], "slot 0 has a value already"),
    ((*STEP, 2), [2], "other shapes or dtypes"),
    ((*STEP, 2), [], "other shapes or dtypes"),
    ((*STEP, 3), {"out": 1}, "attributes must be"),
    ((*STEP, 4), 3, "3 shards in a fragment of 2"),
    ((*STEP, 5), [[0, [4, 1]]], "not cut as its grid of 2 cells"),
    ((*STEP, 5), [[7, [4, 2]]], "not cut as its grid of 2 cells"),
    ((*STEP, 5), [[0, [2, 1]]], "not cut as its grid of 2 cells"),
    ((*STEP, 5), [], "not cut as its grid of 2 cells"),
    ((*STEP, 6), 0, "bad tile label"),
    ((*STEP, 6), "0", "bad tile label"),
    ((*SUM, 3, "dims"), [1], "sum: "),
    ((*SUM, 3, "dims"), [True], "attribute 'dims' is not of type ints"),
    ((*SUM, 3, "dims"), 0, "attribute 'dims' is not of type ints"),
    ((*SUM, 3, "keepdim"), 0, "attribute 'keepdim' is not of type bool"),
    ((*SUM, 3, "dtype"), "float16", "attribute 'dtype' is not of type dtype"),
    (("fragments", 0, 0), 0, "fragment: 0 is not in"),
    (("fragments", 0, 1, 0, 0), -1, "loop: -1 is not in"),
    (("departures", 0, 0), 3, "slot 3 has no value here"),
    (("departures", 0, 1), ["none"], "departure: "),
    (("departures", 0, 1, 1), [3], "departure: "),
    (("departures", 0, 1, 2), [False], "departure: 2 sums for slot 2"),
    (("departures", 0, 1, 3), "pow", "unknown merge 'pow'"),
    (("departures", 0, 1, 3), "maximum", "departure: "),
    (("departures", 0, 1), ["move", [], []], "departure: "),
    (("departures", 0, 2), "huge", "not a channel for 1 shards: 'huge'"),
    (("departures", 0, 2), "each", "departure: "),
    (("keep",), [0, 2], "keep: "),
    (("keep",), [5], "slot 5 has no value here"),
    (("boxes",), [["tiny"]], "unknown channel"),
    (("arrivals",), [[2, ["sum", [2], [True], "add"], 0, "small", 0]], "arrival: "),
]  # fmt: skip


def test_the_small_program_is_good() -> None:
    program = decode(msgpack.packb(SMALL))
    assert encode(program) == msgpack.packb(SMALL)


@pytest.mark.parametrize(("path", "value", "text"), DAMAGES)
def test_the_error_names_what_is_wrong(path: Path, value: Any, text: str) -> None:
    with pytest.raises(WireError, match=text):
        decode(changed(SMALL, path, value))


# A sum of rows that leaves in cuts, and one that has arrived in them.
SCATTER: dict[str, Any] = {
    **SMALL,
    "slots": [["float32", [[4, 2], [6, 0]]], ["float32", [[6, 0]]], ["float32", [[6, 3]]]],
    "arrivals": [[2, ["scatter", [2], [True], "add", [[6, 3]]], 0, "each", 0]],
    "fragments": [
        [2, [[0, [["sum", [0], [1], {"dims": [0], "keepdim": False, "dtype": "float32"}, 2, [[0, [4, 2]]], None]]]]]
    ],
    "departures": [[1, ["scatter", [2], [True], "add", [[6, 2]]], "each"]],
    "keep": [2],
    "boxes": [["each"]],
}  # fmt: skip


def test_a_sum_in_cuts_is_good() -> None:
    program = decode(msgpack.packb(SCATTER))
    assert encode(program) == msgpack.packb(SCATTER)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("departures", 0, 1, 4), [[5, 2]], "departure: slot 1 is cut otherwise"),
        (("departures", 0, 1, 4), [[6, 0]], "departure: slot 1 is cut otherwise"),
        (("departures", 0, 1, 4), [[6, 9, 3]], "departure: "),
        (("departures", 0, 1), ["scatter", [2], [True], "add"], "departure: expected 5 items"),
        (("departures", 0, 1, 3), "maximum", "no such partial results"),
        (("departures", 0, 2), "large", "not a channel for 3 shards"),
        (("departures", 0, 0), 2, "departure: "),
        (("arrivals", 0, 1, 4), [[6, 2]], "arrival: slot 2 is cut otherwise"),
        (("arrivals", 0, 1, 2), [False], "arrival: 2 sums for slot 2"),
    ],
)
def test_a_sum_in_cuts_that_does_not_fit_is_refused(path: Path, value: Any, text: str) -> None:
    with pytest.raises(WireError, match=text):
        decode(changed(SCATTER, path, value))


def tiled(*steps: tuple[str, list[int], int, dict[str, Any], int]) -> bytes:
    """A program of one loop, by tiles of two rows, over whole slots."""
    shapes: list[list[int]] = [[6, 6], [8], [6, 6], [6, 6], [8], [6]]
    return msgpack.packb(
        {
            **SMALL,
            "slots": [["float32", [[n, 0] for n in shape]] for shape in shapes],
            "inputs": [0, 1],
            "fragments": [
                [1, [[2, [[name, ins, [out], attrs, 1, [], tile] for name, ins, out, attrs, tile in steps]]]]
            ],
            "departures": [],
            "keep": [],
        }
    )


SUM_ROWS = ("sum", [2], 5, {"dims": [0], "keepdim": False, "dtype": "float32"}, 0)


def test_tiles_that_fit() -> None:
    decode(tiled(("exp", [0], 2, {}, 0), SUM_ROWS, ("tanh", [2], 3, {}, 0)))
    decode(tiled(("exp", [0], 2, {}, 1), ("softmax", [2], 3, {"dim": 0}, 1)))


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (
            [("exp", [0], 2, {}, 0), ("softmax", [2], 3, {"dim": 0}, 1)],
            "made by other tiles than it is read by",
        ),
        (
            [("exp", [0], 2, {}, 0), SUM_ROWS, ("add", [2, 5], 3, {}, 0)],
            "made by other tiles than it is read by",
        ),
        ([("exp", [0], 2, {}, 0), ("exp", [1], 4, {}, 0)], "steps with other tiles"),
        ([("exp", [0], 2, {}, 2)], "bad tile label 2"),
        ([("exp", [0], 2, {}, -1)], "bad tile label -1"),
        ([("exp", [0], 2, {}, 0), ("permute", [2], 3, {"dims": [1, 0]}, 1)], "made by other tiles"),
        ([("reshape", [0], 2, {"shape": [6, 6]}, 0)], "bad tile label"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(steps: Any, text: str) -> None:
    with pytest.raises(WireError, match=text):
        decode(tiled(*steps))


def test_a_missing_or_an_unknown_part_is_refused() -> None:
    for key in SMALL:
        with pytest.raises(WireError, match="expected a map with the keys"):
            decode(msgpack.packb({k: v for k, v in SMALL.items() if k != key}))
    with pytest.raises(WireError, match="expected a map with the keys"):
        decode(msgpack.packb({**SMALL, "more": 1}))


def test_the_number_of_operands_of_every_primitive_is_known() -> None:
    counts = {name: list(_arity(name))[:2] for name in TABLE}
    assert {name: n for name, n in counts.items() if len(n) > 1} == {"cat": [1, 2]}
    for name, n in (
        ("exp", 1),
        ("add", 2),
        ("where", 3),
        ("iota", 0),
        ("random", 1),
        ("index_put", 3),
        ("sum", 1),
    ):
        assert counts[name] == [n]


def test_steps_in_a_wrong_order_are_refused() -> None:
    steps = at(SMALL, STEP[:-1])
    with pytest.raises(WireError, match="slot 1 has no value here"):
        decode(changed(SMALL, STEP[:-1], steps[::-1]))


def test_one_layer_of_a_map_is_not_another() -> None:
    for data in (b"\x80", b"\x90", b"\xc0", b"\x01", msgpack.packb({1: 2}), msgpack.packb({"v": {"v": 1}})):
        with pytest.raises(WireError):
            decode(data)


# The header and the rest of a call.


def header_of(scene: Scene) -> dict[str, Any]:
    return msgpack.unpackb(scene.header)


@pytest.mark.parametrize("number", range(len(SCENES)))
def test_every_truncated_header_is_refused(number: int) -> None:
    scene = SCENES[number]
    for n in range(0, len(scene.header), 3):
        refused(scene, header=scene.header[:n])


@settings(quick, max_examples=200)
@given(st.sampled_from(SCENES), st.data())
def test_a_worker_survives_a_header_with_flipped_bits(scene: Scene, data: st.DataObject) -> None:
    damaged = bytearray(scene.header)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    run(scene, header=bytes(damaged))


@pytest.mark.parametrize("number", range(len(SCENES)))
def test_a_header_with_values_of_other_types_is_refused(number: int) -> None:
    scene = SCENES[number]
    head = header_of(scene)
    for _, _, data in damaged(
        header_of(scene), lambda old, _: [v for v in TYPES if type(v) is not type(old)]
    ):
        refused(scene, header=data)
    for key in head:
        refused(scene, "map with the keys", header=msgpack.packb({k: v for k, v in head.items() if k != key}))
    refused(scene, "map with the keys", header=msgpack.packb({**head, "more": 1}))


def with_inputs() -> Scene:
    return next(s for s in SCENES if header_of(s)["inputs"] and header_of(s)["keep"])


def with_feeds() -> Scene:
    return next(s for s in SCENES if header_of(s)["feeds"])


@pytest.mark.parametrize("key", ["inputs", "keep", "feeds", "stash"])
def test_too_few_or_too_many_ids_are_refused(key: str) -> None:
    for scene in SCENES:
        head = header_of(scene)
        more = head["feeds"][:1] or [pack_array(np.zeros(3))] if key == "feeds" else [1]
        refused(scene, key, header=msgpack.packb({**head, key: [*head[key], *more]}))
        if head[key]:
            refused(scene, key, header=msgpack.packb({**head, key: head[key][1:]}))


def test_an_id_under_which_nothing_is_stored_is_refused() -> None:
    scene = with_inputs()
    head = header_of(scene)
    refused(
        scene,
        "nothing is stored under 999",
        header=msgpack.packb({**head, "inputs": [999] * len(head["inputs"])}),
    )


def test_another_value_than_the_program_was_made_for_is_refused() -> None:
    scene = with_inputs()
    number = header_of(scene)["inputs"][0]
    slot = scene.slots[number]
    for other in (
        replace(slot, dtype=np.dtype("int64")),
        replace(slot, sharding=sharding_of(slot.aval.shape, 1)),
    ):
        worker = scene._replace(slots={**scene.slots, number: other}).worker()
        before = picture(worker)
        with pytest.raises(WireError, match="is stored under"):
            worker.run(scene.header, scene.program, *scene.boxes)
        assert picture(worker) == before


def test_another_number_of_workers_than_values_were_stored_by_is_refused() -> None:
    scene = next(s for s in SCENES if header_of(s)["inputs"] and not s.boxes and s.number == 0)
    refused(scene, "not those of 9 workers", header=msgpack.packb({**header_of(scene), "workers": 9}))


@pytest.mark.parametrize(
    "feed",
    [
        ["float32", [2], bytes(7)],
        ["float32", [2], bytes(8), 1],
        ["float32", [-1], b""],
        ["object", [1], bytes(8)],
        [[], [1], bytes(8)],
        ["float32", [1 << 40, 1 << 40], b""],
        ["float32", "2", bytes(8)],
        ["float32", [2], "text"],
        ["float64", [77], bytes(616)],
        [],
        None,
    ],
)
def test_a_damaged_feed_is_refused(feed: Any) -> None:
    scene = with_feeds()
    head = header_of(scene)
    refused(scene, "array|feed", header=msgpack.packb({**head, "feeds": [feed, *head["feeds"][1:]]}))


def test_frees_of_a_refused_call_are_not_done() -> None:
    scene = with_inputs()
    head = header_of(scene)
    free = [n for n in scene.store if n not in head["inputs"]] + head["inputs"]
    refused(scene, header=msgpack.packb({**head, "free": free}), program=scene.program[:-1])


def test_another_epoch_is_refused() -> None:
    scene = SCENES[0]
    header = msgpack.packb({**header_of(scene), "epoch": scene.epoch + 1})
    refused(scene, "epoch", header=header)


def test_a_call_with_other_boxes_is_refused() -> None:
    scenes = [s for s in SCENES if s.boxes]
    assert scenes
    for scene in scenes:
        refused(scene, "boxes", boxes=scene.boxes[:-1])
        refused(scene, "boxes", boxes=(*scene.boxes, []))
        for i in range(len(scene.boxes)):
            for item in (None, b"", b"\xc1", 5, [None], "x", {"small": []}):
                if not (isinstance(scene.boxes[i], list) and not scene.boxes[i]):  # what a worker kept itself
                    boxes = (*scene.boxes[:i], item, *scene.boxes[i + 1 :])
                    run(scene, boxes=boxes)


# Arrays.


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_arrays_round_trip(shape: tuple[int, ...], dtype: str) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    for given_array in (array, np.array(array, order="F")):
        read = unpack_array(msgpack.unpackb(msgpack.packb(pack_array(given_array))))
        assert (read.shape, read.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(read, array)
        assert not read.flags.writeable
