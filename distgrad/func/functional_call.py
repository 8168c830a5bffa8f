"""Modules as functions of their parameters and buffers."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from distgrad.ops.joining import stack
from distgrad.tensor import Tensor

__all__ = ["functional_call", "replace_all_batch_norm_modules_", "stack_module_state"]

ABSENT: Any = object()  # in place of a tensor that was not there


def functional_call(
    module: Any,
    parameter_and_buffer_dicts: Any,
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """`module(*args, **kwargs)` with these tensors in place of its own: a dict by path, or several such dicts.

    What is not given stays the module's own. With `tie_weights` a tensor that the module has under several names is
    replaced under all of them; with `strict` all of the module's tensors must be given, and no others. If `forward`
    puts a new tensor in a given one's place, the dict has that afterwards.
    """
    given = parameter_and_buffer_dicts
    if isinstance(given, Sequence):
        if not all(isinstance(d, dict) for d in given):
            raise ValueError("Expected all elements of parameter_and_buffer_dicts to be dictionaries")
        repeated = [key for key, n in Counter(key for d in given for key in d).items() if n > 1]
        if repeated:
            raise ValueError(
                f"{repeated} appeared in multiple dictionaries; behavior of functional call is ambiguous"
            )
        given = {key: tensor for d in given for key, tensor in d.items()}
    elif not isinstance(given, dict):
        raise ValueError(
            "Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts, but got "
            f"{type(given)}"
        )
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    with replaced(module, given, tie_weights, strict):
        return module(*args, **({} if kwargs is None else kwargs))


@contextlib.contextmanager
def replaced(module: Any, given: dict[str, Any], tie_weights: bool, strict: bool) -> Iterator[None]:
    """Put tensors in place of the module's own while the block runs."""
    tensors = _tied(module, given) if tie_weights else given
    if strict:
        _check_names(module, tensors)
    before: list[tuple[str, Any]] = []
    try:
        for path, tensor in tensors.items():
            before.append((path, _swap(module, path, tensor)))
        yield
    finally:
        after = {path: _swap(module, path, tensor) for path, tensor in reversed(before)}
        given.update({path: after[path] for path in given if path in after})


def _all_tensors(module: Any) -> dict[str, Any]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _tied(module: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The tensors by all of the names under which the module has what they replace."""
    names = defaultdict(list)
    for name, tensor in _all_tensors(module).items():
        names[id(tensor)].append(name)
    tensors = dict(given)
    for group in names.values():
        mine = [name for name in group if name in given]
        if len(mine) > 1 and len({id(given[name]) for name in mine}) > 1:
            raise ValueError(
                f"functional_call got multiple values for keys {sorted(group)}, which are tied. Consider using "
                "tie_weights=False"
            )
        if mine:
            tensors.update(dict.fromkeys(group, given[mine[0]]))
    return tensors


def _check_names(module: Any, tensors: dict[str, Any]) -> None:
    own = _all_tensors(module)
    wrong = []
    for title, names in (("Unexpected", set(tensors) - set(own)), ("Missing", set(own) - set(tensors))):
        if names:
            wrong.append(f"{title} key(s): {', '.join(map(repr, sorted(names)))}.")
    if wrong:
        text = "\n\t".join(wrong)
        raise RuntimeError(f"Error(s) in reparametrizing for {module._get_name()}:\n\t{text}")


def _swap(module: Any, path: str, tensor: Any) -> Any:
    """Put a tensor where `path` leads, past all checks of `__setattr__`; gives what was there."""
    if tensor is not None and tensor is not ABSENT and not isinstance(tensor, Tensor):
        raise TypeError(f"{tensor} is not an instance of torch.Tensor")
    before, _, name = path.rpartition(".")
    owner = module.get_submodule(before)
    held: Any = next((kind for kind in (owner._parameters, owner._buffers) if name in kind), None)
    if held is not None:
        found = held[name]
        if tensor is ABSENT:
            del held[name]
        else:
            held[name] = tensor
        return found
    found = getattr(owner, name, ABSENT)
    if found is not ABSENT and not isinstance(found, Tensor):
        raise TypeError(f"attribute `{name}`: {found} is not an instance of torch.Tensor")
    if tensor is ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, tensor)
    return found


def stack_module_state(models: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, buffers) of several modules of one class, each stacked along a new first dimension."""
    if len(models) == 0:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    if len({bool(m.training) for m in models}) > 1:
        raise RuntimeError("stack_module_state: Expected all models to have the same training/eval mode.")
    if len({type(m) for m in models}) > 1:
        raise RuntimeError("stack_module_state: Expected all models to be of the same class.")
    parameters = [dict(m.named_parameters()) for m in models]
    buffers = [dict(m.named_buffers()) for m in models]
    return _stacked(parameters), _stacked(buffers)


def _stacked(states: list[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for name in states[0]:
        tensors = [state[name] for state in states]
        trained = [t.requires_grad for t in tensors]
        if len(set(trained)) > 1:
            raise RuntimeError(f"Expected {name} from each model to have the same .requires_grad")
        found[name] = stack(tensors)
        if trained[0]:
            found[name] = found[name].detach().requires_grad_()
    return found


def replace_all_batch_norm_modules_(root: Any) -> Any:
    """Have all BatchNorm modules in `root` keep no running statistics, which `vmap` could not change. Gives `root`."""
    for module in root.modules():
        forget = getattr(module, "_forget_running", None)
        if forget is not None:
            forget()
    return root
