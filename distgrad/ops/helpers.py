"""What bodies of ops are made of: promotion, broadcasting by primitives, dimensions, constants."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL, NAMES, OF_NUMPY, default_numpy, dtype, promote, scalar_dtype
from distgrad.graph import Value
from distgrad.primitives.elementwise import broadcast_shape
from distgrad.scalars import check_held, element, wrapped
from distgrad.sharding import Sharding

Operand = Value | int | float | bool
Ints = Annotated[tuple[int, ...], "several arguments, or a tuple of them"]
Dims = int | Sequence[int] | None
NUMBERS = (float, int, bool)
HIGHEST_LONG = 2**63 - 1
NO_UNSIGNED = (
    "Promotion for uint16, uint32, uint64 types is not supported, attempted to promote Bool and UInt64"
)


def constant(number: Any, numpy_dtype: np.dtype) -> Value:
    """A 0-d value; an error if the dtype cannot hold the number."""
    if number and type(number) in NUMBERS:  # not 0.0, which equals -0.0
        return _known_constant(number, numpy_dtype)
    return _constant(number, numpy_dtype)


def _constant(number: Any, numpy_dtype: np.dtype) -> Value:
    return _with_bits(element(number, numpy_dtype).tobytes(), numpy_dtype)


def operand(number: Any, numpy_dtype: np.dtype) -> Value:
    """A number that a tensor of this dtype is added to, or compared with, as a 0-d value: as torch it wraps around."""
    if number and type(number) in NUMBERS:
        return _known_operand(number, numpy_dtype)
    return _operand(number, numpy_dtype)


def _operand(number: Any, numpy_dtype: np.dtype) -> Value:
    return _with_bits(wrapped(number, numpy_dtype).tobytes(), numpy_dtype)


@functools.lru_cache(maxsize=4096)
def _with_bits(bits: bytes, numpy_dtype: np.dtype) -> Value:
    """One value for both, so that what is computed of it twice is computed once."""
    return Value.known(np.frombuffer(bits, numpy_dtype).reshape(()))


_known_constant = functools.lru_cache(maxsize=4096, typed=True)(_constant)
_known_operand = functools.lru_cache(maxsize=4096, typed=True)(_operand)


def common_dtype(*operands: Operand) -> np.dtype:
    """The dtype that torch's promotion gives for these operands."""
    # The usual cases: tensors of one dtype, a tensor and a number of the same or a lower kind.
    if len(operands) == 2:
        a, b = operands
        if type(a) is not Value:
            a, b = b, a
        if type(a) is Value:
            d = a.result.spec.dtype
            if type(b) is Value:
                if b.result.spec.dtype is d:
                    return d
            elif d.kind == "f" or (d.kind == "i" and type(b) is int):
                return d
    dims: list[np.dtype] = []
    zeros: list[np.dtype] = []
    numbers: list[np.dtype] = []
    for x in operands:
        if type(x) is Value:
            (dims if x.shape else zeros).append(x.dtype)
        else:
            numbers.append(scalar_dtype(x))
            if type(x) is int and x > HIGHEST_LONG and {*dims, *zeros} == {BOOL}:
                raise RuntimeError(NO_UNSIGNED)
    return promote(dims, zeros, numbers)


def cast(x: Operand, numpy_dtype: np.dtype) -> Value:
    """`x` as a value of this dtype; a number, which the dtype must be able to hold, becomes a 0-d constant."""
    if type(x) is not Value:
        return constant(x, numpy_dtype)
    if x.result.spec.dtype == numpy_dtype:
        return x
    return session.emit("cast", x, dtype=NAMES[numpy_dtype])


def as_operand(x: Operand, numpy_dtype: np.dtype) -> Value:
    """`cast`, but a number that the dtype cannot hold wraps around."""
    return cast(x, numpy_dtype) if type(x) is Value else operand(x, numpy_dtype)


def filling(x: Operand, numpy_dtype: np.dtype) -> Value:
    """A number or 0-d tensor that is written into a tensor of this dtype, which must be able to hold it.

    Of a tensor that is checked if the driver knows it: else it is converted, as `to` does it.
    """
    if type(x) is Value and x.dtype != numpy_dtype and x.array is not None:
        check_held(x.array.item(), numpy_dtype)
    return cast(x, numpy_dtype)


def check_single(name: str, value: Operand) -> None:
    """torch's error for an op that writes one number, and is given a tensor with dimensions."""
    if type(value) is Value and value.shape:
        n = len(value.shape)
        raise RuntimeError(
            f"{name} only supports a 0-dimensional value tensor, but got tensor with {n} dimension(s)."
        )


def elementwise(primitive: str, *operands: Operand, floating: bool = False, **attrs: Any) -> Value:
    """Apply a primitive to operands brought to their common dtype; shapes broadcast.

    With `floating`, integers and bools become the default floating dtype first.
    """
    if len(operands) == 2:
        a, b = operands
        if (
            type(a) is Value and type(b) is Value
        ):  # most often of one dtype, and then there is nothing to bring
            d = a.result.spec.dtype
            if d is b.result.spec.dtype and (d.kind == "f" or not floating):
                return session.dispatch(primitive, (a, b), attrs)[0]
    common = common_dtype(*operands)
    if floating and common.kind != "f":
        common = default_numpy()
    values = [
        x if type(x) is Value and x.result.spec.dtype is common else as_operand(x, common) for x in operands
    ]
    return session.dispatch(primitive, values, attrs)[0]


def broadcast_to(x: Value, shape: tuple[int, ...], cuts: Sharding | None = None) -> Value:
    """`x` repeated to `shape`; torch's error where it does not broadcast. `cuts` are used if x itself is not cut."""
    if x.shape == shape:
        return x
    if broadcast_shape(shape, x.shape) != shape:
        raise RuntimeError(
            f"output with shape {list(shape)} doesn't match the broadcast shape "
            f"{list(broadcast_shape(shape, x.shape))}"
        )
    if x.shape and len(x.shape) < len(shape):
        x = session.emit("expand_dims", x, dims=tuple(range(len(shape) - len(x.shape))))
    return session.emit("expand", x, shape=shape, cuts=hint(cuts, x.dtype))


def hint(cuts: Sharding | None, numpy_dtype: np.dtype) -> Sharding | None:
    """`cuts` where they say anything: one shard is what a small value gets by itself, and in the driver too."""
    if cuts is None or cuts.count > 1:
        return cuts
    return cuts if math.prod(cuts.shape) * numpy_dtype.itemsize > session.shard_bytes() else None


def reduce(primitive: str, input: Value, dim: Dims, keepdim: bool = False, **attrs: Any) -> Value:
    """Apply a reducing primitive along `dim`: one, several, or all (None or none at all)."""
    return session.emit(
        primitive, input, dims=normal_dims(dim, len(input.shape)), keepdim=bool(keepdim), **attrs
    )


def normal_dim(dim: int, ndim: int) -> int:
    """A dimension from 0 to ndim - 1; torch's error if there is no such. A 0-d tensor has dimension 0 (and -1)."""
    room = ndim or 1
    if not -room <= dim < room:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-room}, {room - 1}], but got {dim})"
        )
    return dim + room if dim < 0 else dim


def normal_dims(dim: Dims, ndim: int) -> Ints:
    """Dimensions rising, without those that a 0-d tensor has not; all of them for None and for an empty list."""
    if dim is None:
        return tuple(range(ndim))
    if isinstance(dim, (tuple, list)):
        if not dim:
            return tuple(range(ndim))
        dims = [normal_dim(operator.index(d), ndim) for d in dim]
        for i, d in enumerate(dims):
            if d in dims[:i]:
                raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
        return tuple(sorted(dims)) if ndim else ()
    return (normal_dim(operator.index(dim), ndim),) if ndim else _nothing(normal_dim(operator.index(dim), 0))  # type: ignore[arg-type]


def _nothing(_: int) -> Ints:
    return ()


def normal_ints(op: str, name: str, position: int, items: Any) -> Ints:
    """A run of integers, as a tuple; `x.view(2, 3)`, `x.view((2, 3))` and `x.view(torch.Size([2, 3]))` are alike."""
    if isinstance(items, (tuple, list)) and len(items) == 1 and isinstance(items[0], (tuple, list)):
        items = items[0]
    items = items if isinstance(items, (tuple, list)) else (items,)
    for i in items:
        if not hasattr(i, "__index__") or isinstance(i, bool):
            raise TypeError(
                f"{op}(): argument '{name}' (position {position + 1}) must be tuple of ints, not "
                f"{type(i).__name__}"
            )
    found = tuple([operator.index(i) for i in items])
    for at, n in enumerate(found):
        if not -(2**63) <= n < 2**63:
            raise TypeError(
                f"{op}(): argument '{name}' failed to unpack the object at pos {at + 1} with error "
                '"Overflow when unpacking long long"'
            )
    return found


def numpy_dtype_of(wanted: dtype | None, otherwise: np.dtype) -> np.dtype:
    """NumPy's dtype for an optional dtype argument."""
    return otherwise if wanted is None else wanted.numpy


def title(numpy_dtype: np.dtype) -> str:
    """A dtype as torch's messages name it: `Float`, `Long`."""
    return OF_NUMPY[numpy_dtype].title
