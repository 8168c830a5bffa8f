"""NAdam, RAdam and Adamax."""

from __future__ import annotations

from typing import Any, ClassVar

from distgrad.ops.base import Tensor
from distgrad.ops.making import zeros_like
from distgrad.optim.adam import expect_betas
from distgrad.optim.buckets import Entry, Hyperparameters, number_of, put_number
from distgrad.optim.optimizer import Group, scalar_tensor
from distgrad.optim.stepping import (
    Stepper,
    decaying,
    expect,
    expect_lr,
)

LATER: dict[str, Any] = {**Stepper.later, "decoupled_weight_decay": False}


class NAdam(Stepper):
    """Adam with Nesterov's momentum (Dozat, 2016).

    p ← p − lr · (μ' m / (1 − Πμ') + (1 − μ) g / (1 − Πμ)) / (√v̂ + ε), where μ = β₁ (1 − ½ 0.96^(t·momentum_decay)) is
    of this step, μ' of the next, and Π their product so far.

    Args:
        params: what to change.
        lr: the learning rate.
        betas, eps, weight_decay, decoupled_weight_decay: as in `Adam`.
        momentum_decay: see above.
        foreach, maximize, capturable, differentiable: as in `Adam`.
    """

    rule = "nadam"
    later: ClassVar[dict[str, Any]] = LATER
    scalars = ("step", "mu_product")
    capturable_words = "params, mu_products and state_steps"

    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ):
        expect_lr(lr)
        expect_betas(betas, eps)
        expect(weight_decay >= 0.0, f"Invalid weight_decay value: {weight_decay}")
        expect(momentum_decay >= 0.0, f"Invalid momentum_decay value: {momentum_decay}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _slots(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _begin(self, p: Tensor, group: Group) -> dict[str, Any]:
        return {
            "step": scalar_tensor(0),
            "mu_product": scalar_tensor(1),
            "exp_avg": zeros_like(p),
            "exp_avg_sq": zeros_like(p),
        }

    def _moment(self, entry: Entry, group: Group) -> Any:
        """The number of the step, and the product of all μ up to it: as in torch a tensor of the default dtype."""
        step, product = self._count(entry.state), entry.state["mu_product"]
        put_number(product, number_of(product) * float(product.dtype.numpy.type(_mu(group, step))))
        return step, number_of(product)

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Hyperparameters:
        (step, product), lr, decay = moment, group["lr"], group["weight_decay"]
        beta1, beta2 = group["betas"]
        mu, following = _mu(group, step), _mu(group, step + 1)
        a = lr * (1.0 - mu) / (1.0 - product)
        b = lr * following / (1.0 - product * following)
        shrink = 1 - lr * decay
        numbers = [a, b, 1 - beta2**step, 1 - beta1, beta2, 1 - beta2, group["eps"], decay, shrink]
        return Hyperparameters(decaying(group), numbers)


def _mu(group: Group, step: float) -> Any:
    return group["betas"][0] * (1.0 - 0.5 * (0.96 ** (step * group["momentum_decay"])))


class RAdam(Stepper):
    """Adam whose step is that of plain momentum until the variance of its size can be told (Liu et al., 2019).

    Args:
        params: what to change.
        lr: the learning rate.
        betas, eps, weight_decay, decoupled_weight_decay: as in `Adam`.
        foreach, maximize, capturable, differentiable: as in `Adam`.
    """

    rule = "radam"
    later: ClassVar[dict[str, Any]] = LATER

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ):
        expect_lr(lr)
        expect_betas(betas, eps)
        expect(weight_decay >= 0.0, f"Invalid weight_decay value: {weight_decay}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _slots(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Hyperparameters:
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        correction = 1 - beta2**moment
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * moment * beta2**moment / correction
        size = lr / (1 - beta1**moment)
        if length > 5.0:
            ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            size = size * (ratio * correction) ** 0.5
        numbers = [size, 1 - beta1, beta2, 1 - beta2, group["eps"], decay, 1 - lr * decay]
        return Hyperparameters(decaying(group, length > 5.0 and "rectified"), numbers)


class Adamax(Stepper):
    """Adam with the largest gradient, shrunk by β₂ at each step, in place of √v̂ (Kingma and Ba, 2014, section 7).

    Args:
        params: what to change.
        lr: the learning rate.
        betas, eps, weight_decay: as in `Adam`.
        foreach, maximize, capturable, differentiable: as in `Adam`.
    """

    rule = "adamax"

    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ):
        expect_lr(lr)
        expect_betas(betas, eps)
        expect(weight_decay >= 0.0, f"Invalid weight_decay value: {weight_decay}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _slots(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_inf")

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Hyperparameters:
        beta1, beta2 = group["betas"]
        size = group["lr"] / (1 - beta1**moment)
        return Hyperparameters(decaying(group), [size, 1 - beta1, beta2, group["eps"], group["weight_decay"]])
