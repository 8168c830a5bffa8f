"""Derivatives of functions of tensors, as `torch.autograd.functional`: vjp, jvp, jacobian, hessian, vhp, hvp."""

from __future__ import annotations

from typing import Any

from distgrad import vmaps
from distgrad.autograd.drivers import grad
from distgrad.autograd.forward_ad import dual_level, make_dual, unpack_dual
from distgrad.autograd.points import (
    Function,
    Point,
    Tensors,
    as_given,
    as_tuple,
    check_tracked,
    finished,
    gradients,
    mode,
    with_zeros,
)
from distgrad.ops.batching import enter_level, left
from distgrad.ops.joining import stack
from distgrad.ops.making import eye, zeros_like
from distgrad.ops.views import reshape
from distgrad.record import enable_grad, set_grad_enabled
from distgrad.tensor import Tensor

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]


# Products.
def vjp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """The outputs of `func` and vᵀJ, with J its Jacobian at `inputs`.

    Args:
        func: takes tensors and gives a tensor or a tuple of them.
        inputs: a tensor or a tuple of them.
        v: like the outputs; may be left out where they are one element.
        create_graph: record what is done, for further derivatives.
        strict: raise where an output does not depend on an input, rather than give zeros.
    """
    with enable_grad():
        point = Point("vjp", func, inputs, create_graph, strict)
        point.run()
        if v is not None:
            vector = point.vector(v, point.outputs, point.many_out)
        elif len(point.outputs) == 1 and point.outputs[0].numel() == 1:
            vector = None
        else:
            raise RuntimeError(
                "The vector v can only be None if the user-provided function returns a single Tensor with a single "
                "element."
            )
    with mode(create_graph):
        found = gradients(point.outputs, point.inputs, vector, create_graph)
        filled = with_zeros(found, point.inputs, "back", point)
    return point.result(filled, point.many_in)


def jvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """The outputs of `func` and J v, with J its Jacobian at `inputs`, by two backward passes.

    Args are those of `vjp`, but `v` is like the inputs. `func.jvp` does it in one forward pass.
    """
    with enable_grad():
        point = Point("jvp", func, inputs, create_graph, strict)
        vector = point.input_vector(v, "the input to the user-provided function is a single Tensor")
        point.run()
        # Jᵀg is linear in g, so its values do not matter.
        gs = tuple(zeros_like(out).requires_grad_() for out in point.outputs)
        pulled = gradients(point.outputs, point.inputs, gs, create_graph=True)
        check_tracked(pulled, "grad_inputs", strict)
    with set_grad_enabled(True) if create_graph else mode(False):
        found = gradients(pulled, gs, vector, create_graph)
        filled = with_zeros(found, point.outputs, "back_trick", point)
    return point.result(filled, point.many_out)


ONE_INPUT = "the input to the user-provided function is a single Tensor"


def vhp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """The output of `func`, of one element, and vᵀH, with H its Hessian at `inputs`.

    Args are those of `vjp`, but `v` is like the inputs.
    """
    with enable_grad():
        point = Point("vhp", func, inputs, create_graph, strict)
        vector = point.input_vector(v, ONE_INPUT)
        point.run_to_one()
        jacobian = gradients(point.outputs, point.inputs, create_graph=True)
        check_tracked(jacobian, "jacobian", strict)
    with mode(create_graph):
        found = gradients(jacobian, point.inputs, vector, create_graph)
        filled = with_zeros(found, point.inputs, "double_back", point)
    return point.result(filled, point.many_in)


def hvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """The output of `func`, of one element, and H v, by a third backward pass: `vhp` gives the same for less.

    Args are those of `vjp`, but `v` is like the inputs.
    """
    with enable_grad():
        point = Point("hvp", func, inputs, create_graph, strict)
        vector = point.input_vector(v, ONE_INPUT)
        point.run_to_one()
        jacobian = gradients(point.outputs, point.inputs, create_graph=True)
        check_tracked(jacobian, "jacobian", strict)
        gs = tuple(zeros_like(one).requires_grad_() for one in point.inputs)
        pulled = gradients(jacobian, point.inputs, gs, create_graph=True)
        check_tracked(jacobian, "jacobian", strict)
    with mode(create_graph):
        found = gradients(pulled, gs, vector, create_graph)
        filled = with_zeros(found, point.inputs, "double_back_trick", point)
    return point.result(filled, point.many_in)


# Matrices.
def jacobian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """The derivative of each output of `func` with respect to each input, of shape output.shape + input.shape.

    Args:
        func, inputs, create_graph, strict: those of `vjp`.
        vectorize: all rows at once.
        strategy: "reverse-mode" goes by rows, for few outputs; "forward-mode" by columns, for few inputs.

    Returns:
        A tensor; a tuple of them, by input, where `inputs` is one; tuples of that, by output, where `func` gives one.
    """
    if strategy not in ("forward-mode", "reverse-mode"):
        raise AssertionError(
            'Expected strategy to be either "forward-mode" or "reverse-mode". Hint: If your function has more outputs '
            'than inputs, "forward-mode" tends to be more performant. Otherwise, prefer to use "reverse-mode".'
        )
    if strategy == "forward-mode":
        return _by_columns(func, inputs, create_graph, strict, vectorize)
    with enable_grad():
        point = Point("jacobian", func, inputs, create_graph, strict)
        point.run()
        if vectorize and strict:
            raise RuntimeError(
                "torch.autograd.functional.jacobian: `strict=True` and `vectorized=True` are not supported together. "
                "Please either set `strict=False` or `vectorize=False`."
            )
        rows = [(_rows_at_once if vectorize else _rows)(point, i) for i in range(len(point.outputs))]
        found = finished(rows, create_graph)
    return as_given(found, point.many_out, point.many_in)


def _rows(point: Point, i: int) -> Tensors:
    """The derivative of output `i` with respect to each input, row by row."""
    out = point.outputs[i]
    flat = out.reshape(-1)
    columns: list[list[Tensor]] = [[] for _ in point.inputs]
    for j in range(out.numel()):
        found = gradients((flat[j],), point.inputs, None, point.create_graph, retain_graph=True)
        for k, g in enumerate(found):
            columns[k].append(_row(point, g, i, k))
    return tuple(
        stack(column).view(out.shape + one.shape) if column else one.new_zeros(out.shape + one.shape)
        for column, one in zip(columns, point.inputs, strict=True)
    )


def _rows_at_once(point: Point, i: int) -> Tensors:
    """The same with all rows together, by one backward pass."""
    out, n = point.outputs[i], point.outputs[i].numel()
    if not out.requires_grad:
        return tuple(one.new_zeros(out.shape + one.shape) for one in point.inputs)
    units = eye(n, dtype=out.dtype).reshape((n, *out.shape))
    found: tuple[Any, ...] = grad(
        (out,), point.inputs, (units,), True, point.create_graph, allow_unused=True, is_grads_batched=True
    )
    return tuple(
        one.new_zeros(out.shape + one.shape) if g is None else reshape(g, out.shape + one.shape)
        for g, one in zip(found, point.inputs, strict=True)
    )


def _row(point: Point, g: Tensor | None, i: int, k: int) -> Tensor:
    if g is None:
        if point.strict:
            raise RuntimeError(
                f"Output {i} of the user-provided function is independent of input {k}. This is not allowed in "
                "strict mode."
            )
        return zeros_like(point.inputs[k])
    if point.strict and point.create_graph and not g.requires_grad:
        raise RuntimeError(
            f"The jacobian of the user-provided function is independent of input {i}. This is not allowed in strict "
            "mode when create_graph=True."
        )
    return g


def _by_columns(func: Function, inputs: Any, create_graph: bool, strict: bool, vectorize: bool) -> Any:
    """The Jacobian by forward mode, column by column."""
    for name, given in (("create_graph", create_graph), ("strict", strict)):
        if given:
            error = NotImplementedError if name == "create_graph" else RuntimeError
            raise error(
                f'torch.autograd.functional.jacobian: `{name}=True` and `strategy="forward-mode"` are not supported '
                f'together (yet). Please either set `{name}=False` or `strategy="reverse-mode"`.'
            )
    if not vectorize:
        raise NotImplementedError(
            "Computing Jacobian using forward-AD or forward-over-reverse Hessian isonly implemented for "
            "`vectorize=True`."
        )
    many_in, tensors = as_tuple(inputs, "inputs", "jacobian")
    found = [_columns(func, tensors, k) for k in range(len(tensors))]
    matrices = tuple(zip(*(columns for _, columns in found), strict=True))
    return as_given(matrices, found[0][0], many_in)


def _columns(func: Function, inputs: Tensors, k: int) -> tuple[bool, Tensors]:
    """Whether `func` gives a tuple, and the derivatives of its outputs for all elements of input k."""
    one, n = inputs[k], inputs[k].numel()
    units = eye(n, dtype=one.dtype).reshape((n, *one.shape))
    with vmaps.running(n) as level:
        many_out, found = _pushed(func, inputs, k, enter_level(units, 0, level.number, n))
        return many_out, tuple(reshape(left(t, t.dim(), level), t.shape + one.shape) for t in found)


def _pushed(func: Function, inputs: Tensors, k: int, tangent: Tensor) -> tuple[bool, Tensors]:
    """Whether `func` gives a tuple, and the tangents of its outputs for one of input k."""
    with dual_level():
        tangents = [zeros_like(one) for one in inputs]
        tangents[k] = tangent
        duals = (make_dual(one, t) for one, t in zip(inputs, tangents, strict=True))
        several, outs = as_tuple(func(*duals), "outputs", "jacobian")
        pairs = [unpack_dual(out) for out in outs]
        return several, tuple(zeros_like(p) if t is None else t for p, t in pairs)


def hessian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """The second derivatives of `func`, which gives one element, of shape input.shape + other.shape.

    Args:
        func, inputs, create_graph, strict, vectorize: those of `jacobian`.
        outer_jacobian_strategy: how the gradient is differentiated: "reverse-mode" or "forward-mode".

    Returns:
        A tensor; tuples of tuples of them, by input and input, where `inputs` is a tuple.
    """
    many_in, _ = as_tuple(inputs, "inputs", "hessian")
    if outer_jacobian_strategy not in ("forward-mode", "reverse-mode"):
        raise AssertionError('Expected strategy to be either "forward-mode" or "reverse-mode".')

    def single(*given: Tensor) -> Tensor:
        point = Point("hessian", func, given, True, strict)
        point.inputs = given
        point.run_to_one()
        return point.outputs[0].squeeze()

    def gradient(*given: Tensor) -> Tensors:
        if outer_jacobian_strategy == "forward-mode":
            given = tuple(t.requires_grad_() for t in given)
        found: Tensors = jacobian(single, given, create_graph=True)
        check_tracked(found, "jacobian", strict)
        return found

    result = jacobian(
        gradient,
        inputs,
        create_graph=create_graph,
        strict=strict,
        vectorize=vectorize,
        strategy=outer_jacobian_strategy,
    )
    return as_given(result, many_in, many_in) if many_in else result[0]
