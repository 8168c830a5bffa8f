"""Random numbers of compiled loops: NumPy's words, at any position, on several kinds of processor."""

from __future__ import annotations

import ctypes
import platform
from typing import Any

import numpy as np
import pytest

from distgrad.compiler import engine, philox
from distgrad.compiler.builder import TYPES, Builder, Lanes
from distgrad.primitives.base import Place
from distgrad.primitives.sources import random

KEYS = [(0, 0), (7, 3), (-1, 2**62)]
STARTS = [0, 1, 2, 3, 4, 31, 1_000_003, 2**40 + 1]
CPUS: list[dict[str, Any]] = [{}]
if platform.machine() in ("x86_64", "AMD64"):
    CPUS += [{"cpu": "x86-64-v3", "features": ""}, {"cpu": "x86-64-v2", "features": ""}]


def made(kind: str, dtype: str, lanes: int, **processor: Any) -> Any:
    """A function that writes so many numbers of a kind, or words, from a position on."""
    b = Builder(lanes)
    b.begin("entry")
    for n, name in enumerate(("low", "high", "first", "to")):
        b.line(f"%at.{name} = getelementptr i64, ptr %given, i64 {n}")
        b.line(f"%{name} = load {'ptr' if name == 'to' else 'i64'}, ptr %at.{name}")
    word = philox.words(b, ("%low", "%high"), "%first")
    value: Lanes = word if kind == "words" else getattr(philox, kind)(b, word, TYPES[dtype])
    b.line(f"store {b.vector(value.type)} {value.name}, ptr %to, align 4")
    lines = [*b.constants, "define void @draw(ptr %given) {", *b.lines, "  ret void", "}", *b.declared]
    function = engine.load(engine.translate("\n".join(lines), **processor), "draw")

    def run(key: tuple[int, int], first: int) -> np.ndarray:
        out = np.empty(lanes, dtype)
        arguments = (ctypes.c_int64 * 4)(*key, first, out.ctypes.data)
        function(ctypes.addressof(arguments))
        return out

    return run


@pytest.mark.parametrize("lanes", [1, 4, 32])
def test_words_are_those_of_numpy_at_any_position(lanes: int) -> None:
    draw = made("words", "int64", lanes)
    for key in KEYS:
        for first in STARTS:
            source: Any = np.random.Philox(key=np.array(key, np.int64).view(np.uint64), counter=first // 4)
            expected = source.random_raw(lanes + 3)[first % 4 :][:lanes]
            np.testing.assert_array_equal(draw(key, first).view(np.uint64), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_numbers_have_the_bits_of_the_kernel_and_normal_ones_nearly(dtype: str) -> None:
    for kind in ("uniform", "normal"):
        draws = [made(kind, dtype, 32, **processor) for processor in CPUS]
        for key, first in zip(KEYS, STARTS[5:], strict=True):
            at = Place((), (((first, first + 32),),))
            expected = random(np.array(key), (first + 32,), kind, dtype, 0, 0, at)
            got = [draw(key, first) for draw in draws]
            assert all(np.array_equal(got[0], other) for other in got[1:])
            if kind == "uniform":
                np.testing.assert_array_equal(got[0], expected)
            else:
                scale = 8 * np.finfo(dtype).eps
                np.testing.assert_allclose(got[0], expected, rtol=scale, atol=scale)
