"""Hostile programs: some thousand, in a process of their own, between guards; and faults that they must find.

The large run is `make fuzz`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzz
import msgpack
import numpy as np
import pytest
from guarded import POISONS, Guards, guarded
from hostile_calls import Call, Rig
from messages import header, program, slot, step

import distgrad.worker.worker as worker_module
from distgrad import checks
from distgrad.primitives import TABLE, Aval
from distgrad.program import Slot
from distgrad.sharding import Sharding

F = np.float32


def test_some_hostile_programs() -> None:
    report = fuzz.run(60, seed=3)
    assert report["found"] == []
    assert report["counts"]["done"] > 15
    assert report["counts"]["refused"] > 15


@pytest.mark.fuzz
def test_many_hostile_programs() -> None:
    report = fuzz.run(int(os.environ.get("PROGRAMS", "20000")), seed=4, processes=2, real=400)
    assert report["found"] == []


HANGS = """
import json, pathlib, struct, sys, time
first, last, folder = sys.argv[2:5]
time.sleep(0.6)
at, report = (pathlib.Path(f"{folder}/{first}.{end}") for end in ("at", "json"))
number = min(max(5, int(first)), int(last) - 1)
at.write_bytes(struct.pack("q", number))
time.sleep(60 * (number == 5))
report.write_text(json.dumps({"counts": {"done": int(last) - int(first)}, "found": []}))
"""


def test_one_that_hangs_is_told_once_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    monkeypatch.setattr(fuzz, "__file__", str(script))
    monkeypatch.setattr(fuzz, "LONG", 1)
    report = fuzz.run(199)
    assert report["counts"] == {"done": 199, "found": 1}
    assert report["found"] == [{"index": 5, "error": "the process hangs", "where": ""}]


# Planted faults.
@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        worker_module, "unpack_array", worker_module.unpack_array
    )  # the rig puts its own there
    with guarded() as guards:
        yield Rig(guards)


def stored(name: str, arrays: list[np.ndarray], attrs: dict[str, Any], out: Any) -> Call:
    """One step on stored values."""
    ins = list(range(len(arrays)))
    slots = [slot(a.dtype.name, *a.shape) for a in arrays]
    raw = program([*slots, out], [step(name, ins, [len(ins)], attrs)], inputs=ins, keep=[len(ins)])
    store = {10 + i: (Slot(a.dtype, Sharding.whole(a.shape)), [a]) for i, a in enumerate(arrays)}
    head = header(inputs=list(store), keep=[100])
    return Call(0, 1, store, {}, head, msgpack.packb(raw), [])


def plant(patch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    patch.setitem(TABLE, name, dataclasses.replace(TABLE[name], **fields))


X = np.arange(1, 7, dtype=F).reshape(2, 3)
IDX = np.array([0, 1, 2])
ADDED = stored("index_add", [IDX, X], {"dim": 1, "size": 9}, slot("float32", 2, 9))
TAKEN = stored("take", [X, np.array([0, -9])], {"dim": 1, "size": 3, "wrap": True}, slot("float32", 2, 2))


def test_good_programs_are_found_good(rig: Rig) -> None:
    assert rig.check(ADDED) == "done"
    assert rig.check(TAKEN) == "failed"  # there is no -9 of 3
    assert rig.check(stored("exp", [X], {}, slot("float32", 2, 3))) == "done"


def test_a_result_that_is_not_filled_is_found(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(x: np.ndarray, out: np.ndarray) -> np.ndarray:
        np.exp(x[:1], out=out[:1])
        return out

    plant(monkeypatch, "exp", kernel=half)
    with pytest.raises(AssertionError, match="depends on other memory"):
        rig.check(stored("exp", [X], {}, slot("float32", 2, 3)))


def test_a_check_that_the_decoder_lacks_is_found(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """`argmax` of nothing gave what was in memory."""

    def unchecked(x: np.ndarray, dim: int, keepdim: bool, out: np.ndarray) -> np.ndarray:
        return np.argmax(x, axis=dim, keepdims=keepdim, out=out) if x.size else out

    call = stored("argmax", [np.ones((0, 3), F)], {"dim": 0, "keepdim": False}, slot("int64", 3))
    assert rig.check(call) == "refused"
    plant(
        monkeypatch, "argmax", kernel=unchecked, shape=lambda avals, attrs: (Aval((3,), np.dtype("int64")),)
    )
    with pytest.raises(AssertionError, match="depends on other memory"):
        rig.check(call)


def test_an_index_that_reads_beyond_its_array_is_found(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrapping(x: np.ndarray, idx: np.ndarray, **rest: Any) -> np.ndarray:
        out: np.ndarray = rest["out"]
        flat = np.lib.stride_tricks.as_strided(x.reshape(-1), (x.size + 9,), (x.itemsize,))
        out[...] = flat[x.size - 1 - idx]  # position -9 lies after the last
        return out

    plant(monkeypatch, "take", kernel=wrapping)
    with pytest.raises(AssertionError, match="depends on other memory"):
        rig.check(TAKEN)


def test_a_write_beyond_a_result_is_found(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def beyond(x: np.ndarray, out: np.ndarray) -> np.ndarray:
        np.exp(x, out=out)
        np.lib.stride_tricks.as_strided(out.reshape(-1), (out.size + 1,), (out.itemsize,))[-1] = 1
        return out

    plant(monkeypatch, "exp", kernel=beyond)
    with pytest.raises(AssertionError, match="a write outside of 24 bytes"):
        rig.check(stored("exp", [X], {}, slot("float32", 2, 3)))


def test_a_result_of_another_dtype_is_found(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "ENABLED", False)  # they would find it first
    plant(monkeypatch, "permute", kernel=lambda x, dims: x.transpose(dims).astype("float64"))
    with pytest.raises(AssertionError, match="float64 is stored as float32"):
        rig.check(stored("permute", [X], {"dims": [1, 0]}, slot("float32", 3, 2)))


def test_guards_have_two_poisons() -> None:
    guards = Guards()
    for poison in POISONS:
        guards.begin(poison)
        array = guards.empty((2, 3), F)
        assert (array.view(np.uint8) == poison).all()
        guards.end()
