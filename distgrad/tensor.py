"""`Tensor`: the handle that the user holds. No mathematics here: the ops attach their methods to the class."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from distgrad import session
from distgrad.dtype import CPU, OF_NUMPY, Size, device, dtype, from_numpy_dtype, get_default_dtype
from distgrad.graph import Value
from distgrad.printing import edge_indices, format_array
from distgrad.record import FREED, NO_EDGE, AccumulateGrad, AsStridedBackward0, Edge, Node, Saved, grad_mode, retain
from distgrad.sharding import Sharding
from distgrad.storage import Storage, Version, View, contiguous

NON_LEAF_GRAD = (
    "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad attribute won't be populated "
    "during autograd.backward(). If you indeed want the .grad field to be populated for a non-leaf Tensor, use "
    ".retain_grad() on the non-leaf Tensor. If you access the non-leaf Tensor by mistake, make sure you access the leaf "
    "Tensor instead. See github.com/pytorch/pytorch/pull/30531 for more information."
)
NOT_A_LEAF = (
    "you can only change requires_grad flags of leaf variables. If you want to use a computed variable in a subgraph "
    "that doesn't require differentiation use var_no_grad = var.detach()."
)
C_NAMES = {"float32": "float", "float64": "double", "int32": "int", "int64": "long int", "bool": "bool"}


class Tensor:
    """An n-dimensional array that records what is done with it, as `torch.Tensor`.

    Its contents are a `Value`, which may lie on the workers or not be computed yet; shape, dtype and sharding are
    always known. `Tensor(value)` is how the library makes one; `Tensor(2, 3)` and `Tensor([1, 2])` are torch's old
    constructor.
    """

    __slots__ = (
        "__dict__", "__weakref__", "_accumulate", "_counter", "_grad", "_node", "_output", "_requires_grad", "_storage", "_view",
    )  # fmt: skip
    __array_priority__ = 1000

    def __init__(self, *data: Any):
        if len(data) == 1 and type(data[0]) is Value:
            value = data[0]
        else:
            value = _old_constructor(data)
        self._storage = Storage(value)
        self._counter = Version()
        self._view: View | None = None
        self._requires_grad = False
        self._grad: Tensor | None = None
        self._node: Node | None = None
        self._output = 0
        self._accumulate: Any = None  # weak reference to the leaf's AccumulateGrad

    if TYPE_CHECKING:  # methods that the ops attach

        def __getattr__(self, name: str) -> Any: ...

    # Contents.
    @property
    def _value(self) -> Value:
        """The contents now. For a view this also brings its grad_fn up to date."""
        view = self._view
        if view is None:
            return self._storage.value
        if view.seen != self._counter.number and view.base is not None:
            self._regenerate(view)
        return view.refresh(self._storage)

    def _regenerate(self, view: View) -> None:
        """The base was changed in place: this view now is what its steps make of the changed base."""
        view.seen = self._counter.number
        node, output = view.base._edge
        if node is not None:
            self._node = AsStridedBackward0((node, output), view.steps[view.depth :])
            self._output = 0
            self._requires_grad = True

    @property
    def _avals(self) -> Value:
        """A value with the right shape, dtype and sharding, its contents perhaps out of date."""
        return self._storage.value if self._view is None else self._view.value

    def _array(self) -> np.ndarray:
        return session.fetch(self._value)

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
        strides = self._layout().strides
        return strides if dim is None else strides[dim]

    def _layout(self) -> np.ndarray:
        shape = self._storage.value.shape
        return contiguous(shape) if self._view is None else self._view.array_like(shape)

    def is_contiguous(self) -> bool:
        """Whether the elements lie in C order, in a tensor of one process."""
        return self._view is None or bool(self._layout().flags.c_contiguous)

    def data_ptr(self) -> int:
        """A number that tensors on one storage share."""
        return id(self._storage)

    def item(self) -> Any:
        """The element of a one-element tensor, as a Python number."""
        if self.numel() != 1:
            raise RuntimeError(f"a Tensor with {self.numel()} elements cannot be converted to Scalar")
        return self._array().item()

    def tolist(self) -> Any:
        """The elements as (nested lists of) Python numbers."""
        return self._array().tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The elements as a NumPy array: a copy, the caller's own."""
        if self.requires_grad and not force:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        return np.array(self._array())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __array_wrap__(self, array: np.ndarray, *rest: Any) -> Any:
        return Tensor(session.constant(np.asarray(array))) if array.dtype in OF_NUMPY else array

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
        return bool(self._array().item())

    def _number(self) -> Any:
        if self.numel() != 1:
            raise ValueError("only one element tensors can be converted to Python scalars")
        return self._array().item()

    def __float__(self) -> float:
        return float(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def __complex__(self) -> complex:
        return complex(self._number())

    def __index__(self) -> int:
        if self.numel() != 1 or self._avals.dtype.kind not in "ib":
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self._array().item())

    def __hash__(self) -> int:
        return id(self)

    def __contains__(self, element: Any) -> bool:
        if not isinstance(element, (Tensor, int, float)):
            raise RuntimeError(f"Tensor.__contains__ only supports Tensor or scalar, but you passed in a {type(element)}.")
        return bool((self == element).any())

    def __repr__(self) -> str:
        value = self._value
        shape, edges = value.shape, edge_indices(value.shape)
        array = session.fetch(value if edges is None else _corners(value, edges))
        suffixes = []
        if (node := self.grad_fn) is not None:
            suffixes.append(f"grad_fn=<{node.name()}>")
        elif self._requires_grad:
            suffixes.append("requires_grad=True")
        return format_array(array, suffixes=suffixes, shape=shape)

    def __format__(self, spec: str) -> str:
        if self.dim() == 0:
            return format(self._array().item(), spec)
        return object.__format__(self, spec) if spec else str(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment.  "
                "If you were attempting to deepcopy a module, this may be because of a torch.nn.utils.weight_norm usage, "
                "see https://github.com/pytorch/pytorch/pull/103001"
            )
        if id(self) in memo:
            return memo[id(self)]
        copy = type(self)(self._value)  # values never change: the copy costs nothing
        memo[id(self)] = copy
        copy._requires_grad = self._requires_grad
        if self._grad is not None:
            copy._grad = self._grad.__deepcopy__(memo)
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.numpy(force=True), self.requires_grad)

    # Autograd.
    @property
    def _edge(self) -> Edge:
        """Where this tensor's gradient goes."""
        if self._view is not None:
            _ = self.grad_fn
        if self._node is not None:
            return self._node, self._output
        if not self._requires_grad:
            return NO_EDGE
        node = self._accumulate and self._accumulate()
        if node is None:
            node = AccumulateGrad(self)
            self._accumulate = weakref.ref(node)
        return node, 0

    @property
    def grad_fn(self) -> Node | None:
        """The node that made this tensor; None for a leaf."""
        view = self._view
        if view is not None and view.seen != self._counter.number and view.base is not None:
            self._regenerate(view)
        return self._node

    @property
    def requires_grad(self) -> bool:
        """Whether ops on this tensor are recorded."""
        if self._view is not None:
            _ = self.grad_fn
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise RuntimeError("requires_grad must be a bool")
        if self.grad_fn is not None:
            if not value:
                raise RuntimeError(NOT_A_LEAF)
            return
        if value and not self.is_floating_point():
            raise RuntimeError("only Tensors of floating point and complex dtype can require gradients")
        self._requires_grad = value

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` and give the tensor back."""
        if requires_grad and not self.is_floating_point():
            raise RuntimeError("only Tensors of floating point dtype can require gradients")
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by the user rather than by a recorded op."""
        return self.grad_fn is None

    @property
    def output_nr(self) -> int:
        """Which output of `grad_fn` this is."""
        return self._output

    @property
    def retains_grad(self) -> bool:
        """Whether this is no leaf and `retain_grad()` was called."""
        node = self.grad_fn
        kept = None if node is None or node.retained is None else node.retained.get(self._output)
        return kept is not None and kept() is self

    def retain_grad(self) -> None:
        """Have backward fill `grad` though this is no leaf."""
        if not self.requires_grad:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if self._node is not None:
            retain(self._node, self._output, self)

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward has accumulated; None before."""
        if self._grad is None and self._node is not None and not self.retains_grad:
            warnings.warn(NON_LEAF_GRAD, stacklevel=2)
        return self._grad

    @grad.setter
    def grad(self, new: Tensor | None) -> None:
        if new is None:
            self._grad = None
            return
        if not isinstance(new, Tensor):
            raise TypeError(f"assigned grad expected to be a Tensor or None but got grad of type {type(new).__name__}")
        if new is self:
            raise RuntimeError("can't assign Variable as its own grad")
        if new.dtype is not self.dtype:
            raise RuntimeError(
                f"attempting to assign a gradient with dtype '{C_NAMES[new.dtype.name]}' to a tensor with grad_dtype "
                f"'{self.dtype.title}'. The gradient must match the tensor's grad_dtype (defaults to the tensor's dtype). "
                "You can set the tensor's grad_dtype attribute with a specific dtype, or None to allow any dtype. Set "
                "grad_dtype with caution. Diverging the dtypes of a tensor and its gradient may break downstream systems "
                "that assume they match."
            )
        if new.shape != self.shape:
            raise RuntimeError(
                f"attempting to assign a gradient of size '{list(new.shape)}' to a tensor of size '{list(self.shape)}'. "
                "Please ensure that the gradient and the tensor are the same size"
            )
        self._grad = new

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def _version(self) -> int:
        return self._counter.number

    @property
    def _base(self) -> Tensor | None:
        return None if self._view is None else self._view.base

    def _is_view(self) -> bool:
        return self._base is not None

    def _alias(self) -> Tensor:
        """Another tensor on the same storage that is not recorded as a view."""
        alias = Tensor(self._value)
        alias._storage = self._storage
        view = self._view
        if view is not None:
            alias._view = View(view.steps, view.value, view.generation, None, 0, 0)
        return alias

    def detach(self) -> Tensor:
        """The same contents, on the same storage, with no history."""
        alias = self._alias()
        alias._counter = self._counter
        return alias

    def detach_(self) -> Tensor:
        """Forget the history of this tensor itself."""
        if self._is_view():
            raise RuntimeError("Can't detach views in-place. Use detach() instead.")
        self._node, self._output, self._requires_grad = None, 0, False
        return self

    @property
    def data(self) -> Tensor:
        """The contents without history and with a version counter of their own: changes here go unnoticed."""
        return self._alias()

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(new).__name__}")
        if self._requires_grad and not new.is_floating_point():
            raise RuntimeError("data set to a tensor that requires gradients must be floating point or complex dtype")
        alias = new._alias()
        self._storage, self._view = alias._storage, alias._view

    def cpu(self) -> Tensor:
        """The tensor itself."""
        return self

    def __iter__(self) -> Iterator[Tensor]:
        if not self.dim():
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))


def unpack(saved: Saved, owner: Node, where: Any) -> Tensor:
    """The tensor that `owner` saved, checked; in a graph again if ops are being recorded."""
    saved.check(owner, where)
    node = saved.node
    if not grad_mode.enabled or not saved.requires_grad:
        return Tensor(saved.value)
    if isinstance(node, AccumulateGrad) and node.variable._value is saved.value:
        return node.variable
    tensor = Tensor(saved.value)
    tensor._requires_grad = True
    if isinstance(node, AccumulateGrad):
        tensor._accumulate = weakref.ref(node)
    else:
        tensor._node = owner if saved.is_output else node
        tensor._output = saved.output
    return tensor


def freed() -> RuntimeError:
    """The error for a graph that was walked already."""
    return RuntimeError(FREED)


def _corners(value: Value, edges: list[list[int]]) -> Value:
    """The elements at both ends of every long dimension: what is printed of a large tensor."""
    for d, kept in enumerate(edges):
        if len(kept) == value.shape[d]:
            continue
        half = len(kept) // 2
        parts = []
        for start in (0, value.shape[d] - half):
            slices = tuple((start, half, 1) if i == d else (0, n, 1) for i, n in enumerate(value.shape))
            parts.append(session.emit("slice", value, slices=slices))
        value = session.emit("cat", *parts, dim=d, sizes=(half, half))
    return value


def _old_constructor(data: tuple[Any, ...]) -> Value:
    default = get_default_dtype().numpy
    if all(isinstance(n, int) for n in data):
        shape = data if data else (0,)
        zero = Value.known(np.zeros((), default))
        return session.emit("expand", zero, shape=tuple(shape), cuts=None)
    if len(data) != 1:
        raise TypeError("new() received an invalid combination of arguments")
    if isinstance(data[0], Tensor):
        return data[0]._value
    return session.constant(np.array(data[0], default))


def _unpickle(array: np.ndarray, requires_grad: bool) -> Tensor:
    from_numpy_dtype(array.dtype)
    tensor = Tensor(session.constant(array))
    tensor._requires_grad = requires_grad
    return tensor
