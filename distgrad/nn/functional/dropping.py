"""Dropout and its relatives as functions."""

from __future__ import annotations

import math
import warnings
from typing import Any

from distgrad.ops.base import Tensor
from distgrad.ops.random import drawn

__all__ = [
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
]

SELU_FLOOR = 1.7580993408473766  # -selu(-infinity): its scale times its alpha


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training, each element is 0 with probability `p`, and the others are divided by 1 - p."""
    return _dropped("dropout", input, p, training, inplace)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout that keeps mean 0 and variance 1: what is dropped becomes selu's lowest value, then all is scaled.

    By Klambauer et al. (2017).
    """
    return _dropped("alpha_dropout", input, p, training, inplace, alpha=True)


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """`alpha_dropout` of whole channels of (N, C, ...)."""
    return _dropped("feature_alpha_dropout", input, p, training, inplace, features=True, alpha=True)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of (N, C, L) or (C, L)."""
    _check_probability(p)
    ndim = input.dim()
    if ndim not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {ndim}D input. Note that dropout1d exists to provide "
            "channel-wise dropout on inputs with 1 spatial dimension, a channel dimension, and an optional batch "
            "dimension (i.e. 2D or 3D inputs)."
        )
    return _batched("dropout1d", input, p, training, inplace, ndim == 3)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of (N, C, H, W)."""
    _check_probability(p)
    ndim = input.dim()
    if ndim not in (3, 4):
        _warn_of_dimensions("dropout2d", ndim, 2, "3D or 4D")
    if ndim == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D dropout behavior is "
            "desired - input is interpreted as shape (N, C, L), where C is the channel dim. This behavior will change "
            "in a future release to interpret the input as one without a batch dimension, i.e. shape (C, H, W). To "
            "maintain the 1D channel-wise dropout behavior, please switch to using dropout1d instead.",
            stacklevel=2,
        )
    return _dropped("dropout2d", input, p, training, inplace, features=True)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of (N, C, D, H, W) or (C, D, H, W)."""
    _check_probability(p)
    ndim = input.dim()
    if ndim not in (4, 5):
        _warn_of_dimensions("dropout3d", ndim, 3, "4D or 5D")
    return _batched("dropout3d", input, p, training, inplace, ndim == 5)


def _check_probability(p: float) -> None:
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _warn_of_dimensions(name: str, ndim: int, spatial: int, expected: str) -> None:
    warnings.warn(
        f"{name}: Received a {ndim}-D input to {name}, which is deprecated and will result in an error in a future "
        f"release. To retain the behavior and silence this warning, please use dropout instead. Note that {name} "
        f"exists to provide channel-wise dropout on inputs with {spatial} spatial dimensions, a channel dimension, and "
        f"an optional batch dimension (i.e. {expected} inputs).",
        stacklevel=3,
    )


def _batched(name: str, input: Tensor, p: float, training: bool, inplace: bool, batched: bool) -> Tensor:
    if batched:
        return _dropped(name, input, p, training, inplace, features=True)
    found = _dropped(name, input.unsqueeze(0), p, training, inplace, features=True)
    return input if inplace else found.squeeze(0)


def _dropped(
    name: str,
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    features: bool = False,
    alpha: bool = False,
) -> Tensor:
    """input * noise + shift, where noise is 0 with probability `p`; one number for a whole channel with `features`."""
    _check_probability(p)
    if p == 0 or not training or input.numel() == 0:
        return input
    noise: Any = 0.0
    shift: Any = None
    if p < 1:
        kept = _kept(name, input, p, features)
        if alpha:  # the variance of what is kept or at the floor is (floor² p + 1) (1 - p)
            scale = 1.0 / math.sqrt((SELU_FLOOR**2 * p + 1) * (1 - p))
            noise, shift = kept * scale, (kept - 1) * (SELU_FLOOR * scale) + SELU_FLOOR * scale * p
        else:
            noise = kept / (1 - p)
    if inplace:
        return input.mul_(noise) if shift is None else input.mul_(noise).add_(shift)
    return input * noise if shift is None else input * noise + shift


def _kept(name: str, input: Tensor, p: float, features: bool) -> Tensor:
    """1 with probability 1 - p, else 0."""
    if features and input.dim() < 2:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    if not input.is_floating_point():
        title = input.dtype.title
        raise RuntimeError(f"result type Float can't be cast to the desired output type {title}")
    shape, cuts = tuple(input.shape), input.sharding
    if features:
        shape, cuts = (*shape[:2], *[1] * (len(shape) - 2)), None  # type: ignore[assignment]
    uniform = drawn(name, shape, "uniform", input._avals.dtype, sharding=cuts)
    return (Tensor(uniform) < 1 - p).to(input.dtype)
