"""Samples put together to a batch, and what a loader does with a sample that is not put together with others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

from distgrad.dtype import float64
from distgrad.ops.joining import stack
from distgrad.ops.making import as_tensor, tensor
from distgrad.tensor import Tensor

REFUSED = "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {}"
TEXT = "SaUO"  # kinds of NumPy's arrays of strings and objects


def _numpy(batch: Any, *, collate_fn_map: Any) -> Any:
    if batch[0].dtype.kind in TEXT:
        raise TypeError(REFUSED.format(batch[0].dtype))
    return collate([as_tensor(array) for array in batch], collate_fn_map=collate_fn_map)


default_collate_fn_map: dict[type | tuple[type, ...], Callable[..., Any]] = {
    Tensor: lambda batch, *, collate_fn_map: stack(list(batch), 0),
    np.ndarray: _numpy,
    (np.bool_, np.number, np.object_): lambda batch, *, collate_fn_map: as_tensor(np.array(batch)),
    float: lambda batch, *, collate_fn_map: tensor(batch, dtype=float64),
    int: lambda batch, *, collate_fn_map: tensor(batch),
    str: lambda batch, *, collate_fn_map: batch,
    bytes: lambda batch, *, collate_fn_map: batch,
}


def _like_mapping(data: Any, new: dict[Any, Any]) -> Any:
    """A mapping of the type of `data` with these items; a plain dict where that type cannot be made so."""
    try:
        if not isinstance(data, MutableMapping):
            return type(data)(new)
        copied = copy.copy(data)  # it may have attributes
        copied.update(new)
        return copied
    except TypeError:
        return new


def _like_sequence(data: Any, new: list[Any]) -> Any:
    """A sequence of the type of `data` with these items; a list where that type cannot be made so."""
    try:
        if not isinstance(data, MutableSequence):
            return type(data)(new)
        copied = copy.copy(data)
        for i, item in enumerate(new):
            copied[i] = item
        return copied
    except TypeError:
        return new


def collate(batch: Any, *, collate_fn_map: dict[Any, Callable[..., Any]] | None = None) -> Any:
    """Samples put together to a batch; `collate_fn_map` says what to do with those of each type."""
    first = batch[0]
    table = collate_fn_map or {}
    chosen = table.get(type(first)) or next((table[t] for t in table if isinstance(first, t)), None)
    if chosen is not None:
        return chosen(batch, collate_fn_map=collate_fn_map)

    def joined(samples: Any) -> Any:
        return collate(samples, collate_fn_map=collate_fn_map)

    if isinstance(first, Mapping):
        return _like_mapping(first, {key: joined([sample[key] for sample in batch]) for key in first})
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(joined(samples) for samples in zip(*batch, strict=False)))
    if isinstance(first, Sequence):
        if any(len(sample) != len(first) for sample in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        parts = [joined(samples) for samples in zip(*batch, strict=True)]
        return parts if isinstance(first, tuple) else _like_sequence(first, parts)
    raise TypeError(REFUSED.format(type(first)))


def default_collate(batch: Any) -> Any:
    """Samples put together to a batch, along a new first dimension.

    Tensors and NumPy arrays are stacked, numbers become a tensor (Python's floats of float64), strings stay a list; a
    mapping, named tuple or sequence of samples becomes one of batches, a tuple a list.
    """
    return collate(batch, collate_fn_map=default_collate_fn_map)


def default_convert(data: Any) -> Any:
    """A sample with NumPy's arrays and numbers, also inside of containers, as tensors."""
    if isinstance(data, Tensor):
        return data
    if isinstance(data, np.ndarray):
        return data if data.dtype.kind in TEXT else as_tensor(data)
    if isinstance(data, np.generic) and not isinstance(data, np.str_):
        return as_tensor(data)
    if isinstance(data, Mapping):
        return _like_mapping(data, {key: default_convert(data[key]) for key in data})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(default_convert(item) for item in data))
    if isinstance(data, tuple):
        return [default_convert(item) for item in data]
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return _like_sequence(data, [default_convert(item) for item in data])
    return data
