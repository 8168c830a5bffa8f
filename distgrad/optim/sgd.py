"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from typing import Any, ClassVar

from distgrad.ops.base import Tensor
from distgrad.ops.making import zeros_like
from distgrad.optim.buckets import Entry, Hyperparameters
from distgrad.optim.optimizer import Group
from distgrad.optim.stepping import Stepper, decaying, expect, expect_fused, expect_lr


class SGD(Stepper):
    """p ← p − lr·b with b ← momentum·b + (1 − dampening)·g, where b is g at first; without momentum b is g.

    Args:
        params: what to change.
        lr: the learning rate.
        momentum, dampening: see above.
        weight_decay: adds weight_decay·p to the gradient.
        nesterov: p ← p − lr·(g + momentum·b).
        maximize: go up, not down.
        foreach, fused: taken as torch takes them; a step is one program anyway.
        differentiable: record the step for autograd.
    """

    rule = "sgd"
    unmade = "momentum_buffer"
    later: ClassVar[dict[str, Any]] = {
        "nesterov": False,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": False,
    }
    scalars = ()

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: Any = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        expect_lr(lr)
        expect(momentum >= 0.0, f"Invalid momentum value: {momentum}")
        expect(weight_decay >= 0.0, f"Invalid weight_decay value: {weight_decay}")
        expect(
            not nesterov or (momentum > 0 and dampening == 0),
            "Nesterov momentum requires a momentum and zero dampening",
        )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)
        expect_fused(fused, foreach, differentiable)

    def _slots(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _begin(self, p: Tensor, group: Group) -> dict[str, Any]:
        return {slot: zeros_like(p) for slot in self._slots(group)}

    def _moment(self, entry: Entry, group: Group) -> bool:
        """Whether this is the first step, for which there is no buffer yet."""
        return entry.first

    def _check_state(self, group: Group, state: dict[str, Any]) -> None:
        pass

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Hyperparameters:
        momentum = group["momentum"]
        options = decaying(group, momentum != 0 and "momentum", group["nesterov"] and "nesterov")
        kept, fresh = (0.0, 1.0) if moment else (momentum, 1 - group["dampening"])
        return Hyperparameters(options, [group["lr"], group["weight_decay"], momentum, kept, fresh])
