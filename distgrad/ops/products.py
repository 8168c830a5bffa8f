"""Products of vectors and matrices: dot, mv, mm, matmul."""

from __future__ import annotations

from typing import Any

from distgrad import session
from distgrad.dtype import BOOL, OF_NUMPY
from distgrad.ops.base import Tensor, Value, attach, call, composite, op
from distgrad.ops.samples import real
from distgrad.tensor import C_NAMES


def _same_dtype(a: Value, b: Value) -> None:
    if a.dtype != b.dtype:
        names = [C_NAMES[OF_NUMPY[x.dtype].name] for x in (a, b)]
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {names[0]} != {names[1]}")
    if a.dtype == BOOL:
        raise NotImplementedError("\"addmm_impl_cpu_\" not implemented for 'Bool'")


@op(
    input=lambda g, tensor: g * tensor,
    tensor=lambda g, input: g * input,
    samples=lambda: [(real(4), real(4, seed=1))],
)
def dot(input: Value, tensor: Value) -> Value:
    """Inner product of two vectors."""
    if len(input.shape) != 1 or len(tensor.shape) != 1:
        raise RuntimeError(
            f"1D tensors expected, but got {len(input.shape)}D and {len(tensor.shape)}D tensors"
        )
    if input.dtype != tensor.dtype:
        names = [OF_NUMPY[x.dtype].title for x in (input, tensor)]
        raise RuntimeError(
            f"dot : expected both vectors to have same dtype, but found {names[0]} and {names[1]}"
        )
    n, m = input.shape[0], tensor.shape[0]
    if n != m:
        raise RuntimeError(
            f"inconsistent tensor size, expected tensor [{n}] and src [{m}] to have the same "
            "number of elements, "
            f"but got {n} and {m} elements respectively"
        )
    return session.emit("contract", input, tensor, subscripts="k,k->")


@op(
    input=lambda g, vec: _outer(g, vec),
    vec=lambda g, input: mv(call("t", input), g),
    samples=lambda: [(real(2, 3), real(3))],
)
def mv(input: Value, vec: Value) -> Value:
    """Matrix times vector."""
    if len(input.shape) != 2 or len(vec.shape) != 1:
        raise RuntimeError(f"vector + matrix @ vector expected, got 1, {len(input.shape)}, {len(vec.shape)}")
    if input.shape[1] != vec.shape[0]:
        n, m = input.shape
        raise RuntimeError(f"size mismatch, got input ({n}), mat ({n}x{m}), vec ({vec.shape[0]})")
    _same_dtype(input, vec)
    return session.emit("contract", input, vec, subscripts="mk,k->m")


@op(
    name="MulBackward0",
    input=lambda g, vec2: mv(g, vec2),
    vec2=lambda g, input: mv(call("t", g), input),
    samples=lambda: [(real(2), real(3))],
)
def _outer(input: Value, vec2: Value) -> Value:
    return session.emit("contract", input, vec2, subscripts="m,n->mn")


@op(
    input=lambda g, mat2: mm(g, call("t", mat2)),
    mat2=lambda g, input: mm(call("t", input), g),
    samples=lambda: [(real(2, 3), real(3, 4))],
)
def mm(input: Value, mat2: Value) -> Value:
    """Matrix times matrix."""
    for name, x in (("self", input), ("mat2", mat2)):
        if len(x.shape) != 2:
            raise RuntimeError(f"{name} must be a matrix")
    if input.shape[1] != mat2.shape[0]:
        a, b = (f"{x.shape[0]}x{x.shape[1]}" for x in (input, mat2))
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({a} and {b})")
    _same_dtype(input, mat2)
    return session.emit("contract", input, mat2, subscripts="mk,kn->mn")


@composite(
    samples=lambda: [
        (real(4), real(4)),
        (real(2, 3), real(3)),
        (real(3), real(3, 2)),
        (real(2, 3), real(3, 2)),
    ]
)
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Product of vectors, matrices, or batches of matrices, as the numbers of dimensions say."""
    dims = input.dim(), other.dim()
    if 0 in dims:
        raise RuntimeError(
            f"both arguments to matmul need to be at least 1D, but they are {dims[0]}D and {dims[1]}D"
        )
    if dims == (2, 2):
        return mm(input, other)
    if dims == (1, 1):
        return dot(input, other)
    if dims == (2, 1):
        return mv(input, other)
    if dims == (1, 2):
        return call("squeeze", mm(call("unsqueeze", input, 0), other), 0)
    return call("_batched_matmul", input, other)


def _matmul(self: Tensor, other: object) -> Any:
    return matmul(self, other) if isinstance(other, Tensor) else NotImplemented


attach(__matmul__=_matmul)
