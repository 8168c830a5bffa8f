"""Programs as bytes: what the planner writes is read back alike; what is damaged is a WireError without effect."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder import Scene
from scenes import (
    PROGRAMS,
    SCENES,
    TYPES,
    Path,
    check_works,
    damaged,
    may_be,
    quick,
    recorded,
    refused,
    run,
)

from distgrad.errors import WireError
from distgrad.fields import pack_array, unpack_array
from distgrad.primitives import TABLE
from distgrad.wire import LIMIT, decode, encode


def test_the_programs_are_of_every_kind() -> None:
    programs = [decode(data) for data in PROGRAMS]
    kinds = {(type(a.what).__name__, a.channel) for p in programs for a in p.recvs}
    assert {("Reduce", "small"), ("Reshard", "each"), ("Reshard", "small"), ("Reshard", "large")} <= kinds
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


@settings(quick, max_examples=150)
@given(st.binary(max_size=60))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


@settings(quick, max_examples=150)
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


@settings(quick, max_examples=80)
@given(st.sampled_from(SCENES), st.data())
def test_a_worker_survives_flipped_bits(scene: Scene, data: st.DataObject) -> None:
    damaged = bytearray(scene.program)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    run(scene, program=bytes(damaged))


# Damaged fields.


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
        return ["", "add", "float64", "reduce", "reshard", "each", "large", "\u0000"]
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
