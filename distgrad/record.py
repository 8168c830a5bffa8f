"""The record of what was done: grad mode, backward nodes and the values that they save."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from typing import Any

from distgrad.dtype import OF_NUMPY
from distgrad.graph import Place, Value, origin
from distgrad.handles import RemovableHandle
from distgrad.sharding import Sharding
from distgrad.storage import Storage, Version

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


# Grad mode.
class Pass:
    """A backward pass. `partial`: it goes to some inputs alone."""

    __slots__ = ("__weakref__", "partial")

    def __init__(self, partial: bool):
        self.partial = partial


class _Mode(threading.local):
    enabled = True
    current: Pass | None = None  # the backward pass that runs in this thread


grad_mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether ops are recorded, in this thread."""
    return grad_mode.enabled


class _Setting:
    """A context manager and decorator that sets grad mode to `value`."""

    value = True

    def __new__(cls, function: Any = None) -> Any:
        made = super().__new__(cls)
        return made(function) if callable(function) else made  # @no_grad without parentheses

    def __enter__(self) -> None:
        self.before = grad_mode.enabled
        grad_mode.enabled = self.value

    def __exit__(self, *exc: Any) -> None:
        grad_mode.enabled = self.before

    def fresh(self) -> _Setting:
        """Another of the same kind, so that a decorated function may call itself."""
        return type(self)()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if isinstance(function, type):
            raise TypeError(f"{type(self).__name__} cannot decorate a class; decorate its methods")
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generator(*args: Any, **kwargs: Any) -> Any:
                return _stepwise(self, function(*args, **kwargs))

            return generator
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                return await _awaitable(self, function(*args, **kwargs).__await__())

            return coroutine

        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            with self.fresh():
                return function(*args, **kwargs)

        return inner


def _stepwise(setting: _Setting, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The generator, with the mode set while it runs and not while it waits."""
    resume: Callable[[], Any] = lambda: next(generator)  # noqa: E731
    while True:
        try:
            with setting.fresh():
                item = resume()
        except StopIteration as stop:
            return stop.value
        try:
            sent = yield item
            resume = functools.partial(generator.send, sent)
        except GeneratorExit:
            with setting.fresh():
                generator.close()
            raise
        except BaseException as error:
            resume = functools.partial(generator.throw, error)


@types.coroutine
def _awaitable(setting: _Setting, generator: Any) -> Any:
    return (yield from _stepwise(setting, generator))


class no_grad(_Setting):
    """Ops are not recorded: `with no_grad():`, `@no_grad()` or `@no_grad`."""

    value = False


class enable_grad(_Setting):
    """Ops are recorded, inside a `no_grad` block too."""

    value = True


class set_grad_enabled(_Setting):
    """Set grad mode at once, and until the end of the block where it is used with `with`."""

    def __new__(cls, mode: bool) -> Any:
        """Unlike the others this one takes the mode, never a function."""
        return object.__new__(cls)

    def __init__(self, mode: bool):
        self.before, self.value = grad_mode.enabled, bool(mode)
        grad_mode.enabled = self.value

    def __enter__(self) -> None:
        grad_mode.enabled = self.value

    def fresh(self) -> _Setting:
        """One that sets the same mode."""
        return enable_grad() if self.value else no_grad()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As a decorator it sets the mode inside the function alone."""
        grad_mode.enabled = self.before  # it was set by the call that made the decorator
        return super().__call__(function)


# Nodes.
Edge = tuple["Node | None", int]
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


class Node:
    """A step of backward: what `grad_fn` shows. Subclasses are named as torch names them.

    Nodes are numbered as they are made, so a node's number is above that of every node it leads to.
    """

    __slots__ = ("__weakref__", "_hooks", "_metadata", "_number", "next_functions")

    def __init__(self, next_functions: tuple[Edge, ...]):
        self.next_functions = next_functions
        self._number = next(_count)
        self._hooks: Hooks | None = None

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

    def _undefined(self, wanted: Sequence[bool] | None) -> Sequence[Any]:
        """The same where no output has a gradient: then nothing has one, and no formula runs."""
        return (None,) * len(self.next_functions)

    def _release(self) -> None:
        """Drop what was saved."""

    def __call__(self, *grads: Any) -> Any:
        """Run this node alone on gradients of its outputs."""
        results = self.apply(list(grads), None)
        return results[0] if len(results) == 1 else tuple(results)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object at {id(self):#x}>"


class AccumulateGrad(Node):
    """The end of an edge: deposits a gradient in `variable.grad`. The engine does it."""

    __slots__ = ("variable",)

    def __init__(self, variable: Any):
        super().__init__(())
        self.variable = variable


class AsStridedBackward0(Node):
    """From a view to its base, made anew after the base was changed in place. torch gives it this name."""

    __slots__ = ("cuts", "path")

    def __init__(self, edge: Edge, path: Any, cuts: Sharding):
        super().__init__((edge,))
        self.path = path  # from the base, which is cut like `cuts`
        self.cuts = cuts

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """The gradient where the view's elements are, zeros elsewhere."""
        return [self.path.pull(grads[0], self.cuts)]


def title_of(node: Node) -> str:
    """The op that a node belongs to, as torch's messages name it."""
    return re.sub(r"Backward\d*$", "", node.name())


def retain(node: Node, output: int, tensor: Any) -> None:
    """Have the engine put the gradient of a node's output in `tensor.grad`."""
    node._hooks_of().retained[output] = weakref.ref(tensor)


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
        self.number = 0 if versions is None else versions.number

    def open(self, owner: Node | None, where: Place | None) -> Any:
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

    def contents(self, owner: Node | None, where: Place | None) -> Value:
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
    aval: Any, producer: Node | None, output: int, counter: Version, expected: int, where: Place | None
) -> RuntimeError:
    """torch's error for a tensor that was changed after it was saved, with the lines of both."""
    made = ""
    if producer is not None and not isinstance(producer, AccumulateGrad):
        name = title_of(producer)
        made = f", which is output {output} of {'torch::autograd::' * (name == 'CopySlices')}{name},"
    lines = "" if where is None else f"\nSaved by {origin(where)}."
    lines += "" if counter.changed is None else f"\nChanged by {origin(counter.changed)}."
    return RuntimeError(
        "one of the variables needed for gradient computation has been modified by an inplace operation: "
        f"[{OF_NUMPY[aval.dtype].tensor_type} {list(aval.shape)}]{made} is at version {counter.number}; "
        f"expected version {expected} instead. {HINT}{lines}"
    )
