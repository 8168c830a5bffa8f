"""Kernels run in the driver, on whole arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.primitives import Place, Primitive
from distgrad.sharding import Region


def apply(
    primitive: Primitive,
    arrays: Sequence[np.ndarray],
    shapes: Sequence[tuple[int, ...]],
    attrs: dict[str, Any],
) -> tuple[np.ndarray, ...]:
    """The results, which have the `shapes`."""
    with np.errstate(all="ignore"):
        if primitive.placed:
            at = Place(tuple(_all(a.shape) for a in arrays), tuple(_all(shape) for shape in shapes))
            made = primitive.kernel(*arrays, at=at, **attrs)
        else:
            made = primitive.kernel(*arrays, **attrs)
    if isinstance(made, tuple):
        return tuple(np.asarray(m) for m in made)
    return (np.asarray(made),)


def _all(shape: tuple[int, ...]) -> Region:
    return tuple((0, n) for n in shape)
