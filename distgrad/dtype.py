"""Element types, sizes and devices as torch shows them, and torch's rules of promotion."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np


class dtype:
    """Type of a tensor's elements, printed as torch prints it: `torch.float32`."""

    __slots__ = ("_rank", "is_floating_point", "itemsize", "name", "numpy", "tensor_type", "title")

    def __init__(self, name: str, rank: int, title: str, tensor_type: str):
        self.name = name
        self.numpy = np.dtype(name)
        self.itemsize = self.numpy.itemsize
        self.is_floating_point = self.numpy.kind == "f"
        self.title = title  # as torch's messages name it
        self.tensor_type = tensor_type
        self._rank = rank

    is_complex = False
    is_signed = property(lambda self: self.name != "bool")

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _by_name, (self.name,)

    def to_real(self) -> dtype:
        """The real type of the same precision: itself."""
        return self


bool_ = dtype("bool", 0, "Bool", "torch.BoolTensor")
int32 = dtype("int32", 1, "Int", "torch.IntTensor")
int64 = dtype("int64", 2, "Long", "torch.LongTensor")
float32 = dtype("float32", 3, "Float", "torch.FloatTensor")
float64 = dtype("float64", 4, "Double", "torch.DoubleTensor")

DTYPES = (bool_, int32, int64, float32, float64)
OF_NUMPY: dict[np.dtype, dtype] = {d.numpy: d for d in DTYPES}
OF_NAME: dict[str, dtype] = {d.name: d for d in DTYPES} | {
    "float": float32, "double": float64, "int": int32, "long": int64
}  # fmt: skip
OF_PYTHON: dict[Any, dtype] = {bool: bool_, int: int64, float: float64}

BOOL, INT32, INT64, FLOAT32, FLOAT64 = (d.numpy for d in DTYPES)
NAMES: dict[np.dtype, str] = {d.numpy: d.name for d in DTYPES}
"""The name of each supported NumPy dtype: what primitives take as an attribute."""
RANKS: dict[np.dtype, int] = {d.numpy: d._rank for d in DTYPES}


def _by_name(name: str) -> dtype:
    return OF_NAME[name]


def dtype_of(like: Any) -> dtype:
    """The `dtype` that a user means: one of ours, a NumPy dtype or type, a Python type, or a name."""
    if type(like) is dtype:
        return like
    found = OF_PYTHON.get(like) if isinstance(like, type) else None
    if found is float64:
        return get_default_dtype()
    if found is None and isinstance(like, str):
        found = OF_NAME.get(like.removeprefix("torch."))
    if found is None:
        try:
            found = OF_NUMPY.get(np.dtype(like))
        except TypeError:
            found = None
    if found is None:
        raise TypeError(f"dtype must be one of float32, float64, int32, int64, bool, got {like!r}")
    return found


def from_numpy_dtype(numpy_dtype: np.dtype) -> dtype:
    """The dtype for an array's; TypeError, as torch words it, where there is none."""
    found = OF_NUMPY.get(numpy_dtype.newbyteorder("="))
    if found is None:
        raise TypeError(
            f"can't convert np.ndarray of type {numpy_dtype.type.__module__}.{numpy_dtype.type.__name__}. "
            "The only supported types are: float64, float32, int64, int32, and bool."
        )
    return found


_default = float32


def get_default_dtype() -> dtype:
    """The floating-point dtype of Python floats; float32 unless set."""
    return _default


def default_numpy() -> np.dtype:
    """The default dtype, as NumPy's."""
    return _default.numpy


def set_default_dtype(d: dtype, /) -> None:
    """Set the dtype that Python floats become: float32 or float64."""
    global _default
    if type(d) is not dtype:
        raise TypeError(
            f"invalid dtype object: only floating-point types are supported as the default type, got {d!r}"
        )
    if not d.is_floating_point:
        raise TypeError("only floating-point types are supported as the default type")
    _default = d


def promote_numpy(a: np.dtype, b: np.dtype) -> np.dtype:
    """The smallest dtype that holds both, where both count alike."""
    return a if RANKS[a] >= RANKS[b] else b


def promote_types(type1: dtype, type2: dtype) -> dtype:
    """The smallest dtype to which both may be converted."""
    return type1 if type1._rank >= type2._rank else type2


def can_cast(from_: dtype, to: dtype) -> bool:
    """Whether an in-place op may write `from_` into `to`: never float to integer, nor a number to bool."""
    return castable(from_.numpy, to.numpy)


def castable(source: np.dtype, target: np.dtype) -> bool:
    """`can_cast` for NumPy's dtypes."""
    if source.kind == "f":
        return target.kind == "f"
    return target.kind != "b" or source.kind == "b"


def scalar_dtype(number: Any) -> np.dtype:
    """The dtype a Python number counts as."""
    if isinstance(number, bool):
        return BOOL
    return INT64 if isinstance(number, int) else _default.numpy


def promote(dims: Iterable[np.dtype], zeros: Iterable[np.dtype], numbers: Iterable[np.dtype]) -> np.dtype:
    """torch's promotion: a lower category counts only where it is of a higher kind than those above it.

    Args:
        dims: dtypes of the tensors with one dimension or more.
        zeros: those of 0-d tensors.
        numbers: those of Python numbers (`scalar_dtype`).
    """
    result: np.dtype | None = None
    for category in (numbers, zeros, dims):
        higher: np.dtype | None = None
        for d in category:
            higher = d if higher is None else promote_numpy(higher, d)
        if higher is None:
            continue
        if result is None or higher.kind == "f":
            result = higher
        elif higher.kind == "b" or result.kind == "f":
            result = promote_numpy(higher, result)
        else:
            result = higher
    assert result is not None
    return result


class Size(tuple[int, ...]):
    """A shape: a tuple printed as `torch.Size([2, 3])`."""

    __slots__ = ()

    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self)

    def __repr__(self) -> str:
        return f"torch.Size([{', '.join(map(str, self))}])"

    def __getitem__(self, key: Any) -> Any:
        found = tuple.__getitem__(self, key)
        return Size(found) if isinstance(key, slice) else found

    def __add__(self, other: Any) -> Size:
        return Size(tuple.__add__(self, tuple(other)))

    def __radd__(self, other: Any) -> Size:
        return Size(tuple(other) + tuple(self))

    def __mul__(self, n: Any) -> Size:
        return Size(tuple.__mul__(self, n))

    __rmul__ = __mul__

    def __reduce__(self) -> tuple[Any, ...]:
        return Size, (tuple(self),)


NAMED = (
    "cpu, cuda, ipu, xpu, mkldnn, opengl, opencl, ideep, hip, ve, fpga, maia, xla, lazy, vulkan, mps, meta, hpu, mtia, "
    "privateuseone"
)
DEVICES = frozenset(NAMED.split(", "))


class device:
    """Where a tensor is, as torch prints it. There is only `cpu`: which worker holds what is the session's business.

    Other devices that torch knows can be named, and are refused where something is to be there. As a context
    (`with device("cpu"):`) it says where new tensors are to be.
    """

    __slots__ = ("index", "type")
    index: int | None
    type: str

    def __init__(self, type: Any = "cpu", index: int | None = None):
        if isinstance(type, device):
            type, index = type.type, type.index
        if isinstance(type, int):
            raise RuntimeError("Cannot access accelerator device when none is available.")
        name, colon, number = str(type).partition(":")
        if name not in DEVICES:
            raise RuntimeError(f"Expected one of {NAMED} device type at start of device string: {name}")
        if colon and not number.isdigit():
            raise RuntimeError(f"Invalid device string: '{type}'")
        self.type = name
        self.index = int(number) if number else index

    def __enter__(self) -> device:
        check_device(self)
        _entered.append(_default_device)
        set_default_device(self)
        return self

    def __exit__(self, *error: Any) -> None:
        set_default_device(_entered.pop())

    def __repr__(self) -> str:
        return (
            f"device(type='{self.type}')"
            if self.index is None
            else f"device(type='{self.type}', index={self.index})"
        )

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __reduce__(self) -> tuple[Any, ...]:
        return device, (self.type, self.index)


Device = device
CPU = device("cpu")
_default_device = CPU
_entered: list[device] = []


def check_device(where: Any) -> None:
    """Accept `None` and every way to write the CPU; refuse all else, in torch's words."""
    if where is None:
        return
    kind = device(where).type
    if kind == "cuda":
        raise AssertionError("Torch not compiled with CUDA enabled")
    if kind != "cpu":
        raise RuntimeError(f"PyTorch is not linked with support for {kind} devices")


def get_default_device() -> device:
    """Where new tensors are: the CPU."""
    return _default_device


def set_default_device(device: Any) -> None:
    """Say where new tensors are to be: a way to write the CPU, or None, which is that too."""
    global _default_device
    check_device(device)
    _default_device = CPU if device is None else Device(device)


class finfo:
    """Limits of a floating-point dtype: `bits, eps, max, min, tiny, smallest_normal, resolution`."""

    def __init__(self, type: dtype | None = None):
        self._dtype = get_default_dtype() if type is None else type
        if not self._dtype.is_floating_point:
            raise TypeError(
                "torch.finfo() requires a floating point input type. Use torch.iinfo to handle "
                f"'{self._dtype.name}'"
            )
        info = np.finfo(self._dtype.numpy)
        self.bits, self.dtype = info.bits, self._dtype.name
        self.eps, self.max, self.min = float(info.eps), float(info.max), float(info.min)
        self.tiny = self.smallest_normal = float(info.smallest_normal)
        self.resolution = 10.0**-info.precision

    def __repr__(self) -> str:
        names = ("resolution", "min", "max", "eps", "smallest_normal", "tiny")
        return f"finfo({', '.join(f'{n}={getattr(self, n):g}' for n in names)}, dtype={self.dtype})"


class iinfo:
    """Limits of an integer dtype: `bits, max, min`."""

    def __init__(self, type: dtype):
        if type.is_floating_point or type is bool_:
            raise TypeError(
                f"torch.iinfo() requires an integer input type. Use torch.finfo to handle '{type.name}'"
            )
        info = np.iinfo(type.numpy)
        self.bits, self.max, self.min, self.dtype = info.bits, int(info.max), int(info.min), type.name

    def __repr__(self) -> str:
        return f"iinfo(min={self.min:g}, max={self.max:g}, dtype={self.dtype})"
