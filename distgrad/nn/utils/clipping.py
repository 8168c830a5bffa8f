"""Gradients cut down: `clip_grad_norm_` and its parts, `clip_grad_value_`.

Nothing waits for the norm: it is worked out where the gradients lie, and what is scaled by it is one plan with it.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterable
from typing import Any

from distgrad.ops.binary import clamp
from distgrad.ops.joining import stack
from distgrad.ops.linalg import _vector_norm as vector_norm
from distgrad.ops.making import tensor
from distgrad.record import no_grad
from distgrad.tensor import Tensor

__all__ = [
    "clip_grad_norm",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
]

Tensors = Tensor | Iterable[Tensor]


def _listed(tensors: Any) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _grads(parameters: Any) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


@no_grad()
def get_total_norm(
    tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Tensor:
    """The norm of all elements of all tensors together. `foreach` changes nothing: it is always one program.

    With `error_if_nonfinite` this waits for the norm, and raises RuntimeError if it is nan or infinite.
    """
    listed, norm_type = _listed(tensors), float(norm_type)
    if not listed:
        return tensor(0.0)
    total = vector_norm(stack([vector_norm(t, norm_type) for t in listed]), norm_type)
    if error_if_nonfinite and not total.isfinite():
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return total


@no_grad()
def clip_grads_with_norm_(
    parameters: Tensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale the gradients by max_norm / (total_norm + 1e-6) if that is below 1, in place."""
    grads = _grads(_listed(parameters))
    scale = clamp(float(max_norm) / (total_norm + 1e-6), max=1.0)
    for g in grads:
        g.mul_(scale)


@no_grad()
def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale the gradients of parameters, in place, so that the norm of all together is at most `max_norm`.

    Gives the norm before. See `get_total_norm` and `clip_grads_with_norm_`.
    """
    listed = _listed(parameters)
    if isinstance(parameters, types.GeneratorType) and not listed:
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=3)
    total = get_total_norm(_grads(listed), norm_type, error_if_nonfinite, foreach)
    clip_grads_with_norm_(listed, max_norm, total, foreach)
    return total


def clip_grad_norm(*args: Any, **kwargs: Any) -> Tensor:
    """Deprecated: `clip_grad_norm_`."""
    warnings.warn(
        "`torch.nn.utils.clip_grad_norm` is now deprecated in favor of `torch.nn.utils.clip_grad_norm_`.",
        FutureWarning,
        stacklevel=2,
    )
    return clip_grad_norm_(*args, **kwargs)


@no_grad()
def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """Bring each element of the gradients into [-clip_value, clip_value], in place."""
    limit = float(clip_value)
    for g in _grads(_listed(parameters)):
        g.clamp_(min=-limit, max=limit)
