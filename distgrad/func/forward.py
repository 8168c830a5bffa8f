"""Derivatives in forward mode: jvp, jacfwd, linearize, as `torch.func`.

Each runs the function on duals of a level of its own (see `dual.py`), so they nest in each other, and in `vmap` and the
gradients of `func` in either order.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from distgrad import dual
from distgrad.autograd.drivers import grad
from distgrad.autograd.forward_ad import make_dual, primal_below
from distgrad.autograd.pushing import tangent_at
from distgrad.func.arguments import Argnums, checked, chosen, replaced
from distgrad.func.batch import vmap
from distgrad.func.gradient import vjp
from distgrad.func.jacobian import bases
from distgrad.func.tree import Tree, flatten, mapped, unflatten
from distgrad.ops.making import zeros_like
from distgrad.record import enable_grad, grad_mode
from distgrad.tensor import Tensor

Function = Callable[..., Any]
NAME = "jvp(f, primals, tangents)"


def jvp(
    func: Function,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
    *,
    strict: bool = False,
    has_aux: bool = False,
) -> Any:
    """The outputs of `func` and J t, with J its Jacobian at `primals`, in one run of it, as `torch.func.jvp`.

    Args:
        func: takes tensors or structures of them, and gives such; with `has_aux` a pair of that and of what else.
        primals, tangents: the arguments, and t in the same structure.
        strict: raise where an output does not depend on the primals, rather than give zeros.

    Returns:
        (outputs, J t), or (outputs, J t, aux) with `has_aux`.
    """
    return jvp_of(func, primals, tangents, None, strict, has_aux)


def jvp_of(
    func: Function, args: Any, tangents: Any, argnums: Argnums | None, strict: bool, has_aux: bool
) -> Any:
    """`jvp` for the arguments that `argnums` names; None: for all."""
    if not isinstance(args, tuple):
        raise RuntimeError(
            f"{NAME}: Expected primals to be a tuple. E.g. it should be valid to call f(*primals)."
        )
    wanted = tuple(range(len(args))) if argnums is None else argnums
    leaves, tree = flatten(args if argnums is None else chosen(args, argnums))
    ts = _tangents(leaves, tree, tangents)
    level = dual.enter()
    try:
        duals = [make_dual(x, t, level=level) for x, t in zip(leaves, ts, strict=True)]
        output = func(*replaced(args, wanted, unflatten(duals, tree)))
        aux = None
        if has_aux:
            if not (isinstance(output, tuple) and len(output) == 2):
                raise RuntimeError(
                    f"{NAME}: output of function f should be a tuple: (output, aux) if has_aux is True"
                )
            output, aux = output
            aux = mapped(lambda leaf: _primal(leaf, level), aux)
        outs, out_tree = flatten(output)
        if not outs:
            raise RuntimeError(
                f"{NAME}: Expected f to be a function that has non-empty output (got output = {outs})"
            )
        pairs = [_unpacked(out, level, strict) for out in outs]
    finally:
        dual.leave()
    made, found = (unflatten(items, out_tree) for items in zip(*pairs, strict=True))
    return (made, found, aux) if has_aux else (made, found)


def _tangents(leaves: list[Any], tree: Tree, tangents: Any) -> list[Tensor]:
    """The tangents one by one, checked against the primals."""
    found, other = flatten(tangents)
    if tree != other:
        raise RuntimeError(
            f"{NAME}: Expected primals and tangents to have the same python structure. For example, if primals is a "
            f"tuple of 3 tensors, tangents also must be. Got primals with structure {tree} and tangents with "
            f"structure {other}"
        )
    for name, items in (("primals", leaves), ("tangents", found)):
        if not items:
            raise RuntimeError(f"{NAME}: Expected {name} to contain at least one Tensor.")
        for item in items:
            if not isinstance(item, Tensor):
                raise RuntimeError(f"{NAME}: Expected {name} to only contain Tensors, got {type(item)}")
    return found


def _primal(leaf: Any, level: int) -> Tensor:
    if not isinstance(leaf, Tensor):
        raise RuntimeError(f"Expected tensors, got unsupported type {type(leaf)}")
    return primal_below(leaf, level)


def _unpacked(out: Any, level: int, strict: bool) -> tuple[Tensor, Tensor]:
    """An output and its tangent, zeros if it has none."""
    if not isinstance(out, Tensor):
        raise RuntimeError(
            f"{NAME}: expected f(*primals) to return only tensors, got unsupported type {type(out)}"
        )
    tangent = tangent_at(out, level)
    if tangent is None and strict:
        raise RuntimeError(
            "jvp(f, primals, tangents, strict=True): The output of f is independent of the inputs. This is not "
            "allowed with strict=True."
        )
    primal = primal_below(out, level)
    return primal, zeros_like(primal) if tangent is None else tangent


def jacfwd(
    func: Function, argnums: Argnums = 0, has_aux: bool = False, *, randomness: str = "error"
) -> Function:
    """A function that gives the Jacobian of `func` by forward mode, all columns at once, as `torch.func.jacfwd`.

    It suits functions with few inputs. Args and what is returned are those of `jacrev`; `randomness` as for `vmap`.
    """

    @functools.wraps(func)
    def wrapped(*args: Any) -> Any:
        wanted = checked(argnums, len(args))
        inputs, tree = flatten(chosen(args, wanted))
        (basis,) = bases([(one.numel(), one) for one in inputs], None)

        def push(tangents: Any) -> Any:
            _, *found = jvp_of(func, args, tangents, wanted, False, has_aux)
            return tuple(found)

        columns, *aux = vmap(push, randomness=randomness)(unflatten(basis, tree))
        found, out_tree = flatten(columns)
        ends = [0, *itertools.accumulate(one.numel() for one in inputs)]
        rows = [
            unflatten(
                [
                    column.narrow(0, start, one.numel())
                    .movedim(0, -1)
                    .reshape((*column.shape[1:], *one.shape))
                    for start, one in zip(ends, inputs, strict=False)
                ],
                tree,
            )
            for column in found
        ]
        made = unflatten(rows, out_tree)
        return (made, mapped(lambda leaf: leaf[0], aux[0])) if has_aux else made

    return wrapped


def linearize(func: Function, *primals: Any) -> tuple[Any, Function]:
    """The outputs of `func`, and a function from tangents to J t, as `torch.func.linearize`.

    `func` runs once. What J t is made of stays in memory as long as the function does: that is worth it where many
    tangents are pushed through the same point.
    """
    output, pull = vjp(func, *primals)
    leaves, tree = flatten(primals)
    outs, out_tree = flatten(output)
    with enable_grad():  # Jᵀg is linear in g: J t is its derivative
        gs = [zeros_like(out).requires_grad_() for out in outs]
        pulled = pull(unflatten(gs, out_tree), create_graph=True)
    products = flatten(pulled)[0]

    def push(*tangents: Any) -> Any:
        ts, found = flatten(tangents)
        if found != tree:
            raise RuntimeError(
                f"Expected the tangents {found} to have the same argspec as the primals {tree}"
            )
        _check_alike(ts, leaves)
        pairs = [(v, t) for v, t in zip(products, ts, strict=True) if v.requires_grad]
        if not pairs:
            return unflatten([zeros_like(out) for out in outs], out_tree)
        record = grad_mode.enabled and any(t.requires_grad for t in ts)
        made = grad(
            [v for v, _ in pairs],
            gs,
            [t for _, t in pairs],
            retain_graph=True,
            create_graph=record,
            materialize_grads=True,
        )
        return unflatten(made, out_tree)

    return output, push


def _check_alike(ts: Sequence[Any], leaves: Sequence[Any]) -> None:
    for i, (t, x) in enumerate(zip(ts, leaves, strict=True)):
        for what, mine, theirs in (("shape", t.shape, x.shape), ("dtype", t.dtype, x.dtype)):
            if mine != theirs:
                raise RuntimeError(
                    f"tangent:{i} with {what} {mine} in flattened pytree doesn't match the {what} {theirs} of the "
                    "corresponding primal."
                )
