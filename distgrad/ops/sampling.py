"""Samples of distributions whose parameters are tensors, or numbers for all elements of a tensor that is filled.

All are made from uniform or normal numbers, which depend on the seed, the draw and an element's position alone. What a
parameter must be is checked at once where the driver knows it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.dtype import default_numpy
from distgrad.ops.base import Tensor, Value, attach, op
from distgrad.ops.compare import where
from distgrad.ops.making import finished
from distgrad.ops.ordering import cumsum, topk
from distgrad.ops.probability import _poisson_quantile
from distgrad.ops.random import _float, drawn, rand, randint, randn, shape_of
from distgrad.ops.samples import real
from distgrad.scalars import C_NAMES, holds

__all__ = ["bernoulli", "multinomial", "normal", "poisson"]


def _check(x: Tensor, good: Any, error: str) -> None:
    """Raise if the driver knows the elements and they are not all `good`."""
    array = x._value.array
    if array is not None and not np.all(good(array)):
        raise RuntimeError(error)


def _uniform(like: Tensor, generator: Any) -> Tensor:
    """Numbers from [0, 1) of float64 in the shape and cuts of a tensor."""
    return rand(tuple(like.shape), dtype="float64", generator=generator, sharding=like.sharding)


def _floating(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise NotImplementedError(f"\"{name}\" not implemented for '{x.dtype.title}'")


# Results.
@op(
    name=lambda input, drawn, node: node,
    input=lambda like: like.zeros(),
    drawn=lambda g: g,
    method=False,
    samples=lambda: [(real(2, 3), real(2, 3, seed=1), "BernoulliBackward0")],
)
def _drawn_from(input: Value, drawn: Value, node: str) -> Value:
    """`drawn`, which does not follow small changes of `input`: the gradient for that is zero, as torch has it."""
    return drawn


def bernoulli(input: Tensor, p: float | None = None, *, generator: Any = None) -> Tensor:
    """1 where a uniform number is below `input`, or below `p` for all elements; else 0."""
    if p is not None:
        return _sample(input, bernoulli_(input.detach().clone(), p, generator=generator))
    _floating("bernoulli_tensor_cpu_p_", input)
    _check(
        input,
        lambda a: (a >= 0) & (a <= 1),
        "Expected p_in >= 0 && p_in <= 1 to be true, but got false.  (Could this error message be improved?  If so, "
        "please report an enhancement request to PyTorch.)",
    )
    return _sample(input, (_uniform(input, generator) < input.detach()).to(input.dtype))


def _sample(input: Tensor, made: Tensor, node: str = "BernoulliBackward0") -> Tensor:
    return _drawn_from(input, made, node) if input.requires_grad else made


def poisson(input: Tensor, generator: Any = None) -> Tensor:
    """Numbers from Poisson distributions with the rates `input`, as their quantiles at uniform numbers."""
    _floating("poisson_cpu", input)
    _check(input, lambda a: a >= 0, "invalid Poisson rate, expected rate to be non-negative")
    made = _poisson_quantile(input.detach().double(), _uniform(input, generator)).to(input.dtype)
    return _sample(input, made, "PoissonBackward0")


def normal(
    mean: Any,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Any = None,
    dtype: Any = None,
    requires_grad: bool = False,
    device: Any = None,
) -> Tensor:
    """Numbers from normal distributions: `normal(mean, std, size)`, or tensors for either of the first two."""
    if size is not None:
        if std < 0:
            raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
        shape = shape_of("normal", (size,))
        numpy_dtype = _float("normal_kernel_cpu", dtype, default_numpy())
        made = Tensor(drawn("normal", shape, "normal", numpy_dtype, generator=generator)) * std + mean
        return finished(made._value, requires_grad, device)
    if not isinstance(mean, Tensor) and not isinstance(std, Tensor):
        raise TypeError("normal() received an invalid combination of arguments: two numbers need a size")
    for x in (mean, std):
        if isinstance(x, Tensor):
            _floating("normal_kernel_cpu", x)
    if isinstance(std, Tensor):
        _check(std, lambda a: a >= 0, "normal expects all elements of std >= 0.0")
        std = std.detach()
    elif std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
    mean = mean.detach() if isinstance(mean, Tensor) else mean
    like = mean + std  # the shape to which they broadcast
    return (
        randn(tuple(like.shape), dtype=like.dtype, generator=generator, sharding=like.sharding) * std + mean
    )


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None
) -> Tensor:
    """For each row of weights `num_samples` positions, each as likely as its weight says.

    With replacement by inversion of the running sum; without by a race: those with the smallest E / weight, for E from
    the exponential distribution, come first (Efraimidis and Spirakis 2006).
    """
    if input.dim() not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if not input.is_floating_point():
        raise RuntimeError(
            f"multinomial only supports floating-point dtypes for input, got: {input.dtype.title}"
        )
    n = input.shape[-1]
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if not replacement and num_samples > n:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    bad = "probability tensor contains either `inf`, `nan` or element < 0"
    _check(input, lambda a: np.isfinite(a) & (a >= 0), bad)
    _check(input, lambda a: a.sum(-1) > 0, "invalid multinomial distribution (sum of probabilities <= 0)")
    weights = input.detach().double()
    rows = tuple(input.shape[:-1])
    if not replacement:
        u = rand(*rows, n, dtype="float64", generator=generator)
        race = where(weights > 0, (1 - u).log() / weights, -math.inf)
        return topk(race, num_samples)[1]
    ends = cumsum(weights, -1)
    u = rand(*rows, num_samples, dtype="float64", generator=generator) * ends[..., -1:]
    return (ends.unsqueeze(-2) <= u.unsqueeze(-1)).sum(-1)


# In place.
def _fill(self: Tensor, made: Tensor) -> Tensor:
    return self.copy_(made.to(self.dtype))


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """Fill with 1 with probability `p`, a number or a tensor, else 0."""
    if isinstance(p, Tensor):
        _check(p, lambda a: (a >= 0) & (a <= 1), "Expected p_in >= 0 && p_in <= 1 to be true, but got false.")
        return _fill(self, _uniform(self, generator) < p)
    if not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p:g}")
    return _fill(self, _uniform(self, generator) < p)


def _continuous(self: Tensor, title: str) -> None:
    if not self.is_floating_point():
        raise RuntimeError(
            f"{title} distribution is a continuous probability distribution. dtype must be a floating point but you "
            f"specified {self.dtype.title}"
        )


def exponential_(self: Tensor, lambd: float = 1, *, generator: Any = None) -> Tensor:
    """Fill from the exponential distribution with rate `lambd`: -log(1 - u) / lambd."""
    _continuous(self, "Exponential")
    if not lambd > 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd:g}")
    return _fill(self, (-_uniform(self, generator)).log1p() / -lambd)


def geometric_(self: Tensor, p: float, *, generator: Any = None) -> Tensor:
    """Fill with the number of trials until the first success of probability `p`: 1, 2, ..."""
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p:g}")
    trials = ((-_uniform(self, generator)).log1p() / math.log1p(-p)).ceil()
    return _fill(self, trials.clamp(min=1))


def log_normal_(self: Tensor, mean: float = 1, std: float = 2, *, generator: Any = None) -> Tensor:
    """Fill with exponentials of numbers from the normal distribution."""
    _continuous(self, "LogNormal")
    if not std > 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std:g}")
    z = randn(tuple(self.shape), dtype="float64", generator=generator, sharding=self.sharding)
    return _fill(self, (z * std + mean).exp())


def cauchy_(self: Tensor, median: float = 0, sigma: float = 1, *, generator: Any = None) -> Tensor:
    """Fill from the Cauchy distribution: median + sigma tan(π (u - 1/2))."""
    _continuous(self, "Cauchy")
    if not sigma > 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma:g}")
    return _fill(self, ((_uniform(self, generator) - 0.5) * math.pi).tan() * sigma + median)


def random_(self: Tensor, from_: Any = None, to: Any = None, *, generator: Any = None, **more: Any) -> Tensor:
    """Fill with integers: `random_()` all that the dtype holds from 0 up, `random_(to)`, `random_(from, to)`."""
    given = more.pop("from", from_)
    if more:
        raise TypeError(f"random_() got an unexpected keyword argument '{next(iter(more))}'")
    dtype = self._avals.dtype
    low = 0 if given is None or to is None else given
    if to is None:
        to = _most(dtype) if given is None else given
    if low >= to:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={to}")
    for text, x in (("from", low), ("to - 1", to - 1)):
        if dtype.kind in "ib" and not holds(x, dtype):
            raise RuntimeError(f"{text} is out of bounds for {C_NAMES[dtype.name]}")
    made = randint(low, to, tuple(self.shape), generator=generator, sharding=self.sharding)
    return _fill(self, made)


def _most(dtype: np.dtype) -> int:
    """One more than the largest integer that `random_()` fills in: all below are held exactly."""
    if dtype.kind == "f":
        return 1 << (24 if dtype.itemsize == 4 else 53)
    return 2 if dtype.kind == "b" else int(np.iinfo(dtype).max)


attach(
    bernoulli=bernoulli,
    multinomial=multinomial,
    bernoulli_=bernoulli_,
    exponential_=exponential_,
    geometric_=geometric_,
    log_normal_=log_normal_,
    cauchy_=cauchy_,
    random_=random_,
)
