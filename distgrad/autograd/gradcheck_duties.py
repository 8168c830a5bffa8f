"""What backward must do beside giving the right values: scale with its input, take undefined ones, be batched."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from distgrad import vmaps
from distgrad.autograd.drivers import grad
from distgrad.autograd.gradcheck_messages import (
    FAILED_BATCHED_FORWARD,
    FAILED_BATCHED_GRAD,
    UNDEFINED_GRAD,
)
from distgrad.autograd.jacobians import (
    Check,
    GradcheckError,
    Tensors,
    differentiable,
    pushed,
)
from distgrad.ops.batching import enter_level, left
from distgrad.ops.compare import allclose
from distgrad.ops.joining import stack
from distgrad.ops.making import zeros_like
from distgrad.ops.random import randn_like
from distgrad.record import BackwardNode
from distgrad.tensor import Tensor

__all__: list[str] = []


# What else backward must do.
def _check_scaled(check: Check, outputs: Tensors, masked: bool) -> None:
    """Gradients of zero give gradients of zero, in the inputs' form."""
    tracked = check.tracked
    found: tuple[Any, ...] = grad(outputs, tracked, [zeros_like(out) for out in outputs], allow_unused=True)
    for g, x in zip(found, tracked, strict=True):
        if g is None:
            continue
        if not (allclose(g, zeros_like(g)) if masked else bool(g.eq(0).all())):
            raise GradcheckError("backward not multiplied by grad_output")
        if g.dtype is not x.dtype:
            raise GradcheckError("grad is incorrect type")
        if g.shape != x.shape:
            raise GradcheckError("grad is incorrect size")


class UndefinedGrad(BackwardNode):
    """Lets no gradient through."""

    __slots__ = ()

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """None."""
        return [None]


def _undefined(out: Tensor) -> Tensor:
    """The output, with an undefined gradient."""
    made = out.detach()
    made._node, made._requires_grad = UndefinedGrad((out._edge,)), True
    return made


def _check_undefined(check: Check, count: int) -> None:
    """Backward copes with outputs whose gradient is undefined: all of them, and one at a time."""
    choices: list[set[int]] = [set(range(count)), *({i} for i in range(count) if count > 1)]
    for chosen in choices:
        outs = [_undefined(out) if i in chosen else out for i, out in enumerate(differentiable(check.run()))]
        try:
            found: tuple[Any, ...] = grad(
                outs, check.tracked, [zeros_like(out) for out in outs], allow_unused=True
            )
        except RuntimeError as error:
            warnings.warn(UNDEFINED_GRAD, stacklevel=3)
            raise GradcheckError(
                'Expected backward function to handle undefined output grads. Please look at "Notes about undefined '
                'output gradients" in "tools/autograd/derivatives.yaml"'
            ) from error
        if any(g is not None and not bool(g.eq(0).all()) for g in found):
            warnings.warn(UNDEFINED_GRAD, stacklevel=3)
            raise GradcheckError(
                "Expected all input grads to be undefined or zero when all output grads are undefined or zero. Please "
                'look at "Notes about undefined output gradients" in "tools/autograd/derivatives.yaml"'
            )


def _check_batched(check: Check, out: Tensor, number: int) -> None:
    """Gradients of a batch are those of its members."""
    vs = [randn_like(out.detach()) for _ in range(2)]
    alone: list[tuple[Any, ...]] = [
        grad(out, check.tracked, v, retain_graph=True, allow_unused=True) for v in vs
    ]
    try:
        batch: tuple[Any, ...] = grad(
            out, check.tracked, stack(vs), retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    except RuntimeError as error:
        raise GradcheckError(
            f"While computing batched gradients, got: {error}\n\n{FAILED_BATCHED_GRAD}"
        ) from error
    for j, (got, *wants) in enumerate(zip(batch, *alone, strict=True)):
        if got is None and all(want is None for want in wants):
            continue
        want = stack(wants)
        if not allclose(got, want):
            raise GradcheckError(
                f"For output {number} and input {j}:\n\n{FAILED_BATCHED_GRAD}\n\nGot:\n{got}\n\nExpected:\n{want}"
            )


def _check_batched_forward(check: Check) -> None:
    """Tangents of a batch are those of its members."""
    for j, x in enumerate(check.tracked):
        tangents = [randn_like(x.detach()) for _ in range(2)]
        alone = [pushed(check, j, by) for by in tangents]
        try:
            with vmaps.running(2) as level:
                each = enter_level(stack(tangents), 0, level.number, level.size)
                batch = [left(made, 0, level) for made in pushed(check, j, each)]
        except RuntimeError as error:
            raise GradcheckError(
                f"While computing batched gradients, got: {error}\n\n{FAILED_BATCHED_FORWARD}"
            ) from error
        for i, (got, *wants) in enumerate(zip(batch, *alone, strict=True)):
            if not allclose(got, want := stack(wants)):
                raise GradcheckError(
                    f"For output {i} and input {j}:\n\n{FAILED_BATCHED_FORWARD}\n\nGot:\n{got}\n\nExpected:\n{want}"
                )
