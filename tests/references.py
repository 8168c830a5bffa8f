"""What each op gives, written anew in NumPy: from the op's name to a function of arrays in place of tensors.

The arguments are those of the op, in order and by name. Nothing here is shared with distgrad. float64 in, float64 out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
REFERENCES: dict[str, Callable[..., Any]] = {}

# Ops that have none, each with the reason.
NO_REFERENCE: dict[str, str] = {}


def reference(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            assert name not in REFERENCES, name
            REFERENCES[name] = function
        return function

    return enter


def same(**functions: Callable[..., Any]) -> None:
    for name, function in functions.items():
        reference(name)(function)


def numpys(names: str) -> dict[str, Callable[..., Any]]:
    """NumPy's functions of these names."""
    return {name: getattr(np, name) for name in names.split()}


# Copies and conversions.
same(
    clone=np.copy,
    _own=np.copy,
    contiguous=np.copy,
    reshard=lambda x, sharding: x,
    _reshard=lambda x, cuts: x,
    copy=lambda x, src: np.broadcast_to(src, x.shape).astype(x.dtype),
    fill=lambda x, value: np.full_like(x, value),
    zero=np.zeros_like,
    _to_copy=lambda x, dtype: x.astype(dtype.numpy),
    to=lambda x, *args: next((x.astype(a.numpy) for a in args if hasattr(a, "numpy")), x),
)


@reference("_drawn_from")
def _(input: Array, drawn: Array, node: str) -> Array:
    return drawn
