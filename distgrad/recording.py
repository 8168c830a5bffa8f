"""Whether ops are recorded, in this thread: grad mode and inference mode."""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections.abc import Callable, Generator
from typing import Any


class _Mode(threading.local):
    enabled = True
    inference = False  # whether tensors are made that cannot come into a graph
    told = False  # in inference mode, where nothing is recorded: what `is_grad_enabled` says
    current: Any = None  # the backward pass that runs in this thread


grad_mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether grad mode is on, in this thread. In inference mode nothing is recorded even so."""
    return grad_mode.enabled or (grad_mode.inference and grad_mode.told)


def _set(value: bool) -> None:
    grad_mode.enabled = value and not grad_mode.inference
    grad_mode.told = value and grad_mode.inference


class _Setting:
    """A context manager and decorator that sets grad mode to `value`."""

    value = True

    def __new__(cls, function: Any = None) -> Any:
        made = super().__new__(cls)
        return made(function) if callable(function) else made  # @no_grad without parentheses

    def __enter__(self) -> None:
        self.before, self.told = grad_mode.enabled, grad_mode.told
        _set(self.value)

    def __exit__(self, *exc: Any) -> None:
        grad_mode.enabled, grad_mode.told = self.before, self.told

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
        self.before, self.told, self.value = grad_mode.enabled, grad_mode.told, bool(mode)
        _set(self.value)

    def __enter__(self) -> None:
        _set(self.value)

    def fresh(self) -> _Setting:
        """One that sets the same mode."""
        return enable_grad() if self.value else no_grad()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As a decorator it sets the mode inside the function alone."""
        grad_mode.enabled, grad_mode.told = (
            self.before,
            self.told,
        )  # it was set by the call that made the decorator
        return super().__call__(function)


class inference_mode(_Setting):
    """Ops are not recorded, and what they make can never be: its changes are not counted. See `Tensor.is_inference`.

    `inference_mode(False)` records as usual inside a block of this kind. `@inference_mode` decorates functions too.
    """

    def __new__(cls, mode: Any = True) -> Any:
        """With a function instead of a mode: that function, decorated."""
        made = object.__new__(cls)
        if isinstance(mode, bool):
            return made
        made.mode = True
        return made(mode)

    def __init__(self, mode: bool = True):
        self.mode = mode

    def __enter__(self) -> None:
        self.saved = grad_mode.enabled, grad_mode.inference, grad_mode.told
        grad_mode.enabled, grad_mode.inference, grad_mode.told = not self.mode, self.mode, False
        inference.entered(1 if self.mode else 0)

    def __exit__(self, *exc: Any) -> None:
        inference.entered(-1 if self.mode else 0)
        grad_mode.enabled, grad_mode.inference, grad_mode.told = self.saved

    def fresh(self) -> _Setting:
        """Another with the same mode."""
        made: _Setting = inference_mode(self.mode)
        return made


class _Inference:
    """How many blocks of inference mode are open, in all threads: while there is none, no tensor looks for its own."""

    __slots__ = ("_lock", "blocks")

    def __init__(self) -> None:
        self.blocks = 0
        self._lock = threading.Lock()

    def entered(self, count: int) -> None:
        with self._lock:
            self.blocks += count


inference = _Inference()


def is_inference_mode_enabled() -> bool:
    """Whether inference mode is on, in this thread."""
    return grad_mode.inference
