"""The normal distribution of vectors."""

from __future__ import annotations

import math
from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.distribution import Distribution, parameters
from distgrad.distributions.kl import register_kl
from distgrad.distributions.utils import lazy_property, normal
from distgrad.dtype import Size
from distgrad.ops.decompositions import cholesky, cholesky_inverse, solve_triangular
from distgrad.ops.pointwise import log
from distgrad.primitives.elementwise import broadcast_shape
from distgrad.tensor import Tensor


def _factor_of_inverse(precision: Tensor) -> Tensor:
    """The lower L with L @ L.T = precision⁻¹, from the factor of the matrix with rows and columns turned around."""
    turned = cholesky(precision.flip(-2, -1)).flip(-2, -1).mT
    one = turned.new_ones(turned.shape[-1]).diag()
    return solve_triangular(turned, one, upper=False)


class MultivariateNormal(Distribution):
    """Normal vectors with mean `loc` (*, n), by their covariance, its inverse, or its lower factor (*, n, n)."""

    arg_constraints = parameters(
        loc=constraints.real_vector,
        covariance_matrix=constraints.positive_definite,
        precision_matrix=constraints.positive_definite,
        scale_tril=constraints.lower_cholesky,
    )
    support: Any = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ):
        if loc.dim() < 1:
            raise ValueError("loc must be at least one-dimensional.")
        given = {
            "covariance_matrix": covariance_matrix,
            "scale_tril": scale_tril,
            "precision_matrix": precision_matrix,
        }
        found = {name: matrix for name, matrix in given.items() if matrix is not None}
        if len(found) != 1:
            raise ValueError(
                "Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified."
            )
        ((name, matrix),) = found.items()
        if matrix.dim() < 2:
            raise ValueError(
                f"{name} must be at least two-dimensional, with optional leading batch dimensions"
            )
        batch = broadcast_shape(tuple(matrix.shape[:-2]), tuple(loc.shape[:-1]))
        setattr(self, name, matrix.expand((*batch, -1, -1)))
        self.loc = loc.expand((*batch, -1))
        super().__init__(batch, self.loc.shape[-1:], validate_args=validate_args)
        if covariance_matrix is not None:
            self._factor = cholesky(covariance_matrix)
        elif scale_tril is not None:
            self._factor = scale_tril
        else:
            self._factor = _factor_of_inverse(matrix)

    def _expand_into(self, new: Any, batch_shape: Size) -> None:
        super()._expand_into(new, batch_shape)
        new._factor = self._factor

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The lower L with covariance L @ L.T."""
        return self._factor.expand(self._batch_shape + self._event_shape + self._event_shape)

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """The covariance."""
        return self.scale_tril @ self.scale_tril.mT

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """Its inverse."""
        return cholesky_inverse(self._factor).expand(
            self._batch_shape + self._event_shape + self._event_shape
        )

    @property
    def mean(self) -> Tensor:
        """`loc`."""
        return self.loc

    mode = mean

    @property
    def variance(self) -> Tensor:
        """The diagonal of the covariance."""
        found = self._factor.pow(2).sum(-1)
        return found.expand(self._batch_shape + self._event_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """loc + L ε with ε standard normal."""
        epsilon = normal(self.loc, self._extended_shape(sample_shape))
        return self.loc + (self._factor @ epsilon.unsqueeze(-1)).squeeze(-1)

    def _half_log_det(self) -> Tensor:
        return log(self._factor.diagonal(dim1=-2, dim2=-1)).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """-(|L⁻¹(value - loc)|² + n log(2π)) / 2 - Σ log(diag L)."""
        if self._validate_args:
            self._validate_sample(value)
        apart = solve_triangular(self._factor, (value - self.loc).unsqueeze(-1), upper=False).squeeze(-1)
        n = self._event_shape[0]
        return -0.5 * (n * math.log(2 * math.pi) + apart.pow(2).sum(-1)) - self._half_log_det()

    def entropy(self) -> Tensor:
        """n (1 + log(2π)) / 2 + Σ log(diag L)."""
        n = self._event_shape[0]
        found = 0.5 * n * (1.0 + math.log(2 * math.pi)) + self._half_log_det()
        return found.expand(self._batch_shape)


@register_kl(MultivariateNormal, MultivariateNormal)
def _divergence(p: MultivariateNormal, q: MultivariateNormal) -> Tensor:
    """(tr(Σq⁻¹ Σp) + dᵀ Σq⁻¹ d - n) / 2 + log |Lq| - log |Lp|."""
    if p.event_shape != q.event_shape:
        raise ValueError(
            "KL-divergence between two Multivariate Normals with                          "
            "different event shapes cannot be computed"
        )
    ratio = solve_triangular(q._factor, p._factor, upper=False).pow(2).sum((-2, -1))
    apart = solve_triangular(q._factor, (q.loc - p.loc).unsqueeze(-1), upper=False).pow(2).sum((-2, -1))
    return q._half_log_det() - p._half_log_det() + 0.5 * (ratio + apart - p.event_shape[0])
