"""Places in sorted rows and membership: searchsorted, bucketize, isin, histc, bincount, unique."""

from __future__ import annotations

import math
from typing import Any

from distgrad import session
from distgrad.dtype import dtype_of
from distgrad.ops.base import Tensor, Value, attach, cast, common_dtype, composite, normal_dim, op
from distgrad.ops.joining import cat
from distgrad.ops.making import as_tensor, zeros
from distgrad.ops.masks import nonzero
from distgrad.ops.ordering import cumsum, sort
from distgrad.ops.samples import real, whole

__all__ = ["bincount", "bucketize", "histc", "isin", "searchsorted", "unique", "unique_consecutive"]


@op(
    method=False,
    samples=lambda: [(sort(real(2, 4))[0], real(2, 3, seed=1), True), (sort(real(5))[0], real(2, 2), False)],
)
def _places(rows: Value, x: Value, right: bool) -> Value:
    common = common_dtype(rows, x)
    return session.emit("searchsorted", cast(rows, common), cast(x, common), right=bool(right))


def _side(right: bool, side: str | None, name: str) -> bool:
    if side not in (None, "left", "right"):
        raise RuntimeError(f"torch.searchsorted(): side can only be 'left' or 'right' but got {side}")
    if side == "left" and right:
        raise RuntimeError(
            "torch.searchsorted(): side and right can't be set to opposites, got side of left while right was True"
        )
    return right or side == "right"


@composite(
    method=False,
    samples=lambda: [
        (sort(real(2, 4))[0], real(2, 3, seed=1)),
        (sort(real(5))[0], real(2, 2)),
        (sort(real(5))[0], 0.5),
    ],
)
def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """For each element of `input` where it would go in its row of `sorted_sequence`: before equal ones, or after if
    `right`. The leading dimensions are the same, or `sorted_sequence` is one row for all. int64, or int32.
    """
    right = _side(right, side, "searchsorted")
    x = as_tensor(input)
    rows = sorted_sequence if sorter is None else sorted_sequence.gather(-1, sorter)
    if rows.dim() != 1 and (x.dim() == 0 or tuple(rows.shape[:-1]) != tuple(x.shape[:-1])):
        raise RuntimeError(
            "torch.searchsorted(): boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries "
            f"tensor and input value tensor must match, but we got boundaries tensor {list(rows.shape)} and input "
            f"value tensor {list(x.shape)}"
        )
    if not isinstance(input, Tensor):
        x = x.to(rows.dtype) if rows.is_floating_point() else x
    found = _places(rows, x, right)
    return found.to(dtype_of("int32")) if out_int32 else found


@composite(method=False, samples=lambda: [(real(2, 3), sort(real(4, seed=1))[0]), (0.5, sort(real(4))[0])])
def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """For each element the number of the bucket between `boundaries`, which rise, that it lies in."""
    if boundaries.dim() != 1:
        raise RuntimeError(f"boundaries tensor must be 1 dimension, but got dim({boundaries.dim()})")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


@composite(
    method=False,
    samples=lambda: [
        (whole(2, 3, high=5), whole(3, high=5, seed=1)),
        (whole(4), whole(2, 2, seed=1)),
        (whole(3), 1),
    ],
)
def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each element is one of `test_elements`. Costs a sort of these and a search."""
    x, among = as_tensor(elements), as_tensor(test_elements).reshape(-1)
    if not among.numel():
        return (x != x) if not invert else (x == x)
    ordered = sort(among)[0]
    place = searchsorted(ordered, x).clamp(max=among.numel() - 1)
    found = ordered[place] == x
    return ~found if invert else found


@composite(
    samples=lambda: [(real(9), 4, -1, 1), (real(2, 5), 3), (whole(7, high=9).double(), 5, 0, 0)],
)
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements lie in each of `bins` buckets of equal width from `min` to `max`, which counts with the last.

    Where both are 0, from the least element to the greatest. Elements outside, and nan, are not counted.
    """
    if not input.is_floating_point():
        raise NotImplementedError(f"\"histogram_cpu\" not implemented for '{input.dtype.title}'")
    if bins <= 0:
        raise RuntimeError(f"torch.histc(): bins must be > 0, but got {bins}")
    if min > max:
        raise RuntimeError("torch.histc: max must be larger than min")
    x = input.detach().reshape(-1)
    low: Any = min
    high: Any = max
    if min == max and x.numel():
        low, high = (x.min(), x.max()) if min == 0 else (x.new_tensor(min), x.new_tensor(max))
        same = (low == high).to(x.dtype)
        low, high = low - same, high + same
    place = ((x - low) / (high - low) * bins).floor()
    inside = (x >= low) & (x <= high)
    place = place.nan_to_num(0.0).clamp(0, bins - 1).long()
    return zeros(bins, dtype=input.dtype).scatter_add(0, place, inside.to(input.dtype))


@composite(
    samples=lambda: [
        (whole(9, low=0, high=5),),
        (whole(4, low=0, high=3), None, 7),
    ]
)
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each number from 0 up occurs, or the sum of the `weights` there. Waits for the largest number."""
    if input.dim() != 1 or input.is_floating_point():
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if minlength < 0:
        raise RuntimeError("minlength should be >= 0")
    x = input.long()
    if x.numel():
        least, most = int(x.min()), int(x.max())
        if least < 0:
            raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
        minlength = max(minlength, most + 1)
    if weights is None:
        return zeros(minlength, dtype=x.dtype).scatter_add(0, x, x * 0 + 1)
    w = weights if weights.is_floating_point() else weights.double()
    return zeros(minlength, dtype=w.dtype).scatter_add(0, x, w)


def _runs(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Of a vector or rows: which of them begin a run of equal ones, and the number of the run of each."""
    first = zeros(min(1, ordered.shape[0]), dtype="bool").logical_not()
    changes = ordered[1:] != ordered[:-1]
    if changes.dim() > 1:
        changes = changes.any(1)
    begins = cat([first, changes]) if ordered.shape[0] else first
    return begins, cumsum(begins.long(), 0) - 1


def _slices_of(input: Tensor, dim: int) -> tuple[int, Tensor]:
    """The dimension from the front, and the slices along it as rows."""
    shape = tuple(input.shape)
    if not shape:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    d = normal_dim(dim, len(shape))
    if 0 in shape[:d] + shape[d + 1 :]:
        raise RuntimeError(
            "There are 0 sized dimensions, and they aren't selected, so unique cannot be applied"
        )
    rows = input.detach().movedim(d, 0)
    return d, rows.reshape(shape[d], math.prod(shape) // max(1, shape[d]) if shape[d] else 1)


def _ranks(columns: Tensor) -> tuple[Tensor, Tensor]:
    """In each column: the number of smaller distinct elements, and in which order to take it so that it rises."""
    ordered, order = sort(columns, 0)
    changes = (ordered[1:] != ordered[:-1]).long()
    number = cumsum(cat([zeros(1, columns.shape[1], dtype="int64"), changes]), 0)
    return number.scatter(0, order, number), order


def _unique_slices(input: Tensor, dim: int, return_inverse: bool, return_counts: bool) -> Any:
    """Rows are ranked column by column, and then by pairs of ranks, which takes log2 of their length such rounds."""
    d, rows = _slices_of(input, dim)
    n = rows.shape[0]
    if n == 0:
        empty = zeros(0, dtype="int64")
        return _answer(input.clone(), empty, empty, return_inverse, return_counts)
    rank, order = _ranks(rows)
    while rank.shape[1] > 1:
        pairs = rank.shape[1] // 2
        joined = rank[:, : 2 * pairs : 2] * n + rank[:, 1 : 2 * pairs : 2]
        rank, order = _ranks(cat([joined, rank[:, 2 * pairs :]], 1))
    begins, _ = _runs(rank[:, 0][order[:, 0]])
    return _chosen_slices(input, d, order[:, 0][begins], rank[:, 0], return_inverse, return_counts)


def _chosen_slices(
    input: Tensor, dim: int, chosen: Tensor, number: Tensor, return_inverse: bool, return_counts: bool
) -> Any:
    counts = _counts(number, chosen.numel()) if return_counts else None
    return _answer(input.index_select(dim, chosen), number, counts, return_inverse, return_counts)


def _counts(number: Tensor, n: int) -> Tensor:
    return zeros(n, dtype=number.dtype).scatter_add(0, number, number * 0 + 1)


def _answer(
    output: Tensor, inverse: Tensor, counts: Tensor | None, return_inverse: bool, return_counts: bool
) -> Any:
    parts = [output] + [inverse] * return_inverse + ([counts] if return_counts else [])
    return tuple(parts) if len(parts) > 1 else output


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements, rising; with `return_inverse` where each element is found among them, with
    `return_counts` how often. With `dim` the distinct slices along it, as if sorted. Waits for their number.
    """
    if dim is not None:
        return _unique_slices(input, dim, return_inverse, return_counts)
    flat = input.detach().reshape(-1)
    ordered, order = sort(flat)
    begins, number = _runs(ordered)
    output = ordered[begins]
    inverse = number.new_zeros(number.shape).scatter(0, order, number).reshape(input.shape)
    counts = _counts(number, output.numel()) if return_counts else None
    return _answer(output, inverse, counts, return_inverse, return_counts)


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The first element, or slice along `dim`, of each run of equal ones, in the order in which they stand."""
    if dim is not None:
        d, rows = _slices_of(input, dim)
        begins, number = _runs(rows)
        return _chosen_slices(input, d, nonzero(begins)[:, 0], number, return_inverse, return_counts)
    flat = input.detach().reshape(-1)
    begins, number = _runs(flat)
    output = flat[begins]
    counts = _counts(number, output.numel()) if return_counts else None
    return _answer(output, number.reshape(input.shape), counts, return_inverse, return_counts)


attach(unique=unique, unique_consecutive=unique_consecutive)
