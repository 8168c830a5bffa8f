"""Special functions, element by element: SciPy's kernels, and quantiles from which random numbers are made.

A random number with distribution function F is the quantile F⁻¹(u) of a uniform u. So such numbers depend on the key of
the draw and the element's position alone, as uniform ones do (promise P2), and have derivatives in the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from distgrad.compiler.maths import products
from distgrad.primitives.base import Lower
from distgrad.primitives.elementwise import declare
from distgrad.primitives.kernels import Out, copy

STEP = (
    1e-3  # of a difference of fourth order, relative to the parameter: SciPy's error of 1e-15 becomes 1e-12
)


LARGEST = 170  # whose factorial float64 holds


def polygamma(x: np.ndarray, n: int, out: Out = None) -> np.ndarray:
    """ψ⁽ⁿ⁾(x) = (-1)ⁿ⁺¹ n! ζ(n + 1, x), for n from 1 on; ψ'(x) = π²/sin²(πx) - ψ'(1 - x) below 1/2.

    DLMF 5.15.1 and 5.15.6.
    """
    low = x < 0.5
    if n != 1 or not low.any():
        factorial = math.factorial(n) if n <= LARGEST else math.inf
        return np.multiply(special.zeta(n + 1, x), factorial if n % 2 else -factorial, out=out)
    zeta = special.zeta(2, np.where(low, 1 - x, x))
    return copy(np.where(low, np.square(np.pi / np.sin(np.pi * (x % 1))) - zeta, zeta).astype(x.dtype), out)


def zeta(s: np.ndarray, q: np.ndarray, out: Out = None) -> np.ndarray:
    """Hurwitz's zeta function Σ (k + q)**-s."""
    return special.zeta(s, q, out=out)


def gamma_quantile(a: np.ndarray, u: np.ndarray, out: Out = None) -> np.ndarray:
    """The quantile of the Gamma distribution with shape `a` and rate 1."""
    return copy(special.gammaincinv(a, u), out)


def gamma_slope(a: np.ndarray, u: np.ndarray, out: Out = None) -> np.ndarray:
    """The derivative of `gamma_quantile` in `a`; of its logarithm, which is smooth in a also where it is near 0."""
    x = special.gammaincinv(a, u)
    slope = x * _difference(lambda a: np.log(special.gammaincinv(a, u)), a)
    return copy(np.where((x > 0) & np.isfinite(slope), slope, 0), out)


def beta_quantile(a: np.ndarray, b: np.ndarray, u: np.ndarray, out: Out = None) -> np.ndarray:
    """The quantile of the Beta distribution."""
    return copy(special.betaincinv(a, b, u), out)


def beta_slope(a: np.ndarray, b: np.ndarray, u: np.ndarray, out: Out = None) -> np.ndarray:
    """The derivative of `beta_quantile` in `a`, through its logit."""
    x = special.betaincinv(a, b, u)
    slope = x * (1 - x) * _difference(lambda a: special.logit(special.betaincinv(a, b, u)), a)
    return copy(np.where((x > 0) & (x < 1) & np.isfinite(slope), slope, 0), out)


def _difference(f: Callable[[np.ndarray], np.ndarray], a: np.ndarray) -> np.ndarray:
    """f'(a) from four values around it (Abramowitz and Stegun 25.3.6)."""
    h = STEP * a
    return (8 * (f(a + h) - f(a - h)) - (f(a + 2 * h) - f(a - 2 * h))) / (12 * h)


def _counted(
    quantile: Callable[..., np.ndarray], probability: Callable[..., np.ndarray], *given: np.ndarray
) -> np.ndarray:
    """The least whole number k with probability(k) >= u, from a real one that solves the equation: (u, *parameters)."""
    u, *parameters = given
    k = np.maximum(np.ceil(np.nan_to_num(quantile(u, *parameters))), 0)
    below = np.maximum(k - 1, 0)
    return np.where(probability(below, *parameters) >= u, below, k)


def poisson_quantile(rate: np.ndarray, u: np.ndarray, out: Out = None) -> np.ndarray:
    """The quantile of the Poisson distribution."""
    k = _counted(special.pdtrik, special.pdtr, u, rate)
    return copy(np.where(rate == 0, 0.0, k), out)


def binomial_quantile(n: np.ndarray, p: np.ndarray, u: np.ndarray, out: Out = None) -> np.ndarray:
    """The quantile of the number of successes in `n` trials of probability `p`."""
    k = _counted(special.bdtrik, lambda k, n, p: special.bdtr(k, n.astype(np.int64), p), u, n, p)
    return copy(np.where(p <= 0, 0.0, np.where(p >= 1, n, np.minimum(k, n))), out)


def airy_ai(x: np.ndarray, out: Out = None) -> np.ndarray:
    """Airy's function Ai, the first of the four that SciPy gives."""
    return copy(special.airy(x)[0], out)


def spherical_bessel_j0(x: np.ndarray, out: Out = None) -> np.ndarray:
    """sin(x) / x: 1 at 0, and 0 at infinity."""
    wide, far = x.astype(np.float64), np.isinf(x)
    found = np.sin(np.where(far, 0, wide)) / wide
    return copy(np.where(x == 0, 1, np.where(far, 0, found)).astype(x.dtype), out)


BESSEL = {
    **{f"bessel_{name}": getattr(special, name) for name in ("j0", "j1", "y0", "y1")},
    **{f"modified_bessel_{name}": getattr(special, name) for name in ("k0", "k1")},
    **{f"scaled_modified_bessel_{name}": getattr(special, f"{name}e") for name in ("k0", "k1")},
    "airy_ai": airy_ai,
    "spherical_bessel_j0": spherical_bessel_j0,
}


def _scipys(names: str) -> dict[str, np.ufunc]:
    return {name: getattr(special, name) for name in names.split()}


declare(_scipys("erfinv erfcx ndtr ndtri log_ndtr i0 i0e i1 i1e"), flops=50)
declare(_scipys("xlogy xlog1py"), flops=50, lower=lambda name: Lower(getattr(products, name)))
declare(_scipys("gammainc gammaincc"), flops=50)
declare({"entr": special.entr}, flops=20, lower=Lower(products.entr))
declare({"logaddexp": np.logaddexp, "logaddexp2": np.logaddexp2}, flops=30)
declare({"zeta": zeta}, flops=50)
declare({"polygamma": polygamma}, flops=50, n="int")
declare({"gamma_quantile": gamma_quantile, "poisson_quantile": poisson_quantile}, flops=500)
declare({"gamma_slope": gamma_slope, "beta_slope": beta_slope}, flops=2500)
declare({"beta_quantile": beta_quantile, "binomial_quantile": binomial_quantile}, flops=500)
declare(BESSEL, flops=50)
