"""Distributions of matrices, and of vectors whose covariance is one of low rank and a diagonal."""

from __future__ import annotations

import math
import warnings
from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.distribution import Distribution, parameters
from distgrad.distributions.exp_family import ExponentialFamily
from distgrad.distributions.gamma import Beta, standard_gamma
from distgrad.distributions.kl import register_kl
from distgrad.distributions.multivariate import MultivariateNormal, _factor_of_inverse
from distgrad.distributions.utils import at_hand, broadcast_all, lazy_property, normal, tiny
from distgrad.dtype import Size, finfo
from distgrad.ops.decompositions import cholesky, cholesky_inverse, solve_triangular
from distgrad.ops.determinants import slogdet
from distgrad.ops.joining import cat
from distgrad.ops.making import arange, as_tensor, eye
from distgrad.ops.pointwise import log
from distgrad.ops.shape import broadcast_tensors
from distgrad.ops.special import digamma, lgamma, mvlgamma
from distgrad.primitives.elementwise import broadcast_shape
from distgrad.record import no_grad
from distgrad.tensor import Tensor


def _log_diagonal(lower: Tensor) -> Tensor:
    """The logarithm of the determinant of a triangular matrix."""
    return log(lower.diagonal(dim1=-2, dim2=-1)).sum(-1)


def _squared_length(lower: Tensor, x: Tensor) -> Tensor:
    """|L⁻¹ x|²."""
    return solve_triangular(lower, x.unsqueeze(-1), upper=False).squeeze(-1).pow(2).sum(-1)


class LowRankMultivariateNormal(Distribution):
    """Normal vectors with covariance W @ W.T + diag(D): `cov_factor` W (*, n, m) and `cov_diag` D (*, n).

    By Woodbury's formula all is worked out from the m by m matrix 1 + W.T @ W / D.
    """

    arg_constraints = parameters(
        loc=constraints.real_vector,
        cov_factor=constraints.independent(constraints.real, 2),
        cov_diag=constraints.independent(constraints.positive, 1),
    )
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None):
        if loc.dim() < 1:
            raise ValueError("loc must be at least one-dimensional.")
        event = loc.shape[-1:]
        if cov_factor.dim() < 2:
            raise ValueError(
                "cov_factor must be at least two-dimensional, with optional leading batch dimensions"
            )
        if cov_factor.shape[-2:-1] != event:
            raise ValueError(f"cov_factor must be a batch of matrices with shape {event[0]} x m")
        if cov_diag.shape[-1:] != event:
            raise ValueError(f"cov_diag must be a batch of vectors with shape {event}")
        try:
            columns = broadcast_tensors(loc.unsqueeze(-1), cov_factor, cov_diag.unsqueeze(-1))
        except RuntimeError as error:
            raise ValueError(
                f"Incompatible batch shapes: loc {loc.shape}, cov_factor {cov_factor.shape}, cov_diag {cov_diag.shape}"
            ) from error
        self.cov_factor = columns[1]
        self.loc, self.cov_diag = columns[0][..., 0], columns[2][..., 0]
        self._w, self._d = cov_factor, cov_diag
        super().__init__(self.loc.shape[:-1], event, validate_args=validate_args)
        self._factor = cholesky(self._inner())

    def _inner(self) -> Tensor:
        """1 + W.T @ W / D."""
        return eye(self._w.shape[-1], dtype=self._w.dtype) + self._scaled() @ self._w

    def _scaled(self) -> Tensor:
        """W.T / D."""
        return self._w.mT / self._d.unsqueeze(-2)

    def _expand_into(self, new: Any, batch_shape: Size) -> None:
        super()._expand_into(new, batch_shape)
        new._w, new._d, new._factor = self._w, self._d, self._factor

    @property
    def mean(self) -> Tensor:
        """`loc`."""
        return self.loc

    mode = mean

    @lazy_property
    def variance(self) -> Tensor:
        """The diagonal of the covariance."""
        return (self._w.pow(2).sum(-1) + self._d).expand(self._extended_shape())

    def _square(self, x: Tensor) -> Tensor:
        return x.expand(self._extended_shape() + self._event_shape)

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """The covariance."""
        return self._square(self._w @ self._w.mT + self._d.diag_embed())

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The lower L with covariance L @ L.T."""
        return cholesky(self.covariance_matrix)

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """The inverse of the covariance."""
        inner = solve_triangular(self._factor, self._scaled(), upper=False)
        return self._square(self._d.reciprocal().diag_embed() - inner.mT @ inner)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """loc + W ε + √D η with ε, η standard normal."""
        shape = self._extended_shape(sample_shape)
        first = normal(self.loc, (*shape[:-1], self._w.shape[-1]))
        return (
            self.loc + (self._w @ first.unsqueeze(-1)).squeeze(-1) + self._d.sqrt() * normal(self.loc, shape)
        )

    def _distance(self, apart: Tensor) -> Tensor:
        """apartᵀ Σ⁻¹ apart."""
        inner = (self._scaled() @ apart.unsqueeze(-1)).squeeze(-1)
        return (apart.pow(2) / self._d).sum(-1) - _squared_length(self._factor, inner)

    def _log_det(self) -> Tensor:
        return 2 * _log_diagonal(self._factor) + log(self._d).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """-(apartᵀ Σ⁻¹ apart + log |Σ| + n log(2π)) / 2."""
        if self._validate_args:
            self._validate_sample(value)
        n = self._event_shape[0]
        return -0.5 * (n * math.log(2 * math.pi) + self._log_det() + self._distance(value - self.loc))

    def entropy(self) -> Tensor:
        """(n (1 + log(2π)) + log |Σ|) / 2."""
        found = 0.5 * (self._event_shape[0] * (1.0 + math.log(2 * math.pi)) + self._log_det())
        return found.expand(self._batch_shape)


def _log_det_of(d: Any) -> Tensor:
    found: Tensor = d._log_det() if isinstance(d, LowRankMultivariateNormal) else 2 * d._half_log_det()
    return found


def _divergence(p: Any, q: Any) -> Tensor:
    """(tr(Σq⁻¹ Σp) + dᵀ Σq⁻¹ d - n + log |Σq| - log |Σp|) / 2."""
    if p.event_shape != q.event_shape:
        raise ValueError(
            "KL-divergence between two (Low Rank) Multivariate Normals with different event shapes cannot be computed"
        )
    trace = (q.precision_matrix * p.covariance_matrix).sum((-2, -1))
    apart = (p.loc - q.loc).unsqueeze(-1)
    distance = (apart * (q.precision_matrix @ apart)).sum((-2, -1))
    return 0.5 * (trace + distance - p.event_shape[0] + _log_det_of(q) - _log_det_of(p))


for _p, _q in (
    (LowRankMultivariateNormal, LowRankMultivariateNormal),
    (MultivariateNormal, LowRankMultivariateNormal),
    (LowRankMultivariateNormal, MultivariateNormal),
):
    register_kl(_p, _q)(_divergence)


class Wishart(ExponentialFamily):
    """Positive definite matrices: sums of x @ x.T of `df` normal vectors, by covariance, inverse or factor."""

    _mean_carrier_measure = 0
    arg_constraints = parameters(
        covariance_matrix=constraints.positive_definite,
        precision_matrix=constraints.positive_definite,
        scale_tril=constraints.lower_cholesky,
        df=constraints.dependent,
    )
    support = constraints.positive_definite
    has_rsample = True

    def __init__(
        self,
        df: Any,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ):
        given = {
            "covariance_matrix": covariance_matrix,
            "precision_matrix": precision_matrix,
            "scale_tril": scale_tril,
        }
        found = {name: matrix for name, matrix in given.items() if matrix is not None}
        if len(found) != 1:
            raise AssertionError(
                "Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified."
            )
        ((name, matrix),) = found.items()
        if matrix.dim() < 2:
            raise ValueError(
                "scale_tril must be at least two-dimensional, with optional leading batch dimensions"
            )
        number = as_tensor(df, dtype=matrix.dtype)
        batch = broadcast_shape(tuple(matrix.shape[:-2]), tuple(number.shape))
        event = matrix.shape[-2:]
        self.df = number.expand(batch)
        if at_hand(number) and bool((number <= event[-1] - 1).any()):
            raise ValueError(f"Value of df={df} expected to be greater than ndim - 1 = {event[-1] - 1}.")
        setattr(self, name, matrix.expand((*batch, *event)))
        if at_hand(number) and bool((number < event[-1]).any()):
            warnings.warn(
                "Low df values detected. Singular samples are highly likely to occur for ndim - 1 < df < ndim.",
                stacklevel=2,
            )
        super().__init__(batch, event, validate_args=validate_args)
        if name == "scale_tril":
            self._factor = matrix
        else:
            self._factor = cholesky(matrix) if name == "covariance_matrix" else _factor_of_inverse(matrix)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return -self.precision_matrix / 2, (self.df - self._event_shape[-1] - 1) / 2

    def _log_normalizer(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        p = self._event_shape[-1]
        half = y + (p + 1) / 2
        return half * (p * math.log(2) - slogdet(-2 * x)[1]) + mvlgamma(half, p)

    def _expand_into(self, new: Any, batch_shape: Size) -> None:
        new.df, new._factor = self.df.expand(batch_shape), self._factor
        for name in ("covariance_matrix", "precision_matrix", "scale_tril"):
            if name in self.__dict__:
                setattr(new, name, self.__dict__[name].expand((*batch_shape, *self.event_shape)))

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The lower L with covariance L @ L.T."""
        return self._factor.expand(self._extended_shape())

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """The covariance."""
        return (self._factor @ self._factor.mT).expand(self._extended_shape())

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """Its inverse."""
        return cholesky_inverse(self._factor).expand(self._extended_shape())

    def _times(self, factor: Tensor) -> Tensor:
        return factor.unsqueeze(-1).unsqueeze(-1) * self.covariance_matrix

    @property
    def mean(self) -> Tensor:
        """df times the covariance."""
        return self._times(self.df)

    @property
    def mode(self) -> Tensor:
        """(df - p - 1) times the covariance; nan where that is not above 0."""
        factor = self.df - self._event_shape[-1] - 1
        return self._times(factor.masked_fill(factor <= 0, math.nan))

    @property
    def variance(self) -> Tensor:
        """df (V[i, j]² + V[i, i] V[j, j])."""
        v = self.covariance_matrix
        along = v.diagonal(dim1=-2, dim2=-1)
        both = v.pow(2) + along.unsqueeze(-1) * along.unsqueeze(-2)
        return self.df.unsqueeze(-1).unsqueeze(-1) * both

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """L A Aᵀ Lᵀ: A is lower triangular, normal numbers below a diagonal of chi-distributed ones (Bartlett 1933)."""
        shape, p = self._extended_shape(sample_shape), self._event_shape[-1]
        df = self.df.unsqueeze(-1) - arange(p, dtype=self.df.dtype)
        squares = 2 * standard_gamma((0.5 * df).expand(shape[:-1]), shape[:-1])
        roots = squares.sqrt().clamp(min=finfo(self.df.dtype).eps)
        lower = self._factor @ (normal(self.df, shape).tril(-1) + roots.diag_embed())
        return lower @ lower.mT

    def log_prob(self, value: Tensor) -> Tensor:
        """((df - p - 1) log |X| - tr(V⁻¹ X) - df log |V| - df p log(2)) / 2 - log Γₚ(df / 2)."""
        if self._validate_args:
            self._validate_sample(value)
        df, p = self.df, self._event_shape[-1]
        trace = (cholesky_inverse(self._factor) * value).sum((-2, -1))
        norm = df * (p * math.log(2) / 2 + _log_diagonal(self._factor)) + mvlgamma(df / 2, p)
        return (df - p - 1) / 2 * slogdet(value)[1] - trace / 2 - norm

    def entropy(self) -> Tensor:
        """From the means of log |X| and of the trace."""
        df, p = self.df, self._event_shape[-1]
        steps = arange(p, dtype=df.dtype) / 2
        means = digamma((df / 2).unsqueeze(-1) - steps).sum(-1)
        scale = (p + 1) * (p * math.log(2) / 2 + _log_diagonal(self._factor))
        return scale + mvlgamma(df / 2, p) - (df - p - 1) / 2 * means + df * p / 2


class LKJCholesky(Distribution):
    """Lower factors of `dim` by `dim` correlation matrices with density ∝ |C|^(concentration - 1).

    Samples are made row by row, by the onion method of Lewandowski, Kurowicka and Joe (2009).
    """

    arg_constraints = parameters(concentration=constraints.positive)
    support = constraints.corr_cholesky

    def __init__(self, dim: int, concentration: Any = 1.0, validate_args: bool | None = None):
        if dim < 2:
            raise ValueError(f"Expected dim to be an integer greater than or equal to 2. Found dim={dim}.")
        self.dim = dim
        (self.concentration,) = broadcast_all(concentration)
        super().__init__(self.concentration.shape, (dim, dim), validate_args=validate_args)

    def _expand_into(self, new: Any, batch_shape: Size) -> None:
        new.dim, new.concentration = self.dim, self.concentration.expand(batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A row is a point on a sphere, whose squared radius is from a Beta distribution."""
        with no_grad():
            a, d = self.concentration, self.dim
            steps = arange(d - 1, dtype=a.dtype)
            offset = cat([steps.new_zeros(1), steps])
            beta = Beta(offset + 0.5, (a + 0.5 * (d - 2)).unsqueeze(-1) - 0.5 * offset, validate_args=False)
            y = beta.sample(sample_shape).unsqueeze(-1)
            u = normal(a, self._extended_shape(sample_shape)).tril(-1)
            length = u.norm(dim=-1, keepdim=True)
            w = y.sqrt() * u / length.masked_fill(length == 0, 1.0)
            rest = (1 - (w**2).sum(-1)).clamp(min=tiny(w)).sqrt()
            return w + rest.diag_embed()

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ (2 (concentration - 1) + dim - k) log L[k, k], k from 2, less the norm."""
        if self._validate_args:
            self._validate_sample(value)
        a, d = self.concentration, self.dim
        order = 2 * (a - 1).unsqueeze(-1) + d - arange(2, d + 1, dtype=a.dtype)
        found = (order * log(value.diagonal(dim1=-1, dim2=-2)[..., 1:])).sum(-1)
        n = d - 1
        alpha = a + 0.5 * n
        norm = 0.5 * n * math.log(math.pi) + mvlgamma(alpha - 0.5, n) - lgamma(alpha) * n
        return found - norm
