"""Products along chosen dimensions: outer, inner, tensordot; and addmm with its kin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_letters
from typing import Any

from distgrad import session
from distgrad.ops import products
from distgrad.ops.base import (
    Tensor,
    Value,
    attach,
    broadcast_to,
    call,
    cast,
    common_dtype,
    composite,
    constant,
    op,
)
from distgrad.ops.helpers import normal_dim, title
from distgrad.ops.making import as_tensor
from distgrad.ops.products import _contract
from distgrad.ops.samples import real
from distgrad.ops.views import _expanded
from distgrad.primitives import TABLE
from distgrad.tensor import C_NAMES

__all__ = [
    "addbmm",
    "addmm",
    "addmv",
    "addr",
    "baddbmm",
    "ger",
    "inner",
    "outer",
    "tensordot",
    "vdot",
]


# Two operands.
def _check_vectors(name: str, **arguments: Tensor) -> None:
    for argument, x in arguments.items():
        if x.dim() != 1:
            raise RuntimeError(f"{name}: Expected 1-D argument {argument}, but got {x.dim()}-D")


@composite(samples=lambda: [(real(2), real(3)), (real(1), real(1))])
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """The products of all pairs of elements of two vectors, as a matrix."""
    input, vec2 = as_tensor(input), as_tensor(vec2)
    _check_vectors("outer", self=input, vec2=vec2)
    return _contract(input, vec2, "m,n->mn")


ger = outer
attach(ger=outer)


@composite(samples=lambda: [(real(4), real(4, seed=1))])
def vdot(input: Tensor, other: Tensor) -> Tensor:
    """Inner product of two vectors; the same as `dot`, since there are no complex numbers."""
    products.check_dot(input._avals, other._avals)
    return _contract(input, other, "k,k->", "VdotBackward0")


def _check_same(a: Tensor, b: Tensor) -> None:
    if a.dtype is not b.dtype:
        raise RuntimeError("both inputs should have same dtype")


@composite(samples=lambda: [(real(4), real(4)), (real(2, 3), real(2, 2, 3)), (real(), real(2, 3))])
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products along the last dimension of both, for all pairs of their other dimensions."""
    if not input.dim() or not other.dim():
        return input * other
    if input.shape[-1] != other.shape[-1]:
        raise RuntimeError(
            "inner() the last dimension must match on both input tensors but got shapes "
            f"{list(input.shape)} and {list(other.shape)}"
        )
    return tensordot(input, other, ([-1], [-1]))


def _dims_of(a: Tensor, b: Tensor, dims: Any) -> tuple[list[int], list[int]]:
    """The dimensions to sum over in each operand, as the caller counts them."""
    dims = dims.tolist() if isinstance(dims, Tensor) else dims
    if isinstance(dims, int):
        if dims < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got {dims=}")
        if dims > min(a.dim(), b.dim()):
            raise RuntimeError(f"tensordot expects dims < ndim_a or ndim_b, but got {dims=}")
        return list(range(-dims, 0)), list(range(dims))
    first, second = ([d] if isinstance(d, int) else list(d) for d in dims)
    if len(first) != len(second):
        raise RuntimeError("both dimension lists should have same length")
    return first, second


def _distinct(dims: Sequence[int], ndim: int) -> list[int]:
    found = [normal_dim(d, ndim) for d in dims]
    for d in found:
        if found.count(d) > 1:
            raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
    return found


@composite(
    samples=lambda: [
        (real(2, 3), real(2, 3, 2), ([0, 1], [2, 1])),
        (real(2, 3), real(3, 4), 1),
        (real(2), real(2, 3), 0),
        (real(2, 3), real(2, 1, 2), ([1, 0], [1, 0])),
        (real(2, 3), real(2, 3), 2),
    ],
    method=False,
)
def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sum of products over pairs of dimensions: the last `dims` of `a` with the first of `b`, or two lists of them.

    The dimensions that are left are those of the result, the ones of `a` first.
    """
    given = _dims_of(a, b, dims)
    for i, j in zip(*given, strict=True):
        normal_dim(i, a.dim())
        normal_dim(j, b.dim())
        if a.shape[i] != b.shape[j] and 1 not in (a.shape[i], b.shape[j]):
            raise RuntimeError(
                f"contracted dimensions need to match, but first has size {a.shape[i]} in dim {i} and second has "
                f"size {b.shape[j]} in dim {j}"
            )
    first, second = _distinct(given[0], a.dim()), _distinct(given[1], b.dim())
    _check_same(a, b)
    products.check_matrix_types(a._avals, b._avals)
    marks = [list(ascii_letters[: a.dim()]), list(ascii_letters[a.dim() : a.dim() + b.dim()])]
    lengthened: tuple[list[int], list[int]] = [], []  # where the other operand has length 1
    for i, j in zip(first, second, strict=True):
        marks[1][j] = marks[0][i]
        if a.shape[i] != b.shape[j]:
            marks[0][i] = marks[1][j] = "1"
            lengthened[a.shape[i] == 1].append(j if a.shape[i] == 1 else i)
    a, b = (
        call("sum", x, tuple(long), True, dtype=x.dtype) if long else x
        for x, long in zip((a, b), lengthened, strict=True)
    )
    out = "".join(
        m[d] for m, own in zip(marks, (first, second), strict=True) for d in range(len(m)) if d not in own
    )
    return _contract(a, b, f"{''.join(marks[0])},{''.join(marks[1])}->{out}", "ViewBackward0")


# A product and something added to it.
@op(
    name=lambda input, a, b, subscripts, beta, alpha, node: node,
    input=lambda g, beta: _times(g, beta),
    a=lambda g, b, subscripts, alpha, like: (
        like.zeros()
        if _is_skipped(subscripts, alpha)
        else _times(_contract(g, b, products.for_first(subscripts)), alpha)
    ),
    b=lambda g, a, subscripts, alpha, like: (
        like.zeros()
        if _is_skipped(subscripts, alpha)
        else _times(_contract(a, g, products.for_second(subscripts)), alpha)
    ),
    inplace=True,
    method=("_affine",),
    samples=lambda: [
        (real(4), real(2, 3), real(3, 4), "mk,kn->mn", 1, 1, "AddmmBackward0"),
        (real(2, 2), real(3, 2, 2), real(3, 2, 2), "bmk,bkn->mn", 0.5, 2.0, "AddbmmBackward0"),
        (real(2), real(2, 3), real(3), "mk,k->m", 0, 3, "AddmvBackward0"),
        (real(4), real(2, 3), real(3, 4), "mk,kn->mn", 2, 0, "AddmmBackward0"),
    ],
)
def _affine(input: Value, a: Value, b: Value, subscripts: str, beta: float, alpha: float, node: str) -> Value:
    """beta * input + alpha * the product; `input` is not looked at if beta is 0, nor a sum of products if alpha is."""
    common = common_dtype(a, b)
    if _is_skipped(subscripts, alpha):
        shape = (
            TABLE["contract"].shape([v.result.spec.aval for v in (a, b)], {"subscripts": subscripts})[0].shape
        )
        _expanded(input.shape, shape)
        common = common_dtype(input, a, b)
        added = constant(0, common) if beta == 0 else _scaled(cast(input, common), beta)
        return broadcast_to(added, shape)
    product = session.emit("contract", cast(a, common), cast(b, common), subscripts=subscripts)
    _expanded(input.shape, product.shape)
    common = common_dtype(input, product)
    product = _scaled(cast(product, common), alpha)
    if beta == 0:
        return product
    return session.emit("add", product, _scaled(cast(input, common), beta))


def _is_skipped(subscripts: str, alpha: float) -> bool:
    """Whether the operands of a product are not looked at, as in torch: nan and infinities in them do not count."""
    return alpha == 0 and products.sums(subscripts)


def _scaled(x: Value, factor: float) -> Value:
    return x if factor == 1 else session.emit("multiply", x, constant(factor, x.dtype))


def _times(g: Tensor, factor: float) -> Tensor:
    return g if factor == 1 else g * factor


def _matrices(input: Tensor, mat1: Tensor, mat2: Tensor) -> None:
    for name, x in (("mat1", mat1), ("mat2", mat2)):
        if x.dim() != 2:
            raise RuntimeError(f"{name} must be a matrix, got {x.dim()}-D tensor")
    products.check_mm_sizes(mat1._avals, mat2._avals)
    _check_dtypes(input, mat1, mat2)


def _check_dtypes(input: Tensor, mat1: Tensor, mat2: Tensor) -> None:
    for name, x in (("self", input), ("mat1", mat1)):
        if x.dtype is not mat2.dtype:
            kinds = title(x._avals.dtype), title(mat2._avals.dtype)
            raise RuntimeError(f"{name} and mat2 must have the same dtype, but got {kinds[0]} and {kinds[1]}")
    products.check_matrix_types(mat1._avals, mat2._avals)


def _vector(input: Tensor, mat: Tensor, vec: Tensor) -> None:
    products.check_mv(mat._avals, vec._avals, input._avals)


def _batch(input: Tensor, batch1: Tensor, batch2: Tensor) -> None:
    products.check_bmm_sizes(batch1._avals, batch2._avals)
    if not input.dtype is batch1.dtype is batch2.dtype:
        kinds = [C_NAMES[x.dtype.name] for x in (input, batch1, batch2)]
        raise RuntimeError(
            f"Input dtypes must be the same, got: input {kinds[0]}, batch1: {kinds[1]}, batch2: {kinds[2]}"
        )
    products.check_scalar_types("baddbmm", batch1._avals, batch2._avals)


def _summed_batch(input: Tensor, batch1: Tensor, batch2: Tensor) -> None:
    products.check_bmm_sizes(batch1._avals, batch2._avals)
    _check_dtypes(input, batch1, batch2)


def _vectors(input: Tensor, vec1: Tensor, vec2: Tensor) -> None:
    _check_vectors("addr", vec1=vec1, vec2=vec2)


def weighted(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows @ weight.T + bias, with matrices of (N, in) and (out, in).

    The gradient of the weights is made in their own order of dimensions. A transposition after it would wait for the
    sum over all shards, and cost a stage.
    """
    fits = rows.dim() == weight.dim() == 2 and rows.shape[1] == weight.shape[1]
    if not (fits and rows.dtype is weight.dtype is (weight if bias is None else bias).dtype):
        turned = weight.t()  # torch's words for what is wrong are of this product
        return call("mm", rows, turned) if bias is None else addmm(bias, rows, turned)
    products.check_matrix_types(rows._avals, weight._avals)
    if bias is None:
        return _contract(rows, weight, "mk,nk->mn", "MmBackward0")
    return _affine(bias, rows, weight, "mk,nk->mn", 1, 1, "AddmmBackward0")


Form = tuple[
    Callable[[Tensor, Tensor, Tensor], None], str, str
]  # the check, the product, the backward node's name
ADDMM: Form = (_matrices, "mk,kn->mn", "AddmmBackward0")
ADDMV: Form = (_vector, "mk,k->m", "AddmvBackward0")
ADDR: Form = (_vectors, "m,n->mn", "AddrBackward0")
ADDBMM: Form = (_summed_batch, "bmk,bkn->mn", "AddbmmBackward0")
BADDBMM: Form = (_batch, "bmk,bkn->bmn", "BaddbmmBackward0")


def _added(form: Form, input: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
    check, subscripts, node = form
    check(input, a, b)
    return _affine(input, a, b, subscripts, beta, alpha, node)


@composite(
    samples=lambda: [
        (real(4), real(2, 3), real(3, 4)),
        (real(2, 4), real(2, 3), real(3, 4), {"beta": 2, "alpha": 0.5}),
    ]
)
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2), of matrices; `input` broadcasts."""
    return _added(ADDMM, input, mat1, mat2, beta, alpha)


@composite(
    samples=lambda: [(real(2), real(2, 3), real(3)), (real(), real(2, 3), real(3), {"beta": 2, "alpha": 0.5})]
)
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * (mat @ vec), of a matrix and a vector; `input` broadcasts."""
    return _added(ADDMV, input, mat, vec, beta, alpha)


@composite(
    samples=lambda: [(real(2, 3), real(2), real(3)), (real(3), real(2), real(3), {"beta": 2, "alpha": 0.5})]
)
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * outer(vec1, vec2); `input` broadcasts."""
    return _added(ADDR, input, vec1, vec2, beta, alpha)


@composite(
    samples=lambda: [(real(2, 2), real(3, 2, 4), real(3, 4, 2)), (real(2), real(3, 1, 2), real(3, 2, 2))]
)
def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * the sum over the batch of batch1 @ batch2; `input` broadcasts."""
    return _added(ADDBMM, input, batch1, batch2, beta, alpha)


@composite(
    samples=lambda: [
        (real(3, 2, 2), real(3, 2, 4), real(3, 4, 2)),
        (real(2, 1), real(3, 2, 2), real(3, 2, 2)),
    ]
)
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * (batch1 @ batch2), of batches of matrices; `input` broadcasts."""
    return _added(BADDBMM, input, batch1, batch2, beta, alpha)


def _in_place(form: Form) -> Callable[..., Tensor]:
    check, subscripts, node = form

    def change(self: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        check(self, a, b)
        return self._affine_(a, b, subscripts, beta, alpha, node)

    change.__doc__ = "beta * the tensor + alpha * the product, written into the tensor."
    return change


attach(
    addmm_=_in_place(ADDMM),
    addmv_=_in_place(ADDMV),
    addr_=_in_place(ADDR),
    addbmm_=_in_place(ADDBMM),
    baddbmm_=_in_place(BADDBMM),
)
