"""The record of what was done: grad mode, backward nodes and the values that they save."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import threading
import types
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any

from distgrad.dtype import OF_NUMPY
from distgrad.graph import Place, Value, origin
from distgrad.sharding import Sharding
from distgrad.storage import Version

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
class _Mode(threading.local):
    enabled = True


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


class Node:
    """A step of backward: what `grad_fn` shows. Subclasses are named as torch names them.

    Nodes are numbered as they are made, so a node's number is above that of every node it leads to.
    """

    __slots__ = ("__weakref__", "next_functions", "number", "retained")

    def __init__(self, next_functions: tuple[Edge, ...]):
        self.next_functions = next_functions
        self.number = next(_count)
        self.retained: dict[int, Any] | None = (
            None  # output -> weak reference to a tensor that wants its gradient
        )

    def name(self) -> str:
        """The name of the function, such as `MulBackward0`."""
        return type(self).__name__

    @property
    def metadata(self) -> dict[Any, Any]:
        """For users' notes; empty."""
        return {}

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """The gradient for each of `next_functions` that is `wanted`, from those of the outputs (None: zero).

        `wanted=None`: of all that lead to a node.
        """
        raise NotImplementedError

    def release(self) -> None:
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
    if node.retained is None:
        node.retained = {}
    node.retained[output] = weakref.ref(tensor)


# Saved values.
class Saved:
    """A value kept for backward, with what is needed to make a tensor of it again.

    `counter` and `number` tell whether the storage was changed since. `edge` is the tensor's place in the graph; an
    output of the node that saves it (`is_output`) has no node there, so that there is no cycle. Where an operand is
    saved in place of the output, it has: only the version is the output's.
    `tensor` is for the message alone, which names its latest grad_fn.
    """

    __slots__ = ("counter", "edge", "is_output", "number", "tangents", "tensor", "value")

    def __init__(
        self,
        value: Value,
        counter: Version | None,
        edge: Edge = NO_EDGE,
        is_output: bool = False,
        tensor: Any = None,
    ):
        self.value = value
        self.counter = counter
        self.number = counter.number if counter is not None else 0
        self.edge = edge
        self.is_output = is_output
        self.tensor = None if tensor is None else weakref.ref(tensor)
        self.tangents: Any = None  # of forward mode, see `dual.py`

    def changed(self, owner: Node, where: Place | None) -> RuntimeError:
        """torch's error for a storage that was changed after this was saved."""
        counter = self.counter
        assert counter is not None
        producer = owner if self.is_output else self.edge[0]
        tensor = None if self.tensor is None else self.tensor()
        if tensor is not None:
            producer = tensor.grad_fn
        made = ""
        if producer is not None and not isinstance(producer, AccumulateGrad):
            name = title_of(producer)
            made = (
                f", which is output {self.edge[1]} of {'torch::autograd::' * (name == 'CopySlices')}{name},"
            )
        lines = "" if where is None else f"\nSaved by {origin(where)}."
        lines += "" if counter.changed is None else f"\nChanged by {origin(counter.changed)}."
        return RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"[{OF_NUMPY[self.value.dtype].tensor_type} {list(self.value.shape)}]{made} is at "
            f"version {counter.number}; "
            f"expected version {self.number} instead. {HINT}{lines}"
        )
