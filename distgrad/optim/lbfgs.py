"""The limited-memory method of Broyden, Fletcher, Goldfarb and Shanno."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.callsites import call_site
from distgrad.dtype import float64
from distgrad.ops.base import Tensor
from distgrad.ops.inplace import write
from distgrad.ops.joining import cat, stack
from distgrad.ops.making import zeros
from distgrad.optim.line_search import Point, Search
from distgrad.optim.optimizer import Optimizer
from distgrad.optim.stepping import expect_lr
from distgrad.record import enable_grad, no_grad


class LBFGS(Optimizer):
    """L-BFGS (Liu and Nocedal, 1989): the inverse Hessian is told by the last changes of parameters and gradients.

    What the method branches on is read: at most four times in an iteration, each time all at once.

    Args:
        params: what to change; one group.
        lr: the step length, or the first that a line search tries.
        max_iter: iterations in one `step`.
        max_eval: evaluations of the closure in one `step`; 1.25 · max_iter unless given.
        tolerance_grad: ends when no element of the gradient is larger.
        tolerance_change: ends when neither the function nor a parameter changes by more.
        history_size: how many changes are kept.
        line_search_fn: None or "strong_wolfe".
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ):
        expect_lr(lr)
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    @property
    def _params(self) -> list[Tensor]:
        return self.param_groups[0]["params"]

    def _flat_gradient(self) -> Tensor:
        """The gradients end to end; zeros where there is none."""
        parts = [
            zeros(p.numel(), dtype=p.dtype) if p.grad is None else p.grad.reshape(-1) for p in self._params
        ]
        return cat(parts)

    def _move(self, length: float, direction: Tensor) -> None:
        at = 0
        for p in self._params:
            part = direction.narrow(0, at, p.numel())
            p.add_(part.reshape(p.shape), alpha=length)
            at += p.numel()

    @no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:
        """Some iterations. `closure` works the loss and the gradients out anew and gives the loss.

        Returns:
            What `closure` gave first.
        """
        evaluate = enable_grad()(closure)
        group = self.param_groups[0]
        state = self.state[self._params[0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        first = evaluate()
        state["func_evals"] += 1
        gradient = self._flat_gradient()
        loss, steepest = told(first, gradient.abs().max())
        if steepest <= group["tolerance_grad"]:
            return first
        _Run(self, group, state, evaluate).iterate(loss, gradient)
        return first


class _Run:
    """The iterations of one step; what they leave for the next stands in `state`."""

    def __init__(
        self, owner: LBFGS, group: dict[str, Any], state: dict[str, Any], evaluate: Callable[[], Any]
    ):
        self.owner, self.group, self.state, self.evaluate = owner, group, state, evaluate
        lr = group["lr"]
        self.lr = lr.item() if isinstance(lr, Tensor) else lr

    def iterate(self, loss: float, gradient: Tensor) -> None:
        """Go on until the limits or tolerances of the group are reached."""
        group, state = self.group, self.state
        evaluations, smallest = 1, group["tolerance_change"]
        for n in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            direction = self._direction(gradient)
            state["d"], state["prev_flat_grad"], state["prev_loss"] = direction, gradient, loss
            slope, total, largest = told(gradient.dot(direction), gradient.abs().sum(), direction.abs().max())
            first = state["n_iter"] == 1
            state["t"] = t = min(1.0, 1.0 / total) * self.lr if first else self.lr
            if slope > -smallest:
                break
            before = loss
            if group["line_search_fn"] is not None:
                start = Point(0.0, loss, gradient, slope)
                found, used = self._search(start, t, direction, largest, group["max_eval"] - evaluations)
                state["t"] = t = found.t
                loss, gradient = found.f, found.gradient
                self.owner._move(t, direction)
                steepest = told(gradient.abs().max())[0]
            else:
                self.owner._move(t, direction)
                used, steepest = 0, float("inf")
                if n != group["max_iter"]:  # there is no use for the last
                    new, used = self.evaluate(), 1
                    gradient = self.owner._flat_gradient()
                    loss, steepest = told(new, gradient.abs().max())
            evaluations += used
            state["func_evals"] += used
            if n == group["max_iter"] or evaluations >= group["max_eval"]:
                break
            if steepest <= group["tolerance_grad"]:
                break
            if abs(t) * largest <= smallest or abs(loss - before) < smallest:
                break

    def _direction(self, gradient: Tensor) -> Tensor:
        """−H g, where H is the inverse Hessian that the changes tell, by the two loops of Nocedal (1980)."""
        state = self.state
        if state["n_iter"] == 1:
            state["old_dirs"], state["old_stps"], state["ro"], state["H_diag"] = [], [], [], 1
            return gradient.neg()
        ys, ss, ro = state["old_dirs"], state["old_stps"], state["ro"]
        y, s = gradient.sub(state["prev_flat_grad"]), state["d"].mul(state["t"])
        along, square = told(y.dot(s), y.dot(y))
        if along > 1e-10:
            if len(ys) == self.group["history_size"]:
                del ys[0], ss[0], ro[0]
            ys.append(y)
            ss.append(s)
            ro.append(1.0 / along)
            state["H_diag"] = along / square
        state.setdefault("al", [None] * self.group["history_size"])
        al = state["al"]
        q = gradient.neg()
        for i in reversed(range(len(ys))):
            al[i] = ss[i].dot(q) * ro[i]
            q = q - ys[i] * al[i]
        q = q * state["H_diag"]
        for i in range(len(ys)):
            q = q + ss[i] * (al[i] - ys[i].dot(q) * ro[i])
        return q

    def _search(
        self, start: Point, t: float, direction: Tensor, largest: float, most: int
    ) -> tuple[Point, int]:
        """The point along the direction that a line search finds, and how often it evaluated."""
        if self.group["line_search_fn"] != "strong_wolfe":
            raise RuntimeError("only 'strong_wolfe' is supported")
        owner = self.owner
        before = [p._value for p in owner._params]

        def at(t: float) -> Point:
            owner._move(t, direction)
            new = self.evaluate()
            gradient = owner._flat_gradient()
            for p, value in zip(owner._params, before, strict=True):
                write(p, value, call_site("LBFGS.step"))
            loss, slope = told(new, gradient.dot(direction))
            return Point(t, loss, gradient, slope)

        search = Search(at, start, largest, most)
        return search.run(t), search.evaluations


def told(*numbers: Any) -> list[float]:
    """Numbers that may be tensors of one element, which are read together."""
    tensors = [x.detach().reshape(()).to(float64) for x in numbers if isinstance(x, Tensor)]
    read = iter(stack(tensors).tolist() if tensors else [])
    return [next(read) if isinstance(x, Tensor) else float(x) for x in numbers]
