"""The calls of compiled units: where their arrays lie in a tile is told to machine code."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.compiler.emit import HEAD
from distgrad.compiler.machine import machine_code
from distgrad.compiler.nest import CHUNK, COLUMN, FULL, ONE, ROW, Nest, Space, Way, lanes, way
from distgrad.compiler.stencil import Stencil
from distgrad.program import Step
from distgrad.worker.making import Unit


class CompiledCall:
    """The call of a unit for tiles in which its frame has this `shape`, which is not empty.

    `sources`: for each input and output the register that has the array, or the array, if that is always the same.
    `scratch`: as many bytes as `scratch_bytes` says, or more. `shares`: the steps of the unit, and what part of its
    time each is told to have taken.
    """

    def __init__(
        self,
        unit: Unit,
        regs: list[Any],
        sources: Sequence[int | np.ndarray],
        shape: tuple[int, ...],
        shares: list[tuple[Step, float]],
        scratch: np.ndarray,
    ):
        nest = unit.nest
        assert isinstance(nest, Nest)
        self.regs, self.shares = regs, shares
        values = nest.addresses
        rows, columns, last = _extent(nest, unit.rows, shape)
        through = way(nest, rows, columns, last)
        self.function = machine_code(nest, through)
        self.arguments = (ctypes.c_int64 * (HEAD + 2 * len(values)))(rows, columns, last, scratch.ctypes.data)
        self.address = ctypes.addressof(self.arguments)
        size = {FULL: math.prod(shape), ROW: rows, COLUMN: columns, ONE: 1}
        tables = {taken.value: taken.rows for taken in nest.taken}
        self.changing: list[tuple[int | np.ndarray, _Place | _Box]] = []
        self.kept: list[Any] = [scratch]  # what the arguments point to for good
        for n, (source, v) in enumerate(zip(sources, values, strict=True)):
            space, dtype = nest.values[v]
            there, written = tables.get(v, rows), n >= len(nest.inputs)
            count = there * columns if v in tables else size[space]
            packed = through.short > 0
            place = _Place(self.arguments, n, space, there, columns, count, dtype, written, packed)
            self._add(source, place)

    def _add(self, source: int | np.ndarray, place: _Place | _Box) -> None:
        """An input or output. What machine code cannot use as it lies is copied in each call."""
        if isinstance(source, int) or place.put(source) is not source:
            self.changing.append((source, place))
        else:
            self.kept.append(source)

    def __call__(self) -> None:
        """Run on the arrays that are in the registers now."""
        copies = []
        for source, place in self.changing:
            array = self.regs[source] if isinstance(source, int) else source
            there = place.put(array)
            if there is not array:
                copies.append((array, there, place.written))
        self.function(self.address)
        for array, there, written in copies:
            if written:
                np.copyto(array, there)


Bounds = tuple[int, int]
NEVER = 1 << 30  # a coordinate that no box reaches
LONGEST = NEVER // 2  # of a box, along each dimension: lanes are compared in 32 bits


class StencilCall(CompiledCall):
    """The call of a stencil for tiles in which its places lie in these `regions`, in coordinates of their own.

    The other parameters are those of `CompiledCall`. The box is shorter than `LONGEST`.
    """

    def __init__(
        self,
        unit: Unit,
        regs: list[Any],
        sources: Sequence[int | np.ndarray],
        regions: Sequence[Sequence[Bounds]],
        shares: list[tuple[Step, float]],
    ):
        nest = unit.nest
        assert isinstance(nest, Stencil)
        self.regs, self.shares = regs, shares
        values, inputs = nest.addresses, len(nest.inputs)
        box = boxed(unit, regions)
        begin, lengths = [lo for lo, _ in box], [hi - lo for lo, hi in box]
        width = lanes(lengths[-1])
        self.function = machine_code(nest, Way(width, lengths[-1] % width > 0))
        bounds = []
        for spot, region in zip(unit.spots, regions, strict=True):
            own = [
                (-NEVER, NEVER) if d is None else (region[d][0] - b, region[d][1] - b)
                for d, b in zip(spot.dims, begin, strict=True)
            ]
            bounds.append(own)
        numbers = [math.prod(lengths[:-1])]
        reach = list(zip(bounds, nest.reach, strict=True))
        for d, length in enumerate(lengths):
            first = max(own[d][0] - least[d] for own, (least, _) in reach)
            last = min(own[d][1] - most[d] for own, (_, most) in reach)
            numbers += [length, first, last]
        at = len(numbers)
        numbers += [0] * (len(values) * (1 + nest.dims))
        numbers += [end for own in bounds for pair in own for end in pair]
        self.arguments = (ctypes.c_int64 * len(numbers))(*numbers)
        self.address = ctypes.addressof(self.arguments)
        self.changing = []
        self.kept = []
        for n, (source, v) in enumerate(zip(sources, values, strict=True)):
            shape = tuple([hi - lo for lo, hi in regions[n]])
            offsets = [lo for lo, _ in bounds[n]]
            dims, dtype = unit.spots[n].dims, nest.values[v].dtype
            place = _Box(self.arguments, at + n * (1 + nest.dims), shape, dims, offsets, dtype, n >= inputs)
            self._add(source, place)


def boxed(unit: Unit, regions: Sequence[Sequence[Bounds]]) -> list[Bounds]:
    """The box that a stencil goes through so that it fills its outputs and adds up all that it must."""
    nest = unit.nest
    assert isinstance(nest, Stencil)
    made = [
        (v, r)
        for v, r in zip(nest.outputs, regions[len(nest.inputs) :], strict=False)
        if nest.values[v].space == FULL
    ]
    made += [(step.out, r) for step, r in zip(reversed(nest.reductions), reversed(regions), strict=False)]
    filled = [[(lo - h, hi - h) for (lo, hi), h in zip(r, nest.homes[v], strict=True)] for v, r in made]
    there = [r for r in filled if all(lo < hi for lo, hi in r)] or [[(0, 0)] * nest.dims]
    return [(min(lo for lo, _ in along), max(hi for _, hi in along)) for along in zip(*there, strict=True)]


class _Box(NamedTuple):
    """The arguments that tell where one array lies whose first element has the coordinates `offsets`, or none."""

    arguments: Any
    at: int
    shape: tuple[int, ...]
    dims: tuple[int | None, ...]
    offsets: list[int]
    dtype: np.dtype
    written: bool

    def put(self, array: np.ndarray) -> np.ndarray:
        """As `_Place.put`."""
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(f"{array.shape} of {array.dtype}, where {self.shape} of {self.dtype} is read")
        last = self.dims[-1] if self.dims else None
        if last is not None and self.shape[last] > 1 and array.strides[last] != array.itemsize:
            array = np.empty(array.shape, array.dtype) if self.written else np.array(array, order="C")
        address = array.__array_interface__["data"][0]
        for n, (d, offset) in enumerate(zip(self.dims, self.offsets, strict=True)):
            if d is not None:
                stride = array.strides[d] if n < len(self.dims) - 1 else array.itemsize
                address -= offset * stride
                self.arguments[self.at + 1 + n] = stride
        self.arguments[self.at] = address
        return array


def _extent(nest: Nest, split: int, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """How many rows and columns are gone through, and how many columns the last row has.

    Where there is nothing for each row, all is one row, or chunks of one if it is summed: see `CHUNK`.
    """
    rows, columns = math.prod(shape[:split]), math.prod(shape[split:])
    if nest.by_rows:
        return rows, columns, columns
    if not any(nest.values[v].space == ONE for v in nest.outputs):
        return 1, rows * columns, rows * columns
    if split:
        return rows, columns, columns
    chunks = -(-columns // CHUNK)
    return chunks, min(columns, CHUNK), columns - (chunks - 1) * CHUNK


class _Place(NamedTuple):
    """The arguments that tell where one array lies, and what it must be like."""

    arguments: Any
    number: int
    space: Space
    rows: int
    columns: int
    size: int
    dtype: np.dtype
    written: bool
    packed: bool = False  # rows may not be apart from each other either

    def put(self, array: np.ndarray) -> np.ndarray:
        """Tell where `array` lies, or a copy of it, if its elements are not as machine code wants them; returns that.

        Raises ValueError for an array of another size or dtype.
        """
        if array.size != self.size or array.dtype != self.dtype:
            raise ValueError(
                f"{array.size} elements of {array.dtype}, where {self.size} of {self.dtype} are read"
            )
        stride = array.itemsize * (self.columns if self.space == FULL else 1)
        if not array.flags.c_contiguous:
            array, stride = self._strided(array, stride)
        at = HEAD + 2 * self.number
        self.arguments[at] = array.__array_interface__["data"][0]
        self.arguments[at + 1] = stride
        return array

    def _strided(self, array: np.ndarray, stride: int) -> tuple[np.ndarray, int]:
        """An array with gaps: as it is, if only rows are apart from each other."""
        shape = {FULL: (self.rows, self.columns), ROW: (self.rows,)}.get(self.space)
        seen = None
        if shape is not None and not self.packed and math.prod(shape) == self.size:
            with contextlib.suppress(ValueError):
                seen = array.reshape(shape, copy=False)
        if seen is not None and (self.space == ROW or seen.strides[1] == array.itemsize):
            return array, seen.strides[0]
        made = np.empty(array.shape, array.dtype) if self.written else np.array(array, order="C")
        return made, stride
