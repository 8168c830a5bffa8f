"""Products of vectors, matrices and batches of matrices: dot, mv, mm, bmm, matmul; and the product all are made of."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL, OF_NUMPY, from_numpy_dtype
from distgrad.ops.base import Ints, Tensor, Value, attach, call, cast, common_dtype, composite, op
from distgrad.ops.helpers import title
from distgrad.ops.making import as_tensor
from distgrad.ops.samples import real
from distgrad.primitives.elementwise import broadcast_shape
from distgrad.tensor import C_NAMES

BATCH = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # letters of batch dimensions


# A product as subscripts, and its gradients.
@lru_cache(maxsize=4096)
def words(subscripts: str) -> tuple[str, str, str]:
    """The subscripts of both operands and of the result."""
    operands, _, out = subscripts.partition("->")
    a, _, b = operands.partition(",")
    return a, b, out


@lru_cache(maxsize=4096)
def sums(subscripts: str) -> bool:
    """Whether a letter is summed over."""
    a, _, out = words(subscripts)
    return not set(a) <= {*out, "1"}


@lru_cache(maxsize=4096)
def _node_name(subscripts: str) -> str:
    """The product as torch would name it: by the numbers of dimensions."""
    a, b, out = words(subscripts)
    if not sums(subscripts):
        return "MulBackward0"
    if len(out) == 2 == len(a) == len(b):
        return "MmBackward0"
    if len(out) < 2:
        return "MvBackward0" if out else "DotBackward0"
    return "BmmBackward0"


@lru_cache(maxsize=4096)
def _without_ones(subscripts: str) -> tuple[str, Ints, Ints, Ints]:
    """The subscripts without each "1", and where those stand in both operands and in the result."""
    ones = tuple(tuple(d for d, c in enumerate(word) if c == "1") for word in words(subscripts))
    return subscripts.replace("1", ""), *ones  # type: ignore[return-value]


@op(
    name=lambda input, other, subscripts, node: node or _node_name(subscripts),
    input=lambda g, other, subscripts: _contract(g, other, for_first(subscripts)),
    other=lambda g, input, subscripts: _contract(input, g, for_second(subscripts)),
    method=False,
    samples=lambda: [
        (real(2, 3), real(4, 3), "mk,nk->nm"),
        (real(2, 3, 4), real(2, 4, 2), "bmk,bkn->mbn"),
        (real(1, 3), real(2, 3, 4), "1k,bkn->bn"),
        (real(2, 3), real(3), "mk,k->1m1"),
        (real(2), real(3), "m,n->nm"),
        (real(2, 3), real(3, 2), "mk,km->"),
        (real(), real(2), ",n->n"),
    ],
)
def _contract(input: Value, other: Value, subscripts: str, node: str = "") -> Value:
    """Any einsum of two operands in which a letter that only one of them has stands in the result as well.

    A "1" stands for a dimension of length 1. The gradients are such products again, with the subscripts exchanged, so
    no operand is ever transposed, and each stays cut as it is. `node` names the backward node.
    """
    plain, *ones = _without_ones(subscripts)
    common = common_dtype(input, other)
    operands = [cast(input, common), cast(other, common)]
    for i, dims in enumerate(ones[:2]):
        if dims:
            operands[i] = session.emit("squeeze_dims", operands[i], dims=dims)
    out = session.emit("contract", *operands, subscripts=plain)
    return session.emit("expand_dims", out, dims=ones[2]) if ones[2] else out


def for_first(subscripts: str) -> str:
    """The gradient for the first operand as a product of the result's and the second operand."""
    a, b, out = words(subscripts)
    return f"{out},{b}->{a}"


def for_second(subscripts: str) -> str:
    """The gradient for the second operand as a product of the first operand and the result's gradient."""
    a, b, out = words(subscripts)
    return f"{a},{out}->{b}"


# What operands must be, as torch words it.
def check_scalar_types(name: str, a: Value, b: Value) -> None:
    """The same dtype, which is not bool."""
    if a.dtype != b.dtype:
        raise RuntimeError(f"expected scalar type {title(a.dtype)} but found {title(b.dtype)}")
    _not_bool(name, a)


def _not_bool(name: str, x: Value) -> None:
    if x.dtype == BOOL:
        raise NotImplementedError(f"\"{name}\" not implemented for 'Bool'")


def check_vector_types(mat: Value, vec: Value, added: Value | None = None) -> None:
    """A matrix and a vector of the same dtype, which is not bool; and what is added to their product."""
    found = [x.dtype for x in (added or vec, mat, vec)]
    if len(set(found)) > 1:
        a, b, c = map(title, found)
        raise RuntimeError(f"addmv input tensors must have the same dtype, but got {a}, {b}, and {c}")
    _not_bool("addmv_impl_cpu", mat)


def check_matrix_types(a: Value, b: Value) -> None:
    """Two matrices of the same dtype, which is not bool."""
    if a.dtype != b.dtype:
        names = [C_NAMES[OF_NUMPY[x.dtype].name] for x in (a, b)]
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {names[0]} != {names[1]}")
    _not_bool("addmm_impl_cpu_", a)


def check_dot(input: Value, tensor: Value) -> None:
    """Two vectors of the same length and dtype."""
    if len(input.shape) != 1 or len(tensor.shape) != 1:
        raise RuntimeError(
            f"1D tensors expected, but got {len(input.shape)}D and {len(tensor.shape)}D tensors"
        )
    if input.dtype != tensor.dtype:
        raise RuntimeError(
            "dot : expected both vectors to have same dtype, but found "
            f"{title(input.dtype)} and {title(tensor.dtype)}"
        )
    n, m = input.shape[0], tensor.shape[0]
    if n != m:
        raise RuntimeError(
            f"inconsistent tensor size, expected tensor [{n}] and src [{m}] to have the same number of elements, "
            f"but got {n} and {m} elements respectively"
        )
    _not_bool("dot", input)


def check_mv(input: Value, vec: Value, added: Value | None = None) -> None:
    """A matrix and a vector that fit; and what is added to their product."""
    if len(input.shape) != 2 or len(vec.shape) != 1:
        dims = 1 if added is None else len(added.shape), len(input.shape), len(vec.shape)
        raise RuntimeError("vector + matrix @ vector expected, got {}, {}, {}".format(*dims))
    rows = input.shape[0] if added is None or added.shape in ((), (1,)) else added.shape[0]
    if input.shape[1] != vec.shape[0] or rows != input.shape[0]:
        raise RuntimeError(_mv_sizes(rows, input.shape, vec.shape[0]))
    check_vector_types(input, vec, added)


def _mv_sizes(rows: int, mat: Ints, length: int) -> str:
    return f"size mismatch, got input ({rows}), mat ({mat[0]}x{mat[1]}), vec ({length})"


def _mm_sizes(n: int, k: int, rows: int, m: int) -> str:
    return f"mat1 and mat2 shapes cannot be multiplied ({n}x{k} and {rows}x{m})"


def check_mm_sizes(input: Value, mat2: Value) -> None:
    """Two matrices that fit."""
    if input.shape[1] != mat2.shape[0]:
        raise RuntimeError(_mm_sizes(*input.shape, *mat2.shape))


def check_bmm_sizes(input: Value, mat2: Value) -> None:
    """Two equally long batches of matrices that fit."""
    for name, x in (("batch1", input), ("batch2", mat2)):
        if len(x.shape) != 3:
            raise RuntimeError(f"{name} must be a 3D tensor")
    _check_batches((input.shape[0], input.shape[2]), mat2.shape[:2])


def _check_batches(wanted: Ints, found: Ints) -> None:
    if wanted != found:
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: {list(wanted)} but got: {list(found)}."
        )


# The products.
@op(
    input=lambda g, tensor: g * tensor,
    tensor=lambda g, input: g * input,
    samples=lambda: [(real(4), real(4, seed=1))],
)
def dot(input: Value, tensor: Value) -> Value:
    """Inner product of two vectors."""
    check_dot(input, tensor)
    return session.emit("contract", input, tensor, subscripts="k,k->")


@op(
    input=lambda g, vec: _contract(g, vec, "m,k->mk"),
    vec=lambda g, input: _contract(input, g, "mk,m->k"),
    samples=lambda: [(real(2, 3), real(3))],
)
def mv(input: Value, vec: Value) -> Value:
    """Matrix times vector."""
    check_mv(input, vec)
    return session.emit("contract", input, vec, subscripts="mk,k->m")


@op(
    input=lambda g, mat2: _contract(g, mat2, "mn,kn->mk"),
    mat2=lambda g, input: _contract(input, g, "mk,mn->kn"),
    samples=lambda: [(real(2, 3), real(3, 4))],
)
def mm(input: Value, mat2: Value) -> Value:
    """Matrix times matrix."""
    for name, x in (("self", input), ("mat2", mat2)):
        if len(x.shape) != 2:
            raise RuntimeError(f"{name} must be a matrix")
    check_mm_sizes(input, mat2)
    check_matrix_types(input, mat2)
    return session.emit("contract", input, mat2, subscripts="mk,kn->mn")


@op(
    input=lambda g, mat2: _contract(g, mat2, "bmn,bkn->bmk"),
    mat2=lambda g, input: _contract(input, g, "bmk,bmn->bkn"),
    samples=lambda: [(real(2, 3, 2), real(2, 2, 4)), (real(3, 1, 2), real(3, 2, 1))],
)
def bmm(input: Value, mat2: Value) -> Value:
    """Matrix times matrix, for each pair of two batches (b, m, k) and (b, k, n)."""
    check_bmm_sizes(input, mat2)
    check_scalar_types("bmm", input, mat2)
    return session.emit("contract", input, mat2, subscripts="bmk,bkn->bmn")


@composite(
    samples=lambda: [
        (real(4), real(4)),
        (real(2, 3), real(3)),
        (real(3), real(3, 2)),
        (real(2, 3), real(3, 2)),
        (real(2, 2, 3), real(3)),
        (real(2), real(3, 2, 2)),
        (real(2, 2, 3), real(3, 2)),
        (real(2, 3), real(2, 3, 2)),
        (real(2, 2, 3), real(2, 3, 2)),
        (real(2, 1, 2, 3), real(3, 3, 2)),
        (real(1, 2, 2), real(2, 1, 2, 2)),
    ]
)
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Product of vectors, matrices, or batches of matrices, as the numbers of dimensions say.

    Of more than two dimensions the last two are a matrix's; those before number the batch, and broadcast. A vector is
    a row on the left and a column on the right, and that dimension is left out of the result.
    """
    dims = input.dim(), other.dim()
    if dims == (2, 2):
        return mm(input, other)
    if dims == (1, 1):
        return dot(input, other)
    if dims == (2, 1):
        return mv(input, other)
    if 0 in dims:
        raise RuntimeError(
            f"both arguments to matmul need to be at least 1D, but they are {dims[0]}D and {dims[1]}D"
        )
    a, b = input._avals, other._avals
    _check_sizes(a.shape, b.shape)
    _check_types(a, b)
    node = (
        "SqueezeBackward4" if dims == (1, 2) else "CloneBackward0" if dims[0] == 2 else "UnsafeViewBackward0"
    )
    return _contract(input, other, _matmul_subscripts(a.shape, b.shape), node)


def _check_sizes(a: Ints, b: Ints) -> None:
    """Raise what torch does, which makes batches of matrices one matrix where the other operand is no batch."""
    k, rows = a[-1], b[-2] if len(b) > 1 else b[0]
    if len(a) > 2 and len(b) > 2:
        batch = broadcast_shape(a[:-2], b[:-2])
        _check_batches((math.prod(batch), k), (math.prod(batch), rows))
    if k == rows:
        return
    if len(b) == 1:
        raise RuntimeError(_mv_sizes(math.prod(a[:-1]), (math.prod(a[:-1]), k), rows))
    folded = math.prod(b[:-2]) * b[-1]
    if len(b) == 2:
        raise RuntimeError(_mm_sizes(math.prod(a[:-1]), k, rows, folded))
    if len(a) == 1:
        raise RuntimeError(_mv_sizes(folded, (folded, rows), k))
    raise RuntimeError(_mm_sizes(folded, rows, k, a[0]))


def _check_types(a: Value, b: Value) -> None:
    dims = len(a.shape), len(b.shape)
    if min(dims) > 2:
        check_scalar_types("bmm", a, b)
    elif dims == (1, 2) or (min(dims) == 2 and dims[1] == 2):
        check_matrix_types(a, b)
    elif min(dims) == 2:
        check_matrix_types(b, a)
    else:
        check_vector_types(*((a, b) if dims[1] == 1 else (b, a)))


@lru_cache(maxsize=1024)
def _matmul_subscripts(a: Ints, b: Ints) -> str:
    """A batch dimension of length 1 is left out of its operand where the other's is longer: nothing is repeated."""
    wide = max(len(a), len(b)) - 2
    sizes = [(1,) * (wide - len(x[:-2])) + x[:-2] for x in (a, b)]
    marks = [
        "".join("1" if n == 1 != m else c for n, m, c in zip(mine, others, BATCH, strict=False))
        for mine, others in (sizes, sizes[::-1])
    ]
    first, second = (mark[wide - len(x[:-2]) :] for mark, x in zip(marks, (a, b), strict=True))
    left, right = "mk" if len(a) > 1 else "k", "kn" if len(b) > 1 else "k"
    return f"{first}{left},{second}{right}->{BATCH[:wide]}{left[:-1]}{right[1:]}"


def _with_array(tensor: Tensor, array: np.ndarray) -> tuple[Tensor, Tensor]:
    """Both with the dtype that NumPy's product has, which torch leaves it to."""
    common = from_numpy_dtype(np.result_type(tensor._avals.dtype, array.dtype))
    a, b = (x if x.dtype is common else call("_to_copy", x, common) for x in (tensor, as_tensor(array)))
    return a, b


def _matmul(self: Tensor, other: object) -> Any:
    if isinstance(other, np.ndarray):
        return matmul(*_with_array(self, other))
    return matmul(self, other) if isinstance(other, Tensor) else NotImplemented


def _rmatmul(self: Tensor, other: object) -> Any:
    return matmul(*reversed(_with_array(self, other))) if isinstance(other, np.ndarray) else NotImplemented


attach(__matmul__=_matmul, __rmatmul__=_rmatmul)
