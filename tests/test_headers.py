"""The header and the boxes of a call: damaged, of other types, or for another program."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder import Scene, picture
from scenes import (
    SCENES,
    TYPES,
    damaged,
    header_of,
    quick,
    refused,
    run,
)

from distgrad.cutting import sharding_of
from distgrad.errors import WireError
from distgrad.fields import pack_array


@pytest.mark.parametrize("number", range(len(SCENES)))
def test_every_truncated_header_is_refused(number: int) -> None:
    scene = SCENES[number]
    for n in range(0, len(scene.header), 7):
        refused(scene, header=scene.header[:n])


@settings(quick, max_examples=80)
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


def test_what_is_donated_is_an_input_of_its_own() -> None:
    scene = with_inputs()
    head = header_of(scene)
    for donate in ([999], [*head["inputs"], -1]):
        refused(scene, "header: donate", header=msgpack.packb({**head, "donate": donate}))
    twice = {**head, "inputs": head["inputs"][:1] * 2, "donate": head["inputs"][:1]}
    refused(scene, "donate has an id that is not of one input", header=msgpack.packb(twice))


def test_what_is_donated_is_gone_afterwards_and_changes_no_result() -> None:
    scene = with_inputs()
    head = header_of(scene)
    kept, given_away = scene.worker(), scene.worker()
    kept.run(scene.header, scene.program, *scene.boxes)
    header = msgpack.packb({**head, "donate": list(dict.fromkeys(head["inputs"]))})
    given_away.run(header, scene.program, *scene.boxes)
    assert not given_away.store.keys() & set(head["inputs"])
    for number in head["keep"]:
        for one, other in zip(kept.store[number], given_away.store[number], strict=True):
            np.testing.assert_array_equal(one, other)


def test_while_a_profile_is_on_other_boxes_are_refused_as_ever() -> None:
    for scene in (s for s in SCENES if s.boxes):
        header = msgpack.packb({**header_of(scene), "profile": True})
        for i, box in enumerate(scene.boxes):
            if isinstance(box, list) and box:
                for item in ([[[]]], [[[[1.0]]]], [[["x"]]], [[[None]]]):
                    boxes = (*scene.boxes[:i], item, *scene.boxes[i + 1 :])
                    refused(scene, "boxes", header=header, boxes=boxes)
