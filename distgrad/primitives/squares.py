"""Roots of sums of squares that neither overflow nor underflow before the root is taken: norms, standard deviations.

Squares of large, middling and small numbers are added apart, the large and small ones scaled (Blue's algorithm, as in
LAPACK's nrm2), so such a sum is made in one pass and merged as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.primitives.base import Attrs, Aval, Labels, Primitive, expect_dims, primitive
from distgrad.primitives.batching import Batch, front, up
from distgrad.primitives.reductions import Ints, contiguous, reduce_into, reduced_shape

Out = np.ndarray | None


class Range(NamedTuple):
    """Where numbers and sums of squares begin to be small or large, and what small and large numbers are scaled by."""

    small: float
    large: float
    low: float
    high: float
    up: float
    down: float


RANGES = {
    np.dtype("float32"): Range(2.0**-50, 2.0**48, 2.0**-70, 2.0**100, 2.0**100, 2.0**-76),
    np.dtype("float64"): Range(2.0**-480, 2.0**480, 2.0**-900, 2.0**990, 2.0**770, 2.0**-750),
}


def square_sums(x: np.ndarray, dims: Ints, keepdim: bool, out: Out = None) -> np.ndarray:
    """Three sums of squares along `dims`: of large numbers times `down`, of middling ones, of small ones times `up`.

    Where the plain sum is neither near overflow nor near underflow, it is all: that costs what the sum does.
    """
    shape = reduced_shape(x.shape, dims, keepdim)
    made = np.empty((3, *shape), x.dtype) if out is None or not out.flags.c_contiguous else out
    made[...] = 0
    if x.size:
        limits = RANGES[x.dtype]
        x = contiguous(x)
        large_sum, middle_sum, small_sum = (made[i : i + 1].reshape(shape) for i in range(3))
        _add_squares(x, dims, middle_sum)
        if not ((made[1] >= limits.low) & (made[1] <= limits.high)).all():
            size = np.absolute(x)
            large, small = size > limits.large, size < limits.small
            _add_squares(np.where(large, x * x.dtype.type(limits.down), 0), dims, large_sum)
            _add_squares(np.where(large | small, 0, x), dims, middle_sum)
            _add_squares(np.where(small, x * x.dtype.type(limits.up), 0), dims, small_sum)
    if out is None or made is out:
        return made
    np.copyto(out, made)
    return out


def _add_squares(x: np.ndarray, dims: Ints, out: np.ndarray) -> None:
    if dims:
        reduce_into(np.add, np.multiply(x, x), dims, out)
    else:
        np.multiply(x, x, out=out)


def root_of_squares(parts: np.ndarray, divisor: float, out: Out = None) -> np.ndarray:
    """sqrt(sum / divisor) of what `square_sums` gives."""
    limits, kind = RANGES[parts.dtype], parts.dtype.type
    up, down, n = kind(limits.up), kind(limits.down), kind(divisor)
    large, middle, small = parts
    made = np.where(
        large > 0,
        np.sqrt((large + middle * down * down) / n) / down,
        np.where(middle == 0, np.sqrt(small / n) / up, np.sqrt((middle + small / up / up) / n)),
    )
    if out is None:
        return made
    np.copyto(out, made)
    return out


def _sums_shape(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    (x,) = avals
    if x.dtype not in RANGES:
        raise ValueError(f"square_sums: no floats, but {x.dtype}")
    expect_dims(attrs["dims"], len(x.shape))
    return (Aval((3, *reduced_shape(x.shape, attrs["dims"], attrs["keepdim"])), x.dtype),)


def _sums_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    dims, keepdim = attrs["dims"], attrs["keepdim"]
    labels = tuple(range(len(avals[0].shape)))
    kept = tuple(None if d in dims else d for d in labels if keepdim or d not in dims)
    return Labels((labels,), ((None, *kept),), "add")


def _root_shape(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    (parts,) = avals
    if parts.dtype not in RANGES or parts.shape[:1] != (3,):
        raise ValueError(f"root_of_squares: no three sums of floats, but {parts}")
    return (Aval(parts.shape[1:], parts.dtype),)


def _root_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    labels = tuple(range(len(avals[0].shape) - 1))
    return Labels(((None, *labels),), (labels,))


def _sums_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    parts = batch.emit(made.name, *xs, dims=up(attrs["dims"]), keepdim=attrs["keepdim"])
    return (batch.emit("permute", parts, dims=front(len(parts.shape), 1)),)


def _root_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    return batch.apply(made.name, (batch.emit("permute", xs[0], dims=front(len(xs[0].shape), 1)),), attrs)


primitive(
    "square_sums",
    square_sums,
    _sums_shape,
    labels=_sums_labels,
    batch=_sums_batched,
    attrs={"dims": "ints", "keepdim": "bool"},
    traits={"into", "rounds"},
    flops=lambda ins, outs, attrs: 2 * ins[0].size,
)
primitive(
    "root_of_squares",
    root_of_squares,
    _root_shape,
    labels=_root_labels,
    batch=_root_batched,
    attrs={"divisor": "float"},
    traits={"into"},
    flops=10,
)
