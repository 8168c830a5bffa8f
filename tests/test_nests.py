"""Nests as machine code: beside NumPy, on several kinds of processor, kept in files; what they refuse."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lowering import run
from values import same_bits

from distgrad.compiler import engine, machine, maths
from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.emit import NAME
from distgrad.compiler.nest import COLUMN, FULL, ONE, ROW, Map, Nest, Reduction, Value, scratch_bytes
from distgrad.worker import compiled
from distgrad.worker.making import Unit

F4 = np.dtype(np.float32)


# Nests at random, beside NumPy.

MAPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "add": (lambda b, x, y: b.add(x, y), np.add),
    "multiply": (lambda b, x, y: b.multiply(x, y), np.multiply),
    "maximum": (lambda b, x, y: b.maximum(x, y), np.maximum),
    "less": (lambda b, x, y: b.select(b.less(x, y), x, b.like(x, 0)), lambda x, y: np.where(x < y, x, 0)),
}
FOLDED = {"add": np.sum, "product": np.sum, "maximum": np.max, "minimum": np.min}


@st.composite
def nests(draw: st.DrawFn) -> tuple[Nest, dict[int, str]]:
    """A nest over some inputs, and what each step is."""
    spaces = draw(st.lists(st.sampled_from([FULL, ROW, COLUMN, ONE]), min_size=1, max_size=4))
    values = [Value(FULL, F4), *(Value(space, F4) for space in spaces)]
    inputs = tuple(range(len(values)))
    steps: list[Map | Reduction] = []
    what: dict[int, str] = {}
    for _ in range(draw(st.integers(1, 8))):
        # What was reduced over rows is known only at the end.
        readable = [n for n, v in enumerate(values) if n in inputs or v.space in (FULL, ROW)]
        x, y = (draw(st.sampled_from(readable)) for _ in range(2))
        both = {values[x].space, values[y].space}
        if draw(st.booleans()) and both <= {FULL, ROW} and x == y:
            space = draw(st.sampled_from([ROW, COLUMN, ONE] if FULL in both else [ONE]))
            how = draw(st.sampled_from(["add", "maximum", "minimum"]))
            steps.append(Reduction(len(values), (x,), how))
            what[len(values)] = how
        elif FULL in both and draw(st.booleans()):
            space = draw(st.sampled_from([ROW, COLUMN, ONE]))
            steps.append(Reduction(len(values), (x, y), "add"))
            what[len(values)] = "product"
        elif FULL in both or both == {ROW, COLUMN} or ROW in both:
            space = FULL if FULL in both or both == {ROW, COLUMN} else ROW
            name = draw(st.sampled_from(sorted(MAPS)))
            steps.append(Map(len(values), (x, y), MAPS[name][0], draw(st.booleans())))
            what[len(values)] = name
        else:
            continue
        values.append(Value(space, F4))
    outputs = tuple(n for n in what if values[n].space in (COLUMN, ONE) or draw(st.booleans()))
    return Nest(tuple(values), inputs, tuple(steps), outputs), what


@given(nests(), st.integers(1, 70), st.integers(1, 12) | st.integers(1, 70), st.integers(0, 1000))
@settings(max_examples=50)
def test_nests_at_random(made: tuple[Nest, dict[int, str]], rows: int, columns: int, seed: int) -> None:
    nest, what = made
    shapes = {FULL: (rows, columns), ROW: (rows, 1), COLUMN: (1, columns), ONE: (1, 1)}
    rng = np.random.default_rng(seed)
    known = {n: rng.normal(size=shapes[nest.values[n].space]).astype(F4) for n in nest.inputs}
    arrays = {n: np.full(shapes[nest.values[n].space], np.nan, F4) for n in nest.outputs} | known
    wanted: dict[int, np.ndarray] = dict(known)
    for step in nest.steps:
        shape = shapes[nest.values[step.out].space]
        ins = [wanted[i].astype(np.float64) for i in step.ins]
        if isinstance(step, Map):
            wanted[step.out] = np.broadcast_to(MAPS[what[step.out]][1](*ins), shape)
        else:
            ins = [np.broadcast_to(math.prod(ins), np.broadcast_shapes(*(x.shape for x in ins)))]
            dims = tuple(d for d in (0, 1) if shape[d] < ins[0].shape[d] or shape[d] == ins[0].shape[d] == 1)
            wanted[step.out] = FOLDED[what[step.out]](ins[0], axis=dims, keepdims=True).reshape(shape)
    run(nest, arrays, rows, columns)
    for n in nest.outputs:
        scale = max([1.0, *(float(np.abs(v).max()) for v in wanted.values())])
        np.testing.assert_allclose(arrays[n], wanted[n], rtol=1e-4, atol=1e-4 * scale)


# Processors.

FEATURES = [("x86-64-v2", ""), ("x86-64-v3", ""), (None, None)]


def softmaxes() -> Nest:
    """Rows with exponentials, sums in all directions."""
    values = [
        Value(FULL, F4),
        Value(ROW, F4),
        Value(FULL, F4),
        Value(FULL, F4),
        Value(ROW, F4),
        Value(FULL, F4),
    ]
    steps = (
        Reduction(1, (0,), "maximum"),
        Map(2, (0, 1), lambda b, x, y: b.subtract(x, y)),
        Map(3, (2,), maths.exp),
        Reduction(4, (3,), "add"),
        Map(5, (3, 4), lambda b, x, y: b.divide(x, y)),
        Reduction(6, (5,), "add"),
        Reduction(7, (5, 0), "add"),
    )
    return Nest((*values, Value(COLUMN, F4), Value(ONE, F4)), (0,), steps, (3, 4, 5, 6, 7))


@pytest.mark.skipif(
    "x86_64" not in engine.identity()[2], reason="the kinds of processor that are named are of x86-64"
)
@pytest.mark.parametrize(("rows", "columns"), [(50, 77), (77, 5)])
def test_bits_do_not_depend_on_the_processor(
    rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nest, found = softmaxes(), []
    x = np.random.default_rng(0).normal(size=(rows, columns)).astype(F4) * 20
    for cpu, features in FEATURES:
        monkeypatch.setattr(
            "test_lowering.machine_code",
            lambda nest, way, cpu=cpu, features=features: engine.load(
                engine.translate(machine.text_of(nest, way), cpu, features), NAME
            ),
        )
        made = {0: x, 3: np.empty_like(x), 4: np.empty(rows, F4), 5: np.empty_like(x)}
        made |= {6: np.empty(columns, F4), 7: np.empty((), F4)}
        run(nest, made, rows, columns)
        found.append(made)
    assert all(same_bits(found[0][n], other[n]) for other in found[1:] for n in nest.outputs)
    np.testing.assert_allclose(found[0][5].sum(1), np.ones(rows), rtol=1e-5)


# What is kept.


def test_files_are_made_once_and_damage_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGRAD_CACHE", str(tmp_path / "cache"))
    translated: list[str] = []
    translate = engine.translate
    monkeypatch.setattr(engine, "translate", lambda text: translated.append(text) or translate(text))
    nest = Nest(
        (Value(FULL, F4), Value(FULL, F4)),
        (0,),
        (Map(1, (0,), lambda b, x: b.add(x, b.like(x, 12.5))),),
        (1,),
    )

    def forgotten() -> np.ndarray:
        machine._functions.clear()
        nest.codes.clear()
        out = np.empty(9, F4)
        run(nest, {0: np.arange(9, dtype=F4), 1: out}, 1, 9)
        return out

    expected = np.arange(9, dtype=F4) + 12.5
    assert same_bits(forgotten(), expected)
    assert len(translated) == 1
    assert same_bits(forgotten(), expected)
    assert len(translated) == 1
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:50], whole[:-1], whole[:200] + b"\0" + whole[201:], b"x" * len(whole)):
        file.write_bytes(damaged)
        before = len(translated)
        assert same_bits(forgotten(), expected)
        assert len(translated) == before + 1
        assert file.read_bytes() == whole


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("DISTGRAD_CACHE", str(shared))
    assert machine.folder() is None
    shared.chmod(0o755)
    assert machine.folder() == shared
    (tmp_path / "file").touch()
    monkeypatch.setenv("DISTGRAD_CACHE", str(tmp_path / "file" / "below"))
    assert machine.folder() is None


def test_the_oldest_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "FILES", 1000)
    monkeypatch.setattr(machine, "_written", 0)
    for n in range(20):
        (tmp_path / str(n)).write_bytes(b"x" * 100)
    machine._write(tmp_path / "new", b"y" * 100)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert "new" in left
    assert 4 <= len(left) <= 6


# Faults that must be caught.


def test_arrays_of_another_size_are_refused() -> None:
    arguments = (ctypes.c_int64 * 8)()
    place = compiled._Place(arguments, 0, FULL, 3, 4, 12, F4, False)
    place.put(np.zeros((3, 4), F4))
    for wrong in (np.zeros((3, 5), F4), np.zeros((3, 4), np.float64), np.zeros(0, F4)):
        with pytest.raises(ValueError, match="elements of"):
            place.put(wrong)


@pytest.mark.parametrize("columns", [1, 3, 12])
def test_a_temporary_with_gaps_is_read_and_written_by_each_call(columns: int) -> None:
    """It lies always at the same place, but is not the same from call to call."""
    double = Map(1, (0,), lambda b, x: b.add(x, x))
    nest = Nest(
        (Value(FULL, F4), Value(FULL, F4), Value(ROW, F4)), (0,), (double, Reduction(2, (1,), "add")), (1, 2)
    )
    source, target, sums = (
        np.zeros((40, 20), F4).T[:13, ::3],
        np.zeros((13, 30), F4)[:, ::2],
        np.zeros(13, F4),
    )
    x, out = source[:, :columns], target[:, :columns]
    unit = Unit((0,), nest, ((0, FULL),), (1, 2), 1)
    scratch = np.empty(scratch_bytes(nest, columns) + 64, np.uint8)
    call = compiled.CompiledCall(unit, [], [x, out, sums], x.shape, [], scratch)
    for number in (1, 7):
        x[...] = number
        call()
        assert (out == 2 * number).all()
        assert (sums == 2 * number * columns).all()


def test_arrays_with_gaps() -> None:
    arguments = (ctypes.c_int64 * 8)()
    place = compiled._Place(arguments, 0, FULL, 3, 4, 12, F4, False)
    wide = np.zeros((3, 6), F4)[:, :4]
    assert place.put(wide) is wide
    assert arguments[5] == 24
    turned = np.arange(12, dtype=F4).reshape(4, 3).T
    copied = place.put(turned)
    assert copied is not turned
    assert copied.flags.c_contiguous
    np.testing.assert_array_equal(copied, turned)


def test_a_wrong_type_is_caught() -> None:
    with pytest.raises(AssertionError):
        Builder(8).add(Lanes("%x", "float"), Lanes("%y", "i32"))
