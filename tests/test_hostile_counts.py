"""Counts that nobody needs: of shards, tiles, partial results, workers and shards that are loaded."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np
import pytest
from messages import header, load_header, program, slot, step, works

from distgrad.cutting import PIECES, SHARDS, default_sharding, most_shards, sharding_of
from distgrad.errors import WireError
from distgrad.exchange import Failure, Reduce, Reshard
from distgrad.exchange.boxes import unpack_large, unpack_small
from distgrad.fields import WORKERS, pack_array
from distgrad.sharding import Cut, Sharding, sharding_from_wire
from distgrad.wire import decode, encode
from distgrad.worker.execute import outgoing
from distgrad.worker.pool import Pool
from distgrad.worker.worker import Worker

F = np.float32


def exp(cuts: list[int], shards: int) -> dict[str, Any]:
    """The exponential of a vector that is made of one number, and cut."""
    size = cuts[0]
    return program(
        [slot("float32"), *[slot("float32", size, cuts={0: cuts})] * 2],
        [
            step("expand", [0], [1], {"shape": [size], "cuts": [cuts]}, shards, grid=[[0, cuts]]),
            step("exp", [1], [2], {}, shards, grid=[[0, cuts]]),
        ],
        feeds=[0],
        keep=[2],
    )


def exp_of_stored(cuts: list[int], shards: int) -> dict[str, Any]:
    """The exponential of a vector that is stored in these cuts."""
    size = cuts[0]
    return program(
        [slot("float32", size, cuts={0: cuts})] * 2,
        [step("exp", [0], [1], {}, shards, grid=[[0, cuts]])],
        inputs=[0],
        keep=[1],
    )


TOTAL = {"dims": [0], "keepdim": False, "dtype": "float32"}
WINDOW = {"kernel": [3], "stride": [1], "padding": [1], "dilation": [1], "size": [8]}
BOUNDS: dict[str, tuple[dict[str, Any], str]] = {
    "a shard for each element": (exp([1 << 20, 1], 1 << 20), "slot 1: 1048576 shards"),
    "shards of five elements": (exp([5 << 16, 5], 1 << 16), "slot 1: 65536 shards"),
    "empty shards": (exp([4, 1, 0, 1 << 20], 1 << 20), "slot 1: 1048576 shards"),
    "shards of two dimensions": (
        program([slot("float32", 4096, 4096, cuts={0: [4096, 1], 1: [4096, 1]})]),
        "slot 0: 16777216 shards",
    ),
    "pieces that overlap more than they are long": (exp([64, 2, 0, 32, 40], 32), "slot 1: not a cut"),
    "parts of what lies whole": (
        program(
            [slot("float32", 1 << 20), slot("float32")],
            [step("sum", [0], [1], TOTAL, 1 << 20, grid=[[0, [1 << 20, 1]]])],
            inputs=[0],
            sends=[[1, ["reduce", [1 << 20], [True], "add"], "small"]],
        ),
        "grid of sum: 1048576 shards",
    ),
    "cuts as an attribute": (
        program(
            [slot("float32"), slot("float32", 1 << 20)],
            [step("expand", [0], [1], {"shape": [1 << 20], "cuts": [[1 << 20, 1]]})],
            inputs=[0],
        ),
        "expand: attribute 'cuts': 1048576 shards",
    ),
    "what moves": (
        program(
            [slot("float32", 1 << 21)],
            recvs=[[0, ["reshard", [[1 << 21, 1]], [[1 << 21, 0]], None], 0, "large", 0]],
            boxes=[["large"]],
        ),
        "recv: 2097152 shards",
    ),
    "parts of a sum": (
        program(
            [slot("float32")],
            recvs=[[0, ["reduce", [SHARDS, 2], [True, True], "add"], 0, "small", 0]],
            boxes=[["small"]],
        ),
        "more than 16777216 partial results",
    ),
    "tiles of one element": (
        program(
            [slot("float32", 1 << 24), slot("float32", 1 << 24)],
            [step("exp", [0], [1], {}, tile=0)],
            rows=1,
            inputs=[0],
        ),
        "loop: 16777216 tiles",
    ),
    "a window of a million elements over eight": (
        program(
            [slot("float32", 8), slot("float32", 8)],
            [step("window_max", [0], [1], WINDOW | {"kernel": [1 << 20]})],
            inputs=[0],
        ),
        "windows of 1048576 elements over",
    ),
    "65 dimensions": (program([slot("float32", *[1] * 65)]), "slot 0: 65 dimensions"),
    "2**62 elements": (
        program([slot("float32", 1 << 31, 1 << 31)]),
        "slot 0: .* 4611686018427387904 elements",
    ),
    "no elements, as many as can be": (program([slot("float32", 1 << 62, 0)]), "slot 0: .* elements"),
    "a loop without steps": (program([slot("float32")]) | {"fragments": [[1, [[0, []]]]]}, "without steps"),
    "a fragment without loops": (program([slot("float32")]) | {"fragments": [[9, []]]}, "without loops"),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_counts_are_bounded_by_what_the_shapes_can_need(name: str) -> None:
    raw, text = BOUNDS[name]
    with pytest.raises(WireError, match=text):
        decode(msgpack.packb(raw))


def test_a_derivative_of_any_order_is_no_longer_work() -> None:
    """Its factorial was worked out as an integer of billions of digits."""
    raw = program(
        [slot("float64", 1), slot("float64", 1)],
        [step("polygamma", [0], [1], {"n": (1 << 31) - 1})],
        feeds=[0],
        keep=[1],
    )
    worker = Worker(0)
    worker.run(header(feeds=[pack_array(np.array([0.5]))], keep=[5]), msgpack.packb(raw))
    assert np.isinf(worker.store[5][0]).all()  # type: ignore[union-attr, index]


@pytest.mark.parametrize(
    "cuts", [[PIECES, 1], [PIECES << 4, 16], [7, 1, 3, PIECES], [PIECES << 6, 16], [PIECES << 13, 1 << 10]]
)
def test_as_many_shards_as_a_large_tensor_has_are_no_fault(cuts: list[int]) -> None:
    count = sharding_from_wire([cuts]).count
    assert count >= PIECES
    read = decode(msgpack.packb(exp(cuts, count)))
    assert decode(encode(read)) == read


def test_what_is_stored_or_arrives_may_have_as_many_shards_as_it_came_with() -> None:
    """The sums of the rows of a tensor of 100 GB have 25,000 shards of one element, in later programs too."""
    decode(msgpack.packb(exp_of_stored([25_000, 1], 25_000)))
    moved = ["reshard", [[25_000, 1]], [[25_000, 0]], None]
    slots = [slot("float32", 25_000)]
    decode(msgpack.packb(program(slots, recvs=[[0, moved, 0, "large", 0]], boxes=[["large"]])))


def test_a_slot_without_a_value_is_refused() -> None:
    """It would say that the program has something large."""
    raw = exp([1 << 20, 1], 1 << 20)
    raw["slots"].append(slot("float32", 1 << 40))
    with pytest.raises(WireError, match="slots: 3 has no value"):
        decode(msgpack.packb(raw))


def test_cuts_that_the_user_gives_are_bounded_where_they_are_given() -> None:
    elements = 1_000_000
    assert sharding_of((elements,), 16).count == most_shards(elements)
    with pytest.raises(ValueError, match="125,000 shards are too many for 1,000,000 elements"):
        sharding_of((elements,), 8)
    with pytest.raises(ValueError, match="shards are too many"):
        sharding_of((elements,), Sharding((Cut.even(elements, 1),)))
    for shape in ((elements,), (10_000_000,), (1000, 1000), (3, 5, 100_000)):
        assert default_sharding(shape, 4, 32).count <= most_shards(math.prod(shape))


def test_the_parts_of_a_sum_are_counted_without_going_through_them() -> None:
    """Both sides work out what is sent: from one of 2**24 parts those are some numbers, not 2**24."""
    what = Reduce((SHARDS,), (True,), "add")
    assert what.sent(1, 0, range(1)) == [(0, 1)]  # all are one subtree
    assert what.sent(3, 1, range(1)) == [(0, 23)]  # from 5592405 to 11184810, in subtrees
    worker = Worker(0)
    raw = program(
        [slot("float32")],
        recvs=[[0, ["reduce", [SHARDS], [True], "add"], 0, "small", 0]],
        boxes=[["small"]],
        keep=[0],
    )
    two = msgpack.packb({"small": [[pack_array(np.array(2, F))]]})
    worker.run(header(keep=[5], stash=[0]), msgpack.packb(raw), two)
    assert worker.store[5] == [2]


def test_shards_that_do_not_meet_are_not_gone_through() -> None:
    """Rows to columns: of 2**32 pairs of a shard before and one after, a worker looks at its own."""
    n = 1 << 16
    rows, columns = ((Cut.even(n, 1), Cut(n)), (Cut(n), Cut.even(n, 1)))
    move = Reshard(Sharding(rows), Sharding(columns))
    found = list(move.overlaps(range(n - 2, n), range(5, 7)))
    assert [(source, target) for source, target, _ in found] == [
        (n - 2, 5),
        (n - 2, 6),
        (n - 1, 5),
        (n - 1, 6),
    ]
    assert list(move.target.overlapping(((3, 4), (0, n)), range(5, 7))) == [5, 6]


# Headers.
ONE = np.ones(4, F)
GOOD = program([slot("float32", 4), slot("float32", 4)], [step("exp", [0], [1], {})], feeds=[0], keep=[1])
HEADERS: list[tuple[dict[str, Any], str]] = [
    ({"workers": 1 << 40}, "header: for 1099511627776 workers of 65536 at most"),
    ({"workers": WORKERS + 1}, "workers of 65536 at most"),
    ({"workers": 0}, "header: for 0 workers"),
    ({"workers": -3}, "header: workers: -3"),
    ({"serial": -1}, "header: serial: -1"),
    ({"serial": (1 << 64) - 1}, "header: serial"),
    ({"epoch": 1}, "header: for epoch 1"),
    ({"keep": [-7]}, "header: keep: -7"),
    ({"keep": [(1 << 63)]}, "header: keep"),
    ({"free": [-7]}, "header: free: -7"),
    ({"free": [[]]}, "header: free: expected an integer"),
    ({"stash": [1]}, "header: 1 stash"),
    ({"profile": 1}, "header: profile"),
    ({"feeds": [["float32", [4] * 65, b""]]}, "more than 64 dimensions"),
    ({"feeds": [["float32", [1 << 62, 1 << 62, 0], b""]]}, "array: too many elements"),
]


@pytest.mark.parametrize(("fields", "text"), HEADERS)
def test_a_header_out_of_bounds_is_refused(fields: dict[str, Any], text: str) -> None:
    worker = Worker(0)
    good = {"feeds": [pack_array(ONE)], "keep": [9]}
    with pytest.raises(WireError, match=text):
        worker.run(header(**{**good, **fields}), msgpack.packb(GOOD))
    assert worker.store == {}
    worker.run(header(**good), msgpack.packb(GOOD))
    assert works(worker)


def test_one_id_for_two_values_is_refused() -> None:
    raw = msgpack.packb(program([slot("float32", 4)] * 2, feeds=[0, 1], keep=[0, 1]))
    with pytest.raises(WireError, match="one id for several values"):
        Worker(0).run(header(feeds=[pack_array(ONE)] * 2, keep=[3, 3]), raw)


# Shards that the driver sends.
LOADS: dict[str, tuple[Any, Any, str]] = {
    "bytes": (b"\xc1", ONE, "load: header is not msgpack"),
    "no map": (msgpack.packb([1]), ONE, "load: expected a map"),
    "an id of -1": (load_header(-1, [[4, 0]]), ONE, "load: id"),
    "a shard before the first": (load_header(1, [[4, 2]], -1, 1), ONE, "load: first"),
    "a shard after the last": (load_header(1, [[4, 2]], 0, 3), ONE, "load: last"),
    "from behind": (load_header(1, [[4, 2]], 1, 0), ONE, "load: last"),
    "too few elements": (load_header(1, [[4, 2]], 0, 2), ONE[:3], "load: float32 of shape"),
    "too many elements": (load_header(1, [[4, 2]], 0, 1), ONE, "load: float32 of shape"),
    "one for all": (load_header(1, [[4, 0]], 0, 1), np.ones(1, F), "load: float32 of shape"),
    "another rank": (load_header(1, [[4, 0]], 0, 1), np.ones((4, 1), F), "load: float32 of shape"),
    "objects": (load_header(1, [[4, 0]]), np.array([{}] * 4), "load: not an array of a dtype"),
    "complex numbers": (load_header(1, [[4, 0]]), np.ones(4, complex), "load: not an array of a dtype"),
    "another byte order": (load_header(1, [[4, 0]]), np.ones(4, ">f4"), "load: not an array of a dtype"),
    "a list": (load_header(1, [[4, 0]]), [1.0] * 4, "load: not an array"),
    "cut both ways": (load_header(1, [[2, 1], [2, 1]], 0, 4), np.ones((2, 2), F), "more than one dimension"),
    "pieces that overlap": (load_header(1, [[4, 2, 0, 2, 1]], 0, 2), np.ones(5, F), "pieces that overlap"),
    "a million shards": (load_header(1, [[1 << 20, 1]], 0, 1), ONE[:1], "load: 1048576 shards"),
    "no cut": (load_header(1, [[4, -1, 0]], 0, 1), ONE, "load: cut points"),
}


@pytest.mark.parametrize("name", LOADS)
def test_a_load_is_as_strict_as_a_program(name: str) -> None:
    head, array, text = LOADS[name]
    worker = Worker(0)
    with pytest.raises(WireError, match=text):
        worker.load(head, array)
    assert (worker.store, worker.slots) == ({}, {})
    assert works(worker)


def test_shards_are_loaded_in_order_and_of_one_value() -> None:
    worker = Worker(0)
    worker.load(load_header(1, [[4, 1]], 0, 2), ONE[:2])
    for head, array in (
        (load_header(1, [[4, 1]], 0, 1), ONE[:1]),  # it is there
        (load_header(1, [[4, 1]], 3, 4), ONE[:1]),  # one is left out
        (load_header(1, [[4, 2]], 1, 2), ONE[:2]),  # cut otherwise
        (load_header(1, [[4, 1]], 2, 3), ONE[:1].astype(int)),
    ):
        with pytest.raises(WireError, match="do not go with what is stored under 1"):
            worker.load(head, array)
    program_ = msgpack.packb(exp_of_stored([4, 1], 4))
    with pytest.raises(WireError, match="not those of 1 workers"):
        worker.run(header(inputs=[1], keep=[2]), program_)
    worker.load(load_header(1, [[4, 1]], 2, 4), ONE[:2])
    worker.run(header(inputs=[1], keep=[2]), program_)
    assert len(worker.store[2]) == 4


def test_the_shards_of_another_worker_are_refused() -> None:
    """As many as it should have, but of other lengths: the kernels would be told that they lie elsewhere."""
    worker = Worker(1)
    worker.load(load_header(1, [[7, 2]], 0, 2), np.ones(4, F))
    with pytest.raises(WireError, match="not those of 2 workers"):
        worker.run(header(workers=2, inputs=[1], keep=[2]), msgpack.packb(exp_of_stored([7, 2], 4)))


# What other workers send.
SUM = program(
    [slot("float32", 2)],
    recvs=[[0, ["reduce", [2], [True], "add"], 0, "small", 0]],
    boxes=[["small"]],
    keep=[0],
)
MOVE = program(
    [slot("float32", 4)],
    recvs=[[0, ["reshard", [[4, 2]], [[4, 0]], None], 0, "large", 0]],
    boxes=[["large"]],
    keep=[0],
)
PARTS = [np.ones(2, F), np.ones(2, F)]
WRONG: dict[str, list[Any]] = {
    "of another shape": [np.ones(1, F)],
    "of another dtype": [np.ones(2)],
    "of another rank": [np.ones((1, 2), F)],
    "too few": [],
}


@pytest.mark.parametrize("name", WRONG)
def test_parts_of_a_sum_that_do_not_fit_are_refused(name: str) -> None:
    sent = msgpack.packb({"small": [[pack_array(a) for a in WRONG[name]]]})
    worker = Worker(0)
    with pytest.raises(WireError, match="boxes: slot 0 cannot be made"):
        worker.run(header(keep=[5], stash=[0]), msgpack.packb(SUM), sent)
    assert works(worker)


@pytest.mark.parametrize("name", [*WRONG, "a list", "objects", "too many"])
def test_shards_that_do_not_fit_are_refused(name: str) -> None:
    last = {**WRONG, "a list": [[1.0, 1.0]], "objects": [np.array([{}, {}])], "too many": PARTS}[name]
    worker = Worker(0)
    with pytest.raises(WireError, match="boxes: "):
        worker.run(header(keep=[5], stash=[0]), msgpack.packb(MOVE), [[PARTS[0], *last]])
    worker.run(header(keep=[5], stash=[0]), msgpack.packb(MOVE), [PARTS])
    assert worker.store[5][0].tolist() == [1] * 4
    assert works(worker)


@pytest.mark.parametrize(
    "reply",
    [b"", b"\xc1", msgpack.packb({}), msgpack.packb({"small": 3}), msgpack.packb({"small": [7]}), "text"],
)
def test_a_damaged_reply_is_refused(reply: Any) -> None:
    with pytest.raises(WireError, match="reply"):
        unpack_small(reply)
    with pytest.raises(WireError, match="bundle"):
        Worker(0).bundle(b"good", [3])  # type: ignore[list-item]


def test_a_damaged_box_is_refused() -> None:
    for items in (3, "text", [3], [{}]):
        with pytest.raises(WireError, match="box"):
            unpack_large(items)  # type: ignore[arg-type]


def test_no_memory_for_a_result_is_a_failure_of_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is not the kernel that asks for it, but the loop over tiles."""
    take = Pool.take

    def short(pool: Pool, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        if np.prod(shape) > 6:
            raise MemoryError("no room")
        return take(pool, shape, dtype)

    monkeypatch.setattr(Pool, "take", short)
    slots = [slot("float32", 8), slot("float32", 8), slot("float32")]
    steps = [step("exp", [0], [1], {}, tile=0), step("sum", [0], [2], TOTAL, tile=0)]
    worker = Worker(0)
    raw = msgpack.packb(program(slots, steps, 4, feeds=[0], keep=[1, 2]))
    (reply,) = worker.run(header(feeds=[pack_array(np.ones(8, F))], keep=[8, 9]), raw)
    assert msgpack.unpackb(reply)["failures"] == [["MemoryError", "no room", 0, 1]]
    assert worker.store[9] == [8]
    assert works(worker)


def test_no_memory_for_an_answer_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(send: Any, value: Any, *rest: Any) -> Any:
        if not isinstance(value, Failure):
            raise MemoryError("no room")
        return outgoing(send, value, *rest)

    monkeypatch.setattr("distgrad.worker.worker.outgoing", short)
    worker = Worker(0)
    whole = [[4, 0]]
    raw = msgpack.packb({**GOOD, "sends": [[1, ["reshard", whole, whole, None], "large"]], "keep": []})
    reply, large = worker.run(header(feeds=[pack_array(ONE)]), raw)
    assert msgpack.unpackb(reply)["failures"] == large == [["MemoryError", "no room", -1, 1]]
    assert works(worker)
