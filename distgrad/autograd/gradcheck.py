"""Gradients against finite differences, as `torch.autograd.gradcheck` and `gradgradcheck`.

Slow mode compares Jacobians element by element. Fast mode compares vᵀJu for one random u and v, by two runs of the
function and one backward pass. Both leave the inputs as they were.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from distgrad.autograd.drivers import grad
from distgrad.autograd.gradcheck_duties import (
    _check_batched,
    _check_batched_forward,
    _check_scaled,
    _check_undefined,
)
from distgrad.autograd.gradcheck_messages import (
    FAST_FAILED,
    SLOW_AGREES,
)
from distgrad.autograd.jacobians import (
    Check,
    GradcheckError,
    Tensors,
    as_tuple,
    difference,
    differentiable,
    numerical_jacobians,
    pushed,
    rows,
    stacked,
    units,
)
from distgrad.dtype import float64
from distgrad.ops.arithmetic import mul
from distgrad.ops.making import ones_like
from distgrad.ops.random import Generator, rand
from distgrad.tensor import Tensor

__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]


# Comparing.
def _mismatch(analytical: Tensor, numerical: Tensor, i: int, j: int, forward: bool) -> str:
    mode = "computed with forward mode " if forward else ""
    return (
        f"Jacobian {mode}mismatch for output {i} with respect to input {j},\n"
        f"numerical:{numerical}\nanalytical:{analytical}\n"
    )


def _slow(check: Check, outputs: tuple[Any, ...], forward: bool) -> None:
    """All elements of all Jacobians."""
    numerical = numerical_jacobians(check)
    kept = [i for i, out in enumerate(outputs) if out.requires_grad]
    if not kept:
        if any(float(one.ne(0).sum()) > 0 for ones in numerical for one in ones):
            raise GradcheckError("Numerical gradient for function expected to be zero")
        return
    if forward:
        analytical = [_forward_jacobians(check, j, x, outputs) for j, x in enumerate(check.tracked)]
        found = [[by_input[i] for by_input in analytical] for i in kept]
    else:
        found = [rows(check, outputs[i], units(outputs[i])) for i in kept]
    for number, (i, gradients) in enumerate(zip(kept, found, strict=True)):
        for j, a in enumerate(gradients):
            if not check.close(a, numerical[j][i], check.atol):
                raise GradcheckError(_mismatch(a, numerical[j][i], number, j, forward))


def _forward_jacobians(check: Check, j: int, x: Tensor, outputs: tuple[Any, ...]) -> list[Tensor]:
    columns = [pushed(check, j, unit) for unit in units(x)]
    real = stacked(columns, x, [out.numel() for out in outputs if out.is_floating_point()])
    left = iter(real)
    return [next(left) if out.is_floating_point() else ones_like(out) for out in outputs]


def _random_unit(x: Tensor, generator: Generator) -> Tensor:
    made = rand(x.numel(), dtype=x.dtype, generator=generator)
    return made / made.norm()


def _fast(check: Check, outputs: tuple[Any, ...], forward: bool) -> None:
    """vᵀJu for a random u of each input and v of each output."""
    generator = Generator()
    us = [_random_unit(x, generator) for x in check.tracked]
    vs = None if forward else [_random_unit(out, generator) for out in outputs if out.requires_grad]
    kept = [i for i, out in enumerate(outputs) if out.requires_grad]
    numerical = [
        difference(check, x, (u * check.eps).view(x.shape), check.eps)
        for x, u in zip(check.tracked, us, strict=True)
    ]
    if not kept and not forward:
        if any(
            one.numel() and float(one.abs().max()) > check.nondet_tol for ones in numerical for one in ones
        ):
            raise GradcheckError("Numerical gradient for function expected to be zero")
        return
    if vs is None:
        places = [i for i, out in enumerate(outputs) if out.is_floating_point()]
        columns = [
            pushed(check, j, u.view(x.shape)) for j, (x, u) in enumerate(zip(check.tracked, us, strict=True))
        ]
        found = [[ones[places.index(i)] for ones in columns] for i in kept]
    else:
        products = [
            rows(check, outputs[i], [v.view(outputs[i].shape)]) for i, v in zip(kept, vs, strict=True)
        ]
        found = [[mul(one[:, 0], u).sum() for one, u in zip(row, us, strict=True)] for row in products]
    for number, i in enumerate(kept):
        for j, u in enumerate(us):
            a, n = found[number][j], numerical[j][i]
            atol = check.atol * float(u.sum())
            if vs is not None:
                n, atol = mul(n, vs[number]).sum(), atol * float(vs[number].sum())
            if not check.close(a, n, atol):
                raise GradcheckError(
                    _mismatch(a, n, number, j, forward) + _slowly(check, outputs, i, j, forward)
                )


def _slowly(check: Check, outputs: tuple[Any, ...], i: int, j: int, forward: bool) -> str:
    """What slow mode finds where fast mode failed."""
    numerical = numerical_jacobians(check)[j][i]
    if forward:
        analytical = _forward_jacobians(check, j, check.tracked[j], outputs)[i]
    else:
        analytical = rows(check._replace(nondet_tol=float("inf")), outputs[i], units(outputs[i]))[j]
    text = FAST_FAILED.format(numerical, analytical, (numerical - analytical).abs().max())
    return text + SLOW_AGREES if check.close(analytical, numerical, check.atol) else text


def _check_inputs(inputs: tuple[Any, ...]) -> None:
    tracked = [(i, x) for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    for i, x in tracked:
        if x.dtype is not float64:
            warnings.warn(
                f"Input #{i} requires gradient and is not a double precision floating point or complex. This check "
                "will likely fail if all the inputs are not of double precision floating point or complex. ",
                stacklevel=3,
            )
        if not all(step > 0 or size <= 1 for step, size in zip(x.stride(), x.shape, strict=True)):
            raise RuntimeError(
                f"The {i}th input has a dimension with stride 0. gradcheck only supports inputs that are "
                "non-overlapping to be able to compute the numerical gradients correctly. You should call "
                ".contiguous on the input before passing it to gradcheck."
            )
    if not tracked:
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of them have "
            "requires_grad=True."
        )


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Whether the gradients of `func` with respect to those `inputs` that require grad are its finite differences.

    Args:
        func: takes the inputs and gives a tensor or a tuple of them.
        inputs: tensors of float64 that require grad, and anything else.
        eps: the step of the central differences.
        atol, rtol: tolerances of the comparison.
        raise_exception: raise GradcheckError rather than give False.
        nondet_tol: how far two backward passes over the same graph may differ.
        check_undefined_grad: try outputs whose gradient is undefined.
        check_grad_dtypes: the gradients must have the inputs' dtypes.
        check_batched_grad: try `is_grads_batched`; `check_batched_forward_grad` the same in forward mode.
        check_forward_ad, check_backward_ad: which modes to check.
        fast_mode: compare random projections of the Jacobians alone.
        masked: gradients of zero may be so within a tolerance (torch's sparse tensors need it).
    """
    if not (check_forward_ad or check_backward_ad):
        raise AssertionError("Expected at least one of check_forward_ad or check_backward_ad to be True")
    if check_batched_grad and not check_backward_ad:
        raise AssertionError("Setting check_batched_grad=True requires check_backward_ad to be True")
    if check_batched_forward_grad and not check_forward_ad:
        raise AssertionError("Setting check_batched_forward_grad=True requires check_forward_ad to be True")
    check = Check(func, as_tuple(inputs), eps, atol, rtol, nondet_tol, check_grad_dtypes)
    modes = [forward for forward, wanted in ((False, check_backward_ad), (True, check_forward_ad)) if wanted]
    try:
        _check_inputs(check.inputs)
        outputs = check.run()
        for forward in modes:
            (_fast if fast_mode else _slow)(check, outputs, forward)
        if check_batched_forward_grad:
            _check_batched_forward(check)
        if check_backward_ad:
            _check_backward(
                check, differentiable(outputs), check_batched_grad, bool(masked), check_undefined_grad
            )
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def _check_backward(check: Check, outputs: Tensors, batched: bool, masked: bool, undefined: bool) -> None:
    if not outputs:
        return
    for i, out in enumerate(outputs):
        if batched:
            _check_batched(check, out, i)
    _check_scaled(check, outputs, masked)
    if undefined:
        _check_undefined(check, len(outputs))


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """Whether the second derivatives of `func`, by a backward pass over backward, are its finite differences.

    Args are those of `gradcheck`, and:
        grad_outputs: gradients of the outputs; random ones where they are left out, strided if
            `gen_non_contig_grad_outputs`.
        check_rev_over_rev, check_fwd_over_rev: differentiate backward by backward, or in forward mode.
    """
    if not (check_fwd_over_rev or check_rev_over_rev):
        raise AssertionError("Expected at least one of check_fwd_over_rev or check_rev_over_rev to be True")
    for name, wanted in (
        ("check_undefined_grad", check_undefined_grad),
        ("check_batched_grad", check_batched_grad),
    ):
        if wanted and not check_rev_over_rev:
            raise AssertionError(f"Setting {name}=True requires check_rev_over_rev to be True")
    given = as_tuple(inputs)
    if grad_outputs is None:
        outs = differentiable(func(*given))
        vectors = tuple(_vector(out, gen_non_contig_grad_outputs) for out in outs)
    else:
        vectors = as_tuple(grad_outputs)
    return gradcheck(
        _gradients(func, given, vectors),
        (*given, *vectors),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad,
        check_forward_ad=check_fwd_over_rev,
        check_backward_ad=check_rev_over_rev,
        fast_mode=fast_mode,
        masked=masked,
    )


def _gradients(func: Callable[..., Any], given: Sequence[Any], vectors: Sequence[Any]) -> Callable[..., Any]:
    """From the inputs of `func` and the gradients of its outputs to the gradients of its inputs."""
    count = len(given)
    tracked = [isinstance(x, Tensor) and x.requires_grad for x in (*given, *vectors)]

    def gradients(*args: Any) -> Tensors:
        items = [x.requires_grad_() if t else x for x, t in zip(args, tracked, strict=True)]
        outs = differentiable(func(*items[:count]))
        leaves = tuple(x for x, t in zip(items[:count], tracked, strict=False) if t)
        found: tuple[Any, ...] = grad(
            outs, leaves, tuple(items[count:]), create_graph=True, allow_unused=True
        )
        return tuple(g for g in found if g is not None)

    return gradients


def _vector(out: Tensor, strided: bool) -> Tensor:
    """Uniform numbers from -1 to 1 like an output; every other element of as many again if `strided`."""
    shape = (*out.shape, 2) if strided else tuple(out.shape)
    made = rand(shape, dtype=out.dtype) * 2 - 1
    return (made[..., 0] if strided else made).requires_grad_()
