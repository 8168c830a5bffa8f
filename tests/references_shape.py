"""References of ops that arrange, select and multiply: see `references.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from references import Array, reference, same
from scipy import linalg


# Products.
def plus(product: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """beta * x + alpha * product; for integers beta and alpha are cut to integers."""

    def add(x: Array, a: Array, b: Array, beta: float = 1, alpha: float = 1) -> Array:
        beta, alpha = (np.asarray(n).astype(x.dtype) for n in (beta, alpha))
        return beta * x + alpha * product(a, b)

    return add


@reference("tensordot")
def _(a: Array, b: Array, dims: Any = 2) -> Array:
    """A dimension of length 1 is repeated to the length of the other."""
    da, db = (list(range(a.ndim - dims, a.ndim)), list(range(dims))) if isinstance(dims, int) else dims
    for i, j in zip(da, db, strict=True):
        a, b = (
            x.repeat(m, d) if x.shape[d] == 1 else x for x, d, m in ((a, i, b.shape[j]), (b, j, a.shape[i]))
        )
    return np.tensordot(a, b, (da, db))


same(
    dot=np.dot,
    mv=np.matmul,
    mm=np.matmul,
    matmul=np.matmul,
    bmm=np.matmul,
    outer=np.outer,
    vdot=np.vdot,
    inner=np.inner,
    addmm=plus(np.matmul),
    addmv=plus(np.matmul),
    addr=plus(np.outer),
    addbmm=plus(lambda a, b: (a @ b).sum(0)),
    baddbmm=plus(np.matmul),
    _affine=lambda x, a, b, subscripts, beta, alpha, node: plus(lambda a, b: np.einsum(subscripts, a, b))(
        x, a, b, beta, alpha
    ),
)


@reference("einsum")
def _(equation: str, operands: Any) -> Array:
    for word, x in zip(equation.split("->")[0].split(","), operands, strict=True):
        lengths = set(zip(word, x.shape, strict=False)) if "." not in word else {}
        if len(lengths) > len(set(word)):  # NumPy lets this pass for length 0
            raise ValueError("a letter stands for two lengths")
    return np.einsum(equation, *operands)


@reference("_contract")
def _(a: Array, b: Array, subscripts: str) -> Array:
    """As einsum; a "1" stands for a dimension of length 1."""
    operands, out = subscripts.split("->")
    names = operands.split(",")
    a, b = (
        x.squeeze(tuple(d for d, n in enumerate(w) if n == "1")) for x, w in zip((a, b), names, strict=True)
    )
    made = np.einsum(f"{operands}->{out}".replace("1", ""), a, b)
    return np.expand_dims(made, tuple(d for d, n in enumerate(out) if n == "1"))


# Shape.
def run_of(ints: tuple[Any, ...]) -> tuple[int, ...]:
    """`f(2, 3)` and `f((2, 3))` are alike."""
    return tuple(ints[0]) if len(ints) == 1 and isinstance(ints[0], (tuple, list)) else ints


def strided(x: Array, slices: Any) -> tuple[Array, ...]:
    return np.ix_(*(np.arange(start, start + length * step, step) for start, length, step in slices))


same(
    _view=lambda x, *shape: x.reshape(run_of(shape)),
    _unsafe_view=lambda x, *shape: x.reshape(run_of(shape)),
    reshape=lambda x, *shape: x.reshape(run_of(shape)),
    permute=lambda x, *dims: x.transpose(run_of(dims)),
    transpose=lambda x, a, b: x.swapaxes(a, b) if x.ndim else x,
    t=np.transpose,
    unsqueeze=lambda x, dim: np.expand_dims(x, dim),
    slice_take=lambda x, slices: x[strided(x, slices)],
    select=lambda x, dim, index: x.take(index, dim),
    narrow=lambda x, dim, start, n: x.take(range(start, start + n), dim),
    unbind=lambda x, dim=0: tuple(x.take(i, dim) for i in range(x.shape[dim])),
    _spread=lambda x, dims, shape: np.broadcast_to(np.expand_dims(x, dims), shape),
)


@reference("expand", "broadcast_to")
def _(x: Array, *size: Any) -> Array:
    size = run_of(size)
    old = (None,) * (len(size) - x.ndim) + x.shape
    return np.broadcast_to(x, [m if n == -1 else n for n, m in zip(size, old, strict=True)])


@reference("squeeze")
def _(x: Array, dim: Any = None) -> Array:
    dims = range(x.ndim) if dim is None else dim if isinstance(dim, tuple) else (dim,)
    return x.squeeze(tuple(d for d in dims if x.ndim and x.shape[d] == 1))


@reference("flatten")
def _(x: Array, start: int = 0, end: int = -1) -> Array:
    if x.ndim == 0:
        return x.reshape(1)
    start, end = start % x.ndim, end % x.ndim
    return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


@reference("unflatten")
def _(x: Array, dim: int, sizes: Any) -> Array:
    dim = dim % x.ndim
    sizes = [x.shape[dim] // -math.prod(sizes) if n == -1 else n for n in sizes]
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


@reference("diag_embed")
def _(x: Array, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Array:
    n, k = x.shape[-1], abs(offset)
    out = np.zeros((*x.shape[:-1], n + k, n + k), x.dtype)
    for i in range(n):
        out[..., i + max(0, -offset), i + max(0, offset)] = x[..., i]
    return np.moveaxis(out, (-2, -1), (dim1, dim2))


def pieces(x: Array, at: Any, dim: int) -> tuple[Array, ...]:
    return tuple(np.split(x, at, dim))


@reference("split", "split_with_sizes")
def _(x: Array, size: Any, dim: int = 0) -> tuple[Array, ...]:
    if isinstance(size, int):
        return pieces(x, range(size, x.shape[dim], size), dim)
    if sum(size) != x.shape[dim]:
        raise ValueError("the sizes do not add up")
    return pieces(x, np.cumsum(size)[:-1], dim)


@reference("chunk")
def _(x: Array, chunks: int, dim: int = 0) -> tuple[Array, ...]:
    size = -(-x.shape[dim] // chunks)
    return (x,) * chunks if size == 0 else pieces(x, range(size, x.shape[dim], size), dim)


@reference("roll")
def _(x: Array, shifts: Any, dims: Any = ()) -> Array:
    return np.roll(x, shifts, None if dims == () else dims)


@reference("repeat_interleave")
def _(x: Array, repeats: Any, dim: int | None = None) -> Array:
    return np.repeat(x, repeats, dim)


@reference("repeat")
def _(x: Array, *repeats: Any) -> Array:
    return np.tile(x, run_of(repeats))


same(
    ravel=np.ravel,
    movedim=np.moveaxis,
    expand_as=lambda x, other: np.broadcast_to(x, other.shape),
    broadcast_tensors=lambda *xs: tuple(np.broadcast_arrays(*xs)),
    atleast_1d=np.atleast_1d,
    atleast_2d=np.atleast_2d,
    atleast_3d=np.atleast_3d,
    meshgrid=lambda *xs, indexing: tuple(np.meshgrid(*xs, indexing=indexing)),
    cat=lambda xs, dim=0: np.concatenate([x for x in xs if x.shape != (0,) or xs[0].ndim == 1], dim),
    stack=lambda xs, dim=0: np.stack(xs, dim),
    hstack=np.hstack,
    vstack=np.vstack,
    dstack=np.dstack,
    column_stack=np.column_stack,
    tensor_split=lambda x, how, dim=0: tuple(np.array_split(x, how, dim)),
    flip=lambda x, *dims: np.flip(x, run_of(dims)) if x.ndim else x,
    fliplr=np.fliplr,
    flipud=np.flipud,
    tile=lambda x, *dims: np.tile(x, run_of(dims)),
    tril=np.tril,
    triu=np.triu,
    diagonal=np.diagonal,
    _diagonal_copy=np.diagonal,
    diag=np.diag,
    trace=np.trace,
)


# In order.
def ordered(x: Array, dim: int = -1, descending: bool = False) -> tuple[Array, Array]:
    """The elements in order and where they were; there are no ties in the samples."""
    if x.ndim == 0:
        return x, np.zeros((), int)
    index = np.argsort(x, dim, stable=True)
    index = np.flip(index, dim) if descending else index
    return np.take_along_axis(x, index, dim), index


def nth(x: Array, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Array, ...]:
    found = [part.take([k - 1], dim) for part in ordered(x, dim)]
    return tuple(part if keepdim else part.squeeze(dim) for part in found)


@reference("topk")
def _(x: Array, k: int, dim: int = -1, largest: bool = True) -> tuple[Array, ...]:
    return tuple(part.take(range(k), dim) if x.ndim else part for part in ordered(x, dim, largest))


@reference("median")
def median(x: Array, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower of the two in the middle."""
    if dim is None:
        return np.sort(x, None)[(x.size - 1) // 2] if x.size else np.full((), np.nan)
    return nth(x, (x.shape[dim] - 1) // 2 + 1, dim, keepdim)


def recurrence(a: Array, b: Array, dim: int) -> Array:
    out = np.zeros_like(b)
    for i in range(b.shape[dim]):
        at = (*[slice(None)] * dim, i)
        out[at] = b[at] + (a[at] * out[(*at[:-1], i - 1)] if i else 0)
    return out


def running(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, dim: function(x, dim) if x.ndim else x


same(
    sort=ordered,
    argsort=lambda *args: ordered(*args)[1],
    msort=lambda x: np.sort(x, 0),
    kthvalue=nth,
    _median_whole=median,
    _median_dim=median,
    nanmedian=median,
    _nanmedian_whole=median,
    _nanmedian_dim=median,
    cumsum=running(np.cumsum),
    cumprod=running(np.cumprod),
    _recurrence=recurrence,
    linalg_svd=lambda x: tuple(np.linalg.svd(x, full_matrices=False)),
)


# Matrices.
def triangle(a: Array, upper: bool, unit: bool = False) -> Array:
    if a.shape[-1] != a.shape[-2]:
        raise ValueError(a.shape)
    a = np.triu(a) if upper else np.tril(a)
    return a - a * np.eye(a.shape[-1]) + np.eye(a.shape[-1]) if unit else a


def solved(a: Array, b: Array) -> Array:
    vectors = b.ndim == 1 or b.shape == a.shape[:-1]
    return np.linalg.solve(a, b[..., None])[..., 0] if vectors else np.linalg.solve(a, b)


def solved_triangular(a: Array, b: Array, *, upper: bool, left: bool = True) -> Array:
    a = triangle(a, upper)
    return np.linalg.solve(a, b) if left else np.linalg.solve(a.mT, b.mT).mT


def factor(a: Array, upper: bool = False) -> Array:
    lower = np.linalg.cholesky(a)
    return lower.mT if upper else lower


def product_with_itself(a: Array, upper: bool) -> Array:
    return a.mT @ a if upper else a @ a.mT


same(
    _solve_triangular=lambda a, b, upper, unit: np.linalg.solve(triangle(a, upper, unit), b),
    solve_triangular=solved_triangular,
    _cholesky=np.linalg.cholesky,
    cholesky=factor,
    cholesky_solve=lambda b, a, upper=False: np.linalg.solve(
        product_with_itself(triangle(a, upper), upper), b
    ),
    cholesky_inverse=lambda a, upper=False: np.linalg.inv(product_with_itself(triangle(a, upper), upper)),
    _solve=np.linalg.solve,
    matrix_exp=linalg.expm,
    solve=solved,
    inv=np.linalg.inv,
    slogdet=lambda a: tuple(map(np.asarray, np.linalg.slogdet(a))),
    det=np.linalg.det,
    logdet=lambda a: np.log(np.linalg.det(a)),
    linalg_eigh=lambda a, uplo="L": tuple(np.linalg.eigh(a, uplo)),
    eigvalsh=np.linalg.eigvalsh,
    linalg_qr=lambda a: tuple(np.linalg.qr(a)),
    _cofactors=lambda a: np.linalg.det(a)[..., None, None] * np.linalg.inv(a).mT,
    _lstsq=lambda a, b, rcond: (
        np.linalg.pinv(a) @ b,
        np.full(a.shape[:-2], float(min(a.shape[-2:]))),
        np.linalg.svd(a, compute_uv=False),
    ),
    pinv=np.linalg.pinv,
    matrix_power=np.linalg.matrix_power,
)


@reference("slice_put")
def _(x: Array, src: Array, slices: Any) -> Array:
    x = x.copy()
    x[strided(x, slices)] = src
    return x


@reference("put_parts")
def _(parts: Any, slices: Any, cuts: Any) -> Array:
    out = np.zeros(cuts.shape, parts[0].dtype)
    for part, triples in zip(parts, slices, strict=True):
        out[strided(out, triples)] = part
    return out


@reference("slice_pad")
def _(x: Array, slices: Any, cuts: Any) -> Array:
    out = np.zeros(cuts.shape, x.dtype)
    out[strided(out, slices)] = x
    return out


# Of a 3 by 4 matrix: every other element of the second column, which is where the samples' paths lead.
@reference("_follow")
def _(x: Array, path: Any) -> Array:
    return np.broadcast_to(x[::2, 1], path.shape)


@reference("_put_along")
def _(x: Array, src: Array, path: Any) -> Array:
    x = x.copy()
    x[::2, 1] = src
    return x


@reference("_pad_along")
def _(x: Array, path: Any, cuts: Any) -> Array:
    out = np.zeros(cuts.shape, x.dtype)
    out[::2, 1] = x.sum(0) if x.ndim == 2 else x
    return out


@reference("_view_along")
def _(x: Array, path: Any, name: str) -> Array:
    if name == "UnfoldBackward0":
        size, dim = (3, 1) if x.shape == (3, 7) else (4, 0)
        return np.lib.stride_tricks.sliding_window_view(x, size, dim)
    size, steps, first = ((2, 3), (1, 4), 1) if path.shape == (2, 3) else ((3, 2, 2), (3, 0, 2), 2)
    return np.lib.stride_tricks.as_strided(x.reshape(-1)[first:], size, [8 * s for s in steps])
