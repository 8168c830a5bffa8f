"""The base of all optimizers: parameter groups, state, hooks, state dicts; as `torch.optim.Optimizer`."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, ClassVar

from distgrad.dtype import float32, get_default_dtype
from distgrad.handles import RemovableHandle
from distgrad.ops.base import Tensor
from distgrad.ops.making import tensor
from distgrad.record import grad_mode

Group = dict[str, Any]
StateDict = dict[str, Any]
Hook = Callable[..., Any]

PRE_HOOKS: OrderedDict[int, Hook] = OrderedDict()
POST_HOOKS: OrderedDict[int, Hook] = OrderedDict()
ALIKE = (
    "optimizer contains a parameter group with duplicate parameters; in future, this will cause an error; "
    "see github.com/pytorch/pytorch/issues/40967 for more information"
)
UNORDERED = (
    "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets will "
    "change between runs. Please use a list instead."
)


class _Required:
    """Stands in `defaults` for an option that each group must give."""

    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()


def typename(item: Any) -> str:
    """The type of something, as torch's messages name it."""
    return item.type() if isinstance(item, Tensor) else type(item).__name__


def register_optimizer_step_pre_hook(hook: Hook) -> RemovableHandle:
    """Have `hook(optimizer, args, kwargs)` called before each step of any optimizer; it may give both anew."""
    return _register(PRE_HOOKS, hook)


def register_optimizer_step_post_hook(hook: Hook) -> RemovableHandle:
    """Have `hook(optimizer, args, kwargs)` called after each step of any optimizer."""
    return _register(POST_HOOKS, hook)


def _register(hooks: OrderedDict[int, Hook], hook: Hook, prepend: bool = False) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    return handle


class Optimizer:
    """Changes parameters by their gradients.

    Args:
        params: tensors, or pairs of name and tensor, or dicts with "params" and the options of a group.
        defaults: the options of groups that do not give them.
    """

    scalars: ClassVar[tuple[str, ...]] = ("step",)  # state that is one number, whatever the parameter's dtype
    _step_hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    _dict_hooks = tuple(
        f"_optimizer_{verb}state_dict_{when}_hooks"
        for verb, when in itertools.product(("", "load_"), ("pre", "post"))
    )

    def __init__(self, params: Any, defaults: dict[str, Any]):
        self.defaults = defaults
        self._make_hooks()
        self._patch_step_function()
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got "
                + typename(params)
            )
        self.state: defaultdict[Any, Any] = defaultdict(dict)
        self.param_groups: list[Group] = []
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def _make_hooks(self) -> None:
        for name in (*self._step_hooks, *self._dict_hooks):
            if name not in self.__dict__:
                setattr(self, name, OrderedDict())

    def _patch_step_function(self) -> None:
        """Have the hooks called around `step` of this class, which may be a user's own."""
        step = type(self).step
        if not getattr(step, "hooked", None):
            type(self).step = self.profile_hook_step(step)  # type: ignore[method-assign]
            type(self).step.hooked = True  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_hooks()
        self._patch_step_function()
        self.defaults.setdefault("differentiable", False)

    def __repr__(self) -> str:
        text = f"{type(self).__name__} ("
        for i, group in enumerate(self.param_groups):
            options = "".join([f"    {key}: {group[key]}\n" for key in sorted(group) if key != "params"])
            text += f"\nParameter Group {i}\n{options}"
        return f"{text})"

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """`func` with the hooks of all optimizers and of its own around it."""

        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self: Any = args[0]
            for hook in (*PRE_HOOKS.values(), *self._optimizer_step_pre_hooks.values()):
                result = hook(self, args, kwargs)
                if result is not None:
                    if not isinstance(result, tuple) or len(result) != 2:
                        raise RuntimeError(
                            f"{func} must return None or a tuple of (new_args, new_kwargs), but got {result}."
                        )
                    args, kwargs = result
            out = func(*args, **kwargs)
            for hook in (*self._optimizer_step_post_hooks.values(), *POST_HOOKS.values()):
                hook(self, args, kwargs)
            return out

        return wrapper

    def register_step_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Have `hook(optimizer, args, kwargs)` called before each step; it may give new arguments for it."""
        return _register(self._optimizer_step_pre_hooks, hook)  # type: ignore[attr-defined]

    def register_step_post_hook(self, hook: Hook) -> RemovableHandle:
        """Have `hook(optimizer, args, kwargs)` called after each step."""
        return _register(self._optimizer_step_post_hooks, hook)  # type: ignore[attr-defined]

    def register_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Have `hook(optimizer)` called before `state_dict`."""
        return _register(self._optimizer_state_dict_pre_hooks, hook, prepend)  # type: ignore[attr-defined]

    def register_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Have `hook(optimizer, state_dict)` called after `state_dict`; it may give another dict."""
        return _register(self._optimizer_state_dict_post_hooks, hook, prepend)  # type: ignore[attr-defined]

    def register_load_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Have `hook(optimizer, state_dict)` called before a dict is loaded; it may give another."""
        return _register(self._optimizer_load_state_dict_pre_hooks, hook, prepend)  # type: ignore[attr-defined]

    def register_load_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Have `hook(optimizer)` called after a dict was loaded."""
        return _register(self._optimizer_load_state_dict_post_hooks, hook, prepend)  # type: ignore[attr-defined]

    def state_dict(self) -> StateDict:
        """The state and the groups, with numbers in place of the parameters: "state" and "param_groups"."""
        for hook in self._optimizer_state_dict_pre_hooks.values():  # type: ignore[attr-defined]
            hook(self)
        numbers: dict[int, int] = {}
        groups = []
        first = 0
        for group in self.param_groups:
            for i, p in enumerate(group["params"], first):
                numbers.setdefault(id(p), i)
            first += len(group["params"])
            packed = {key: value for key, value in group.items() if key != "params"}
            groups.append({**packed, "params": [numbers[id(p)] for p in group["params"]]})
        state = {numbers[id(k)] if isinstance(k, Tensor) else k: v for k, v in self.state.items()}
        told: StateDict = {"state": state, "param_groups": groups}
        for hook in self._optimizer_state_dict_post_hooks.values():  # type: ignore[attr-defined]
            other = hook(self, told)
            told = told if other is None else other
        return told

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over what `state_dict` of an optimizer of the same kind gave, parameters in the same order."""
        state_dict = state_dict.copy()
        for hook in self._optimizer_load_state_dict_pre_hooks.values():  # type: ignore[attr-defined]
            other = hook(self, state_dict)
            state_dict = state_dict if other is None else other
        groups, saved = self.param_groups, deepcopy(state_dict["param_groups"])
        if len(groups) != len(saved):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(g["params"]) != len(s["params"]) for g, s in zip(groups, saved, strict=True)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        owners = {
            number: (p, s)
            for g, s in zip(groups, saved, strict=True)
            for number, p in zip(s["params"], g["params"], strict=True)
        }
        state: defaultdict[Any, Any] = defaultdict(dict)
        for key, value in state_dict["state"].items():
            if key in owners:
                p, group = owners[key]
                state[p] = _suited(value, p, group, self.scalars)
            else:
                state[key] = value
        for group, new in zip(groups, saved, strict=True):
            new["params"] = group["params"]
            if "param_names" in group:
                new.setdefault("param_names", group["param_names"])
        self.__setstate__({"state": state, "param_groups": saved})
        for hook in self._optimizer_load_state_dict_post_hooks.values():  # type: ignore[attr-defined]
            hook(self)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or set them to zeros in place."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if set_to_none:
                    p.grad = None
                    continue
                if p.grad.grad_fn is not None:
                    p.grad.detach_()
                else:
                    p.grad.requires_grad_(False)
                p.grad.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the parameters once. `closure` works the loss out anew."""
        raise NotImplementedError

    def add_param_group(self, param_group: Group) -> None:
        """Change these parameters too: a dict with "params" and the options in which the group differs."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        params = param_group["params"]
        if isinstance(params, set):
            raise TypeError(UNORDERED)
        items = [params] if isinstance(params, Tensor) else list(params)
        names = [item[0] for item in items if isinstance(item, tuple)]
        params = param_group["params"] = [item[1] if isinstance(item, tuple) else item for item in items]
        if names:
            if len(names) != len(params):
                raise ValueError(
                    "all optimizer params should be with/without names. Some param names are missing"
                )
            param_group["param_names"] = names
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(
                    "optimizer can only optimize Tensors, but one of the params is " + typename(p)
                )
            if not self.defaults.get("differentiable", None) and not (p.is_leaf or p.retains_grad):
                raise ValueError("can't optimize a non-leaf Tensor")
        for name, default in self.defaults.items():
            if default is required and name not in param_group:
                raise ValueError(
                    f"parameter group didn't specify a value of required optimization parameter {name}"
                )
            param_group.setdefault(name, default)
        if len(params) != len(set(params)):
            warnings.warn(ALIKE, stacklevel=3)
        self._check_others(param_group)
        self.param_groups.append(param_group)

    def _check_others(self, param_group: Group) -> None:
        """Refuse names where the other groups have none, and parameters that another group has."""
        named = "param_names" in param_group
        if any(named != ("param_names" in group) for group in self.param_groups):
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group "
                f"{'with names' if named else 'without names'} to the optimizer"
            )
        theirs = {p for group in self.param_groups for p in group["params"]}
        if not theirs.isdisjoint(param_group["params"]):
            raise ValueError("some parameters appear in more than one parameter group")


def _suited(value: Any, p: Tensor, group: Group, scalars: tuple[str, ...], key: Any = None) -> Any:
    """Loaded state of a parameter: tensors get its dtype, but for `scalars`, and those of its shape its sharding."""
    if isinstance(value, Tensor):
        if key == "step" or key in scalars:
            return value.to(float32) if group.get("capturable", False) or group.get("fused", False) else value
        value = value.to(p.dtype) if p.is_floating_point() else value
        return value.reshard(p.sharding) if value.shape == p.shape and value.sharding != p.sharding else value
    if isinstance(value, dict):
        return {k: _suited(v, p, group, scalars, k) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return type(value)(_suited(v, p, group, scalars) for v in value)  # type: ignore[call-arg]
    return value


def scalar_dtype(fused: Any = False) -> Any:
    """The dtype of counts of steps."""
    return float32 if fused else get_default_dtype()


def scalar_tensor(number: float, fused: Any = False) -> Tensor:
    """A count of steps, or another number of the state: a 0-d tensor that stays in the driver."""
    return tensor(float(number), dtype=scalar_dtype(fused))


def differentiably(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` with grad mode as the option `differentiable` says."""

    @functools.wraps(step)
    def inner(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = grad_mode.enabled
        grad_mode.enabled = bool(self.defaults["differentiable"])
        try:
            return step(self, *args, **kwargs)
        finally:
            grad_mode.enabled = before

    return inner
