"""Determinants, and their gradients at singular matrices too."""

from __future__ import annotations

import math

from distgrad import session
from distgrad.ops.base import Tensor, Value, call, composite, op
from distgrad.ops.compare import where
from distgrad.ops.decompositions import _definite, _matrices, _product, _spread, inv
from distgrad.ops.linalg import _turned, linalg_svd
from distgrad.ops.making import eye

__all__ = ["det", "logdet", "slogdet"]


def _scaled(g: Tensor, x: Tensor) -> Tensor:
    return call("unsqueeze", call("unsqueeze", g, -1), -1) * x


@op(
    name="LinalgSlogdetBackward0",
    multi=True,
    returns=("sign", "logabsdet"),
    A=lambda g, A: None if g[-1] is None or len(g) < 2 else _scaled(g[1], _turned(inv(A))),
    method=("slogdet",),
    samples=lambda: [_spread(3, 3), _spread(2, 2, 2)],
)
def slogdet(A: Value) -> tuple[Value, Value]:
    """The sign of the determinant and the logarithm of its absolute value; singular matrices have no gradient."""
    sign, logarithm = session.dispatch("slogdet", [_matrices("slogdet", A)], {})
    return sign, logarithm


@op(
    name="LinalgDetBackward0",
    A=lambda g, A: _scaled(g, _cofactors(A)),
    method=("det",),
    samples=lambda: [_spread(3, 3), _spread(2, 2, 2)],
)
def det(A: Value) -> Value:
    """The determinant of (*, n, n). Its gradient are the cofactors."""
    sign, logarithm = session.dispatch("slogdet", [_matrices("det", A)], {})
    return session.emit("multiply", sign, session.emit("exp", logarithm))


def _cofactors_A(g: Tensor, A: Tensor, out: Tensor) -> Tensor:
    """(tr(gᵀ C) C - C gᵀ C) / det; of singular matrices by their singular values.

    With A = U S Vᵀ and H = Uᵀ g V that is U R Vᵀ times ±1, R[j, j] = Σ P[i, j] H[i, i], R[i, j] = -P[i, j] H[j, i],
    where P[i, j] is the product of all singular values but those of i and j.
    """
    determinant = det(A.detach())
    singular = determinant.abs() < 100 * _eps(A)
    value = singular._value.array
    inside = _scaled((out * g).sum((-2, -1)), out) - _product(_product(out, _turned(g)), out)
    regular = inside / _scaled(where(singular, 1.0, det(A)), A * 0 + 1)
    if value is not None and not value.any():
        return regular
    u, s, vh = linalg_svd(A)
    n = s.shape[-1]
    one = eye(n, dtype="bool")
    left_out = (one.unsqueeze(0) | one.unsqueeze(1)).expand((*s.shape[:-1], n, n, n))
    rest = where(left_out, 1.0, s.unsqueeze(-2).unsqueeze(-2)).prod(-1)
    rest = where(one, 0.0, rest)
    h = _product(_product(_turned(u), g), _turned(vh))
    along = (rest * h.diagonal(0, -2, -1).unsqueeze(-1)).sum(-2)
    found = where(one, along.unsqueeze(-1), -rest * _turned(h))
    sign = (det(u) * det(vh)).detach().round()
    found = _scaled(sign, _product(_product(u, found), vh))
    return where(singular.unsqueeze(-1).unsqueeze(-1), found, regular)


def _eps(x: Tensor) -> float:
    return 2.0**-23 if x.element_size() == 4 else 2.0**-52


@op(
    name="LinalgDetBackwardBackward0",
    A=_cofactors_A,
    method=False,
    samples=lambda: [_spread(3, 3), _spread(2, 2, 2)],
)
def _cofactors(A: Value) -> Value:
    """det(A) times the transposed inverse, and the cofactors of singular matrices."""
    return session.emit("cofactors", A)


@composite(samples=lambda: [_definite(3, 3), _definite(2, 2, 2)])
def logdet(input: Tensor) -> Tensor:
    """The logarithm of the determinant; nan where that is negative."""
    sign, logarithm = slogdet(input)
    return where(sign == -1.0, math.nan, logarithm)
