"""Adam and its relatives: averages of the gradient and of its square."""

from __future__ import annotations

from typing import Any, ClassVar

from distgrad.ops.base import Tensor
from distgrad.optim.buckets import Hyperparameters
from distgrad.optim.optimizer import Group
from distgrad.optim.stepping import Stepper, decaying, expect, expect_fused, expect_lr


def expect_betas(betas: Any, eps: float) -> None:
    """torch's errors for what Adam and its relatives have in common."""
    expect(eps >= 0.0, f"Invalid epsilon value: {eps}")
    for i in range(2):
        expect(0.0 <= betas[i] < 1.0, f"Invalid beta parameter at index {i}: {betas[i]}")


def _expect_tensors(lr: Any, betas: Any, foreach: Any, capturable: bool) -> None:
    """torch's errors for tensors in place of numbers."""
    for name, x in (("lr", lr), ("betas[0]", betas[0]), ("betas[1]", betas[1])):
        if isinstance(x, Tensor):
            expect(
                capturable or not foreach,
                f"{name} as a Tensor is not supported for capturable=False and foreach=True",
            )
            expect(x.numel() == 1, f"Tensor {name} must be 1-element")


class Adam(Stepper):
    """Adam (Kingma and Ba, 2014): p ← p − lr · m̂ / (√v̂ + ε), with averages m of g and v of g² and their bias corrected.

    Args:
        params: what to change.
        lr: the learning rate.
        betas: what the averages of g and of g² keep at each step.
        eps: ε.
        weight_decay: adds weight_decay·p to the gradient.
        amsgrad: divide by the largest v so far (Reddi et al., 2018).
        foreach, fused: taken as torch takes them; a step is one program anyway.
        maximize: go up, not down.
        capturable: not on a CPU, as in torch.
        differentiable: record the step for autograd.
        decoupled_weight_decay: shrink p by lr·weight_decay instead (AdamW; Loshchilov and Hutter, 2017).
    """

    rule = "adam"
    later: ClassVar[dict[str, Any]] = {
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "decoupled_weight_decay": False,
        "fused": None,
    }

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ):
        _expect_tensors(lr, (0.0, 0.0), foreach, capturable)
        expect_lr(lr)
        expect_betas(betas, eps)
        expect(weight_decay >= 0.0, f"Invalid weight_decay value: {weight_decay}")
        expect(
            all(isinstance(b, float) for b in betas[:2]) or all(isinstance(b, Tensor) for b in betas[:2]),
            "betas must be either both floats or both Tensors",
        )
        _expect_tensors(0.0, betas, foreach, capturable)
        betas = tuple(b.squeeze() if isinstance(b, Tensor) and b.dim() else b for b in betas)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)
        expect_fused(fused, foreach, differentiable)

    def _slots(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if group["amsgrad"] else 2]

    def _check_state(self, group: Group, state: dict[str, Any]) -> None:
        if group["differentiable"] and state["step"].requires_grad:
            raise RuntimeError("`requires_grad` is not supported for `step` in differentiable mode")
        if group["foreach"] and isinstance(group["lr"], Tensor) and not group["capturable"]:
            raise RuntimeError("lr as a Tensor is not supported for capturable=False and foreach=True")
        super()._check_state(group, state)

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Hyperparameters:
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        size = lr / (1 - beta1**moment)
        root = (1 - beta2**moment) ** 0.5
        numbers = [size, root, 1 - beta1, beta2, 1 - beta2, group["eps"], decay, 1 - lr * decay]
        return Hyperparameters(decaying(group, group["amsgrad"] and "amsgrad"), numbers)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2017): p shrinks by lr·weight_decay at each step."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
