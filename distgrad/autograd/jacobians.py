"""What `gradcheck` compares: central differences, rows by backward, columns by forward mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from distgrad import session
from distgrad.autograd.drivers import grad
from distgrad.autograd.forward_ad import dual_level, make_dual, unpack_dual
from distgrad.autograd.gradcheck_messages import FAILED_NONDETERMINISM
from distgrad.dtype import float64
from distgrad.ops.compare import allclose
from distgrad.ops.joining import stack
from distgrad.ops.making import zeros_like
from distgrad.record import no_grad
from distgrad.tensor import Tensor

Tensors = tuple[Tensor, ...]


class GradcheckError(RuntimeError):
    """What `gradcheck` and `gradgradcheck` raise where a gradient is wrong."""


class Check(NamedTuple):
    """What is checked and how closely."""

    func: Callable[..., Any]
    inputs: tuple[Any, ...]
    eps: float
    atol: float
    rtol: float
    nondet_tol: float
    check_grad_dtypes: bool

    @property
    def tracked(self) -> Tensors:
        """The inputs that require grad."""
        return tuple(x for x in self.inputs if isinstance(x, Tensor) and x.requires_grad)

    def run(self) -> tuple[Any, ...]:
        """The outputs, as a tuple."""
        return as_tuple(self.func(*self.inputs))

    def close(self, a: Tensor, b: Tensor, atol: float) -> bool:
        """Whether both are equal within the tolerances."""
        return allclose(a.to(float64), b.to(float64), self.rtol, atol)


def as_tuple(given: Any) -> tuple[Any, ...]:
    """What was given, as a tuple."""
    return tuple(given) if isinstance(given, (tuple, list)) else (given,)


def differentiable(outputs: Any) -> Tensors:
    """Those of the outputs that require grad."""
    return tuple(out for out in as_tuple(outputs) if out.requires_grad)


# Finite differences.
def difference(check: Check, x: Tensor, by: Tensor, size: float) -> list[Tensor]:
    """(f(x + by) - f(x - by)) / (2 size) for all outputs, flat. `x` is changed in place, as closures may use it."""
    before, data = x.detach().clone(), x.data
    try:
        with no_grad():
            data.copy_(before - by)
        low = check.run()
        with no_grad():
            data.copy_(before + by)
        high = check.run()
    finally:
        with no_grad():
            data.copy_(before)
    for one, other in zip(low, high, strict=True):
        _check_alike(one, other, check.eps)
    pairs = [
        (a, b) if a.is_floating_point() else (a.double(), b.double()) for a, b in zip(low, high, strict=True)
    ]
    found = [((b - a).detach() / (2 * size)).reshape(-1) for a, b in pairs]
    session.end_pass()  # so that many of these are cut where the next one has the same plan
    return found


def _check_alike(one: Tensor, other: Tensor, eps: float) -> None:
    for what, a, b in (("shape", one.shape, other.shape), ("dtype", one.dtype, other.dtype)):
        if a != b:
            raise AssertionError(
                f"Expected `func` to return outputs with the same {what} when inputs are perturbed by {eps}, but "
                f"got: {what}s {a} and {b}."
            )


def numerical_jacobians(check: Check) -> list[list[Tensor]]:
    """For each tracked input and each output the transposed Jacobian by central differences."""
    found = []
    for x in check.tracked:
        columns = [difference(check, x, unit * check.eps, check.eps) for unit in units(x)]
        found.append(stacked(columns, x, [out.numel() for out in check.run()] if not columns else []))
    return found


def units(x: Tensor) -> list[Tensor]:
    """Like `x`, zero but for a single one, for each element."""
    found = []
    for j in range(x.numel()):
        unit = zeros_like(x.detach()).reshape(-1)
        unit[j] = 1
        found.append(unit.view(x.shape))
    return found


def stacked(columns: list[list[Tensor]], x: Tensor, sizes: list[int]) -> list[Tensor]:
    """The columns of each output, one below the other; `sizes` are the outputs' where `x` has no elements."""
    if not columns:
        return [x.detach().new_zeros((0, n)) for n in sizes]
    return [stack(list(one)) for one in zip(*columns, strict=True)]


# Backward.
def rows(check: Check, out: Tensor, vectors: Sequence[Tensor]) -> list[Tensor]:
    """For each tracked input Jᵀv for these v, side by side; torch's errors about their sizes, dtypes and repetition."""
    tracked = check.tracked
    first, second = (_pulled(out, tracked, vectors) for _ in range(2))
    sizes = all(g is None or g.shape == x.shape for gs in first for g, x in zip(gs, tracked, strict=True))
    dtypes = all(g is None or g.dtype is x.dtype for gs in first for g, x in zip(gs, tracked, strict=True))
    if check.check_grad_dtypes and not dtypes:
        raise GradcheckError("Gradient has dtype mismatch")
    if not sizes:
        raise GradcheckError("Analytical gradient has incorrect size")
    made = [_beside(first, tracked, i, len(vectors)) for i in range(len(tracked))]
    again = [_beside(second, tracked, i, len(vectors)) for i in range(len(tracked))]
    if any(
        a.numel() and float((a - b).abs().max()) > check.nondet_tol for a, b in zip(made, again, strict=True)
    ):
        raise GradcheckError(FAILED_NONDETERMINISM.format(check.nondet_tol))
    return made


def _pulled(out: Tensor, tracked: Tensors, vectors: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    return [grad(out, tracked, v, retain_graph=True, allow_unused=True) for v in vectors]


def _beside(found: Sequence[tuple[Any, ...]], tracked: Tensors, i: int, count: int) -> Tensor:
    flat = [(zeros_like(tracked[i]) if gs[i] is None else gs[i]).detach().reshape(-1) for gs in found]
    return stack(flat, 1) if count else tracked[i].detach().new_zeros((tracked[i].numel(), 0))


# Forward mode.
def pushed(check: Check, i: int, by: Tensor) -> list[Tensor]:
    """J by, for tracked input `i`, of all real outputs, flat."""
    seen = -1
    with dual_level():
        duals = []
        for x in check.inputs:
            if isinstance(x, Tensor) and x.requires_grad:
                seen += 1
                tangent = by if seen == i else zeros_like(x.detach())
                x = make_dual(x.detach(), tangent.clone())
            duals.append(x)
        outs = [out for out in as_tuple(check.func(*duals)) if out.is_floating_point()]
        pairs = [unpack_dual(out) for out in outs]
        return [(zeros_like(p) if t is None else t).detach().reshape(-1) for p, t in pairs]
