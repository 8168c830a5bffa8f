"""Conversions and copies: to, float, double, long, int, bool, clone, contiguous, reshard."""

from __future__ import annotations

from typing import Any

from distgrad import session
from distgrad.cutting import sharding_of
from distgrad.dtype import (
    OF_NAME,
    bool_,
    check_device,
    device,
    dtype,
    dtype_of,
    float32,
    float64,
    int32,
    int64,
)
from distgrad.formats import check_format
from distgrad.ops.base import Tensor, Value, attach, composite, op
from distgrad.ops.samples import real, whole


@op(
    name="ToCopyBackward0",
    input=lambda g: g,
    method=False,
    samples=lambda: [(real(2, 3), float32), (whole(3), float64)],
)
def _to_copy(input: Value, dtype: dtype) -> Value:
    return session.emit("cast", input, dtype=dtype.name)


@op(input=lambda g: g, samples=lambda: [real(2, 3), real()])
def clone(input: Value, *, memory_format: Any = None) -> Value:
    """The same elements on a storage of their own. Values never change, so nothing is copied."""
    check_format("clone", memory_format, len(input.shape))
    return input


@op(name="CopyBackwards", input=lambda g: g, method=False, samples=lambda: [real(2, 3)])
def _own(input: Value) -> Value:
    """What backward deposits in a leaf: as `clone`, under the name that torch shows there."""
    return input


@composite(samples=lambda: [(real(2, 3), float32), (real(2, 3), "cpu")])
def to(input: Tensor, *args: Any, copy: bool = False, **more: Any) -> Tensor:
    """The tensor with another dtype: `to(dtype)`, `to(device, dtype)` or `to(other)`. Itself if nothing changes."""
    target: dtype | None = more.pop("dtype", None)
    check_device(more.pop("device", None))
    if "other" in more:
        target = more.pop("other").dtype
    more.pop("non_blocking", None)
    check_format("to", more.pop("memory_format", None), input.dim())
    if more:
        raise TypeError(f"to() got an unexpected keyword argument '{next(iter(more))}'")
    for item in args:
        if isinstance(item, dtype):
            target = item
        elif isinstance(item, Tensor):
            target = item.dtype
        elif isinstance(item, (str, device)):
            check_device(item)
        elif not isinstance(item, bool) and item is not None:
            raise TypeError(
                f"to() received an invalid combination of arguments - got ({type(item).__name__})"
            )
    if target is None or target is input.dtype:
        return clone(input) if copy else input
    return _to_copy(input, target)


def _as(target: dtype, doc: str) -> Any:
    def method(self: Tensor) -> Tensor:
        return self if self.dtype is target else _to_copy(self, target)

    method.__doc__ = doc
    return method


for _name, _target in {
    "float": float32,
    "double": float64,
    "int": int32,
    "long": int64,
    "bool": bool_,
}.items():
    attach(**{_name: _as(_target, f"The elements as {_target.name}.")})


def _type(self: Tensor, dtype: Any = None) -> Any:
    """The name of the tensor's type, or the tensor converted to `dtype`."""
    if dtype is None:
        return self.dtype.tensor_type
    if isinstance(dtype, str) and dtype.startswith("torch."):
        dtype = next((d for d in OF_NAME.values() if d.tensor_type == dtype), dtype)
    return to(self, dtype_of(dtype))


attach(type=_type, type_as=lambda self, other: to(self, other.dtype))


@composite(samples=lambda: [real(2, 3)])
def contiguous(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor itself if torch would have its elements in C order, else a clone."""
    check_format("contiguous", memory_format, input.dim())
    return input if input.is_contiguous() else clone(input)


@op(
    name="ReshardBackward0",
    input=lambda g, like: _reshard(g, like.sharding),
    method=False,
    samples=lambda: [(real(5, 2), sharding_of((5, 2), 2))],
)
def _reshard(input: Value, cuts: Any) -> Value:
    return input if input.sharding == cuts else session.emit("reshard", input, cuts=cuts)


@composite(samples=lambda: [(real(5, 2), 2), (real(5, 2), {"sharding": {1: 1}})])
def reshard(input: Tensor, sharding: Any) -> Tensor:
    """The same elements, cut otherwise: see `distgrad.sharding.sharding_of` for what `sharding` may be."""
    return _reshard(input, sharding_of(tuple(input.shape), sharding))
