"""What a tensor tells about its contents, and how it behaves as a Python object; nothing of its history."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from distgrad import session
from distgrad.dtype import CPU, OF_NUMPY, Size, device, dtype
from distgrad.dual import forward, highest
from distgrad.formats import check_format, contiguous_format, preserve_format
from distgrad.graph import Value
from distgrad.printing import edge_indices, format_array
from distgrad.session import batching
from distgrad.sharding import Sharding
from distgrad.storage import Storage, View
from distgrad.strided import Strided
from distgrad.warned import warn_once

LOSES_GRADIENT = (
    "Converting a tensor with requires_grad=True to a scalar may lead to unexpected behavior.\n"
    "Consider using tensor.detach() first."
)

NO_BRANCH = (
    "vmap: It looks like you're attempting to use a Tensor in some data-dependent control flow. We don't support that "
    "yet, please file an issue at https://github.com/pytorch/pytorch/issues ."
)
NO_STORAGE = "Cannot access data pointer of Tensor that doesn't have storage"


class Contents:
    """The part of `Tensor` that reads contents."""

    __slots__ = ()

    if TYPE_CHECKING:
        _storage: Storage
        _view: View | None
        _grad: Any
        _requires_grad: bool
        requires_grad: bool

        @property
        def is_leaf(self) -> bool: ...  # noqa: D102
        def _alias(self) -> Any: ...
        @property
        def _value(self) -> Value: ...

        def __init__(self, *data: Any): ...
        def __getattr__(self, name: str) -> Any: ...
        def __eq__(self, other: object) -> Any: ...

    @property
    def _avals(self) -> Value:
        """A value with the right shape, dtype and sharding, its contents perhaps out of date."""
        return self._storage.value if self._view is None else self._view.value

    def _array(self) -> np.ndarray:
        return session.fetch(self._value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the "
                "moment.  If you were attempting to deepcopy a module, this may be because of a "
                "torch.nn.utils.weight_norm usage, see https://github.com/pytorch/pytorch/pull/103001"
            )
        if id(self) in memo:
            return memo[id(self)]
        copy: Any = type(self)(self._value)
        copy._storage, copy._view = deepcopy(self._storage, memo), self._view and self._view.alone()
        memo[id(self)] = copy
        copy._requires_grad = self._requires_grad
        if self._grad is not None:
            copy._grad = self._grad.__deepcopy__(memo)
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    def __copy__(self) -> Any:
        """A leaf on the same storage."""
        alias = self._alias()
        alias._requires_grad = self.requires_grad
        alias.__dict__.update(self.__dict__)
        return alias

    @property
    def shape(self) -> Size:
        """Length of each dimension."""
        return Size(self._avals.shape)

    @property
    def dtype(self) -> dtype:
        """Type of the elements."""
        return OF_NUMPY[self._avals.dtype]

    @property
    def sharding(self) -> Sharding:
        """How the tensor is cut."""
        return self._avals.sharding

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._avals.shape)

    @property
    def device(self) -> device:
        """Always `cpu`."""
        return CPU

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self._avals.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.numel() * self.itemsize

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self._avals.shape)

    ndimension = dim

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of dimension `dim`."""
        shape = self.shape
        if dim is None:
            return shape
        if not -len(shape) <= dim < len(shape):
            bounds = f"[{-len(shape)}, {len(shape) - 1}]" if shape else "[-1, 0]"
            raise IndexError(f"Dimension out of range (expected to be in range of {bounds}, but got {dim})")
        return shape[dim]

    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self._avals.shape)

    nelement = numel

    def element_size(self) -> int:
        """Bytes of an element."""
        return self.itemsize

    def is_floating_point(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self._avals.dtype.kind == "f"

    def is_complex(self) -> bool:
        """False: there are no complex tensors."""
        return False

    def stride(self, dim: int | None = None) -> Any:
        """How many elements one step along each dimension goes, in a tensor of one process."""
        strides = self._layout.strides
        if dim is None:
            return strides
        if not -len(strides) <= dim < len(strides):
            bounds = f"[{-len(strides)}, {len(strides) - 1}]" if strides else "[-1, 0]"
            raise IndexError(f"Dimension out of range (expected to be in range of {bounds}, but got {dim})")
        return strides[dim]

    def storage_offset(self) -> int:
        """How many elements of the storage stand before the first one."""
        return self._layout.offset

    @property
    def _layout(self) -> Strided:
        return Strided.contiguous(self._storage.value.shape) if self._view is None else self._view.layout

    def is_contiguous(self, memory_format: Any = contiguous_format) -> bool:
        """Whether the elements lie in C order, in a tensor of one process; in another order they never lie."""
        if memory_format not in (contiguous_format, preserve_format):
            check_format("is_contiguous", memory_format)
            return False
        return self._view is None or self._view.layout.is_contiguous

    def data_ptr(self) -> int:
        """An address: equal for tensors that begin with the same element of one storage. There is nothing to read."""
        return (id(self._storage) << 40) + self._layout.offset * self.itemsize if self.numel() else 0

    def item(self) -> Any:
        """The element of a one-element tensor, as a Python number."""
        if self.numel() != 1:
            raise RuntimeError(f"a Tensor with {self.numel()} elements cannot be converted to Scalar")
        return self._array().item()

    def tolist(self) -> Any:
        """The elements as (nested lists of) Python numbers."""
        self._of_one_sample(NO_STORAGE)
        return self._array().tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The elements as a NumPy array: a copy, the caller's own."""
        if self.requires_grad and not force:
            raise RuntimeError(
                "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
            )
        self._of_one_sample(NO_STORAGE)
        return session.fetch_own(self._value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __array_wrap__(self, array: np.ndarray, *rest: Any) -> Any:
        """NumPy's functions of tensors give tensors."""
        return type(self)(session.constant(np.asarray(array))) if array.dtype in OF_NUMPY else array

    # As a Python object.
    def __len__(self) -> int:
        shape = self._avals.shape
        if not shape:
            raise TypeError("len() of a 0-d tensor")
        return shape[0]

    def __bool__(self) -> bool:
        n = self.numel()
        if n != 1:
            what = "more than one value" if n else "no values"
            raise RuntimeError(f"Boolean value of Tensor with {what} is ambiguous")
        self._of_one_sample(NO_BRANCH)
        return bool(self._array().item())

    __nonzero__ = __bool__

    def _number(self) -> Any:
        if self.numel() != 1:
            raise ValueError("only one element tensors can be converted to Python scalars")
        return self._array().item()

    def __float__(self) -> float:
        if self.requires_grad:
            warn_once(LOSES_GRADIENT)
        return float(self._number())

    def __int__(self) -> int:
        return int(self._number())

    __long__ = __int__

    def __complex__(self) -> complex:
        if self.requires_grad:
            warn_once(LOSES_GRADIENT)
        return complex(self._number())

    def __index__(self) -> int:
        if self.numel() != 1 or self._avals.dtype.kind not in "ib":
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self._array().item())

    def __hash__(self) -> int:
        return id(self)

    def __contains__(self, element: Any) -> bool:
        if not isinstance(element, (Contents, int, float, complex, np.bool_, np.number)):
            raise RuntimeError(
                f"Tensor.__contains__ only supports Tensor or scalar, but you passed in a {type(element)}."
            )
        found = element == self
        return found if isinstance(found, bool) else bool(found.any())

    def __delitem__(self, key: Any) -> None:
        raise TypeError("Tensor does not support deleting items")

    def __reversed__(self) -> Any:
        """The slices along dimension 0 in the opposite order, as a tensor; a 0-d tensor is itself."""
        return self.flip(0) if self.dim() else self

    def __dlpack__(self, **options: Any) -> Any:
        """For `np.from_dlpack` and its like: of a copy."""
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # the CPU

    def _of_one_sample(self, refusal: str) -> None:
        """Refuse what cannot be told of all samples of a `vmap` at once."""
        if batching.used and batching.is_batched(self._avals):
            raise RuntimeError(refusal)

    def __repr__(self) -> str:
        value = self._value
        if batching.used and batching.is_batched(value):
            return _of_samples(value)
        suffixes = []
        try:
            node = self.grad_fn
        except RuntimeError:  # of a view whose history cannot be told
            return _shown(value, ["grad_fn=<Invalid>"])
        if node is not None:
            suffixes.append(f"grad_fn=<{type(node).__name__}>")
        elif self._requires_grad:
            suffixes.append("requires_grad=True")
        if forward.on and (level := highest((self,))) >= 0:
            suffixes.append(f"tangent={forward.at(self, level)}")
        return _shown(value, suffixes)

    def __format__(self, spec: str) -> str:
        if self.dim() == 0:
            return format(self._array().item(), spec)
        return object.__format__(self, spec) if spec else str(self)


def _shown(value: Value, suffixes: list[str]) -> str:
    shape, edges = value.shape, edge_indices(value.shape)
    array = session.fetch(value if edges is None else _corners(value, edges))
    return format_array(array, suffixes=suffixes, shape=shape)


def _of_samples(value: Value) -> str:
    """All samples of a `vmap`, in torch's form."""
    result = value.result
    if not isinstance(result, batching.Batched):
        return _shown(value, [])
    inner = "\n".join(f"    {line}" for line in _of_samples(result.physical).split("\n"))
    bdim = 0 if result.spread else None
    return f"BatchedTensor(lvl={len(batching.levels(value))}, bdim={bdim}, value=\n{inner}\n)"


def _corners(value: Value, edges: list[list[int]]) -> Value:
    """The elements at both ends of every long dimension: what is printed of a large tensor."""
    for d, kept in enumerate(edges):
        if len(kept) == value.shape[d]:
            continue
        half = len(kept) // 2
        parts = []
        with session.called("repr"):
            for start in (0, value.shape[d] - half):
                slices = tuple((start, half, 1) if i == d else (0, n, 1) for i, n in enumerate(value.shape))
                parts.append(session.emit("slice", value, slices=slices))
            value = session.emit("cat", *parts, dim=d, sizes=(half, half))
    return value
