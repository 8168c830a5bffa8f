"""Automatic differentiation: `backward`, `grad`, grad mode, as `torch.autograd`."""

from __future__ import annotations

from typing import Any

from distgrad.autograd import anomaly_mode, forward_ad, function, functional, graph, profiler
from distgrad.autograd.anomaly_mode import detect_anomaly, set_detect_anomaly
from distgrad.autograd.drivers import backward, grad
from distgrad.autograd.function import Function, NestedIOFunction
from distgrad.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from distgrad.record import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from distgrad.tensor import Tensor

__all__ = [
    "Function",
    "GradcheckError",
    "NestedIOFunction",
    "Variable",
    "anomaly_mode",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "forward_ad",
    "function",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "graph",
    "inference_mode",
    "is_grad_enabled",
    "no_grad",
    "profiler",
    "set_detect_anomaly",
    "set_grad_enabled",
]


class _VariableType(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor)


class Variable(metaclass=_VariableType):
    """The old way to make a tensor that requires grad: gives a tensor on the storage of `data`."""

    def __new__(cls, data: Tensor, requires_grad: bool = False, volatile: bool | None = None) -> Any:
        """A tensor on the storage of `data`, with no history."""
        made = data.detach()
        return made.requires_grad_() if requires_grad else made
