"""Jacobians by rows, and Hessians: jacrev, hessian, as `torch.func`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from distgrad.func.arguments import Argnums, checked, chosen
from distgrad.func.batch import vmap
from distgrad.func.gradient import vjp_of
from distgrad.func.tree import flatten, unflatten
from distgrad.ops.joining import cat
from distgrad.ops.making import arange
from distgrad.tensor import Tensor

Function = Callable[..., Any]


def jacrev(
    func: Function,
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    _preallocate_and_copy: bool = False,
) -> Function:
    """A function that gives the Jacobian of `func` by reverse mode, all rows at once, as `torch.func.jacrev`.

    Args:
        func: gives a tensor or a structure of them; with `has_aux` a pair of that and of whatever tensors else.
        argnums: the arguments to differentiate, as for `grad`.
        chunk_size: so many rows at a time, to need less memory.

    Returns:
        A function that gives, in the structure of the outputs, and there in that of the arguments, tensors of shape
        output.shape + argument.shape.
    """
    if not (chunk_size is None or chunk_size > 0):
        raise ValueError("jacrev: `chunk_size` should be greater than 0.")

    @functools.wraps(func)
    def wrapped(*args: Any) -> Any:
        output, pull, *aux = vjp_of(func, args, argnums, has_aux)
        outs, out_tree = flatten(output)
        inputs, in_tree = flatten(chosen(args, checked(argnums, len(args))))
        blocks = [
            flatten(vmap(pull)(unflatten(basis, out_tree)))[0]
            for basis in bases([(out.numel(), out) for out in outs], chunk_size)
        ]
        columns = [cat(parts, 0) if len(parts) > 1 else parts[0] for parts in zip(*blocks, strict=True)]
        ends = [0, *itertools.accumulate(out.numel() for out in outs)]
        rows = [
            unflatten(
                [
                    column.narrow(0, start, out.numel()).reshape((*out.shape, *one.shape))
                    for column, one in zip(columns, inputs, strict=True)
                ],
                in_tree,
            )
            for start, out in zip(ends, outs, strict=False)
        ]
        made = unflatten(rows, out_tree)
        return (made, aux[0]) if has_aux else made

    return wrapped


def bases(outs: list[tuple[int, Tensor]], step: int | None) -> Iterator[list[Tensor]]:
    """The unit vectors of the outputs laid end to end, `step` at a time, each in the shapes of the outputs."""
    total = sum(n for n, _ in outs)
    step = total if step is None else step
    for start in range(0, max(total, 1), max(step, 1)):
        rows = arange(start, min(start + step, total)).unsqueeze(-1)
        basis, first = [], 0
        for n, out in outs:
            unit = (rows == arange(first, first + n)).to(out.dtype)
            basis.append(unit.reshape((len(rows), *out.shape)))
            first += n
        yield basis


def hessian(func: Function, argnums: Argnums = 0) -> Function:
    """A function that gives the second derivatives of `func`, as `torch.func.hessian`: the Jacobian of a Jacobian."""
    return jacrev(jacrev(func, argnums), argnums)
