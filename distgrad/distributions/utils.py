"""What distributions share: parameters brought to one shape, draws, probabilities and their logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import get_default_dtype
from distgrad.ops.activations import log_softmax, softmax
from distgrad.ops.making import as_tensor
from distgrad.ops.pointwise import log, log1p
from distgrad.ops.random import drawn
from distgrad.ops.shape import broadcast_tensors
from distgrad.ops.special import sigmoid
from distgrad.tensor import Tensor


def broadcast_all(*values: Any) -> tuple[Tensor, ...]:
    """Tensors of one shape. Numbers take the dtype of the first tensor, or else the default one."""
    if not all(isinstance(v, (Tensor, int, float, np.number)) for v in values):
        raise ValueError(
            "Input arguments must all be instances of Number, torch.Tensor or objects implementing __torch_function__."
        )
    dtype = next((v.dtype for v in values if isinstance(v, Tensor)), get_default_dtype())
    tensors = [v if isinstance(v, Tensor) else as_tensor(v, dtype=dtype) for v in values]
    return tuple(broadcast_tensors(*tensors))


def uniform(like: Tensor, shape: Any, double: bool = False) -> Tensor:
    """Numbers from [0, 1) in the dtype of `like`, or float64: for quantiles, which need all digits in the tails."""
    return _draw("uniform", like, shape, double)


def normal(like: Tensor, shape: Any) -> Tensor:
    """Standard normal numbers in the dtype of `like`."""
    return _draw("normal", like, shape, False)


def _draw(kind: str, like: Tensor, shape: Any, double: bool) -> Tensor:
    dtype = np.dtype(np.float64) if double else like.dtype.numpy
    cuts = like.sharding if tuple(shape) == tuple(like.shape) else None
    return Tensor(drawn(kind, tuple(shape), kind, dtype, sharding=cuts))


def tiny(x: Tensor) -> float:
    """The smallest normal positive number of a dtype."""
    return float(np.finfo(x.dtype.numpy).tiny)


def clamp_probs(probs: Tensor) -> Tensor:
    """Probabilities away from 0 and 1 by one step of the dtype."""
    eps = float(np.finfo(probs.dtype.numpy).eps)
    return probs.clamp(min=eps, max=1 - eps)


def logits_to_probs(logits: Tensor, is_binary: bool = False) -> Tensor:
    """Probabilities from logits: of success, or along the last dimension."""
    return sigmoid(logits) if is_binary else softmax(logits, -1)


def probs_to_logits(probs: Tensor, is_binary: bool = False) -> Tensor:
    """The inverse of `logits_to_probs`."""
    clamped = clamp_probs(probs)
    return log(clamped) - log1p(-clamped) if is_binary else log(clamped)


def normalised(logits: Tensor) -> Tensor:
    """Logits whose exponentials sum to 1 along the last dimension."""
    return log_softmax(logits, -1)


class lazy_property:
    """An attribute that is computed when it is first read."""

    def __init__(self, wrapped: Any):
        self.wrapped, self.__doc__ = wrapped, wrapped.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        value = self.wrapped(instance)
        instance.__dict__[self.name] = value
        return value


def at_hand(value: Tensor) -> bool:
    """Whether the elements are in the driver, so that to look at them waits for nothing."""
    return session.at_hand(value._value)
