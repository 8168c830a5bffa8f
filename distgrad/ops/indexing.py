"""`x[key]` and `x[key] = new`.

A key is read as torch reads it. Its integers, slices, None and Ellipsis make a view. What is left are tensors, each of
which stands for one dimension (integers) or several (a mask): they choose elements, and give a copy.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.dtype import BOOL, INT64, int64
from distgrad.ops.advanced import _index, _put_at, _start, _together
from distgrad.ops.base import Tensor, Value, attach, call, composite, constant, op
from distgrad.ops.gathering import positions
from distgrad.ops.inplace import OVERLAP, first_places, warn_expanded
from distgrad.ops.inplace import repeated as repeated_dims
from distgrad.ops.making import arange, tensor, zeros
from distgrad.ops.masks import _choose, _put_where
from distgrad.ops.samples import flags, real
from distgrad.ops.slices import _along, select, slice_take
from distgrad.ops.views import expand, unsqueeze
from distgrad.scalars import holds

__all__ = ["index_put"]

NO_DIMS = (
    "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` in C++ to convert a 0-dim "
    "tensor to a number"
)
SEQUENCES = (list, tuple, range, str, np.ndarray)


Ints = tuple[int, ...]
Entries = list[tuple[int, Tensor]]  # (dimension, index)


def _checked(entries: Entries, shape: Ints) -> Entries:
    """The entries, their dtypes and the masks' shapes checked as torch checks them."""
    for d, index in entries:
        dtype, sizes = index._avals.dtype, tuple(index.shape)
        if dtype.kind == "f":
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
        if dtype == BOOL:
            if d + len(sizes) > len(shape):
                raise IndexError(f"too many indices for tensor of dimension {len(shape)}")
            for j, n in enumerate(sizes):
                if n != shape[d + j]:
                    raise IndexError(
                        f"The shape of the mask {list(sizes)} at index {j} does not match the shape of the indexed "
                        f"tensor {list(shape)} at index {d + j}"
                    )
    return entries


def _mask_alone(entries: Entries) -> bool:
    return len(entries) == 1 and entries[0][1]._avals.dtype == BOOL


def _integers(entries: Entries) -> tuple[list[Tensor], Ints]:
    """Integer indices and their dimensions: a mask stands for the positions of what is true in it."""
    indices: list[Tensor] = []
    dims: list[int] = []
    for d, index in entries:
        found = call("_nonzero_tuple", index) if index._avals.dtype == BOOL else (index,)
        indices += found
        dims += range(d, d + len(found))
    return indices, tuple(dims)


def _chosen(input: Tensor, entries: Entries) -> Tensor:
    if _mask_alone(entries):
        d, mask = entries[0]
        return _choose(input, mask, d)
    return _index(input, *_integers(entries))


def _write(
    input: Tensor, entries: Entries, values: Tensor, accumulate: bool = False, inplace: bool = True
) -> Tensor:
    overlaps = inplace and input._layout.overlaps
    if _mask_alone(entries):
        d, mask = entries[0]
        if not overlaps:
            put = input._put_where_ if inplace else functools.partial(_put_where, input)
            return put(mask, values, d, accumulate)
        if not values.dim() and not accumulate:
            more = input.dim() - d - mask.dim()
            return input.masked_fill_(mask.reshape((*mask.shape, *(1,) * more)), values)
    indices, dims = _integers(entries)
    if overlaps:
        return _write_overlapping(input, indices, dims, values, accumulate)
    put = input._put_at_ if inplace else functools.partial(_put_at, input)
    return put(indices, values, dims, accumulate)


def _write_overlapping(
    input: Tensor, indices: list[Tensor], dims: Ints, values: Tensor, accumulate: bool
) -> Tensor:
    """The same where elements are seen several times, of which the last write counts.

    All places along a repeated dimension are one; what windows see is written in the base.
    """
    warn_expanded(input, "index_put_", "tensor[indices] = tensor")
    repeated, shape = repeated_dims(input), input.shape
    start, many = _start(dims), _together([index._value for index in indices])
    rest = [d for d in range(len(shape)) if d not in dims]
    values = values.expand((*(shape[d] for d in rest[:start]), *many, *(shape[d] for d in rest[start:])))
    for place, d in enumerate(rest):
        if d in repeated:
            p = place if place < start else place + len(many)
            values = values.sum(p, keepdim=True) if accumulate else values.narrow(p, shape[d] - 1, 1)
    once = [  # a look-up, so that an index outside is an error
        _index(zeros(shape[d], dtype=int64), (index,), (0,)) if d in repeated else index
        for index, d in zip(indices, dims, strict=True)
    ]
    core = first_places(input)
    view = core._view
    assert view is not None
    if not view.layout.overlaps:
        core._put_at_(once, values, dims, accumulate)
        return input
    base = view.base
    if base is None or base._layout.overlaps:
        raise RuntimeError(OVERLAP)
    numbers = call("_follow", arange(base.numel()).reshape(base.shape), view.route)
    at, step, places = _index(numbers, once, dims), base.numel(), []
    for n in base.shape:
        step //= n
        places.append(at // step % n)
    base._put_at_(places, values, tuple(range(base.dim())), accumulate)
    return input


# Reading keys.
@op(
    input=lambda g: g,
    view=lambda shape: (),
    method=False,
    samples=lambda: [real(2, 3)],
)
def alias(input: Value) -> Value:
    """All of it: `x[...]`."""
    return input


def _slice(input: Tensor, dim: int, key: slice, full: bool = False) -> Tensor:
    """`input` sliced along `dim`; itself if nothing is left out, unless `full`."""
    shape = tuple(input.shape)
    if not shape:
        raise IndexError("slice() cannot be applied to a 0-dim tensor.")
    n = shape[dim]
    start, stop, step = key.indices(n)
    if step < 0:
        raise ValueError("step must be greater than zero")
    length = max(0, -(-(stop - start) // step))
    if length == n and step == 1 and not full:
        return input
    return slice_take(input, _along(shape, dim, start, length, step))


def _select(input: Tensor, dim: int, index: int, place: int) -> Tensor:
    """The slice at `index` of `dim`; an error names the item's place in the key, as torch's does."""
    shape = input.shape
    if not shape:
        raise IndexError(NO_DIMS)
    n = shape[dim]
    if not -n <= index < n:
        raise IndexError(f"index {index} is out of bounds for dimension {place} with size {n}")
    return select(input, dim, index)


def _as_index(key: Any) -> Any:
    """A key's item with NumPy's numbers as Python's, and sequences as tensors."""
    if isinstance(key, (np.bool_, np.integer)):
        return key.item()
    if isinstance(key, SEQUENCES):
        made = tensor(key)
        return made.long() if made.numel() == 0 and made._avals.dtype.kind == "f" else made
    return key


def _several(key: Any) -> Sequence[Any]:
    """The items of a key. A list counts as a tuple where NumPy's old rule says so: it is short and holds no numbers."""
    if isinstance(key, tuple):
        return key
    if isinstance(key, list) and len(key) < 32:
        kinds = (Tensor, slice, type(None), type(Ellipsis), *SEQUENCES)
        if any(isinstance(k, kinds) for k in key):
            return key
    return (key,)


def _dims_of(key: Any) -> int:
    """How many dimensions an item stands for."""
    if isinstance(key, Tensor) and key._avals.dtype == BOOL:
        return key.dim()
    return 0 if key is None or key is Ellipsis or isinstance(key, bool) else 1


def _view_of(input: Tensor, key: Any, full: bool = False) -> tuple[Tensor, Entries]:
    """The view that the integers, slices, None and Ellipsis in `key` make, and the tensors left to index it with.

    A key that is one slice makes a view of all elements too if `full`.
    """
    if type(key) is int:
        return _select(input, 0, key, 0), []
    if type(key) is slice:
        return _slice(input, 0, key, full), []
    items = [_as_index(k) for k in _several(key)]
    used = sum(map(_dims_of, items))
    if used > input.dim():
        raise IndexError(f"too many indices for tensor of dimension {input.dim()}")
    view, entries, dim = input, [], 0
    for place, item in enumerate(items):
        if item is Ellipsis:
            dim += input.dim() - used
        elif item is None:
            view = unsqueeze(view, dim)
            dim += 1
        elif isinstance(item, slice):
            view = _slice(view, dim, item)
            dim += 1
        elif isinstance(item, bool) or (
            isinstance(item, Tensor) and not item.dim() and item._avals.dtype == BOOL
        ):
            view = unsqueeze(view, dim)  # a dimension that the mask keeps or empties
            entries.append((dim, item.reshape(1) if isinstance(item, Tensor) else tensor([item])))
            dim += 1
        elif isinstance(item, Tensor) and (item.dim() or item._avals.dtype.kind == "f"):
            entries.append((dim, item))
            dim += _dims_of(item)
        else:
            view = _select(view, dim, _integer(item), place)
    return view, entries


def _integer(item: Any) -> int:
    try:
        return operator.index(item)
    except TypeError:
        kind = type(item).__name__
        raise IndexError(
            "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices "
            f"(got {kind})"
        ) from None


def _getitem(self: Tensor, key: Any) -> Tensor:
    """`self[key]`: a view for integers, slices, None and Ellipsis, a copy where tensors or lists choose."""
    view, entries = _view_of(self, key, full=True)
    if entries:
        return _chosen(view, _checked(entries, tuple(view.shape)))
    return alias(view) if view is self else view


# Writing.
def _new(self: Tensor, new: Any) -> Tensor:
    """What is written, as a tensor."""
    if isinstance(new, Tensor):
        return new
    dtype = self._avals.dtype
    if isinstance(new, (bool, int, float, np.generic)):
        return Tensor(constant(_assigned(new), dtype))
    if isinstance(new, np.ndarray):
        return tensor(new).to(self.dtype)
    raise TypeError(f"can't assign a {type(new).__name__} to a {self.dtype.tensor_type}")


def _assigned(number: Any) -> Any:
    """A number that is written, as Python's."""
    number = number.item() if isinstance(number, np.generic) else number
    if isinstance(number, int) and not holds(number, INT64):
        raise ValueError("Overflow when unpacking long long")
    return number


def _without_ones(new: Tensor) -> Tensor:
    """Leading dimensions of length 1 do not count in an assignment."""
    shape = tuple(new.shape)
    first = next((d for d, n in enumerate(shape) if n != 1), len(shape))
    return new.reshape(shape[first:]) if first else new


def _copy_to(view: Tensor, new: Tensor) -> None:
    if new.shape == view.shape:
        view.copy_(new)
    elif not new.dim():
        view.fill_(new)
    else:
        view.copy_(expand(_without_ones(new), tuple(view.shape)))


def _setitem(self: Tensor, key: Any, new: Any) -> None:
    """`self[key] = new`: a number or a tensor, which is broadcast. Of several writes to one place the last counts."""
    value = _new(self, new)
    if isinstance(key, (bool, np.bool_)):
        if key:
            _copy_to(unsqueeze(self, 0), value)
        return
    view, entries = _view_of(self, key)
    if entries:
        _write(view, _checked(entries, tuple(view.shape)), _without_ones(value))
    elif _same_place(view, value):
        self._counter.number += 1
    else:
        _copy_to(view, value)


def _same_place(view: Tensor, new: Tensor) -> bool:
    """Whether a view is assigned to itself, as `x[i] += y` does once it has added y to `x[i]`."""
    if new._storage is not view._storage or new._view is None or view._view is None:
        return False
    return bool(new._view.chain.found.path == view._view.chain.found.path)


def _entries(input: Tensor, indices: Any) -> Entries:
    """Indices one for each dimension, None for those that are taken in full; a mask stands for several."""
    entries: Entries = []
    dim = 0
    for index in indices:
        if index is None:
            dim += 1
            continue
        index = _as_index(index)
        entries.append((dim, index))
        dim += _dims_of(index)
    if dim > input.dim():
        raise IndexError(f"too many indices for tensor of dimension {input.dim()} (got {dim})")
    return _checked(entries, tuple(input.shape))


@composite(
    samples=lambda: [
        (real(3, 4), (positions(2, 0),), real(4)),
        (real(3, 4), (positions(1, 1), positions(0, 0)), real(2), True),
        (real(3, 4), (flags(3, 4),), real()),
        (real(3, 4), (None, positions(3)), real(3, 1)),
    ]
)
def index_put(
    input: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    """`input` with `values` written, or added, where the tensors in `indices`, one for each dimension, point."""
    return _write(input, _entries(input, indices), values, accumulate, inplace=False)


def _index_put_(self: Tensor, indices: Any, values: Any, accumulate: bool = False) -> Tensor:
    """`index_put` in place."""
    if isinstance(indices, Tensor):
        raise TypeError("index_put_(): argument 'indices' (position 1) must be tuple of Tensors, not Tensor")
    if not isinstance(values, Tensor):
        kind = type(values).__name__
        raise TypeError(f"index_put_(): argument 'values' (position 2) must be Tensor, not {kind}")
    return _write(self, _entries(self, indices), values, accumulate)


attach(__getitem__=_getitem, __setitem__=_setitem, index_put_=_index_put_)
