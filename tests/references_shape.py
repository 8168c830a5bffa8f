"""References of ops that arrange, select and multiply: see `references.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from references import Array, reference, same


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
    einsum=lambda equation, *operands: np.einsum(
        equation, *(operands[0] if len(operands) == 1 else operands)
    ),
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


def running(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, dim: function(x, dim) if x.ndim else x


same(
    sort=ordered,
    argsort=lambda *args: ordered(*args)[1],
    msort=lambda x: np.sort(x, 0),
    kthvalue=nth,
    _median_whole=median,
    _median_dim=median,
    cumsum=running(np.cumsum),
    cumprod=running(np.cumprod),
)


@reference("slice_put")
def _(x: Array, src: Array, slices: Any) -> Array:
    x = x.copy()
    x[strided(x, slices)] = src
    return x


# Indices, written as loops over all of them.
def each(index: Array, dim: int) -> Any:
    """For each place in `index` the place, and the place with the index put in along `dim`."""
    for at in np.ndindex(index.shape):
        there = list(at)
        there[dim] = int(index[at])
        yield at, tuple(there)


@reference("gather")
def gather(x: Array, dim: int, index: Array) -> Array:
    out = np.zeros(index.shape, x.dtype)
    for at, there in each(index, dim):
        out[at] = x[there]
    return out


@reference("scatter")
def _(x: Array, dim: int, index: Array, src: Any) -> Array:
    x = x.copy()
    for at, there in each(index, dim):
        x[there] = src[at] if isinstance(src, Array) else src
    return x


@reference("scatter_add")
def _(x: Array, dim: int, index: Array, src: Array) -> Array:
    x = x.copy()
    for at, there in each(index, dim):
        x[there] += src[at]
    return x


def write_slices(x: Array, dim: int, index: Array, write: Callable[[Array, int, int], None]) -> Array:
    x = x.copy()
    front = np.moveaxis(x, dim, 0)
    for i, place in enumerate(index):
        write(front, i, int(place))
    return x


@reference("index_add")
def _(x: Array, dim: int, index: Array, source: Array, alpha: float = 1) -> Array:
    def write(front: Array, i: int, place: int) -> None:
        front[place] += np.asarray(alpha).astype(x.dtype) * np.moveaxis(source, dim, 0)[i]

    return write_slices(x, dim, index, write)


@reference("index_copy")
def _(x: Array, dim: int, index: Array, source: Array) -> Array:
    def write(front: Array, i: int, place: int) -> None:
        front[place] = np.moveaxis(source, dim, 0)[i]

    return write_slices(x, dim, index, write)


@reference("index_fill")
def _(x: Array, dim: int, index: Array, value: Any) -> Array:
    def write(front: Array, i: int, place: int) -> None:
        front[place] = value

    return write_slices(x, dim, index, write)


@reference("take_along_dim")
def _(x: Array, index: Array, dim: int | None = None) -> Array:
    if dim is None:
        x, index = x.reshape(-1), index.reshape(-1)
    return np.take_along_axis(x, index, dim or 0)


@reference("_put_flat")
def _(x: Array, index: Array, shape: Any) -> Array:
    out = np.zeros(math.prod(shape), x.dtype)
    np.add.at(out, index.reshape(-1), x.reshape(-1))
    return out.reshape(shape)


same(index_select=lambda x, dim, index: np.take(x, index, dim), take=np.take)


# Masks, and tensors as indices.
def key(x: Array, dims: Any, indices: Any) -> tuple[Any, ...]:
    """The index that has `indices` at `dims`; NumPy puts what they choose where torch does, or in front if apart."""
    found = dict(zip(dims, indices, strict=True))
    return tuple(found.get(d, slice(None)) for d in range(x.ndim))


def placed(x: Array, dims: Any, indices: Any) -> tuple[Array, tuple[Any, ...]]:
    """A view of x with `dims` side by side, at the first of them, and the key for it."""
    first, rest = dims[0], [d for d in range(x.ndim) if d not in dims]
    view = x.transpose([*rest[:first], *dims, *rest[first:]])
    return view, key(view, range(first, first + len(dims)), indices)


def put(x: Array, key: Any, values: Any, accumulate: bool) -> None:
    np.add.at(x, key, values) if accumulate else x.__setitem__(key, values)


@reference("_index")
def _(x: Array, indices: Any, dims: Any) -> Array:
    view, where = placed(x, dims, indices)
    return view[where]


@reference("_index_sum")
def _(x: Array, indices: Any, dims: Any, shape: Any) -> Array:
    out = np.zeros(shape, x.dtype)
    put(*placed(out, dims, indices), x, True)
    return out


@reference("_put_at")
def _(x: Array, indices: Any, values: Array, dims: Any, accumulate: bool) -> Array:
    out = x.copy()
    put(*placed(out, dims, indices), values, accumulate)
    return out


@reference("_put_where")
def _(x: Array, mask: Array, values: Array, dim: int, accumulate: bool) -> Array:
    out = x.copy()
    put(out, (slice(None),) * dim + (mask,), values, accumulate)
    return out


@reference("index_put")
def _(x: Array, indices: Any, values: Array, accumulate: bool = False) -> Array:
    out = x.copy()
    put(out, tuple(slice(None) if i is None else i for i in indices), values, accumulate)
    return out


@reference("_unchoose")
def _(x: Array, mask: Array, dim: int) -> Array:
    out = np.zeros((*x.shape[:dim], *mask.shape, *x.shape[dim + 1 :]), x.dtype)
    out[(slice(None),) * dim + (mask,)] = x
    return out


@reference("masked_scatter")
def _(x: Array, mask: Array, source: Array) -> Array:
    x, mask = (a.copy() for a in np.broadcast_arrays(x, mask))
    x[mask] = source.reshape(-1)[: mask.sum()]
    return x


@reference("masked_select")
def _(x: Array, mask: Array) -> Array:
    x, mask = np.broadcast_arrays(x, mask)
    return x[mask]


same(
    alias=np.copy,
    _choose=lambda x, mask, dim: x[(slice(None),) * dim + (mask,)],
    _masked_select=lambda x, mask: x[mask],
    masked_fill=lambda x, mask, value: np.where(mask, np.asarray(value).astype(x.dtype), x),
    _nonzero=np.argwhere,
    _nonzero_tuple=np.nonzero,
    nonzero=lambda x, as_tuple=False: np.nonzero(x) if as_tuple else np.argwhere(x),
    argwhere=np.argwhere,
)
