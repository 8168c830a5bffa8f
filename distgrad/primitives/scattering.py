"""Products, maxima and minima of elements that are scattered to the same place: see `scatter_add` for their sums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distgrad.primitives.base import primitive
from distgrad.primitives.batching import shifted
from distgrad.primitives.index_rules import _added_each, _scatter_add_labels
from distgrad.primitives.indexing import ALONG, _check_positions, _into, _linear
from distgrad.primitives.reductions import Identity, _highest, _lowest, contiguous

Out = np.ndarray | None


def _scattering(ufunc: np.ufunc, identity: Identity) -> Callable[..., np.ndarray]:
    def kernel(idx: np.ndarray, src: np.ndarray, dim: int, size: int, out: Out = None) -> np.ndarray:
        """The identity, and what lies at [i][idx[i][j][k]][k] combined with src[i][j][k] for dim 1, and so on."""
        _check_positions(idx, dim, size)
        made = out
        if made is None or not made.flags.c_contiguous:
            made = np.empty((*src.shape[:dim], size, *src.shape[dim + 1 :]), src.dtype)
        made[...] = identity(src.dtype)
        if src.size:
            ufunc.at(made.reshape(-1), _linear(idx, dim, size).reshape(-1), contiguous(src).reshape(-1))
        return made if out is None or made is out else _into(made, out)

    return kernel


def _declare(name: str, ufunc: np.ufunc, identity: Identity, merge: str) -> None:
    primitive(
        name,
        _scattering(ufunc, identity),
        _added_each,
        labels=lambda avals, attrs: _scatter_add_labels(avals, attrs)._replace(merge=merge),
        batch=shifted("dim"),
        attrs=ALONG,
        traits={"into", "rounds"} if merge == "multiply" else {"into"},
    )


_declare("scatter_multiply", np.multiply, lambda dtype: 1, "multiply")
_declare("scatter_maximum", np.maximum, _lowest, "maximum")
_declare("scatter_minimum", np.minimum, _highest, "minimum")
