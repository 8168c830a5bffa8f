"""What the errors of the decoder say, one small damage at a time."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from scenes import (
    Path,
    at,
    changed,
)

from distgrad.errors import WireError
from distgrad.primitives import TABLE
from distgrad.wire import VERSION, _arity, decode, encode

SMALL: dict[str, Any] = {
    "v": VERSION,
    "slots": [["float32", [[4, 2]]], ["float32", [[4, 2]]], ["float32", []]],
    "inputs": [0],
    "feeds": [],
    "recvs": [],
    "fragments": [
        [2, [[0, [["exp", [0], [1], {}, 2, [[0, [4, 2]]], None],
                  ["sum", [1], [2], {"dims": [0], "keepdim": False, "dtype": "float32"}, 2, [[0, [4, 2]]], None]]]]]
    ],
    "sends": [[2, ["reduce", [2], [True], "add"], "small"]],
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
    (("sends", 0, 0), 3, "slot 3 has no value here"),
    (("sends", 0, 1), ["none"], "send: "),
    (("sends", 0, 1, 1), [3], "send: "),
    (("sends", 0, 1, 2), [False], "send: 2 sums for slot 2"),
    (("sends", 0, 1, 3), "pow", "unknown merge 'pow'"),
    (("sends", 0, 1, 3), "maximum", "send: "),
    (("sends", 0, 1), ["reshard", [], [], None], "send: "),
    (("sends", 0, 2), "huge", "not a channel for 1 shards: 'huge'"),
    (("sends", 0, 2), "each", "send: "),
    (("keep",), [0, 2], "keep: "),
    (("keep",), [5], "slot 5 has no value here"),
    (("boxes",), [["tiny"]], "unknown channel"),
    (("recvs",), [[2, ["reduce", [2], [True], "add"], 0, "small", 0]], "recv: "),
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
    "recvs": [[2, ["reduce_scatter", [2], [True], "add", [[6, 3]]], 0, "each", 0]],
    "fragments": [
        [2, [[0, [["sum", [0], [1], {"dims": [0], "keepdim": False, "dtype": "float32"}, 2, [[0, [4, 2]]], None]]]]]
    ],
    "sends": [[1, ["reduce_scatter", [2], [True], "add", [[6, 2]]], "each"]],
    "keep": [2],
    "boxes": [["each"]],
}  # fmt: skip


def test_a_sum_in_cuts_is_good() -> None:
    program = decode(msgpack.packb(SCATTER))
    assert encode(program) == msgpack.packb(SCATTER)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("sends", 0, 1, 4), [[5, 2]], "send: slot 1 is cut otherwise"),
        (("sends", 0, 1, 4), [[6, 0]], "send: slot 1 is cut otherwise"),
        (("sends", 0, 1, 4), [[6, 9, 3]], "send: "),
        (("sends", 0, 1), ["reduce_scatter", [2], [True], "add"], "send: expected 4 items"),
        (("sends", 0, 1, 3), "maximum", "no such partial results"),
        (("sends", 0, 2), "large", "not a channel for 3 shards"),
        (("sends", 0, 0), 2, "send: "),
        (("recvs", 0, 1, 4), [[6, 2]], "recv: slot 2 is cut otherwise"),
        (("recvs", 0, 1, 2), [False], "recv: 2 sums for slot 2"),
    ],
)
def test_a_sum_in_cuts_that_does_not_fit_is_refused(path: Path, value: Any, text: str) -> None:
    with pytest.raises(WireError, match=text):
        decode(changed(SCATTER, path, value))


def tiled(*steps: tuple[str, list[int], int, dict[str, Any], int]) -> bytes:
    """A program of one loop, by tiles of two rows, over whole slots."""
    shapes: list[list[int]] = [[6, 6], [8], [6, 6], [6, 6], [8], [6]]
    made = {out for _, _, out, _, _ in steps}
    return msgpack.packb(
        {
            **SMALL,
            "slots": [["float32", [[n, 0] for n in shape]] for shape in shapes],
            "inputs": [n for n in range(len(shapes)) if n not in made],
            "fragments": [
                [1, [[2, [[name, ins, [out], attrs, 1, [], tile] for name, ins, out, attrs, tile in steps]]]]
            ],
            "sends": [],
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
    counts = {name: list(_arity(name)[:2]) for name in TABLE}
    layers = {name: [1, 2] for name in ("lstm", "lstm_backward", "gru")}  # their shape rules count
    layers |= {name: [1, 2] for name in ("standardize", "standardize_input")}
    kinds = ("softmax", "softmax_backward", "log_softmax", "log_softmax_backward")
    softmax = {name: [1, 2] for name in kinds}
    assert {name: n for name, n in counts.items() if len(n) > 1} == {
        "cat": [1, 2],
        "slice_put": [1, 2],
        "add_taken": [3, 4],
        "update": [1, 2],
        "update_all": [1, 2],
        "update_alike": [1, 2],
        **layers,
        **softmax,
    }
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
