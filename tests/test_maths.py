"""The compiler's mathematics: errors against higher precision, ends, and the same bits for every kind of processor."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import mpmath
import numpy as np
import pytest
from scipy import special

from distgrad.compiler import engine, maths
from distgrad.compiler.builder import TYPES, Builder, Lanes
from distgrad.compiler.maths import division

BITS = {"float32": np.int32, "float64": np.int64}
LANES = {"float32": 16, "float64": 8}


class Loop:
    """A function over arrays, compiled."""

    def __init__(
        self, name: str, dtype: str, lanes: int = 0, cpu: str | None = None, features: str | None = None
    ):
        self.dtype, self.lanes = dtype, lanes or LANES[dtype]
        self.operands = 2 if name in PAIRS else 1
        self.text = self.write(WRITTEN.get(name) or getattr(maths, name))
        self.code = engine.translate(self.text, cpu, features)
        self.function = engine.load(self.code, "loop")

    def write(self, function: Callable[..., Lanes]) -> str:
        b = Builder(self.lanes)
        kind = TYPES[self.dtype]
        head = []
        for i in range(self.operands + 2):
            head.append(f"  %place{i} = getelementptr i64, ptr %given, i64 {i}")
            head.append(f"  %given{i} = load {'ptr' if i else 'i64'}, ptr %place{i}")
        b.begin("loop")
        b.line("%i = phi i64 [0, %entry], [%next, %LAST]")
        xs = []
        for i in range(self.operands + 1):
            b.line(f"%at{i} = getelementptr {kind}, ptr %given{i + 1}, i64 %i")
        for i in range(self.operands):
            b.line(f"%x{i} = load {b.vector(kind)}, ptr %at{i}, align 4")
            xs.append(Lanes(f"%x{i}", kind))
        b.line(f"store {b.vector(kind)} {function(b, *xs).name}, ptr %at{self.operands}, align 4")
        b.line(f"%next = add i64 %i, {self.lanes}")
        b.line("%more = icmp ult i64 %next, %given0")
        b.line("br i1 %more, label %loop, label %end")
        lines = [line.replace("%LAST", f"%{b.block}") for line in b.lines]
        begin = ["define void @loop(ptr %given) {", "entry:", *head, "  br label %loop"]
        return "\n".join([*b.constants, *begin, *lines, "end:", "  ret void", "}", *b.declared])

    def __call__(self, *xs: np.ndarray) -> np.ndarray:
        n = xs[0].size
        padded = [np.append(x, np.ones(-n % self.lanes, self.dtype)) for x in xs]
        out = np.empty_like(padded[0])
        given = np.array([out.size, *[x.ctypes.data for x in padded], out.ctypes.data])
        self.function(given.ctypes.data)
        return out[:n]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1) / (1 + small)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.where(x > 20, x, np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


DIVISIONS = {name: getattr(division, name) for name in ("fmod", "remainder", "floor_divide")}
WRITTEN = {"softplus": lambda b, x: maths.softplus(b, x, 1.0, 20.0), **DIVISIONS}
# Functions as NumPy has them, for a wider float; and as mpmath has them.
WIDER: dict[str, Callable[..., np.ndarray]] = {
    "erf": special.erf,
    "erfc": special.erfc,
    "log_sigmoid": lambda x: np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))),
    "sigmoid": _sigmoid,
    "softplus": _softplus,
}
EXACT: dict[str, Callable[..., mpmath.mpf]] = {
    "arccos": mpmath.acos,
    "arccosh": mpmath.acosh,
    "arcsin": mpmath.asin,
    "arcsinh": mpmath.asinh,
    "arctan": mpmath.atan,
    "arctan2": mpmath.atan2,
    "arctanh": mpmath.atanh,
    "erfc": lambda x: mpmath.erfc(min(x, 100)),
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "log2": lambda x: mpmath.log(x, 2),
    "log_sigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)) if x <= 20 else x,
}
PAIRS = {"power", "arctan2", "hypot", *DIVISIONS}
ONLY_DOUBLE = {"erf", "erfc"}  # there is no wider one
MOST = {"float32": 1.0, "float64": 2.0}  # ulp
ULPS = {"power": 2.0, "softplus": 1.1, "log_sigmoid": 1.1}  # of float32, where it is more
DTYPES = ["float32", "float64"]
NAMES = maths.__all__

both = pytest.mark.parametrize("dtype", DTYPES)
each = pytest.mark.parametrize("name", NAMES)


def wider(name: str) -> Callable[..., np.ndarray]:
    return WIDER.get(name) or getattr(np, name)


def patterns(dtype: str, n: int = 2**20) -> np.ndarray:
    """Floats of all sizes, evenly by their bits; some two are neighbours of NaN, of infinity and of 0."""
    places = np.dtype(dtype).itemsize * 8
    step = 2**places // n + 1
    bits = np.arange(0, 2**places, step, dtype=np.uint64) if n < 2**places else np.arange(2**places)
    return bits.astype(f"u{places // 8}").view(dtype)


def around(dtype: str, n: int = 20_000) -> np.ndarray:
    """Numbers of common sizes, close to each other."""
    random = np.random.default_rng(5)
    parts = [random.uniform(-1, 1, n) * size for size in (1e-3, 0.3, 1, 3, 12, 100, 750)]
    return np.concatenate([*parts, 1 + random.uniform(-1, 1, n) * 0.01]).astype(dtype)


def ends(dtype: str) -> np.ndarray:
    """Where results overflow, vanish or change their formula, with neighbours on both sides."""
    limits = np.finfo(dtype)
    some = [
        0,
        limits.max,
        limits.tiny,
        limits.smallest_subnormal,
        limits.tiny / 3,
        limits.eps,
        1,
        2,
        8,
        10,
        100,
    ]
    some += [np.log(2) / 2, np.log(float(limits.max)), 0.5, 104, 745.2, 709.5, 88.5, 3e-5]
    x = np.array(some, dtype)
    with np.errstate(over="ignore"):
        x = np.concatenate([x, np.nextafter(x, np.zeros_like(x)), np.nextafter(x, np.full_like(x, np.inf))])
    return np.concatenate([x, -x, np.array([np.nan], dtype)])


def ulps(made: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The error of each number, in units of the last place of the right one; infinite where an end is missed."""
    limits = np.finfo(made.dtype)
    with np.errstate(all="ignore"):
        rounded = right.astype(made.dtype)
        least = np.finfo(made.dtype).minexp - limits.nmant
        unit = np.ldexp(right.dtype.type(1), np.maximum(np.frexp(right)[1] - limits.nmant - 1, least))
        error = np.abs(made.astype(right.dtype) - right) / unit
    same = (made == rounded) | (np.isnan(made) & np.isnan(rounded))
    finite = np.isfinite(rounded) & np.isfinite(made)
    return np.where(same, np.where(finite, error, 0), np.where(finite, error, np.inf)).astype(np.float64)


@both
def test_the_measure_of_errors_sees_two_units_and_missed_ends(dtype: str) -> None:
    right = np.array([1.0, -3.7, 1e-44, np.inf, np.nan], np.longdouble)
    made = right.astype(dtype)
    assert ulps(made, right).max() <= 0.5
    up = np.full_like(made, np.inf)
    moved = np.nextafter(np.nextafter(made, up), up)
    assert (ulps(moved, right)[:2] >= 1.5).all()
    assert ulps(made[::-1], right).max() == np.inf


def worst(name: str, *xs: np.ndarray) -> tuple[float, str]:
    dtype = xs[0].dtype.name
    made = Loop(name, dtype)(*xs)
    with np.errstate(all="ignore"):
        right = wider(name)(*[x.astype(np.float64 if dtype == "float32" else np.longdouble) for x in xs])
    errors = ulps(made, right)
    i = int(errors.argmax())
    return float(errors[i]), f"{name}({', '.join(repr(x[i]) for x in xs)}) = {made[i]!r}, not {right[i]!r}"


def limit(name: str, dtype: str) -> float:
    return ULPS.get(name, MOST[dtype]) if dtype == "float32" else MOST[dtype]


def operands(name: str, *xs: np.ndarray) -> list[list[np.ndarray]]:
    """Samples of one kind after the other; a second operand is the same numbers in another order, or small ones."""
    if name not in PAIRS:
        return [[x] for x in xs]
    random = np.random.default_rng(6)
    made = []
    for x in xs:
        made.append([x, random.permutation(x)])
        made.append([x, random.uniform(-4, 4, x.size).astype(x.dtype)])
        made.append([np.abs(x), random.integers(-3, 4, x.size).astype(x.dtype)])
    x = (1 + random.uniform(-1e-3, 1e-3, 20_000)).astype(xs[0].dtype)
    return [*made, [x, (random.uniform(-1e5, 1e5, x.size)).astype(x.dtype)]]


@each
def test_float32_is_right_to_the_last_bit(name: str) -> None:
    for xs in operands(name, patterns("float32", 2**17), around("float32", 5000), ends("float32")):
        error, what = worst(name, *xs)
        assert error <= limit(name, "float32"), (error, what)


@pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63,
    reason="NumPy has no wider float here; mpmath judges fewer of them below",
)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONLY_DOUBLE])
def test_float64_is_right_to_the_last_two_bits(name: str) -> None:
    for xs in operands(name, patterns("float64", 50_000), around("float64", 3000), ends("float64")):
        error, what = worst(name, *xs)
        assert error <= limit(name, "float64"), (error, what)


@pytest.mark.sweep
@pytest.mark.parametrize("name", [name for name in NAMES if name not in PAIRS])
def test_every_float32(name: str) -> None:
    """All of them take minutes for each function, so that is for EVERY=1; else a block of each 128."""
    loop, right = Loop(name, "float32"), wider(name)
    for first in range(0, 2**32, 2**22 if os.environ.get("EVERY") else 2**29):
        x = np.arange(first, first + 2**22, dtype=np.uint64).astype(np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            errors = ulps(loop(x), right(x.astype(np.float64)))
        assert errors.max() <= limit(name, "float32"), (x[errors.argmax()], errors.max())


def exactly(name: str, *xs: float) -> mpmath.mpf:
    return (EXACT.get(name) or getattr(mpmath, name))(*[mpmath.mpf(float(x)) for x in xs])


def assert_near(y: float, right: mpmath.mpf, limits: np.finfo, most: float) -> None:
    """Within `most` units in the last place; infinite from half a unit below 2^maxexp on."""
    if abs(right) >= mpmath.mpf(2) ** limits.maxexp * (1 - mpmath.mpf(2) ** -(limits.nmant + 2)):
        assert np.isinf(y), y
        assert (y > 0) == (right > 0), y
        return
    least = limits.minexp - limits.nmant
    place = max(mpmath.mag(right) - limits.nmant - 1, least) if right else least
    assert abs(mpmath.mpf(float(y)) - right) <= most * mpmath.mpf(2) ** place, (y, right)


@each
@both
def test_errors_against_mpmath(name: str, dtype: str) -> None:
    limits = np.finfo(dtype)
    x = np.concatenate([around(dtype)[:: 150 if name in ONLY_DOUBLE else 700], patterns(dtype)[::9999]])
    x = x[np.isfinite(x)]
    xs = [x, np.random.default_rng(7).uniform(-8, 8, x.size).astype(dtype)][: 2 if name in PAIRS else 1]
    made = Loop(name, dtype)(*xs)
    with mpmath.workprec(160):
        for y, *given in zip(made, *xs, strict=True):
            if np.isnan(y):
                with np.errstate(all="ignore"):
                    assert np.isnan(wider(name)(*[np.float64(a) for a in given])), given
            else:
                assert_near(y, exactly(name, *given), limits, limit(name, dtype))


@each
@both
def test_zeros_and_infinities_have_the_signs_of_numpy(name: str, dtype: str) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2, -3, 0.5], dtype)
    xs = [x] if name not in PAIRS else [a.ravel() for a in np.meshgrid(x, x)]
    made = Loop(name, dtype)(*xs)
    with np.errstate(all="ignore"):
        right = wider(name)(*xs)
    assert np.array_equal(np.isnan(made), np.isnan(right)), made
    ended = np.isin(xs[0], [0, np.inf, -np.inf]) | np.isin(xs[-1], [0, np.inf, -np.inf])
    assert np.array_equal(made[ended], right[ended], equal_nan=True), (made, right)
    known = ~np.isnan(right)
    assert np.array_equal(np.signbit(made[known]), np.signbit(right[known])), (made, right)


@each
@both
def test_bits_depend_neither_on_the_processor_nor_on_the_lanes(name: str, dtype: str) -> None:
    x = np.concatenate([patterns(dtype, 3000), around(dtype, 100), ends(dtype)])
    xs = [x, np.roll(x, 17)][: 2 if name in PAIRS else 1]
    ways: list[dict[str, Any]] = [{"lanes": 4}]
    if platform.machine() in ("x86_64", "AMD64"):
        ways += [{"cpu": "x86-64-v3", "features": ""}, {"cpu": "x86-64-v2", "features": ""}]
    first = Loop(name, dtype)(*xs)
    first[np.isnan(first)] = np.nan  # whose sign and payload are the processor's
    for way in ways:
        made = Loop(name, dtype, **way)(*xs)
        made[np.isnan(made)] = np.nan
        differs = made.view(BITS[dtype]) != first.view(BITS[dtype])
        assert not differs.any(), (way, x[differs][:5], made[differs][:5], first[differs][:5])


@pytest.mark.parametrize("name", sorted(DIVISIONS))
@both
def test_divisions_leave_what_numpy_leaves(name: str, dtype: str) -> None:
    random = np.random.default_rng(8)
    whole = random.integers(-9, 9, 5000).astype(dtype)
    for x, y in (
        (patterns(dtype, 20_000), random.permutation(patterns(dtype, 20_000))),  # far quotients
        (whole * random.integers(-(2**20), 2**20, whole.size).astype(dtype), whole),  # without remainder
        *[(around(dtype, 2000), size * random.permutation(around(dtype, 2000))) for size in (1, 1e-3)],
        [a.ravel() for a in np.meshgrid(ends(dtype), ends(dtype))],
    ):
        with np.errstate(all="ignore"):
            xs = x.astype(dtype), y.astype(dtype)
            right = getattr(np, name)(*xs)
        made = Loop(name, dtype)(*xs)
        same = (made.view(BITS[dtype]) == right.view(BITS[dtype])) | (np.isnan(made) & np.isnan(right))
        assert same.all(), (x[~same][:5], y[~same][:5], made[~same][:5], right[~same][:5])


ARM = """
#include <stdio.h>
#include <stdlib.h>
void loop(void *given);
int main(int argc, char **argv) {
    long given[4] = {atol(argv[1])};
    int operands = atoi(argv[2]), size = atoi(argv[3]);
    for (int i = 0; i <= operands; i++) given[1 + i] = (long)malloc(given[0] * size);
    for (int i = 0; i < operands; i++)
        if (fread((void *)given[1 + i], size, given[0], stdin) != given[0]) return 1;
    loop(given);
    return fwrite((void *)given[1 + operands], size, given[0], stdout) != given[0];
}
"""


@pytest.mark.sweep
@pytest.mark.skipif(
    not (shutil.which("qemu-aarch64") and shutil.which("aarch64-linux-gnu-gcc")),
    reason="needs an emulator of Arm, qemu-user, and a C compiler for it",
)
@each
@both
def test_bits_are_the_same_on_arm(name: str, dtype: str, tmp_path: Path) -> None:
    x = np.concatenate([patterns(dtype, 20_000), around(dtype, 500), ends(dtype)])
    x = x[: x.size // 64 * 64]
    xs = [x, np.roll(x, 17)][: 2 if name in PAIRS else 1]
    here = Loop(name, dtype)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    arm = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(reloc="pic", opt=2)
    (tmp_path / "loop.o").write_bytes(arm.emit_object(llvm.parse_assembly(here.text)))
    (tmp_path / "main.c").write_text(ARM)
    build = ["aarch64-linux-gnu-gcc", "-static", "main.c", "loop.o", "-lm", "-o", "main"]
    subprocess.run(build, cwd=tmp_path, check=True, timeout=60)
    run = ["qemu-aarch64", str(tmp_path / "main"), str(x.size), str(len(xs)), str(x.itemsize)]
    given = b"".join(a.tobytes() for a in xs)
    made = np.frombuffer(
        subprocess.run(run, input=given, stdout=subprocess.PIPE, check=True, timeout=60).stdout, dtype
    )
    right = here(*xs)
    same = (made.view(BITS[dtype]) == right.view(BITS[dtype])) | (np.isnan(made) & np.isnan(right))
    assert same.all(), (x[~same][:5], made[~same][:5], right[~same][:5])
