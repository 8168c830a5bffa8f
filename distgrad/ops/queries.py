"""Questions about tensors and dtypes that compute nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import OF_NUMPY, dtype
from distgrad.ops.base import Tensor, attach, common_dtype
from distgrad.plan.explain import Explanation


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


def explain(*tensors: Tensor) -> Explanation:
    """Print the plan that is pending for these tensors, and give it back. Nothing is sent.

    A line for each loop and each exchange of a stage, and for each stage the operations, and the bytes that it
    computes, holds on the workers and moves between them. What is printed is the `text` of the result; its totals are
    `flops`, `bytes_computed`, `bytes_held` and `bytes_moved`, and `peak_bytes` is the most that each worker will hold
    at one time, with what it holds already. Tensors whose values are there already need nothing.
    """
    if not tensors:
        raise TypeError("explain() takes at least one Tensor")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"explain() takes Tensors, not {type(tensor).__name__}")
    values = [tensor._value for tensor in tensors]
    told = session.explain(values) if session.is_initialized() else Explanation(0, ())
    print(told.text)
    return told


# What a tensor tells of itself: it is dense, real, and in the memory of processors.
def _imag(self: Tensor) -> Tensor:
    raise RuntimeError("imag is not implemented for tensors with non-complex dtypes.")


def _is_same_size(self: Tensor, other: Tensor) -> bool:
    """Whether the shapes are the same."""
    return self.shape == other.shape


def is_nonzero(input: Tensor) -> bool:
    """Whether the one element is not zero. Waits for it."""
    return bool(input)


def _itself(self: Tensor) -> Tensor:
    """The tensor itself: it is real."""
    return self


def _no(self: Tensor) -> bool:
    """False."""
    return False


def _cuda(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Refused: there is no such device."""
    raise AssertionError("Torch not compiled with CUDA enabled")


def _pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """Refused: there is no device to pin memory for."""
    raise RuntimeError("Cannot access accelerator device when none is available.")


for _name in ("is_cuda", "is_sparse", "is_quantized", "is_meta", "is_mkldnn", "is_nested"):
    attach(**{_name: property(_no)})
attach(
    cuda=_cuda,
    pin_memory=_pin_memory,
    is_cpu=property(lambda self: True),
    real=property(_itself),
    imag=property(_imag),
    conj=_itself,
    resolve_conj=_itself,
    resolve_neg=_itself,
    is_conj=_no,
    is_neg=_no,
    is_shared=_no,
    is_pinned=_no,
    is_signed=lambda self: self.dtype.is_signed,
    is_same_size=_is_same_size,
    is_nonzero=is_nonzero,
    get_device=lambda self: -1,
)
