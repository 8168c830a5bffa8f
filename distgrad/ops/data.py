"""What users give as data, read as torch reads it: numbers, nested sequences, NumPy arrays, tensors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.dtype import BOOL, INT64, default_numpy, from_numpy_dtype, promote_numpy, scalar_dtype
from distgrad.ops.base import Tensor
from distgrad.scalars import check_held, holds


def numbers(data: Any, target: np.dtype | None = None) -> np.ndarray:
    """An array of what the user gave, perhaps the user's own: as `target`, or in the dtype that torch finds for it.

    Numbers that `target` cannot hold are an error; arrays and tensors are converted as `to` does it.
    """
    if type(data) is list and data and type(data[0]) is float and len(set(map(type, data))) == 1:
        return _from_python(data, target or default_numpy())  # the common case, quickly
    if isinstance(data, Tensor):
        return _converted(data._array(), target)
    if isinstance(data, np.ndarray):
        return _converted(data.astype(from_numpy_dtype(data.dtype).numpy, copy=False), target)
    if isinstance(data, (bool, int, float, np.generic)):
        found = _dtype_of([data]) if target is None else target
        return _from_python(_leaf(data, found), found)
    if isinstance(data, str):
        raise TypeError(f"new(): invalid data type '{type(data).__name__}'")
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or isinstance(data, dict):
        raise RuntimeError(f"Could not infer dtype of {type(data).__name__}")
    if _are_arrays(data) and (target is None or target.kind == "f"):
        return _converted(
            np.stack([x.astype(from_numpy_dtype(x.dtype).numpy, copy=False) for x in data]), target
        )
    shape, leaves = _shape_of(data), []  # type: ignore[var-annotated]
    _collect(data, shape, 0, leaves)
    if not leaves:
        return np.empty(shape, target or default_numpy())
    found = _dtype_of(leaves) if target is None else target
    if not all(type(x) in (bool, int, float) for x in leaves):
        leaves = [_leaf(x, found) for x in leaves]
    return _from_python(leaves, found).reshape(shape)


def _converted(array: np.ndarray, target: np.dtype | None) -> np.ndarray:
    if target is None:
        return array
    with np.errstate(all="ignore"):
        return array.astype(target, copy=False)


def _from_python(data: Any, numpy_dtype: np.dtype) -> np.ndarray:
    """An array of Python numbers; torch's errors for those that the dtype cannot hold. A large float is infinite."""
    try:
        with np.errstate(over="ignore"):
            made = np.array(data, numpy_dtype)
        if numpy_dtype.kind == "i":  # NumPy cuts off before it looks
            for x in data if isinstance(data, list) else [data]:
                if type(x) is float:
                    check_held(x, numpy_dtype, numpy_dtype.name)
        return made
    except (OverflowError, ValueError):
        if numpy_dtype.kind == "f":
            raise
        for x in data if isinstance(data, list) else [data]:
            if isinstance(x, int) and not holds(x, INT64):
                raise ValueError("Overflow when unpacking long long") from None
            check_held(x, numpy_dtype, numpy_dtype.name)
        raise


def _are_arrays(data: Any) -> bool:
    """Whether these are arrays of one shape, which need not be looked into."""
    return (
        all(isinstance(x, np.ndarray) and x.ndim and x.shape == data[0].shape for x in data) and len(data) > 0
    )


def _shape_of(data: Any) -> tuple[int, ...]:
    """The shape that the first element of every level tells."""
    shape: list[int] = []
    while _is_sequence(data):
        if isinstance(data, np.ndarray):
            return (*shape, *data.shape)
        shape.append(len(data))
        if not len(data):
            break
        data = data[0]
    return tuple(shape)


def _is_sequence(data: Any) -> bool:
    """Whether it has items. A tensor inside of a sequence is one number, as in torch."""
    if isinstance(data, np.ndarray):
        return bool(data.ndim)
    return (
        hasattr(data, "__len__")
        and hasattr(data, "__getitem__")
        and not isinstance(data, (Tensor, str, dict, bytes))
    )


def _collect(data: Any, shape: tuple[int, ...], depth: int, leaves: list[Any]) -> None:
    """Gather the numbers in order, checking that every sequence of a level is equally long."""
    if depth == len(shape):
        if _is_sequence(data):
            raise TypeError(f"'{type(data).__name__}' object cannot be interpreted as an integer")
        leaves.append(data)
        return
    if not _is_sequence(data):
        raise TypeError("not a sequence")
    if len(data) != shape[depth]:
        raise ValueError(f"expected sequence of length {shape[depth]} at dim {depth} (got {len(data)})")
    if isinstance(data, np.ndarray) and data.shape == shape[depth:]:
        leaves.extend(data.astype(from_numpy_dtype(data.dtype).numpy, copy=False).reshape(-1))
        return
    for item in data:
        _collect(item, shape, depth + 1, leaves)


def _leaf(item: Any, target: np.dtype) -> Any:
    """An item of a sequence as a Python number. Only what is an integer may stand for one, floats of Python apart."""
    if isinstance(item, Tensor):
        return float(item) if target.kind == "f" else item.__index__()
    if not isinstance(item, (np.generic, np.ndarray)):
        return item
    if isinstance(item, np.float32) and target.kind != "f":
        raise TypeError(f"'numpy.{type(item).__name__}' object cannot be interpreted as an integer")
    return item.item()


def _dtype_of(leaves: Sequence[Any]) -> np.dtype:
    """The dtype that a list of numbers counts as; those of NumPy and tensors count with their own."""
    kinds = set(map(type, leaves))
    if kinds <= {bool}:
        return BOOL
    if kinds <= {bool, int}:
        return INT64
    plain = kinds & {bool, int, float}
    found = [scalar_dtype(kind()) for kind in plain]
    found += {_own_dtype(x) for x in leaves if type(x) not in plain}
    return functools.reduce(promote_numpy, found)


def _own_dtype(item: Any) -> np.dtype:
    if isinstance(item, Tensor):
        return item._avals.dtype
    if isinstance(item, (np.generic, np.ndarray)):
        return from_numpy_dtype(item.dtype).numpy
    if isinstance(item, (bool, int, float)):  # of a class derived from these
        return scalar_dtype(item)
    if isinstance(item, str):
        raise TypeError(f"new(): invalid data type '{type(item).__name__}'")
    raise RuntimeError(f"Could not infer dtype of {type(item).__name__}")
