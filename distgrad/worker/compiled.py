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
from distgrad.compiler.nest import CHUNK, COLUMN, FULL, ONE, ROW, Nest, Space, addresses, lanes
from distgrad.program import Step
from distgrad.worker.grouping import Unit


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
        assert nest is not None
        self.regs, self.shares = regs, shares
        values = addresses(nest)
        rows, columns, last = _extent(nest, unit.rows, shape)
        width = lanes(columns)
        self.function = machine_code(nest, width, columns % width > 0 or last != columns)
        self.arguments = (ctypes.c_int64 * (HEAD + 2 * len(values)))(rows, columns, last, scratch.ctypes.data)
        self.address = ctypes.addressof(self.arguments)
        size = {FULL: math.prod(shape), ROW: rows, COLUMN: columns, ONE: 1}
        self.changing: list[tuple[int, _Place]] = []
        self.kept: list[Any] = [scratch]  # what the arguments point to for good
        for n, (source, v) in enumerate(zip(sources, values, strict=True)):
            space, dtype = nest.values[v]
            place = _Place(self.arguments, n, space, rows, columns, size[space], dtype, n >= len(nest.inputs))
            if isinstance(source, int):
                self.changing.append((source, place))
            else:
                self.kept.append(place.put(source))

    def __call__(self) -> None:
        """Run on the arrays that are in the registers now."""
        copies = []
        for register, place in self.changing:
            array = self.regs[register]
            there = place.put(array)
            if there is not array:
                copies.append((array, there, place.written))
        self.function(self.address)
        for array, there, written in copies:
            if written:
                np.copyto(array, there)


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
        if shape is not None and math.prod(shape) == self.size:
            with contextlib.suppress(ValueError):
                seen = array.reshape(shape, copy=False)
        if seen is not None and (self.space == ROW or seen.strides[1] == array.itemsize):
            return array, seen.strides[0]
        made = np.empty(array.shape, array.dtype) if self.written else np.array(array, order="C")
        return made, stride
