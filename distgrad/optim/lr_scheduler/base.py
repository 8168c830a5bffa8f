"""What all schedulers of the learning rate have in common, as `torch.optim.lr_scheduler.LRScheduler`."""

from __future__ import annotations

import contextlib
import functools
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

from distgrad.ops.base import Tensor
from distgrad.optim.optimizer import Group, Optimizer

Rate = Any  # a number, or a tensor of one element

NO_INITIAL = (
    "param 'initial_lr' is not specified in param_groups[{}] when resuming scheduler with last_epoch >= 0.\n"
    "This typically happens when:\n"
    "1. You're trying to resume training from a checkpoint but haven't properly loaded the optimizer state\n"
    "2. You're using last_epoch >= 0 for a fresh training run (not recommended)"
)
OVERRIDDEN = (
    "Seems like `optimizer.step()` has been overridden after learning rate scheduler initialization. Please, make "
    "sure to call `optimizer.step()` before `lr_scheduler.step()`. See more details at "
    "https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate"
)
TOO_EARLY = (
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`. In PyTorch 1.1.0 and later, you should call "
    "them in the opposite order: `optimizer.step()` before `lr_scheduler.step()`.  Failure to do this will result in "
    "PyTorch skipping the first value of the learning rate schedule. See more details at "
    "https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate"
)
EPOCH = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. Please use "
    "`scheduler.step()` to step the scheduler. During the deprecation, if epoch is different from None, the closed "
    "form is used instead of the new chainable form, where available. Please open an issue if you are unable to "
    "replicate your use case: https://github.com/pytorch/pytorch/issues/new/choose."
)
LAST_LR = "To get the last learning rate computed by the scheduler, please use `get_last_lr()`."


def own(rate: Rate) -> Rate:
    """The rate; of a tensor a copy, so that nobody changes the optimizer's."""
    return rate.clone() if isinstance(rate, Tensor) else rate


def values(optimizer: Optimizer, key: str) -> list[Rate]:
    """What each group of an optimizer has under `key`."""
    return [own(group[key]) for group in optimizer.param_groups]


def put(group: Group, key: str, value: Rate) -> None:
    """Set an option of a group; a tensor is changed in place."""
    if isinstance(group[key], Tensor):
        group[key].fill_(value.item() if isinstance(value, Tensor) else value)
    else:
        group[key] = value


def for_groups(name: str, optimizer: Optimizer, value: Any) -> list[Rate]:
    """`value` for each group, of a list its own."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [own(value) for _ in range(groups)]
    if len(value) != groups:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(value)} values, param_groups has {groups}."
        )
    return [own(v) for v in value]


def expect_optimizer(optimizer: Any) -> None:
    """torch's error for what is no optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")


class LRScheduler:
    """Changes the learning rates of an optimizer from step to step.

    A subclass gives `get_lr()`, from `last_epoch` and the rates as they are, and may give `_get_closed_form_lr()`, from
    `last_epoch` alone.

    Args:
        optimizer: whose rates are changed; the first are set at once.
        last_epoch: how many steps were made; -1 to begin.
    """

    _get_lr_called_within_step = False
    _is_initial = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        expect_optimizer(optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", own(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(NO_INITIAL.format(i))
        self.base_lrs = values(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        _watch_steps(optimizer)
        self._initial_step()

    def _initial_step(self) -> None:
        """Set the first rates."""
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.__dict__.update(state_dict)

    def get_last_lr(self) -> list[Rate]:
        """The rates that were set last, one for each group."""
        return self._last_lr

    def get_lr(self) -> list[Rate]:
        """The rates that are to be set now; `get_last_lr` is for users."""
        raise NotImplementedError

    def step(self, epoch: int | None = None) -> None:
        """Set the rates of the next epoch; after the optimizer's step. `epoch` is deprecated in torch."""
        if self._step_count == 1:
            if not hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
                warnings.warn(OVERRIDDEN, UserWarning, stacklevel=2)
            elif not getattr(self.optimizer, "_opt_called", False):
                warnings.warn(TOO_EARLY, UserWarning, stacklevel=2)
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH, UserWarning, stacklevel=2)
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        with self._asking():
            if epoch is None:
                self.last_epoch += 1
                rates = self.get_lr()
            else:
                self.last_epoch = epoch
                rates = getattr(self, "_get_closed_form_lr", self.get_lr)()
        self._set(rates)

    def _set(self, rates: list[Rate]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            put(group, "lr", rate)
        self._last_lr = values(self.optimizer, "lr")

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """`get_lr` is asked by a step, and not by a user."""
        self._get_lr_called_within_step = True
        try:
            yield
        finally:
            self._get_lr_called_within_step = False

    def _unless_asked(self) -> None:
        """Warn a user who calls `get_lr`."""
        if not self._get_lr_called_within_step:
            warnings.warn(LAST_LR, UserWarning, stacklevel=3)

    def _rates(self, factor: float | None = None) -> list[Rate]:
        """The rates as they are, times `factor`."""
        if factor is None:
            return values(self.optimizer, "lr")
        return [group["lr"] * factor for group in self.optimizer.param_groups]


def _watch_steps(optimizer: Any) -> None:
    """Have the optimizer note that it has made a step."""
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        return
    known, function = weakref.ref(optimizer), optimizer.step.__func__

    @functools.wraps(function)
    def step(*args: Any, **kwargs: Any) -> Any:
        mine: Any = known()
        mine._opt_called = True
        return function(mine, *args, **kwargs)

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = step
