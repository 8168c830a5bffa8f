"""`Tensor`: the handle that the user holds. No mathematics here: the ops attach their methods to the class."""

from __future__ import annotations

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from distgrad import session
from distgrad.contents import Contents
from distgrad.dtype import from_numpy_dtype, get_default_dtype
from distgrad.graph import Value
from distgrad.handles import RemovableHandle
from distgrad.record import (
    NO_EDGE,
    AccumulateGrad,
    AsStridedBackward0,
    BackwardNode,
    Edge,
    Hooks,
    grad_mode,
    hooked,
    inference,
    retain,
)
from distgrad.storage import Storage, Untracked, Version, View
from distgrad.viewing import view_refused

NON_LEAF_GRAD = (
    "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad attribute won't be "
    "populated during autograd.backward(). If you indeed want the .grad field to be populated for a non-leaf Tensor, "
    "use .retain_grad() on the non-leaf Tensor. If you access the non-leaf Tensor by mistake, make sure you access "
    "the leaf Tensor instead. See github.com/pytorch/pytorch/pull/30531 for more information."
)
NOT_A_LEAF = (
    "you can only change requires_grad flags of leaf variables. If you want to use a computed variable in a subgraph "
    "that doesn't require differentiation use var_no_grad = var.detach()."
)
C_NAMES = {"float32": "float", "float64": "double", "int32": "int", "int64": "long int", "bool": "bool"}


class Tensor(Contents):
    """An n-dimensional array that records what is done with it, as `torch.Tensor`.

    Its contents are a `Value`, which may lie on the workers or not be computed yet; shape, dtype and sharding are
    always known. `Tensor(value)` is how the library makes one; `Tensor(2, 3)` and `Tensor([1, 2])` are torch's old
    constructor.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_accumulate",
        "_grad",
        "_hooks",
        "_node",
        "_output",
        "_requires_grad",
        "_storage",
        "_tangents",  # of forward mode, see `dual.py`; not set before there are any
        "_versions",
        "_view",
    )
    __array_priority__ = 1000
    __module__ = "distgrad"

    def __init__(self, *data: Any):
        value = data[0] if data and type(data[0]) is Value else _old_constructor(data)
        self._storage = Storage(value)
        # Made when it is asked for.
        self._versions: Version | None = None if not inference.blocks else _first_version()
        self._view: View | None = None
        self._requires_grad = False
        self._grad: Tensor | None = None
        self._node: BackwardNode | None = None
        self._output = 0
        self._accumulate: Any = None  # weak reference to the leaf's AccumulateGrad
        self._hooks: Hooks | None = None  # a leaf's; others have theirs in the node

    if TYPE_CHECKING:  # and operators that the ops attach
        _tangents: Any
        __add__: Any
        __radd__: Any
        __sub__: Any
        __rsub__: Any
        __mul__: Any
        __rmul__: Any
        __truediv__: Any
        __rtruediv__: Any
        __floordiv__: Any
        __mod__: Any
        __pow__: Any
        __rpow__: Any
        __matmul__: Any
        __neg__: Any
        __invert__: Any
        __and__: Any
        __or__: Any
        __xor__: Any
        __lt__: Any
        __le__: Any
        __gt__: Any
        __ge__: Any
        __getitem__: Any
        __setitem__: Any

        def __eq__(self, other: Any) -> Any: ...
        def __ne__(self, other: Any) -> Any: ...

    @property
    def _counter(self) -> Version:
        """Counts the changes in place of this tensor and of those that share its storage, but for `.data`."""
        if self._versions is None:
            self._versions = Version()
        return self._versions

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
        """The base was changed in place: this view now is what its route finds in the changed base.

        Of some views that cannot be told: who asks for their grad_fn gets an error.
        """
        if view.creation is not None:
            return
        view.seen = self._counter.number
        node, output = view.base._edge
        if node is not None:
            before, kept = self._node, self._retained()
            if kept:
                assert before is not None
                assert before._hooks is not None
                del before._hooks.retained[self._output]
            self._node = AsStridedBackward0((node, output), view.route, view.base.sharding)
            self._output = 0
            self._requires_grad = True
            if kept:
                retain(self._node, 0, self)

    def _retained(self) -> bool:
        """Whether the node that is known now keeps its gradient for this tensor."""
        node = self._node
        kept = None if node is None or node._hooks is None else node._hooks.retained.get(self._output)
        return kept is not None and kept() is self

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.numpy(force=True), self.requires_grad), self.__dict__ or None

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(attributes)

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
    def grad_fn(self) -> BackwardNode | None:
        """The node that made this tensor; None for a leaf."""
        view = self._view
        if view is not None and view.seen != self._counter.number and view.base is not None:
            if view.creation is not None and self.requires_grad:
                raise view_refused(self, base_changed=True)
            self._regenerate(view)
        return self._node

    @property
    def requires_grad(self) -> bool:
        """Whether ops on this tensor are recorded."""
        view = self._view
        if view is not None and view.seen != self._counter.number and view.base is not None:
            if view.creation is not None and view.base.requires_grad:
                self._requires_grad = True
            self._regenerate(view)
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
        if value and self.is_inference() and not grad_mode.inference:
            raise RuntimeError(
                "Setting requires_grad=True on inference tensor outside InferenceMode is not allowed."
            )
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
        _ = self.grad_fn  # brought up to date
        return self._retained()

    def retain_grad(self) -> None:
        """Have backward fill `grad` though this is no leaf."""
        if not self.requires_grad:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if self._node is not None:
            retain(self._node, self._output, self)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call `hook(grad)` when this tensor's gradient has been computed; a tensor that it returns replaces it."""
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        hooks = self._leaf_hooks() if self._node is None else self._node._hooks_of()
        return hooked(hooks.on_tensor.setdefault(self._output, OrderedDict()), hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call `hook(self)` when backward has added to the `grad` of this leaf."""
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if self._node is not None:
            raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
        return hooked(self._leaf_hooks().accumulated, hook)

    def _leaf_hooks(self) -> Hooks:
        if self._hooks is None:
            self._hooks = Hooks()
        return self._hooks

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
            raise TypeError(
                f"assigned grad expected to be a Tensor or None but got grad of type {type(new).__name__}"
            )
        if new is self:
            raise RuntimeError("can't assign Variable as its own grad")
        if new.dtype is not self.dtype:
            raise RuntimeError(
                f"attempting to assign a gradient with dtype '{C_NAMES[new.dtype.name]}' to a "
                "tensor with grad_dtype "
                f"'{self.dtype.title}'. The gradient must match the tensor's grad_dtype "
                "(defaults to the tensor's dtype). "
                "You can set the tensor's grad_dtype attribute with a specific dtype, or None "
                "to allow any dtype. Set "
                "grad_dtype with caution. Diverging the dtypes of a tensor and its gradient may "
                "break downstream systems "
                "that assume they match."
            )
        if new.shape != self.shape:
            raise RuntimeError(
                f"attempting to assign a gradient of size '{list(new.shape)}' to a tensor of "
                f"size '{list(self.shape)}'. "
                "Please ensure that the gradient and the tensor are the same size"
            )
        self._grad = new

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def _version(self) -> int:
        if self.is_inference():
            raise RuntimeError("Inference tensors do not track version counter.")
        return self._counter.number

    def is_inference(self) -> bool:
        """Whether this was made in inference mode, or is a view of what was: it can never come into a graph."""
        return type(self._versions) is Untracked

    @property
    def _base(self) -> Tensor | None:
        return None if self._view is None else self._view.base

    def _is_view(self) -> bool:
        return self._base is not None

    def _alias(self) -> Tensor:
        """Another tensor on the same storage that is not recorded as a view."""
        alias = Tensor(self._value)
        alias._storage = self._storage
        alias._versions = self._versions if self.is_inference() else None
        alias._view = self._view and self._view.alone()
        return alias

    def detach(self) -> Tensor:
        """The same contents, on the same storage, with no history."""
        alias = self._alias()
        alias._versions = self._counter
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
            raise RuntimeError(
                "data set to a tensor that requires gradients must be floating point or complex dtype"
            )
        alias = new._alias()
        self._storage, self._view = alias._storage, alias._view

    def cpu(self) -> Tensor:
        """The tensor itself."""
        return self


def _first_version() -> Version | None:
    return Untracked() if grad_mode.inference else None


def _old_constructor(data: tuple[Any, ...]) -> Value:
    default = get_default_dtype().numpy
    if all(isinstance(n, int) for n in data):
        shape = data if data else (0,)
        zero = Value.known(np.zeros((), default))
        with session.called("Tensor"):
            return session.emit("expand", zero, shape=tuple(shape), cuts=None)
    if len(data) != 1:
        raise TypeError("new() received an invalid combination of arguments")
    if isinstance(data[0], Tensor):
        return data[0]._value
    return session.constant(np.array(_plain(data[0]), default))


def _plain(data: Any) -> Any:
    """What stands in lists, with numbers in place of tensors."""
    if isinstance(data, (list, tuple)):
        return [_plain(x) for x in data]
    return float(data) if isinstance(data, Tensor) else data


def _unpickle(array: np.ndarray, requires_grad: bool) -> Tensor:
    from_numpy_dtype(array.dtype)
    tensor = Tensor(session.constant(array))
    tensor._requires_grad = requires_grad
    return tensor
