"""Schedules that go up and down: warm restarts, cycles, and one cycle."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

from distgrad.optim.lr_scheduler.base import (
    LRScheduler,
    Rate,
    expect_optimizer,
    for_groups,
    put,
)
from distgrad.optim.optimizer import Group, Optimizer

NO_MOMENTUM = "optimizer must support momentum or beta1 with `cycle_momentum` option enabled"


class CosineAnnealingWarmRestarts(LRScheduler):
    """A cosine from the initial rate to `eta_min` in T_0 epochs, then again in T_0·T_mult, and so on.

    Loshchilov and Hutter, 2016. `step(epoch)` may be called with fractions of epochs.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ):
        if T_0 <= 0 or not isinstance(T_0, int):
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if T_mult < 1 or not isinstance(T_mult, int):
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, (float, int)):
            raise ValueError(f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}")
        self.T_0 = self.T_i = T_0
        self.T_mult, self.eta_min = T_mult, eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Rate]:
        """The rates of this epoch."""
        self._unless_asked()
        height = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (b - self.eta_min) * height for b in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Set the rates of the next epoch, or of `epoch`."""
        if epoch is None and self.last_epoch >= 0:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        else:
            self._go_to(0 if epoch is None else epoch)
        self.last_epoch = math.floor(0 if epoch is None else epoch)
        with self._asking():
            rates = self.get_lr()
        self._set(rates)

    def _go_to(self, epoch: float) -> None:
        """Find the period that `epoch` is in: number n begins at T_0 · (T_mult^n − 1) / (T_mult − 1)."""
        if epoch < 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        if epoch < self.T_0:
            self.T_i, self.T_cur = self.T_0, epoch
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            n = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            self.T_cur = epoch - self.T_0 * (self.T_mult**n - 1) / (self.T_mult - 1)
            self.T_i = self.T_0 * self.T_mult**n


class _WithMomentum(LRScheduler):
    """A schedule that moves the momentum, or the first of Adam's betas, against the rate."""

    cycle_momentum: bool

    def _begin_momentum(self, optimizer: Optimizer, base: Any, most: Any, last_epoch: int) -> None:
        """Set the first momenta: the largest."""
        if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
            raise ValueError(NO_MOMENTUM)
        self.use_beta1 = "betas" in optimizer.defaults
        if last_epoch == -1:
            for highest, lowest, group in zip(most, base, optimizer.param_groups, strict=True):
                self._put_momentum(group, highest)
                group["max_momentum"], group["base_momentum"] = highest, lowest

    def _put_momentum(self, group: Group, momentum: Any) -> None:
        if self.use_beta1:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


class CyclicLR(_WithMomentum):
    """From `base_lr` up to `max_lr` in `step_size_up` steps and down in `step_size_down`, and again (Smith, 2015).

    Args:
        optimizer: whose rates are changed.
        base_lr, max_lr: the least and the largest rate, one or one for each group.
        step_size_up, step_size_down: see above; `step_size_down` is as `step_size_up` unless given.
        mode: "triangular"; "triangular2", half as high in each cycle; "exp_range", gamma^step as high.
        gamma: for "exp_range".
        scale_fn, scale_mode: a height of one's own: of the number of the "cycle", from 1, or of the "iterations".
        cycle_momentum, base_momentum, max_momentum: move the momentum down and up meanwhile.
        last_epoch: how many steps were made; -1 to begin.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: Any,
        max_lr: Any,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: Any = 0.8,
        max_momentum: Any = 0.9,
        last_epoch: int = -1,
    ):
        expect_optimizer(optimizer)
        self.optimizer = optimizer
        least = for_groups("base_lr", optimizer, base_lr)
        if last_epoch == -1:
            for rate, group in zip(least, optimizer.param_groups, strict=True):
                put(group, "lr", rate)
        self.max_lrs = for_groups("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        down = up if step_size_down is None else float(step_size_down)
        self.total_size = up + down
        self.step_ratio = up / self.total_size
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        self.mode, self.gamma = mode, gamma
        self._scale_fn_custom, self.scale_mode = scale_fn, scale_mode
        if scale_fn is None:
            self.scale_mode = "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.base_momentums = for_groups("base_momentum", optimizer, base_momentum)
            self.max_momentums = for_groups("max_momentum", optimizer, max_momentum)
            self._begin_momentum(optimizer, self.base_momentums, self.max_momentums, last_epoch)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = least

    def scale_fn(self, x: float) -> float:
        """The height of cycle or step number `x`."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular2":
            return 1 / (2.0 ** (x - 1))
        return self.gamma**x if self.mode == "exp_range" else 1.0

    def get_lr(self) -> list[Rate]:
        """The rates of this step; it sets the momenta too."""
        self._unless_asked()
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        up = x <= self.step_ratio
        height = x / self.step_ratio if up else (x - 1) / (self.step_ratio - 1)
        height *= self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            momenta = zip(self.base_momentums, self.max_momentums, strict=True)
            for group, (low, high) in zip(self.optimizer.param_groups, momenta, strict=True):
                self._put_momentum(group, high - (high - low) * height)
        return [b + (most - b) * height for b, most in zip(self.base_lrs, self.max_lrs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer, and of a `scale_fn` what it has if it is an object."""
        told = super().state_dict()
        function = told.pop("_scale_fn_custom")
        known = function is not None and not isinstance(function, types.FunctionType)
        return {**told, "_scale_fn_custom": function.__dict__.copy() if known else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        told = {k: v for k, v in state_dict.items() if k != "_scale_fn_custom"}
        super().load_state_dict(told)
        function = state_dict["_scale_fn_custom"]
        if function is not None and self._scale_fn_custom is not None:
            self._scale_fn_custom.__dict__.update(function)


class OneCycleLR(_WithMomentum):
    """Up from max_lr / div_factor to `max_lr`, then down to the first rate / final_div_factor (Smith and Topin, 2017).

    Args:
        optimizer: whose rates are changed.
        max_lr: the largest rate, one or one for each group.
        total_steps: the steps in all; or `epochs` times `steps_per_epoch`.
        pct_start: the part of the steps in which the rate rises.
        anneal_strategy: "cos" or "linear".
        cycle_momentum, base_momentum, max_momentum: move the momentum down and up meanwhile.
        div_factor, final_div_factor: see above.
        three_phase: go down to the first rate in as many steps as up, before the last phase.
        last_epoch: how many steps were made; -1 to begin.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: Any,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: Any = 0.85,
        max_momentum: Any = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        expect_optimizer(optimizer)
        self.optimizer = optimizer
        self.total_steps = _total(total_steps, epochs, steps_per_epoch)
        self._schedule_phases = _phases(pct_start, self.total_steps, three_phase)
        if pct_start < 0 or pct_start > 1 or not isinstance(pct_start, float):
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self._anneal_func_type = anneal_strategy
        rates = for_groups("max_lr", optimizer, max_lr)
        if last_epoch == -1:
            for most, group in zip(rates, optimizer.param_groups, strict=True):
                group["initial_lr"], group["max_lr"] = most / div_factor, most
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            base = for_groups("base_momentum", optimizer, base_momentum)
            highest = for_groups("max_momentum", optimizer, max_momentum)
            self._begin_momentum(optimizer, base, highest, last_epoch)
        super().__init__(optimizer, last_epoch)

    def _anneal_func(self, start: Any, end: Any, done: float) -> Any:
        """Between `start` and `end`, of which the part `done` is behind."""
        if self._anneal_func_type == "linear":
            return (end - start) * done + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * done) + 1)

    def get_lr(self) -> list[Rate]:
        """The rates of this step; it sets the momenta too."""
        self._unless_asked()
        step = self.last_epoch
        if step > self.total_steps:
            raise ValueError(
                f"Tried to step {step} times. The specified number of total steps is {self.total_steps}"
            )
        ends = [phase["end_step"] for phase in self._schedule_phases]
        number = next((i for i, end in enumerate(ends) if step <= end), len(ends) - 1)
        phase, start = self._schedule_phases[number], ends[number - 1] if number else 0.0
        done = (step - start) / (ends[number] - start)
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(self._anneal_func(group[phase["start_lr"]], group[phase["end_lr"]], done))
            if self.cycle_momentum:
                first, last = group[phase["start_momentum"]], group[phase["end_momentum"]]
                self._put_momentum(group, self._anneal_func(first, last, done))
        return rates


def _total(total: Any, epochs: Any, steps: Any) -> int:
    """The number of steps, from what was given of it."""
    if total is not None:
        if total <= 0 or not isinstance(total, int):
            raise ValueError(f"Expected positive integer total_steps, but got {total}")
        return total
    if epochs is None or steps is None:
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    for name, number in (("epochs", epochs), ("steps_per_epoch", steps)):
        if not isinstance(number, int) or number <= 0:
            raise ValueError(f"Expected positive integer {name}, but got {number}")
    return epochs * steps


def _phases(rising: Any, total: int, three: bool) -> list[dict[str, Any]]:
    """Where each phase ends, and between which options of a group it goes; torch's keys, for they are saved."""
    rise, fall, rest = (
        ("initial_lr", "max_lr", "max_momentum", "base_momentum"),
        ("max_lr", "initial_lr" if three else "min_lr", "base_momentum", "max_momentum"),
        ("initial_lr", "min_lr", "max_momentum", "max_momentum"),
    )
    first = float(rising * total) - 1
    ways = [(first, rise), (float(2 * rising * total) - 2, fall), (total - 1, rest)]
    if not three:
        ways = [(first, rise), (total - 1, fall)]
    keys = ("start_lr", "end_lr", "start_momentum", "end_momentum")
    return [{"end_step": end, **dict(zip(keys, way, strict=True))} for end, way in ways]
