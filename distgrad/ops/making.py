"""Functions that make tensors. Large filled and random ones are made on the workers."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from distgrad import session, vmaps
from distgrad.cutting import sharding_of
from distgrad.dtype import (
    BOOL,
    FLOAT64,
    INT64,
    check_device,
    default_numpy,
    dtype_of,
    from_numpy_dtype,
    scalar_dtype,
)
from distgrad.formats import check_format
from distgrad.graph import Value
from distgrad.ops.base import Tensor, attach, broadcast_to, cast, constant
from distgrad.ops.data import numbers
from distgrad.ops.helpers import hint, normal_ints
from distgrad.scalars import check_held, checked, holds
from distgrad.session import batching


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
def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, sharding: Any = None
) -> Tensor:
    """A tensor from numbers, nested sequences, a NumPy array or a tensor; always a copy.

    Python floats become the default dtype, ints int64, bools bool; arrays keep their dtype. `sharding` gives the cuts.
    """
    target = None if dtype is None else dtype_of(dtype).numpy
    array = numbers(data, target)
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
    wrong = next((n for n in shape if n < 0), None)
    if wrong is not None:
        if name == "zeros":
            raise RuntimeError("zeros: Dimension size must be non-negative.")
        raise RuntimeError(f"Trying to create tensor with negative dimension {wrong}: {list(shape)}")
    return shape


def number(name: str, argument: str, position: int, given: Any) -> Any:
    """An argument that must be a number, as Python's: NumPy's, and tensors of no dimensions, count too."""
    if isinstance(given, (bool, int, float)) and not isinstance(given, np.generic):
        return given
    if isinstance(given, (np.bool_, np.integer, np.floating)):
        return given.item()
    if isinstance(given, Tensor) and not given.dim() and not given.requires_grad:
        return given.item()
    kind = type(given).__name__
    raise TypeError(f"{name}(): argument '{argument}' (position {position}) must be Number, not {kind}")


def integer(name: str, argument: str, position: int, given: Any) -> int:
    """An argument that must be an integer of 64 bits."""
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        kind = type(given).__name__
        raise TypeError(f"{name}(): argument '{argument}' (position {position}) must be int, not {kind}")
    found = operator.index(given)
    if not holds(found, INT64):
        raise ValueError("Overflow when unpacking long long")
    return found


def filled(shape: tuple[int, ...], fill: Any, numpy_dtype: np.dtype, sharding: Any = None) -> Value:
    """A value of one number everywhere: no memory is written until somebody needs it."""
    cuts = None if sharding is None else sharding_of(shape, sharding)
    with session.called("full"):
        return broadcast_to(constant(fill, numpy_dtype), shape, cuts)


def _filler(name: str, fill: int, doc: str) -> Any:
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
        return finished(filled(shape, fill, numpy_dtype, sharding), requires_grad, device)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = doc + " `sharding` gives the cuts."
    return make


def _only_size(name: str, more: dict[str, Any]) -> Any:
    given = more.pop("size", None)
    check_format(name, more.pop("memory_format", None))
    for harmless in ("layout", "pin_memory", "out", "names"):
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
    value = number("full", "fill_value", 2, fill_value)
    numpy_dtype = scalar_dtype(value) if dtype is None else dtype_of(dtype).numpy
    return finished(
        filled(shape_of("full", tuple(size)), value, numpy_dtype, sharding), requires_grad, device
    )


def scalar_tensor(
    s: Any, *, dtype: Any = None, requires_grad: bool = False, device: Any = None, **more: Any
) -> Tensor:
    """A 0-d tensor of one number, in the default dtype unless given."""
    _only_size("scalar_tensor", more)
    value = number("scalar_tensor", "s", 1, s)
    numpy_dtype = default_numpy() if dtype is None else dtype_of(dtype).numpy
    return finished(constant(value, numpy_dtype), requires_grad, device)


def of_samples(value: Value, input: Tensor) -> Value:
    """A new value that every sample of a `vmap` which `input` belongs to has for itself, so that it may write there."""
    if not batching.used:
        return value
    return vmaps.mark_all(value, batching.levels(input._avals))


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
    check_format("full_like", memory_format, input.dim())
    shape, numpy_dtype, cuts = _like(input, dtype, sharding)
    value = number("full_like", "fill_value", 2, fill_value)
    made = of_samples(filled(shape, value, numpy_dtype, cuts), input)
    return finished(made, requires_grad, device)


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
    names = (("end", start),) if end is None else (("start", start), ("end", end), ("step", step))
    given = [number("arange", name, i, x) for i, (name, x) in enumerate(names, 1)]
    start, end, step = (0, *given, 1) if end is None else given
    floats = any(isinstance(x, float) for x in (start, end, step))
    numpy_dtype = dtype_of(dtype).numpy if dtype is not None else default_numpy() if floats else INT64
    if numpy_dtype == BOOL:
        raise NotImplementedError("\"arange_cpu\" not implemented for 'Bool'")
    n, start, step = _steps(start, end, step, numpy_dtype)
    with session.called("arange"):
        return finished(_line(n, start, step, numpy_dtype, sharding), requires_grad, device)


def _steps(start: Any, end: Any, step: Any, numpy_dtype: np.dtype) -> tuple[int, Any, Any]:
    """How many numbers there are, where they start and how far apart they are: whole numbers for integers."""
    if not (math.isfinite(start) and math.isfinite(end)):
        raise RuntimeError(f"unsupported range: {start:g} -> {end:g}")
    if not (step > 0 or step < 0):
        raise RuntimeError("step must be nonzero")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    n = None if numpy_dtype == INT64 else _ceil(start, end, step)
    if numpy_dtype.kind == "i":
        for x in (start, end, step):
            check_held(checked(x), INT64)
        start, end, step = int(start), int(end), int(step)
        if n is None and step == 0:
            raise ValueError("step must be nonzero")
    return _ceil(start, end, step) if n is None else n, start, step


def _ceil(start: Any, end: Any, step: Any) -> int:
    if any(isinstance(x, float) for x in (start, end, step)):
        n = math.ceil(min((end - start) / step, 2.0**63))
    else:
        n = -((start - end) // step)
    if n >= 2**63:
        raise RuntimeError("invalid size, possible overflow?")
    return n


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
    steps = integer("linspace", "steps", 3, steps)
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    if numpy_dtype == BOOL:
        raise NotImplementedError("\"linspace_cpu\" not implemented for 'Bool'")
    start, end = (number("linspace", *x) for x in (("start", 1, start), ("end", 2, end)))
    for x in (start, end):
        check_held(checked(x), numpy_dtype)
    if numpy_dtype.kind == "i":
        start, end = int(start), int(end)
    start, end = float(start), float(end)
    if steps < 2:
        return finished(filled((steps,), start, numpy_dtype, sharding), requires_grad, device)
    # As torch: the lower half counted from the start, the upper from the end, so that both are exact.
    step = (end - start) / (steps - 1)
    with session.called("linspace"):
        low = _line(steps, start, step, FLOAT64, sharding)
        high = _line(steps, end - step * (steps - 1), step, FLOAT64, sharding)
        counted = session.emit("iota", shape=(steps,), dim=0, cuts=None)
        first = session.emit("less", counted, constant(steps // 2, INT64))
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
    n = integer("eye", "n", 1, n)
    shape = (n, n if m is None else integer("eye", "m", 2, m))
    for name, size in zip("nm", shape, strict=True):
        if size < 0:
            raise RuntimeError(f"{name} must be greater or equal to 0, got {size}")
    cuts = None if sharding is None else hint(sharding_of(shape, sharding), INT64)
    numpy_dtype = default_numpy() if dtype is None else dtype_of(dtype).numpy
    with session.called("eye"):
        rows, columns = (session.emit("iota", shape=shape, dim=d, cuts=cuts) for d in (0, 1))
        return finished(cast(session.emit("equal", rows, columns), numpy_dtype), requires_grad, device)


def legacy_like(input: Tensor, size: tuple[Any, ...], fill: Any, options: dict[str, Any]) -> Tensor:
    """`new_zeros` and its kin: the dtype of `input`, another shape."""
    dtype = options.pop("dtype", None) or input.dtype
    numpy_dtype = dtype_of(dtype).numpy
    shape = shape_of("new_zeros", size, options.pop("size", None))
    return finished(
        of_samples(filled(shape, number("new_full", "fill_value", 2, fill), numpy_dtype), input),
        options.pop("requires_grad", False),
        options.pop("device", None),
    )


attach(
    new_zeros=lambda self, *size, **options: legacy_like(self, size, 0, options),
    new_ones=lambda self, *size, **options: legacy_like(self, size, 1, options),
    new_empty=lambda self, *size, **options: legacy_like(self, size, 0, options),
    new_full=lambda self, size, fill_value, **options: legacy_like(self, tuple(size), fill_value, options),
    new_tensor=lambda self, data, **options: tensor(data, **{"dtype": self.dtype, **options}),
)


class _OldType(type):
    """The type of torch's old constructors, of which the tensors of their dtype are instances."""

    dtype: Any

    def __call__(cls, *data: Any) -> Tensor:
        numpy_dtype = cls.dtype.numpy
        if all(isinstance(n, int) for n in data):
            return finished(filled(shape_of(cls.__name__, data or (0,)), 0, numpy_dtype))
        return finished(session.constant(np.array(numbers(data[0], numpy_dtype))))

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor) and instance.dtype is cls.dtype


def _old_type(name: str) -> Any:
    found = dtype_of(name)
    doc = f"torch's old constructor: a {name} tensor from sizes or from data."
    members = {"dtype": found, "__doc__": doc, "__module__": "distgrad"}
    return _OldType(f"{found.title}Tensor", (), members)


FloatTensor, DoubleTensor = _old_type("float32"), _old_type("float64")
IntTensor, LongTensor, BoolTensor = _old_type("int32"), _old_type("int64"), _old_type("bool")
