"""Windows that go over the last dimensions: sums, largest elements, and the windows themselves, with their transposes.

Window t reads the elements x[..., t * stride + k * dilation - padding] for all offsets k below `kernel`; what is
outside of x is not there. `size` are the lengths of the result along the last dimensions: numbers of windows or, of a
transpose, of elements. A kernel goes over the offsets, with one pass over all windows for each; all dimensions before
are free.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from distgrad.primitives.base import DTYPES, Attrs, Aval, Labels, ShapeRule, expect, primitive
from distgrad.primitives.batching import shifted

Out = np.ndarray | None
Ints = tuple[int, ...]
Views = tuple[tuple[Any, ...], tuple[Any, ...]]
OFFSETS = (
    1 << 16
)  # of a window that may have more elements than it goes over: each costs a pass, if only over nothing


def _views(
    kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, of_x: Ints, windows: Ints
) -> Iterator[Views]:
    """For each offset which elements are read, and by which windows."""
    for k in itertools.product(*map(range, kernel)):
        reads: list[Any] = [...]
        by: list[Any] = [...]
        for i, s, p, d, n, t in zip(k, stride, padding, dilation, of_x, windows, strict=True):
            first = i * d - p
            low, high = max(0, -(first // s)), min(t, (n - 1 - first) // s + 1)
            high = max(low, high)
            reads.append(slice(low * s + first, (high - 1) * s + first + 1, s) if high > low else slice(0, 0))
            by.append(slice(low, high))
        yield tuple(reads), tuple(by)


def _at(k: Ints, n: int) -> Any:
    """Where offset k stands before n dimensions of windows."""
    return (..., *k, *(slice(None),) * n)


def _lead(x: np.ndarray, kernel: Ints) -> Ints:
    return x.shape[: x.ndim - len(kernel)]


def window_sum(
    x: np.ndarray, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, size: Ints, out: Out = None
) -> np.ndarray:
    """The sum of each window."""
    out = np.empty((*_lead(x, kernel), *size), x.dtype) if out is None else out
    out[...] = 0
    for reads, by in _views(kernel, stride, padding, dilation, x.shape[-len(kernel) :], size):
        np.add(out[by], x[reads], out=out[by])
    return out


def window_spread(
    y: np.ndarray, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, size: Ints, out: Out = None
) -> np.ndarray:
    """The transposed of `window_sum`: for each element the sum over the windows that read it."""
    out = np.empty((*_lead(y, kernel), *size), y.dtype) if out is None else out
    out[...] = 0
    for reads, by in _views(kernel, stride, padding, dilation, size, y.shape[-len(kernel) :]):
        np.add(out[reads], y[by], out=out[reads])
    return out


def _lowest(dtype: np.dtype) -> Any:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def window_max(
    x: np.ndarray, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, size: Ints, out: Out = None
) -> np.ndarray:
    """The largest element of each window; nan if there is one."""
    out = np.empty((*_lead(x, kernel), *size), x.dtype) if out is None else out
    out[...] = _lowest(x.dtype)
    for reads, by in _views(kernel, stride, padding, dilation, x.shape[-len(kernel) :], size):
        np.maximum(out[by], x[reads], out=out[by])
    return out


def window_argmax(
    x: np.ndarray, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, size: Ints
) -> np.ndarray:
    """The number of the offset at which each window's largest element stands: the first of equal ones, the last nan."""
    of_x = x.shape[-len(kernel) :]
    best = np.full((*_lead(x, kernel), *size), _lowest(x.dtype), x.dtype)
    found = np.empty(best.shape, np.int32)
    found[...] = _first_offsets(kernel, stride, padding, dilation, size)
    for k, (reads, by) in enumerate(_views(kernel, stride, padding, dilation, of_x, size)):
        here = x[reads]
        larger = np.greater(here, best[by])
        if x.dtype.kind == "f":
            larger |= np.isnan(here)
        np.copyto(best[by], here, where=larger)
        np.copyto(found[by], k, where=larger)
    return found


def _first_offsets(kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, size: Ints) -> np.ndarray:
    """The first offset of each window that is not before the elements."""
    number = np.zeros((1,) * len(size), np.int32)
    for i, (k, s, p, d, t) in enumerate(zip(kernel, stride, padding, dilation, size, strict=True)):
        first = np.clip(-((np.arange(t) * s - p) // d), 0, k - 1).astype(np.int32)
        number = number * np.int32(k) + first.reshape(-1, *(1,) * (len(size) - 1 - i))
    return number


def window_pick(
    x: np.ndarray,
    which: np.ndarray,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    size: Ints,
    out: Out = None,
) -> np.ndarray:
    """Of each window the element at the offset `which`."""
    out = np.empty(which.shape, x.dtype) if out is None else out
    out[...] = 0
    of_x = x.shape[-len(kernel) :]
    for k, (reads, by) in enumerate(_views(kernel, stride, padding, dilation, of_x, size)):
        np.copyto(out[by], x[reads], where=which[by] == k)
    return out


def window_place(
    y: np.ndarray,
    which: np.ndarray,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    size: Ints,
    out: Out = None,
) -> np.ndarray:
    """The transposed of `window_pick`: each number is added at that offset of its window."""
    out = np.empty((*_lead(y, kernel), *size), y.dtype) if out is None else out
    out[...] = 0
    windows = y.shape[-len(kernel) :]
    for k, (reads, by) in enumerate(_views(kernel, stride, padding, dilation, size, windows)):
        np.add(out[reads], y[by], out=out[reads], where=which[by] == k)
    return out


def window_gather(
    x: np.ndarray, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, size: Ints, out: Out = None
) -> np.ndarray:
    """The windows, with a dimension for each of the kernel's before those of `size`; zero outside."""
    out = np.empty((*_lead(x, kernel), *kernel, *size), x.dtype) if out is None else out
    of_x = x.shape[-len(kernel) :]
    offsets = itertools.product(*map(range, kernel))
    for k, (reads, by) in zip(offsets, _views(kernel, stride, padding, dilation, of_x, size), strict=True):
        inside = out[_at(k, len(size))]
        if any(part != slice(0, n) for part, n in zip(by[1:], size, strict=True)):
            inside[...] = 0
        np.copyto(inside[by], x[reads])
    return out


def window_scatter(
    y: np.ndarray, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, size: Ints, out: Out = None
) -> np.ndarray:
    """The transposed of `window_gather`: every element is added where it was read."""
    n = len(kernel)
    out = np.empty((*y.shape[: y.ndim - 2 * n], *size), y.dtype) if out is None else out
    out[...] = 0
    offsets = itertools.product(*map(range, kernel))
    views = _views(kernel, stride, padding, dilation, size, y.shape[-n:])
    for k, (reads, by) in zip(offsets, views, strict=True):
        np.add(out[reads], y[_at(k, n)][by], out=out[reads])
    return out


# Shapes and labels.
def _expect_windows(attrs: Attrs, ndim: int) -> int:
    n = len(attrs["kernel"])
    names = ("stride", "padding", "dilation", "size")
    expect(all(len(attrs[name]) == n for name in names), "one number for each of {} dimensions", n)
    expect(1 <= n <= ndim, "no windows over {} of {} dimensions", n, ndim)
    expect(min(*attrs["kernel"], *attrs["stride"], *attrs["dilation"]) > 0, "windows without extent")
    expect(math.prod(attrs["kernel"]) < 2**31, "windows of too many elements")
    return n


def _results(kind: str = "", dtype: str = "", gathered: bool = False, scattered: bool = False) -> ShapeRule:
    """The shape of the result, of operands of which a second holds numbers of offsets."""

    def rule(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
        x = avals[0]
        n = _expect_windows(attrs, len(x.shape) // (1 + scattered))
        expect(x.dtype.kind in "fi", "windows of {}", x.dtype)
        lead = x.shape[: len(x.shape) - n * (1 + scattered)]
        expect(not scattered or x.shape[-2 * n : -n] == attrs["kernel"], "windows of another kernel: {}", x)
        if kind:
            which, windows = avals[1], attrs["size"] if kind == "pick" else x.shape[-n:]
            expect(which == Aval((*lead, *windows), DTYPES["int32"]), "no offsets: {}", which)
        made = Aval(
            (*lead, *(attrs["kernel"] if gathered else ()), *attrs["size"]),
            DTYPES[dtype] if dtype else x.dtype,
        )
        offsets = math.prod(attrs["kernel"])
        expect(offsets <= max(OFFSETS, x.size + made.size), "windows of {} elements over {}", offsets, x)
        return (made,)

    return rule


def _free(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    """All dimensions before those of the windows."""
    n = len(attrs["kernel"])
    lead = tuple(range(len(avals[0].shape) - n))
    return Labels(((*lead, *[None] * n),) * len(avals), ((*lead, *[None] * n),))


def _free_gathered(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    n = len(attrs["kernel"])
    lead = tuple(range(len(avals[0].shape) - n))
    return Labels(((*lead, *[None] * n),), ((*lead, *[None] * 2 * n),))


def _free_scattered(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    n = len(attrs["kernel"])
    lead = tuple(range(len(avals[0].shape) - 2 * n))
    return Labels(((*lead, *[None] * 2 * n),), ((*lead, *[None] * n),))


def _flops(each: float) -> Callable[[Sequence[Aval], Sequence[Aval], Attrs], float]:
    """So many operations for each element that a window reads."""

    def rule(ins: Sequence[Aval], outs: Sequence[Aval], attrs: Attrs) -> float:
        return each * min(ins[0].size, outs[0].size) * math.prod(attrs["kernel"])

    return rule


for _name, _kernel, _shape, _labels, _each in (
    ("window_sum", window_sum, _results(), _free, 1),
    ("window_spread", window_spread, _results(), _free, 1),
    ("window_max", window_max, _results(), _free, 1),
    ("window_argmax", window_argmax, _results(dtype="int32"), _free, 4),
    ("window_pick", window_pick, _results("pick"), _free, 2),
    ("window_place", window_place, _results("place"), _free, 2),
    ("window_gather", window_gather, _results(gathered=True), _free_gathered, 1),
    ("window_scatter", window_scatter, _results(scattered=True), _free_scattered, 1),
):
    primitive(
        _name,
        _kernel,
        _shape,
        labels=_labels,
        batch=shifted(),
        attrs={
            "kernel": "shape",
            "stride": "ints",
            "padding": "ints",
            "dilation": "ints",
            "size": "shape",
        },
        traits=() if _name == "window_argmax" else {"into"},
        flops=_flops(_each),
    )
