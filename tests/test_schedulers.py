"""Every scheduler against the formula of its schedule, and what it warns of and refuses."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

import distgrad as torch

L = torch.optim.lr_scheduler
BASE = (0.1, 0.5)
EPOCHS = 25
PI = math.pi
Rate = Callable[[float, int], float]


def optimizer_of(kind: str = "SGD") -> Any:
    groups = [{"params": [torch.ones(1, requires_grad=True)], "lr": lr} for lr in BASE]
    return getattr(torch.optim, kind)(groups)


def triangle(t: int, up: float, down: float) -> tuple[int, float]:
    """The number of the cycle, from 1, and the height in it."""
    cycle, at = divmod(t, up + down)
    return int(cycle) + 1, at / up if at <= up else (up + down - at) / down


def restarts(t: int, first: int, times: int) -> float:
    """The part of the period that is behind."""
    length = first
    while t >= length:
        t, length = t - length, length * times
    return t / length


def one_cycle(base: float, t: int) -> float:
    """From 0.5 / 25 up to 0.5 in 30 % of 30 steps, down to the first / 10,000."""
    low, high, end = 0.5 / 25, 0.5, 0.5 / 25 / 1e4
    if t <= 8:
        return high + (low - high) / 2 * (1 + math.cos(PI * t / 8))
    return end + (high - end) / 2 * (1 + math.cos(PI * (t - 8) / 21))


def three_phases(base: float, t: int) -> float:
    low, high = 0.5 / 10, 0.5
    for start, stop, a, b in ((0, 11, low, high), (11, 22, high, low), (22, 29, low, low / 100)):
        if t <= stop:
            return a + (b - a) * (t - start) / (stop - start)
    raise AssertionError


def after(base: float, t: int) -> float:
    """A line for 4 epochs, times 0.8 for 5, then a cosine."""
    if t < 4:
        return base * (0.1 + 0.9 * t / 4)
    return base * 0.8 ** (t - 4) if t < 9 else base / 2 * (1 + math.cos(PI * (t - 9) / 8))


SCHEDULES: dict[str, tuple[Callable[[Any], Any], Rate]] = {
    "LambdaLR": (lambda o: L.LambdaLR(o, lambda t: 1 / (1 + t)), lambda b, t: b / (1 + t)),
    "MultiplicativeLR": (lambda o: L.MultiplicativeLR(o, lambda t: 0.95), lambda b, t: b * 0.95**t),
    "StepLR": (lambda o: L.StepLR(o, 3, 0.5), lambda b, t: b * 0.5 ** (t // 3)),
    "MultiStepLR": (
        lambda o: L.MultiStepLR(o, [2, 5, 5, 9], 0.5),
        lambda b, t: b * 0.5 ** sum(t >= m for m in (2, 5, 5, 9)),
    ),
    "ConstantLR": (lambda o: L.ConstantLR(o, 0.25, 4), lambda b, t: b * (0.25 if t < 4 else 1)),
    "LinearLR": (lambda o: L.LinearLR(o, 0.2, 0.9, 6), lambda b, t: b * (0.2 + 0.7 * min(t, 6) / 6)),
    "ExponentialLR": (lambda o: L.ExponentialLR(o, 0.9), lambda b, t: b * 0.9**t),
    "PolynomialLR": (lambda o: L.PolynomialLR(o, 7, 1.5), lambda b, t: b * (1 - min(t, 7) / 7) ** 1.5),
    "CosineAnnealingLR": (
        lambda o: L.CosineAnnealingLR(o, 5, 0.01),
        lambda b, t: 0.01 + (b - 0.01) / 2 * (1 + math.cos(PI * t / 5)),
    ),
    "CosineAnnealingWarmRestarts": (
        lambda o: L.CosineAnnealingWarmRestarts(o, 3, 2, 0.01),
        lambda b, t: 0.01 + (b - 0.01) / 2 * (1 + math.cos(PI * restarts(t, 3, 2))),
    ),
    "CyclicLR": (
        lambda o: L.CyclicLR(o, 0.01, 0.2, 4, 3),
        lambda b, t: 0.01 + 0.19 * triangle(t, 4, 3)[1],
    ),
    "CyclicLR, half as high": (
        lambda o: L.CyclicLR(o, 0.01, 0.2, 4, mode="triangular2"),
        lambda b, t: 0.01 + 0.19 * triangle(t, 4, 4)[1] / 2 ** (triangle(t, 4, 4)[0] - 1),
    ),
    "CyclicLR, exponential": (
        lambda o: L.CyclicLR(o, 0.01, 0.2, 2, mode="exp_range", gamma=0.9, cycle_momentum=False),
        lambda b, t: 0.01 + 0.19 * triangle(t, 2, 2)[1] * 0.9**t,
    ),
    "OneCycleLR": (lambda o: L.OneCycleLR(o, 0.5, 30), one_cycle),
    "OneCycleLR, three phases": (
        lambda o: L.OneCycleLR(
            o,
            0.5,
            epochs=5,
            steps_per_epoch=6,
            pct_start=0.4,
            anneal_strategy="linear",
            div_factor=10,
            final_div_factor=100,
            three_phase=True,
        ),
        three_phases,
    ),
    "SequentialLR": (
        lambda o: L.SequentialLR(
            o, [L.LinearLR(o, 0.1, 1, 4), L.ExponentialLR(o, 0.8), L.CosineAnnealingLR(o, 8)], [4, 9]
        ),
        after,
    ),
    "ChainedScheduler": (
        lambda o: L.ChainedScheduler([L.ConstantLR(o, 0.5, 3), L.ExponentialLR(o, 0.9)]),
        lambda b, t: b * (0.5 if t < 3 else 1) * 0.9**t,
    ),
    "SWALR": (
        lambda o: torch.optim.swa_utils.SWALR(o, 0.05, anneal_epochs=4),
        lambda b, t: b + (0.05 - b) / 2 * (1 - math.cos(PI * min(t, 4) / 4)),
    ),
}
EACH = pytest.mark.parametrize("name", SCHEDULES)


def epoch(optimizer: Any, scheduler: Any) -> None:
    optimizer.step()
    scheduler.step()


@EACH
def test_rates_are_those_of_the_formula(name: str) -> None:
    make, rate = SCHEDULES[name]
    optimizer = optimizer_of()
    scheduler = make(optimizer)
    for t in range(EPOCHS):
        want = [rate(b, t) for b in BASE]
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(want, rel=1e-12, abs=1e-12)
        assert scheduler.get_last_lr() == [g["lr"] for g in optimizer.param_groups]
        epoch(optimizer, scheduler)


@EACH
def test_a_loaded_state_goes_on_as_the_other(name: str) -> None:
    make, rate = SCHEDULES[name]
    optimizer, other = optimizer_of(), optimizer_of()
    scheduler, copy = make(optimizer), make(other)
    for _ in range(6):
        epoch(optimizer, scheduler)
    other.load_state_dict(optimizer.state_dict())
    copy.load_state_dict(pickle.loads(pickle.dumps(scheduler.state_dict())))
    other.step()
    for t in range(6, EPOCHS):
        assert [g["lr"] for g in other.param_groups] == pytest.approx([rate(b, t) for b in BASE], rel=1e-12)
        epoch(other, copy)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_the_momentum_goes_against_the_rate(kind: str) -> None:
    optimizer = optimizer_of(kind)
    scheduler = L.CyclicLR(optimizer, 0.01, 0.2, 4, base_momentum=0.7, max_momentum=0.9)
    for t in range(10):
        group = optimizer.param_groups[0]
        momentum = group["momentum"] if kind == "SGD" else group["betas"][0]
        assert momentum == pytest.approx(0.9 - 0.2 * triangle(t, 4, 4)[1], rel=1e-12)
        epoch(optimizer, scheduler)


def test_a_rate_that_is_a_tensor_is_changed_in_place() -> None:
    rate = torch.tensor(0.5, dtype=torch.float64)
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=rate)
    scheduler = L.ExponentialLR(optimizer, 0.5)
    epoch(optimizer, scheduler)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25
    last = scheduler.get_last_lr()[0]
    epoch(optimizer, scheduler)
    assert last.item() == 0.25


def test_the_rate_falls_when_nothing_gets_better() -> None:
    optimizer = optimizer_of()
    scheduler = L.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, cooldown=1, min_lr=[0.04, 0])
    seen = []
    for loss in (1.0, 0.5, 0.5, torch.tensor(0.5), 0.6, 0.7, 0.7, 0.4, 0.4, 0.4, 0.4, 0.4):
        scheduler.step(loss)
        seen.append(scheduler.get_last_lr()[0])
    assert seen == [0.1] * 3 + [0.05] * 3 + [0.04] * 6
    assert optimizer.param_groups[1]["lr"] == 0.5 / 8
    rising = L.ReduceLROnPlateau(optimizer_of(), "max", patience=0, threshold=0.1, threshold_mode="abs")
    for score in (1.0, 1.05):
        rising.step(score)
    assert rising.get_last_lr()[0] == pytest.approx(0.01)
    other = L.ReduceLROnPlateau(optimizer_of())
    other.load_state_dict(rising.state_dict())
    assert (other.best, other.mode, other.last_epoch) == (1.0, "max", 2)


def test_the_order_of_steps_is_watched() -> None:
    optimizer = optimizer_of()
    scheduler = L.StepLR(optimizer, 1)
    with pytest.warns(
        UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`"
    ):
        scheduler.step()
    optimizer = optimizer_of()
    scheduler = L.StepLR(optimizer, 1)
    optimizer.step = lambda: None
    with pytest.warns(UserWarning, match=r"`optimizer.step\(\)` has been overridden"):
        scheduler.step()
    with pytest.warns(UserWarning, match=r"please use `get_last_lr\(\)`"):
        scheduler.get_lr()
    with pytest.warns(UserWarning, match="The epoch parameter in"):
        scheduler.step(5)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.1 * 0.1**5)


def test_training_is_resumed() -> None:
    groups = [{"params": [torch.ones(1, requires_grad=True)], "lr": 0.025, "initial_lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    scheduler = L.StepLR(optimizer, 2, 0.5, last_epoch=4)
    assert scheduler.last_epoch == 5
    epoch(optimizer, scheduler)
    assert optimizer.param_groups[0]["lr"] == 0.0125


WRONG: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda o: L.StepLR(3, 1), TypeError, "int is not an Optimizer"),
    (lambda o: L.LambdaLR(o, [abs]), ValueError, "Expected 2 lr_lambdas, but got 1"),
    (lambda o: L.MultiplicativeLR(o, 3), TypeError, "lr_lambda should be a function, but got int"),
    (
        lambda o: L.ConstantLR(o, 1.5),
        ValueError,
        "Constant multiplicative factor expected to be between 0 and 1.",
    ),
    (
        lambda o: L.LinearLR(o, 0),
        ValueError,
        "Starting multiplicative factor expected to be greater than 0 and less or equal to 1.",
    ),
    (
        lambda o: L.LinearLR(o, end_factor=2),
        ValueError,
        "Ending multiplicative factor expected to be between 0 and 1.",
    ),
    (lambda o: L.CosineAnnealingWarmRestarts(o, 0), ValueError, "Expected positive integer T_0, but got 0"),
    (
        lambda o: L.CyclicLR(o, [0.1], 1),
        ValueError,
        "base_lr must have the same length as optimizer.param_groups. base_lr has 1 values, param_groups has 2.",
    ),
    (lambda o: L.CyclicLR(o, 0.1, 1, mode="x"), ValueError, "mode is invalid and scale_fn is None"),
    (
        lambda o: L.OneCycleLR(o, 1),
        ValueError,
        "You must define either total_steps OR (epochs AND steps_per_epoch)",
    ),
    (
        lambda o: L.OneCycleLR(o, 1, 5, pct_start=2.0),
        ValueError,
        "Expected float between 0 and 1 pct_start, but got 2.0",
    ),
    (lambda o: L.ReduceLROnPlateau(o, "mid"), ValueError, "mode mid is unknown!"),
    (lambda o: L.ReduceLROnPlateau(o, factor=1.0), ValueError, "Factor should be < 1.0."),
    (
        lambda o: L.SequentialLR(o, [], []),
        ValueError,
        "SequentialLR expects at least one scheduler, but got no scheduler.",
    ),
    (
        lambda o: L.ChainedScheduler([L.ReduceLROnPlateau(o)]),
        ValueError,
        "ChainedScheduler does not support `ReduceLROnPlateau` scheduler as it requires additional kwargs to be "
        "specified when calling `step`, but got one at index 0 in the given schedulers sequence.",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), WRONG)
def test_wrong_arguments_are_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make(optimizer_of())


def test_one_cycle_ends() -> None:
    optimizer = optimizer_of()
    scheduler = L.OneCycleLR(optimizer, 1.0, 3)
    for _ in range(3):
        epoch(optimizer, scheduler)
    with pytest.raises(ValueError, match=r"Tried to step 4 times. The specified number of total steps is 3"):
        scheduler.step()
