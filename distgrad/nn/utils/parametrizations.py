"""Parametrizations that are ready: weight_norm, spectral_norm and orthogonal."""

from __future__ import annotations

from typing import Any

from distgrad.nn import functional as F
from distgrad.nn.module import Module
from distgrad.nn.utils.orthogonal import orthogonal
from distgrad.nn.utils.parametrize import register_parametrization
from distgrad.nn.utils.spectral_norm import as_matrix, transposed_dim, unit
from distgrad.nn.utils.weight_norm import norm_except_dim, normed
from distgrad.ops.products import dot, mv
from distgrad.record import no_grad
from distgrad.tensor import Tensor

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]


class _WeightNorm(Module):
    """From the length and the direction of each slice of a weight along `dim` to the weight."""

    def __init__(self, dim: int | None = 0):
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        """The weight."""
        return normed(weight_v, weight_g, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Length and direction."""
        return norm_except_dim(weight, self.dim), weight


class _OldWeightNorm:
    """Takes the state dicts of modules with the older `nn.utils.weight_norm`."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Rename the keys."""
        old = [f"{prefix}{self.name}_{part}" for part in "gv"]
        if all(key in state_dict for key in old):
            for i, key in enumerate(old):
                state_dict[f"{prefix}parametrizations.{self.name}.original{i}"] = state_dict.pop(key)


def weight_norm(module: Any, name: str = "weight", dim: int | None = 0) -> Any:
    """Train length (`original0`) and direction (`original1`) of each slice of the weight along `dim` apart.

    With `dim=None` of the weight as a whole. By Salimans and Kingma (2016).
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    module._register_load_state_dict_pre_hook(_OldWeightNorm(name))
    return module


class _SpectralNorm(Module):
    """A weight over its largest singular value, found by the power method: a few steps at each call in training."""

    _u: Any
    _v: Any

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12):
        super().__init__()
        ndim = weight.dim()
        if not -ndim <= dim < ndim:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [-{ndim}, {ndim - 1}] but got {dim})"
            )
        if n_power_iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
            )
        self.dim, self.eps = dim % ndim, eps
        if ndim > 1:
            self.n_power_iterations = n_power_iterations
            with no_grad():
                matrix = as_matrix(weight, self.dim)
                self.register_buffer("_u", unit(matrix.shape[0], matrix, eps))
                self.register_buffer("_v", unit(matrix.shape[1], matrix, eps))
                self._power_method(matrix, 15)

    def _power_method(self, matrix: Tensor, steps: int) -> None:
        with no_grad():
            for _ in range(steps):
                self._u.copy_(F.normalize(mv(matrix, self._v), dim=0, eps=self.eps))
                self._v.copy_(F.normalize(mv(matrix.t(), self._u), dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight over its largest singular value."""
        if weight.dim() == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            self._power_method(matrix, self.n_power_iterations)
        u, v = self._u.clone(), self._v.clone()  # the next call changes them in place
        return weight / dot(u, mv(matrix, v))

    def right_inverse(self, value: Tensor) -> Tensor:
        """The value itself: that its largest singular value is 1 is not checked."""
        return value


def spectral_norm(
    module: Any,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Any:
    """Divide the weight by its largest singular value, as a matrix whose rows are slices along `dim`.

    `dim` is by default that of the outputs. By Miyato et al. (2018).
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    made = _SpectralNorm(weight, n_power_iterations, transposed_dim(module, dim), eps)
    register_parametrization(module, name, made)
    return module
