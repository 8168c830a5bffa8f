"""Decompositions of matrices, each matrix whole: svd."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distgrad.primitives.base import Attrs, Aval, Labels, primitive
from distgrad.primitives.blas import ONE_THREAD

NOT_FINITE = (
    "linalg.svd: The algorithm failed to converge because the input matrix contained non-finite values."
)


def svd(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x = u * s @ vh, with s falling, of the last two dimensions; as many columns of u and rows of vh as s is long."""
    if not np.isfinite(x).all():
        raise RuntimeError(NOT_FINITE)
    with ONE_THREAD:
        u, s, vh = np.linalg.svd(x, full_matrices=False)
    return u, s, vh


def _shapes(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    (x,) = avals
    if len(x.shape) < 2 or x.dtype.kind != "f":
        raise ValueError(f"svd: no matrix of floats, but {x}")
    *batch, m, n = x.shape
    k = min(m, n)
    return tuple(Aval((*batch, *shape), x.dtype) for shape in ((m, k), (k,), (k, n)))


def _labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    batch = tuple(range(len(avals[0].shape) - 2))
    return Labels(((*batch, None, None),), ((*batch, None, None), (*batch, None), (*batch, None, None)))


primitive(
    "svd",
    svd,
    _shapes,
    labels=_labels,
    whole=True,
    flops=lambda ins, outs, attrs: 20.0 * ins[0].size * outs[1].shape[-1],
)
