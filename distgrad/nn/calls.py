"""Calling a module: `forward`, with the hooks before, after and on the way back."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from distgrad.handles import RemovableHandle
from distgrad.nn.backward_hooks import BackwardHook, hook_last_node
from distgrad.nn.state import added

__all__ = [
    "register_module_backward_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
]

Hooks = dict[int, Callable[..., Any]]
BOTH = "Cannot use both regular backward hooks and full backward hooks on a single Module. Please use only one of them."


class _Global:
    """The hooks of all modules."""

    def __init__(self) -> None:
        self.forward: Hooks = OrderedDict()
        self.forward_always: dict[int, bool] = OrderedDict()
        self.forward_pre: Hooks = OrderedDict()
        self.with_kwargs: dict[int, bool] = OrderedDict()
        self.backward: Hooks = OrderedDict()
        self.backward_pre: Hooks = OrderedDict()
        self.full: bool | None = None  # of which kind `backward` is


everywhere = _Global()


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call hook(module, args) before `forward` of every module; see `Module.register_forward_pre_hook`."""
    return added(everywhere.forward_pre, hook)


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Call hook(module, args, output) after `forward` of every module; see `Module.register_forward_hook`."""
    handle = RemovableHandle(
        everywhere.forward, extra_dict=[everywhere.with_kwargs, everywhere.forward_always]
    )
    everywhere.forward[handle.id] = hook
    if with_kwargs:
        everywhere.with_kwargs[handle.id] = True
    if always_call:
        everywhere.forward_always[handle.id] = True
    return handle


def _global_backward(hook: Callable[..., Any], full: bool) -> RemovableHandle:
    if everywhere.full is not None and everywhere.full is not full and everywhere.backward:
        raise RuntimeError(BOTH.replace("on a single Module", "as a global Module hook"))
    everywhere.full = full
    return added(everywhere.backward, hook)


def register_module_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Deprecated in torch: see `Module.register_backward_hook`."""
    return _global_backward(hook, False)


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call a hook on the way back through every module; see `Module.register_full_backward_hook`."""
    return _global_backward(hook, True)


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call a hook when backward reaches any module; see `Module.register_full_backward_pre_hook`."""
    return added(everywhere.backward_pre, hook)


class Called:
    """The part of `Module` that is called."""

    _backward_hooks: Hooks
    _backward_pre_hooks: Hooks
    _forward_hooks: Hooks
    _forward_hooks_always_called: dict[int, bool]
    _forward_hooks_with_kwargs: dict[int, bool]
    _forward_pre_hooks: Hooks
    _forward_pre_hooks_with_kwargs: dict[int, bool]
    _is_full_backward_hook: bool | None

    @staticmethod
    def _no_hooks() -> dict[str, Any]:
        """The attributes of a module that has no hooks."""
        kinds = (
            "_backward_pre_hooks _backward_hooks _forward_hooks _forward_hooks_with_kwargs "
            "_forward_hooks_always_called _forward_pre_hooks _forward_pre_hooks_with_kwargs _state_dict_hooks "
            "_state_dict_pre_hooks _load_state_dict_pre_hooks _load_state_dict_post_hooks"
        )
        found: dict[str, Any] = {kind: OrderedDict() for kind in kinds.split()}
        found["_is_full_backward_hook"] = None
        return found

    def forward(self, *input: Any, **kwargs: Any) -> Any:
        """What the module computes: every subclass says it."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function'
        )

    # Registering.
    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call hook(module, args), or hook(module, args, kwargs), before `forward`; what it gives replaces them."""
        handle = RemovableHandle(self._forward_pre_hooks, extra_dict=self._forward_pre_hooks_with_kwargs)
        if with_kwargs:
            self._forward_pre_hooks_with_kwargs[handle.id] = True
        return _placed(self._forward_pre_hooks, handle, hook, prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call hook(module, args, output), or hook(module, args, kwargs, output), after `forward`.

        What it gives replaces the output. With `always_call` it is called after an exception too.
        """
        flags = [self._forward_hooks_with_kwargs, self._forward_hooks_always_called]
        handle = RemovableHandle(self._forward_hooks, extra_dict=flags)
        for flag, given in zip(flags, (with_kwargs, always_call), strict=True):
            if given:
                flag[handle.id] = True
        return _placed(self._forward_hooks, handle, hook, prepend)

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call hook(module, grad_output) when the gradients of the outputs are there; a tuple replaces them."""
        handle = RemovableHandle(self._backward_pre_hooks)
        return _placed(self._backward_pre_hooks, handle, hook, prepend)

    def register_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Deprecated in torch: the hook gets the gradients of the last node alone."""
        if self._is_full_backward_hook is True:
            raise RuntimeError(BOTH)
        self._is_full_backward_hook = False
        return added(self._backward_hooks, hook)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call hook(module, grad_input, grad_output) when the inputs' gradients are there; a tuple replaces them."""
        if self._is_full_backward_hook is False:
            raise RuntimeError(BOTH)
        self._is_full_backward_hook = True
        return _placed(self._backward_hooks, RemovableHandle(self._backward_hooks), hook, prepend)

    # Calling.
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `forward` gives, with the hooks around it."""
        if not (
            self._backward_hooks
            or self._backward_pre_hooks
            or self._forward_hooks
            or self._forward_pre_hooks
            or everywhere.backward_pre
            or everywhere.backward
            or everywhere.forward
            or everywhere.forward_pre
        ):
            return self.forward(*args, **kwargs)
        return _HookedCall(self, args, kwargs).run()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(self._no_hooks())
        self.__dict__.setdefault("_non_persistent_buffers_set", set())
        self.__dict__.update(state)


class _HookedCall:
    """One call of a module that has hooks."""

    def __init__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.module, self.args, self.kwargs = module, args, kwargs
        self.result: Any = None
        self.called: set[int] = set()  # of the hooks that are always called

    def run(self) -> Any:
        """`forward` and all hooks; after an exception those that are always called."""
        try:
            return self._run()
        except Exception:
            self._always()
            raise

    def _run(self) -> Any:
        module, hooks = self.module, self.module._backward_hooks
        full = [*(everywhere.backward.values() if everywhere.full else ())]
        full += hooks.values() if module._is_full_backward_hook else ()
        old = [*(everywhere.backward.values() if everywhere.full is False else ())]
        old += hooks.values() if module._is_full_backward_hook is False else ()
        before = [*everywhere.backward_pre.values(), *module._backward_pre_hooks.values()]
        self._before()
        back = BackwardHook(module, full, before) if full or before else None
        if back is not None:
            self.args = back.inputs(self.args)
        self.result = module.forward(*self.args, **self.kwargs)
        for number, hook in (*everywhere.forward.items(), *module._forward_hooks.items()):
            self._after(number, hook)
        if back is not None:
            self.result = back.outputs(self.result)
        if old:
            hook_last_node(module, old, self.args, self.result)
        return self.result

    def _before(self) -> None:
        module = self.module
        for number, hook in (*everywhere.forward_pre.items(), *module._forward_pre_hooks.items()):
            if number in module._forward_pre_hooks_with_kwargs:
                found = hook(module, self.args, self.kwargs)
                if found is None:
                    continue
                if not isinstance(found, tuple) or len(found) != 2:
                    raise RuntimeError(
                        f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {found}."
                    )
                self.args, self.kwargs = found
            else:
                found = hook(module, self.args)
                if found is not None:
                    self.args = found if isinstance(found, tuple) else (found,)

    def _after(self, number: int, hook: Callable[..., Any]) -> None:
        module = self.module
        if number in module._forward_hooks_always_called or number in everywhere.forward_always:
            self.called.add(number)
        if number in module._forward_hooks_with_kwargs or number in everywhere.with_kwargs:
            found = hook(module, self.args, self.kwargs, self.result)
        else:
            found = hook(module, self.args, self.result)
        if found is not None:
            self.result = found

    def _always(self) -> None:
        always = (
            ("global module", everywhere.forward, everywhere.forward_always),
            ("module", self.module._forward_hooks, self.module._forward_hooks_always_called),
        )
        for title, hooks, flags in always:
            for number in [n for n in hooks if n in flags and n not in self.called]:
                try:
                    self._after(number, hooks[number])
                except Exception as error:
                    warnings.warn(
                        f"{title} forward hook with ``always_call=True`` raised an exception that was silenced as "
                        f"another error was raised in forward: {error!s}",
                        stacklevel=4,
                    )


def _placed(hooks: Any, handle: RemovableHandle, hook: Callable[..., Any], first: bool) -> RemovableHandle:
    hooks[handle.id] = hook
    if first:
        hooks.move_to_end(handle.id, last=False)
    return handle
