"""Backward that makes values again instead of keeping them, as `torch.utils.checkpoint`.

What the function saves is replaced by tickets. The first ticket that a backward pass hands in has the function run
again, up to the last tensor that was saved; each tensor then waits for its own ticket.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from distgrad import session
from distgrad.autograd.drivers import backward as run_backward
from distgrad.autograd.function import Function
from distgrad.autograd.graph import saved_tensors_hooks
from distgrad.callsites import call_site, origin
from distgrad.nn.containers import Sequential
from distgrad.ops.random import get_rng_state, set_rng_state
from distgrad.record import Pass, Saved, enable_grad, grad_mode, no_grad
from distgrad.restoring import unpacked
from distgrad.saving import Packed, packed
from distgrad.tensor import Tensor

__all__ = [
    "CheckpointError",
    "CheckpointFunction",
    "checkpoint",
    "checkpoint_sequential",
    "noop_context_fn",
    "set_checkpoint_debug_enabled",
    "set_checkpoint_early_stop",
]

Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]
TIP = (
    "Tip: to see a more detailed error, either pass `debug=True` to `torch.utils.checkpoint.checkpoint(...)` or wrap "
    "the code block with `with torch.utils.checkpoint.set_checkpoint_debug_enabled(True):` to enable checkpoint-debug "
    "mode globally."
)
LOG = (
    "An error happened while unpacking tensors; this is what was saved, since you passed `debug=True` to "
    "`torch.utils.checkpoint.checkpoint()`.\n\nSaved during the original forward, by op and line:\n\n{}\n\n"
    "Saved during recomputation:\n\n{}\n\n"
    "ERROR: Detected non-determinism while running activation checkpointing. The function does something else when it "
    "runs again: the lists differ where that begins."
)
_early_stop: list[bool] = []  # what `set_checkpoint_early_stop` blocks say, the innermost last
_debugged: list[bool | None] = []  # the same of `set_checkpoint_debug_enabled`


class CheckpointError(RuntimeError):
    """What was saved when the function ran again is not what was saved the first time."""


def noop_context_fn() -> Contexts:
    """Two contexts that do nothing."""
    return contextlib.nullcontext(), contextlib.nullcontext()


@contextlib.contextmanager
def set_checkpoint_early_stop(enable: bool) -> Iterator[None]:
    """In this block this is `early_stop` of every checkpoint."""
    _early_stop.append(enable)
    try:
        yield
    finally:
        _early_stop.pop()


@contextlib.contextmanager
def set_checkpoint_debug_enabled(enabled: bool | None) -> Iterator[None]:
    """In this block this is `debug` of every checkpoint; None: what each call says."""
    _debugged.append(enabled)
    try:
        yield
    finally:
        _debugged.pop()


# Tickets.
class _Ticket:
    """Stands in the graph for a tensor; `values` has the tensor for each pass that has made it again."""

    __slots__ = ("__weakref__", "values")

    def __init__(self) -> None:
        self.values: weakref.WeakKeyDictionary[Pass, Tensor | None] = weakref.WeakKeyDictionary()


class _Stop(Exception):
    """All that is needed has been made again."""


def _shape(tensor: Tensor) -> dict[str, Any]:
    return {"shape": tensor.shape, "dtype": tensor.dtype, "device": tensor.device}


CHECKS: dict[str, Callable[[Tensor], Any]] = {"default": _shape, "none": lambda tensor: None}


class _Frame:
    """One call of a checkpointed function."""

    def __init__(
        self,
        again: Callable[..., Any],
        args: Sequence[Any],
        described: Any,
        early_stop: bool,
        debug: bool = False,
    ):
        self.logs: tuple[list[str], list[str]] | None = ([], []) if debug else None  # of what was saved
        self.again = again  # runs the function, as it was run
        self.args = [_kept(arg) for arg in args]
        self.described = described
        self.early_stop = early_stop
        self.tickets: list[weakref.ref[_Ticket]] = []
        self.descriptions: list[Any] = []
        self.counts: weakref.WeakKeyDictionary[Pass, int] = weakref.WeakKeyDictionary()
        self.complete = False  # whether the function has returned
        self.uneven = False  # whether backward inside of the function has made the counts differ

    def pack(self, tensor: Tensor) -> _Ticket:
        """A ticket for what the function saves."""
        self._log(0, tensor)
        ticket = _Ticket()
        self.tickets.append(weakref.ref(ticket))
        self.descriptions.append(self.described(tensor))
        return ticket

    def unpack(self, ticket: _Ticket) -> Tensor:
        """The tensor for a ticket: each is handed in once in a pass."""
        current = grad_mode.current or Pass(False)
        if current not in self.counts:
            try:
                self._run_again(current)
            except CheckpointError as error:
                if self.logs is None:
                    raise
                raise CheckpointError(LOG.format(*("\n".join(log) for log in self.logs))) from error
        tensor = ticket.values.get(current)
        if tensor is None:
            raise CheckpointError(
                "torch.utils.checkpoint: Unpack is being triggered for a tensor that was already unpacked once. If "
                "you are calling ctx.saved_tensors in backward, make sure to do so only once. Otherwise please open "
                "an issue with details on your use case."
            )
        ticket.values[current] = None
        return tensor

    def _log(self, run: int, tensor: Tensor) -> None:
        if self.logs is not None:
            lines = self.logs[run]
            dims = ", ".join(map(str, tensor.shape))
            lines.append(
                f"{len(lines)}: {tensor.dtype}[{dims}] for {origin(call_site(session.current_op.name))}"
            )

    def _run_again(self, current: Pass) -> None:
        self.counts[current] = 0
        if self.logs is not None:
            self.logs[1].clear()
        session.begin_remat()
        with enable_grad():
            args = [_opened(arg) for arg in self.args]
        hooks = saved_tensors_hooks(lambda tensor: self._found(current, tensor), lambda tensor: tensor)
        with contextlib.suppress(_Stop), hooks, enable_grad():
            self.again(*args)
        self._check(current)

    def _found(self, current: Pass, tensor: Tensor) -> Tensor:
        """The next tensor that is saved while the function runs again."""
        self._log(1, tensor)
        tensor = tensor.detach() if tensor.requires_grad else tensor
        number = self.counts[current]
        self.counts[current] = number + 1
        if number >= len(self.tickets):
            if not self.complete:
                self.uneven = True
                return tensor
            raise CheckpointError(
                "torch.utils.checkpoint: trying to save more tensors during recomputation than during the original "
                f"forward pass.\n{TIP}"
            )
        ticket = self.tickets[number]()
        if ticket is not None:  # else nobody will hand it in
            ticket.values[current] = tensor
        if self.early_stop and number + 1 == len(self.tickets):
            raise _Stop
        return tensor

    def _check(self, current: Pass) -> None:
        if self.uneven:
            return
        count = self.counts[current]
        if count != len(self.tickets):
            raise CheckpointError(
                "torch.utils.checkpoint: A different number of tensors was saved during the original forward and "
                f"recomputation.\nNumber of tensors saved during forward: {len(self.tickets)}\n"
                f"Number of tensors saved during recomputation: {count}.\n{TIP}"
            )
        wrong = ""
        for i, (reference, saved) in enumerate(zip(self.tickets, self.descriptions, strict=True)):
            ticket = reference()
            found = None if ticket is None else ticket.values[current]
            if found is not None and self.described(found) != saved:
                wrong += (
                    f"tensor at position {i}:\nsaved metadata: {saved}\n"
                    f"recomputed metadata: {self.described(found)}\n"
                )
        if wrong:
            raise CheckpointError(
                "torch.utils.checkpoint: Recomputed values for the following tensors have different metadata than "
                f"during the forward pass.\n{wrong}.\n{TIP}"
            )


def _kept(arg: Any) -> Any:
    return packed(arg, arg._edge) or Saved(arg) if isinstance(arg, Tensor) else arg


def _opened(arg: Any) -> Any:
    if type(arg) is Packed:
        return unpacked(arg, None)
    return arg.open(None, None) if type(arg) is Saved else arg


@contextlib.contextmanager
def _state(state: Tensor | None) -> Iterator[None]:
    """Random numbers go on from `state`, and afterwards as they were. None: nothing of that."""
    if state is None:
        yield
        return
    before = get_rng_state()
    set_rng_state(state)
    try:
        yield
    finally:
        set_rng_state(before)


# The kind that runs backward inside of backward.
class CheckpointFunction(Function):
    """`use_reentrant=True`: the function runs without a graph, and again with one in backward."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        """Run the function and keep its arguments alone."""
        if not any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
            warnings.warn("None of the inputs have requires_grad=True. Gradients will be None", stacklevel=4)
        ctx.run_function = run
        ctx.state = get_rng_state() if preserve else None
        ctx.places = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
        ctx.inputs = [None if isinstance(arg, Tensor) else arg for arg in args]
        ctx.save_for_backward(*(args[i] for i in ctx.places))
        with no_grad():
            return run(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Run the function again, and backward through it."""
        if grad_mode.current is not None and grad_mode.current.partial:
            raise RuntimeError(
                "When use_reentrant=True, torch.utils.checkpoint is incompatible with .grad() or passing an `inputs` "
                "parameter to .backward(). To resolve this error, you can either set use_reentrant=False, or call "
                ".backward() without passing the `inputs` argument."
            )
        inputs = list(ctx.inputs)
        for i, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            inputs[i] = tensor.detach().requires_grad_(tensor.requires_grad)
        session.begin_remat()
        with _state(ctx.state), enable_grad():
            outputs = ctx.run_function(*inputs)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        pairs = [
            (out, g)
            for out, g in zip(outputs, grads, strict=False)
            if isinstance(out, Tensor) and out.requires_grad
        ]
        if not pairs:
            raise RuntimeError("none of output has requires_grad=True, this checkpoint() is not necessary")
        run_backward([out for out, _ in pairs], [g for _, g in pairs])
        return (None, None, *(x.grad if isinstance(x, Tensor) else None for x in inputs))


# What users call.
def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], Contexts] = noop_context_fn,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """`function(*args, **kwargs)`, of which nothing is kept for backward: it is run again there.

    Args:
        function: gives the same when it is called again with the same arguments.
        use_reentrant: False is the better kind. True runs backward inside of backward, which asks that an argument
            requires grad and that `backward()` is called without `inputs`.
        preserve_rng_state: draw the same random numbers again (a keyword; True unless it is given).
        context_fn: gives two contexts, for the first run and for the others.
        determinism_check: "default" compares shapes and dtypes of what is saved, "none" does not.
        debug: where the runs differ, the error tells what each has saved, with ops and lines.
        early_stop: stop as soon as the last tensor that was saved is there again.

    Raises:
        CheckpointError: the second run saves other tensors than the first.
    """
    if use_reentrant is None:
        _warn(
            "", "Starting in PyTorch 2.9, calling checkpoint without use_reentrant will raise an exception."
        )
        use_reentrant = True
    preserve = kwargs.pop("preserve_rng_state", True)
    if use_reentrant:
        if kwargs:
            raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
        if context_fn is not noop_context_fn or debug:
            raise ValueError("Passing `context_fn` or `debug` is only supported when use_reentrant=False.")
        return CheckpointFunction.apply(function, preserve, *args)
    said = _debugged[-1] if _debugged else None
    debug = debug if said is None else said
    if debug and context_fn is not noop_context_fn:
        raise ValueError("debug=True is incompatible with non-default context_fn")
    if determinism_check not in CHECKS:
        raise ValueError(f"determinism_check should be one of {list(CHECKS)}, but got {determinism_check}")
    first, others = context_fn()
    if not grad_mode.enabled:
        return function(*args, **kwargs)
    state = get_rng_state() if preserve else None

    def again(*inputs: Any) -> None:
        with _state(state), others:
            function(*inputs, **kwargs)

    early_stop = _early_stop[-1] if _early_stop else early_stop
    frame = _Frame(again, args, CHECKS[determinism_check], early_stop, debug)
    with saved_tensors_hooks(frame.pack, frame.unpack), first:
        result = function(*args, **kwargs)
    frame.complete = True
    return result


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """The functions one after the other, in so many checkpoints of about as many each, but for the last.

    Args:
        functions: a `Sequential`, or a list of functions or modules.
        segments: how many.
        use_reentrant, preserve_rng_state: those of `checkpoint`.
    """
    if use_reentrant is None:
        _warn(
            "checkpoint_sequential: ",
            "In version 2.9 we will raise an exception if use_reentrant is not passed.",
        )
        use_reentrant = True
    preserve = kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    steps = list(functions.children()) if isinstance(functions, Sequential) else list(functions)
    size = len(steps) // segments
    end = 0
    for start in range(0, size * (segments - 1), size):
        end = start + size
        input = checkpoint(
            _chain(steps[start:end]), input, use_reentrant=use_reentrant, preserve_rng_state=preserve
        )
    return _chain(steps[end:])(input)


def _chain(steps: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def run(item: Any) -> Any:
        for step in steps:
            item = step(item)
        return item

    return run


def _warn(where: str, future: str) -> None:
    warnings.warn(
        f"torch.utils.checkpoint{'.' * bool(where)}{where or ': '}the use_reentrant parameter should be passed "
        f"explicitly. {future} use_reentrant=False is recommended, but if you need to preserve the current default "
        "behavior, you can pass use_reentrant=True. Refer to docs for more details on the differences between the "
        "two variants.",
        stacklevel=3,
    )
