"""Adafactor and Muon, which look at a parameter as a matrix; and what stands in place of SparseAdam.

Their steps are ops, not one kernel: they have sums over rows and columns, or products, in their midst. Nothing is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from distgrad.dtype import finfo
from distgrad.ops.base import Tensor
from distgrad.ops.making import zeros_like
from distgrad.ops.products import matmul
from distgrad.optim.buckets import number_of, put_number
from distgrad.optim.optimizer import Group, Optimizer, scalar_tensor
from distgrad.optim.stepping import expect
from distgrad.record import enable_grad, no_grad

NO_SPARSE = (
    "SparseAdam changes only the rows for which a sparse gradient has values, and distgrad has no sparse gradients: "
    "use Adam"
)


class SparseAdam:
    """Not there: distgrad has no sparse gradients."""

    def __init__(self, *args: Any, **kwargs: Any):
        raise NotImplementedError(NO_SPARSE)


class _ByParameter(Optimizer):
    """An optimizer whose step is told for one parameter."""

    @no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient, once. Gives what `closure` gave."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._change(p, p.grad, group, self.state[p])
        return loss

    def _change(self, p: Tensor, g: Tensor, group: Group, state: dict[str, Any]) -> None:
        raise NotImplementedError


def _number(x: Any) -> Any:
    return x.item() if isinstance(x, Tensor) else x


def _expect_rate(lr: Any) -> None:
    expect(not isinstance(lr, Tensor) or lr.numel() == 1, "Tensor lr must be 1-element")
    expect(lr >= 0.0, f"Learning rate should be >= 0 but is: {lr}")


class Adafactor(_ByParameter):
    """Adafactor (Shazeer and Stern, 2018): of the averages of g² of a matrix only those of rows and columns are kept.

    With averages r of rows and c of columns, v = r c / mean(r) stands for them; u = g / √v is clipped to a root mean
    square of d, and p ← p − max(ε₂, rms(p)) · min(lr, 1/√t) · u. An average keeps 1 − t^beta2_decay.

    Args:
        params: what to change.
        lr: the largest relative step.
        beta2_decay: see above.
        eps: ε₁, the square of which is the least v (None: of the dtype), and ε₂.
        d: the clipping threshold.
        weight_decay: p shrinks by lr·weight_decay at each step.
        foreach: taken as torch takes it.
        maximize: go up, not down.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ):
        _expect_rate(lr)
        expect(beta2_decay <= 0.0, f"beta2_decay should be <= 0 but is: {beta2_decay}")
        expect(eps[0] is None or eps[0] >= 0.0, f"epsilon1 should be >= 0 but is: {eps[0]}")
        expect(eps[1] >= 0.0, f"epsilon2 should be >= 0 but is: {eps[1]}")
        expect(d >= 1.0, f"Clipping threshold d should be >= 1 but is: {d}")
        expect(weight_decay >= 0.0, f"weight_decay should be >= 0 but is: {weight_decay}")
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("foreach", None)

    def _change(self, p: Tensor, g: Tensor, group: Group, state: dict[str, Any]) -> None:
        g = -g if group["maximize"] else g
        if not state:
            state["step"] = scalar_tensor(0)
            if g.dim() > 1:
                state["row_var"] = zeros_like(g.narrow(-1, 0, 1))
                state["col_var"] = zeros_like(g.narrow(-2, 0, 1))
            else:
                state["variance"] = zeros_like(g)
        step = number_of(state["step"]) + 1
        put_number(state["step"], step)
        lr, (eps1, eps2), fresh = _number(group["lr"]), group["eps"], step ** group["beta2_decay"]
        least = finfo(p.dtype).eps if eps1 is None else eps1
        size = (p.norm(2) / math.sqrt(p.numel())).clamp(min=eps2) * min(lr, step**-0.5)
        if group["weight_decay"] != 0:
            p.mul_(1 - lr * group["weight_decay"])
        square = g * g
        if g.dim() > 1:
            rows = state["row_var"].lerp_(square.mean(-1, keepdim=True), fresh)
            columns = state["col_var"].lerp_(square.mean(-2, keepdim=True), fresh)
            v = matmul(rows, columns) / rows.mean(-2, keepdim=True).clamp(min=least)
        else:
            v = state["variance"].lerp_(square, fresh)
        u = v.clamp(min=least * least).rsqrt() * g
        clipped = (u.norm(2) / (math.sqrt(u.numel()) * group["d"])).clamp(min=1.0)
        p.sub_(u * (size / clipped))


class Muon(_ByParameter):
    """Muon (Jordan, 2024): momentum, made nearly orthogonal by steps of Newton and Schulz, for matrices.

    With m ← m + (g − m)(1 − momentum), u is m, or with Nesterov's momentum g + (m − g)·momentum, over its norm; at
    each of `ns_steps` steps u ← a·u + (b·A + c·A²)·u, A = u uᵀ. p ← p·(1 − lr·weight_decay) − lr'·u. torch works in
    bfloat16 here, distgrad in the parameter's dtype.

    Args:
        params: matrices.
        lr: the learning rate.
        weight_decay, momentum, nesterov, ns_steps: see above.
        ns_coefficients: a, b and c.
        eps: the least norm to divide by.
        adjust_lr_fn: lr' of a matrix of A rows and B columns: lr·√max(1, A / B) ("original", None) or
            0.2·lr·√max(A, B) ("match_rms_adamw").
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ):
        _expect_rate(lr)
        expect(momentum >= 0.0, f"momentum should be >= 0 but is: {momentum}")
        expect(weight_decay >= 0.0, f"weight decay should be >= 0 but is: {weight_decay}")
        expect(
            adjust_lr_fn in (None, "original", "match_rms_adamw"),
            f"Adjust learning rate function {adjust_lr_fn} is not supported",
        )
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for p in group["params"]:
                expect(
                    p.ndim == 2,
                    f"Muon only supports 2D parameters whereas we found a parameter with size: {p.shape}",
                )

    def _change(self, p: Tensor, g: Tensor, group: Group, state: dict[str, Any]) -> None:
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = zeros_like(g)
        lr, momentum = _number(group["lr"]), group["momentum"]
        buffer = state["momentum_buffer"].lerp_(g, 1 - momentum)
        update = _orthogonal(g.lerp(buffer, momentum) if group["nesterov"] else buffer, group)
        rows, columns = p.shape
        ratio = math.sqrt(max(1, rows / columns))
        if group["adjust_lr_fn"] == "match_rms_adamw":
            ratio = 0.2 * math.sqrt(max(rows, columns))
        p.mul_(1 - lr * group["weight_decay"])
        p.sub_(update, alpha=lr * ratio)


def _orthogonal(u: Tensor, group: Group) -> Tensor:
    """Nearly the orthogonal factor of `u`, with singular values about 1."""
    expect(group["ns_steps"] < 100, "Number of steps must be less than 100 for computational efficiency")
    expect(len(group["ns_coefficients"]) == 3, "Coefficients must be a tuple of exactly 3 values")
    a, b, c = group["ns_coefficients"]
    tall = u.shape[0] > u.shape[1]
    u = u.t() if tall else u
    u = u / u.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = matmul(u, u.t())
        u = u * a + matmul(gram * b + matmul(gram, gram) * c, u)
    return u.t() if tall else u
