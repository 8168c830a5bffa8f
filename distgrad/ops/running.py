"""Running extremes and sums of exponentials, differences, and areas by the trapezoidal rule."""

from __future__ import annotations

from typing import Any

from distgrad import session
from distgrad.dtype import INT64
from distgrad.ops.base import Like, Tensor, Value, composite, constant, normal_dim, op
from distgrad.ops.gathering import scatter_add
from distgrad.ops.joining import cat
from distgrad.ops.ordering import _later, cumsum
from distgrad.ops.pointwise import exp, floating, refuse
from distgrad.ops.samples import real
from distgrad.ops.slices import narrow

__all__ = ["cummax", "cummin", "cumulative_trapezoid", "diff", "logcumsumexp", "trapezoid", "trapz"]


def _extreme(primitive: str, input: Value, dim: int) -> tuple[Value, Value]:
    d = normal_dim(dim, len(input.shape))
    if not input.shape:
        return input, constant(0, INT64)
    values, places = session.emit_all(primitive, input, dim=d)
    return values, places


def _to_places(g: Tensor, dim: int, out: Any, like: Like) -> Tensor:
    """Each gradient is added where the extreme came from."""
    return scatter_add(like.zeros(), dim, out[1], g) if like.ndim else g


def _orders() -> list[Any]:
    return [(real(2, 4), 1), (real(4, 2), 0), (real(), 0)]


@op(returns=("values", "indices"), input=_to_places, samples=_orders)
def cummax(input: Value, dim: int) -> tuple[Value, Value]:
    """(values, indices) of the largest element up to each along `dim`; of equal ones the last; nan is the largest."""
    return _extreme("running_max", input, dim)


@op(returns=("values", "indices"), input=_to_places, samples=_orders)
def cummin(input: Value, dim: int) -> tuple[Value, Value]:
    """(values, indices) of the smallest element up to each along `dim`; of equal ones the last; nan is the smallest."""
    return _extreme("running_min", input, dim)


def _logcumsumexp_gradient(g: Tensor, input: Tensor, dim: int, out: Tensor) -> Tensor:
    """exp(x[i] - out[i]) r[i], where r[i] = Σ g[j] exp(out[i] - out[j]) over j from i on: no exponent is positive."""
    n = input.shape[dim] if input.dim() else 0
    if n == 0:  # a number, or no elements
        return g
    later, before = narrow(out, dim, 1, n - 1), narrow(out, dim, 0, n - 1)
    factor = cat([narrow(out, dim, 0, 1) * 0, exp(before - later)], dim)
    return exp(input - out) * _later(factor, g, dim)


@op(input=_logcumsumexp_gradient, samples=lambda: [(real(2, 3), 1), (real(4), 0), (real(), 0)])
def logcumsumexp(input: Value, dim: int) -> Value:
    """log of the sum of exp of each element and those before it along `dim`, without overflow."""
    refuse(input, "bi", "logcumsumexp_out_cpu")
    d = normal_dim(dim, len(input.shape))
    return floating("logcumsumexp", input, dim=d) if input.shape else input


@composite(
    samples=lambda: [(real(2, 4),), (real(4, 2), 2, 0), (real(2, 3), 1, -1, real(2, 1), real(2, 2, seed=1))]
)
def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """The differences of neighbours along `dim`, `n` times; `prepend` and `append` are joined on before."""
    if not input.dim():
        raise RuntimeError("diff expects input to be at least one-dimensional")
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    parts = [x for x in (prepend, input, append) if x is not None]
    x = cat(parts, dim) if len(parts) > 1 else input
    for _ in range(min(n, x.shape[dim])):
        length = x.shape[dim] - 1
        x = (
            narrow(x, dim, 1, length) ^ narrow(x, dim, 0, length)
            if str(x.dtype) == "torch.bool"
            else (narrow(x, dim, 1, length) - narrow(x, dim, 0, length))
        )
    return x


def _areas(y: Tensor, x: Tensor | None, dx: float, dim: int) -> Tensor:
    n = max(0, y.shape[dim] - 1)
    sums = narrow(y, dim, min(1, y.shape[dim]), n) + narrow(y, dim, 0, n)
    if x is None:
        return sums * (dx / 2)
    if x.dim() == 1 != y.dim():
        x = x.reshape([-1 if d == normal_dim(dim, y.dim()) else 1 for d in range(y.dim())])
    return sums * diff(x, dim=dim) / 2


@composite(
    method=False,
    samples=lambda: [
        (real(2, 4),),
        (real(2, 4), real(4, seed=1)),
        (real(4, 2), real(4, 2, seed=1), {"dim": 0}),
    ],
)
def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float = 1, dim: int = -1) -> Tensor:
    """The area under the points (x, y), or y at distances `dx`, along `dim`: Σ (x[i+1] - x[i]) (y[i+1] + y[i]) / 2."""
    return _areas(y, x, dx, dim).sum(dim)


@composite(method=False, samples=lambda: [(real(2, 4),), (real(2, 4), real(4, seed=1))])
def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float = 1, dim: int = -1) -> Tensor:
    """The area up to each of the points but the first."""
    return cumsum(_areas(y, x, dx, dim), dim)


trapz = trapezoid
