"""Normalisation to mean 0 and variance 1 along some dimensions, and its derivative, as one kernel each.

As ops it is a dozen kernels forward and two dozen back: for small tensors their calls are all of the time, for larger
ones each is a pass over the elements. The steps are those of the ops, to the last bit. `dims`, along which mean and
variance are taken, are whole. With `centre` false the mean is taken as 0 (RMS norm). Weight and bias have as many
dimensions as x, of length 1 where they broadcast; x̂ are the normalised elements (x - mean) r, with
r = 1 / sqrt(variance + eps).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from distgrad.primitives.base import TABLE, Attrs, Aval, Labels, expect, expect_dims, primitive
from distgrad.primitives.batching import shifted
from distgrad.primitives.kernels import rsqrt
from distgrad.primitives.reductions import reduced_shape

Ints = tuple[int, ...]
Out = np.ndarray | None
SUM = TABLE["sum"].kernel


def _mean(x: np.ndarray, dims: Ints, dtype: str | None = None) -> np.ndarray:
    """The mean along `dims`, which are kept with length 1; worked out in another dtype where that is said."""
    found: np.ndarray = SUM(x, dims, True, dtype)
    np.divide(found, found.dtype.type(max(1, math.prod([x.shape[d] for d in dims]))), out=found)
    return found.astype(x.dtype, copy=False)


def _scale(variance: np.ndarray, eps: float) -> np.ndarray:
    return rsqrt(np.add(variance, variance.dtype.type(eps)))


def standardize(
    x: np.ndarray, *affine: np.ndarray, dims: Ints, eps: float, centre: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x̂, times a weight, plus a bias, where given; the mean, worked out in float64; the mean squared deviation."""
    if centre:
        mean = _mean(x, dims, "float64")
        out = np.subtract(x, mean)
    else:
        mean = np.zeros(reduced_shape(x.shape, dims, True), x.dtype)
        out = x
    variance = _mean(np.multiply(out, out), dims)
    out = np.multiply(out, _scale(variance, eps), out=out if centre else None)
    for ufunc, p in zip((np.multiply, np.add), affine, strict=False):
        ufunc(out, p, out=out)
    return out, mean, variance


def _normal(x: np.ndarray, mean: np.ndarray, scale: np.ndarray, centre: bool) -> np.ndarray:
    if not centre:
        return np.multiply(x, scale)
    made = np.subtract(x, mean)
    return np.multiply(made, scale, out=made)


def standardize_input(
    g: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    *weight: np.ndarray,
    dims: Ints,
    eps: float,
    centre: bool,
    out: Out = None,
) -> np.ndarray:
    """r (h - mean(h) - x̂ mean(h x̂)) with h = g weight: the gradient of x."""
    scale = _scale(variance, eps)
    normal = _normal(x, mean, scale, centre)
    h = np.multiply(g, weight[0]) if weight else g
    out = np.empty(x.shape, x.dtype) if out is None else out
    np.multiply(normal, _mean(np.multiply(h, normal, out=out), dims), out=normal)
    np.subtract(np.subtract(h, _mean(h, dims), out=out) if centre else h, normal, out=out)
    return np.multiply(out, scale, out=out)


def standardize_weight(
    g: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    summed: Ints,
    eps: float,
    centre: bool,
    out: Out = None,
) -> np.ndarray:
    """The sum of g x̂ along `summed`, which are kept with length 1: the gradient of the weight."""
    made = _normal(x, mean, _scale(variance, eps), centre)
    np.multiply(made, g, out=made)
    found: np.ndarray = SUM(made, summed, True, out=out)
    return found


# Shapes and labels.
def _expect_parameters(x: Aval, parameters: Sequence[Aval]) -> None:
    expect(x.dtype.kind == "f", "{} is not normalised", x.dtype)
    for p in parameters:
        fits = len(p.shape) == len(x.shape) and all(
            n in (1, m) for n, m in zip(p.shape, x.shape, strict=True)
        )
        expect(fits and p.dtype == x.dtype, "{} does not broadcast to {}", p, x)


def _forward_shape(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    x, *affine = avals
    expect(len(affine) <= 2, "a weight and a bias, not {} operands", len(affine))
    _expect_parameters(x, affine)
    expect_dims(attrs["dims"], len(x.shape))
    moments = Aval(reduced_shape(x.shape, attrs["dims"], True), x.dtype)
    return x, moments, moments


def _backward_shape(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    expect(4 <= len(avals) <= 5, "{} operands", len(avals))
    g, x, mean, variance, *weight = avals
    expect(g == x, "the gradient {} of {}", g, x)
    _expect_parameters(x, [mean, variance, *weight])
    expect(mean == variance, "{} and {}", mean, variance)
    dims = attrs["summed" if "summed" in attrs else "dims"]
    expect_dims(dims, len(x.shape))
    if "summed" in attrs:
        return (Aval(reduced_shape(x.shape, dims, True), x.dtype),)
    expect(mean.shape == reduced_shape(x.shape, dims, True), "means {} along {}", mean, dims)
    return (x,)


def _free(avals: Sequence[Aval], x: Aval, whole: Ints) -> list[tuple[int | None, ...]]:
    """All dimensions but those that are whole, and those along which an operand broadcasts."""
    return [
        tuple(
            None if d in whole or n != m else d
            for d, (n, m) in enumerate(zip(aval.shape, x.shape, strict=True))
        )
        for aval in avals
    ]


def _forward_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    ins = _free(avals, avals[0], attrs["dims"])
    return Labels(tuple(ins), (ins[0],) * 3)


def _input_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    ins = _free(avals, avals[1], attrs["dims"])
    return Labels(tuple(ins), (ins[1],))


def _weight_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    ins = _free(avals, avals[1], ())
    return Labels(
        tuple(ins), (tuple(None if d in attrs["summed"] else d for d in range(len(ins[1]))),), "add"
    )


primitive(
    "standardize",
    standardize,
    _forward_shape,
    labels=_forward_labels,
    batch=shifted("dims"),
    attrs={"dims": "ints", "eps": "float", "centre": "bool"},
    traits={"rounds"},
    flops=lambda ins, outs, attrs: 8 * ins[0].size,
)
primitive(
    "standardize_input",
    standardize_input,
    _backward_shape,
    labels=_input_labels,
    batch=shifted("dims"),
    attrs={"dims": "ints", "eps": "float", "centre": "bool"},
    traits={"into", "rounds"},
    flops=12,
)
primitive(
    "standardize_weight",
    standardize_weight,
    _backward_shape,
    labels=_weight_labels,
    batch=shifted("summed"),
    attrs={"summed": "ints", "eps": "float", "centre": "bool"},
    traits={"into", "rounds"},
    flops=lambda ins, outs, attrs: 5 * ins[0].size,
)
