"""RMSprop, Adagrad, Adadelta and Rprop: steps sized for each element by the gradients it has had."""

from __future__ import annotations

from typing import Any, ClassVar

from distgrad.ops.base import Tensor
from distgrad.ops.making import full_like, zeros_like
from distgrad.optim.buckets import Hyperparameters
from distgrad.optim.optimizer import Group, scalar_tensor
from distgrad.optim.stepping import Stepper, decaying, expect, expect_fused, expect_lr


class RMSprop(Stepper):
    """p ← p − lr · g / (√v + ε), where v is an average of g² (Hinton, lecture 6e, 2012).

    Args:
        params: what to change.
        lr: the learning rate.
        alpha: what the average keeps at each step.
        eps: ε.
        weight_decay: adds weight_decay·p to the gradient.
        momentum: move by b ← momentum·b + g / (√v + ε).
        centered: subtract the square of the average gradient from v (Graves, 2013).
        capturable, foreach, maximize, differentiable: as in `Adam`.
    """

    rule = "rmsprop"
    later: ClassVar[dict[str, Any]] = {"momentum": 0, "centered": False, **Stepper.later}

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ):
        expect_lr(lr)
        expect(eps >= 0.0, f"Invalid epsilon value: {eps}")
        expect(momentum >= 0.0, f"Invalid momentum value: {momentum}")
        expect(weight_decay >= 0.0, f"Invalid weight_decay value: {weight_decay}")
        expect(alpha >= 0.0, f"Invalid alpha value: {alpha}")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _slots(self, group: Group) -> tuple[str, ...]:
        momentum = ("momentum_buffer",) if group["momentum"] > 0 else ()
        return ("square_avg", *momentum, *(("grad_avg",) if group["centered"] else ()))

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Hyperparameters:
        momentum, alpha = group["momentum"], group["alpha"]
        options = decaying(group, momentum > 0 and "momentum", group["centered"] and "centered")
        numbers = [group["lr"], alpha, 1 - alpha, group["eps"], momentum, group["weight_decay"]]
        return Hyperparameters(options, numbers)


class Adagrad(Stepper):
    """p ← p − lr' · g / (√s + ε), where s is the sum of all g² (Duchi et al., 2011).

    Args:
        params: what to change.
        lr, lr_decay: the learning rate of step t is lr' = lr / (1 + (t − 1)·lr_decay).
        weight_decay: adds weight_decay·p to the gradient.
        initial_accumulator_value: what s is at first.
        eps: ε.
        foreach, maximize, differentiable, fused: as in `Adam`.
    """

    rule = "adagrad"
    later: ClassVar[dict[str, Any]] = {
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "fused": None,
    }

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        expect_lr(lr)
        expect(lr_decay >= 0.0, f"Invalid lr_decay value: {lr_decay}")
        expect(weight_decay >= 0.0, f"Invalid weight_decay value: {weight_decay}")
        expect(
            initial_accumulator_value >= 0.0,
            f"Invalid initial_accumulator_value value: {initial_accumulator_value}",
        )
        expect(eps >= 0.0, f"Invalid epsilon value: {eps}")
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)
        expect_fused(fused, foreach, differentiable)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].update(self._begin(p, group))

    def _slots(self, group: Group) -> tuple[str, ...]:
        return ("sum",)

    def _begin(self, p: Tensor, group: Group) -> dict[str, Any]:
        total = full_like(p, self.defaults["initial_accumulator_value"])
        return {"step": scalar_tensor(0, group["fused"]), "sum": total}

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Hyperparameters:
        lr = group["lr"] / (1 + (moment - 1) * group["lr_decay"])
        return Hyperparameters(decaying(group), [lr, group["eps"], group["weight_decay"]])

    def share_memory(self) -> None:
        """Does nothing: workers do not share tensors by memory."""


class Adadelta(Stepper):
    """p ← p − lr·d, d = √(u + ε) / √(v + ε) · g, with averages v of g² and u of d² (Zeiler, 2012).

    Args:
        params: what to change.
        lr: the learning rate.
        rho: what the averages keep at each step.
        eps: ε.
        weight_decay: adds weight_decay·p to the gradient.
        foreach, capturable, maximize, differentiable: as in `Adam`.
    """

    rule = "adadelta"

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ):
        expect_lr(lr)
        expect(0.0 <= rho <= 1.0, f"Invalid rho value: {rho}")
        expect(eps >= 0.0, f"Invalid epsilon value: {eps}")
        expect(weight_decay >= 0.0, f"Invalid weight_decay value: {weight_decay}")
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _slots(self, group: Group) -> tuple[str, ...]:
        return ("square_avg", "acc_delta")

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Hyperparameters:
        rho = group["rho"]
        return Hyperparameters(
            decaying(group), [group["lr"], rho, 1 - rho, group["eps"], group["weight_decay"]]
        )


class Rprop(Stepper):
    """p ← p − sign(g) · size: an element's size grows while g keeps its sign, and shrinks where it changes.

    Riedmiller and Braun, 1993, for gradients of all data.

    Args:
        params: what to change.
        lr: the sizes at first.
        etas: the factors by which a size shrinks and grows.
        step_sizes: the least and the largest size.
        capturable, foreach, maximize, differentiable: as in `Adam`.
    """

    rule = "rprop"

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ):
        expect_lr(lr)
        expect(0.0 < etas[0] < 1.0 < etas[1], f"Invalid eta values: {etas[0]}, {etas[1]}")
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _slots(self, group: Group) -> tuple[str, ...]:
        return ("prev", "step_size")

    def _begin(self, p: Tensor, group: Group) -> dict[str, Any]:
        lr = group["lr"]
        size = full_like(p, lr.item() if isinstance(lr, Tensor) else lr)
        return {"step": scalar_tensor(0), "prev": zeros_like(p), "step_size": size}

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Hyperparameters:
        return Hyperparameters(decaying(group), [*group["etas"], *group["step_sizes"]])
