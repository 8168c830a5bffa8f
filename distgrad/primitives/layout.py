"""Views that keep the elements and change their arrangement: permute, expand, expand_dims, squeeze_dims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.primitives.base import (
    Attrs,
    Aval,
    Labels,
    Lower,
    Place,
    Primitive,
    Shape,
    expect,
    expect_cuts,
    expect_dims,
    primitive,
)
from distgrad.primitives.batching import Batch, shifted, up
from distgrad.sharding import extent

Ints = tuple[int, ...]


def permute(x: np.ndarray, dims: Ints) -> np.ndarray:
    """Dimension `dims[i]` of x becomes dimension i."""
    return x.transpose(dims)


def expand(x: np.ndarray, shape: Shape, at: Place, cuts: Any = None) -> np.ndarray:
    """Dimensions of length 1 repeated to the length that the piece of `shape` has."""
    return np.broadcast_to(x, extent(at.outs[0]))


def expand_dims(x: np.ndarray, dims: Ints) -> np.ndarray:
    """New dimensions of length 1, at positions `dims` of the result."""
    return x[tuple(None if d in dims else slice(None) for d in range(x.ndim + len(dims)))]


def squeeze_dims(x: np.ndarray, dims: Ints) -> np.ndarray:
    """Without the dimensions `dims`, which have length 1."""
    return x.squeeze(dims)


def _permuted(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    ndim = len(avals[0].shape)
    expect(sorted(attrs["dims"]) == list(range(ndim)), "{} does not order {} dimensions", attrs["dims"], ndim)
    return (Aval(tuple(avals[0].shape[d] for d in attrs["dims"]), avals[0].dtype),)


def _permuted_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    return Labels((tuple(range(len(attrs["dims"]))),), (attrs["dims"],))


def _expanded(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    (x,), shape = avals, attrs["shape"]
    good = all(n in (1, m) for n, m in zip(x.shape, shape, strict=False))
    expect(good and len(x.shape) in (0, len(shape)), "{} cannot be expanded to {}", x.shape, shape)
    expect_cuts(attrs["cuts"], shape)
    return (Aval(shape, x.dtype),)


def _expanded_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    shape = attrs["shape"]
    return Labels(
        (tuple(d if n == shape[d] else None for d, n in enumerate(avals[0].shape)),),
        (tuple(range(len(shape))),),
    )


def _opened(shape: Sequence[Any], dims: Ints, new: Any) -> tuple[Any, ...]:
    """`shape` (or labels) with `new` put in at positions `dims` of the result."""
    rest = iter(shape)
    return tuple(new if d in dims else next(rest) for d in range(len(shape) + len(dims)))


def _widened(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    (x,), dims = avals, attrs["dims"]
    expect_dims(dims, len(x.shape) + len(dims))
    return (Aval(_opened(x.shape, dims, 1), x.dtype),)


def _squeezed(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    (x,), dims = avals, attrs["dims"]
    expect_dims(dims, len(x.shape))
    expect(
        all(x.shape[d] == 1 for d in dims), "not all of the dimensions {} of {} have length 1", dims, x.shape
    )
    return (Aval(tuple(n for d, n in enumerate(x.shape) if d not in dims), x.dtype),)


def _expand_dims_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    labels = tuple(range(len(avals[0].shape)))
    return Labels((labels,), (_opened(labels, attrs["dims"], None),))


def _squeeze_dims_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    labels = tuple(range(len(avals[0].shape) - len(attrs["dims"])))
    return Labels((_opened(labels, attrs["dims"], None),), (labels,))


def _permute_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    return batch.apply(made.name, xs, {"dims": (0, *up(attrs["dims"]))})


def _expand_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    (x,), shape = xs, attrs["shape"]
    if len(x.shape) == 1 and shape:
        x = batch.emit("expand_dims", x, dims=tuple(range(1, 1 + len(shape))))
    cuts = batch.cuts(attrs["cuts"], x.dtype.itemsize)
    return batch.apply(made.name, (x,), {"shape": (batch.size, *shape), "cuts": cuts})


DIMS = {"dims": "ints"}
SAME = Lower(lambda b, x, **_: x, "fib", light=True)  # in a loop over the elements nothing is left to do
primitive(
    "permute",
    permute,
    _permuted,
    labels=_permuted_labels,
    batch=_permute_batched,
    attrs=DIMS,
    traits={"view"},
    flops=0,
)
primitive(
    "expand",
    expand,
    _expanded,
    labels=_expanded_labels,
    batch=_expand_batched,
    attrs={"shape": "shape", "cuts": "cuts"},
    traits={"placed", "view", "lazy"},
    flops=0,
    lower=SAME,
)
primitive(
    "expand_dims",
    expand_dims,
    _widened,
    labels=_expand_dims_labels,
    batch=shifted("dims"),
    attrs=DIMS,
    traits={"view"},
    flops=0,
    lower=SAME,
)
primitive(
    "squeeze_dims",
    squeeze_dims,
    _squeezed,
    labels=_squeeze_dims_labels,
    batch=shifted("dims"),
    attrs=DIMS,
    traits={"view"},
    flops=0,
    lower=SAME,
)
