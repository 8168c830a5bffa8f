"""Other shapes: flatten, unflatten, movedim, broadcast_to, atleast_1d, meshgrid and their kin.

They are made of `views.py`: reshape, permute, expand, squeeze and unsqueeze.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from distgrad.dtype import Size
from distgrad.ops.base import Tensor, attach, call, composite, normal_dim
from distgrad.ops.samples import real
from distgrad.ops.views import expand, inferred, permute, reshape, transpose, unsqueeze
from distgrad.primitives.elementwise import broadcast_shape

__all__ = [
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "broadcast_shapes",
    "broadcast_tensors",
    "broadcast_to",
    "flatten",
    "meshgrid",
    "moveaxis",
    "movedim",
    "ravel",
    "swapaxes",
    "swapdims",
    "unflatten",
]

Ints = tuple[int, ...]


# Dimensions made one, or several of one.
@composite(samples=lambda: [real(2, 3, 2), (real(2, 3, 2), 1), (real(2, 3, 2), 0, 1), real()])
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The dimensions from `start_dim` to `end_dim` made one; a view where `reshape` gives one."""
    shape = tuple(input.shape)
    first, last = normal_dim(start_dim, len(shape)), normal_dim(end_dim, len(shape))
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if not shape:
        return reshape(input, (1,))
    if first == last:
        return input
    return reshape(input, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


@composite(samples=lambda: [real(2, 3)])
def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension; a view of the tensor where it is contiguous."""
    return reshape(call("contiguous", input), (-1,))


@composite(samples=lambda: [(real(2, 6), 1, (3, 2)), (real(2, 6), -1, (2, -1))])
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """The dimension `dim` made several of lengths `sizes`, one of which may be -1."""
    shape, d = tuple(input.shape), normal_dim(dim, input.dim())
    sizes = tuple(sizes)
    if not sizes:
        raise RuntimeError("unflatten: sizes must be non-empty")
    try:
        lengths = inferred(sizes, shape[d])
    except RuntimeError:
        raise RuntimeError(
            f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of dim {d} ({shape[d]}) in the "
            "input tensor"
        ) from None
    return reshape(input, (*shape[:d], *lengths, *shape[d + 1 :]))


attach(
    view_as=lambda self, other: self.view(tuple(other.shape)),
    reshape_as=lambda self, other: reshape(self, tuple(other.shape)),
)


# Dimensions in another order.
def _int_list(dims: Any) -> list[int]:
    return [operator.index(d) for d in dims] if isinstance(dims, (tuple, list)) else [operator.index(dims)]


@composite(
    method=("movedim", "moveaxis"), samples=lambda: [(real(2, 3, 4), 0, 2), (real(2, 3, 4), (0, 1), (-1, 0))]
)
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """The dimensions `source` at the positions `destination`; the others keep their order."""
    ndim = input.dim()
    given = _int_list(source), _int_list(destination)
    if len(given[0]) != len(given[1]):
        raise RuntimeError(
            f"movedim: Invalid source or destination dims: source ({given[0]} dims) should contain the same number of "
            f"dims as destination ({given[1]} dims)"
        )
    sources, places = ([normal_dim(d, ndim) for d in dims] for dims in given)
    for name, dims, said in (("source", sources, given[0]), ("destination", places, given[1])):
        if len(set(dims)) != len(dims):
            raise RuntimeError(f"movedim: repeated dim in `{name}` ({said})")
    rest = iter(d for d in range(ndim) if d not in sources)
    moved = dict(zip(places, sources, strict=True))
    return permute(input, tuple(moved[d] if d in moved else next(rest) for d in range(ndim)))


moveaxis = movedim
swapaxes = swapdims = transpose


# Broadcasting.
@composite(samples=lambda: [(real(3, 1), (2, 3, 4))])
def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """`expand`: dimensions of length 1 repeated."""
    return expand(input, size)


@composite(samples=lambda: [(real(3, 1), real(2, 3, 4))])
def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """`input` expanded to the shape of `other`."""
    return expand(input, tuple(other.shape))


def broadcast_shapes(*shapes: Any) -> Size:
    """The shape that tensors of these shapes broadcast to."""
    return Size(broadcast_shape(*(tuple(_int_list(s)) for s in shapes)))


@composite(method=False, samples=lambda: [(real(3, 1), real(4)), (real(2), real())])
def broadcast_tensors(*tensors: Any) -> Any:
    """The tensors expanded to the shape they broadcast to."""
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    shape = broadcast_shape(*(tuple(x.shape) for x in given))
    return tuple(x if tuple(x.shape) == shape else expand(x, shape) for x in given)


def _each(function: Any, tensors: tuple[Any, ...]) -> Any:
    """A function of one tensor, for one or several."""
    if len(tensors) == 1 and not isinstance(tensors[0], (tuple, list)):
        return function(tensors[0])
    given = tensors[0] if len(tensors) == 1 else tensors
    return tuple(function(x) for x in given)


@composite(method=False, samples=lambda: [real(), real(2)])
def atleast_1d(*tensors: Any) -> Any:
    """A number as a vector of one element."""
    return _each(lambda x: x if x.dim() else reshape(x, (1,)), tensors)


@composite(method=False, samples=lambda: [real(), real(2), real(2, 3)])
def atleast_2d(*tensors: Any) -> Any:
    """Numbers and vectors as matrices of one row."""
    return _each(lambda x: x if x.dim() > 1 else unsqueeze(atleast_1d(x), 0), tensors)


@composite(method=False, samples=lambda: [real(), real(2), real(2, 3)])
def atleast_3d(*tensors: Any) -> Any:
    """Numbers, vectors and matrices with three dimensions, the last of length 1."""
    return _each(lambda x: x if x.dim() > 2 else unsqueeze(atleast_2d(x), -1), tensors)


@composite(
    method=False,
    samples=lambda: [(real(2), real(3), {"indexing": "ij"}), (real(2), real(3), {"indexing": "xy"})],
)
def meshgrid(*tensors: Any, indexing: str = "ij") -> Any:
    """For each vector a tensor over the grid of all, in which it varies along its own dimension."""
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    vectors = [atleast_1d(x) for x in given]
    if indexing not in ("ij", "xy"):
        raise RuntimeError(f'torch.meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}')
    shape = tuple(x.shape[0] for x in vectors)
    grids = [
        expand(reshape(x, tuple(n if d == i else 1 for d in range(len(shape)))), shape)
        for i, (x, n) in enumerate(zip(vectors, shape, strict=True))
    ]
    return tuple(transpose(g, 0, 1) for g in grids) if indexing == "xy" and len(grids) > 1 else tuple(grids)
