"""Questions about tensors and dtypes that compute nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import OF_NUMPY, dtype
from distgrad.ops.base import Tensor, common_dtype


def is_tensor(obj: Any) -> bool:
    """Whether `obj` is a tensor."""
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> bool:
    """Whether the elements are floating-point numbers."""
    return input.is_floating_point()


def numel(input: Tensor) -> int:
    """Number of elements."""
    return input.numel()


def result_type(tensor1: Any, tensor2: Any) -> dtype:
    """The dtype that arithmetic on the two gives; each is a tensor or a number."""
    return OF_NUMPY[
        common_dtype(*(x._value if isinstance(x, Tensor) else _number(x) for x in (tensor1, tensor2)))
    ]


def _number(x: Any) -> Any:
    return x.item() if isinstance(x, np.generic) else x


def explain(*tensors: Tensor) -> Any:
    """The plan that is pending for these tensors: stages, flops, bytes computed, held and moved. Nothing is sent."""
    return session.explain([tensor._value for tensor in tensors])
