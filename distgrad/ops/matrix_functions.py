"""Functions of matrices that others are made into: ranks, condition numbers, long products, tensors as matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from distgrad.dtype import float32, float64
from distgrad.ops.base import Tensor, call
from distgrad.ops.combining import vander as _vander
from distgrad.ops.compare import where
from distgrad.ops.decompositions import eigvalsh, inv, solve
from distgrad.ops.determinants import slogdet
from distgrad.ops.linalg import INF, linalg_svd, matrix_norm
from distgrad.ops.making import as_tensor, eye

__all__: list[str] = []


def matrix_rank(
    A: Tensor,
    *,
    atol: Any = None,
    rtol: Any = None,
    hermitian: bool = False,
    tol: Any = None,
) -> Tensor:
    """How many singular values of (*, m, n) are above max(atol, rtol times the largest), as int64.

    `rtol` is max(m, n) times the smallest step of the dtype, or 0 if `atol` is given; `tol` is the older name of that.
    """
    if A.dim() < 2:
        raise RuntimeError(
            "torch.linalg.matrix_rank: The input tensor input must have at least 2 dimensions."
        )
    if A.dtype not in (float32, float64):
        raise RuntimeError("This function doesn't handle types other than float and double")
    atol = tol if atol is None else atol
    if rtol is None:
        rtol = 0.0 if atol is not None else max(A.shape[-2:]) * float(np.finfo(A.dtype.numpy).eps)
    s = eigvalsh(A.detach()).abs() if hermitian else linalg_svd(A.detach())[1]
    if not s.shape[-1]:
        return s.long().sum(-1)
    low, share = (as_tensor(0.0 if x is None else x, dtype=s.dtype) for x in (atol, rtol))
    bound = call("maximum", low, share * call("amax", s, -1))
    return (s > call("unsqueeze", bound, -1)).sum(-1)


def cond(A: Tensor, p: Any = None) -> Tensor:
    """The condition number |A| |A⁻¹| in the norm `p`; without it, or with 2 and -2, from the singular values."""
    if A.dim() < 2:
        raise RuntimeError("linalg.cond: The input tensor must have at least 2 dimensions.")
    if p is None or p in (2, -2):
        s = linalg_svd(A)[1]
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    if p not in ("fro", "nuc", 1, -1, INF, -INF):
        raise RuntimeError(f"linalg.cond got an invalid norm type: {p}")
    m, n = A.shape[-2:]
    if m != n:
        raise RuntimeError(
            f"linalg.cond(ord={p}): A must be batches of square matrices, but they are {m} by {n} matrices"
        )
    singular = slogdet(A.detach())[0] == 0
    safe = where(singular.unsqueeze(-1).unsqueeze(-1), eye(n, dtype=A.dtype), A)
    return where(singular, math.inf, matrix_norm(A, p) * matrix_norm(inv(safe), p))


def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of matrices in the order that takes the fewest steps; the first and the last may be vectors."""
    parts = list(tensors)
    if len(parts) < 2:
        raise RuntimeError(f"multi_dot(): expected at least 2 tensors but got {len(parts)}")
    for place, i in (("first", 0), ("last", len(parts) - 1)):
        if parts[i].dim() not in (1, 2):
            raise RuntimeError(f"multi_dot(): the {place} tensor must be 1D or 2D but got {parts[i].dim()}D")
    first, last = parts[0].dim() == 1, parts[-1].dim() == 1
    if first:
        parts[0] = parts[0].unsqueeze(0)
    if last:
        parts[-1] = parts[-1].unsqueeze(-1)
    for i, part in enumerate(parts):
        if part.dim() != 2:
            raise RuntimeError(f"multi_dot(): tensor {i} must be 2D but got {part.dim()}D")
    for i, (a, b) in enumerate(pairwise(parts)):
        if a.shape[1] != b.shape[0]:
            raise RuntimeError(
                f"multi_dot(): tensors {i} and {i + 1} with shapes {list(a.shape)} and {list(b.shape)} cannot be "
                "multiplied"
            )
    found = _multiplied(parts, _order((parts[0].shape[0], *(p.shape[1] for p in parts))))
    found = call("squeeze", found, 0) if first else found
    return call("squeeze", found, -1) if last else found


def _multiplied(parts: Sequence[Tensor], order: Any) -> Tensor:
    if isinstance(order, int):
        return parts[order]
    left, right = order
    return call("matmul", _multiplied(parts, left), _multiplied(parts, right))


@lru_cache(maxsize=256)
def _order(lengths: tuple[int, ...]) -> Any:
    """The order, as pairs of pairs of numbers, by dynamic programming over all runs of matrices."""
    n = len(lengths) - 1
    best: dict[tuple[int, int], tuple[int, Any]] = {(i, i + 1): (0, i) for i in range(n)}
    for size in range(2, n + 1):
        for i in range(n - size + 1):
            j = i + size
            choices = [
                (
                    best[i, k][0] + best[k, j][0] + lengths[i] * lengths[k] * lengths[j],
                    (best[i, k][1], best[k, j][1]),
                )
                for k in range(i + 1, j)
            ]
            best[i, j] = min(choices, key=lambda c: c[0])
    return best[0, n][1]


def chain_matmul(*matrices: Tensor) -> Tensor:
    """The older form of `linalg.multi_dot`."""
    return matrices[0] if len(matrices) == 1 else multi_dot(matrices)


def vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """The powers 0 to N - 1, or as many as there are numbers, of vectors (*, n): (*, n, N)."""
    count = x.shape[-1] if N is None and x.dim() else 0 if N is None else N
    if count <= 1:
        raise RuntimeError("N must be greater than 1.")
    if x.dim() == 1:
        return _vander(x, count, True)
    ones = call("unsqueeze", x, -1).expand((*x.shape, count - 1)).cumprod(-1)
    return call("cat", (ones[..., :1] * 0 + 1, ones), -1)


def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """The sum of x * y along `dim`; the other dimensions broadcast."""
    if not x.is_floating_point():
        raise RuntimeError(
            f"linalg.vecdot: Expected a floating point or complex tensor as input. Got {x.dtype.title}"
        )
    return (x * y).sum(dim)


def tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """The inverse of `A` as a matrix of which the first `ind` dimensions are the rows."""
    if ind <= 0:
        raise RuntimeError(f"Expected a strictly positive integer for 'ind', but got {ind}")
    rows, columns = tuple(A.shape[:ind]), tuple(A.shape[ind:])
    if math.prod(rows) != math.prod(columns):
        raise RuntimeError(
            "Expected self to satisfy the requirement prod(self.shape[ind:]) == prod(self.shape[:ind]), but got "
            f"{math.prod(columns)} != {math.prod(rows)}"
        )
    n = math.prod(rows)
    return inv(A.reshape(n, n)).reshape((*columns, *rows))


def tensorsolve(A: Tensor, B: Tensor, dims: Sequence[int] | None = None) -> Tensor:
    """X with tensordot(A, X, X.dim()) == B; the dimensions `dims` of A are moved to its end first."""
    if dims is not None:
        A = call("movedim", A, tuple(dims), tuple(range(A.dim() - len(dims), A.dim())))
    rows, columns = math.prod(A.shape[: B.dim()]), tuple(A.shape[B.dim() :])
    if math.prod(columns) != B.numel():
        raise RuntimeError(
            "Expected self to satisfy the requirement prod(self.shape[other.ndim:]) == "
            f"prod(self.shape[:other.ndim]), but got {math.prod(columns)} != {B.numel()}"
        )
    return solve(A.reshape(rows, math.prod(columns)), B.reshape(-1)).reshape(columns)
