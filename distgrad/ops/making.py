"""Functions that make tensors. Large filled and random ones are made on the workers."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import (
    BOOL,
    FLOAT64,
    INT64,
    check_device,
    default_numpy,
    dtype_of,
    from_numpy_dtype,
    promote_numpy,
    scalar_dtype,
)
from distgrad.graph import Value
from distgrad.ops.base import Tensor, attach, broadcast_to, cast, constant
from distgrad.ops.helpers import hint, normal_ints
from distgrad.sharding import sharding_of


def finished(value: Value, requires_grad: bool = False, device: Any = None) -> Tensor:
    """A leaf with these contents."""
    if device is not None:
        check_device(device)
    if requires_grad and value.dtype.kind != "f":
        raise RuntimeError("Only Tensors of floating point and complex dtype can require gradients")
    tensor = Tensor(value)
    tensor._requires_grad = bool(requires_grad)
    return tensor


# From data.
def _numbers(data: Any, target: np.dtype | None = None) -> np.ndarray:
    """An array of what the user gave, perhaps the user's own: Python numbers as `target`, or in torch's dtype."""
    if isinstance(data, Tensor):
        return data._array()
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data)
        return array.astype(from_numpy_dtype(array.dtype).numpy, copy=False)
    if isinstance(data, (bool, int, float)):
        return _from_python(data, scalar_dtype(data) if target is None else target)
    if isinstance(data, str):
        raise TypeError(f"new(): invalid data type '{type(data).__name__}'")
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or isinstance(data, dict):
        raise RuntimeError(f"Could not infer dtype of {type(data).__name__}")
    leaves: list[Any] = []
    shape = _shape_of(data)
    _collect(data, shape, 0, leaves)
    if not leaves:
        return np.empty(shape, default_numpy())
    if isinstance(leaves[0], np.ndarray):
        return np.stack(leaves).reshape(shape)
    return _from_python(leaves, _dtype_of_leaves(leaves) if target is None else target).reshape(shape)


def _from_python(data: Any, numpy_dtype: np.dtype) -> np.ndarray:
    try:
        return np.array(data, numpy_dtype)
    except OverflowError:
        raise ValueError("Overflow when unpacking long long") from None


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
    if isinstance(data, (Tensor, np.ndarray)):
        return bool(data.ndim)
    return (
        hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, (str, dict, bytes))
    )


def _collect(data: Any, shape: tuple[int, ...], depth: int, leaves: list[Any]) -> None:
    """Gather the numbers in order, checking that every sequence of a level is equally long."""
    if depth == len(shape):
        if _is_sequence(data):
            raise TypeError(f"'{type(data).__name__}' object cannot be interpreted as an integer")
        leaves.append(_leaf(data))
        return
    if not _is_sequence(data):
        raise TypeError("not a sequence")
    if len(data) != shape[depth]:
        raise ValueError(f"expected sequence of length {shape[depth]} at dim {depth} (got {len(data)})")
    if isinstance(data, np.ndarray):
        leaves.extend(_leaf(x) for x in data.reshape(-1))
        return
    for item in data:
        _collect(item, shape, depth + 1, leaves)


def _leaf(item: Any) -> Any:
    if isinstance(item, Tensor):
        return item.item()
    if isinstance(item, (bool, int, float, np.bool_, np.integer, np.floating)):
        return item
    if isinstance(item, np.ndarray):
        return item.item()
    if isinstance(item, str):
        raise TypeError(f"new(): invalid data type '{type(item).__name__}'")
    raise RuntimeError(f"Could not infer dtype of {type(item).__name__}")


def _dtype_of_leaves(leaves: Sequence[Any]) -> np.dtype:
    """The dtype that a list of numbers counts as; NumPy's numbers count with their own."""
    kinds = set(map(type, leaves))
    if kinds <= {bool}:
        return BOOL
    if kinds <= {bool, int}:
        return INT64
    found = [
        from_numpy_dtype(np.dtype(k)).numpy if issubclass(k, np.generic) else scalar_dtype(k()) for k in kinds
    ]
    return functools.reduce(promote_numpy, found)


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, sharding: Any = None
) -> Tensor:
    """A tensor from numbers, nested sequences, a NumPy array or a tensor; always a copy.

    Python floats become the default dtype, ints int64, bools bool; arrays keep their dtype. `sharding` gives the cuts.
    """
    target = None if dtype is None else dtype_of(dtype).numpy
    if type(data) is list and data and type(data[0]) is float and len(set(map(type, data))) == 1:
        array = np.array(data, target or default_numpy())  # the common case, quickly
    else:
        array = np.asarray(_numbers(data, target), target)
    cuts = None if sharding is None else hint(sharding_of(array.shape, sharding), array.dtype)
    return finished(session.snapshot(array, cuts), requires_grad, device)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """The tensor itself if `data` is one of the right dtype, else a new one."""
    if isinstance(data, Tensor):
        return data if dtype is None else data.to(dtype_of(dtype))
    return tensor(data, dtype=dtype, device=device)


asarray = as_tensor


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor with the elements of an array. Unlike torch's a copy: later changes of one do not reach the other."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    return finished(session.snapshot(np.asarray(array, from_numpy_dtype(array.dtype).numpy)))


# Filled.
def shape_of(name: str, size: tuple[Any, ...], given: Any = None) -> tuple[int, ...]:
    """The shape from `zeros(2, 3)`, `zeros((2, 3))` or `zeros(size=(2, 3))`."""
    if given is not None:
        if size:
            raise TypeError(f"{name}() got multiple values for argument 'size'")
        size = (given,)
    shape = normal_ints(name, "size", 0, size)
    if any(n < 0 for n in shape):
        raise RuntimeError(f"{name}: Dimension size must be non-negative.")
    return shape


def filled(shape: tuple[int, ...], number: Any, numpy_dtype: np.dtype, sharding: Any = None) -> Value:
    """A value of one number everywhere: no memory is written until somebody needs it."""
    cuts = None if sharding is None else sharding_of(shape, sharding)
    session.current_op.name = "full"
    return broadcast_to(constant(number, numpy_dtype), shape, cuts)


def _filler(name: str, number: float, doc: str) -> Any:
    def make(
        *size: Any,
        dtype: Any = None,
        requires_grad: bool = False,
        device: Any = None,
        sharding: Any = None,
        **more: Any,
    ) -> Tensor:
        shape = shape_of(name, size, _only_size(name, more))
        numpy_dtype = default_numpy() if dtype is None else dtype_of(dtype).numpy
        return finished(filled(shape, number, numpy_dtype, sharding), requires_grad, device)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = doc + " `sharding` gives the cuts."
    return make


def _only_size(name: str, more: dict[str, Any]) -> Any:
    given = more.pop("size", None)
    for harmless in ("layout", "pin_memory", "out", "memory_format", "names"):
        more.pop(harmless, None)
    if more:
        raise TypeError(f"{name}() got an unexpected keyword argument '{next(iter(more))}'")
    return given


zeros = _filler("zeros", 0, "Zeros of the given shape.")
ones = _filler("ones", 1, "Ones of the given shape.")
empty = _filler("empty", 0, "A tensor of the given shape whose contents do not matter; here they are zeros.")


def full(
    size: Any,
    fill_value: Any,
    *,
    dtype: Any = None,
    requires_grad: bool = False,
    device: Any = None,
    sharding: Any = None,
) -> Tensor:
    """`fill_value` everywhere; the dtype follows from it unless given."""
    if not isinstance(size, (tuple, list)):
        raise TypeError(
            f"full(): argument 'size' (position 1) must be tuple of ints, not {type(size).__name__}"
        )
    number = fill_value.item() if isinstance(fill_value, (Tensor, np.generic)) else fill_value
    numpy_dtype = scalar_dtype(number) if dtype is None else dtype_of(dtype).numpy
    return finished(
        filled(shape_of("full", tuple(size)), number, numpy_dtype, sharding), requires_grad, device
    )


def _like(input: Tensor, dtype: Any, sharding: Any) -> tuple[tuple[int, ...], np.dtype, Any]:
    value = input._avals
    cuts = sharding if sharding is not None else value.sharding
    return value.shape, value.dtype if dtype is None else dtype_of(dtype).numpy, cuts


def full_like(
    input: Tensor,
    fill_value: Any,
    *,
    dtype: Any = None,
    requires_grad: bool = False,
    device: Any = None,
    sharding: Any = None,
    memory_format: Any = None,
) -> Tensor:
    """`fill_value` everywhere, in the shape, dtype and sharding of `input`."""
    shape, numpy_dtype, cuts = _like(input, dtype, sharding)
    return finished(filled(shape, fill_value, numpy_dtype, cuts), requires_grad, device)


def zeros_like(input: Tensor, **options: Any) -> Tensor:
    """Zeros in the shape, dtype and sharding of `input`."""
    return full_like(input, 0, **options)


def ones_like(input: Tensor, **options: Any) -> Tensor:
    """Ones in the shape, dtype and sharding of `input`."""
    return full_like(input, 1, **options)


empty_like = zeros_like


# Sequences.
def arange(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    requires_grad: bool = False,
    device: Any = None,
    sharding: Any = None,
) -> Tensor:
    """start, start + step, ... below `end`; `arange(n)` counts from 0. int64 unless one of the numbers is a float."""
    start, end = (0, start) if end is None else (start, end)
    start, end, step = (x.item() if isinstance(x, (Tensor, np.generic)) else x for x in (start, end, step))
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    n = math.ceil((end - start) / step)
    session.current_op.name = "arange"
    floats = any(isinstance(x, float) for x in (start, end, step))
    numpy_dtype = dtype_of(dtype).numpy if dtype is not None else default_numpy() if floats else INT64
    return finished(_line(n, start, step, numpy_dtype, sharding), requires_grad, device)


def _line(n: int, start: Any, step: Any, numpy_dtype: np.dtype, sharding: Any) -> Value:
    """start + step * i, computed as int64 or float64."""
    cuts = None if sharding is None else hint(sharding_of((n,), sharding), INT64)
    value = session.emit("iota", shape=(n,), dim=0, cuts=cuts)
    wide = FLOAT64 if isinstance(start, float) or isinstance(step, float) else INT64
    if wide is FLOAT64 or step != 1:
        value = session.emit("multiply", cast(value, wide), constant(step, wide))
    if start != 0:
        value = session.emit("add", cast(value, wide), constant(start, wide))
    return cast(value, numpy_dtype)


def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: Any = None,
    requires_grad: bool = False,
    device: Any = None,
    sharding: Any = None,
) -> Tensor:
    """`steps` numbers from `start` to `end`, both included, evenly spaced."""
    numpy_dtype = default_numpy() if dtype is None else dtype_of(dtype).numpy
    start, end = float(start), float(end)
    if steps < 2:
        return finished(filled((steps,), start, numpy_dtype, sharding), requires_grad, device)
    # As torch: the lower half counted from the start, the upper from the end, so that both are exact.
    step = (end - start) / (steps - 1)
    session.current_op.name = "linspace"
    low = _line(steps, start, step, FLOAT64, sharding)
    high = _line(steps, end - step * (steps - 1), step, FLOAT64, sharding)
    first = session.emit(
        "less", session.emit("iota", shape=(steps,), dim=0, cuts=None), constant(steps // 2, INT64)
    )
    return finished(cast(session.emit("where", first, low, high), numpy_dtype), requires_grad, device)


def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: Any = None,
    requires_grad: bool = False,
    device: Any = None,
    sharding: Any = None,
) -> Tensor:
    """Ones on the diagonal of a matrix, zeros elsewhere."""
    shape = shape_of("eye", (n, n if m is None else m))
    cuts = None if sharding is None else hint(sharding_of(shape, sharding), INT64)
    session.current_op.name = "eye"
    rows, columns = (session.emit("iota", shape=shape, dim=d, cuts=cuts) for d in (0, 1))
    numpy_dtype = default_numpy() if dtype is None else dtype_of(dtype).numpy
    return finished(cast(session.emit("equal", rows, columns), numpy_dtype), requires_grad, device)


def legacy_like(input: Tensor, size: tuple[Any, ...], number: float, options: dict[str, Any]) -> Tensor:
    """`new_zeros` and its kin: the dtype of `input`, another shape."""
    dtype = options.pop("dtype", None) or input.dtype
    numpy_dtype = dtype_of(dtype).numpy
    shape = shape_of("new_zeros", size, options.pop("size", None))
    return finished(
        filled(shape, number, numpy_dtype), options.pop("requires_grad", False), options.pop("device", None)
    )


attach(
    new_zeros=lambda self, *size, **options: legacy_like(self, size, 0, options),
    new_ones=lambda self, *size, **options: legacy_like(self, size, 1, options),
    new_empty=lambda self, *size, **options: legacy_like(self, size, 0, options),
    new_full=lambda self, size, fill_value, **options: legacy_like(self, tuple(size), fill_value, options),
    new_tensor=lambda self, data, **options: tensor(data, **{"dtype": self.dtype, **options}),
)


def _legacy(name: str) -> Any:
    def make(*data: Any) -> Tensor:
        if all(isinstance(n, int) for n in data):
            return finished(filled(data or (0,), 0, dtype_of(name).numpy))
        return finished(session.constant(np.array(_numbers(data[0])).astype(dtype_of(name).numpy)))

    make.__doc__ = f"torch's old constructor: a {name} tensor from sizes or from data."
    return make


FloatTensor, DoubleTensor = _legacy("float32"), _legacy("float64")
IntTensor, LongTensor, BoolTensor = _legacy("int32"), _legacy("int64"), _legacy("bool")
