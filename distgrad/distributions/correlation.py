"""Maps that are made of shapes, distributions and matrices: CorrCholesky, PositiveDefinite, Reshape, Cat and others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.distributions import constraints
from distgrad.distributions.maps import LowerCholeskyTransform
from distgrad.distributions.transform import Transform, sum_rightmost
from distgrad.dtype import Size, finfo
from distgrad.ops.activations import softplus
from distgrad.ops.decompositions import cholesky
from distgrad.ops.joining import cat
from distgrad.ops.making import eye, ones_like, tensor
from distgrad.ops.pointwise import atanh, log, tanh
from distgrad.tensor import Tensor


class CumulativeDistributionTransform(Transform):
    """y = cdf(x) of a distribution."""

    bijective = True
    codomain = constraints.unit_interval
    sign_of_slope = 1

    def __init__(self, distribution: Any, cache_size: int = 0):
        super().__init__(cache_size)
        self.distribution = distribution
        self.domain = distribution.support

    def _call(self, x: Tensor) -> Tensor:
        found: Tensor = self.distribution.cdf(x)
        return found

    def _inverse(self, y: Tensor) -> Tensor:
        found: Tensor = self.distribution.icdf(y)
        return found

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The logarithm of the density."""
        found: Tensor = self.distribution.log_prob(x)
        return found


class ReshapeTransform(Transform):
    """Another shape of the last dimensions."""

    bijective = True

    def __init__(self, in_shape: Any, out_shape: Any, cache_size: int = 0):
        self.in_shape, self.out_shape = Size(in_shape), Size(out_shape)
        if math.prod(self.in_shape) != math.prod(self.out_shape):
            raise ValueError("in_shape, out_shape have different numbers of elements")
        super().__init__(cache_size)
        self.domain = constraints.independent(constraints.real, len(self.in_shape))
        self.codomain = constraints.independent(constraints.real, len(self.out_shape))

    def _call(self, x: Tensor) -> Tensor:
        return x.reshape((*x.shape[: x.dim() - len(self.in_shape)], *self.out_shape))

    def _inverse(self, y: Tensor) -> Tensor:
        return y.reshape((*y.shape[: y.dim() - len(self.out_shape)], *self.in_shape))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """0."""
        return x.new_zeros(tuple(x.shape[: x.dim() - len(self.in_shape)]))

    def forward_shape(self, shape: Any) -> Any:
        """`in_shape` becomes `out_shape`."""
        return _ended(shape, self.in_shape, self.out_shape)

    def inverse_shape(self, shape: Any) -> Any:
        """`out_shape` becomes `in_shape`."""
        return _ended(shape, self.out_shape, self.in_shape)


def _ended(shape: Any, before: Size, after: Size) -> Any:
    if len(shape) < len(before):
        raise ValueError("Too few dimensions on input")
    cut = len(shape) - len(before)
    if tuple(shape[cut:]) != tuple(before):
        raise ValueError(f"Shape mismatch: expected {shape[cut:]} but got {before}")
    return (*shape[:cut], *after)


class CatTransform(Transform):
    """Other maps for each part, of these lengths, along a dimension."""

    def __init__(
        self,
        tseq: Sequence[Transform],
        dim: int = 0,
        lengths: Sequence[int] | None = None,
        cache_size: int = 0,
    ):
        super().__init__(cache_size)
        self.transforms, self.dim = list(tseq), dim
        self.lengths = [1] * len(self.transforms) if lengths is None else list(lengths)
        if len(self.lengths) != len(self.transforms):
            raise AssertionError(
                f"lengths ({len(self.lengths)}) must match transforms ({len(self.transforms)})"
            )
        self.bijective = all(t.bijective for t in self.transforms)
        self.domain = constraints.cat([t.domain for t in self.transforms], dim, self.lengths)
        self.codomain = constraints.cat([t.codomain for t in self.transforms], dim, self.lengths)

    @property
    def event_dim(self) -> int:
        """The most that a part has."""
        return max(t.event_dim for t in self.transforms)

    def _parts(self, x: Tensor) -> list[Tensor]:
        if x.size(self.dim) != sum(self.lengths):
            raise AssertionError(
                f"x.size({self.dim}) = {x.size(self.dim)} must equal length {sum(self.lengths)}"
            )
        starts = np.cumsum([0, *self.lengths[:-1]]).tolist()
        return [x.narrow(self.dim, i, n) for i, n in zip(starts, self.lengths, strict=True)]

    def _call(self, x: Tensor) -> Tensor:
        pairs = zip(self.transforms, self._parts(x), strict=True)
        return cat([t(part) for t, part in pairs], self.dim)

    def _inverse(self, y: Tensor) -> Tensor:
        pairs = zip(self.transforms, self._parts(y), strict=True)
        return cat([t.inv(part) for t, part in pairs], self.dim)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """That of each part."""
        found = []
        for t, one, other in zip(self.transforms, self._parts(x), self._parts(y), strict=True):
            here = t.log_abs_det_jacobian(one, other)
            found.append(sum_rightmost(here, self.event_dim - t.event_dim))
        dim = (self.dim - x.dim() if self.dim >= 0 else self.dim) + self.event_dim
        if dim < 0:
            return cat(found, dim)
        total = found[0]
        for more in found[1:]:
            total = total + more
        return total


class PositiveDefiniteTransform(Transform):
    """From any square matrix to L @ L.T of a lower factor L."""

    domain = constraints.independent(constraints.real, 2)
    codomain = constraints.positive_definite

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PositiveDefiniteTransform)

    __hash__ = object.__hash__

    def _call(self, x: Tensor) -> Tensor:
        lower = LowerCholeskyTransform()(x)
        return lower @ lower.mT

    def _inverse(self, y: Tensor) -> Tensor:
        return LowerCholeskyTransform().inv(cholesky(y))


def _side(count: int) -> int:
    """The d with d (d - 1) / 2 elements below the diagonal."""
    d = round((0.25 + 2 * count) ** 0.5 + 0.5)
    if d * (d - 1) // 2 != count:
        raise ValueError("Input is not a flattened lower-diagonal number")
    return d


def _below(x: Tensor) -> Tensor:
    """The elements of vectors below the diagonals of matrices."""
    d = _side(x.shape[-1])
    rows, columns = np.tril_indices(d, -1)
    place = np.zeros((d, d), np.int64)
    place[rows, columns] = np.arange(len(rows))
    mask = tensor(np.tril(np.ones((d, d)), -1).reshape(-1), dtype=x.dtype)
    return (x.index_select(-1, tensor(place.reshape(-1))) * mask).reshape((*x.shape[:-1], d, d))


def _from_below(y: Tensor, diagonal: int = -1) -> Tensor:
    """The elements of matrices below that diagonal, as vectors."""
    d = y.shape[-1]
    rows, columns = np.tril_indices(d, diagonal)
    return y.reshape((*y.shape[:-2], d * d)).index_select(-1, tensor(rows * d + columns))


class CorrCholeskyTransform(Transform):
    """From d (d - 1) / 2 numbers to the lower factor of a d by d correlation matrix, each row by breaking a stick.

    By Lewandowski, Kurowicka and Joe (2009), with tanh(x) as partial correlations.
    """

    domain = constraints.real_vector
    codomain = constraints.corr_cholesky
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        eps = finfo(x.dtype).eps
        r = _below(tanh(x).clamp(min=-1 + eps, max=1 - eps))
        left = (1 - r**2).sqrt().cumprod(-1)[..., :-1]
        shifted = cat([ones_like(r[..., :1]), left], -1)
        return (r + eye(r.shape[-1], dtype=r.dtype)) * shifted

    def _inverse(self, y: Tensor) -> Tensor:
        left = 1 - (y * y).cumsum(-1)
        shifted = cat([ones_like(y[..., :1]), left[..., :-1]], -1)
        return atanh(_from_below(y) / _from_below(shifted).sqrt())

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Half the logarithms of what is left of each stick, and those of 1 - tanh²."""
        left = _from_below(1 - (y * y).cumsum(-1), -2)
        slopes = x + softplus(-2 * x) - math.log(2.0)
        return 0.5 * log(left).sum(-1) - 2 * slopes.sum(-1)

    def forward_shape(self, shape: Any) -> Any:
        """A matrix for each vector."""
        if len(shape) < 1:
            raise ValueError("Too few dimensions on input")
        d = _side(shape[-1])
        return (*shape[:-1], d, d)

    def inverse_shape(self, shape: Any) -> Any:
        """A vector for each matrix."""
        if len(shape) < 2:
            raise ValueError("Too few dimensions on input")
        if shape[-2] != shape[-1]:
            raise ValueError("Input is not square")
        return (*shape[:-2], shape[-1] * (shape[-1] - 1) // 2)
