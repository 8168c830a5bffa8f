"""The record of what was done: backward nodes, their hooks, and the values that they save."""

from __future__ import annotations

import itertools
import re
import threading
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from distgrad.callsites import PACKAGE, CallSite, origin
from distgrad.dtype import OF_NUMPY
from distgrad.graph import Value
from distgrad.handles import RemovableHandle
from distgrad.recording import (
    enable_grad,
    grad_mode,
    inference,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from distgrad.sharding import Sharding
from distgrad.storage import Storage, Version

__all__ = [
    "enable_grad",
    "grad_mode",
    "inference",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
]
__all__ += ["no_grad", "set_grad_enabled"]  # handed on

FREED = (
    "Trying to backward through the graph a second time (or directly access saved tensors after "
    "they have already been "
    "freed). Saved intermediate values of the graph are freed when you call .backward() or "
    "autograd.grad(). Specify "
    "retain_graph=True if you need to backward through the graph a second time or if you need "
    "to access saved tensors "
    "after calling backward."
)
HINT = (
    "Hint: enable anomaly detection to find the operation that failed to compute its gradient, with "
    "torch.autograd.set_detect_anomaly(True, check_nan=False)."
)


# Anomaly mode.
class _Running(threading.local):
    node: BackwardNode | None = None  # whose backward runs in this thread


class _Anomaly:
    """Whether nodes note where they are made, and whether their gradients are checked for NaN. For all threads."""

    __slots__ = ("check_nan", "enabled", "running")

    def __init__(self) -> None:
        self.enabled = False
        self.check_nan = True
        self.running = _Running()


anomaly = _Anomaly()


def users_stack() -> list[str]:
    """The stack without this package's frames, the innermost call last, as Python prints it."""
    frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(PACKAGE)]
    return traceback.StackSummary.from_list(frames).format()


# Nodes.
Edge = tuple["BackwardNode | None", int]
NO_EDGE: Edge = (None, 0)
_count = itertools.count()


class Hooks:
    """What users want called, or filled, when gradients reach a node.

    `on_tensor` are those of the tensors that the node has made, by output: a gradient in, a gradient or None out.
    `before` and `after` are the node's own; `accumulated` those of a leaf whose `grad` has been added to. `retained`
    are weak references to tensors that want their gradient, by output.
    """

    __slots__ = ("accumulated", "after", "before", "on_tensor", "retained")

    def __init__(self) -> None:
        self.on_tensor: dict[int, OrderedDict[int, Any]] = {}
        self.before: OrderedDict[int, Any] = OrderedDict()
        self.after: OrderedDict[int, Any] = OrderedDict()
        self.accumulated: OrderedDict[int, Any] = OrderedDict()
        self.retained: dict[int, Any] = {}


def hooked(hooks: OrderedDict[int, Any], hook: Callable[..., Any]) -> RemovableHandle:
    """Enter a hook among others; the handle takes it out again."""
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


class BackwardNode:
    """A step of backward: what `grad_fn` shows. Subclasses are named as torch names them.

    Nodes are numbered as they are made, so a node's number is above that of every node it leads to.
    """

    __slots__ = ("__weakref__", "_hooks", "_metadata", "_number", "next_functions")

    def __init__(self, next_functions: tuple[Edge, ...]):
        self.next_functions = next_functions
        self._number = next(_count)
        self._hooks: Hooks | None = None
        if anomaly.enabled:
            self._note_call()

    def name(self) -> str:
        """The name of the function, such as `MulBackward0`."""
        return type(self).__name__

    @property
    def metadata(self) -> dict[Any, Any]:
        """For users' notes, and where anomaly mode keeps the place of the forward call."""
        try:
            return self._metadata
        except AttributeError:
            self._metadata: dict[Any, Any] = {}
            return self._metadata

    def _note_call(self) -> None:
        """For anomaly mode: where the user was when this was recorded, and the node whose backward did it."""
        self.metadata["traceback_"] = users_stack()
        if anomaly.running.node is not None:
            self.metadata["parent_"] = anomaly.running.node

    @property
    def _outputs(self) -> int:
        """How many tensors the node has made that can get a gradient."""
        return 1

    def _hooks_of(self) -> Hooks:
        """The hooks, made when the first is registered."""
        if self._hooks is None:
            self._hooks = Hooks()
        return self._hooks

    def register_hook(self, fn: Callable[..., Any]) -> RemovableHandle:
        """Call `fn(grad_inputs, grad_outputs)` after the node has run; what it returns replaces `grad_inputs`."""
        return hooked(self._hooks_of().after, fn)

    def register_prehook(self, fn: Callable[..., Any]) -> RemovableHandle:
        """Call `fn(grad_outputs)` before the node runs; what it returns replaces them."""
        return hooked(self._hooks_of().before, fn)

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """The gradient for each of `next_functions` that is `wanted`, from those of the outputs (None: zero).

        `wanted=None`: of all that lead to a node.
        """
        raise NotImplementedError

    def _undefined(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """The same where no output has a gradient: then nothing has one, and no formula runs."""
        return (None,) * len(self.next_functions)

    def _release(self) -> None:
        """Drop what was saved."""

    @property
    def _freed(self) -> bool:
        """Whether that has happened."""
        return False

    def __call__(self, *grads: Any) -> Any:
        """Run this node alone on gradients of its outputs."""
        results = self.apply(list(grads), None)
        return results[0] if len(results) == 1 else tuple(results)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object at {id(self):#x}>"


class AccumulateGrad(BackwardNode):
    """The end of an edge: deposits a gradient in `variable.grad`. The engine does it."""

    __slots__ = ("variable",)

    def __init__(self, variable: Any):
        super().__init__(())
        self.variable = variable

    def name(self) -> str:
        """torch's name, which is that of a class in C++."""
        return "torch::autograd::AccumulateGrad"


class AsStridedBackward0(BackwardNode):
    """From a view to its base, made anew after the base was changed in place. torch gives it this name."""

    __slots__ = ("cuts", "path")

    def __init__(self, edge: Edge, path: Any, cuts: Sharding):
        super().__init__((edge,))
        self.path = path  # from the base, which is cut like `cuts`
        self.cuts = cuts

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """The gradient where the view's elements are, zeros elsewhere."""
        return [self.path.pull(grads[0], self.cuts)]


def title_of(node: BackwardNode) -> str:
    """The op that a node belongs to, as torch's messages name it."""
    return re.sub(r"Backward0?(?=\d*$)", "", node.name())


def retain(node: BackwardNode, output: int, tensor: Any) -> None:
    """Have the engine put the gradient of a node's output in `tensor.grad`."""
    node._hooks_of().retained[output] = weakref.ref(tensor)


# Passes.
class Pass:
    """A backward pass from the nodes `roots`. `partial`: it goes to some inputs alone, by way of the nodes `needed`."""

    __slots__ = ("__weakref__", "_reached", "needed", "partial", "roots")

    def __init__(self, partial: bool, roots: Sequence[BackwardNode | None] = (), needed: Any = None):
        self.partial = partial
        self.roots = roots
        self.needed = needed
        self._reached: set[BackwardNode] | None = None

    def runs(self, node: BackwardNode) -> bool:
        """Whether the pass comes to a node."""
        if self.needed is not None:
            return node in self.needed
        if self._reached is None:
            self._reached = reachable(self.roots)
        return node in self._reached


def reachable(roots: Sequence[BackwardNode | None]) -> set[BackwardNode]:
    """All nodes that these lead to, themselves among them."""
    seen = {node for node in roots if node is not None}
    stack = list(seen)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    return seen


# Saved values.
class Saved:
    """A tensor that was saved for backward, and the number of changes in place at that time.

    As in torch the tensor itself is kept, not its value: what `.data` changes without being counted is seen. The
    node must not have made the tensor: they would keep each other alive.
    """

    __slots__ = ("number", "tensor")

    def __init__(self, tensor: Any):
        self.tensor = tensor
        versions = tensor._versions
        self.number = 0 if versions is None else versions.to_save()

    def open(self, owner: BackwardNode | None, where: CallSite | None) -> Any:
        """The tensor; an error if it was changed in place."""
        tensor = self.tensor
        versions = tensor._versions
        if versions is not None and versions.number != self.number:
            aval = tensor._avals.result.spec.aval
            node, output = tensor.grad_fn, tensor._output
            raise changed(aval, node, output, versions, self.number, where)
        return tensor


class SavedResult:
    """A result of the node that saves it, or an argument as it was before the node's op changed it in place.

    It is made a tensor again: on the same storage for a result, where `storage` tells it. `edge` is its place in the
    graph; that of a result of the node (`is_output`) has no node, so that there is no cycle. Where an operand is saved
    in place of the result, it has: only the version is the result's.
    """

    __slots__ = ("counter", "edge", "generation", "is_output", "number", "storage", "tangents", "value")

    def __init__(
        self,
        value: Value,
        counter: Version | None,
        edge: Edge = NO_EDGE,
        is_output: bool = False,
        storage: Storage | None = None,
    ):
        self.value = value
        self.counter = counter
        self.number = counter.number if counter is not None else 0
        self.edge = edge
        self.is_output = is_output
        self.storage = storage
        self.generation = 0 if storage is None else storage.generation
        self.tangents: Any = None  # of forward mode, see `dual.py`

    def contents(self, owner: BackwardNode | None, where: CallSite | None) -> Value:
        """The contents; an error if they were changed in place."""
        counter = self.counter
        if counter is not None and counter.number != self.number:
            node = owner if self.is_output else self.edge[0]
            raise changed(self.value.result.spec.aval, node, self.edge[1], counter, self.number, where)
        storage = self.storage
        if storage is None or storage.generation == self.generation:
            return self.value
        return storage.value


def changed(
    aval: Any,
    producer: BackwardNode | None,
    output: int,
    counter: Version,
    expected: int,
    where: CallSite | None,
) -> RuntimeError:
    """torch's error for a tensor that was changed after it was saved, with the lines of both."""
    made = ""
    if producer is not None and not isinstance(producer, AccumulateGrad):
        made = f", which is output {output} of {title_of(producer)},"
    lines = "" if where is None else f"\nSaved by {origin(where)}."
    lines += "" if counter.changed is None else f"\nChanged by {origin(counter.changed)}."
    return RuntimeError(
        "one of the variables needed for gradient computation has been modified by an inplace operation: "
        f"[{OF_NUMPY[aval.dtype].tensor_type} {list(aval.shape)}]{made} is at version {counter.number}; "
        f"expected version {expected} instead. {HINT}{lines}"
    )
