"""Tensors made of all combinations of elements, and of blocks: cartesian_prod, kron, block_diag, vander, cdist."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from distgrad.ops.base import Tensor, call, composite, normal_dim
from distgrad.ops.joining import cat, stack
from distgrad.ops.making import linspace, tensor, zeros
from distgrad.ops.norms import vector_norm
from distgrad.ops.rearranging import flip
from distgrad.ops.samples import real
from distgrad.ops.shape import meshgrid

__all__ = [
    "block_diag",
    "cartesian_prod",
    "cdist",
    "combinations",
    "cross",
    "dist",
    "kron",
    "logspace",
    "rot90",
    "tril_indices",
    "triu_indices",
    "vander",
]


# Indices and points.
def _triangle(find: Any, row: int, col: int, offset: int, dtype: Any) -> Tensor:
    return tensor(np.stack(find(row, offset, col)).astype(np.int64), dtype=dtype)


def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None, layout: Any = None
) -> Tensor:
    """(2, n): rows and columns of the elements on and below a diagonal, row by row."""
    return _triangle(np.tril_indices, row, col, offset, dtype)


def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None, layout: Any = None
) -> Tensor:
    """(2, n): rows and columns of the elements on and above a diagonal, row by row."""
    return _triangle(np.triu_indices, row, col, offset, dtype)


def logspace(start: float, end: float, steps: int, base: float = 10.0, **options: Any) -> Tensor:
    """`steps` numbers from base**start to base**end, whose logarithms are evenly spaced."""
    requires_grad = options.pop("requires_grad", False)
    made = base ** linspace(start, end, steps, **options)
    return made.requires_grad_(requires_grad) if requires_grad else made


# Combinations.
@composite(method=False, samples=lambda: [(real(2), real(3, seed=1)), (real(3),)])
def cartesian_prod(*tensors: Tensor) -> Tensor:
    """(n, k): all combinations of an element of each of k vectors, the last going first through its own."""
    for x in tensors:
        if x.dim() != 1:
            raise RuntimeError(f"Expect a 1D vector, but got shape {list(x.shape)}")
    if len(tensors) == 1:
        return tensors[0]
    return stack([x.reshape(-1) for x in meshgrid(*tensors, indexing="ij")], 1)


@composite(method=False, samples=lambda: [(real(4),), (real(3), 2, True), (real(4), 3)])
def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """(n, r): the combinations of `r` elements of a vector, in the order of `itertools.combinations`."""
    if input.dim() != 1:
        raise RuntimeError(f"Expect a 1D vector, but got shape {list(input.shape)}")
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    chosen = np.array(list(choose(range(input.shape[0]), r)), np.int64).reshape(-1, r)
    return input[tensor(chosen)]


# Blocks.
@composite(method=False, samples=lambda: [(real(2, 3), real(1, 2, seed=1)), (real(2), real(2, 1), real())])
def block_diag(*tensors: Tensor) -> Tensor:
    """Matrices along the diagonal of one that is zero elsewhere; a vector is a row, a number 1 x 1."""
    blocks = [x.reshape(1, -1) if x.dim() < 2 else x for x in tensors]
    for i, x in enumerate(blocks):
        if x.dim() > 2:
            raise RuntimeError(
                f"torch.block_diag: Input tensors must have 2 or fewer dimensions. Input {i} has {x.dim()} dimensions"
            )
    columns = [x.shape[1] for x in blocks]
    rows, before = [], 0
    for x, n in zip(blocks, columns, strict=True):
        sides = [zeros(x.shape[0], m, dtype=x.dtype) for m in (before, sum(columns) - before - n)]
        rows.append(cat([sides[0], x, sides[1]], 1))
        before += n
    return cat(rows, 0)


@composite(
    samples=lambda: [(real(2, 3), real(3, 2, seed=1)), (real(2), real(2, 3, seed=1)), (real(2), real(3))]
)
def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: blocks input[i, j] * other."""
    n = max(input.dim(), other.dim())
    a, b = ((1,) * (n - x.dim()) + tuple(x.shape) for x in (input, other))
    left = input.reshape([m for size in a for m in (size, 1)])
    right = other.reshape([m for size in b for m in (1, size)])
    return (left * right).reshape([i * j for i, j in zip(a, b, strict=True)])


@composite(method=False, samples=lambda: [(real(4),), (real(3), 5, True)])
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """(n, N): the powers of each element of a vector, falling to 0 unless `increasing`."""
    if x.dim() != 1:
        raise RuntimeError("x must be a one-dimensional tensor.")
    n = x.shape[0] if N is None else N
    if n < 0:
        raise RuntimeError("N must be non-negative.")
    powers = [x * 0 + 1 if k == 0 else x**k for k in range(n)]
    if not powers:
        return x.reshape(-1, 1)[:, :0]
    return stack(powers if increasing else powers[::-1], 1)


@composite(samples=lambda: [(real(3, 4), 1, (0, 1)), (real(3, 4), 2), (real(2, 3, 2), -1, (0, 2))])
def rot90(input: Tensor, k: int = 1, dims: Any = (0, 1)) -> Tensor:
    """Turned `k` times by 90 degrees, from the first of two dimensions towards the second."""
    if len(dims) != 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    a, b = (normal_dim(d, input.dim()) for d in dims)
    if a == b:
        raise RuntimeError(
            "expected rotation dims to be different, but got dim0 = {} and dim1 = {}".format(*dims)
        )
    if k % 4 == 1:
        return flip(input, (b,)).transpose(a, b)
    if k % 4 == 3:
        return flip(input, (a,)).transpose(a, b)
    return flip(input, (a, b)) if k % 4 == 2 else input.clone()


# Distances and products of vectors.
@composite(samples=lambda: [(real(2, 3), real(2, 3, seed=1)), (real(2, 3), real(3, seed=1), 1)])
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of input - other."""
    return vector_norm(input - other, p)


@composite(
    method=False,
    samples=lambda: [
        (real(3, 2), real(4, 2, seed=1)),
        (real(2, 3, 2), real(2, 2, 2, seed=1), 1.0),
        (real(3, 2), real(2, 2), 3),
    ],
)
def cdist(
    x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary"
) -> Tensor:
    """The p-norm of the difference of each row of x1 (..., P, M) and each row of x2 (..., R, M): (..., P, R).

    It is worked out from the differences for every `compute_mode`: exact also for rows that are near to each other.
    """
    for name, x in (("X1", x1), ("X2", x2)):
        if not x.is_floating_point():
            raise RuntimeError(f"cdist only supports floating-point dtypes, {name} got: {x.dtype.title}")
        if x.dim() < 2:
            raise RuntimeError(f"cdist only supports at least 2D tensors, {name} got: {x.dim()}D")
    if x1.shape[-1] != x2.shape[-1]:
        raise RuntimeError(
            f"X1 and X2 must have the same number of columns. X1: {x1.shape[-1]} X2: {x2.shape[-1]}"
        )
    if p < 0:
        raise RuntimeError("cdist only supports non-negative p values")
    return vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


@composite(samples=lambda: [(real(2, 3), real(2, 3, seed=1)), (real(3, 2), real(3, 2, seed=1), 0)])
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The vector product along a dimension of length 3: the first such unless given."""
    if dim is None:
        dim = next((d for d, n in enumerate(input.shape) if n == 3), -1)
    a, b = call("broadcast_tensors", input, other)
    if a.shape[dim] != 3:
        raise RuntimeError(
            f"linalg.cross: inputs dimension {dim} must have length 3. Got {a.shape[dim]} and {b.shape[dim]}"
        )
    (ax, ay, az), (bx, by, bz) = a.unbind(dim), b.unbind(dim)
    return stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], dim)
