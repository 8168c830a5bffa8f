"""Bessel functions and Airy's, of `torch.special`. As in torch they have no derivatives; see `i0` and `i1` for some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.ops.base import Tensor, Value, op
from distgrad.ops.pointwise import floating
from distgrad.ops.samples import whole

__all__ = [
    "airy_ai",
    "bessel_j0",
    "bessel_j1",
    "bessel_y0",
    "bessel_y1",
    "modified_bessel_i0",
    "modified_bessel_i1",
    "modified_bessel_k0",
    "modified_bessel_k1",
    "scaled_modified_bessel_k0",
    "scaled_modified_bessel_k1",
    "spherical_bessel_j0",
]


def _function(name: str, doc: str, primitive: str = "") -> Callable[[Any], Tensor]:
    """The op that applies the primitive, which has the op's name if nothing else is said, to floats."""

    def body(input: Value) -> Value:
        return floating(primitive or name, input)

    body.__name__ = body.__qualname__ = name
    body.__doc__ = doc
    return op(method=False, samples=lambda: [whole(2, 3, low=1), whole(low=1)])(body)


airy_ai = _function("airy_ai", "Airy's function Ai.")
bessel_j0 = _function("bessel_j0", "The Bessel function of the first kind, order 0.")
bessel_j1 = _function("bessel_j1", "The Bessel function of the first kind, order 1.")
bessel_y0 = _function("bessel_y0", "The Bessel function of the second kind, order 0.")
bessel_y1 = _function("bessel_y1", "The Bessel function of the second kind, order 1.")
modified_bessel_i0 = _function(
    "modified_bessel_i0", "The modified Bessel function of the first kind, order 0.", "i0"
)
modified_bessel_i1 = _function(
    "modified_bessel_i1", "The modified Bessel function of the first kind, order 1.", "i1"
)
modified_bessel_k0 = _function(
    "modified_bessel_k0", "The modified Bessel function of the second kind, order 0."
)
modified_bessel_k1 = _function(
    "modified_bessel_k1", "The modified Bessel function of the second kind, order 1."
)
scaled_modified_bessel_k0 = _function("scaled_modified_bessel_k0", "exp(x) modified_bessel_k0(x).")
scaled_modified_bessel_k1 = _function("scaled_modified_bessel_k1", "exp(x) modified_bessel_k1(x).")
spherical_bessel_j0 = _function("spherical_bessel_j0", "sin(x) / x; 1 at 0.")
