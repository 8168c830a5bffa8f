"""Covariances and quantiles."""

from __future__ import annotations

from typing import Any

from distgrad.ops.base import Tensor, composite, normal_dim
from distgrad.ops.compare import where
from distgrad.ops.making import as_tensor
from distgrad.ops.ordering import sort
from distgrad.ops.samples import positive, real, whole

__all__ = ["corrcoef", "cov", "quantile"]


@composite(
    samples=lambda: [
        (real(3, 5),),
        (real(4),),
        (real(2, 4), {"correction": 0}),
        (real(2, 4), {"aweights": positive(4)}),
        (real(2, 4), {"fweights": whole(4, low=1)}),
    ]
)
def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """The covariances of the rows of a matrix, whose columns are observations; `fweights` says how often each counts,
    `aweights` how much.
    """
    if input.dim() > 2:
        raise RuntimeError(
            f"cov(): expected input to have two or fewer dimensions but got an input with {input.dim()} dimensions"
        )
    x = input.reshape(1, -1) if input.dim() < 2 else input
    x = x if x.is_floating_point() else x.to(as_tensor(0.5).dtype)
    w = None
    for given in (fweights, aweights):
        if given is not None:
            w = given.to(x.dtype) if w is None else w * given.to(x.dtype)
    total: Any = x.shape[1] if w is None else w.sum()
    centred = x - (x.sum(1) if w is None else (x * w).sum(1)).unsqueeze(1) / total
    if w is None or correction == 0 or aweights is None:
        norm = total - correction
    else:
        norm = total - correction * (w * aweights.to(x.dtype)).sum() / total
    made = (
        (centred if w is None else centred * w)
        @ centred.t()
        / (norm if isinstance(norm, Tensor) else max(norm, 0))
    )
    return made.reshape(()) if input.dim() < 2 else made


@composite(samples=lambda: [(real(3, 5),), (real(4),)])
def corrcoef(input: Tensor) -> Tensor:
    """Pearson's correlation coefficients of the rows of a matrix, whose columns are observations."""
    c = cov(input)
    if not c.dim():
        return c / c
    deviation = c.diagonal().sqrt()
    return (c / deviation.unsqueeze(1) / deviation.unsqueeze(0)).clamp(-1, 1)


@composite(
    samples=lambda: [
        (real(7), 0.3),
        (real(3, 5), real(2, low=0.1, high=0.9, seed=1).detach(), 1),
        (real(4, 2), 0.5, 0, True),
    ]
)
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The q-quantiles along `dim`, or of all elements; of a vector q along a new first one. nan where there is one.

    Between two elements by `interpolation`: linear, lower, higher, nearest or midpoint.
    """
    if not input.is_floating_point():
        raise RuntimeError("quantile() input tensor must be either float or double dtype")
    if interpolation not in ("linear", "lower", "higher", "nearest", "midpoint"):
        raise RuntimeError(
            "quantile() interpolation must be one of linear, lower, higher, midpoint or nearest, but got "
            + interpolation
        )
    at = as_tensor(q, dtype=input.dtype)
    if at.dim() > 1:
        raise RuntimeError("quantile() q must be a scalar or 1D tensor")
    known = at._value.array
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise RuntimeError("quantile() q values must be in the range [0, 1]")
    x = input.reshape(-1) if dim is None else input
    d = normal_dim(0 if dim is None else dim, x.dim())
    if not x.numel():
        raise RuntimeError("quantile() input tensor must be non-empty")
    x = sort(x.unsqueeze(-1) if not x.dim() else x.transpose(d, -1) if d != x.dim() - 1 else x, -1)[0]
    made = _at(x, at.reshape(-1), interpolation)
    made = where((x != x).any(-1, keepdim=True), float("nan"), made)
    if dim is None:
        made = made.reshape(-1)
        shape = [1] * input.dim() if keepdim else []
        return made.reshape([*at.shape, *shape])
    made = made.unsqueeze(-2).transpose(d, -2) if d != x.dim() - 1 else made.unsqueeze(-2)
    made = made.movedim(-1, 0)
    made = made if keepdim else made.squeeze(d + 1)
    return made if at.dim() else made.squeeze(0)


def _at(x: Tensor, q: Tensor, interpolation: str) -> Tensor:
    """Of sorted rows (..., n) the elements at q (n - 1), between neighbours."""
    rank = q * (x.shape[-1] - 1)
    if interpolation in ("lower", "higher", "nearest"):
        rank = {"lower": rank.floor, "higher": rank.ceil, "nearest": rank.round}[interpolation]()
        return x[..., rank.long()]
    low = rank.floor()
    weight = rank - low if interpolation == "linear" else (rank - low).sign() / 2
    below, above = x[..., low.long()], x[..., rank.ceil().long()]
    return below + weight * (above - below)
