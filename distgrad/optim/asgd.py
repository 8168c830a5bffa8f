"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from distgrad.ops.base import Tensor
from distgrad.ops.making import zeros_like
from distgrad.optim.buckets import Entry, Hyperparameters, number_of, put_number
from distgrad.optim.optimizer import Group, scalar_tensor
from distgrad.optim.stepping import (
    Stepper,
    decaying,
    expect,
    expect_lr,
)


class ASGD(Stepper):
    """p ← (1 − λη)·p − η·g, and the average of p in `state[p]["ax"]` (Polyak and Juditsky, 1992).

    After step t, η = lr / (1 + λ·lr·t)^alpha; the average takes in p with weight 1 / max(1, t − t0).

    Args:
        params: what to change.
        lr, lambd, alpha, t0: see above; `lambd` is λ.
        weight_decay: adds weight_decay·p to the gradient.
        foreach, maximize, differentiable, capturable: as in `Adam`.
    """

    rule = "asgd"
    scalars = ("step", "eta", "mu")
    capturable_words = "params, mus, etas, and state_steps"

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ):
        expect_lr(lr)
        expect(weight_decay >= 0.0, f"Invalid weight_decay value: {weight_decay}")
        defaults = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _slots(self, group: Group) -> tuple[str, ...]:
        return ("ax",)

    def _begin(self, p: Tensor, group: Group) -> dict[str, Any]:
        lr = group["lr"]
        eta = scalar_tensor(lr.item() if isinstance(lr, Tensor) else lr)
        return {"step": scalar_tensor(0), "eta": eta, "mu": scalar_tensor(1), "ax": zeros_like(p)}

    def _moment(self, entry: Entry, group: Group) -> Any:
        """η and μ of this step; the state then holds those of the next."""
        state = entry.state
        eta, mu, step = number_of(state["eta"]), number_of(state["mu"]), self._count(state)
        lr, lambd = group["lr"], group["lambd"]
        following = lr / ((1 + lambd * lr * step) ** group["alpha"])
        put_number(state["eta"], following.item() if isinstance(following, Tensor) else following)
        put_number(state["mu"], 1 / max(1, step - group["t0"]))
        return eta, mu

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Hyperparameters:
        eta, mu = moment
        numbers = [eta, 1 - group["lambd"] * eta, mu, group["weight_decay"]]
        return Hyperparameters(decaying(group, mu != 1 and "averaged"), numbers)
