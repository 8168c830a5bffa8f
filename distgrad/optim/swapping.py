"""An optimizer that works on other parameters for a while, as `torch.optim.swap_in_optimizer_params_and_state`."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from distgrad.optim.optimizer import Group, Optimizer
from distgrad.tensor import Tensor

__all__ = ["swap_in_optimizer_params_and_state"]

NAME = "swap_in_optimizer_params_and_state"


@contextlib.contextmanager
def swap_in_optimizer_params_and_state(
    optimizer: Optimizer, swapin_parameters: dict[str, Tensor], swapin_optim_state: dict[str, Any]
) -> Iterator[None]:
    """In this block the optimizer changes these parameters, with this state; afterwards it is as it was.

    Args:
        optimizer: one that has state already.
        swapin_parameters: as many as the optimizer has, in its order.
        swapin_optim_state: what `state_dict` gives. Its tensors are changed in place; it gets no new ones.

    Raises:
        RuntimeError: the parts do not fit the optimizer's groups.
    """
    if not optimizer.state:
        raise RuntimeError(f"{NAME} requires initialized optimizer state.")
    if not isinstance(swapin_optim_state, dict):
        raise RuntimeError(f"{NAME} requires a DCP-style optimizer state_dict.")
    saved = _state(swapin_optim_state.get("state"))
    groups = _groups(optimizer, swapin_optim_state.get("param_groups"))
    parameters = iter(list(swapin_parameters.values()))
    chosen, state = [], defaultdict[Any, Any](dict)
    numbers: set[int] = set()
    for i, (mine, new) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        ids = _ids(i, mine, new)
        numbers.update(ids)
        params = [p for _, p in zip(ids, parameters, strict=False)]
        if len(params) < len(ids):
            raise RuntimeError(
                f"{NAME} requires the explicit parameter state to match optimizer.param_groups ordering."
            )
        chosen.append({**new, "params": params})
        state.update((p, dict(saved.get(number, {}))) for p, number in zip(params, ids, strict=True))
    extra = [key for key in saved if key not in numbers]
    if extra:
        raise RuntimeError(
            f"{NAME} requires swapin_optim_state['state'] to be keyed only by packed parameter ids from "
            f"param_groups[*]['params']; got extra keys {extra!r}."
        )
    before, outside = [dict(group) for group in optimizer.param_groups], optimizer.state
    try:
        _install(optimizer, chosen, state)
        yield
    finally:
        _install(optimizer, before, outside)


def _install(optimizer: Optimizer, groups: list[Group], state: Any) -> None:
    for group, new in zip(optimizer.param_groups, groups, strict=True):
        group.clear()
        group.update(new)
    optimizer.state = state
    if hasattr(optimizer, "_buckets"):  # parameters that were changed together
        optimizer._buckets = {}


def _state(state: Any) -> dict[Any, Any]:
    if not isinstance(state, dict):
        raise RuntimeError(
            f"{NAME} requires swapin_optim_state['state'] to be a dict mapping packed parameter ids to per-param state "
            f"dicts, got {type(state).__name__}."
        )
    if any(isinstance(key, Tensor) for key in state):
        raise RuntimeError(
            f"{NAME} requires optimizer.state_dict()-style state keyed by packed parameter ids."
        )
    if any(isinstance(key, int) and not isinstance(value, dict) for key, value in state.items()):
        raise RuntimeError(f"{NAME} requires per-parameter optimizer state entries to be dictionaries.")
    return state


def _groups(optimizer: Optimizer, groups: Any) -> list[Any]:
    if not isinstance(groups, list):
        raise RuntimeError(
            f"{NAME} requires swapin_optim_state['param_groups'] to be a list of param-group dicts, got "
            f"{type(groups).__name__}."
        )
    if len(optimizer.param_groups) != len(groups):
        raise RuntimeError(
            "swapin_optim_state has a different number of parameter groups than the live optimizer."
        )
    return groups


def _ids(number: int, mine: Group, new: Any) -> list[int]:
    """The numbers of the parameters of a group."""
    if not isinstance(new, dict):
        raise RuntimeError(f"{NAME} requires each optimizer param group to be a dictionary.")
    ids = new.get("params")
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        raise RuntimeError(
            f"{NAME} requires optimizer.state_dict()-style param_groups[*]['params'] entries keyed by packed parameter "
            "ids."
        )
    if len(mine["params"]) != len(ids):
        raise RuntimeError(
            f"swapin_optim_state param group {number} has a different number of params than the live optimizer param "
            "group."
        )
    theirs, ours = [key for key in new if key not in mine], [key for key in mine if key not in new]
    if theirs or ours:
        raise RuntimeError(
            f"{NAME} requires optimizer.state_dict()-style param group keys to exactly match the live optimizer group "
            f"keys for group {number}. Keys only in swap-in: {theirs}. Keys only in live: {ours}."
        )
    return ids
