"""VonMises: angles."""

from __future__ import annotations

import math
from typing import Any

from distgrad.distributions import constraints
from distgrad.distributions.continuous import _Located
from distgrad.distributions.distribution import parameters
from distgrad.distributions.utils import uniform
from distgrad.ops.compare import where
from distgrad.ops.making import zeros
from distgrad.ops.pointwise import cos, log, sign
from distgrad.ops.probability import i0e, i1e
from distgrad.record import no_grad
from distgrad.tensor import Tensor


class VonMises(_Located):
    """The circular normal distribution of angles from -π to π: density ∝ exp(concentration cos(x - loc))."""

    names = ("loc", "concentration")
    arg_constraints = parameters(loc=constraints.real, concentration=constraints.positive)
    support = constraints.real
    has_rsample = False
    loc: Tensor
    concentration: Tensor

    def __init__(self, loc: Any, concentration: Any, validate_args: bool | None = None):
        super().__init__(loc, concentration, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """`loc`."""
        return self.loc

    mode = mean

    @property
    def variance(self) -> Tensor:
        """The circular variance 1 - I₁(concentration) / I₀(concentration)."""
        return 1 - i1e(self.concentration) / i0e(self.concentration)

    def log_prob(self, value: Tensor) -> Tensor:
        """concentration cos(value - loc) - log(2π I₀(concentration))."""
        self._checked(value)
        k = self.concentration
        return k * (cos(value - self.loc) - 1) - math.log(2 * math.pi) - log(i0e(k))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """By rejection, after Best and Fisher (1979). Each round, about four in all, waits for who was rejected."""
        with no_grad():
            shape, k = self._extended_shape(sample_shape), self.concentration.double()
            tau = 1 + (1 + 4 * k**2).sqrt()
            rho = (tau - (2 * tau).sqrt()) / (2 * k)
            r = where(k < 1e-5, 1 / k + k, (1 + rho**2) / (2 * rho))
            found = zeros(shape, dtype=k.dtype)
            done = found > 0
            while not bool(done.all()):
                one, two, three = (uniform(k, shape) for _ in range(3))
                z = cos(math.pi * one)
                f = (1 + r * z) / (r + z)
                c = k * (r - f)
                taken = (c * (2 - c) - two > 0) | (log(c / two) + 1 - c >= 0)
                angle = sign(three - 0.5) * f.clamp(min=-1.0, max=1.0).acos()
                found, done = where(taken & done.logical_not(), angle, found), done | taken
            turned = (found + math.pi + self.loc.double()) % (2 * math.pi) - math.pi
            return turned.to(self.loc.dtype)
