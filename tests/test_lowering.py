"""What compiled loops make of each primitive, beside its NumPy kernel: dtypes, odd lengths, values at the edges."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from distgrad.compiler.emit import HEAD
from distgrad.compiler.machine import machine_code
from distgrad.compiler.nest import (
    CHUNK,
    FULL,
    ONE,
    Map,
    Nest,
    Reduction,
    Value,
    scratch_bytes,
    way,
)
from distgrad.primitives import TABLE
from distgrad.primitives.base import DTYPES, Aval, Fold, Lower

ELEMENTWISE = sorted(name for name, p in TABLE.items() if isinstance(p.lower, Lower))
FOLDS = sorted(name for name, p in TABLE.items() if isinstance(p.lower, Fold) and name != "contract")
VIEWS = {"expand", "expand_dims", "squeeze_dims"}
ATTRS: dict[str, list[dict[str, Any]]] = {
    "cast": [{"dtype": name} for name in DTYPES],
    "integer_power": [{"n": n} for n in (0, 1, 2, 3, 5)],
    "round_decimals": [{"decimals": n} for n in (0, 2, -1)],
    "softplus": [{"beta": beta, "threshold": 20.0} for beta in (1.0, 2.5)],
}
ULPS = 4  # between two functions that are each right to 1 or 2 (NumPy's own to up to 4)
LENGTHS = (1, 2, 31, 32, 33, 100, 4099)


def run(nest: Nest, arrays: dict[int, np.ndarray], rows: int, columns: int, last: int | None = None) -> None:
    """Run a nest on arrays, which are packed; by the number of their values."""
    code = machine_code(nest, way(nest, rows, columns, columns if last is None else last))
    scratch = np.empty(scratch_bytes(nest, columns), np.uint8)
    words = [rows, columns, columns if last is None else last, scratch.ctypes.data]
    for value in nest.addresses:
        assert arrays[value].flags.c_contiguous
        words += [
            arrays[value].ctypes.data,
            arrays[value].itemsize * (columns if nest.values[value].space == FULL else 1),
        ]
    arguments = (ctypes.c_int64 * len(words))(*words)
    assert len(words) == HEAD + 2 * len(nest.addresses)
    code(ctypes.addressof(arguments))


def edges(dtype: np.dtype) -> np.ndarray:
    """Values at which functions are special."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind == "i":
        info = np.iinfo(dtype)
        return np.array([0, 1, -1, 2, 7, -7, info.max, info.min, info.max - 1], dtype)
    info = np.finfo(dtype)
    tiny = info.smallest_subnormal
    one = [
        0.0,
        1.0,
        0.5,
        2.0,
        3.7,
        20.5,
        88.0,
        104.0,
        2.0**31,
        2.0**63,
        info.max,
        info.tiny,
        tiny,
        3 * tiny,
        np.inf,
    ]
    return np.array([*one, *(-x for x in one), np.nan], dtype)


def operands(dtypes: Sequence[np.dtype], size: int) -> list[np.ndarray]:
    """All combinations of edges come first, then numbers at random."""
    rng = np.random.default_rng(size)
    grid = np.meshgrid(*[edges(d) for d in dtypes[:2]], indexing="ij")
    made = []
    for n, dtype in enumerate(dtypes):
        values = np.resize(grid[n].ravel(), size) if n < 2 else np.resize(edges(dtype), size)
        some = (rng.random(size) < 0.5) & (np.arange(size) >= grid[0].size)
        drawn = rng.normal(size=size) * 4 if dtype.kind == "f" else rng.integers(-5, 5, size)
        made.append(np.where(some, drawn.astype(dtype), values))
    return made


def dtypes_of(name: str) -> list[tuple[np.dtype, ...]]:
    """The operands' dtypes that a primitive may be lowered for."""
    lower = TABLE[name].lower
    assert lower is not None
    kinds = [d for d in DTYPES.values() if d.kind in lower.kinds]
    if name == "where":
        return [(np.dtype(bool), d, d) for d in kinds]
    binary = {"add", "multiply", "subtract", "divide", "maximum", "minimum", "power", "arctan2", "hypot"}
    binary |= {"copysign", "nextafter", "fmax", "fmin", "left_shift", "right_shift", "xlogy", "xlog1py"}
    binary |= {"fmod", "remainder", "floor_divide"}
    two = name in binary or (
        name.startswith(("equal", "not_equal", "less", "greater", "logical_", "bitwise_"))
        and name != "logical_not"
    )
    return [(d,) * (2 if two else 1) for d in kinds]


def accepted(name: str, dtypes: Sequence[np.dtype], attrs: dict[str, Any]) -> np.dtype | None:
    """The result's dtype; None where the primitive does not take these."""
    try:
        with np.errstate(all="ignore"):
            (out,) = TABLE[name].shape([Aval((1,), d) for d in dtypes], attrs)
    except (ValueError, TypeError):
        return None
    return out.dtype


def check(name: str, got: np.ndarray, want: np.ndarray) -> None:
    """The same, but for the last bits of functions, and which NaN it is."""
    assert got.dtype == want.dtype
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    if TABLE[name].flops == 1.0:
        np.testing.assert_array_equal(got, want)
        return
    finite = np.isfinite(want) & np.isfinite(got)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    bits = [a[finite].view(f"i{a.itemsize}").astype(np.float64) for a in (got, want)]
    same_sign = np.signbit(got[finite]) == np.signbit(want[finite])
    far = np.abs(bits[0] - bits[1]) > ULPS
    off = np.abs(got[finite].astype(float) - want[finite]) > 1e-6 * np.abs(want[finite])
    assert not (far & same_sign & off).any()
    assert np.all(same_sign | (np.abs(got[finite]) < 1e-30))


@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if name not in VIEWS])
def test_elements(name: str) -> None:
    primitive = TABLE[name]
    assert isinstance(primitive.lower, Lower)
    tried = 0
    for attrs in ATTRS.get(name, [{}]):
        for dtypes in dtypes_of(name):
            out = accepted(name, dtypes, attrs)
            if out is None:
                continue
            values = tuple(Value(FULL, d) for d in (*dtypes, out))
            ins = tuple(range(len(dtypes)))
            code = partial(primitive.lower.code, **attrs)
            nest = Nest(values, ins, (Map(len(ins), ins, code),), (len(ins),))
            for size in LENGTHS:
                arrays = operands(dtypes, size)
                result = np.empty(size, out)
                run(nest, dict(enumerate([*arrays, result])), 1, size)
                with np.errstate(all="ignore"):
                    want = np.asarray(primitive.kernel(*arrays, **attrs))
                check(name, result, want)
                tried += 1
    assert tried


@pytest.mark.parametrize("name", FOLDS)
def test_reductions_to_one(name: str) -> None:
    primitive = TABLE[name]
    assert isinstance(primitive.lower, Fold)
    for dtype in DTYPES.values():
        if (name in ("any", "all")) != (dtype.kind == "b") or (name == "prod" and dtype.kind == "b"):
            continue
        nest = Nest(
            (Value(FULL, dtype), Value(ONE, dtype)), (0,), (Reduction(1, (0,), primitive.lower.how),), (1,)
        )
        for size in (*LENGTHS, 3 * CHUNK, 3 * CHUNK + 17):
            rng = np.random.default_rng(size)
            x = (
                rng.integers(0, 2, size).astype(dtype)
                if dtype.kind == "b"
                else (rng.normal(size=size) * 3).astype(dtype)
            )
            x = 1 + x * dtype.type(1e-3) if name == "prod" and dtype.kind == "f" else x
            x = x.astype(dtype)
            for changed in (x, _with_nan(x)):
                made = np.empty((), dtype)
                chunks = -(-size // CHUNK)
                columns = min(size, CHUNK)
                run(nest, {0: changed, 1: made}, chunks, columns, size - (chunks - 1) * columns)
                with np.errstate(all="ignore"):
                    want = primitive.kernel(changed, dims=(0,), keepdim=False)
                tolerance = (
                    0
                    if dtype.kind != "f" or name in ("amax", "amin")
                    else 1e-4
                    if dtype.itemsize == 4
                    else 1e-12
                )
                np.testing.assert_allclose(made, want, rtol=tolerance, atol=tolerance * 100)


def _with_nan(x: np.ndarray) -> np.ndarray:
    made = x.copy()
    if x.dtype.kind == "f":
        made[len(x) // 2] = np.nan
    return made


def test_long_sums_are_exact() -> None:
    nest = Nest(
        (Value(FULL, np.dtype("f4")), Value(ONE, np.dtype("f4"))), (0,), (Reduction(1, (0,), "add"),), (1,)
    )
    x = np.full(3_000_000, 0.1, np.float32)
    made = np.empty((), np.float32)
    chunks = -(-x.size // CHUNK)
    run(nest, {0: x, 1: made}, chunks, CHUNK, x.size - (chunks - 1) * CHUNK)
    np.testing.assert_allclose(made, x.sum(dtype=np.float64), rtol=5e-7)


def test_infinite_sums() -> None:
    nest = Nest(
        (Value(FULL, np.dtype("f4")), Value(ONE, np.dtype("f4"))), (0,), (Reduction(1, (0,), "add"),), (1,)
    )
    for values, want in (([np.inf, 1.0], np.inf), ([np.inf, -np.inf], np.nan), ([3e38, 3e38], np.inf)):
        x = np.resize(np.array(values, np.float32), 2)
        made = np.empty((), np.float32)
        run(nest, {0: x, 1: made}, 1, 2)
        np.testing.assert_equal(made, np.float32(want))
