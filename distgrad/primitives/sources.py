"""Values that come from nowhere: positions, random numbers, `.npy` files; and writing such files.

Each piece is made where it is needed and depends on its place in the whole alone, so any cut gives the same bits.
"""

from __future__ import annotations

import itertools
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from distgrad.primitives.base import (
    DTYPES,
    Attrs,
    Aval,
    Labels,
    Place,
    Shape,
    ShapeRule,
    expect,
    expect_cuts,
    primitive,
)
from distgrad.primitives.batching import Refused
from distgrad.sharding import Bounds, Region, extent

Out = np.ndarray | None

TILE = (
    8192  # words made at a time: they stay in the cache, below the size at which malloc asks for fresh pages
)
GAP = 2048  # as many words are made and dropped sooner than the generator is set up anew, which takes 7 µs


def _slices(region: Region) -> tuple[slice, ...]:
    return tuple(slice(lo, hi) for lo, hi in region)


def iota(shape: Shape, dim: int, at: Place, cuts: Any = None, out: Out = None) -> np.ndarray:
    """The position along `dim`, for each element."""
    region = at.outs[0]
    out = np.empty(extent(region), np.int64) if out is None else out
    out[...] = np.arange(*region[dim]).reshape([-1 if d == dim else 1 for d in range(len(shape))])
    return out


# Random numbers. Element number p in C order has the 64-bit word p of the Philox4x64 stream of key (seed, draw).
class _Words:
    """The stream of words, read at rising positions."""

    def __init__(self, key: np.ndarray):
        self.key = key
        self.next = -1
        self.source: Any = None

    def read(self, start: int, n: int) -> np.ndarray:
        """Words `start : start + n`; a counter stands for four of them."""
        if self.source is None or not 0 <= start - self.next <= GAP:
            self.source = np.random.Philox(key=self.key, counter=start // 4)
            self.next = start // 4 * 4
        if start > self.next:
            self.source.random_raw(start - self.next)
        self.next = start + n
        return self.source.random_raw(n)


def _merged(shape: Shape, region: Region) -> list[tuple[int, Bounds]]:
    """Sizes and bounds of the dimensions, where a dimension that is taken in full is made one with the one before."""
    merged: list[tuple[int, Bounds]] = []
    for size, (lo, hi) in zip(shape, region, strict=True):
        if merged and (lo, hi) == (0, size):
            before, (first, last) = merged.pop()
            size, lo, hi = before * size, first * size, last * size
        merged.append((size, (lo, hi)))
    return merged or [(1, (0, 1))]


def _runs(shape: Shape, region: Region, words: _Words) -> Iterator[np.ndarray]:
    """The words of `region` in C order, about `TILE` at a time."""
    *outer, (width, (lo, hi)) = _merged(shape, region)
    strides = [math.prod(size for size, _ in outer[d + 1 :]) * width for d in range(len(outer))]
    rows, row_stride = (outer[-1][1], width) if outer and width - (hi - lo) <= GAP else ((0, 1), 0)
    together = (
        max(1, TILE // width) if row_stride else 1
    )  # rows whose words are made in one go, gaps included
    for corner in itertools.product(*(range(*bounds) for _, bounds in (outer[:-1] if row_stride else outer))):
        base = sum(i * stride for i, stride in zip(corner, strides, strict=False)) + lo
        for row in range(*rows, together):
            n = min(together, rows[1] - row)
            if n == 1:
                first = base + row * row_stride
                for start in range(first, first + hi - lo, TILE):
                    yield words.read(start, min(TILE, first + hi - lo - start))
            else:
                block = words.read(base + row * row_stride, n * width)
                yield block.reshape(n, width)[:, : hi - lo].copy().reshape(-1)


def _uniform(words: np.ndarray, dtype: np.dtype, low: int, high: int) -> np.ndarray:
    """In [0, 1): the top 24 bits for float32, the top 53 for float64."""
    bits = 24 if dtype.itemsize == 4 else 53
    made = np.right_shift(words, 64 - bits, out=words).view(np.int64).astype(dtype)
    made *= 2.0**-bits
    return made


def _normal(words: np.ndarray, dtype: np.dtype, low: int, high: int) -> np.ndarray:
    """Box and Muller: sqrt(-2 log u) cos(2 pi v), u in (0, 1] from the upper half of the word, v from the lower."""
    lower, upper = words.view(np.uint32).reshape(-1, 2).T  # little-endian
    radius = upper.astype(dtype)
    radius += 1
    radius *= 2.0**-32
    np.log(radius, out=radius)
    radius *= -2
    np.sqrt(radius, out=radius)
    angle = lower.view(np.int32).astype(dtype)
    angle *= math.pi * 2.0**-31
    np.cos(angle, out=angle)
    radius *= angle
    return radius


def _integers(words: np.ndarray, dtype: np.dtype, low: int, high: int) -> np.ndarray:
    """In low:high, as the word modulo high - low; probabilities are equal to within (high - low) / 2**64."""
    span = np.uint64(high - low)
    words -= words // span * span
    return words.view(np.int64) + low


KINDS = {"uniform": _uniform, "normal": _normal, "integers": _integers}


def random(
    key: np.ndarray,
    shape: Shape,
    kind: str,
    dtype: str,
    low: int,
    high: int,
    at: Place,
    cuts: Any = None,
    out: Out = None,
) -> np.ndarray:
    """Random numbers of a `kind`: "uniform" in [0, 1), "normal", or "integers" in low:high. `key` is (seed, draw)."""
    region = at.outs[0]
    if out is None:
        out = np.empty(extent(region), DTYPES[dtype])
    if out.size == 0:
        return out
    if not out.flags.c_contiguous:
        np.copyto(out, random(key, shape, kind, dtype, low, high, at))
        return out
    flat, filled = out.reshape(-1), 0
    for words in _runs(shape, region, _Words(np.array(key).view(np.uint64))):
        flat[filled : filled + len(words)] = KINDS[kind](words, out.dtype, low, high)
        filled += len(words)
    return out


# Files.
@contextmanager
def _opened(path: str, flags: int, offset: int, shape: Shape, dtype: np.dtype) -> Iterator[Any]:
    """An open file that has all of an array: to touch what is mapped and is not there kills the process.

    To open a pipe does not wait for the other side of it. Raises OSError.
    """
    end = offset + math.prod(shape) * dtype.itemsize
    mode = "r+b" if flags & os.O_RDWR else "rb"
    with open(path, mode, opener=lambda name, _: os.open(name, flags | os.O_NONBLOCK)) as file:
        told = os.fstat(file.fileno())
        if not stat.S_ISREG(told.st_mode) or told.st_size < end:
            raise OSError(f"{path!r} is not a file of {end:,} bytes")
        yield file


def read_npy(
    path: str,
    offset: int,
    dtype: str,
    shape: Shape,
    fortran: bool,
    at: Place,
    cuts: Any = None,
    out: Out = None,
) -> np.ndarray:
    """The piece of the array that starts at byte `offset` of the file, copied from a mapping of it."""
    region = at.outs[0]
    if out is None:
        out = np.empty(extent(region), DTYPES[dtype])
    if out.size:
        with _opened(path, os.O_RDONLY, offset, shape, out.dtype) as file:
            mapped = np.memmap(file, out.dtype, "r", offset, shape, "F" if fortran else "C")
        piece = mapped[_slices(region)]
        if out.dtype.kind == "b":  # any byte may be in a file, and NumPy counts on 0 and 1
            np.not_equal(piece.view(np.uint8), 0, out=out)
        else:
            np.copyto(out, piece)
    return out


def _run_start(region: Region, shape: Shape) -> int | None:
    """Where a piece begins in the array of `shape`, in elements, if it is one run of it in C order; else None."""
    start, whole = 0, True
    for (lo, hi), n in zip(reversed(region), reversed(shape), strict=True):
        if not whole and hi - lo != 1:
            return None
        whole = whole and hi - lo == n
    for (lo, _), n in zip(region, shape, strict=True):
        start = start * n + lo
    return start


def write_npy(x: np.ndarray, path: str, offset: int, shape: Shape, at: Place, out: Out = None) -> np.ndarray:
    """Write the piece into the C-ordered array of `shape` at byte `offset` of a file that exists; the bytes written."""
    region = at.ins[0]
    start = _run_start(region, shape)
    if x.size:
        with _opened(path, os.O_RDWR, offset, shape, x.dtype) as file:
            if start is not None:
                file.seek(offset + start * x.itemsize)
                file.write(np.ascontiguousarray(x).data)
            else:
                mapped = np.memmap(file, x.dtype, "r+", offset, shape)
                mapped[_slices(region)] = x
                mapped.flush()
    out = np.empty((), np.int64) if out is None else out
    out[...] = x.nbytes
    return out


# Shapes and labels.
def _made(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    expect_cuts(attrs["cuts"], attrs["shape"])
    return (Aval(attrs["shape"], DTYPES[attrs.get("dtype", "int64")]),)


def _positions(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    expect(0 <= attrs["dim"] < len(attrs["shape"]), "{} has no dimension {}", attrs["shape"], attrs["dim"])
    return _made(avals, attrs)


def _drawn(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    (made,), (low, high) = _made(avals, attrs), (attrs["low"], attrs["high"])
    expect(avals[0] == ((2,), DTYPES["int64"]), "a key is two int64")
    expect(attrs["kind"] in KINDS, "no kind of random numbers: {!r}", attrs["kind"])
    whole = attrs["kind"] == "integers"
    expect(made.dtype.kind == ("i" if whole else "f"), "{} numbers of {}", attrs["kind"], made.dtype)
    expect(
        not whole or -(1 << 63) <= low < high <= min(1 << 63, low + (1 << 64) - 1),
        f"no integers in {low}:{high}",
    )
    return (made,)


def _read(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    expect(attrs["offset"] >= 0, "offset {}", attrs["offset"])
    return _made(avals, attrs)


def _written(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    expect(attrs["offset"] >= 0, "offset {}", attrs["offset"])
    expect(avals[0].shape == attrs["shape"], "{} into a file of {}", avals[0].shape, attrs["shape"])
    return (Aval((), DTYPES["int64"]),)


def _made_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    return Labels(tuple((None,) * len(a.shape) for a in avals), (tuple(range(len(attrs["shape"]))),))


def _declare(name: str, kernel: Any, rule: ShapeRule, flops: float, **attrs: str) -> None:
    primitive(
        name,
        kernel,
        rule,
        labels=_made_labels,
        batch=Refused(f"vmap: {name} takes no batched operands"),
        attrs={"shape": "shape", **attrs, "cuts": "cuts"},
        traits={"into", "placed", "source", "lazy"},
        flops=flops,
    )


_declare("iota", iota, _positions, 1, dim="int")
_declare("random", random, _drawn, 30, kind="str", dtype="dtype", low="int", high="int")
_declare("read_npy", read_npy, _read, 1, path="str", offset="int", dtype="dtype", fortran="bool")
primitive(
    "write_npy",
    write_npy,
    _written,
    labels=lambda avals, attrs: Labels((tuple(range(len(avals[0].shape))),), ((),), "add"),
    batch=Refused("vmap: a batched tensor cannot be saved to a file"),
    attrs={"path": "str", "offset": "int", "shape": "shape"},
    traits={"into", "placed"},
    flops=lambda ins, outs, attrs: ins[0].size,
)
